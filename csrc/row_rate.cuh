// What a step multiplies its gradients with: read on the device, where a replay finds its own rate and count.
#pragma once

#include "launch.cuh"

namespace torchlayer {

// What a step needs beside the gradients.
struct Rate {
  const void* lr;
  bool is_double;
  float* step;  // or null
  double beta1, beta2;
};

// lr / (1 - beta1^t) and sqrt(1 - beta2^t), or lr and 1.
struct Prepared {
  double rate, root;
};

__device__ inline Prepared uncounted_rate(const Rate& given) {
  return {given.is_double ? *static_cast<const double*>(given.lr) : *static_cast<const float*>(given.lr), 1};
}

__device__ inline Prepared prepare_rate(const Rate& given) {
  Prepared prepared = uncounted_rate(given);
  if (given.step != nullptr) {
    const double count = *given.step += 1;
    prepared.rate /= 1 - pow(given.beta1, count);
    prepared.root = sqrt(1 - pow(given.beta2, count));
  }
  return prepared;
}

// One thread: two powers, which take longer than all else in a small step, beside the kernel that needs them.
static __global__ void count_step(const Rate rate, Prepared* prepared) {
  wait_for_earlier_kernels();
  *prepared = prepare_rate(rate);
}

static __global__ void count_step_only(float* step) {
  *step += 1;
}

}  // namespace torchlayer
