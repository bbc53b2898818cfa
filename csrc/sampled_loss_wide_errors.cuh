// From a tile of products to errors: what the kernels of the forward do with the logits in their registers.
//
// Errors are kept before anybody knows the row's sum: as exp(logit - reference), where the reference is the row's
// largest true logit. They are right to sixteen bits whatever the sum will be, which then scales the row (in the
// backward). If a logit exceeds the reference so far that exp might overflow, the tile is stored smaller by a power of
// two, and `finish_losses` brings the row's tiles to a common one. NCE needs no sum: its errors are kept as they are.
#pragma once

#include "ptx.cuh"
#include "sampled_loss_wide_hits.cuh"
#include "sampled_loss_wide_products.cuh"

#include <cmath>

namespace torchlayer {
namespace wide {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr float kTooLarge = 1.2676506e30f;  // 2^100: sums beyond are of errors that might overflow

// What the kernels that find errors are told beside the matrices.
struct Errors {
  const float* offsets;
  const int32_t* ids;
  const float* references;  // (n_rows,), natural logarithms
  const int32_t* labels;    // (n_rows, T)
  const int32_t* hits;      // (n_rows,), or null: nothing is a hit
  float* sums;              // (n_tiles, n_rows), or null where the references are the logarithms of the sums
  float* exponents;         // the same, of the powers of two that the tiles were divided by
  const int32_t* only_if;   // null, or where a 0 says that there is nothing to do
  int n_rows, n_true, n_kept_rows, n_pairs, n_tiles, n_steps;
};

#ifdef TORCHLAYER_HOPPER

// The numbers of a thread's two rows, on their way as soon as this is made.
template <typename Loss>
struct TwoRows {
  int row, rows[2];  // the first; both, moved into range
  int hit[2] = {kNoHit, kNoHit};
  float reference[2] = {0, 0};

  __device__ TwoRows(const Errors& given, int first) {
    row = first + threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows[half] = min(row + 8 * half, given.n_rows - 1);
      if (given.hits != nullptr) {
        hit[half] = given.hits[rows[half]];
      }
      if constexpr (Loss::kNormalised) {
        reference[half] = given.references[rows[half]];
      }
    }
  }
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

// Logits of samples that are labels of their row become -inf. Most warps have few in a tile, and look only at the parts
// of its columns that hold one; rows with several, whose ids are compared, are rare.
template <int kWidth, typename Loss>
__device__ void remove_hits(float (&z)[kWidth / 2], const Errors& given, const TwoRows<Loss>& two, int column) {
  constexpr unsigned kAll = 0xffffffffu;
  constexpr int kPart = 32;  // columns
  const int own = 2 * (threadIdx.x % 4);  // a lane's first column of every eight
  unsigned parts = 0;
  int at[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    at[half] = two.hit[half] - column;
    parts |= at[half] >= 0 && at[half] < kWidth ? 1u << at[half] / kPart : 0;
    at[half] -= own;
  }
  parts = __reduce_or_sync(kAll, parts);
#pragma unroll
  for (int part = 0; part < kWidth / kPart; ++part) {
    if (parts >> part & 1) {
#pragma unroll
      for (int n = part * kPart / 8; n < (part + 1) * kPart / 8; ++n) {
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          z[4 * n + x] = at[x / 2] == 8 * n + x % 2 ? -INFINITY : z[4 * n + x];
        }
      }
    }
  }
  if (__any_sync(kAll, two.hit[0] == kManyHits || two.hit[1] == kManyHits)) {
#pragma unroll 1
    for (int t = 0; t < given.n_true; ++t) {
      const int label[2] = {given.labels[static_cast<int64_t>(two.rows[0]) * given.n_true + t],
                            given.labels[static_cast<int64_t>(two.rows[1]) * given.n_true + t]};
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
        const int2 id = *reinterpret_cast<const int2*>(given.ids + column + own + 8 * n);
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          z[4 * n + x] = (x % 2 == 0 ? id.x : id.y) == label[x / 2] ? -INFINITY : z[4 * n + x];
        }
      }
    }
  }
}

// A warp's errors of 16 rows from `first` on and kWidth samples from `column` on, from their products with hidden in z:
// stored, if the rows are kept, and summed. `offsets` are the tile's, in shared memory.
template <typename Loss, int kWidth>
__device__ void find_tile(float (&z)[kWidth / 2], char (*out)[kOutBytes], const CUtensorMap* kept,
                          const Errors& given, const TwoRows<Loss>& two, const float* offsets, int column, int first) {
  const int lane = threadIdx.x % 32;
  if (given.hits != nullptr) {
    remove_hits<kWidth>(z, given, two, column);
  }
  const bool stores = first < given.n_kept_rows;
  float shift[2], exponent[2] = {0, 0}, sum[2], product[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // a row left out has no logarithm of its sum, and its errors are 0
    shift[half] = isnan(two.reference[half]) ? -INFINITY : -two.reference[half] * kLog2E;
  }
  const float2* of_thread = reinterpret_cast<const float2*>(offsets) + lane % 4;
  const auto find = [&](int n) {  // the errors of columns 8 n + 2 (lane % 4) and the next, in both rows
    const float2 offset = of_thread[4 * n];
    float error[4];
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const float y = fmaf(z[4 * n + x], kLog2E, (x % 2 == 0 ? offset.x : offset.y) + shift[x / 2]);
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
      store_tile<kWidth>(out, kept, column, first, find);
    } else {
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
        find(n);
      }
    }
    if (given.sums == nullptr) {
      return;
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
    again = __any_sync(0xffffffffu, !(sum[0] < kTooLarge && sum[1] < kTooLarge));
    if (again) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < kWidth / 8; ++n) {
          const float2 offset = of_thread[4 * n];
          largest = fmaxf(largest, fmaf(z[4 * n + 2 * half], kLog2E, offset.x));
          largest = fmaxf(largest, fmaf(z[4 * n + 2 * half + 1], kLog2E, offset.y));
        }
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2)) + shift[half];
        exponent[half] = largest > 64 && isfinite(largest) ? ceilf(largest - 64) : 0;
        shift[half] -= exponent[half];
      }
      if (stores && lane == 0) {
        hopper::wait_stores();  // or they might come after those that replace them
      }
    }
  } while (again);

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (lane % 4 == 0 && two.row + 8 * half < given.n_rows) {
      const int64_t to = static_cast<int64_t>(column / kWidth) * given.n_rows + two.row + 8 * half;
      given.sums[to] = sum[half];
      if constexpr (Loss::kNormalised) {
        given.exponents[to] = exponent[half];
      }
    }
  }
}

#endif  // TORCHLAYER_HOPPER

}  // namespace wide
}  // namespace torchlayer
