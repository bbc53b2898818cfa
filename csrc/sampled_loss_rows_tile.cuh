// Tiles of hidden, of classes' rows and of errors in shared memory, for the kernels of few samples and features.
#pragma once

#include "ptx.cuh"
#include "sampled_loss.cuh"
#include "tf32.cuh"

#include <type_traits>

namespace torchlayer {
namespace few {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kSamples = 64;    // of a tile
constexpr int kFeatures = 128;  // of a tile
constexpr int kLargeTile = 64, kMediumTile = 32, kSmallTile = 16;  // rows of a block
constexpr int kMostSamples = 256;
constexpr int kErrorPitch = kSamples + 8;  // eight banks from row to row, for pairs read along either axis

template <typename Integer>
__host__ __device__ constexpr Integer round_up(Integer n, Integer to) {
  return (n + to - 1) / to * to;
}

template <typename scalar_t>
struct alignas(4 * sizeof(scalar_t)) Four {
  scalar_t value[4];
};

// Numbers f .. f + 3 of a row of n, zeros past its end. kAligned: n is a multiple of four and rows lie on fours.
template <bool kAligned, typename scalar_t>
__device__ float4 load4(const scalar_t* row, int f, int n) {
  float4 x = {0, 0, 0, 0};
  if constexpr (kAligned) {
    if (f < n) {
      const Four<scalar_t> four = *reinterpret_cast<const Four<scalar_t>*>(row + f);
      x = {static_cast<float>(four.value[0]), static_cast<float>(four.value[1]), static_cast<float>(four.value[2]),
           static_cast<float>(four.value[3])};
    }
  } else {
    if (f < n) x.x = static_cast<float>(row[f]);
    if (f + 1 < n) x.y = static_cast<float>(row[f + 1]);
    if (f + 2 < n) x.z = static_cast<float>(row[f + 2]);
    if (f + 3 < n) x.w = static_cast<float>(row[f + 3]);
  }
  return x;
}

template <bool kAligned, typename scalar_t>
__device__ void store4(scalar_t* __restrict__ row, int f, int n, float4 x) {
  const Four<scalar_t> four = {{static_cast<scalar_t>(x.x), static_cast<scalar_t>(x.y), static_cast<scalar_t>(x.z),
                                static_cast<scalar_t>(x.w)}};
  if constexpr (kAligned) {
    if (f < n) {
      *reinterpret_cast<Four<scalar_t>*>(row + f) = four;
    }
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (f + e < n) {
        row[f + e] = four.value[e];
      }
    }
  }
}

// tile[r][f] = row(r)[first + f], zeros for r >= n_rows (which is at least 1) and past n_features, up to a multiple of
// 16 features; what lies beyond stays as it was. It is there after wait_for_copies() and a barrier.
template <typename scalar_t, bool kAligned, int kTileRows, int kWidth, int kPitch, typename Row>
__device__ void load_tile(float* tile, int n_rows, int first, int n_features, const Row& row) {
  constexpr int kAcross = kWidth / 4, kStep = kThreads / kAcross, kEach = kTileRows / kStep;
  static_assert(kThreads % kAcross == 0 && kTileRows % kStep == 0, "threads share the tile evenly");
  const int f = threadIdx.x % kAcross * 4, top = threadIdx.x / kAcross;
  if (f >= round_up(n_features - first, 16)) {
    return;
  }
  tile += top * kPitch + f;
  if constexpr (std::is_same_v<scalar_t, float> && kAligned) {
    const bool inside = first + f < n_features;
    const float* from[kEach];  // all known before the first copy, since no load moves past one
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int r = top + i * kStep;
      from[i] = row(r < n_rows ? r : 0) + (inside ? first + f : 0);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      copy_async<4>(tile + i * kStep * kPitch, from[i], inside && top + i * kStep < n_rows);
    }
  } else {
    constexpr int kBatch = kEach < 8 ? kEach : 8;  // in flight at once
#pragma unroll 1
    for (int begin = 0; begin < kEach; begin += kBatch) {
      float4 x[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int r = top + (begin + i) * kStep;
        x[i] = load4<kAligned>(row(r < n_rows ? r : 0), first + f, r < n_rows ? n_features : 0);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        *reinterpret_cast<float4*>(tile + (begin + i) * kStep * kPitch) = x[i];
      }
    }
  }
}

// A row left out, or a sample left out of it, has the error 0 and no part in any gradient, whatever `grad` is.
__device__ inline float scale(float error, float grad) { return error == 0 ? 0 : error * grad; }

// Errors of a tile of rows and samples, times the rows' gradients.
template <int kTileRows>
struct ErrorTile {
  static constexpr int kAcross = kSamples / 4, kStep = kThreads / kAcross, kEach = kTileRows / kStep;
  float g[kEach];

  // Starts to copy rows [first, end) and samples [first_sample, n_sampled), with zeros past them.
  __device__ void load(float* tile, const float* kept, const float* grad, int64_t first,
                       int64_t end, int first_sample, int n_sampled, bool aligned) {
    const int j = first_sample + threadIdx.x % kAcross * 4, top = threadIdx.x / kAcross;
    const float* from = kept + first * n_sampled;
    tile = own(tile);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int r = top + i * kStep;
      g[i] = first + r < end ? grad[first + r] : 0;
    }
    if (aligned) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int r = top + i * kStep;
        const bool wanted = first + r < end && j < n_sampled;
        copy_async<4>(tile + i * kStep * kErrorPitch, wanted ? from + r * n_sampled + j : kept, wanted);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int r = top + i * kStep;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const bool wanted = first + r < end && j + e < n_sampled;
          copy_async<1>(tile + i * kStep * kErrorPitch + e, wanted ? from + r * n_sampled + j + e : kept, wanted);
        }
      }
    }
  }

  // After wait_for_copies(), before the barrier: every thread has copied what it multiplies.
  __device__ void multiply(float* tile) const {
    tile = own(tile);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      auto* at = reinterpret_cast<float4*>(tile + i * kStep * kErrorPitch);
      const float4 x = *at;
      *at = {scale(x.x, g[i]), scale(x.y, g[i]), scale(x.z, g[i]), scale(x.w, g[i])};
    }
  }

 private:
  __device__ static float* own(float* tile) {
    return tile + threadIdx.x / kAcross * kErrorPitch + threadIdx.x % kAcross * 4;
  }
};

// Few rows are spread over many multiprocessors by small tiles.
inline bool are_few_rows(const SampledLoss& loss) { return loss.n_rows <= 4096; }

// Whether rows of hidden, of weight and of the gradients can be read in fours.
template <typename scalar_t>
bool rows_lie_on_fours(const SampledLoss& loss) {
  const auto on_four = [](const Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.template const_data_ptr<scalar_t>()) % (4 * sizeof(scalar_t)) == 0;
  };
  return loss.n_features % 4 == 0 && loss.weight.stride(0) % 4 == 0 && on_four(loss.weight) && on_four(loss.hidden);
}

}  // namespace few
}  // namespace torchlayer
