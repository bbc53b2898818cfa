// Losses of many rows and samples in bfloat16: a product with the samples' rows whose logits never leave the registers.
//
// Errors are kept before anybody knows the row's sum: as exp(logit - reference), where the reference is the row's largest
// true logit. They are right to sixteen bits whatever the sum will be, which then scales the row (in the backward). If a
// logit exceeds the reference so far that exp might overflow, the tile is stored smaller by a power of two, and
// `finish_losses` brings the row's tiles to a common one. NCE needs no sum: its errors are kept as they are.
#pragma once

#include "sampled_loss_wide_kept.cuh"
#include "sampled_loss_wide_products.cuh"

#include <cmath>

namespace torchlayer {
namespace wide {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kTooLarge = 1.2676506e30f;  // 2^100: sums beyond are of errors that might overflow
constexpr int kWarps = 8;                   // of a block of the kernels that move rows

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float inverse_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, apart);
  }
  return x;
}

// Eight features of a row, as sixteen bytes.
struct Eight {
  uint4 words;

  __device__ float2 pair(int i) const {
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162*>(&words)[i]);
  }
};

__device__ inline Eight read_eight(const __nv_bfloat16* from) { return {*reinterpret_cast<const uint4*>(from)}; }

// A warp takes a sample, and copies its row, or takes a row, and finds its labels' logits. The last block looks for
// sampled ids that name no class. Must move: the samples' rows in and out, hidden and the labels' rows.
static __global__ void __launch_bounds__(32 * kWarps)
    prepare(const __grid_constant__ Given<torch::headeronly::BFloat16> given, const __grid_constant__ Kept kept,
            int n_columns) {
  if (blockIdx.x == gridDim.x - 1) {
    bool bad = false;
    for (int j = threadIdx.x; j < given.n_sampled; j += 32 * kWarps) {
      bad |= given.is_bad(given.sampled[j]);
    }
    bad = __syncthreads_or(bad);
    if (threadIdx.x == 0) {
      *kept.bad_sample = bad;
    }
    return;
  }
  const auto* weight = reinterpret_cast<const __nv_bfloat16*>(given.weight);
  const auto* hidden = reinterpret_cast<const __nv_bfloat16*>(given.hidden);
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32, n_features = given.n_features;
  if (item < n_columns) {
    const int j = static_cast<int>(item);
    if (j >= given.n_sampled) {
      if (lane == 0) {
        kept.columns[j] = {-INFINITY, -2};  // no label is -2
      }
      return;
    }
    const int64_t id = given.clamp(given.sampled[j]);
    const __nv_bfloat16* from = weight + id * given.row_stride;
    __nv_bfloat16* to = kept.samples + static_cast<int64_t>(j) * n_features;
#pragma unroll 4
    for (int f = 8 * lane; f < n_features; f += 256) {
      *reinterpret_cast<uint4*>(to + f) = *reinterpret_cast<const uint4*>(from + f);
    }
    if (lane == 0) {
      kept.columns[j] = {given.sampled_offset(j) * kLog2E, static_cast<int32_t>(id)};
    }
    return;
  }
  const int64_t i = item - n_columns;
  if (i >= given.n_rows) {
    return;
  }
  const __nv_bfloat16* h = hidden + i * n_features;
  float largest = -INFINITY;
  for (int t = 0; t < given.n_true; ++t) {
    const int64_t at = i * given.n_true + t, label = given.labels[at];
    const __nv_bfloat16* w = weight + given.clamp(label) * given.row_stride;
    float product = 0;
#pragma unroll 4
    for (int f = 8 * lane; f < n_features; f += 256) {
      const Eight a = read_eight(h + f), b = read_eight(w + f);
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const float2 x = a.pair(pair), y = b.pair(pair);
        product = fmaf(x.x, y.x, product);
        product = fmaf(x.y, y.y, product);
      }
    }
    const float logit = warp_sum(product) + given.true_offset(label, at);
    largest = fmaxf(largest, logit);
    if (lane == 0) {
      kept.true_errors[at] = logit;  // for finish_losses
      kept.labels[at] = static_cast<int32_t>(given.clamp(label));
    }
  }
  if (lane == 0) {
    kept.references[i] = isfinite(largest) ? largest : 0;
  }
}

// What `find_errors` is told beside the matrices.
struct Errors {
  const Column* columns;
  const float* references;  // (n_rows,), natural logarithms
  const int32_t* labels;    // (n_rows, T)
  float* sums;              // (n_tiles, n_rows), or null where the references are the logarithms of the sums
  float* exponents;         // the same, of the powers of two that the tiles were divided by
  int n_rows, n_true, n_kept_rows, n_pairs, n_tiles, n_steps;  // n_true 0: nothing is a hit
};

#ifdef TORCHLAYER_HOPPER

// Two rows of a thread's part of a tile, in multiples of log 2.
struct RowPair {
  float reference[2], exponent[2] = {0, 0}, sum[2], product[2];
  int64_t label_at[2];
  int label[2];  // the only one, or -1 where there is none or there are several
};

