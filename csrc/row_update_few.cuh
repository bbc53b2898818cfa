// A whole step in one kernel, where ids are few: waits, rather than bytes, are what it costs.
//
// Each block looks through all ids for those that its own places name. That is work for the square of their number, but
// the first answer is there after one trip to memory, while the rows are on their way.
#pragma once

#include "row_update_heavy.cuh"
#include "row_update_light.cuh"

namespace torchlayer {

constexpr int64_t kFewIds = 4096;
constexpr uint32_t kOwnPlaces = kThreads / 32;  // of a block: one a warp
constexpr uint32_t kLook = 128;                 // ids that a warp compares at once
static_assert(kFewIds <= 1 << 16, "places are kept in sixteen bits");

// A row that one of the block's places names, and no place before; `start` says where in `places` its own begin.
struct OwnRow {
  Row row;
  uint32_t start;
};

template <typename sum_t, int kVec>
struct FewMemory {
  alignas(16) uint32_t ids[kFewIds];
  uint16_t places[kFewIds];
  sum_t sums[kThreads * kVec];
  sum_t squares[kThreads / 32];
  OwnRow own[kOwnPlaces];
  uint32_t n_own, n_places;
};

// Which ids lay outside the table. They stand for the first row or the last, so that two bits are all it takes.
struct BadIds {
  bool low, high;
};

// Brings all ids into shared memory, those out of the table moved into it. Ends with a barrier.
__device__ inline BadIds read_ids(const RowIds& given, uint32_t* to, uint32_t n_padded) {
  constexpr int kAtOnce = 4;
  bool is_low = false, is_high = false;
  for (uint32_t begin = threadIdx.x; begin < n_padded; begin += kAtOnce * kThreads) {
    int64_t wide[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const uint32_t i = begin + k * kThreads;
      wide[k] = i < given.n ? given.ids[i * given.stride] : 0;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const uint32_t i = begin + k * kThreads;
      if (wide[k] < 0 || wide[k] >= given.n_rows) {
        is_low |= wide[k] < 0;
        is_high |= wide[k] >= 0;
        if (i % gridDim.x == blockIdx.x) {
          given.reporter.report(IdArgument::kRows, i, wide[k], given.n_rows);
        }
        wide[k] = wide[k] < 0 ? 0 : given.n_rows - 1;
      }
      if (i < n_padded) {
        to[i] = i < given.n ? static_cast<uint32_t>(wide[k]) : kEmpty;
      }
    }
  }
  BadIds bad{false, false};
  if (__syncthreads_or(is_low || is_high)) {
    bad.low = __syncthreads_or(is_low);
    bad.high = __syncthreads_or(is_high);
  }
  return bad;
}

// Bit q says whether the lane's q-th of the ids from `base` on is `id`; a lane has four neighbouring ones.
__device__ inline uint32_t look(const uint32_t* ids, uint32_t base, uint32_t id) {
  const uint4 four = reinterpret_cast<const uint4*>(ids + base)[threadIdx.x % 32];
  return (four.x == id ? 1u : 0u) | (four.y == id ? 2u : 0u) | (four.z == id ? 4u : 0u) | (four.w == id ? 8u : 0u);
}

// How many places name `id`, or 0 if one of them comes before `place`. For a warp.
__device__ inline uint32_t count_places(const uint32_t* ids, uint32_t n_padded, uint32_t place, uint32_t id) {
  uint32_t count = 0;
#pragma unroll 4
  for (uint32_t base = 0; base < n_padded; base += kLook) {
    const uint32_t equal = look(ids, base, id);
    if (__any_sync(kAllLanes, equal != 0)) {
      const uint32_t mine = base + threadIdx.x % 32 * 4;
      const uint32_t until = place <= mine ? 0 : min(place - mine, 4u);
      if (__any_sync(kAllLanes, (equal & ((1u << until) - 1)) != 0)) {
        return 0;
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        count += __popc(__ballot_sync(kAllLanes, equal >> q & 1));
      }
    }
  }
  return count;
}

// Those places, in their order. For a warp.
__device__ inline void list_places(const uint32_t* ids, uint32_t n_padded, uint32_t id, uint16_t* to) {
  const unsigned lower = (1u << threadIdx.x % 32) - 1;
  for (uint32_t base = 0; base < n_padded; base += kLook) {
    const uint32_t equal = look(ids, base, id);
    if (__any_sync(kAllLanes, equal != 0)) {
      uint32_t before = 0, total = 0;
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const unsigned lanes = __ballot_sync(kAllLanes, equal >> q & 1);
        before += __popc(lanes & lower);
        total += __popc(lanes);
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        if (equal >> q & 1) {
          to[before++] = static_cast<uint16_t>(base + threadIdx.x % 32 * 4 + q);
        }
      }
      to += total;
    }
  }
}

