// The update of a row with many places by whole blocks: by one, or by several, of which each sums a part of the row's
// gradients and the last to end adds the parts.
#pragma once

#include "row_update_light.cuh"

namespace torchlayer {

constexpr int kBitWords = 2048;
constexpr uint32_t kWindow = kBitWords * 32;  // places that one bitmap sorts

template <typename sum_t, int kVec>
struct HeavyMemory {
  union {
    uint32_t bits[kBitWords];
    sum_t sums[kThreads * kVec];
    uint32_t unsorted[kSortable];
  };
  uint32_t sorted[kThreads];
  uint32_t warp_totals[kThreads / 32];
  sum_t squares[kThreads / 32];
  bool is_last;
};

// How many rows of gradients a thread has on their way, where an SM has so many blocks. Whole rows have no states
// that would take registers beside them.
template <typename Optimizer, int kN>
constexpr int kRowsAtOnce = kN > (Optimizer::kWholeRow ? 3 : 2) ? 4 : 8;

// Adds the rows of gradients at `sorted`: team t of the block takes the t-th, the one after as many as there are teams,
// and so on, with kRows loads in flight.
template <typename Optimizer, int kVec, int kRows, typename place_t>
__device__ void add_heavy(typename Optimizer::sum_t (&sum)[kVec], const typename Optimizer::scalar_t* grads,
                          const place_t* sorted, uint32_t count, int64_t column, const Shape& shape) {
  using sum_t = typename Optimizer::sum_t;
  if (column >= shape.width) {
    return;
  }
  const uint32_t n_teams = kThreads / shape.heavy_lanes;
  for (uint32_t k = threadIdx.x / shape.heavy_lanes; k < count; k += n_teams * kRows) {
    Pack<typename Optimizer::scalar_t, kVec> loaded[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (k + r * n_teams < count) {
        loaded[r] = read_pack<kVec, true>(grads + sorted[k + r * n_teams] * shape.width + column);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (k + r * n_teams < count) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          sum[i] += static_cast<sum_t>(loaded[r].get(i));
        }
      }
    }
  }
}

// The sum over the block, for all its threads, which meet here; `of_warps` may be used again after the next barrier.
template <typename sum_t>
__device__ sum_t sum_over_block(sum_t value, sum_t (&of_warps)[kThreads / 32]) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  if (threadIdx.x % 32 == 0) {
    of_warps[threadIdx.x / 32] = value;
  }
  __syncthreads();
  value = 0;
  for (int warp = 0; warp < kThreads / 32; ++warp) {
    value += of_warps[warp];
  }
  return value;
}

// Updates segments `begin` to `end` of a row with many places, sorted, by the whole block: a team of threads takes one
// gradient, other teams the next.
template <typename Optimizer, int kVec, int kRows, typename Memory, typename place_t>
__device__ void update_by_block(Memory& memory, const Optimizer& optimizer, const Prepared& prepared, const Row& row,
                                const place_t* places, const typename Optimizer::scalar_t* grads, const Shape& shape,
                                int begin, int end) {
  using sum_t = typename Optimizer::sum_t;
  const int lane = static_cast<int>(threadIdx.x) & (shape.heavy_lanes - 1);
  const bool is_first_team = threadIdx.x < shape.heavy_lanes;
  const auto offset = static_cast<int64_t>(row.id) * shape.width;
  const auto column_of = [&](int segment) {
    return (static_cast<int64_t>(segment) * shape.heavy_lanes + lane) * kVec;
  };
  sum_t sum[kVec];
  const auto add = [&](int64_t column) {  // into the first team's `sum`
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      sum[i] = 0;
    }
    add_heavy<Optimizer, kVec, kRows>(sum, grads, places, row.count, column, shape);
    if (shape.heavy_lanes < kThreads) {
      __syncthreads();  // the sums before have been read
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        memory.sums[threadIdx.x * kVec + i] = sum[i];
      }
      __syncthreads();
      if (is_first_team) {
        for (int team = 1; team < kThreads / shape.heavy_lanes; ++team) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) {
            sum[i] += memory.sums[(team * shape.heavy_lanes + lane) * kVec + i];
          }
        }
      }
    }
    if (row.is_bad) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        sum[i] = static_cast<sum_t>(NAN);
      }
    }
  };

  sum_t row_rate = 0;
  if constexpr (Optimizer::kWholeRow) {
    const sum_t state = optimizer.row_state(row.id);
    sum_t square = 0;
    for (int segment = 0; segment < shape.n_heavy_segments; ++segment) {
      const int64_t column = column_of(segment);
      add(column);
      if (is_first_team && column < shape.width) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          square += sum[i] * sum[i];
        }
      }
    }
    square = sum_over_block(square, memory.squares);  // and every thread has read the old state
    const sum_t mean_square = square / static_cast<sum_t>(shape.width);
    row_rate = optimizer.row_rate(row.id, state, mean_square, threadIdx.x == 0, prepared);
  }
  for (int segment = begin; segment < end; ++segment) {
    const int64_t column = column_of(segment);
    const bool is_mine = is_first_team && column < shape.width;
    typename Optimizer::template Row<kVec> values;
    if (is_mine) {
      optimizer.read(values, offset + column);
    }
    if (!Optimizer::kWholeRow || shape.n_heavy_segments > 1) {
      add(column);  // for a whole row, if it is wider than the block, a second time
    }
    if (is_mine) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        optimizer.update(values, i, sum[i], row_rate, prepared);
      }
      optimizer.write(values, offset + column);
    }
  }
  __syncthreads();  // the memory is free for the next row
}

