// Losses of a tile of rows at a time, all of its logits in shared memory.
#pragma once

#include "sampled_loss_rows_tile.cuh"

#include <cmath>

namespace torchlayer {
namespace few {

constexpr int kPitch = kFeatures + 16;  // sixteen banks from row to row, for fours read along a row

// A thread that finishes a row holds at most 16 or 32 of its samples.
__host__ __device__ constexpr int most_samples(int n_rows) { return n_rows == kLargeTile ? kSamples : kMostSamples; }

// Where a block's arrays lie in its shared memory.
struct ForwardMemory {
  int logit_pitch, hidden, samples, logits, offsets, truths, labels, sampled, bytes;

  __host__ __device__ ForwardMemory(int n_rows, int n_true, int n_sampled) {
    const int columns = round_up(n_sampled, 8), n_labels = round_up(n_rows * n_true, 4);
    logit_pitch = columns + 8;
    hidden = 0;
    samples = hidden + n_rows * kPitch * 4;
    logits = samples + kSamples * kPitch * 4;
    offsets = logits + n_rows * logit_pitch * 4;
    truths = offsets + columns * 4;
    labels = truths + n_labels * 4;
    sampled = labels + n_labels * 8;
    bytes = sampled + columns * 8;
  }
};

template <int kLanes>
__device__ float group_sum(float x) {
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, apart);
  }
  return x;
}

template <int kLanes>
__device__ float group_max(float x) {
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, apart));
  }
  return x;
}

// A row, by kLanes threads, of which this one holds every kLanes-th sample: from its logits, -inf for those of which
// nothing is left, to the row's loss, which all its threads get, and to the errors in their place. Those of the true
// logits go to `keep`.
template <int kLanes, int kEach, typename Keep>
__device__ void finish_row(Softmax, float (&x)[kEach], const float* truths, int n_true, int lane, const Keep& keep,
                           float& loss, float& log_sum) {
  float largest = -INFINITY, mean = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    largest = fmaxf(largest, x[i]);
  }
#pragma unroll 1
  for (int t = 0; t < n_true; ++t) {
    largest = fmaxf(largest, truths[t]);
    mean += truths[t] / n_true;
  }
  largest = group_max<kLanes>(largest);
  // Shifted by an infinity every other logit would be NaN; without it the sum is infinite, zero or NaN, as it should.
  const float shift = isfinite(largest) ? largest : 0;
  float of_samples = 0, of_truths = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    x[i] = expf(x[i] - shift);
    of_samples += x[i];
  }
  of_samples = group_sum<kLanes>(of_samples);
#pragma unroll 1
  for (int t = 0; t < n_true; ++t) {
    of_truths += expf(truths[t] - shift);
  }
  const float sum = of_samples + of_truths, inverse = 1 / sum;
  // A single label's p may be near 1: its loss and error then come from what the others hold, which does not cancel.
  const bool single = n_true == 1 && isfinite(sum);
  log_sum = shift + logf(sum);
  loss = single && of_samples < of_truths ? log1pf(of_samples / of_truths) : log_sum - mean;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    x[i] = x[i] == 0 ? 0 : x[i] * inverse;
  }
#pragma unroll 1
  for (int t = lane; t < n_true; t += kLanes) {
    keep(t, single ? -of_samples * inverse : expf(truths[t] - shift) * inverse - 1.0f / n_true);
  }
}

template <int kLanes, int kEach, typename Keep>
__device__ void finish_row(Nce, float (&x)[kEach], const float* truths, int n_true, int lane, const Keep& keep,
                           float& loss, float&) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const float e = expf(-fabsf(x[i]));
    sum += fmaxf(x[i], 0.0f) + log1pf(e);
    x[i] = __fdividef(x[i] < 0 ? e : 1, 1 + e);
  }
  loss = group_sum<kLanes>(sum);
#pragma unroll 1
  for (int t = 0; t < n_true; ++t) {
    loss += Nce::true_loss(truths[t], n_true);
  }
#pragma unroll 1
  for (int t = lane; t < n_true; t += kLanes) {
    keep(t, Nce::true_error(truths[t], n_true));
  }
}

