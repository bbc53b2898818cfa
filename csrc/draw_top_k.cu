// A draw from each row of logits, of its k largest only, in one launch.
#include "check.h"
#include "launch.cuh"

#include <algorithm>
#include <cfloat>

namespace {

using torch::stable::Tensor;

constexpr int kThreads = 1024;
constexpr int kMost = kThreads;  // candidates: a thread each
constexpr int kAtOnce = 8;       // loads that a thread has in flight
constexpr unsigned kAllLanes = 0xffffffffu;

// Unsigned numbers in the order of the floats; zeros of both signs are one. No float has the key 0.
__device__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

__device__ float value_of(uint32_t key) {
  return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}

// One number to compare two of: first by key, then the one that comes earlier.
__device__ uint64_t ranked(uint32_t key, uint32_t place) {
  return static_cast<uint64_t>(key) << 32 | (0xffffffffu - place);
}

__device__ uint32_t place_of(uint64_t rank) {
  return 0xffffffffu - static_cast<uint32_t>(rank);
}

// Calls `body(i, key)` for this thread's elements of a row.
template <typename scalar_t, typename Body>
__device__ void for_each_key(const scalar_t* row, int n_classes, const Body& body) {
  for (int at = threadIdx.x; at < n_classes; at += kAtOnce * kThreads) {
    float values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      values[i] = at + i * kThreads < n_classes ? static_cast<float>(row[at + i * kThreads]) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (at + i * kThreads < n_classes) {
        body(at + i * kThreads, key_of(values[i]));
      }
    }
  }
}

// The block's sum of a count.
__device__ int sum_block(int count) {
  __shared__ int total;
  if (threadIdx.x == 0) {
    total = 0;
  }
  __syncthreads();
  count = __reduce_add_sync(kAllLanes, count);
  if (threadIdx.x % 32 == 0) {
    atomicAdd(&total, count);
  }
  __syncthreads();
  count = total;
  __syncthreads();
  return count;
}

// The k-th largest element, found bit by bit, of equal ones the earliest: how `ranked` orders them. The slow way, for
// rows of which too many are equal, and for large k.
template <typename scalar_t>
__device__ uint64_t find_kth(const scalar_t* row, int n_classes, int k) {
  uint32_t bound = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t higher = bound | 1u << bit;
    int count = 0;
    for_each_key(row, n_classes, [&](int, uint32_t key) { count += key >= higher; });
    bound = sum_block(count) >= k ? higher : bound;
  }
  int above = 0;
  for_each_key(row, n_classes, [&](int, uint32_t key) { above += key > bound; });
  const int still = k - sum_block(above);
  int low = 0, high = n_classes - 1;  // the place of the last one to be taken
  while (low < high) {
    const int middle = (low + high) / 2;
    int count = 0;
    for_each_key(row, n_classes, [&](int i, uint32_t key) { count += key == bound && i <= middle; });
    if (sum_block(count) >= still) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return ranked(bound, low);
}

