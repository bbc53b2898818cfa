// The update of a row with few places by a few lanes, which sum its gradients in registers.
#pragma once

#include "row_groups.cuh"
#include "row_packs.cuh"

#include <cmath>
#include <cstdint>

namespace torchlayer {

// An optimiser is a struct that goes to the kernel by value, with
//   scalar_t, sum_t           of the weight, and of sums and states
//   kMinBlocks                of how many an SM's registers shall suffice, to keep enough loads in flight, where ids
//                             are many
//   kWholeRow                 whether an element's update depends on the whole row's gradient
//   struct Row<kN>            kN neighbouring elements of weight and states, and
//   read(row, at), write(row, at), from and to their offset `at` in the table, and prefetch(at)
//   row_state(id)             what it keeps for a row, read early
//   row_rate(id, state, mean_square, is_writer, prepared)   for the whole row, called by all lanes of it
//   update(row, i, grad, rate, prepared rates)

// A row that some ids name.
struct Row {
  uint32_t id, count;
  bool is_bad;  // one of these ids lay outside the table
};

struct Shape {
  int64_t width;
  int lanes, n_segments;              // for a light row: lanes that share it, pieces that each of them takes in turn
  int heavy_lanes, n_heavy_segments;  // for a heavy one
  uint32_t n_heavy_blocks;
};

// The packs of a lane that lie within the next `left` elements from `from` on, one each `stride`; others are 0, as the
// compiler would keep what was there before.
template <int kPieces, int kVec, typename scalar_t>
__device__ void read_gradient(Pack<scalar_t, kVec> (&loaded)[kPieces], const scalar_t* from, int stride, int left) {
#pragma unroll
  for (int u = 0; u < kPieces; ++u) {
    loaded[u] = {};
    if (u * stride < left) {
      loaded[u] = read_pack<kVec, true>(from + u * stride);
    }
  }
}

// Sums `count` gradients, in the order of `places`, for a lane's packs; `grads` is where these begin in the first. Most
// rows have one gradient: it is on its way together with the weight and the states. Of others, as many packs are as
// registers suffice for.
template <typename Optimizer, int kVec, int kPieces>
__device__ void sum_light(typename Optimizer::sum_t (&sum)[kPieces][kVec], const typename Optimizer::scalar_t* grads,
                          const uint32_t (&places)[kLightPlaces], uint32_t count, int stride, int left, int64_t width) {
  using scalar_t = typename Optimizer::scalar_t;
  using sum_t = typename Optimizer::sum_t;
  {
    Pack<scalar_t, kVec> loaded[kPieces];
    read_gradient(loaded, grads + places[0] * width, stride, left);
#pragma unroll
    for (int u = 0; u < kPieces; ++u) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        sum[u][i] = static_cast<sum_t>(loaded[u].get(i));
      }
    }
  }
  constexpr int kRows = kPieces * kVec > 8 ? 1 : 2, kGroup = kPieces > 4 ? 4 : kPieces;
  uint32_t rest[kLightPlaces];
#pragma unroll
  for (int k = 0; k < static_cast<int>(kLightPlaces); ++k) {
    rest[k] = places[k];
  }
#pragma unroll 1
  for (uint32_t k = 1; k < count; k += kRows) {
#pragma unroll
    for (int u = 0; u < kPieces; u += kGroup) {
      Pack<scalar_t, kVec> loaded[kRows][kGroup];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r == 0 || k + r < count) {
          read_gradient(loaded[r], grads + rest[1 + r] * width + u * stride, stride, left - u * stride);
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r == 0 || k + r < count) {
#pragma unroll
          for (int v = 0; v < kGroup; ++v) {
#pragma unroll
            for (int i = 0; i < kVec; ++i) {
              sum[u + v][i] += static_cast<sum_t>(loaded[r][v].get(i));
            }
          }
        }
      }
    }
#pragma unroll
    for (int j = 1; j + kRows < static_cast<int>(kLightPlaces); ++j) {
      rest[j] = rest[j + kRows];  // registers have no numbers that a loop could count up
    }
  }
}

// How many blocks an SM's registers shall suffice for. Where ids are few, a warp holds a whole row.
template <typename Optimizer>
constexpr int kBlocks = sizeof(typename Optimizer::scalar_t) > 4 ? 2 : Optimizer::kMinBlocks;
template <typename Optimizer>
constexpr int kFewBlocks = Optimizer::kWholeRow ? 2 : kBlocks<Optimizer>;

