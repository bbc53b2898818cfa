// Losses of many rows and samples in bfloat16: a product with the samples' rows whose logits never leave the registers.
#pragma once

#include "ptx.cuh"
#include "sampled_loss_wide_errors.cuh"

#include <cfloat>

namespace torchlayer {
namespace wide {

constexpr int kWarps = 8;  // of a block of the kernels that move rows

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

// The products of a warp's rows with others, at `left(r)` and `right(r)`. Loads of all of them are in flight together;
// `during` is called while the first are.
template <int kN, typename Left, typename Right, typename During>
__device__ void multiply_rows(float (&product)[kN], int n_features, const Left& left, const Right& right,
                              const During& during) {
  const __nv_bfloat16 *of_left[kN], *of_right[kN];
#pragma unroll
  for (int r = 0; r < kN; ++r) {
    of_left[r] = left(r);
    of_right[r] = right(r);
    product[r] = 0;
  }
#pragma unroll(4 / kN)
  for (int start = 0; start < n_features; start += 256) {
    const int f = start + 8 * (threadIdx.x % 32);
    const bool inside = f < n_features;
    Eight a[kN], b[kN];
#pragma unroll
    for (int r = 0; r < kN; ++r) {
      a[r] = inside ? read_eight(of_left[r] + f) : Eight{};
      b[r] = inside ? read_eight(of_right[r] + f) : Eight{};
    }
    if (start == 0) {
      during();
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

// A warp that takes several rows at once takes so many times as many, one batch after the other.
template <int kRowsAWarp>
constexpr int kBatches = kRowsAWarp > 1 ? 4 : 1;

// A warp takes some rows, and finds their labels' logits, or takes a sample, and copies its row. Before them come
// blocks that look for hits, and the last one looks for sampled ids that name no class. Must move: the samples' rows in
// and out, hidden and the labels' rows.
template <int kRowsAWarp>
__global__ void __launch_bounds__(32 * kWarps, kBatches<kRowsAWarp> > 1 ? 4 : 5)
    prepare(const __grid_constant__ Given<torch::headeronly::BFloat16> given, const __grid_constant__ Kept kept,
            int n_hit_blocks, int n_columns, int64_t n_row_warps) {
  wait_for_earlier_kernels();
  if (blockIdx.x < n_hit_blocks) {
    __shared__ LabelTable table;
    find_hits(given, kept, blockIdx.x, table);
    return;
  }
  if (blockIdx.x == gridDim.x - 1) {
    bool bad = false;
#pragma unroll 8
    for (int j = threadIdx.x; j < given.n_sampled; j += 32 * kWarps) {
      bad |= given.is_bad(given.sampled[j]);
    }
    for (int j = threadIdx.x; bad && j < given.n_sampled; j += 32 * kWarps) {
      given.look_at_sample(j, given.sampled[j]);
    }
    bad = __syncthreads_or(bad);
    if (threadIdx.x == 0) {
      *kept.bad_sample = bad;
      *kept.is_spent = 0;
    }
    return;
  }
  const auto* weight = reinterpret_cast<const __nv_bfloat16*>(given.weight);
  const auto* hidden = reinterpret_cast<const __nv_bfloat16*>(given.hidden);
  const int64_t warp = static_cast<int64_t>(blockIdx.x - n_hit_blocks) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32, n_features = given.n_features, n_true = given.n_true;
  if (warp >= n_row_warps) {
    const int64_t j = warp - n_row_warps;
    if (j >= n_columns) {
      return;
    }
    if (j >= given.n_sampled) {
      if (lane == 0) {
        kept.offsets[j] = -INFINITY;
        kept.ids[j] = -1;  // no label is -1
      }
      return;
    }
    const int64_t id = given.clamp(given.sampled[j]);
    const __nv_bfloat16* from = weight + id * given.row_stride;
    __nv_bfloat16* to = kept.samples + j * n_features;
    constexpr int kMany = 4;  // loads in flight, none of which moves past a store
    for (int start = 8 * lane; start < n_features; start += kMany * 256) {
      Eight many[kMany];
#pragma unroll
      for (int x = 0; x < kMany; ++x) {
        many[x] = start + 256 * x < n_features ? read_eight(from + start + 256 * x) : Eight{};
      }
#pragma unroll
      for (int x = 0; x < kMany; ++x) {
        if (start + 256 * x < n_features) {
          *reinterpret_cast<uint4*>(to + start + 256 * x) = many[x].words;
        }
      }
    }
    if (lane == 0) {
      // less than inf: a hit's logit of -inf wins
      const float offset = given.sampled_offset(static_cast<int>(j)) * kLog2E;
      kept.offsets[j] = isnan(offset) ? offset : fminf(offset, FLT_MAX);
      kept.ids[j] = static_cast<int32_t>(id);
    }
    return;
  }
  constexpr int kAll = kBatches<kRowsAWarp> * kRowsAWarp;
  const int64_t first = warp * kAll;
  if (first >= given.n_rows) {
    return;
  }
  const bool has_row = lane < kAll && first + lane < given.n_rows;
  float largest = -INFINITY;  // of row first + lane
  for (int t = 0; t < n_true; ++t) {
    const int64_t at = (first + lane) * n_true + t, label = has_row ? given.labels[at] : 0;
    const int id = static_cast<int>(given.clamp(label));
    const float offset = has_row ? given.true_offset(label, at) : 0;  // on its way while the rows are multiplied
    const auto row = [&](int r) { return hidden + min(first + r, given.n_rows - 1) * n_features; };
    const auto row_of_label = [&](int r) { return weight + __shfl_sync(0xffffffffu, id, r) * given.row_stride; };
    float product = 0;
#pragma unroll 1
    for (int batch = 0; batch < kAll; batch += kRowsAWarp) {
      const auto fetch_next = [&] {  // the next batch, up to 256 features; a lane has a line of a row
        if constexpr (kBatches<kRowsAWarp> > 1) {
          constexpr int kLanes = 16 / kRowsAWarp;
          const int r = min(batch + kRowsAWarp + lane % 16 / kLanes, kAll - 1), f = lane % kLanes * 64;
          const __nv_bfloat16* of_label = row_of_label(r);
          if (f < n_features && batch + kRowsAWarp < kAll) {
            prefetch((lane < 16 ? row(r) : of_label) + f);
          }
        }
      };
      float products[kRowsAWarp];
      multiply_rows(
          products, n_features, [&](int r) { return row(batch + r); }, [&](int r) { return row_of_label(batch + r); },
          fetch_next);
#pragma unroll
      for (int r = 0; r < kRowsAWarp; ++r) {
        product = lane == batch + r ? products[r] : product;
      }
    }
    if (has_row) {
      const float logit = product + offset;
      largest = fmaxf(largest, logit);
      kept.true_errors[at] = logit;  // for finish_losses
      kept.labels[at] = static_cast<int32_t>(given.clamp(label));
      given.look_at_label(first + lane, label);
    }
  }
  if (has_row) {
    kept.references[first + lane] = isfinite(largest) ? largest : 0;
  }
}

// The tiles of a cluster, every so many of those of a row of them after the other.
struct Items {
  int n_tiles, n_left, tile, pair, tiles_on, pairs_on;

  __device__ Items(int n_pairs, int n_tiles, int first, int stride)
      : n_tiles(n_tiles),
        n_left(first < n_pairs * n_tiles ? (n_pairs * n_tiles - first + stride - 1) / stride : 0),
        tile(first % n_tiles),
        pair(first / n_tiles),
        tiles_on(stride % n_tiles),
        pairs_on(stride / n_tiles) {}

  __device__ void advance() {  // without a division, for which everyone would wait
    const bool wraps = tile + tiles_on >= n_tiles;
    tile += wraps ? tiles_on - n_tiles : tiles_on;
    pair += wraps ? pairs_on + 1 : pairs_on;
    --n_left;
  }
};

// A cluster takes pairs of tiles below each other, a block 128 rows and kWidth samples. If the stages hold a whole
// tile, its groups take turns at the tensor cores, and one finds its errors while the other multiplies. Must move:
// hidden and the samples' rows as often as tiles share them, from the cache, and the kept errors.
template <typename Loss, int kWidth>
__global__ void TORCHLAYER_PAIR __launch_bounds__(kThreads, 1)
    find_errors(const __grid_constant__ CUtensorMap hidden, const __grid_constant__ CUtensorMap samples,
                const __grid_constant__ CUtensorMap kept, const Errors given) {
#ifdef TORCHLAYER_HOPPER
  extern __shared__ __align__(1024) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int rank = static_cast<int>(hopper::block_in_cluster());
  const int role = __shfl_sync(0xffffffffu, threadIdx.x / kGroup, 0);
  if (threadIdx.x == 0) {
    hopper::prefetch_description(&hidden);
    hopper::prefetch_description(&samples);
    hopper::prefetch_description(&kept);
  }
  init(shared);
  wait_for_earlier_kernels();
  if (given.only_if != nullptr && *given.only_if == 0) {
    return;
  }
  Position at;
  Items items(given.n_pairs, given.n_tiles, blockIdx.x / 2, gridDim.x / 2);
  if (role == 0) {
    hopper::give_registers<40>();
    if (threadIdx.x == 0) {
      for (; items.n_left > 0; items.advance()) {
        copy_steps<Along::kSum, Along::kSum, kWidth>(shared, at, &hidden, &samples, (items.pair * 2 + rank) * kRows,
                                                     items.tile * kWidth, 0, given.n_steps, 1, rank);
      }
    }
  } else {
    hopper::take_registers<232>();
    const int group = role - 1, thread = threadIdx.x % kGroup;
    const int warp = 4 * group + thread / 32;  // of those that multiply
    const bool takes_turns = given.n_steps <= kStages;
    float* offsets = shared.offsets + group * kWidth;
    float z[kWidth / 2];
    if (takes_turns && group == 1 && items.n_left > 0) {
      hopper::arrive_named(kTurnOf0, 2 * kGroup);
    }
    for (; items.n_left > 0; items.advance()) {
      const int column = items.tile * kWidth, first = (items.pair * 2 + rank) * kRows + warp * kOutRows;
      // What the errors need is on its way while the group multiplies, and looked at afterwards.
      const TwoRows<Loss> two(given, first);
      clear(z);
      // by then the whole group is done with its offsets
      hopper::sync_named(takes_turns ? kTurnOf0 + group : kSyncOf0 + group, takes_turns ? 2 * kGroup : kGroup);
      constexpr int kEach = kWidth / kGroup;
      copy_async<kEach>(offsets + kEach * thread, given.offsets + column + kEach * thread);
      const auto pass_turn = [&](int step) {
        if (takes_turns && step == given.n_steps - 1 && (group == 0 || items.n_left > 1)) {
          hopper::arrive_named(kTurnOf0 + 1 - group, 2 * kGroup);
        }
      };
      multiply_steps<Along::kSum, Along::kSum>(z, shared, at, group, given.n_steps, pass_turn);
      wait_for_copies();
      hopper::sync_named(kSyncOf0 + group, kGroup);  // the group's copies are there for all of it
      find_tile<Loss, kWidth>(z, shared.out + kOut * warp, &kept, given, two, offsets, column, first);
    }
    if (thread % 32 == 0) {
      hopper::wait_stores();
    }
  }
  hopper::sync_cluster();  // neither block is gone while the other still signals to it
#endif
}

// A block takes 32 rows, and its eight warps share a row's tiles: its loss from the tiles' sums, what its errors must
// be multiplied by, and its labels' errors. Must move: the sums, 8 bytes for every tile of a row.
template <typename Loss>
__global__ void __launch_bounds__(32 * kWarps)
    finish_losses(const __grid_constant__ Given<torch::headeronly::BFloat16> given, const __grid_constant__ Kept kept,
                  const float* sums, const float* exponents, int n_tiles, int width,
                  float* losses, float* log_sums) {
  wait_for_earlier_kernels();
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
  float reference = 0, truth = 0;
  float* truths = kept.true_errors + i * n_true;
  if (warp == 0 && i < n_rows) {  // on their way while the others add
    bad = *kept.bad_sample != 0;
    reference = kept.references[i];
    truth = truths[0];
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
  float loss = 0, scale = 1;
  if constexpr (Loss::kNormalised) {
    float of_truths = 0, mean = 0;
    for (int t = 0; t < n_true; ++t) {
      const float x = (t == 0 ? truth : truths[t]) - reference;
      of_truths += exp2f(x * kLog2E - exponent);
      mean += x / n_true;
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
    kept.references[i] = reference + kLn2 * exponent;  // from which the kept errors could be made again
    const bool are_replaced = kept.are_replaced(given.n_rows);
    if (exponent != 0 && are_replaced) {
      *kept.is_spent = 1;  // rather than scale them: the first backward then has the bits of any other
    }
    for (int tile = 0; i < kept.n_kept_rows && !are_replaced && tile < n_tiles; ++tile) {
      const float apart = exponents[tile * n_rows + i] - exponent;
      const int end = min(given.n_sampled, (tile + 1) * width);
      for (int j = tile * width; apart != 0 && j < end; ++j) {
        __nv_bfloat16* error = kept.errors + i * kept.pitch + j;
        *error = __float2bfloat16(__bfloat162float(*error) * exp2f(apart));
      }
    }
  } else {
    loss = kLn2 * of_samples;
    for (int t = 0; t < n_true; ++t) {
      const float x = t == 0 ? truth : truths[t];
      loss += Nce::true_loss(x, n_true);
      truths[t] = bad ? 0 : Nce::true_error(x, n_true);
    }
  }
  losses[i] = bad ? NAN : loss;
  kept.scales[i] = bad ? 0 : scale;
}

}  // namespace wide
}  // namespace torchlayer
