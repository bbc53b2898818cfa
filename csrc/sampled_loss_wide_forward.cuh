// Losses of many rows and samples in bfloat16: a product with the samples' rows whose logits never leave the registers.
//
// Errors are kept before anybody knows the row's sum: as exp(logit - reference), where the reference is the row's largest
// true logit. They are right to sixteen bits whatever the sum will be, which then scales the row (in the backward). If a
// logit exceeds the reference so far that exp might overflow, the tile is stored smaller by a power of two, and
// `finish_losses` brings the row's tiles to a common one. NCE needs no sum: its errors are kept as they are.
#pragma once

#include "async_copy.cuh"
#include "sampled_loss_wide_kept.cuh"
#include "sampled_loss_wide_products.cuh"

#include <cfloat>
#include <cmath>

namespace torchlayer {
namespace wide {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kTooLarge = 1.2676506e30f;  // 2^100: sums beyond are of errors that might overflow
constexpr int kWarps = 8;                   // of a block of the kernels that move rows
constexpr int kTurnOf0 = 5;                 // the name of a barrier, and of the other group's next to it

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

// The products of a warp's rows of hidden with a label of each. Loads of all of them are in flight together.
template <int kN>
__device__ void multiply_rows(float (&product)[kN], const __nv_bfloat16* const (&left)[kN],
                              const __nv_bfloat16* const (&right)[kN], int n_features) {
#pragma unroll
  for (int r = 0; r < kN; ++r) {
    product[r] = 0;
  }
#pragma unroll(4 / kN)
  for (int f = 8 * (threadIdx.x % 32); f < n_features; f += 256) {
    Eight a[kN], b[kN];
#pragma unroll
    for (int r = 0; r < kN; ++r) {
      a[r] = read_eight(left[r] + f);
      b[r] = read_eight(right[r] + f);
    }
#pragma unroll
    for (int r = 0; r < kN; ++r) {
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const float2 x = a[r].pair(pair), y = b[r].pair(pair);
        product[r] = fmaf(x.x, y.x, product[r]);
        product[r] = fmaf(x.y, y.y, product[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kN; ++r) {
    product[r] = warp_sum(product[r]);
  }
}

// A warp takes a sample, and copies its row, or takes some rows, and finds their labels' logits. The last block looks
// for sampled ids that name no class. Must move: the samples' rows in and out, hidden and the labels' rows.
template <int kRowsAWarp>
__global__ void __launch_bounds__(32 * kWarps)
    prepare(const __grid_constant__ Given<torch::headeronly::BFloat16> given, const __grid_constant__ Kept kept,
            int n_columns, int64_t n_row_warps) {
  if (blockIdx.x == gridDim.x - 1) {
    bool bad = false;
#pragma unroll 8
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
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32, n_features = given.n_features, n_true = given.n_true;
  if (warp >= n_row_warps) {
    const int64_t j = warp - n_row_warps;
    if (j >= n_columns) {
      return;
    }
    if (j >= given.n_sampled) {
      if (lane == 0) {
        kept.offsets[j] = -INFINITY;
        kept.ids[j] = -2;  // no label is -2
      }
      return;
    }
    const int64_t id = given.clamp(given.sampled[j]);
    const __nv_bfloat16* from = weight + id * given.row_stride;
    __nv_bfloat16* to = kept.samples + j * n_features;
#pragma unroll 4
    for (int f = 8 * lane; f < n_features; f += 256) {
      *reinterpret_cast<uint4*>(to + f) = *reinterpret_cast<const uint4*>(from + f);
    }
    if (lane == 0) {
      const float offset = given.sampled_offset(static_cast<int>(j)) * kLog2E;  // less than inf: a hit's logit of -inf wins
      kept.offsets[j] = isnan(offset) ? offset : fminf(offset, FLT_MAX);
      kept.ids[j] = static_cast<int32_t>(id);
    }
    return;
  }
  const int64_t first = warp * kRowsAWarp;
  if (first >= given.n_rows) {
    return;
  }
  float largest = -INFINITY;  // of row first + lane
  for (int t = 0; t < n_true; ++t) {
    const __nv_bfloat16 *left[kRowsAWarp], *right[kRowsAWarp];
#pragma unroll
    for (int r = 0; r < kRowsAWarp; ++r) {
      const int64_t i = min(first + r, given.n_rows - 1);
      left[r] = hidden + i * n_features;
      right[r] = weight + given.clamp(given.labels[i * n_true + t]) * given.row_stride;
    }
    float products[kRowsAWarp];
    multiply_rows(products, left, right, n_features);
    float product = 0;
#pragma unroll
    for (int r = 0; r < kRowsAWarp; ++r) {
      product = lane == r ? products[r] : product;
    }
    if (lane < kRowsAWarp && first + lane < given.n_rows) {
      const int64_t at = (first + lane) * n_true + t, label = given.labels[at];
      const float logit = product + given.true_offset(label, at);
      largest = fmaxf(largest, logit);
      kept.true_errors[at] = logit;  // for finish_losses
      kept.labels[at] = static_cast<int32_t>(given.clamp(label));
    }
  }
  if (lane < kRowsAWarp && first + lane < given.n_rows) {
    kept.references[first + lane] = isfinite(largest) ? largest : 0;
  }
}

// What `find_errors` is told beside the matrices.
struct Errors {
  const float* offsets;
  const int32_t* ids;
  const float* references;  // (n_rows,), natural logarithms
  const int32_t* labels;    // (n_rows, T)
  float* sums;              // (n_tiles, n_rows), or null where the references are the logarithms of the sums
  float* exponents;         // the same, of the powers of two that the tiles were divided by
  int n_rows, n_true, n_kept_rows, n_pairs, n_tiles, n_steps;  // n_true 0: nothing is a hit
};

#ifdef TORCHLAYER_HOPPER

// Logits of samples that are labels of their row become -inf, here where a row has several labels. `ids_of(n)` are the
// samples of columns 8 n + 2 (lane % 4) and the next, `rows` the thread's two rows.
template <typename IdsOf>
__device__ void remove_hits(float (&z)[128], const Errors& given, const IdsOf& ids_of, const int (&rows)[2]) {
#pragma unroll 1
  for (int t = 0; t < given.n_true; ++t) {
    const int label[2] = {given.labels[static_cast<int64_t>(rows[0]) * given.n_true + t],
                          given.labels[static_cast<int64_t>(rows[1]) * given.n_true + t]};
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      const int2 id = ids_of(n);
#pragma unroll
      for (int x = 0; x < 4; ++x) {
        z[4 * n + x] = (x % 2 == 0 ? id.x : id.y) == label[x / 2] ? -INFINITY : z[4 * n + x];
      }
    }
  }
}

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

// A cluster takes pairs of tiles below each other, a block 128 rows and 256 samples. If the stages hold a whole tile, its
// two groups take turns at the tensor cores, and one finds its errors while the other multiplies. Must move: hidden and the samples'
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
        copy_steps<Along::kSum, Along::kSum>(shared, at, &hidden, &samples, row, column, 0, given.n_steps, 1, rank);
      }
    }
  } else {
    hopper::take_registers<232>();
    const int group = role - 1, thread = threadIdx.x % kGroup, lane = thread % 32;
    const bool takes_turns = given.n_steps <= kStages;
    float z[128];
    if (takes_turns && group == 1 && cluster < n_items) {
      hopper::arrive_named(kTurnOf0, 2 * kGroup);
    }
    for (int item = cluster; item < n_items; item += n_clusters) {
      const int tile = item % given.n_tiles, column = tile * kColumns;
      const int first = (item / given.n_tiles * 2 + rank) * kRows + group * 64;
      // What the errors need is on its way while the group multiplies, and looked at afterwards.
      copy_async<2>(&shared.offsets[group][2 * thread], given.offsets + column + 2 * thread);
      const int i = first + thread / 32 * 16 + lane / 4;  // the thread's first row; its other one is eight below
      const int of_row[2] = {min(i, given.n_rows - 1), min(i + 8, given.n_rows - 1)};
      int label[2] = {-1, -1};  // if there is one; no sample is -1
      float reference[2] = {0, 0};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (given.n_true == 1) {
          label[half] = given.labels[of_row[half]];
        }
        if constexpr (Loss::kNormalised) {
          reference[half] = given.references[of_row[half]];
        }
      }
      // A lane fetches an eighth of the samples' ids; eight lanes need each of them.
      int4 ids[kColumns / 128];
#pragma unroll
      for (int part = 0; part < kColumns / 128; ++part) {
        ids[part] = __ldg(reinterpret_cast<const int4*>(given.ids + column) + part * 32 + lane);
      }
      const auto ids_of = [&](int n) {  // of columns 8 n + 2 (lane % 4) and the next: half of a lane's four
        const int4& four = ids[n / 16];
        const int from = n % 16 * 2 + lane % 4 / 2;
        const int2 even = {__shfl_sync(0xffffffffu, four.x, from), __shfl_sync(0xffffffffu, four.y, from)};
        const int2 odd = {__shfl_sync(0xffffffffu, four.z, from), __shfl_sync(0xffffffffu, four.w, from)};
        return lane % 2 == 0 ? even : odd;
      };
      clear(z);
      if (takes_turns) {
        hopper::sync_named(kTurnOf0 + group, 2 * kGroup);
      }
      multiply_steps<Along::kSum, Along::kSum>(z, shared, at, group, given.n_steps, [&](int step) {
        if (takes_turns && step == given.n_steps - 1 && (group == 0 || item + n_clusters < n_items)) {
          hopper::arrive_named(kTurnOf0 + 1 - group, 2 * kGroup);
        }
      });
      wait_for_copies();
      hopper::sync_named(1 + group, kGroup);  // the group's copies are there for all of it

      if (given.n_true > 1) {
        remove_hits(z, given, ids_of, of_row);
      }
      const bool stores = first < given.n_kept_rows;
      float shift[2], exponent[2] = {0, 0}, sum[2], product[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // a row left out has no logarithm of its sum, and its errors are 0
        shift[half] = isnan(reference[half]) ? -INFINITY : -reference[half] * kLog2E;
      }
      const float2* offsets = reinterpret_cast<const float2*>(shared.offsets[group]) + lane % 4;
      const auto find = [&](int n) {  // the errors of columns 8 n + 2 (lane % 4) and the next, in both rows
        const float2 two = offsets[4 * n];
        const int2 id = ids_of(n);
        float error[4];
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          float y = fmaf(z[4 * n + x], kLog2E, (x % 2 == 0 ? two.x : two.y) + shift[x / 2]);
          y = (x % 2 == 0 ? id.x : id.y) == label[x / 2] ? -INFINITY : y;
          error[x] = error_of(Loss{}, y, sum[x / 2], product[x / 2]);
        }
        return make_uint2(pack(error[0], error[1]), pack(error[2], error[3]));
      };
      bool again = false;
      do {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          sum[half] = 0;
          product[half] = 1;
        }
        if (stores) {
          store_tile(shared, &kept, column, first, group, find);
        } else {
#pragma unroll
          for (int n = 0; n < kColumns / 8; ++n) {
            find(n);
          }
        }
        if (given.sums == nullptr) {
          break;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // of the whole row
          sum[half] += Loss::kNormalised ? 0 : log2f(product[half]);
          sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
          sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        }
        if (again || !Loss::kNormalised) {
          break;
        }
        again = hopper::any_of(3 + group, kGroup, !(sum[0] < kTooLarge && sum[1] < kTooLarge));
        if (again) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float largest = -INFINITY;
#pragma unroll
            for (int n = 0; n < kColumns / 8; ++n) {
              const float2 two = offsets[4 * n];
              const int2 id = ids_of(n);
              const float low = fmaf(z[4 * n + 2 * half], kLog2E, two.x);
              const float high = fmaf(z[4 * n + 2 * half + 1], kLog2E, two.y);
              largest = id.x == label[half] ? largest : fmaxf(largest, low);
              largest = id.y == label[half] ? largest : fmaxf(largest, high);
            }
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2)) + shift[half];
            exponent[half] = largest > 64 && isfinite(largest) ? ceilf(largest - 64) : 0;
            shift[half] -= exponent[half];
          }
          if (stores && thread == 0) {
            hopper::wait_stores();  // or they might come after those that replace them
          }
        }
      } while (again);

