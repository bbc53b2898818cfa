// A first round of many draws, by all blocks: drawn, offered to a table in global memory, and what is new put in order.
#pragma once

#include "candidate_items.cuh"

namespace torchlayer {
namespace candidates {

// The memory of a first round too long for one block.
struct Round {
  int64_t n_draws;
  Table table;
  int64_t* drawn;    // (n_draws,)
  uint32_t* slot;    // (n_draws,)
  uint32_t* is_new;  // a bit a draw, whole tiles
  uint32_t* n_new;   // of each tile
  int64_t* n_found;
};

// One thread a draw; all of them clear the table. Must move: 8 bytes a draw and 8 a slot; Philox and the exponential
// are some 40 integer products and 60 dependent double operations.
template <typename Classes>
__global__ void __launch_bounds__(kThreads)
    draw_round(const Classes classes, const int64_t* seed, const Round round) {
  wait_for_earlier_kernels();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t at = i; at < int64_t{1} << round.table.bits; at += static_cast<int64_t>(gridDim.x) * kThreads) {
    round.table.slots[at] = kEmpty;
  }
  extern __shared__ Word prepared[];
  const int64_t key[2] = {seed[0], seed[1]};
  Picker<Classes, kThreads> picker(classes, prepared);
  const Uniforms u = uniforms(key, i);  // while the picker's memory is under way
  if constexpr (picker.kPrepares) {
    picker.prepare();
    __syncthreads();
  }
  if (i < round.n_draws) {
    round.drawn[i] = picker.pick(u).id;
  }
}

// One thread a draw. Must move: 12 bytes a draw, and an atomic operation or two in the L2 cache.
static __global__ void __launch_bounds__(kThreads) insert_round(const Round round) {
  wait_for_earlier_kernels();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < round.n_draws) {
    round.slot[i] = round.table.insert(Table::word_of(round.drawn[i], i + 1));
  }
}

// One thread a draw, one block a tile: which draws are new, and how many. Must move: 20 bytes a draw.
static __global__ void __launch_bounds__(kTile) find_new(const Round round) {
  wait_for_earlier_kernels();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kTile + threadIdx.x;
  bool is_new = false;
  if (i < round.n_draws) {
    is_new = round.table.slots[round.slot[i]] == Table::word_of(round.drawn[i], i + 1);
  }
  const unsigned ballot = __ballot_sync(kAllLanes, is_new);
  if (threadIdx.x % kLanes == 0) {
    round.is_new[i / kLanes] = ballot;
  }
  const int n_new = __syncthreads_count(is_new);
  if (threadIdx.x == 0) {
    round.n_new[blockIdx.x] = static_cast<uint32_t>(n_new);
  }
}

// The sum over a block of whole warps, for all its threads; `shared` holds kLanes of them and may be used again after
// the next barrier.
__device__ inline uint32_t sum_over_block(uint32_t value, uint32_t* shared) {
  const unsigned lane = threadIdx.x % kLanes;
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  if (lane == 0) {
    shared[threadIdx.x / kLanes] = value;
  }
  __syncthreads();
  value = lane < blockDim.x / kLanes ? shared[lane] : 0;
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// One thread a draw, one block a tile: new draws go to the place their rank says, and their slots are marked as an
// earlier round's, for the search that may follow. A block adds up the counts of the tiles before it: 16384 at most.
// Must move: 20 bytes a new draw and the bits.
static __global__ void __launch_bounds__(kTile) emit_new(const Round round, const Request request) {
  wait_for_earlier_kernels();
  __shared__ uint32_t partial[kLanes];
  uint32_t before = 0;
  for (unsigned tile = threadIdx.x; tile < blockIdx.x; tile += kTile) {
    before += round.n_new[tile];
  }
  const unsigned lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const uint32_t bits_of_lane = round.is_new[static_cast<int64_t>(blockIdx.x) * kLanes + lane];
  int64_t rank = sum_over_block(before, partial);
  const int64_t until = rank + round.n_new[blockIdx.x];
  uint32_t in_tile = lane < warp ? __popc(bits_of_lane) : 0;  // word `lane` of the tile holds the draws of warp `lane`
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    in_tile += __shfl_xor_sync(kAllLanes, in_tile, distance);
  }
  const uint32_t mine = __shfl_sync(kAllLanes, bits_of_lane, static_cast<int>(warp));
  if (mine >> lane & 1) {
    rank += in_tile + __popc(mine & ((1u << lane) - 1));
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kTile + threadIdx.x, id = round.drawn[i];
    round.table.slots[round.slot[i]] = Table::word_of(id, 0);
    if (rank < request.n_sampled) {
      request.sampled[rank] = id;
    }
    if (rank == request.n_sampled - 1) {
      *request.n_tries = i + 1;
    }
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
    *round.n_found = until;
  }
}
}  // namespace candidates
}  // namespace torchlayer
