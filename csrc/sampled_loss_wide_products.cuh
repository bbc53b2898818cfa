// Products of bfloat16 matrices on Hopper's tensor cores, in tiles of 128 rows and 256 columns: one warp copies, two
// groups of four warps multiply, and two blocks side by side in a cluster share what they copy of the right factor.
#pragma once

#include "hopper.cuh"
#include "sampled_loss.cuh"

#include <cuda_bf16.h>

namespace torchlayer {
namespace wide {

using hopper::Along;

constexpr int kRows = 128, kColumns = 256;  // of a block's tile
constexpr int kDepth = 64;                  // of a step of the sum
constexpr int kStages = 4;                  // steps on their way
constexpr int kPairRows = 2 * kRows;        // of a cluster's
constexpr int kGroup = 128;                 // threads of a warpgroup
constexpr int kGroups = 2;                  // that multiply 64 rows each
constexpr int kThreads = (1 + kGroups) * kGroup;  // and one group copies
constexpr int kSyncOf0 = 1, kTurnOf0 = 3;   // names of barriers, and those of the second group after them
constexpr int kBox = 64;                    // rows and columns of a box of a factor
constexpr int kBoxBytes = kBox * kBox * 2;
constexpr int kOut = 2;                     // boxes that a warp has on their way out,
constexpr int kOutRows = 16;                // of a box that a warp stores, of as many columns
constexpr int kOutBytes = kOutRows * kBox * 2;
constexpr int kScaleParts = 3;              // numbers of bfloat16 whose sum is one of float
constexpr int kScaleBytes = kDepth * kScaleParts * 2;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define TORCHLAYER_PAIR __cluster_dims__(2, 1, 1)
#else
#define TORCHLAYER_PAIR
#endif

struct Stage {
  char left[kRows * kDepth * 2], right[kColumns * kDepth * 2];
};

struct Shared {
  Stage stages[kStages];
  char out[4 * kGroups * kOut][kOutBytes];  // on their way out, in turns of each warp that multiplies
  union {
    float offsets[kGroups * kColumns];  // forward: of the columns of each multiplying group
    // Backward: of the rows that a step sums over, as columns. Of eight that tensor cores multiply three are looked at:
    // the others are what follows.
    char scales[kStages * kScaleBytes + (8 - kScaleParts) * 16];
  };
  uint64_t full[kStages], empty[kStages];
};

// Where in the ring of stages a warp is, from the first tile to the last.
struct Position {
  int stage = 0;
  uint32_t phase = 0;

  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}

#ifdef TORCHLAYER_HOPPER

// A stage is free again when all groups of both blocks are done with it, since either block copies into both.
__device__ inline void init(Shared& shared) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::init_barrier(&shared.full[stage], 1);
      hopper::init_barrier(&shared.empty[stage], 2 * kGroups);
    }
    hopper::fence_barrier_init();
  }
  hopper::sync_cluster();
}

// One thread: copies n steps of the sum, from `begin` on every `stride`-th, for the tile at this row of the left factor
// and this column of the right one. A box of a factor is 64 of its contiguous axis by 128 if that is the sum's, else by
// 64. The right factor's tile is kWidth columns. `scales`, if any, are those of all steps, kScaleBytes each.
template <Along kLeft, Along kRight, int kWidth = kColumns>
__device__ void copy_steps(Shared& shared, Position& at, const CUtensorMap* left, const CUtensorMap* right, int row,
                           int column, int begin, int n, int stride, int rank, const char* scales = nullptr) {
  constexpr uint16_t kBoth = 3;
  constexpr int kHalf = kWidth / 2, kBytes = (kRows + kWidth) * kDepth * 2;
  for (int step = 0; step < n; ++step, at.advance()) {
    Stage& stage = shared.stages[at.stage];
    uint64_t* full = &shared.full[at.stage];
    const int k = (begin + step * stride) * kDepth;
    hopper::wait(&shared.empty[at.stage], at.phase ^ 1);
    hopper::arrive_and_expect(full, kBytes + (scales ? kScaleBytes : 0));
    if (scales) {
      hopper::copy_bytes(shared.scales + at.stage * kScaleBytes, scales + k / kDepth * kScaleBytes, kScaleBytes, full);
    }
    if constexpr (kLeft == Along::kSum) {
      hopper::copy_box(stage.left, left, k, row, full);
    } else {
      hopper::copy_box(stage.left, left, row, k, full);
      hopper::copy_box(stage.left + kBoxBytes, left, row + kBox, k, full);
    }
    if constexpr (kRight == Along::kSum) {
      hopper::copy_box_to(kBoth, stage.right + rank * kHalf * kDepth * 2, right, k, column + rank * kHalf, full);
    } else {
      for (int box = rank * kHalf / kBox; box < (rank + 1) * kHalf / kBox; ++box) {
        hopper::copy_box_to(kBoth, stage.right + box * kBoxBytes, right, column + box * kBox, k, full);
      }
    }
  }
}