#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (given.sums != nullptr && lane % 4 == 0 && i + 8 * half < given.n_rows) {
          const int64_t to = static_cast<int64_t>(tile) * given.n_rows + i + 8 * half;
          given.sums[to] = sum[half];
          if constexpr (Loss::kNormalised) {
            given.exponents[to] = exponent[half];
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

// A block takes 32 rows, and its eight warps share a row's tiles: its loss from the tiles' sums, what its errors must be multiplied
// by, and its labels' errors. Must move: the sums, 8 bytes for every 256 samples of a row.
template <typename Loss>
__global__ void __launch_bounds__(32 * kWarps)
    finish_losses(const __grid_constant__ Given<torch::headeronly::BFloat16> given, const __grid_constant__ Kept kept,
                  const float* __restrict__ sums, const float* __restrict__ exponents, int n_tiles,
                  float* __restrict__ losses, float* __restrict__ log_sums) {
  __shared__ float of_warps[2][kWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_true = given.n_true;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + lane, n_rows = given.n_rows;
  float exponent = 0, sum = 0;
  if (i < n_rows) {
#pragma unroll 4
    for (int tile = warp; Loss::kNormalised && tile < n_tiles; tile += kWarps) {
      exponent = fmaxf(exponent, exponents[tile * n_rows + i]);
    }
#pragma unroll 4
    for (int tile = warp; tile < n_tiles; tile += kWarps) {
      const float apart = Loss::kNormalised ? exponents[tile * n_rows + i] - exponent : 0;
      sum += apart == 0 ? sums[tile * n_rows + i] : sums[tile * n_rows + i] * exp2f(apart);
    }
  }
  of_warps[0][warp][lane] = exponent;
  of_warps[1][warp][lane] = sum;
  bool bad = false;
  float reference = 0;
  if (warp == 0 && i < n_rows) {  // on their way while the others add
    bad = *kept.bad_sample != 0;
    reference = kept.references[i];
    for (int t = 0; t < n_true; ++t) {
      bad |= given.is_bad(given.labels[i * n_true + t]);
    }
  }
  __syncthreads();
  if (warp > 0 || i >= n_rows) {
    return;
  }
  float of_samples = 0;
  for (int other = 0; other < kWarps; ++other) {
    exponent = fmaxf(exponent, of_warps[0][other][lane]);
  }
  for (int other = 0; other < kWarps; ++other) {
    of_samples += of_warps[1][other][lane] * exp2f(of_warps[0][other][lane] - exponent);
  }
  float* truths = kept.true_errors + i * n_true;
  float loss = 0, scale = 1;
  if constexpr (Loss::kNormalised) {
    float of_truths = 0, mean = 0;
    for (int t = 0; t < n_true; ++t) {
      of_truths += exp2f((truths[t] - reference) * kLog2E - exponent);
      mean += (truths[t] - reference) / n_true;
    }
    const float total = of_samples + of_truths, log_sum = kLn2 * (exponent + log2f(total));
    // A single label's p may be near 1: its loss and error then come from what the others hold, which does not cancel.
    const bool single = n_true == 1 && isfinite(total);
    loss = single && of_samples < of_truths ? log1pf(of_samples / of_truths) : log_sum - mean;
    log_sums[i] = bad ? NAN : reference + log_sum;
    scale = 1 / total;
    for (int t = 0; t < n_true; ++t) {
      const float error = single ? -of_samples * scale
                                 : exp2f((truths[t] - reference) * kLog2E - exponent) * scale - 1.0f / n_true;
      truths[t] = bad ? 0 : error;
    }
    for (int tile = 0; i < kept.n_kept_rows && tile < n_tiles; ++tile) {
      const float apart = exponents[tile * n_rows + i] - exponent;
      const int end = min(given.n_sampled, (tile + 1) * kColumns);
      for (int j = tile * kColumns; apart != 0 && j < end; ++j) {
        __nv_bfloat16* error = kept.errors + i * kept.pitch + j;
        *error = __float2bfloat16(__bfloat162float(*error) * exp2f(apart));
      }
    }
  } else {
    loss = kLn2 * of_samples;
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
