// Gradients of many rows and samples in bfloat16: errors @ samples and errors^T @ hidden, in one launch.
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
  __nv_bfloat16* scaled;   // (n_rows, D): hidden, times that
  __nv_bfloat16* rows;     // (n_rows * T, D): the gradient of the labels' rows
  float* biases;           // (n_rows * T,)
  int64_t* ids;            // (n_rows * T,)
  int64_t* sampled_ids;    // (K,), or null if they are written
  int64_t first, n_rows;
};

// A warp takes a row. Must move: hidden in, and out 1 + T times.
static __global__ void __launch_bounds__(32 * kWarps)
    spread_rows(const __grid_constant__ Given<torch::headeronly::BFloat16> given, const Spread to) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32, n_true = given.n_true, n_features = given.n_features;
  if (to.sampled_ids != nullptr) {
    for (int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; j < given.n_sampled;
         j += static_cast<int64_t>(gridDim.x) * blockDim.x) {
      to.sampled_ids[j] = given.clamp(given.sampled[j]);
    }
  }
  if (r >= to.n_rows) {
    return;
  }
  const float grad = to.grad[r], kept = to.scales[r];
  const float scale = kept == 0 ? 0 : to.are_probabilities ? grad : grad * kept;
  if (lane == 0) {
    to.row_scales[r] = scale;
  }
  for (int t = lane; t < n_true; t += 32) {
    const float error = to.errors[r * n_true + t];
    to.biases[r * n_true + t] = error == 0 ? 0 : error * grad;
    to.ids[r * n_true + t] = given.clamp(given.labels[(to.first + r) * n_true + t]);
  }
  const auto times = [](const Eight& eight, float factor) {
    uint4 words = {};
    uint32_t* word = &words.x;
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const float2 x = eight.pair(pair);
      word[pair] = factor == 0 ? 0 : pack(factor * x.x, factor * x.y);
    }
    return words;
  };
  const auto* hidden = reinterpret_cast<const __nv_bfloat16*>(given.hidden) + (to.first + r) * n_features;
#pragma unroll 4
  for (int f = 8 * lane; f < n_features; f += 256) {
    const Eight h = read_eight(hidden + f);
    *reinterpret_cast<uint4*>(to.scaled + r * n_features + f) = times(h, scale);
    for (int t = 0; t < n_true; ++t) {
      const float error = to.errors[r * n_true + t];
      *reinterpret_cast<uint4*>(to.rows + (r * n_true + t) * n_features + f) = times(h, error == 0 ? 0 : error * grad);
    }
  }
}

// Of tiles 0 .. n - 1, a cluster's.
struct Share {
  int begin, end, stride;
};

// How clusters share tiles of two lengths: the long ones are dealt out, and short ones given to all, more to those that
// got fewer long ones. Nothing depends on timing, so that sums are always made in the same order.
struct Schedule {
  int64_t time;  // in steps
  bool hidden_is_long;
  int n_long, n_short, n_clusters;
  int n_ahead, shorts_ahead, shorts_behind;  // clusters with one more long tile, and short ones for each of either

  Schedule() = default;
  Schedule(int n_hidden, int hidden_steps, int n_sums, int sum_steps, int n_clusters) : n_clusters(n_clusters) {
    constexpr int kEnds = 4;  // what begins and ends a tile, in steps
    hidden_is_long = hidden_steps >= sum_steps;
    n_long = hidden_is_long ? n_hidden : n_sums;
    n_short = hidden_is_long ? n_sums : n_hidden;
    const int64_t long_time = std::max(hidden_steps, sum_steps) + kEnds;
    const int64_t short_time = std::min(hidden_steps, sum_steps) + kEnds;
    n_ahead = n_long % n_clusters;
    const int n_behind = n_clusters - n_ahead;
    const int64_t rounds = n_long / n_clusters;
    time = INT64_MAX;
    for (int ahead = 0; ahead <= (n_ahead == 0 ? 0 : (n_short + n_ahead - 1) / n_ahead); ++ahead) {
      const int rest = std::max(0, n_short - ahead * n_ahead), behind = (rest + n_behind - 1) / n_behind;
      const int64_t of_ahead = n_ahead == 0 ? 0 : (rounds + 1) * long_time + ahead * short_time;
      const int64_t of_all = std::max(of_ahead, rounds * long_time + behind * short_time);
      if (of_all < time) {
        time = of_all;
        shorts_ahead = ahead;
        shorts_behind = behind;
      }
    }
  }

  __device__ Share share(bool is_hidden, int cluster) const {
    if (is_hidden == hidden_is_long) {
      return {cluster, n_long, n_clusters};
    }
    const bool ahead = cluster < n_ahead;
    const int begin = ahead ? cluster * shorts_ahead : n_ahead * shorts_ahead + (cluster - n_ahead) * shorts_behind;
    return {begin, min(n_short, begin + (ahead ? shorts_ahead : shorts_behind)), 1};
  }
};