// Adds one part of a row with many places. A part is a range of places, of one width for all parts of a row; within it
// they are sorted as bits of a map, one window after the other.
template <typename Optimizer, int kVec>
__device__ void add_part(HeavyMemory<typename Optimizer::sum_t, kVec>& memory, typename Optimizer::sum_t (&sum)[kVec],
                         const typename Optimizer::scalar_t* grads, const Groups& groups,
                         const HeavyRow& row, uint32_t part, int64_t column, const Shape& shape) {
  constexpr int kRows = kRowsAtOnce<Optimizer, kBlocks<Optimizer>>;
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t count = row.count & ~kBad;
  const uint32_t* places = groups.places + row.start;
  const uint32_t range = (groups.given.n + row.n_parts - 1) / row.n_parts;
  const uint32_t end = min(groups.given.n, (part + 1) * range);
  for (uint32_t begin = part * range; begin < end; begin += kWindow) {
    const uint32_t size = min(kWindow, end - begin);
    const uint32_t words_each = ((size + 31) / 32 + kThreads - 1) / kThreads;
    for (uint32_t word = thread; word < words_each * kThreads; word += kThreads) {
      memory.bits[word] = 0;
    }
    __syncthreads();
    for (uint32_t k = thread; k < count; k += kThreads) {
      const uint32_t bit = places[k] - begin;  // below `begin` it wraps around, and is too large as well
      if (bit < size) {
        atomicOr(&memory.bits[bit / 32], 1u << bit % 32);
      }
    }
    __syncthreads();
    uint32_t mine = 0;
    for (uint32_t word = 0; word < words_each; ++word) {
      mine += __popc(memory.bits[thread * words_each + word]);
    }
    uint32_t until = mine;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint32_t below = __shfl_up_sync(kAllLanes, until, distance);
      until += lane >= static_cast<uint32_t>(distance) ? below : 0;
    }
    if (lane == 31) {
      memory.warp_totals[warp] = until;
    }
    __syncthreads();
    uint32_t before = until - mine, total = 0;
    for (uint32_t other = 0; other < kThreads / 32; ++other) {
      before += other < warp ? memory.warp_totals[other] : 0;
      total += memory.warp_totals[other];
    }
    for (uint32_t batch = 0; batch < total; batch += kThreads) {
      uint32_t rank = before;
      for (uint32_t word = 0; word < words_each && rank < batch + kThreads; ++word) {
        for (uint32_t rest = memory.bits[thread * words_each + word]; rest != 0; rest &= rest - 1, ++rank) {
          if (rank >= batch && rank < batch + kThreads) {
            memory.sorted[rank - batch] = begin + (thread * words_each + word) * 32 + __ffs(static_cast<int>(rest)) - 1;
          }
        }
      }
      __syncthreads();
      add_heavy<Optimizer, kVec, kRows>(sum, grads, memory.sorted, min(total - batch, uint32_t{kThreads}), column,
                                        shape);
      __syncthreads();
    }
    __syncthreads();  // `warp_totals` and `bits` have been read by all
  }
}

// Brings the places of a row that is one part into `memory.sorted`, in their order. Ends with a barrier.
template <typename Memory>
__device__ void sort_by_pairs(Memory& memory, const uint32_t* places, uint32_t count) {
  const uint32_t mine = threadIdx.x < count ? places[threadIdx.x] : kAlone;
  if (threadIdx.x < count) {
    memory.unsorted[threadIdx.x] = mine;
  }
  __syncthreads();
  if (threadIdx.x < count) {
    uint32_t rank = 0;
    for (uint32_t k = 0; k < count; ++k) {
      rank += memory.unsorted[k] < mine;
    }
    memory.sorted[rank] = mine;
  }
  __syncthreads();
}

