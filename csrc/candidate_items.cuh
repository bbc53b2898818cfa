// What the kernels of a search for candidates share: the request, the table of classes found, what draws, and how often
// labels and samples are expected.
#pragma once

#include "bad_ids.cuh"
#include "launch.cuh"
#include "samplers.h"

#include <cmath>
#include <tuple>

namespace torchlayer {
namespace candidates {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Sample = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Word = unsigned long long;  // what atomicCAS and atomicMin take

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreads = 128;         // of the elementwise kernels: few, so that some thousand draws reach every SM
constexpr int kTile = 1024;           // draws, and threads, of a block that ranks them
constexpr int kSearchThreads = 1024;  // at most, of the one block that searches
constexpr int kItems = 4;             // draws of each of its threads in a round, whose long arithmetic overlaps
constexpr int kSlots = 8;             // of its table for each of its threads, whom at most kItems + 1 classes fill
constexpr int kItemsCounted = 2;      // labels and samples of each of them, at most, whose counts it makes

// Up to so many classes one block draws alone, which needs one kernel; beyond, its double precision is the bottleneck.
constexpr int64_t kAlone = 1024;

// Whether the labels of a call change the distribution.
template <typename Classes>
constexpr bool kLearns = false;

// A slot holds a class in its upper 40 bits and in the lower 24 the number of its first draw in this round, from 1; 0
// is for a class of an earlier round. So the smaller of two words of one class is the earlier draw.
constexpr int kOrderBits = 24;
constexpr int64_t kLongestRound = (int64_t{1} << kOrderBits) - kTile;
constexpr Word kEmpty = ~Word{0};

// What all kernels of one call are asked for.
struct Request {
  const int64_t* seed;
  const int64_t* labels;
  int64_t n_labels, n_sampled, max_tries;
  int64_t* sampled;
  int64_t* n_tries;  // -1 if max_tries were too few
  float* true_count;
  float* sampled_count;
  int64_t n_true;  // labels of a row
  bool learns;     // whether labels are counted
  IdReporter reporter;
};

struct Table {
  Word* slots;
  int bits;

  __device__ static Word word_of(int64_t id, int64_t order) {
    return static_cast<Word>(id) << kOrderBits | static_cast<Word>(order);
  }

  // What a slot holds after a barrier; in global memory as the L2 cache has it, where atomic operations work.
  template <bool kIsShared>
  __device__ Word look(uint32_t at) const {
    return kIsShared ? slots[at] : __ldcg(slots + at);
  }

  // Offers a draw, and returns the slot of its class. There is always a free slot: see bits_for.
  __device__ uint32_t insert(Word word) const {
    const Word key = word >> kOrderBits;
    const auto mask = static_cast<uint32_t>((Word{1} << bits) - 1);
    auto at = static_cast<uint32_t>((key * 0x9E3779B97F4A7C15ull) >> (64 - bits));  // Fibonacci hashing
    for (;;) {
      const Word there = atomicCAS(slots + at, kEmpty, word);
      if (there == kEmpty) {
        return at;
      }
      if (there >> kOrderBits == key) {
        if (there > word) {
          atomicMin(slots + at, word);
        }
        return at;
      }
      at = (at + 1) & mask;
    }
  }
};

// The size of a table at most two thirds full.
inline int bits_for(int64_t n_most) {
  int bits = 1;
  while ((int64_t{1} << bits) < n_most + n_most / 2 + 1) {
    ++bits;
  }
  return bits;
}

// What the n_threads threads of a block, a power of two, draw with. A distribution that prepares something in
// shared memory for that, or would read again what a draw has read, has its own.
template <typename Classes, int n_threads>
struct Picker {
  struct Class {
    int64_t id;
  };
  static constexpr bool kPrepares = false;
  const Classes& classes;