// A block takes kRows rows and all samples, 64 of them and 128 features at a time: a warp multiplies 16 rows by
// kRows / 2 samples, and takes the true products of kRows / 8 rows; then 256 / kRows threads finish a row each. Must
// move: hidden and the labels' rows, and the errors.
template <typename Loss, typename scalar_t, int kRows, bool kAligned>
__global__ void __launch_bounds__(kThreads, 2)
    forward_tile(const __grid_constant__ Given<scalar_t> given, float* __restrict__ losses,
                 float* __restrict__ log_sum_exp, float* __restrict__ kept) {
  wait_for_earlier_kernels();
  constexpr bool kExact = !std::is_same_v<scalar_t, float>;
  constexpr int kRowGroups = kRows / 16, kTiles = kRows / 16, kWarpRows = kRows / kWarps, kLanes = kThreads / kRows;
  constexpr int kEach = most_samples(kRows) / kLanes;
  extern __shared__ float4 memory[];
  const int n_true = given.n_true, n_sampled = given.n_sampled, n_features = given.n_features;
  const ForwardMemory at(kRows, n_true, n_sampled);
  char* base = reinterpret_cast<char*>(memory);
  float* hidden = reinterpret_cast<float*>(base + at.hidden);    // (kRows, kPitch)
  float* samples = reinterpret_cast<float*>(base + at.samples);  // (kSamples, kPitch)
  float* logits = reinterpret_cast<float*>(base + at.logits);    // (kRows, logit_pitch)
  float* offsets = reinterpret_cast<float*>(base + at.offsets);  // (K,)
  float* truths = reinterpret_cast<float*>(base + at.truths);    // (kRows, T)
  int64_t* labels = reinterpret_cast<int64_t*>(base + at.labels);    // (kRows, T)
  int64_t* sampled = reinterpret_cast<int64_t*>(base + at.sampled);  // (K,)

  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows, left = given.n_rows - first;
  const int n_rows = left < kRows ? static_cast<int>(left) : kRows, n_labels = n_rows * n_true;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  const auto load_hidden = [&](int d) {
    load_tile<scalar_t, kAligned, kRows, kFeatures, kPitch>(
        hidden, n_rows, d, n_features, [&](int r) { return given.hidden + (first + r) * n_features; });
  };
  constexpr bool kEarly = kAligned && !kExact;  // copies that nobody waits for
  if constexpr (kEarly) {
    load_hidden(0);
  }
  // Labels by one half of the block and samples by the other, as either waits for memory.
  constexpr int kHalf = kThreads / 2;
  const int thread = threadIdx.x % kHalf;
  const bool of_labels = threadIdx.x < kHalf;
  bool bad_sample = false;
  if (of_labels) {
#pragma unroll 1
    for (int x = thread; x < kRows * n_true; x += kHalf) {
      labels[x] = x < n_labels ? given.labels[first * n_true + x] : 0;
      given.look_at_label(first + x / n_true, labels[x]);
    }
  } else {
#pragma unroll 1
    for (int j = thread; j < n_sampled; j += kHalf) {
      sampled[j] = given.sampled[j];
      bad_sample |= given.is_bad(sampled[j]);
      if (blockIdx.x == 0) {
        given.look_at_sample(j, sampled[j]);
      }
    }
  }
  bad_sample = __syncthreads_or(bad_sample);

  const int rows_at = warp % kRowGroups * 16 + g, samples_at = warp / kRowGroups * kTiles * 8;
  for (int k = 0; k < n_sampled; k += kSamples) {
    float sums[kTiles][4] = {};
    for (int d = 0; d < n_features; d += kFeatures) {
      if (k > 0 || d > 0) {
        __syncthreads();  // the tiles have been read
      }
      if (k > 0 ? n_features > kFeatures : d > 0 || !kEarly) {
        load_hidden(d);
      }
      load_tile<scalar_t, kAligned, kSamples, kFeatures, kPitch>(
          samples, min(kSamples, n_sampled - k), d, n_features,
          [&](int j) { return given.weight + given.clamp(sampled[k + j]) * given.row_stride; });

      float4 row[kWarpRows];  // of a label of each of the warp's rows, 4 features a lane
      const auto fetch = [&](int t) {
#pragma unroll
        for (int s = 0; s < kWarpRows; ++s) {
          const int64_t id = given.clamp(labels[(warp * kWarpRows + s) * n_true + t]);
          row[s] = load4<kAligned>(given.weight + id * given.row_stride, d + 4 * lane, n_features);
        }
      };
      if (k == 0) {
        fetch(0);
        if (d == 0 && of_labels) {
#pragma unroll 1
          for (int x = thread; x < kRows * n_true; x += kHalf) {
            truths[x] = x < n_labels ? given.true_offset(labels[x], first * n_true + x) : 0;
          }
        } else if (d == 0) {
#pragma unroll 1
          for (int j = thread; j < n_sampled; j += kHalf) {
            offsets[j] = given.sampled_offset(j);
          }
        }
      }
      wait_for_copies();
      __syncthreads();

      if (k == 0) {
#pragma unroll 1
        for (int t = 0; t < n_true; ++t) {
          if (t > 0) {
            fetch(t);
          }
          float products[kWarpRows];
#pragma unroll
          for (int s = 0; s < kWarpRows; ++s) {
            const float4 h = *reinterpret_cast<const float4*>(hidden + (warp * kWarpRows + s) * kPitch + 4 * lane);
            const float product = row[s].x * h.x + row[s].y * h.y + row[s].z * h.z + row[s].w * h.w;
            products[s] = d + 4 * lane < n_features ? product : 0;  // no more than that has been written
          }
#pragma unroll
          for (int s = 0; s < kWarpRows; ++s) {
            products[s] = group_sum<32>(products[s]);
            if (lane == 0) {
              truths[(warp * kWarpRows + s) * n_true + t] += products[s];
            }
          }
        }
      }

      // The order of features within 16 is free: thread q takes the four from 4q on, so that it reads them at once.
      const int end = k + samples_at < n_sampled ? min(kFeatures, round_up(n_features - d, 16)) : 0;
#pragma unroll 2
      for (int f = 4 * q; f < end; f += 16) {
        const float4 h0 = *reinterpret_cast<const float4*>(hidden + rows_at * kPitch + f);
        const float4 h1 = *reinterpret_cast<const float4*>(hidden + (rows_at + 8) * kPitch + f);
        Operand<4, kExact> a0, a1;
        a0.set(0, h0.x), a0.set(1, h1.x), a0.set(2, h0.y), a0.set(3, h1.y);
        a1.set(0, h0.z), a1.set(1, h1.z), a1.set(2, h0.w), a1.set(3, h1.w);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          const float4 w = *reinterpret_cast<const float4*>(samples + (samples_at + tile * 8 + g) * kPitch + f);
          Operand<2, kExact> b0, b1;
          b0.set(0, w.x), b0.set(1, w.y);
          b1.set(0, w.z), b1.set(1, w.w);
          multiply_add(sums[tile], a0, b0);
          multiply_add(sums[tile], a1, b1);
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int j = k + samples_at + tile * 8;
      if (j < n_sampled) {
        float* to = logits + rows_at * at.logit_pitch + j + 2 * q;
        *reinterpret_cast<float2*>(to) = {sums[tile][0], sums[tile][1]};
        *reinterpret_cast<float2*>(to + 8 * at.logit_pitch) = {sums[tile][2], sums[tile][3]};
      }
    }
  }
  __syncthreads();

  const int r = threadIdx.x / kLanes, of_row = threadIdx.x % kLanes;
  const int64_t* label = labels + r * n_true;
  bool bad = bad_sample;
#pragma unroll 1
  for (int t = 0; t < n_true; ++t) {
    bad |= given.is_bad(label[t]);
  }
  float x[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {  // without a branch, so that all loads are under way at once
    const int wanted = of_row + i * kLanes, j = min(wanted, n_sampled - 1);
    const float logit = logits[r * at.logit_pitch + j] + offsets[j];
    x[i] = wanted < n_sampled ? logit : -INFINITY;
  }
  if (given.remove_accidental_hits) {
#pragma unroll 1
    for (int t = 0; t < n_true; ++t) {
      const int64_t id = label[t];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        x[i] = sampled[min(of_row + i * kLanes, n_sampled - 1)] == id ? -INFINITY : x[i];
      }
    }
  }
  const auto keep = [&](int t, float error) {
    if (kept && r < n_rows) {
      kept[given.n_rows * n_sampled + (first + r) * n_true + t] = bad ? 0 : error;
    }
  };
  float loss = 0, log_sum = 0;
  finish_row<kLanes>(Loss{}, x, truths + r * n_true, n_true, of_row, keep, loss, log_sum);
  if (of_row == 0 && r < n_rows) {
    losses[first + r] = bad ? NAN : loss;
    if constexpr (Loss::kNormalised) {
      log_sum_exp[first + r] = bad ? NAN : log_sum;
    }
  }
  if (kept) {
    __syncwarp();  // past the end of a row, lanes have read its last logit, which another one replaces
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = of_row + i * kLanes;
      if (j < n_sampled) {
        logits[r * at.logit_pitch + j] = bad ? 0 : x[i];
      }
    }
    __syncwarp();
    // The rows that this warp has finished, now along each of them.
#pragma unroll 1
    for (int j = lane; j < n_sampled; j += 32) {
#pragma unroll
      for (int i = 0; i < kWarpRows; ++i) {
        const int s = warp * kWarpRows + i;
        if (s < n_rows) {
          kept[(first + s) * n_sampled + j] = logits[s * at.logit_pitch + j];
        }
      }
    }
  }
}

