// The sums of discounted_sum.cpp, each row scanned by one block.
#include "check.h"
#include "launch.cuh"

#include <algorithm>

namespace {

using torch::stable::Tensor;
using torchlayer::accumulate_t;

constexpr int kLanes = 32;
constexpr int kItems = 4;  // elements a lane holds: four independent scans hide each other's shuffles
constexpr int kMaxWarps = 8;
constexpr unsigned kAllLanes = 0xffffffffu;

// What one step, or a run of them, does to the sum that comes in: sum -> b + a * sum. A negative `a` marks a run with
// a restart in it, which forgets the sum; a zero would not do, as 0 * inf is not 0.
template <typename sum_t>
struct Step {
  sum_t a;
  sum_t b;
  __device__ sum_t operator()(sum_t sum) const { return a < 0 ? b : b + a * sum; }
};

template <typename sum_t>
__device__ Step<sum_t> chain(const Step<sum_t>& first, const Step<sum_t>& second) {
  return {first.a < 0 || second.a < 0 ? sum_t(-1) : first.a * second.a, second(first.b)};
}

// The step that every lane's own steps and those of the lanes below it make together.
template <typename sum_t>
__device__ Step<sum_t> scan_warp(Step<sum_t> step, int lane) {
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const Step<sum_t> below{__shfl_up_sync(kAllLanes, step.a, distance), __shfl_up_sync(kAllLanes, step.b, distance)};
    if (lane >= distance) {
      step = chain(below, step);
    }
  }
  return step;
}

// One block a row. It walks the row in tiles of blockDim * kItems (forward from the right end, backward from the left),
// each warp on consecutive elements, so loads and stores coalesce; warps meet once a tile in shared memory, in two
// buffers used in turn, so one barrier is enough. The next tile's loads are issued before this one is scanned.
// Must move: each row read once (the backward reads two tensors) and written once.
template <typename scalar_t, bool kBackward>
__global__ void __launch_bounds__(kLanes * kMaxWarps)
    scan_rows(const scalar_t* __restrict__ values, const scalar_t* __restrict__ rewards, scalar_t* __restrict__ sums,
              int64_t n_rows, int64_t n_steps, accumulate_t<scalar_t> gamma, bool reset) {
  using sum_t = accumulate_t<scalar_t>;
  __shared__ Step<sum_t> warp_steps[2][kMaxWarps];
  const int lane = threadIdx.x % kLanes;
  const int warp = threadIdx.x / kLanes;
  const int n_warps = blockDim.x / kLanes;
  const int64_t tile = static_cast<int64_t>(blockDim.x) * kItems;
  const int64_t mine = static_cast<int64_t>(warp) * kItems * kLanes + lane;
  int buffer = 0;

  for (int64_t row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const int64_t base = row * n_steps;
    scalar_t value[kItems];
    scalar_t restart[kItems];  // the reward that restarts the sum here, unless it is zero
    const auto fetch = [&](int64_t start) {
#pragma unroll
      for (int item = 0; item < kItems; ++item) {
        const int64_t i = start + mine + item * kLanes;
        value[item] = restart[item] = scalar_t(0.0f);
        if (i < n_steps) {
          value[item] = values[base + (kBackward ? i : n_steps - 1 - i)];
          if (reset) {
            restart[item] = !kBackward ? value[item] : i > 0 ? rewards[base + i - 1] : scalar_t(0.0f);
          }
        }
      }
    };

    sum_t carry = 0;
    fetch(0);
    for (int64_t start = 0; start < n_steps; start += tile) {
      Step<sum_t> step[kItems];
#pragma unroll
      for (int item = 0; item < kItems; ++item) {
        const bool restarts = static_cast<sum_t>(restart[item]) != 0;
        step[item] = {restarts ? sum_t(-1) : gamma, static_cast<sum_t>(value[item])};
      }
      fetch(start + tile);

#pragma unroll
      for (int item = 0; item < kItems; ++item) {
        step[item] = scan_warp(step[item], lane);
      }
      Step<sum_t> whole{1, 0};
#pragma unroll
      for (int item = 0; item < kItems; ++item) {
        step[item] = chain(whole, step[item]);
        whole = {__shfl_sync(kAllLanes, step[item].a, kLanes - 1), __shfl_sync(kAllLanes, step[item].b, kLanes - 1)};
      }
      if (lane == 0) {
        warp_steps[buffer][warp] = whole;
      }
      __syncthreads();

      sum_t before = 0;  // the sum as it reaches this warp
      for (int other = 0; other < n_warps; ++other) {
        if (other == warp) {
          before = carry;
        }
        carry = warp_steps[buffer][other](carry);
      }
#pragma unroll
      for (int item = 0; item < kItems; ++item) {
        const int64_t i = start + mine + item * kLanes;
        if (i < n_steps) {
          sums[base + (kBackward ? i : n_steps - 1 - i)] = static_cast<scalar_t>(step[item](before));
        }
      }
      buffer ^= 1;
    }
  }
}

template <bool kBackward>
Tensor scan(const char* name, const Tensor& values, const Tensor& rewards, double gamma, bool reset) {
  STD_TORCH_CHECK(values.dim() > 0, name, " needs at least one axis, got a scalar");
  torchlayer::check_fraction(name, "gamma", gamma);
  const Tensor v = torch::stable::contiguous(values);
  const Tensor r = torch::stable::contiguous(rewards);
  Tensor sums = torch::stable::empty_like(v);
  if (v.numel() == 0) {
    return sums;
  }
  const int64_t n_steps = v.size(v.dim() - 1);
  const int64_t n_rows = v.numel() / n_steps;
  const int64_t n_warps = std::min<int64_t>(kMaxWarps, (n_steps + kItems * kLanes - 1) / (kItems * kLanes));
  const int64_t n_blocks = std::min<int64_t>(n_rows, 0x7fffffff);
  torchlayer::dispatch_floating(v, name, [&](auto zero) {
    using scalar_t = decltype(zero);
    torchlayer::launch(name, v, scan_rows<scalar_t, kBackward>, dim3(static_cast<unsigned>(n_blocks)),
                       dim3(static_cast<unsigned>(n_warps * kLanes)), v.const_data_ptr<scalar_t>(),
                       r.const_data_ptr<scalar_t>(), sums.mutable_data_ptr<scalar_t>(), n_rows, n_steps, gamma, reset);
  });
  return sums;
}

Tensor discounted_sum(const Tensor& rewards, double gamma, bool reset) {
  return scan<false>("discounted_sum", rewards, rewards, gamma, reset);
}

Tensor discounted_sum_backward(const Tensor& grad, const Tensor& rewards, double gamma, bool reset) {
  torchlayer::check_alike("discounted_sum_backward", grad, rewards);
  return scan<true>("discounted_sum_backward", grad, rewards, gamma, reset);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("discounted_sum", TORCH_BOX(&discounted_sum));
  m.impl("discounted_sum_backward", TORCH_BOX(&discounted_sum_backward));
}
