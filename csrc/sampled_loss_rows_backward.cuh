// Gradients from the errors that the forward kept: products of them with the samples' rows, and with hidden.
#pragma once

#include "sampled_loss_rows_tile.cuh"

#include <algorithm>

namespace torchlayer {
namespace few {

// Pairs of 8-wide tiles are interleaved: a thread holds numbers 4q .. 4q + 3 of every 16 features, and reads two
// numbers of either operand at once.
constexpr int kSamplePitch = kFeatures + 4;  // eight banks from one row to the next but one, which a thread takes too

template <typename scalar_t>
struct Destination {
  scalar_t* hidden;
  scalar_t* rows;
  float* biases;
  int64_t* ids;
  float* partial;  // (n_chunks, stride): of the samples' rows (K, D) and biases (K,); null if there is one chunk
  int64_t stride;
};

// How the blocks of one launch share the work. Those of the sums come first, being the longer ones.
struct Division {
  int n_sample_tiles, n_sum_features, n_hidden_features;  // tiles
  int n_tiles;  // in the memory of a block of the sums: of two, one is on its way while the other is multiplied
  int64_t n_chunks, chunk, n_sum_blocks, n_hidden_blocks;
};

template <int kPairs>
__device__ float4 quad(const float (&sums)[kPairs][2][4], int pair, int half) {
  return {sums[pair][0][2 * half], sums[pair][1][2 * half], sums[pair][0][2 * half + 1], sums[pair][1][2 * half + 1]};
}

// d_hidden = errors @ samples + true errors * the labels' rows, for kRows rows and 128 features, of which a warp takes
// 16 rows and kRows features; and the biases and ids of the labels.
template <typename scalar_t, int kRows, bool kAligned>
__device__ void hidden_gradient(const Given<scalar_t>& given, const float* grad,
                                const float* kept, const Destination<scalar_t>& to, int64_t tile,
                                int feature_tile, bool errors_aligned, float* memory) {
  constexpr bool kExact = !std::is_same_v<scalar_t, float>;
  constexpr int kRowGroups = kRows / 16, kPairs = kRows / 16;
  float* samples = memory;                         // (kSamples, kSamplePitch)
  float* errors = samples + kSamples * kSamplePitch;  // (kRows, kErrorPitch)
  int64_t* ids = reinterpret_cast<int64_t*>(errors + kRows * kErrorPitch);  // (kSamples,)

  const int n_true = given.n_true, n_sampled = given.n_sampled, n_features = given.n_features;
  const float* true_errors = kept + given.n_rows * n_sampled;
  const int64_t first = tile * kRows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int rows_at = warp % kRowGroups * 16 + g, features_at = warp / kRowGroups * kPairs * 16;
  const int d = feature_tile * kFeatures;

  float sums[kPairs][2][4] = {};
  for (int k = 0; k < n_sampled; k += kSamples) {
    if (k > 0) {
      __syncthreads();  // the tiles have been read
    }
    ErrorTile<kRows> error_tile;
    error_tile.load(errors, kept, grad, first, given.n_rows, k, n_sampled, errors_aligned);
    if (threadIdx.x < kSamples) {
      const int j = k + threadIdx.x;
      ids[threadIdx.x] = j < n_sampled ? given.clamp(given.sampled[j]) : 0;
    }
    __syncthreads();
    load_tile<scalar_t, kAligned, kSamples, kFeatures, kSamplePitch>(
        samples, min(kSamples, n_sampled - k), d, n_features,
        [&](int j) { return given.weight + ids[j] * given.row_stride; });
    if (k == 0) {
#pragma unroll 1
      for (int t = 0; t < n_true; ++t) {
        float error[2];
        const scalar_t* row[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int64_t i = min(first + rows_at + 8 * half, given.n_rows - 1), label = i * n_true + t;
          row[half] = given.weight + given.clamp(given.labels[label]) * given.row_stride;
          error[half] = scale(true_errors[label], grad[i]);
        }
        float4 w[2][kPairs];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int pair = 0; pair < kPairs; ++pair) {
            w[half][pair] = load4<kAligned>(row[half], d + features_at + pair * 16 + 4 * q, n_features);
          }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int pair = 0; pair < kPairs; ++pair) {
            sums[pair][0][2 * half] += error[half] * w[half][pair].x;
            sums[pair][1][2 * half] += error[half] * w[half][pair].y;
            sums[pair][0][2 * half + 1] += error[half] * w[half][pair].z;
            sums[pair][1][2 * half + 1] += error[half] * w[half][pair].w;
          }
        }
      }
    }
    wait_for_copies();
    error_tile.multiply(errors);
    __syncthreads();