template <typename Loss, typename scalar_t, int kRows, bool kAligned>
void launch_forward(const char* op, const SampledLoss& loss, const Tensor& losses, const Tensor* log_sum_exp,
                    const Tensor& kept, IdReporter reporter) {
  const ForwardMemory memory(kRows, static_cast<int>(loss.n_true), static_cast<int>(loss.n_sampled));
  const auto blocks = static_cast<unsigned>((loss.n_rows + kRows - 1) / kRows);
  launch_early(op, loss.hidden, forward_tile<Loss, scalar_t, kRows, kAligned>, dim3(blocks), dim3(kThreads),
               static_cast<size_t>(memory.bytes), Given<scalar_t>(loss, reporter),
               losses.template mutable_data_ptr<float>(),
               log_sum_exp ? log_sum_exp->template mutable_data_ptr<float>() : nullptr,
               kept.numel() ? static_cast<float*>(kept.mutable_data_ptr()) : nullptr);
}

}  // namespace few

// The losses (N,), with log_sum_exp (N,) for Softmax, and, unless `kept` is empty, the errors d loss / d logit that the
// backward needs, in float: of the samples (N, K), then of the labels (N, T).
template <typename Loss, typename scalar_t>
void rows_forward(const char* op, const SampledLoss& loss, const Tensor& losses, const Tensor* log_sum_exp,
                  const Tensor& kept, IdReporter reporter) {
  if (loss.n_rows == 0) {
    return;
  }
  if (!few::rows_lie_on_fours<scalar_t>(loss)) {
    few::launch_forward<Loss, scalar_t, few::kSmallTile, false>(op, loss, losses, log_sum_exp, kept, reporter);
  } else if (few::are_few_rows(loss)) {
    few::launch_forward<Loss, scalar_t, few::kSmallTile, true>(op, loss, losses, log_sum_exp, kept, reporter);
  } else if (loss.n_sampled > few::most_samples(few::kLargeTile)) {
    few::launch_forward<Loss, scalar_t, few::kMediumTile, true>(op, loss, losses, log_sum_exp, kept, reporter);
  } else {
    few::launch_forward<Loss, scalar_t, few::kLargeTile, true>(op, loss, losses, log_sum_exp, kept, reporter);
  }
}

}  // namespace torchlayer