// Finds the row of a warp's own place, its gradient and itself already called for.
template <typename Optimizer, typename Memory>
__device__ void find_own_row(Memory& memory, const Optimizer& optimizer, const typename Optimizer::scalar_t* grads,
                             uint32_t n_padded, uint32_t place, const BadIds& bad, int64_t n_rows, int64_t width) {
  using scalar_t = typename Optimizer::scalar_t;
  constexpr int kEach = kLine / sizeof(typename Optimizer::sum_t);
  const uint32_t id = memory.ids[place], lane = threadIdx.x % 32;
  for (int64_t column = lane * kEach; column < width; column += 32 * kEach) {
    if (column % (kLine / sizeof(scalar_t)) == 0) {
      prefetch(grads + place * width + column);
    }
    optimizer.prefetch(id * width + column);
  }
  const uint32_t count = count_places(memory.ids, n_padded, place, id);
  if (count == 0) {
    return;
  }
  uint32_t start = 0;
  if (lane == 0) {
    start = atomicAdd(&memory.n_places, count);
    OwnRow& own = memory.own[atomicAdd(&memory.n_own, 1u)];
    own.row.id = id;
    own.row.count = count;
    own.row.is_bad = (bad.low && id == 0) || (bad.high && id == n_rows - 1);
    own.start = start;
  }
  start = __shfl_sync(kAllLanes, start, 0);
  if (count == 1) {
    memory.places[start] = static_cast<uint16_t>(place);
  } else {
    list_places(memory.ids, n_padded, id, memory.places + start);
  }
}

// A block has a place a warp, those of neighbours spread over all blocks, as the rows with most places are named early.
// It updates the rows that these name before all others do: heavy ones with all its threads, then a light one, or a
// segment of one, a warp. Must move: every gradient once, every distinct row of weight and states in and out, and all
// ids once a block.
template <typename Optimizer, int kVec, int kPieces>
__global__ void __launch_bounds__(kThreads, kFewBlocks<Optimizer>)
    update_few_rows(const Optimizer optimizer, const RowIds given, const Rate rate, const Prepared* counted,
                    const typename Optimizer::scalar_t* grads, const Shape shape) {
  using sum_t = typename Optimizer::sum_t;
  __shared__ FewMemory<sum_t, kVec> memory;
  if (rate.step == nullptr) {  // otherwise the kernel before is the one that counts, which has waited for the others
    wait_for_earlier_kernels();
  }
  Prepared prepared = uncounted_rate(rate);
  if (threadIdx.x == 0) {
    memory.n_own = memory.n_places = 0;
  }
  const uint32_t n_padded = (given.n + kLook - 1) / kLook * kLook;
  const BadIds bad = read_ids(given, memory.ids, n_padded);
  const uint32_t place = blockIdx.x + threadIdx.x / 32 * gridDim.x;
  if (place < given.n) {
    find_own_row(memory, optimizer, grads, n_padded, place, bad, given.n_rows, shape.width);
  }
  if (rate.step != nullptr) {
    wait_for_earlier_kernels();
    prepared = *counted;
  }
  __syncthreads();

  for (uint32_t r = 0; r < memory.n_own; ++r) {
    if (memory.own[r].row.count > kLightPlaces) {
      update_by_block<Optimizer, kVec, kRowsAtOnce<Optimizer, kFewBlocks<Optimizer>>>(
          memory, optimizer, prepared, memory.own[r].row, memory.places + memory.own[r].start, grads, shape, 0,
          shape.n_heavy_segments);
    }
  }
  const int n_segments = Optimizer::kWholeRow ? 1 : shape.n_segments;
  const int n_items = static_cast<int>(memory.n_own) * n_segments;
  for (int item = static_cast<int>(threadIdx.x) / 32; item < n_items; item += kThreads / 32) {
    const OwnRow own = memory.own[item / n_segments];
    const int begin = item % n_segments, end = Optimizer::kWholeRow ? shape.n_segments : begin + 1;
    if (own.row.count <= kLightPlaces) {
      const auto find_places = [&](uint32_t(&places)[kLightPlaces]) {
#pragma unroll
        for (int k = 0; k < static_cast<int>(kLightPlaces); ++k) {
          places[k] = k < own.row.count ? memory.places[own.start + k] : kAlone;
        }
      };
      update_light_row<Optimizer, kVec, kPieces, 32>(optimizer, prepared, own.row, grads, shape,
                                                     static_cast<int>(threadIdx.x) % 32, begin, end, find_places,
                                                     [](sum_t square) { return sum_over_lanes(square, 32); });
    }
  }
}

}  // namespace torchlayer