// Ends a row whose parts have all been added: their sums in the parts' order, then the update.
template <typename Optimizer, int kVec>
__device__ void finish_heavy(HeavyMemory<typename Optimizer::sum_t, kVec>& memory, const Optimizer& optimizer,
                             const Prepared& prepared, const HeavyRow& row, const typename Optimizer::sum_t* partials,
                             int64_t width) {
  using sum_t = typename Optimizer::sum_t;
  const int64_t first = static_cast<int64_t>(threadIdx.x) * kVec;
  const auto whole = [&](int64_t column, sum_t(&sum)[kVec]) {
    const sum_t* from = partials + row.first_part * width + column;
#pragma unroll 4
    for (uint32_t part = 0; part < row.n_parts; ++part) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const sum_t more = __ldcg(from + part * width + i);
        sum[i] = part == 0 ? more : sum[i] + more;
      }
    }
    if (row.count & kBad) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        sum[i] = static_cast<sum_t>(NAN);
      }
    }
  };
  sum_t sum[kVec];
  sum_t row_rate = 0;
  if constexpr (Optimizer::kWholeRow) {
    const sum_t state = optimizer.row_state(row.id);
    sum_t square = 0;
    for (int64_t column = first; column < width; column += kThreads * kVec) {
      whole(column, sum);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        square += sum[i] * sum[i];
      }
    }
    square = sum_over_block(square, memory.squares);  // and every thread has read the old state
    row_rate = optimizer.row_rate(row.id, state, square / static_cast<sum_t>(width), threadIdx.x == 0, prepared);
  }
  for (int64_t column = first; column < width; column += kThreads * kVec) {
    typename Optimizer::template Row<kVec> values;
    optimizer.read(values, static_cast<int64_t>(row.id) * width + column);
    whole(column, sum);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      optimizer.update(values, i, sum[i], row_rate, prepared);
    }
    optimizer.write(values, static_cast<int64_t>(row.id) * width + column);
  }
}

// Blocks take heavy items, each a part of a row's places and a segment of its columns, in turns. If there are several
// parts, the last to arrive at a row ends it.
template <typename Optimizer, int kVec>
__device__ void update_heavy(const Optimizer& optimizer, const Groups& groups,
                             const typename Optimizer::scalar_t* grads,
                             typename Optimizer::sum_t* partials, const Shape& shape) {
  using sum_t = typename Optimizer::sum_t;
  __shared__ HeavyMemory<sum_t, kVec> memory;
  const int64_t n_items = static_cast<int64_t>(groups.header->cursors.n_parts) * shape.n_heavy_segments;
  const int segment_width = shape.heavy_lanes * kVec;
  for (int64_t item = blockIdx.x; item < n_items; item += shape.n_heavy_blocks) {
    const int64_t which = item / shape.n_heavy_segments;
    const int64_t segment_start = (item - which * shape.n_heavy_segments) * segment_width;
    const Part part = groups.parts[which];
    const HeavyRow row = groups.heavy[part.row];
    if (row.n_parts == 1) {
      const int segment = static_cast<int>(item - which * shape.n_heavy_segments);
      if (!Optimizer::kWholeRow || segment == 0) {
        const Row whole{row.id, row.count & ~kBad, (row.count & kBad) != 0};
        sort_by_pairs(memory, groups.places + row.start, whole.count);
        update_by_block<Optimizer, kVec, kRowsAtOnce<Optimizer, kBlocks<Optimizer>>>(
            memory, optimizer, groups.header->prepared, whole, memory.sorted, grads, shape, segment,
            Optimizer::kWholeRow ? shape.n_heavy_segments : segment + 1);
      }
      continue;
    }
    sum_t sum[kVec] = {};
    const int64_t column = segment_start + static_cast<int64_t>(threadIdx.x % shape.heavy_lanes) * kVec;
    add_part<Optimizer, kVec>(memory, sum, grads, groups, row, part.index, column, shape);
    __syncthreads();  // bits and sums share their memory
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      memory.sums[threadIdx.x * kVec + i] = sum[i];
    }
    __syncthreads();
    for (int e = threadIdx.x; e < segment_width; e += kThreads) {
      if (segment_start + e < shape.width) {
        sum_t total = memory.sums[e];
        for (int team = 1; team < kThreads / shape.heavy_lanes; ++team) {
          total += memory.sums[team * segment_width + e];
        }
        partials[which * shape.width + segment_start + e] = total;
      }
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      const uint32_t n_all = row.n_parts * shape.n_heavy_segments;
      memory.is_last = atomicAdd(&groups.heavy[part.row].n_arrived, 1u) == n_all - 1;
    }
    __syncthreads();
    if (memory.is_last) {
      __threadfence();
      finish_heavy<Optimizer, kVec>(memory, optimizer, groups.header->prepared, row, partials, shape.width);
    }
    __syncthreads();  // the memory is free for the next item
  }
}

}  // namespace torchlayer
