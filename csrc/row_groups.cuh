// Which places of `ids` name the same row: a hash table, of whose races no trace is left in the result.
//
// Rows come out in any order, and a row's places too; whoever adds up its gradients sorts its places first. That is
// cheap, as most rows have one place. Rows of many places are cut into parts for several blocks.
#pragma once

#include "bad_ids.cuh"
#include "row_rate.cuh"

#include <algorithm>
#include <cstdint>

namespace torchlayer {

constexpr int kThreads = 256;
constexpr uint32_t kLightPlaces = 8;   // rows with up to so many places are left to few lanes, which sort in registers
constexpr uint32_t kSortable = 64;     // up to here one block takes a row, and sorts by comparing all pairs
constexpr uint32_t kPartPlaces = 64;   // in a part of a row with more places, on average
constexpr uint32_t kMaxParts = 64;
constexpr uint32_t kEmpty = 0xffffffffu;  // no id: V stays below it
constexpr uint32_t kAlone = 0xffffffffu;  // no start: M stays below it
constexpr uint32_t kBad = 0x80000000u;    // beside a count: one of these ids lay outside the table
constexpr unsigned kAllLanes = 0xffffffffu;

// `value` counts an id's places; then it says where in `places` they start.
struct Slot {
  uint32_t id, value;
};
constexpr unsigned long long kEmptySlot = kEmpty;  // in memory: the id, then a count of 0

// A row with few places; `start` is the place itself if there is but one. `segment` is for whoever takes one of it.
struct alignas(16) LightRow {
  uint32_t id, start, count, segment;
};

struct alignas(32) HeavyRow {
  uint32_t id, start, count, n_parts, first_part, n_arrived, unused[2];
};

struct alignas(8) Part {
  uint32_t row, index;  // of HeavyRow, and which part of it
};

struct Cursors {
  unsigned long long rows_and_places;  // light rows above, entries of `places` below: one addition moves both
  uint32_t n_heavy, n_parts;
  uint32_t n_taken;  // of the tiles of light rows that blocks take as they come
};

struct Header {
  Cursors cursors;
  Prepared prepared;
};

struct RowIds {
  const int64_t* ids;
  int64_t stride, n_rows;
  uint32_t n;
  IdReporter reporter;
};

struct Groups {
  Header* header;
  Slot* slots;
  uint2* slot_and_rank;  // of each place
  uint32_t* places;      // of each row with several, side by side
  LightRow* light;
  HeavyRow* heavy;
  Part* parts;
  RowIds given;
  uint32_t n_slots;
};

__device__ inline uint32_t mix_id(uint32_t id) {
  const uint32_t mixed = id * 0x9e3779b1u;
  return (mixed ^ (mixed >> 15)) * 0x85ebca77u;
}

// What a row with so many places adds to `rows_and_places`; of 0, it is none.
__device__ inline unsigned long long wanted_by(uint32_t count) {
  return (count > 0 && count <= kLightPlaces ? 1ull << 32 : 0ull) |
         (count > 1 ? static_cast<unsigned long long>(count) : 0ull);
}

// Lists a row, its number and the start of its places in `at`, as long as the slot's value is the count of its places.
__device__ inline void list_row(const Groups& groups, const Slot& slot, unsigned long long at, uint32_t place,
                                Cursors* cursors) {
  const uint32_t count = slot.value & ~kBad;
  const auto start = static_cast<uint32_t>(at);
  if (count <= kLightPlaces) {
    groups.light[at >> 32] = {slot.id, count > 1 ? start : place, slot.value, 0};
    return;
  }
  const uint32_t n_parts = count <= kSortable ? 1 : min((count + kPartPlaces - 1) / kPartPlaces, kMaxParts);
  const uint32_t heavy = atomicAdd(&cursors->n_heavy, 1u);
  const uint32_t first_part = atomicAdd(&cursors->n_parts, n_parts);
  groups.heavy[heavy] = {slot.id, start, slot.value, n_parts, first_part, 0, {0, 0}};
  for (uint32_t part = 0; part < n_parts; ++part) {
    groups.parts[first_part + part] = {heavy, part};
  }
}

// Each of the following four walks over all places, or slots, in tiles of all threads of `n_blocks` blocks.

__device__ inline void clear_slots(const Groups& groups, Slot* slots, Cursors* cursors, uint32_t n_blocks) {
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    *cursors = {};
  }
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < groups.n_slots; i += n_blocks * blockDim.x) {
    reinterpret_cast<unsigned long long*>(slots)[i] = kEmptySlot;
  }
}