// The error of a logit y (in multiples of log 2), and what it adds to the loss.
__device__ inline float error_of(Softmax, float y, float& sum, float&) {
  const float p = exp2_fast(y);
  sum += p;
  return p;
}

// log2 of 1 + 2^y is max(y, 0) plus that of 1 + 2^-|y|, factors at most 2 of a product that a thread takes once a tile.
__device__ inline float error_of(Nce, float y, float& sum, float& product) {
  const float e = exp2_fast(-fabsf(y)), d = 1 + e, r = inverse_fast(d);
  sum += fmaxf(y, 0.0f);
  product *= d;
  return y >= 0 ? r : e * r;
}

#endif

// A cluster takes pairs of tiles below each other, a block 128 rows and 256 samples. Must move: hidden and the samples'
// rows as often as tiles share them, from the cache, and the kept errors.
template <typename Loss>
__global__ void TORCHLAYER_PAIR __launch_bounds__(kThreads, 1)
    find_errors(const __grid_constant__ CUtensorMap hidden, const __grid_constant__ CUtensorMap samples,
                const __grid_constant__ CUtensorMap kept, const Errors given) {
#ifdef TORCHLAYER_HOPPER
  extern __shared__ __align__(1024) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int rank = static_cast<int>(hopper::block_in_cluster()), cluster = blockIdx.x / 2, n_clusters = gridDim.x / 2;
  const int role = threadIdx.x / kGroup, n_items = given.n_pairs * given.n_tiles;
  init(shared, 0);
  Position at;
  if (role == 0) {
    hopper::give_registers<40>();
    if (threadIdx.x == 0) {
      for (int item = cluster; item < n_items; item += n_clusters) {
        const int row = (item / given.n_tiles * 2 + rank) * kRows, column = item % given.n_tiles * kColumns;
        copy_steps<Along::kSum, Along::kSum>(shared, at, &hidden, &samples, row, column, 0, given.n_steps, rank);
      }
    }
  } else {
    hopper::take_registers<232>();
    const int group = role - 1, thread = threadIdx.x % kGroup, lane = thread % 32;
    float z[128];
    for (int item = cluster; item < n_items; item += n_clusters) {
      const int tile = item % given.n_tiles, column = tile * kColumns;
      const int first = (item / given.n_tiles * 2 + rank) * kRows + group * 64;
      multiply_steps<Along::kSum, Along::kSum>(z, shared, at, group, given.n_steps);

      RowPair rows;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t i = min(first + thread / 32 * 16 + lane / 4 + 8 * half, given.n_rows - 1);
        rows.label_at[half] = i * given.n_true;
        rows.label[half] = given.n_true == 1 ? given.labels[i] : -1;
        float reference = 0;
        if constexpr (Loss::kNormalised) {
          reference = given.references[i] * kLog2E;
          reference = isnan(reference) ? INFINITY : reference;  // of a row left out: its errors are 0
        }
        rows.reference[half] = reference;
      }
      const bool stores = first < given.n_kept_rows;
      const Column* columns = given.columns + column + 2 * (lane % 4);
      const auto find = [&](int n) {  // of columns 8 n + 2 (lane % 4) and the next, both rows, in their logits' place
        const int4 raw = *reinterpret_cast<const int4*>(columns + 8 * n);
        const float offset[2] = {__int_as_float(raw.x), __int_as_float(raw.z)};
        const int id[2] = {raw.y, raw.w};
        float p[4];
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          const int half = x / 2;
          float y = fmaf(z[4 * n + x], kLog2E, offset[x % 2] - rows.reference[half]) - rows.exponent[half];
          bool hit = id[x % 2] == rows.label[half];
          if (given.n_true > 1) {
            for (int t = 0; t < given.n_true; ++t) {
              hit |= id[x % 2] == given.labels[rows.label_at[half] + t];
            }
          }
          y = hit ? -INFINITY : y;
          p[x] = error_of(Loss{}, y, rows.sum[half], rows.product[half]);
        }
        return make_uint2(pack(p[0], p[1]), pack(p[2], p[3]));
      };
      bool again = false;
      do {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          rows.sum[half] = 0;
          rows.product[half] = 1;
        }
        if (stores) {
          store_tile(shared, &kept, column, first, group, find);
        } else {
#pragma unroll
          for (int n = 0; n < kColumns / 8; ++n) {
            find(n);
            if (n % 8 == 7) {
              asm volatile("" ::: "memory");  // no more loads in flight than there are registers for
            }
          }
        }
        if (again || given.sums == nullptr || !Loss::kNormalised) {
          break;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // of the whole row
          rows.sum[half] += __shfl_xor_sync(0xffffffffu, rows.sum[half], 1);
          rows.sum[half] += __shfl_xor_sync(0xffffffffu, rows.sum[half], 2);
        }
        again = hopper::any_of(3 + group, kGroup, !(rows.sum[0] < kTooLarge && rows.sum[1] < kTooLarge));
        if (again) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float largest = -INFINITY;
#pragma unroll
            for (int n = 0; n < kColumns / 8; ++n) {
              largest = fmaxf(largest, fmaf(z[4 * n + 2 * half], kLog2E, columns[8 * n].offset));
              largest = fmaxf(largest, fmaf(z[4 * n + 2 * half + 1], kLog2E, columns[8 * n + 1].offset));
            }
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2)) - rows.reference[half];
            rows.exponent[half] = largest > 64 && isfinite(largest) ? ceilf(largest - 64) : 0;
          }
          if (stores && thread == 0) {
            hopper::wait_stores();  // or they might come after those that replace them
          }
        }
      } while (again);

      if (given.sums != nullptr) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float sum = rows.sum[half];
          if (!Loss::kNormalised || again) {
            sum += Loss::kNormalised ? 0 : log2f(rows.product[half]);
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
          }
          const int i = first + thread / 32 * 16 + lane / 4 + 8 * half;
          if (lane % 4 == 0 && i < given.n_rows) {
            given.sums[static_cast<int64_t>(tile) * given.n_rows + i] = sum;
            if constexpr (Loss::kNormalised) {
              given.exponents[static_cast<int64_t>(tile) * given.n_rows + i] = rows.exponent[half];
            }
          }
        }
      }
    }
    if (thread == 0) {
      hopper::wait_stores();
    }
  }
  hopper::sync_cluster();  // neither block is gone while the other still signals to it