// The sum over the row, for lanes that share it within a warp; all of them have then read what one may write.
template <typename sum_t>
__device__ sum_t sum_over_lanes(sum_t value, int lanes) {
  // other rows' lanes in this warp may be elsewhere, or gone
  const unsigned mates = (lanes == 32 ? kAllLanes : (1u << lanes) - 1) << (threadIdx.x % 32 & ~(lanes - 1));
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(mates, value, distance);
  }
  __syncwarp(mates);
  return value;
}

// The places of a row in their order, if they are not in it.
__device__ inline void sort_places(uint32_t (&places)[kLightPlaces]) {
#pragma unroll
  for (int round = 0; round < static_cast<int>(kLightPlaces); ++round) {
#pragma unroll
    for (int k = round % 2; k + 1 < static_cast<int>(kLightPlaces); k += 2) {
      const uint32_t lower = min(places[k], places[k + 1]);
      places[k + 1] = max(places[k], places[k + 1]);
      places[k] = lower;
    }
  }
}

// Updates segments `begin` to `end` of a row, by a team of `shape.lanes` neighbouring lanes, of which this is number
// `lane`; kLanes is their number, if it is known, or 0. `find_places` tells the row's places in their order, once its
// weight and states are on their way. `sum_over_team` adds up what each lane of a whole row has, for all of them, and
// tells when all have come so far.
template <typename Optimizer, int kVec, int kPieces, int kLanes, typename FindPlaces, typename SumOverTeam>
__device__ void update_light_row(const Optimizer& optimizer, const Prepared& prepared, const Row& row,
                                 const typename Optimizer::scalar_t* grads, const Shape& shape, int lane, int begin,
                                 int end, const FindPlaces& find_places, const SumOverTeam& sum_over_team) {
  using sum_t = typename Optimizer::sum_t;
  const int lanes = kLanes == 0 ? shape.lanes : kLanes;
  const int stride = lanes * kVec;  // from one piece of a lane to its next
  const auto column_of = [&](int segment) { return static_cast<int64_t>(segment) * stride * kPieces + lane * kVec; };
  const auto left_from = [&](int64_t column) {  // in the row, or as much of it as this segment can tell
    return static_cast<int>(min(shape.width - column, static_cast<int64_t>(stride) * kPieces));
  };
  const auto offset = static_cast<int64_t>(row.id) * shape.width;

  typename Optimizer::template Row<kVec> values[kPieces];
  const auto read_values = [&](int64_t column) {
#pragma unroll
    for (int u = 0; u < kPieces; ++u) {
      values[u] = {};
      if (u * stride < left_from(column)) {
        optimizer.read(values[u], offset + column + u * stride);
      }
    }
  };
  read_values(column_of(begin));
  const sum_t state = optimizer.row_state(row.id);
  uint32_t places[kLightPlaces];
  find_places(places);

  sum_t sum[kPieces][kVec];
  const auto add = [&](int64_t column) {
    sum_light<Optimizer, kVec, kPieces>(sum, grads + column, places, row.count, stride, left_from(column), shape.width);
    if (row.is_bad) {
#pragma unroll
      for (int u = 0; u < kPieces; ++u) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          sum[u][i] = static_cast<sum_t>(NAN);
        }
      }
    }
  };

  sum_t row_rate = 0;
  if constexpr (Optimizer::kWholeRow) {
    sum_t square = 0;
    for (int segment = 0; segment < shape.n_segments; ++segment) {
      const int64_t column = column_of(segment);
      add(column);
#pragma unroll
      for (int u = 0; u < kPieces; ++u) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          square += u * stride < left_from(column) ? sum[u][i] * sum[u][i] : 0;
        }
      }
    }
    square = sum_over_team(square);  // and every lane has read the old state
    row_rate = optimizer.row_rate(row.id, state, square / static_cast<sum_t>(shape.width), lane == 0, prepared);
  }

  for (int segment = begin; segment < end; ++segment) {
    const int64_t column = column_of(segment);
    if (segment > begin) {
      read_values(column);
    }
    if (!Optimizer::kWholeRow || shape.n_segments > 1) {
      add(column);  // for a whole row, if it does not fit into the lanes, a second time
    }
#pragma unroll
    for (int u = 0; u < kPieces; ++u) {
      if (u * stride < left_from(column)) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          optimizer.update(values[u], i, sum[u][i], row_rate, prepared);
        }
        optimizer.write(values[u], offset + column + u * stride);
      }
    }
  }
}