__device__ inline void count_ids(const Groups& groups, Slot* slots, uint32_t n_blocks) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t tile = blockIdx.x * blockDim.x; tile < groups.given.n; tile += n_blocks * blockDim.x) {
    const uint32_t i = tile + threadIdx.x;
    const bool is_place = i < groups.given.n;
    uint32_t slot = kEmpty;
    bool is_bad = false;
    if (is_place) {
      int64_t wide = groups.given.ids[i * groups.given.stride];
      is_bad = wide < 0 || wide >= groups.given.n_rows;
      if (is_bad) {
        groups.given.reporter.report(IdArgument::kRows, i, wide, groups.given.n_rows);
      }
      wide = wide < 0 ? 0 : wide >= groups.given.n_rows ? groups.given.n_rows - 1 : wide;
      const auto id = static_cast<uint32_t>(wide);
      slot = __umulhi(mix_id(id), groups.n_slots);
      while (true) {
        uint32_t seen = *static_cast<volatile uint32_t*>(&slots[slot].id);
        if (seen == kEmpty) {  // an old look, perhaps: the exchange tells
          seen = atomicCAS(&slots[slot].id, kEmpty, id);
        }
        if (seen == kEmpty || seen == id) {
          break;
        }
        slot = slot + 1 == groups.n_slots ? 0 : slot + 1;
      }
    }
    // one addition for all lanes with the same id: otherwise they would queue up at one address
    const unsigned same = __match_any_sync(kAllLanes, slot);
    const int first = __ffs(static_cast<int>(same)) - 1;
    uint32_t rank = 0;
    if (is_place && lane == static_cast<uint32_t>(first)) {
      rank = atomicAdd(&slots[slot].value, static_cast<uint32_t>(__popc(same))) & ~kBad;
    }
    rank = __shfl_sync(kAllLanes, rank, first) + __popc(same & ((1u << lane) - 1));
    if (is_place) {
      if (is_bad) {
        atomicOr(&slots[slot].value, kBad);
      }
      groups.slot_and_rank[i] = make_uint2(slot, rank);
    }
  }
}

__device__ inline void list_rows(const Groups& groups, Slot* slots, Cursors* cursors, uint32_t n_blocks) {
  __shared__ unsigned long long warp_totals[32];
  __shared__ unsigned long long block_start;
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
  for (uint32_t tile = blockIdx.x * blockDim.x; tile < groups.given.n; tile += n_blocks * blockDim.x) {
    const uint32_t i = tile + threadIdx.x;
    const uint2 mine = i < groups.given.n ? groups.slot_and_rank[i] : make_uint2(0, 1);
    const bool is_first = mine.y == 0;
    const Slot slot = is_first ? slots[mine.x] : Slot{0, 0};
    const uint32_t count = slot.value & ~kBad;
    const unsigned long long wanted = wanted_by(count);
    unsigned long long until = wanted;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const unsigned long long below = __shfl_up_sync(kAllLanes, until, distance);
      until += lane >= static_cast<uint32_t>(distance) ? below : 0;
    }
    if (lane == 31) {
      warp_totals[warp] = until;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned long long total = 0;
      for (uint32_t other = 0; other < n_warps; ++other) {
        const unsigned long long its = warp_totals[other];
        warp_totals[other] = total;
        total += its;
      }
      block_start = atomicAdd(&cursors->rows_and_places, total);
    }
    __syncthreads();
    const unsigned long long at = block_start + warp_totals[warp] + until - wanted;
    __syncthreads();  // before the next tile writes there
    if (is_first) {
      slots[mine.x].value = count > 1 ? static_cast<uint32_t>(at) : kAlone;
      list_row(groups, slot, at, i, cursors);
    }
  }
}

__device__ inline void collect_places(const Groups& groups, const Slot* slots, uint32_t n_blocks) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < groups.given.n; i += n_blocks * blockDim.x) {
    const uint2 mine = groups.slot_and_rank[i];
    const uint32_t start = slots[mine.x].value;
    if (start != kAlone) {
      groups.places[start + mine.y] = i;
    }
  }
}

// A place or a slot a thread. Each moves some 8 to 24 bytes an id, which stay in the cache.
static __global__ void __launch_bounds__(kThreads) clear_all_slots(const Groups groups) {
  admit_next_kernel();
  wait_for_earlier_kernels();
  clear_slots(groups, groups.slots, &groups.header->cursors, gridDim.x);
}

static __global__ void __launch_bounds__(kThreads) count_all_ids(const Groups groups, const Rate rate) {
  admit_next_kernel();
  wait_for_earlier_kernels();
  if (blockIdx.x == gridDim.x - 1) {
    if (threadIdx.x == 0) {
      groups.header->prepared = prepare_rate(rate);
    }
    return;
  }
  count_ids(groups, groups.slots, gridDim.x - 1);
}

static __global__ void __launch_bounds__(kThreads) list_all_rows(const Groups groups) {
  admit_next_kernel();
  wait_for_earlier_kernels();
  list_rows(groups, groups.slots, &groups.header->cursors, gridDim.x);
}

static __global__ void __launch_bounds__(kThreads) collect_all_places(const Groups groups) {
  admit_next_kernel();
  wait_for_earlier_kernels();
  collect_places(groups, groups.slots, gridDim.x);
}

inline void group_rows(const char* op, const torch::stable::Tensor& where, const Groups& groups, const Rate& rate) {
  const uint32_t n_blocks = (groups.given.n + kThreads - 1) / kThreads;
  launch_early(op, where, clear_all_slots, dim3(n_blocks), dim3(kThreads), 0, groups);
  launch_early(op, where, count_all_ids, dim3(n_blocks + 1), dim3(kThreads), 0, groups, rate);
  launch_early(op, where, list_all_rows, dim3(n_blocks), dim3(kThreads), 0, groups);
  launch_early(op, where, collect_all_places, dim3(n_blocks), dim3(kThreads), 0, groups);
}

}  // namespace torchlayer
