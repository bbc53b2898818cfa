// The update of a row with few places by a few lanes, which sum its gradients in registers.
#pragma once

#include "row_groups.cuh"
#include "row_packs.cuh"

#include <cmath>
#include <cstdint>

namespace torchlayer {

// An optimiser is a struct that goes to the kernel by value, with
//   scalar_t, sum_t           of the weight, and of sums and states
//   kMinBlocks                of how many an SM's registers shall suffice, to keep enough loads in flight
//   kWholeRow                 whether an element's update depends on the whole row's gradient
//   struct Row<kN>            kN neighbouring elements of weight and states, and
//   read(row, at), write(row, at), to and from their offset `at` in the table
//   row_state(id)             what it keeps for a row, read early
//   row_rate(id, state, mean_square, is_writer, header)   for the whole row, called by all lanes of it
//   update(row, i, grad, rate, header constants)

struct Shape {
  int64_t width;
  int lanes, n_segments;              // for a light row: lanes that share it, pieces that each of them takes in turn
  int heavy_lanes, n_heavy_segments;  // for a heavy one
  uint32_t n_heavy_blocks;
};

// Adds `count` rows of gradients, in the order of `places`, to the elements from `column` on. Loads of two rows are in
// flight together with those of the weight and the states.
template <typename Optimizer, int kVec, int kPieces>
__device__ void add_light(typename Optimizer::sum_t (&sum)[kPieces][kVec],
                          const typename Optimizer::scalar_t* __restrict__ grads,
                          const uint32_t (&places)[kLightPlaces], uint32_t count, int64_t column, int64_t stride,
                          int64_t width) {
  using sum_t = typename Optimizer::sum_t;
  constexpr int kRows = 2;
#pragma unroll
  for (int k = 0; k < static_cast<int>(kLightPlaces); k += kRows) {
    if (k < count) {
      Pack<typename Optimizer::scalar_t, kVec> loaded[kRows][kPieces];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int u = 0; u < kPieces; ++u) {
          if (k + r < count && column + u * stride < width) {
            loaded[r][u] = read_pack<kVec, true>(grads + places[k + r] * width + column + u * stride);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int u = 0; u < kPieces; ++u) {
          if (k + r < count && column + u * stride < width) {
#pragma unroll
            for (int i = 0; i < kVec; ++i) {
              const auto more = static_cast<sum_t>(loaded[r][u].get(i));
              sum[u][i] = k + r == 0 ? more : sum[u][i] + more;
            }
          }
        }
      }
    }
  }
}

template <typename Optimizer, int kVec, int kPieces>
__device__ void update_light(const Optimizer& optimizer, const Groups& groups,
                             const typename Optimizer::scalar_t* __restrict__ grads, const Shape& shape) {
  using sum_t = typename Optimizer::sum_t;
  const int64_t thread = static_cast<int64_t>(blockIdx.x - shape.n_heavy_blocks) * kThreads + threadIdx.x;
  const int64_t team = thread / shape.lanes;
  const int lane = static_cast<int>(thread) & (shape.lanes - 1);
  const int64_t index = Optimizer::kWholeRow ? team : team / shape.n_segments;
  const int begin = Optimizer::kWholeRow ? 0 : static_cast<int>(team - index * shape.n_segments);
  const int end = Optimizer::kWholeRow ? shape.n_segments : begin + 1;
  if (index >= static_cast<int64_t>(groups.header->cursors.rows_and_places >> 32)) {
    return;
  }
  const LightRow row = groups.light[index];
  const Header& header = *groups.header;
  const uint32_t count = row.count & ~kBad;
  const int64_t stride = static_cast<int64_t>(shape.lanes) * kVec;  // from one piece of a lane to its next
  const auto column_of = [&](int segment) { return segment * stride * kPieces + lane * kVec; };
  const auto offset = static_cast<int64_t>(row.id) * shape.width;

  typename Optimizer::template Row<kVec> values[kPieces];
  const auto read_values = [&](int64_t column) {
#pragma unroll
    for (int u = 0; u < kPieces; ++u) {
      if (column + u * stride < shape.width) {
        optimizer.read(values[u], offset + column + u * stride);
      }
    }
  };
  read_values(column_of(begin));
  const sum_t state = optimizer.row_state(row.id);

  uint32_t places[kLightPlaces];
  places[0] = row.start;
  if (count > 1) {
#pragma unroll
    for (int k = 0; k < static_cast<int>(kLightPlaces); ++k) {
      places[k] = k < count ? groups.places[row.start + k] : kAlone;
    }
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

  sum_t sum[kPieces][kVec];
  const auto add = [&](int64_t column) {
    add_light<Optimizer, kVec, kPieces>(sum, grads, places, count, column, stride, shape.width);
    if (row.count & kBad) {
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
        if (column + u * stride < shape.width) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) {
            square += sum[u][i] * sum[u][i];
          }
        }
      }
    }
    // other rows' lanes in this warp may be elsewhere, or gone
    const unsigned mates = (shape.lanes == 32 ? kAllLanes : (1u << shape.lanes) - 1)
                           << (threadIdx.x % 32 & ~(shape.lanes - 1));
    for (int distance = shape.lanes / 2; distance > 0; distance /= 2) {
      square += __shfl_xor_sync(mates, square, distance);
    }
    __syncwarp(mates);  // all of them have read the state that one now writes
    row_rate = optimizer.row_rate(row.id, state, square / static_cast<sum_t>(shape.width), lane == 0, header);
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
      if (column + u * stride < shape.width) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          optimizer.update(values[u], i, sum[u][i], row_rate, header);
        }
        optimizer.write(values[u], offset + column + u * stride);
      }
    }
  }
}

}  // namespace torchlayer