// What teams tell each other by; of two entries one is written while the other may still be read.
template <typename sum_t>
struct LightMemory {
  sum_t squares[2][kThreads / 32];  // sums of warps
  uint32_t taken[2][kThreads / 32];
};

// A team takes one of the rows listed, or (unless the optimiser needs all of it) a segment of one. Threads take tiles
// together, of as many as they have teams: the block, or, where rows of several places would keep others waiting, a
// warp, or the team if it is larger. Their first two tiles are given, the others they take as they come to them, so
// that blocks with heavy rows have fewer.
template <typename Optimizer, int kVec, int kPieces>
__device__ void update_light(const Optimizer& optimizer, const Groups& groups,
                             const typename Optimizer::scalar_t* grads, const Shape& shape) {
  using sum_t = typename Optimizer::sum_t;
  __shared__ LightMemory<sum_t> memory;
  const int n_taking = Optimizer::kWholeRow ? max(shape.lanes, 32) : kThreads;
  const bool is_wide = Optimizer::kWholeRow && shape.lanes > 32;  // a team, of several warps, is all that take a tile
  const uint32_t n_teams = n_taking / shape.lanes, n_segments = Optimizer::kWholeRow ? 1 : shape.n_segments;
  const uint32_t own_team = threadIdx.x % n_taking / shape.lanes, taker = threadIdx.x / n_taking;
  const uint32_t n_takers = gridDim.x * (kThreads / n_taking);
  const bool is_first = threadIdx.x % n_taking == 0;
  const int lane = static_cast<int>(threadIdx.x) & (shape.lanes - 1);
  const auto n_rows = static_cast<uint32_t>(groups.header->cursors.rows_and_places >> 32);
  if (n_rows == 0) {  // all are heavy
    return;
  }
  const auto listed_at = [&](uint32_t tile) {
    const uint32_t team = tile * n_teams + own_team, index = team / n_segments;
    LightRow listed = groups.light[min(index, n_rows - 1)];
    listed.segment = index < n_rows ? team - index * n_segments : kEmpty;  // past the end of the list
    return listed;
  };

  uint32_t tile = blockIdx.x + taker * gridDim.x, next = tile + n_takers;
  LightRow listed = listed_at(tile);
  const uint32_t n_tiles = (n_rows * n_segments + n_teams - 1) / n_teams;
  const Prepared prepared = groups.header->prepared;  // here, as no store of ours changes it
  for (int turn = 0; tile < n_tiles; turn ^= 1) {
    const LightRow listed_next = listed_at(next);
    uint32_t after_next = kEmpty;
    if (is_first && next < n_tiles) {
      after_next = 2 * n_takers + atomicAdd(&groups.header->cursors.n_taken, 1u);
    }
    if (listed.segment != kEmpty) {
      const int begin = static_cast<int>(listed.segment);
      const int end = Optimizer::kWholeRow ? shape.n_segments : begin + 1;
      const Row row{listed.id, listed.count & ~kBad, (listed.count & kBad) != 0};
      const auto find_places = [&](uint32_t(&places)[kLightPlaces]) {
        places[0] = listed.start;
        if (row.count > 1) {
#pragma unroll
          for (int k = 0; k < static_cast<int>(kLightPlaces); ++k) {
            places[k] = k < row.count ? groups.places[listed.start + k] : kAlone;
          }
          sort_places(places);
        }
      };
      const auto sum_over_team = [&](sum_t square) {
        if (!is_wide) {
          return sum_over_lanes(square, shape.lanes);
        }
        square = sum_over_lanes(square, 32);
        if (threadIdx.x % 32 == 0) {
          memory.squares[turn][threadIdx.x / 32] = square;
        }
        if (is_first) {
          memory.taken[turn][taker] = after_next;
        }
        wait_for_neighbours(n_taking);
        square = 0;
        for (int warp = 0; warp < n_taking / 32; ++warp) {
          square += memory.squares[turn][taker * (n_taking / 32) + warp];
        }
        return square;
      };
      update_light_row<Optimizer, kVec, kPieces, 0>(optimizer, prepared, row, grads, shape, lane, begin, end,
                                                    find_places, sum_over_team);
    }
    tile = next;
    if constexpr (Optimizer::kWholeRow) {
      next = is_wide ? memory.taken[turn][taker] : __shfl_sync(kAllLanes, after_next, 0);
    } else {
      if (is_first) {
        memory.taken[turn][0] = after_next;
      }
      __syncthreads();
      next = memory.taken[turn][0];
    }
    listed = listed_next;
  }
}

}  // namespace torchlayer