  static size_t bytes(const Classes&) { return 0; }
  __device__ Picker(const Classes& classes, void*) : classes(classes) {}  // begins to read
  __device__ void read_ahead() const {}                                   // what draws are likely to read
  __device__ void prepare() {}                                            // by all threads; a barrier has to follow
  __device__ Class pick(Uniforms u) const { return {classes.pick(u)}; }
  __device__ Class find(int64_t id) const { return {id}; }
  __device__ double probability(const Class& k) const { return classes.probability(k.id); }
  __device__ bool differs() const { return false; }  // whether no draw can be trusted; after a barrier after the last
};

// How probable item i is in one draw, and 0 if it does not exist; items are the labels, then the sampled classes.
template <typename Classes>
__device__ double look_at_item(const Classes& classes, const Request& request, int64_t i) {
  const bool is_label = i < request.n_labels;
  const int64_t id = is_label ? request.labels[i] : request.sampled[i - request.n_labels];
  const bool exists = id >= 0 && id < classes.n_classes;
  if (is_label && !exists) {
    request.reporter.report(IdArgument::kCountedLabels, i / request.n_true, id, classes.n_classes);
  }
  if constexpr (kLearns<Classes>) {
    if (classes.differs()) {
      if (i == 0) {
        request.reporter.report(IdArgument::kWeights, 0, 0, 0);
      }
      return 0;
    }
  }
  return exists ? classes.probability(id) : 0.0;
}

// How often item i of probability p is expected in the sample. NaN for one that is never drawn, and for all if the
// search failed.
__device__ inline void count_item(const Request& request, int64_t i, double p, int64_t n_tries) {
  // 1 - (1 - p)^n_tries; TensorFlow takes p * n_sampled where no draw was in vain
  const double count = n_tries == request.n_sampled ? p * static_cast<double>(request.n_sampled)
                                                    : -expm1(static_cast<double>(n_tries) * log1p(-p));
  (i < request.n_labels ? request.true_count[i] : request.sampled_count[i - request.n_labels]) =
      p > 0 && n_tries > 0 ? static_cast<float>(count) : nanf("");
}

// Counts labels, which weigh more from the next call on, by all threads of a warp. Nobody may still be reading.
template <typename Classes, int n>
__device__ void learn_labels(const Classes& classes, const int64_t (&label)[n]) {
  uint32_t n_mine = 0;
#pragma unroll
  for (int j = 0; j < n; ++j) {
    n_mine += classes.count(label[j]);
  }
  n_mine = __reduce_add_sync(kAllLanes, n_mine);  // one sum for all classes takes one addition of a warp
  if (threadIdx.x % kLanes == 0 && n_mine > 0) {
    classes.count_all(n_mine);
  }
}

// One thread a label. Must move: 8 bytes a label, and an atomic operation of 8 a level of sums in the L2 cache.
template <typename Classes>
__global__ void __launch_bounds__(kThreads) count_labels(const Classes classes, const Request request) {
  wait_for_earlier_kernels();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t label[1] = {i < request.n_labels ? request.labels[i] : -1};
  learn_labels(classes, label);
}

// One thread an item. Must move: 12 bytes an item; what it costs are two logarithms and an exponential in double.
template <typename Classes>
__global__ void __launch_bounds__(kThreads) count_items(const Classes classes, const Request request) {
  wait_for_earlier_kernels();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < request.n_labels + request.n_sampled) {
    count_item(request, i, look_at_item(classes, request, i), *request.n_tries);
  }
}

// With repeats the number of draws is known beforehand: one thread an item draws, if it is no label, and counts.
// Must move: 12 bytes an item.
template <typename Classes>
__global__ void __launch_bounds__(kThreads) draw_and_count(const Classes classes, const Request request) {
  wait_for_earlier_kernels();
  extern __shared__ Word prepared[];
  Picker<Classes, kThreads> picker(classes, prepared);
  if constexpr (picker.kPrepares) {
    picker.prepare();
    __syncthreads();
  }
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= request.n_labels + request.n_sampled) {
    return;
  }
  const int64_t draw = i - request.n_labels;
  if (draw >= 0) {
    request.sampled[draw] = picker.pick(uniforms(request.seed, draw)).id;
  }
  if (draw == 0) {
    *request.n_tries = request.n_sampled;
  }
  count_item(request, i, look_at_item(classes, request, i), request.n_sampled);
}
}  // namespace candidates
}  // namespace torchlayer
