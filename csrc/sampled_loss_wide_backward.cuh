// Gradients of many rows and samples in bfloat16: errors @ samples and errors^T @ hidden, in one launch.
#pragma once

#include "sampled_loss_wide_spread.cuh"

namespace torchlayer {
namespace wide {

// Of tiles 0 .. n - 1, a cluster's.
struct Share {
  int begin, end, stride;
};

// How clusters share the tiles of two products. Nothing depends on timing, so that sums are always made in one order.
//
// Either each has tiles of both: the longer ones are dealt out, and short ones given to all, more to those that got
// fewer long ones. Or some only sum over rows, and the others go through the rows beside them, so that errors that do
// not fit into the cache come from memory once and not twice.
struct Schedule {
  int64_t time = INT64_MAX;  // in steps
  int n_hidden, n_sums, n_clusters;
  bool hidden_is_long;
  int n_ahead, shorts_ahead, shorts_behind;  // clusters with one more long tile, and short ones for each of either
  int n_summing = 0;                         // clusters that only sum; 0: each has tiles of both

  Schedule() = default;
  Schedule(int n_hidden, int hidden_steps, int n_sums, int sum_steps, int n_clusters, bool beside)
      : n_hidden(n_hidden), n_sums(n_sums), n_clusters(n_clusters) {
    constexpr int kEnds = 2;  // what begins and ends a tile, in steps
    const int64_t hidden_time = hidden_steps + kEnds, sum_time = sum_steps + kEnds;
    hidden_is_long = hidden_steps >= sum_steps;
    const int n_long = hidden_is_long ? n_hidden : n_sums, n_short = hidden_is_long ? n_sums : n_hidden;
    n_ahead = n_long % n_clusters;
    if (beside) {
      for (int n = 1; n < n_clusters; ++n) {
        const int64_t of_sums = (n_sums + n - 1) / n * sum_time;
        const int64_t of_hidden = (n_hidden + n_clusters - n - 1) / (n_clusters - n) * hidden_time;
        if (std::max(of_sums, of_hidden) < time) {
          time = std::max(of_sums, of_hidden);
          n_summing = n;
        }
      }
      return;
    }
    const int64_t long_time = std::max(hidden_time, sum_time), short_time = std::min(hidden_time, sum_time);
    const int64_t rounds = n_long / n_clusters;
    const int n_behind = n_clusters - n_ahead;
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
    const int n = is_hidden ? n_hidden : n_sums;
    if (n_summing > 0) {
      const bool sums = cluster < n_summing;
      return sums == is_hidden ? Share{0, 0, 1}
             : sums            ? Share{cluster, n, n_summing}
                               : Share{cluster - n_summing, n, n_clusters - n_summing};
    }
    if (is_hidden == hidden_is_long) {
      return {cluster, n, n_clusters};
    }
    const bool ahead = cluster < n_ahead;
    const int begin = ahead ? cluster * shorts_ahead : n_ahead * shorts_ahead + (cluster - n_ahead) * shorts_behind;
    return {begin, min(n, begin + (ahead ? shorts_ahead : shorts_behind)), 1};
  }
};

// What `multiply_errors` is told beside the matrices.
struct Products {
  Schedule schedule;
  int n_rows, n_sampled, n_features, n_true;
  int n_feature_tiles, n_sample_pairs, hidden_steps, row_steps, n_parts;  // of the sums over rows
  const float* row_scales;   // (n_rows,)
  const char* scale_parts;   // kScaleBytes for each step of the sums over rows
  const float* true_errors;  // (n_rows, T), times the rows' gradients
  const int32_t* labels;     // (n_rows, T)
  const __nv_bfloat16* weight;
  int64_t row_stride;
  float* sums;    // (n_parts, K, D): the gradient of the samples' rows, or null if it goes to `rows` at once
  float* biases;  // (n_parts, K), or (K,)
  bool adds;      // to what is there
};

#ifdef TORCHLAYER_HOPPER

// Word y of lane x of every four goes to word x of lane y.
__device__ inline void transpose_four(uint4& words) {
  const bool odd = threadIdx.x % 2 == 1, high = threadIdx.x % 4 >= 2;
  uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? words.x : words.y, 1);
  uint32_t b = __shfl_xor_sync(0xffffffffu, odd ? words.z : words.w, 1);
  words = odd ? uint4{a, words.y, b, words.w} : uint4{words.x, a, words.z, b};
  a = __shfl_xor_sync(0xffffffffu, high ? words.x : words.z, 2);
  b = __shfl_xor_sync(0xffffffffu, high ? words.y : words.w, 2);
  words = high ? uint4{a, b, words.z, words.w} : uint4{words.x, words.y, a, b};
}

// What a thread must know of its two rows of d hidden, on its way as soon as this is made; of the labels the first.
struct TwoScales {
  int64_t row[2];
  float scale[2], error[2];
  int label[2];