// What `multiply_errors` is told beside the matrices.
struct Products {
  Schedule schedule;
  int n_rows, n_sampled, n_features, n_true;
  int n_feature_tiles, n_sample_pairs, hidden_steps, row_steps, steps_a_part;  // of the sums over rows, in parts
  const float* row_scales;   // (n_rows,)
  const float* true_errors;  // (n_rows, T), times the rows' gradients
  const int32_t* labels;     // (n_rows, T)
  const __nv_bfloat16* weight;
  int64_t row_stride;
  float* sums;    // (n_parts, K, D): the gradient of the samples' rows, or null if it goes to `rows` at once
  float* biases;  // (n_parts, K), or (K,)
  bool adds;      // to what is there
};

#ifdef TORCHLAYER_HOPPER

// Two rows of a tile of d hidden: scaled, with the labels' part. They go out as sixteen bits.
__device__ inline void store_hidden(Shared& shared, const Products& given, const CUtensorMap* matrix,
                                    float (&sum)[128], int first, int column, int group) {
  const int thread = threadIdx.x % kGroup, lane = thread % 32;
  int64_t i[2];
  float scale[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    i[half] = min(first + group * 64 + thread / 32 * 16 + lane / 4 + 8 * half, given.n_rows - 1);
    scale[half] = given.row_scales[i[half]];
  }
#pragma unroll
  for (int x = 0; x < 128; ++x) {
    const float factor = scale[x / 2 % 2];
    sum[x] = factor == 0 ? 0 : sum[x] * factor;
  }
  const int f = column + 2 * (lane % 4);
  for (int t = 0; t < given.n_true; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float error = given.true_errors[i[half] * given.n_true + t];
      const __nv_bfloat16* row = given.weight + given.labels[i[half] * given.n_true + t] * given.row_stride;
      if (error != 0) {
#pragma unroll
        for (int n = 0; n < kColumns / 8; ++n) {
          if (f + 8 * n < given.n_features) {
            const float2 w = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(row + f + 8 * n));
            sum[4 * n + 2 * half] = fmaf(error, w.x, sum[4 * n + 2 * half]);
            sum[4 * n + 2 * half + 1] = fmaf(error, w.y, sum[4 * n + 2 * half + 1]);
          }
        }
      }
    }
  }
  store_tile(shared, matrix, column, first + group * 64, group, [&](int n) {
    return make_uint2(pack(sum[4 * n], sum[4 * n + 1]), pack(sum[4 * n + 2], sum[4 * n + 3]));
  });
}

// A tile of the gradient of the samples' rows, of one part of the sum over rows.
__device__ inline void store_sums(Shared& shared, const Products& given, const CUtensorMap* matrix,
                                  float (&sum)[128], int first, int column, int part, int group) {
  if (given.sums == nullptr) {
    store_tile(shared, matrix, column, first + group * 64, group, [&](int n) {
      return make_uint2(pack(sum[4 * n], sum[4 * n + 1]), pack(sum[4 * n + 2], sum[4 * n + 3]));
    });
    return;
  }
  const int thread = threadIdx.x % kGroup, lane = thread % 32, f = column + 2 * (lane % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int j = first + group * 64 + thread / 32 * 16 + lane / 4 + 8 * half;
    if (j < given.n_sampled) {
      float* to = given.sums + (static_cast<int64_t>(part) * given.n_sampled + j) * given.n_features;
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        if (f + 8 * n < given.n_features) {
          float2* at = reinterpret_cast<float2*>(to + f + 8 * n);
          const float2 before = given.adds ? *at : float2{0, 0};
          *at = {before.x + sum[4 * n + 2 * half], before.y + sum[4 * n + 2 * half + 1]};
        }
      }
    }
  }
}

// A warp takes 64 samples of a tile of errors, two a lane, and adds up their errors times the rows' scales.
__device__ inline void sum_errors(Shared& shared, Position& at, const Products& given, int begin, int n, int half,
                                  bool wanted, float (&sums)[2]) {
  const int lane = threadIdx.x % 32;
  for (int step = begin; step < begin + n; ++step, at.advance()) {
    hopper::wait(&shared.full[at.stage], at.phase);
    if (wanted) {
      const char* box = shared.stages[at.stage].left + half * kBoxBytes;
      const int n_rows = min(kDepth, given.n_rows - step * kDepth);
#pragma unroll 8
      for (int r = 0; r < n_rows; ++r) {
        const float scale = given.row_scales[step * kDepth + r];
        const auto pair = *reinterpret_cast<const __nv_bfloat162*>(box + r * 128 + ((lane * 4) ^ (r % 8 * 16)));
        const float2 error = __bfloat1622float2(pair);
        sums[0] += scale == 0 ? 0 : error.x * scale;
        sums[1] += scale == 0 ? 0 : error.y * scale;
      }
    }
    __syncwarp();
    if (lane == 0) {
      hopper::arrive_in_block(&shared.empty[at.stage], hopper::block_in_cluster());
    }
  }
}

#endif