    // Features past the last one are multiplied too, with whatever lies there, and their products dropped.
    const int end = d + features_at < n_features ? min(kSamples, round_up(n_sampled - k, 8)) : 0;
#pragma unroll 2
    for (int j = 2 * q; j < end; j += 8) {  // samples j and j + 1 are numbers q and q + 4 of the product's eight
      const float2 e0 = *reinterpret_cast<const float2*>(errors + rows_at * kErrorPitch + j);
      const float2 e1 = *reinterpret_cast<const float2*>(errors + (rows_at + 8) * kErrorPitch + j);
      Operand<4, false> a;
      a.set(0, e0.x), a.set(1, e1.x), a.set(2, e0.y), a.set(3, e1.y);
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const float* w = samples + j * kSamplePitch + features_at + pair * 16 + 2 * g;
        const float2 w0 = *reinterpret_cast<const float2*>(w);
        const float2 w1 = *reinterpret_cast<const float2*>(w + kSamplePitch);
        Operand<2, kExact> b0, b1;
        b0.set(0, w0.x), b0.set(1, w1.x);
        b1.set(0, w0.y), b1.set(1, w1.y);
        multiply_add(sums[pair][0], a, b0);
        multiply_add(sums[pair][1], a, b1);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t i = first + rows_at + 8 * half;
    if (i < given.n_rows) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        store4<kAligned>(to.hidden + i * n_features, d + features_at + pair * 16 + 4 * q, n_features,
                         quad(sums, pair, half));
      }
    }
  }

  if (feature_tile == 0) {
    const int64_t left = given.n_rows - first, n_labels = (left < kRows ? left : kRows) * n_true;
#pragma unroll 1
    for (int x = threadIdx.x; x < n_labels; x += kThreads) {
      const int64_t label = first * n_true + x;
      to.biases[n_sampled + label] = scale(true_errors[label], grad[first + x / n_true]);
      to.ids[n_sampled + label] = given.clamp(given.labels[label]);
    }
  }
}

// A tile of rows in the shared memory of a block that sums over them.
template <int kTileRows, int kPairs>
struct SumMemory {
  static constexpr int kPitch = 32 * kPairs + 8;
  float* hidden;  // (kTileRows, kPitch)
  float* errors;  // (kTileRows, kErrorPitch)
  float* grads;   // (kTileRows,)
  float* labels;  // (kTileRows, T): their errors

  __host__ __device__ static constexpr int size(int n_true) { return kTileRows * (kPitch + kErrorPitch + 1 + n_true); }
  // Of so many tiles, and a number a thread.
  static int bytes(int n_tiles, int n_true) { return (n_tiles * size(n_true) + kThreads) * 4; }

  __device__ SumMemory(float* memory, int n_true, int tile)
      : hidden(memory + tile * size(n_true)),
        errors(hidden + kTileRows * kPitch),
        grads(errors + kTileRows * kErrorPitch),
        labels(grads + kTileRows) {}
};

