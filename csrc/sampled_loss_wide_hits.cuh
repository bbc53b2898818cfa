// Which of the samples are labels of a row, found once for all tiles: a hit is then a column to compare with, and few
// warps have one in a tile.
#pragma once

#include "sampled_loss_wide_kept.cuh"

namespace torchlayer {
namespace wide {

constexpr int kNoHit = -1, kManyHits = -2;  // beside the column of the only one
constexpr int kHitRows = 256;               // rows, and threads, of a block that looks for hits
constexpr int kMostHitLabels = 4;           // of a row; one with more may have hits

// How a block finds the rows of an id: chains of the rows' labels, by hash.
struct LabelTable {
  static constexpr int kHeads = 1024, kEntries = kHitRows * kMostHitLabels, kEnd = -1;

  int head[kHeads], next[kEntries], label[kEntries];
  int hit[kHitRows];

  __device__ static int place(int id) { return static_cast<int>(static_cast<uint32_t>(id) * 0x9E3779B9u >> 22); }
};
static_assert(LabelTable::kHeads == 1 << (32 - 22));

// A block takes kHitRows rows, a thread one, and then every so many samples. What it leaves does not depend on the
// order of a chain. Must move: the labels and samples, from the cache.
__device__ inline void find_hits(const Given<torch::headeronly::BFloat16>& given, const Kept& kept, int64_t block,
                                 LabelTable& table) {
  const int thread = static_cast<int>(threadIdx.x), n_true = given.n_true;
  const int64_t row = block * kHitRows + thread;
  if (n_true > kMostHitLabels) {
    if (row < given.n_rows) {
      kept.hits[row] = kManyHits;
    }
    return;
  }
  for (int at = thread; at < LabelTable::kHeads; at += kHitRows) {
    table.head[at] = LabelTable::kEnd;
  }
  table.hit[thread] = kNoHit;
  __syncthreads();
  for (int t = 0; t < n_true && row < given.n_rows; ++t) {
    const int entry = t * kHitRows + thread, label = static_cast<int>(given.clamp(given.labels[row * n_true + t]));
    table.label[entry] = label;
    table.next[entry] = atomicExch(&table.head[LabelTable::place(label)], entry);
  }
  __syncthreads();
#pragma unroll 4
  for (int j = thread; j < given.n_sampled; j += kHitRows) {
    const int id = static_cast<int>(given.clamp(given.sampled[j]));
    for (int entry = table.head[LabelTable::place(id)]; entry != LabelTable::kEnd; entry = table.next[entry]) {
      if (table.label[entry] == id && atomicCAS(&table.hit[entry % kHitRows], kNoHit, j) != kNoHit) {
        table.hit[entry % kHitRows] = kManyHits;
      }
    }
  }
  __syncthreads();
  if (row < given.n_rows) {
    kept.hits[row] = table.hit[thread];
  }
}

}  // namespace wide
}  // namespace torchlayer
