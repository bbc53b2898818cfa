// Gradients of the labels' rows of many rows in bfloat16, and what the products of the other gradients are made of.
#pragma once

#include "sampled_loss_wide_forward.cuh"

namespace torchlayer {
namespace wide {

// What `spread_rows` writes for a range of rows.
struct Spread {
  const float* grad;       // (n_rows,)
  const float* errors;     // (n_rows, T): those of the labels
  const float* scales;     // (n_rows,): what the kept errors must be multiplied by, 0 for a row left out
  bool are_probabilities;  // they are not the kept ones, and need it no more
  float* row_scales;       // (n_rows,): what a row's errors are multiplied by
  __nv_bfloat16* parts;    // (n_rows / 8, kScaleParts, 8): the same in three parts, with zeros to the end of a step
  __nv_bfloat16* scaled;   // (n_rows, D): hidden, times that
  __nv_bfloat16* rows;     // (n_rows * T, D): the gradient of the labels' rows
  float* biases;           // (n_rows * T,)
  int64_t* ids;            // (n_rows * T,)
  int64_t* sampled_ids;    // (K,), or null if they are written
  int32_t* is_spent;       // what to set, or null
  int64_t first, n_rows;
};

__device__ inline uint4 times(const Eight& eight, float factor) {
  uint4 words = {};
  uint32_t* word = &words.x;
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const float2 x = eight.pair(pair);
    word[pair] = factor == 0 ? 0 : pack(factor * x.x, factor * x.y);
  }
  return words;
}

// Parts of a row's scale, each what the ones before have left, rounded.
__device__ inline void store_parts(__nv_bfloat16* parts, int64_t row, float scale) {
#pragma unroll
  for (int part = 0; part < kScaleParts; ++part) {
    const __nv_bfloat16 rounded = __float2bfloat16(scale);
    parts[(row / 8 * kScaleParts + part) * 8 + row % 8] = rounded;
    scale = isfinite(scale) ? scale - __bfloat162float(rounded) : 0;
  }
}

// A warp takes some rows, whose numbers a lane each looks at while hidden is on its way. Must move: hidden in, and out
// 1 + T times.
template <int kRowsAWarp>
__global__ void __launch_bounds__(32 * kWarps, 4)
    spread_rows(const __grid_constant__ Given<torch::headeronly::BFloat16> given, const Spread to) {
  wait_for_earlier_kernels();
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32, first = warp * kRowsAWarp;
  const int lane = threadIdx.x % 32, n_true = given.n_true, n_features = given.n_features;
  if (to.sampled_ids != nullptr) {
    for (int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; j < given.n_sampled;
         j += static_cast<int64_t>(gridDim.x) * blockDim.x) {
      to.sampled_ids[j] = given.clamp(given.sampled[j]);
    }
  }
  if (blockIdx.x == 0 && threadIdx.x < kDepth && (to.n_rows + threadIdx.x) / kDepth * kDepth < to.n_rows) {
    store_parts(to.parts, to.n_rows + threadIdx.x, 0);  // of rows that fill the last step of a sum
  }
  if (to.is_spent != nullptr && blockIdx.x == 0 && threadIdx.x == 0) {
    *to.is_spent = 1;
  }
  if (first >= to.n_rows) {
    return;
  }
  const int n = static_cast<int>(min(int64_t{kRowsAWarp}, to.n_rows - first));
  const auto* hidden = reinterpret_cast<const __nv_bfloat16*>(given.hidden) + (to.first + first) * n_features;
  Eight h[kRowsAWarp];
  const auto read = [&](int f) {
#pragma unroll
    for (int r = 0; r < kRowsAWarp; ++r) {
      h[r] = f < n_features ? read_eight(hidden + min(r, n - 1) * n_features + f) : Eight{};
    }
  };
  read(8 * lane);
  float scale = 0, grad = 0, error = 0;  // of row first + lane; the error of its first label
  if (lane < n) {
    // all loads before the first store, past which none of them moves
    const int64_t row = first + lane, at = row * n_true;
    const int64_t* labels = given.labels + to.first * n_true;
    const float kept = to.scales[row];
    grad = to.grad[row];
    error = to.errors[at];
    const int64_t label = labels[at];
    scale = kept == 0 ? 0 : to.are_probabilities ? grad : grad * kept;
    to.row_scales[row] = scale;
    store_parts(to.parts, row, scale);
    to.biases[at] = error == 0 ? 0 : error * grad;
    to.ids[at] = given.clamp(label);
    for (int64_t other = at + 1; other < at + n_true; ++other) {
      const float of_label = to.errors[other];
      to.biases[other] = of_label == 0 ? 0 : of_label * grad;
      to.ids[other] = given.clamp(labels[other]);
    }
  }
  float scales[kRowsAWarp], grads[kRowsAWarp], errors[kRowsAWarp];
#pragma unroll
  for (int r = 0; r < kRowsAWarp; ++r) {
    scales[r] = __shfl_sync(0xffffffffu, scale, r);
    grads[r] = __shfl_sync(0xffffffffu, grad, r);
    errors[r] = __shfl_sync(0xffffffffu, error, r);
  }
  __nv_bfloat16* scaled = to.scaled + first * n_features;
  __nv_bfloat16* rows = to.rows + first * n_true * n_features;
  for (int f = 8 * lane; f < n_features; f += 256) {
#pragma unroll
    for (int r = 0; r < kRowsAWarp; ++r) {
      if (r < n) {
        *reinterpret_cast<uint4*>(scaled + r * n_features + f) = times(h[r], scales[r]);
        for (int t = 0; t < n_true; ++t) {
          const float of_label = t == 0 ? errors[r] : to.errors[(first + r) * n_true + t];
          *reinterpret_cast<uint4*>(rows + static_cast<int64_t>(r * n_true + t) * n_features + f) =
              times(h[r], of_label == 0 ? 0 : of_label * grads[r]);
        }
      }
    }
    read(f + 256);
  }
}

}  // namespace wide
}  // namespace torchlayer