// errors^T @ hidden over a chunk of rows, for 64 samples and 32 * kPairs features, of which a warp takes 16 samples and
// 16 * kPairs features; the samples' sums of errors, and ids; and, as hidden passes by, what the labels' rows get.
template <typename scalar_t, int kTileRows, int kPairs, bool kAligned>
__device__ void sample_gradient(const Given<scalar_t>& given, const float* grad,
                                const float* kept, const Destination<scalar_t>& to, int64_t chunk,
                                int64_t chunk_rows, int sample_tile, int feature_tile, bool errors_aligned,
                                int n_tiles, float* memory) {
  constexpr bool kExact = !std::is_same_v<scalar_t, float>;
  constexpr int kWidth = 32 * kPairs, kAcross = kWidth / 4, kParts = kThreads / kSamples;
  using Memory = SumMemory<kTileRows, kPairs>;
  constexpr int kWidePitch = Memory::kPitch;
  const int n_true = given.n_true, n_sampled = given.n_sampled, n_features = given.n_features;
  const float* true_errors = kept + given.n_rows * n_sampled;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const int samples_at = warp % 4 * 16, features_at = warp / 4 * kPairs * 16;
  const int k = sample_tile * kSamples, d = feature_tile * kWidth;
  const int64_t begin = chunk * chunk_rows, end = min(given.n_rows, begin + chunk_rows);

  const auto rows_from = [&](int64_t first) { return static_cast<int>(min(end - first, int64_t{kTileRows})); };
  ErrorTile<kTileRows> error_tile;
  const auto load = [&](const Memory& to, int64_t first) {
    const int n_rows = rows_from(first);
    load_tile<scalar_t, kAligned, kTileRows, kWidth, kWidePitch>(
        to.hidden, n_rows, d, n_features, [&](int r) { return given.hidden + (first + r) * n_features; });
    error_tile.load(to.errors, kept, grad, first, end, k, n_sampled, errors_aligned);
    if (sample_tile == 0) {
      if (threadIdx.x < n_rows) {
        copy_async<1>(to.grads + threadIdx.x, grad + first + threadIdx.x);
      }
#pragma unroll 1
      for (int x = threadIdx.x; x < n_rows * n_true; x += kThreads) {
        copy_async<1>(to.labels + x, true_errors + first * n_true + x);
      }
    }
  };

  float sums[kPairs][2][4] = {}, column_sum = 0;
  int turn = 0;
  if (begin < end) {
    load(Memory(memory, n_true, 0), begin);
  }
  for (int64_t first = begin; first < end; first += kTileRows, turn = n_tiles - 1 - turn) {
    const Memory tile(memory, n_true, turn);
    const float *hidden = tile.hidden, *errors = tile.errors;
    const int n_rows = rows_from(first);
    wait_for_copies();
    error_tile.multiply(tile.errors);
    __syncthreads();  // the tile is there, and the one before has been read
    if (n_tiles > 1 && first + kTileRows < end) {
      load(Memory(memory, n_true, 1 - turn), first + kTileRows);
    }

    if (sample_tile == 0) {
      for (int piece = threadIdx.x; piece < n_rows * kAcross; piece += kThreads) {
        const int r = piece / kAcross, f = piece % kAcross * 4;
        if (d + f < n_features) {
          const float4 h = *reinterpret_cast<const float4*>(hidden + r * kWidePitch + f);
#pragma unroll 1
          for (int t = 0; t < n_true; ++t) {
            const float error = scale(tile.labels[r * n_true + t], tile.grads[r]);
            const int64_t row = n_sampled + (first + r) * n_true + t;
            store4<kAligned>(to.rows + row * n_features, d + f, n_features,
                             error == 0 ? float4{0, 0, 0, 0}
                                        : float4{error * h.x, error * h.y, error * h.z, error * h.w});
          }
        }
      }
    }
    if (feature_tile == 0) {
      const float* column = errors + threadIdx.x / kSamples * kErrorPitch + threadIdx.x % kSamples;
#pragma unroll 16
      for (int r = 0; r < kTileRows; r += kParts) {
        column_sum += column[r * kErrorPitch];
      }
    }

    // A tile's product starts from zero, since tensor cores round all they add towards zero.
    float product[kPairs][2][4] = {};
    const int last = d + features_at < n_features && k + samples_at < n_sampled ? round_up(n_rows, 8) : 0;
#pragma unroll 2
    for (int r = q; r < last; r += 8) {
      const float2 e0 = *reinterpret_cast<const float2*>(errors + r * kErrorPitch + samples_at + 2 * g);
      const float2 e1 = *reinterpret_cast<const float2*>(errors + (r + 4) * kErrorPitch + samples_at + 2 * g);
      Operand<4, false> a;  // samples 2g and 2g + 1 are rows g and g + 8 of the product
      a.set(0, e0.x), a.set(1, e0.y), a.set(2, e1.x), a.set(3, e1.y);
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const float* h = hidden + r * kWidePitch + features_at + pair * 16 + 2 * g;
        const float2 h0 = *reinterpret_cast<const float2*>(h);
        const float2 h1 = *reinterpret_cast<const float2*>(h + 4 * kWidePitch);
        Operand<2, kExact> b0, b1;
        b0.set(0, h0.x), b0.set(1, h1.x);
        b1.set(0, h0.y), b1.set(1, h1.y);
        multiply_add(product[pair][0], a, b0);
        multiply_add(product[pair][1], a, b1);
      }
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
      for (int x = 0; x < 8; ++x) {
        sums[pair][x / 4][x % 4] += product[pair][x / 4][x % 4];
      }
    }
    if (n_tiles == 1 && first + kTileRows < end) {
      __syncthreads();  // the tile has been read
      load(tile, first + kTileRows);
    }
  }

  float* partial = to.partial ? to.partial + chunk * to.stride : nullptr;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t j = k + samples_at + 2 * g + half;
    if (j < n_sampled) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const int f = d + features_at + pair * 16 + 4 * q;
        if (partial) {
          store4<kAligned>(partial + j * n_features, f, n_features, quad(sums, pair, half));
        } else {
          store4<kAligned>(to.rows + j * n_features, f, n_features, quad(sums, pair, half));
        }
      }
    }
  }
  if (feature_tile == 0) {
    float* column_sums = memory + n_tiles * Memory::size(n_true);  // (kParts, kSamples)
    column_sums[threadIdx.x] = column_sum;
    __syncthreads();
    const int j = threadIdx.x;
    if (j < kSamples && k + j < n_sampled) {
      float sum = 0;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        sum += column_sums[part * kSamples + j];
      }
      (partial ? partial + static_cast<int64_t>(n_sampled) * n_features : to.biases)[k + j] = sum;
      if (chunk == 0) {
        to.ids[k + j] = given.clamp(given.sampled[k + j]);
      }
    }
  }
}