  __device__ TwoScales(const Products& given, int first) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      row[half] = min(first + static_cast<int>(threadIdx.x) % kGroup / 32 * 16 +
                          static_cast<int>(threadIdx.x) % 32 / 4 + 8 * half, given.n_rows - 1);
      scale[half] = given.row_scales[row[half]];
      error[half] = given.true_errors[row[half] * given.n_true];
      label[half] = given.labels[row[half] * given.n_true];
    }
  }
};

// Two rows of a tile of d hidden: scaled, with the labels' part. They go out as sixteen bits.
__device__ inline void store_hidden(Shared& shared, const Products& given, const CUtensorMap* matrix,
                                    float (&sum)[128], const TwoScales& two, int first, int column, int warp) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int x = 0; x < 128; ++x) {
    const float factor = two.scale[x / 2 % 2];
    sum[x] = factor == 0 ? 0 : sum[x] * factor;
  }
  for (int t = 0; t < given.n_true; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t of_row = two.row[half] * given.n_true + t;
      const float error = t == 0 ? two.error[half] : given.true_errors[of_row];
      const __nv_bfloat16* row = given.weight + (t == 0 ? two.label[half] : given.labels[of_row]) * given.row_stride;
      constexpr int kMany = 4;  // loads in flight, of sixteen bytes
#pragma unroll
      for (int m = 0; m < kColumns / 32; m += kMany) {
        uint4 four[kMany];
#pragma unroll
        for (int x = 0; x < kMany; ++x) {
          const int at = column + 32 * (m + x) + 8 * (lane % 4);
          four[x] = error != 0 && at < given.n_features ? *reinterpret_cast<const uint4*>(row + at) : uint4{};
        }
#pragma unroll
        for (int x = 0; x < kMany; ++x) {
          transpose_four(four[x]);
          const uint32_t words[4] = {four[x].x, four[x].y, four[x].z, four[x].w};
#pragma unroll
          for (int y = 0; y < 4; ++y) {
            const float2 w = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(words[y]));
            const int n = 4 * (m + x) + y;
            sum[4 * n + 2 * half] = fmaf(error, w.x, sum[4 * n + 2 * half]);
            sum[4 * n + 2 * half + 1] = fmaf(error, w.y, sum[4 * n + 2 * half + 1]);
          }
        }
      }
    }
  }
  store_tile<kColumns>(shared.out + kOut * warp, matrix, column, first + warp * kOutRows, [&](int n) {
    return make_uint2(pack(sum[4 * n], sum[4 * n + 1]), pack(sum[4 * n + 2], sum[4 * n + 3]));
  });
}

// A tile of the gradient of the samples' rows, of one part of the sum over rows.
__device__ inline void store_sums(Shared& shared, const Products& given, const CUtensorMap* matrix,
                                  float (&sum)[128], int first, int column, int part, int warp) {
  if (given.sums == nullptr) {
    store_tile<kColumns>(shared.out + kOut * warp, matrix, column, first + warp * kOutRows, [&](int n) {
      return make_uint2(pack(sum[4 * n], sum[4 * n + 1]), pack(sum[4 * n + 2], sum[4 * n + 3]));
    });
    return;
  }
  const int lane = threadIdx.x % 32, f = column + 2 * (lane % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int j = first + warp * kOutRows + lane / 4 + 8 * half;
    if (j < given.n_sampled) {
      float* to = given.sums + (static_cast<int64_t>(part) * given.n_sampled + j) * given.n_features;
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        if (f + 8 * n < given.n_features) {
          float* at = to + f + 8 * n;
          const float x = sum[4 * n + 2 * half], y = sum[4 * n + 2 * half + 1];
          if (given.adds) {  // to read first would be a trip to memory for each, as no load moves past a store
            hopper::add_two(at, x, y);
          } else {
            *reinterpret_cast<float2*>(at) = {x, y};
          }
        }
      }
    }
  }
}

// A tile of the gradient of the samples' biases, from products with the rows' scales, whose parts lie in neighbouring
// columns.
__device__ inline void store_biases(const Products& given, const float (&scales)[4], int first, int part, int warp) {
  const int lane = threadIdx.x % 32;
  float* to = given.biases + static_cast<int64_t>(part) * given.n_sampled;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float last = __shfl_down_sync(0xffffffffu, scales[2 * half], 1);
    const float sum = scales[2 * half] + scales[2 * half + 1] + last;
    const int j = first + warp * kOutRows + lane / 4 + 8 * half;
    if (lane % 4 == 0 && j < given.n_sampled) {
      to[j] = given.adds ? to[j] + sum : sum;
    }
  }
}

#endif