// A cluster takes pairs of tiles as the schedule deals them out. `errors` and `errors_down` are one matrix, in boxes for
// sums along its rows and down its columns. Must move: the errors twice, the rest from the cache, and the gradients.
static __global__ void TORCHLAYER_PAIR __launch_bounds__(kThreads, 1)
    multiply_errors(const __grid_constant__ CUtensorMap errors, const __grid_constant__ CUtensorMap errors_down,
                    const __grid_constant__ CUtensorMap samples, const __grid_constant__ CUtensorMap hidden,
                    const __grid_constant__ CUtensorMap d_hidden, const __grid_constant__ CUtensorMap d_samples,
                    const Products given) {
#ifdef TORCHLAYER_HOPPER
  extern __shared__ __align__(1024) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int rank = static_cast<int>(hopper::block_in_cluster()), cluster = blockIdx.x / 2;
  const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), role = warp / 4;
  init(shared, kSumWarps);
  Position at;
  const Share hidden_tiles = given.schedule.share(true, cluster), sum_tiles = given.schedule.share(false, cluster);
  const auto for_hidden = [&](const auto& visit) {  // visit(row, column)
    for (int index = hidden_tiles.begin; index < hidden_tiles.end; index += hidden_tiles.stride) {
      visit((index / given.n_feature_tiles * 2 + rank) * kRows, index % given.n_feature_tiles * kColumns);
    }
  };
  const auto for_sums = [&](const auto& visit) {  // visit(sample, column, part, first step, steps)
    for (int index = sum_tiles.begin; index < sum_tiles.end; index += sum_tiles.stride) {
      const int pair = index / given.n_feature_tiles, part = pair / given.n_sample_pairs;
      const int begin = part * given.steps_a_part;
      visit((pair % given.n_sample_pairs * 2 + rank) * kRows, index % given.n_feature_tiles * kColumns, part, begin,
            max(0, min(given.steps_a_part, given.row_steps - begin)));
    }
  };
  if (role == 0) {
    hopper::give_registers<40>();
    if (threadIdx.x == 0) {
      for_hidden([&](int row, int column) {
        copy_steps<Along::kSum, Along::kOther>(shared, at, &errors, &samples, row, column, 0, given.hidden_steps, rank);
      });
      for_sums([&](int sample, int column, int, int begin, int n) {
        copy_steps<Along::kOther, Along::kOther>(shared, at, &errors_down, &hidden, sample, column, begin, n, rank);
      });
    } else if (warp >= 1 && warp <= kSumWarps) {
      float sums[2];
      for_hidden([&](int, int) { sum_errors(shared, at, given, 0, given.hidden_steps, warp - 1, false, sums); });
      for_sums([&](int sample, int column, int part, int begin, int n) {
        sums[0] = sums[1] = 0;
        sum_errors(shared, at, given, begin, n, warp - 1, column == 0, sums);
        const int j = sample + (warp - 1) * kBox + 2 * (threadIdx.x % 32);
#pragma unroll
        for (int x = 0; x < 2; ++x) {
          if (column == 0 && j + x < given.n_sampled) {
            float* to = given.biases + static_cast<int64_t>(part) * given.n_sampled + j + x;
            *to = given.adds ? *to + sums[x] : sums[x];
          }
        }
      });
    }
  } else {
    hopper::take_registers<232>();
    const int group = role - 1;
    for_hidden([&](int row, int column) {
      float sum[128];
      multiply_steps<Along::kSum, Along::kOther>(sum, shared, at, group, given.hidden_steps);
      store_hidden(shared, given, &d_hidden, sum, row, column, group);
    });
    for_sums([&](int sample, int column, int part, int, int n) {
      float sum[128];
      multiply_steps<Along::kOther, Along::kOther>(sum, shared, at, group, n);
      store_sums(shared, given, &d_samples, sum, sample, column, part, group);
    });
    if (threadIdx.x % kGroup == 0) {
      hopper::wait_stores();
    }
  }
  hopper::sync_cluster();  // neither block is gone while the other still signals to it
#endif
}

// rows = the sum of the parts, in their order, and the biases likewise; a thread takes four features. Must move: them all.
static __global__ void __launch_bounds__(256)
    add_parts(const float* __restrict__ sums, const float* __restrict__ part_biases, int n_parts, int64_t n_in_rows,
              int n_sampled, __nv_bfloat16* __restrict__ rows, float* __restrict__ biases) {
  const int64_t x = 4 * (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (x < n_in_rows) {
    float4 sum = {0, 0, 0, 0};
#pragma unroll 4
    for (int part = 0; part < n_parts; ++part) {
      const float4 more = *reinterpret_cast<const float4*>(sums + part * n_in_rows + x);
      sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
    }
    *reinterpret_cast<uint2*>(rows + x) = make_uint2(pack(sum.x, sum.y), pack(sum.z, sum.w));
  }
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j < n_sampled && part_biases != biases) {
    float sum = 0;
    for (int part = 0; part < n_parts; ++part) {
      sum += part_biases[static_cast<int64_t>(part) * n_sampled + j];
    }
    biases[j] = sum;
  }
}

}  // namespace wide
}  // namespace torchlayer