// Both, by different blocks. Must move: the errors twice, hidden and the labels' rows, and their gradients.
template <typename scalar_t, int kRows, int kTileRows, int kPairs, bool kAligned>
__global__ void __launch_bounds__(kThreads, 2)
    backward_tile(const __grid_constant__ Given<scalar_t> given, const float* grad, const float* kept,
                  const Destination<scalar_t> to, const Division division, bool errors_aligned) {
  wait_for_earlier_kernels();
  extern __shared__ float4 memory[];
  const int64_t block = blockIdx.x;
  if (block < division.n_sum_blocks) {
    const int64_t rest = block / division.n_sum_features;
    sample_gradient<scalar_t, kTileRows, kPairs, kAligned>(
        given, grad, kept, to, rest / division.n_sample_tiles, division.chunk,
        static_cast<int>(rest % division.n_sample_tiles), static_cast<int>(block % division.n_sum_features),
        errors_aligned, division.n_tiles, reinterpret_cast<float*>(memory));
  } else {
    const int64_t rest = block - division.n_sum_blocks;
    hidden_gradient<scalar_t, kRows, kAligned>(given, grad, kept, to, rest / division.n_hidden_features,
                                               static_cast<int>(rest % division.n_hidden_features), errors_aligned,
                                               reinterpret_cast<float*>(memory));
  }
}