// A cluster takes pairs of tiles as the schedule deals them out. `errors` and `errors_down` are one matrix, in boxes
// for sums along its rows and down its columns. Must move: the errors twice, the rest from the cache, and the
// gradients.
static __global__ void TORCHLAYER_PAIR __launch_bounds__(kThreads, 1)
    multiply_errors(const __grid_constant__ CUtensorMap errors, const __grid_constant__ CUtensorMap errors_down,
                    const __grid_constant__ CUtensorMap samples, const __grid_constant__ CUtensorMap hidden,
                    const __grid_constant__ CUtensorMap d_hidden, const __grid_constant__ CUtensorMap d_samples,
                    const Products given) {
#ifdef TORCHLAYER_HOPPER
  extern __shared__ __align__(1024) char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int rank = static_cast<int>(hopper::block_in_cluster()), cluster = blockIdx.x / 2;
  const int role = __shfl_sync(0xffffffffu, threadIdx.x / kGroup, 0);
  if (threadIdx.x == 0) {
    for (const CUtensorMap* matrix : {&errors, &errors_down, &samples, &hidden, &d_hidden, &d_samples}) {
      hopper::prefetch_description(matrix);
    }
  }
  init(shared);
  wait_for_earlier_kernels();
  Position at;
  const Share hidden_tiles = given.schedule.share(true, cluster), sum_tiles = given.schedule.share(false, cluster);
  const auto for_hidden = [&](const auto& visit) {  // visit(row, column)
    for (int index = hidden_tiles.begin; index < hidden_tiles.end; index += hidden_tiles.stride) {
      visit((index / given.n_feature_tiles * 2 + rank) * kRows, index % given.n_feature_tiles * kColumns);
    }
  };
  const auto for_sums = [&](const auto& visit) {  // visit(sample, column, part, steps), of every n_parts-th step
    for (int index = sum_tiles.begin; index < sum_tiles.end; index += sum_tiles.stride) {
      const int pair = index / given.n_feature_tiles, part = pair / given.n_sample_pairs;
      visit((pair % given.n_sample_pairs * 2 + rank) * kRows, index % given.n_feature_tiles * kColumns, part,
            max(0, (given.row_steps - part + given.n_parts - 1) / given.n_parts));
    }
  };
  if (role == 0) {
    hopper::give_registers<56>();
    if (threadIdx.x == 0) {
      for_hidden([&](int row, int column) {
        copy_steps<Along::kSum, Along::kOther>(shared, at, &errors, &samples, row, column, 0, given.hidden_steps, 1,
                                               rank);
      });
      for_sums([&](int sample, int column, int part, int n) {
        copy_steps<Along::kOther, Along::kOther>(shared, at, &errors_down, &hidden, sample, column, part, n,
                                                 given.n_parts, rank, column == 0 ? given.scale_parts : nullptr);
      });
    }
  } else {
    hopper::take_registers<224>();
    const int group = role - 1, warp = static_cast<int>(threadIdx.x - kGroup) / 32;  // of those that multiply
    for_hidden([&](int row, int column) {
      const int thread = threadIdx.x % kGroup, f = column + thread % 2 * 128;  // half a row of weight each, before long
      const int64_t i = min(row + group * 64 + thread / 2, given.n_rows - 1);
      const int label = given.labels[i * given.n_true];
      const TwoScales two(given, row + group * 64);
      float sum[128];
      clear(sum);
      multiply_steps<Along::kSum, Along::kOther>(sum, shared, at, group, given.hidden_steps, [&](int step) {
        if (step == 1 && f < given.n_features) {
          const __nv_bfloat16* weight = given.weight + label * given.row_stride + f;
          prefetch(weight);
          prefetch(weight + min(64, given.n_features - f - 1));
        }
      });
      store_hidden(shared, given, &d_hidden, sum, two, row, column, warp);
    });
    for_sums([&](int sample, int column, int part, int n) {
      float sum[128];
      clear(sum);
      if (column == 0) {
        float scales[4];
        clear(scales);
        multiply_steps<Along::kOther, Along::kOther, true>(sum, scales, shared, at, group, n, [](int) {});
        store_biases(given, scales, sample, part, warp);
      } else {
        multiply_steps<Along::kOther, Along::kOther>(sum, shared, at, group, n, [](int) {});
      }
      store_sums(shared, given, &d_samples, sum, sample, column, part, warp);
    });
    if (threadIdx.x % 32 == 0) {
      hopper::wait_stores();
    }
  }
  hopper::sync_cluster();  // neither block is gone while the other still signals to it
#endif
}

// rows = the sum of the parts, in their order, and the biases likewise; a thread takes four features. Must move: them
// all.
static __global__ void __launch_bounds__(256)
    add_parts(const float* sums, const float* part_biases, int n_parts, int64_t n_in_rows,
              int n_sampled, __nv_bfloat16* rows, float* biases) {
  wait_for_earlier_kernels();
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