__device__ inline void release(Shared& shared, int stage) {
  const int thread = threadIdx.x % kGroup;
  hopper::arrive_in_block(&shared.empty[stage], thread / 32 % 2, thread % 32 == 0 && thread < 64);
}

// A group: sum (64 x 2 kN) += n steps, and if kScales, scales (64 x 8) += the same left factor times the steps' scales.
// Its rows are a half of the left factor's.
// Calls `during(step)` when that one is on its way. The sum must not be left to the first product to begin with: its
// registers would be busy from the kernel's start.
template <Along kLeft, Along kRight, bool kScales, int kN, typename During>
__device__ void multiply_steps(float (&sum)[kN], float (&scales)[4], Shared& shared, Position& at, int half, int n,
                               const During& during) {
  constexpr uint32_t kNextLeft = kLeft == Along::kSum ? 2 : 128, kNextRight = kRight == Along::kSum ? 2 : 128;
  constexpr uint32_t kNextStage = sizeof(Stage) / 16;
  const uint64_t lefts = hopper::describe_tile(shared.stages[0].left + half * kBoxBytes, kBoxBytes);
  const uint64_t rights = hopper::describe_tile(shared.stages[0].right, kBoxBytes);
  const uint64_t columns = hopper::describe_columns(shared.scales, kScaleParts * 16);
  int previous = 0;
  for (int step = 0; step < n; ++step, at.advance()) {
    const uint64_t left = lefts + at.stage * kNextStage, right = rights + at.stage * kNextStage;
    hopper::wait(&shared.full[at.stage], at.phase);
    hopper::begin_products();
#pragma unroll
    for (int part = 0; part < kDepth / 16; ++part) {
      hopper::multiply<kLeft, kRight>(sum, left + part * kNextLeft, right + part * kNextRight);
    }
    if constexpr (kScales) {
#pragma unroll
      for (int part = 0; part < kDepth / 16; ++part) {
        hopper::multiply_columns<kLeft>(scales, left + part * kNextLeft,
                                        columns + at.stage * (kScaleBytes / 16) + part * 2 * kScaleParts);
      }
    }
    hopper::commit_products();
    during(step);
    if (step > 0) {
      hopper::wait_products<1>();
      release(shared, previous);
    }
    previous = at.stage;
  }
  hopper::wait_products<0>();
  if (n > 0) {
    release(shared, previous);
  }
}

template <Along kLeft, Along kRight, int kN, typename During>
__device__ void multiply_steps(float (&sum)[kN], Shared& shared, Position& at, int half, int n,
                               const During& during) {
  float none[4];
  multiply_steps<kLeft, kRight, false>(sum, none, shared, at, half, n, during);
}

template <int n>
__device__ void clear(float (&sum)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) {
    sum[i] = 0;
  }
}

// A warp stores 16 rows of `kWidth` numbers, boxes of 64 columns after each other, at this column and row of a matrix,
// by way of its boxes of shared memory. `numbers(n)` are the thread's columns 8 n + 2 (lane % 4) and the next,
// packed, of either row. Nobody waits for another warp.
template <int kWidth, typename Numbers>
__device__ void store_tile(char (*out)[kOutBytes], const CUtensorMap* matrix, int column, int row,
                           const Numbers& numbers) {
  const int lane = threadIdx.x % 32, r = lane % 16;  // the row whose address it gives, of matrices 0 and 2 or 1 and 3
#pragma unroll
  for (int box = 0; box < kWidth / kBox; ++box) {
    uint2 packed[8];  // found before they are stored, since no arithmetic moves past a store
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      packed[n] = numbers(box * 8 + n);
    }
    hopper::wait_stores_read<kOut - 1>();  // of which only one thread has any
    __syncwarp();
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {  // sixteen columns
      const uint2 left = packed[2 * pair], right = packed[2 * pair + 1];
      const int chunk = pair * 2 + lane / 16;
      hopper::store_matrices(out[box % kOut] + r * 128 + ((chunk ^ (r % 8)) * 16), left.x, left.y, right.x, right.y);
    }
    hopper::fence_for_copies();
    __syncwarp();
    hopper::store_box(matrix, column + box * kBox, row, out[box % kOut], lane == 0);
  }
}

#endif  // TORCHLAYER_HOPPER

}  // namespace wide
}  // namespace torchlayer