// Sums the chunks, always in one order: a block takes 32 numbers, a warp every eighth chunk. Must read: them all.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    sum_chunks(const Destination<scalar_t> to, int64_t n_chunks, int64_t n_in_rows, int64_t n_in_all) {
  wait_for_earlier_kernels();
  __shared__ float sums[kWarps][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t x = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  float sum = 0;
  if (x < n_in_all) {
#pragma unroll 16
    for (int64_t chunk = warp; chunk < n_chunks; chunk += kWarps) {
      sum += to.partial[chunk * to.stride + x];
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && x < n_in_all) {
#pragma unroll
    for (int part = 1; part < kWarps; ++part) {
      sum += sums[part][lane];
    }
    if (x < n_in_rows) {
      to.rows[x] = static_cast<scalar_t>(sum);
    } else {
      to.biases[x - n_in_rows] = sum;
    }
  }
}

template <typename scalar_t, int kRows, int kTileRows, int kPairs, bool kAligned>
void launch_backward(const char* op, const SampledLoss& loss, const Tensor& grad, const Tensor& kept,
                     const Gradients& gradients) {
  constexpr int kWidth = 32 * kPairs;
  Division division;
  division.n_sample_tiles = static_cast<int>((loss.n_sampled + kSamples - 1) / kSamples);
  division.n_sum_features = static_cast<int>((loss.n_features + kWidth - 1) / kWidth);
  division.n_hidden_features = static_cast<int>((loss.n_features + kFeatures - 1) / kFeatures);
  // As many chunks as fill the chip, and no more than are summed quickly; a second launch costs as much as a few tiles.
  const int64_t n_tiles = (loss.n_rows + kTileRows - 1) / kTileRows;
  const int n_wide = division.n_sample_tiles * (kWidth < kFeatures ? 1 : division.n_sum_features);
  const int64_t most = std::max(16, 128 / n_wide);
  const int64_t tiles_each = loss.n_rows <= 256 ? std::max<int64_t>(n_tiles, 1) : (n_tiles + most - 1) / most;
  division.chunk = tiles_each * kTileRows;
  division.n_chunks = std::max<int64_t>(1, (loss.n_rows + division.chunk - 1) / division.chunk);
  division.n_sum_blocks = division.n_chunks * division.n_sample_tiles * division.n_sum_features;
  division.n_hidden_blocks = (loss.n_rows + kRows - 1) / kRows * division.n_hidden_features;

  const int64_t n_in_rows = loss.n_sampled * loss.n_features, n_in_all = n_in_rows + loss.n_sampled;
  Destination<scalar_t> to{gradients.hidden.template mutable_data_ptr<scalar_t>(),
                           gradients.rows.template mutable_data_ptr<scalar_t>(),
                           gradients.biases.template mutable_data_ptr<float>(),
                           gradients.ids.template mutable_data_ptr<int64_t>(), nullptr, round_up<int64_t>(n_in_all, 4)};
  Tensor partial;
  if (division.n_chunks > 1) {
    const auto real = torch::headeronly::ScalarType::Float;
    partial = new_empty(loss.hidden, std::array{int64_t{division.n_chunks}, int64_t{to.stride}}, real);
    to.partial = partial.template mutable_data_ptr<float>();
  }

  constexpr int kHiddenBytes = (kSamples * kSamplePitch + kRows * kErrorPitch) * 4 + kSamples * 8;
  const auto bytes_of = [&](int n) { return SumMemory<kTileRows, kPairs>::bytes(n, static_cast<int>(loss.n_true)); };
  int shared_bytes = 0;  // of a multiprocessor, which shall have room for two blocks
  cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, loss.hidden.get_device_index());
  constexpr int kOwnBytes = 1024;  // that each block takes besides
  division.n_tiles = tiles_each > 1 && 2 * (bytes_of(2) + kOwnBytes) <= shared_bytes ? 2 : 1;
  const int sum_bytes = bytes_of(division.n_tiles);
  const auto* errors = static_cast<const float*>(kept.const_data_ptr());
  const bool errors_aligned = loss.n_sampled % 4 == 0 && reinterpret_cast<uintptr_t>(errors) % 16 == 0;
  launch_early(op, loss.hidden, backward_tile<scalar_t, kRows, kTileRows, kPairs, kAligned>,
               dim3(static_cast<unsigned>(division.n_sum_blocks + division.n_hidden_blocks)), dim3(kThreads),
               static_cast<size_t>(std::max(kHiddenBytes, sum_bytes)), Given<scalar_t>(loss),
               grad.template const_data_ptr<float>(), errors, to, division, errors_aligned);
  if (division.n_chunks > 1) {
    launch_early(op, loss.hidden, sum_chunks<scalar_t>, dim3(static_cast<unsigned>((n_in_all + 31) / 32)),
                 dim3(kThreads), 0, to, division.n_chunks, n_in_rows, n_in_all);
  }
}

}  // namespace few

// All gradients, from that of the losses (N,) and what rows_forward kept.
template <typename Loss, typename scalar_t>
void rows_backward(const char* op, const SampledLoss& loss, const Tensor& grad, const Tensor& kept,
                   const Gradients& to) {
  if (!few::rows_lie_on_fours<scalar_t>(loss)) {
    few::launch_backward<scalar_t, few::kSmallTile, 128, 1, false>(op, loss, grad, kept, to);
  } else if (few::are_few_rows(loss)) {
    few::launch_backward<scalar_t, few::kSmallTile, 128, 1, true>(op, loss, grad, kept, to);
  } else {
    few::launch_backward<scalar_t, few::kLargeTile, 64, 4, true>(op, loss, grad, kept, to);
  }
}

}  // namespace torchlayer