#endif
}

// A thread takes a row: its loss from its tiles' sums, what its errors must be multiplied by, and its labels' errors.
// Must move: the sums, 8 bytes for every 256 samples of a row.
template <typename Loss>
__global__ void __launch_bounds__(32 * kWarps)
    finish_losses(const __grid_constant__ Given<torch::headeronly::BFloat16> given, const __grid_constant__ Kept kept,
                  const float* __restrict__ sums, const float* __restrict__ exponents, int n_tiles,
                  float* __restrict__ losses, float* __restrict__ log_sums) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, n_rows = given.n_rows;
  const int n_true = given.n_true;
  if (i >= n_rows) {
    return;
  }
  bool bad = *kept.bad_sample != 0;
  for (int t = 0; t < n_true; ++t) {
    bad |= given.is_bad(given.labels[i * n_true + t]);
  }
  float* truths = kept.true_errors + i * n_true;
  float loss = 0, scale = 1;
  if constexpr (Loss::kNormalised) {
    float exponent = 0, of_samples = 0, of_truths = 0, mean = 0;
#pragma unroll 4
    for (int tile = 0; tile < n_tiles; ++tile) {
      exponent = fmaxf(exponent, exponents[tile * n_rows + i]);
    }
#pragma unroll 4
    for (int tile = 0; tile < n_tiles; ++tile) {
      of_samples += sums[tile * n_rows + i] * exp2f(exponents[tile * n_rows + i] - exponent);
    }
    const float reference = kept.references[i];
    for (int t = 0; t < n_true; ++t) {
      of_truths += exp2f((truths[t] - reference) * kLog2E - exponent);
      mean += (truths[t] - reference) / n_true;
    }
    const float sum = of_samples + of_truths, log_sum = kLn2 * (exponent + log2f(sum));
    // A single label's p may be near 1: its loss and error then come from what the others hold, which does not cancel.
    const bool single = n_true == 1 && isfinite(sum);
    loss = single && of_samples < of_truths ? log1pf(of_samples / of_truths) : log_sum - mean;
    log_sums[i] = bad ? NAN : reference + log_sum;
    scale = 1 / sum;
    for (int t = 0; t < n_true; ++t) {
      const float error = single ? -of_samples * scale
                                 : exp2f((truths[t] - reference) * kLog2E - exponent) * scale - 1.0f / n_true;
      truths[t] = bad ? 0 : error;
    }
    if (i < kept.n_kept_rows) {
      for (int tile = 0; tile < n_tiles; ++tile) {
        const float apart = exponents[tile * n_rows + i] - exponent;
        const int end = min(given.n_sampled, (tile + 1) * kColumns);
        for (int j = tile * kColumns; apart != 0 && j < end; ++j) {
          __nv_bfloat16* error = kept.errors + i * kept.pitch + j;
          *error = __float2bfloat16(__bfloat162float(*error) * exp2f(apart));
        }
      }
    }
  } else {
#pragma unroll 4
    for (int tile = 0; tile < n_tiles; ++tile) {
      loss += sums[tile * n_rows + i];
    }
    loss *= kLn2;
    for (int t = 0; t < n_true; ++t) {
      loss += Nce::true_loss(truths[t], n_true);
      truths[t] = bad ? 0 : Nce::true_error(truths[t], n_true);
    }
  }
  losses[i] = bad ? NAN : loss;
  kept.scales[i] = bad ? 0 : scale;
}

}  // namespace wide
}  // namespace torchlayer
