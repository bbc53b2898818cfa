// The update of adam.cpp for all tensors in one launch, or one for every 64 of them.
#include "adam.h"
#include "launch.cuh"

#include <algorithm>

namespace {

using torch::stable::Tensor;
using torchlayer::Adam;

constexpr int kThreads = 256;
constexpr int kWidth = 4;       // elements a thread moves at once: sixteen bytes
constexpr int kRepeats = 2;     // of which it does two, both loaded before either is used
constexpr int kChunk = kThreads * kWidth * kRepeats;  // small, so that a million parameters fill the chip
constexpr int kTensors = 64;    // what fits into a kernel's arguments

struct Batch {
  float* param[kTensors];
  const float* grad[kTensors];
  float* exp_avg[kTensors];
  float* exp_avg_sq[kTensors];
  float* step[kTensors];
  int64_t size[kTensors];
  int64_t first_block[kTensors + 1];
  int n_tensors;
};

// One thread a tensor. A kernel of its own, so that every block of the next one reads the same count.
__global__ void __launch_bounds__(kTensors) count_step(const __grid_constant__ Batch batch) {
  if (threadIdx.x < batch.n_tensors) {
    *batch.step[threadIdx.x] += 1;
  }
}

struct Constants {
  float step_size, root, fresh1, beta2, fresh2, eps, shrink, decay;  // fresh = 1 - beta, taken in double
  __device__ void update(float& p, float g, float& m, float& v) const {
    const float gradient = fmaf(decay, p, g);
    m = fmaf(fresh1, gradient - m, m);
    v = fmaf(beta2, v, fresh2 * gradient * gradient);
    p = shrink * p - step_size * m / (sqrtf(v) / root + eps);
  }
};

// A block takes one chunk of one tensor, found by bisection of the tensors' first blocks; threads take neighbouring
// sixteen-byte pieces. Must move: 28 bytes an element (read p, g, m, v; write p, m, v).
__global__ void __launch_bounds__(kThreads)
    update_chunks(const __grid_constant__ Batch batch, const float* __restrict__ lr, const Adam adam) {
  __shared__ Constants shared;
  int low = 0;
  for (int high = batch.n_tensors; high - low > 1;) {
    const int middle = (low + high) / 2;
    (batch.first_block[middle] <= blockIdx.x ? low : high) = middle;
  }
  const int which = low;
  if (threadIdx.x == 0) {
    const double step = *batch.step[which];
    const double rate = *lr;
    shared = {static_cast<float>(rate / (1 - pow(adam.beta1, step))),
              static_cast<float>(sqrt(1 - pow(adam.beta2, step))),
              static_cast<float>(1 - adam.beta1),
              static_cast<float>(adam.beta2),
              static_cast<float>(1 - adam.beta2),
              static_cast<float>(adam.eps),
              static_cast<float>(adam.decoupled ? 1 - rate * adam.weight_decay : 1),
              static_cast<float>(adam.decoupled ? 0 : adam.weight_decay)};
  }
  float* p = batch.param[which];
  const float* g = batch.grad[which];
  float* m = batch.exp_avg[which];
  float* v = batch.exp_avg_sq[which];
  const int64_t begin = (blockIdx.x - batch.first_block[which]) * kChunk;
  const int64_t end = min(begin + kChunk, batch.size[which]);
  const auto address = reinterpret_cast<uintptr_t>(p) | reinterpret_cast<uintptr_t>(g) |
                       reinterpret_cast<uintptr_t>(m) | reinterpret_cast<uintptr_t>(v);

  if (end - begin == kChunk && address % (kWidth * sizeof(float)) == 0) {
    float4 ps[kRepeats], gs[kRepeats], ms[kRepeats], vs[kRepeats];
#pragma unroll
    for (int r = 0; r < kRepeats; ++r) {
      const int64_t i = begin / kWidth + r * kThreads + threadIdx.x;
      ps[r] = reinterpret_cast<float4*>(p)[i];
      gs[r] = reinterpret_cast<const float4*>(g)[i];
      ms[r] = reinterpret_cast<float4*>(m)[i];
      vs[r] = reinterpret_cast<float4*>(v)[i];
    }
    __syncthreads();
    const Constants constants = shared;
#pragma unroll
    for (int r = 0; r < kRepeats; ++r) {
      const int64_t i = begin / kWidth + r * kThreads + threadIdx.x;
      constants.update(ps[r].x, gs[r].x, ms[r].x, vs[r].x);
      constants.update(ps[r].y, gs[r].y, ms[r].y, vs[r].y);
      constants.update(ps[r].z, gs[r].z, ms[r].z, vs[r].z);
      constants.update(ps[r].w, gs[r].w, ms[r].w, vs[r].w);
      reinterpret_cast<float4*>(p)[i] = ps[r];
      reinterpret_cast<float4*>(m)[i] = ms[r];
      reinterpret_cast<float4*>(v)[i] = vs[r];
    }
    return;
  }
  __syncthreads();
  const Constants constants = shared;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    constants.update(p[i], g[i], m[i], v[i]);
  }
}

void adam_(std::vector<Tensor> params, std::vector<Tensor> grads, std::vector<Tensor> exp_avgs,
           std::vector<Tensor> exp_avg_sqs, std::vector<Tensor> steps, Tensor lr, double beta1, double beta2,
           double eps, double weight_decay, bool decoupled) {
  const Adam adam{beta1, beta2, eps, weight_decay, decoupled};
  torchlayer::check_adam(adam, params, grads, exp_avgs, exp_avg_sqs, steps, lr);
  for (size_t at = 0; at < params.size(); at += kTensors) {
    Batch batch{};
    int64_t n_blocks = 0;
    const size_t until = std::min(params.size(), at + kTensors);
    for (size_t i = at; i < until; ++i) {
      const int slot = batch.n_tensors++;
      batch.param[slot] = params[i].mutable_data_ptr<float>();
      batch.grad[slot] = grads[i].const_data_ptr<float>();
      batch.exp_avg[slot] = exp_avgs[i].mutable_data_ptr<float>();
      batch.exp_avg_sq[slot] = exp_avg_sqs[i].mutable_data_ptr<float>();
      batch.step[slot] = steps[i].mutable_data_ptr<float>();
      batch.size[slot] = params[i].numel();
      batch.first_block[slot] = n_blocks;
      n_blocks += (params[i].numel() + kChunk - 1) / kChunk;
    }
    batch.first_block[batch.n_tensors] = n_blocks;
    torchlayer::launch("adam_", lr, count_step, dim3(1), dim3(kTensors), batch);
    if (n_blocks > 0) {
      torchlayer::launch("adam_", lr, update_chunks, dim3(static_cast<unsigned>(n_blocks)), dim3(kThreads), batch,
                         lr.const_data_ptr<float>(), adam);
    }
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("adam_", TORCH_BOX(&adam_));
}