// A block a row. Each thread finds the largest of its elements; the k-th largest of these is a bound that at least k
// elements reach, and seldom many more. Those are gathered and ranked, each against all others, and the best k
// compete by logit / temperature - log(noise), the noise being that of the rank.
// Must move: the logits once, and again what little lies beside a candidate.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    draw_rows(const scalar_t* logits, const float* noise, int64_t* drawn, int n_classes, int k, float temperature) {
  __shared__ uint64_t candidates[kMost];
  __shared__ int n_found;
  __shared__ float top;
  __shared__ unsigned long long best;
  torchlayer::wait_for_earlier_kernels();
  const scalar_t* row = logits + static_cast<int64_t>(blockIdx.x) * n_classes;
  noise += static_cast<int64_t>(blockIdx.x) * k;

  uint32_t largest = 0;
  bool broken = false;
  for_each_key(row, n_classes, [&](int, uint32_t key) {
    largest = max(largest, key);
    broken |= isnan(value_of(key));
  });
  if (threadIdx.x == 0) {
    n_found = 0;
    best = 0;
  }
  broken = __syncthreads_or(broken);
  uint32_t bound = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t higher = bound | 1u << bit;
    const int count = __syncthreads_count(largest >= higher);
    bound = count >= k ? higher : bound;
    if (count == k) {
      break;
    }
  }
  uint64_t least = static_cast<uint64_t>(bound) << 32;

  const auto gather = [&] {
    if (largest >= static_cast<uint32_t>(least >> 32)) {
      for_each_key(row, n_classes, [&](int i, uint32_t key) {
        if (ranked(key, i) >= least) {
          const int slot = atomicAdd(&n_found, 1);
          if (slot < kMost) {
            candidates[slot] = ranked(key, i);
          }
        }
      });
    }
    __syncthreads();
  };
  gather();
  if (n_found > kMost) {
    least = find_kth(row, n_classes, k);
    if (threadIdx.x == 0) {
      n_found = 0;
    }
    __syncthreads();
    gather();
  }

  const int n = n_found;
  const uint64_t mine = threadIdx.x < n ? candidates[threadIdx.x] : 0;
  int rank = k;
  if (threadIdx.x < n) {
    rank = 0;
    for (int other = 0; other < n; ++other) {
      rank += candidates[other] > mine;
    }
  }
  const float value = value_of(static_cast<uint32_t>(mine >> 32));
  if (rank == 0) {
    top = value;
  }
  __syncthreads();
  uint64_t score = 0;
  if (rank < k) {
    score = ranked(key_of((value - top) / temperature - logf(noise[rank])), rank);
    atomicMax(&best, static_cast<unsigned long long>(score));
  }
  __syncthreads();
  if (rank < k && score == best) {
    drawn[blockIdx.x] = broken || !isfinite(top) ? -1 : static_cast<int64_t>(place_of(mine));
  }
}

Tensor draw_top_k(const Tensor& logits, const Tensor& noise, double temperature) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(logits.dim() == 2 && noise.dim() == 2 && logits.size(0) == noise.size(0),
                  "draw_top_k needs logits (N, V) and noise (N, K)");
  const int64_t n_rows = logits.size(0), n_classes = logits.size(1), k = noise.size(1);
  STD_TORCH_CHECK(noise.scalar_type() == ScalarType::Float && noise.is_cuda() &&
                      noise.get_device_index() == logits.get_device_index(),
                  "draw_top_k needs noise in float32 on the device of the logits");
  STD_TORCH_CHECK(k >= 1 && k <= n_classes && k <= kMost, "draw_top_k needs 1 to ", kMost,
                  " numbers of noise a row and no more than there are logits, got ", k, " for ", n_classes);
  STD_TORCH_CHECK(n_classes < int64_t{1} << 30, "draw_top_k needs rows of less than 2^30 logits, got ", n_classes);
  STD_TORCH_CHECK(temperature > 0, "draw_top_k needs a temperature above 0, got ", temperature);
  const Tensor from = torch::stable::contiguous(logits), of_rank = torch::stable::contiguous(noise);
  // as a float neither 0 nor infinite, or what should never be drawn would score NaN
  const auto t = static_cast<float>(std::min<double>(std::max<double>(temperature, FLT_MIN), FLT_MAX));
  Tensor drawn = torch::stable::new_empty(logits, {n_rows}, ScalarType::Long);
  torchlayer::dispatch_floating(logits, "draw_top_k", [&](auto zero) {
    using scalar_t = decltype(zero);
    if constexpr (std::is_same_v<scalar_t, double>) {
      STD_TORCH_CHECK(false, "draw_top_k needs float32, float16 or bfloat16 logits on CUDA, got float64");
    } else if (n_rows > 0) {
      torchlayer::launch_early("draw_top_k", logits, draw_rows<scalar_t>, dim3(static_cast<unsigned>(n_rows)),
                               dim3(kThreads), 0, from.const_data_ptr<scalar_t>(), of_rank.const_data_ptr<float>(),
                               drawn.mutable_data_ptr<int64_t>(), static_cast<int>(n_classes), static_cast<int>(k),
                               t);
    }
  });
  return drawn;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("draw_top_k", TORCH_BOX(&draw_top_k));
}
