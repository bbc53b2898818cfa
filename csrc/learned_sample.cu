// Candidates drawn as often as their classes were labels before, on a GPU.
#include "candidate_search.cuh"
#include "learned_classes.h"
#include "ptx.cuh"

namespace torchlayer {
namespace candidates {

// The classes, and what counts a label.
struct LearnedOnGpu : LearnedClasses {
  // Whether it exists, and 1 more on each level but the total then.
  __device__ bool count(int64_t id) const {
    const bool exists = id >= 0 && id < n_classes;
    if (exists) {
      atomicAdd(reinterpret_cast<Word*>(weight + id), Word{1});
      for (int level = 1; level <= top; ++level) {
        atomicAdd(reinterpret_cast<Word*>(sums + begin[level] + (id >> (kFanBits * level))), Word{1});
      }
    }
    return exists;
  }
  __device__ void count_all(uint32_t n) const { atomicAdd(reinterpret_cast<Word*>(sums), Word{n}); }
};

template <>
constexpr bool kLearns<LearnedOnGpu> = true;

// The running sums of the top level in shared memory, after the last one the same again up to kMostTop: a thread adds
// up neighbours, then a warp, then all of them.
template <int n_threads>
struct Picker<LearnedOnGpu, n_threads> {
  struct Class {
    int64_t id, weight;
  };
  static constexpr bool kPrepares = true;

  static size_t bytes(const LearnedOnGpu&) { return sizeof(int64_t) * static_cast<size_t>(kHead + place_of(kTop)); }

  // The first loads.
  __device__ Picker(const LearnedOnGpu& classes, void* shared)
      : classes(classes),
        warp_sums(static_cast<int64_t*>(shared)),
        running(warp_sums + kHead),
        first(static_cast<int>(threadIdx.x) * kEach),
        n_numbers(static_cast<int>(classes.length(classes.top))) {
    const int64_t* const top = classes.sums + classes.begin[classes.top];
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      number[j] = first + j < n_numbers ? top[first + j] : 0;
    }
    total = classes.sums[0];
    differed = classes.sums[1];
    if (threadIdx.x == 0) {
      warp_sums[kLanes] = 0;
    }
  }

  // The level below the top, so that a draw finds it in the L1 cache.
  __device__ void read_ahead() const {
    constexpr int kSector = 32 / sizeof(int64_t);
    const int below = classes.top - 1, n = below > 0 ? static_cast<int>(classes.length(below)) : 0;
    const int64_t* const level = classes.sums + classes.begin[below];
#pragma unroll
    for (int j = 0; j < LearnedClasses::kFan * kEach / kSector; ++j) {
      const int at = (j * n_threads + static_cast<int>(threadIdx.x)) * kSector;
      if (at < n) {
        prefetch_near(level + at);
      }
    }
  }

  __device__ void prepare() {
    const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
    constexpr int n_warps = n_threads / kLanes;
    int64_t mine = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      mine += number[j];
    }
    int64_t through = mine;
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      const int64_t below = __shfl_up_sync(kAllLanes, through, distance);
      through += lane >= distance ? below : 0;
    }
    if (lane == kLanes - 1) {
      warp_sums[warp] = through;
    }
    __syncthreads();
    const int other = lane % n_warps;
    int64_t before = other < warp ? warp_sums[other] : 0;
#pragma unroll
    for (int distance = n_warps / 2; distance > 0; distance /= 2) {
      before += __shfl_xor_sync(kAllLanes, before, distance);
    }
    before += through - mine;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      before += number[j];
      running[place_of(first + j)] = before;
    }
    if (threadIdx.x == n_threads - 1 && before != total) {
      note_difference();
    }
  }

  __device__ Class pick(Uniforms u) const {
    const auto t = static_cast<int64_t>(u.first * static_cast<double>(total));
    // how many running sums are t or less: with few steps, each of which waits for shared memory once
    const int hundreds = advance<kTop / 16, 16>(0, t), tens = advance<kTop / 128, 8>(hundreds, t);
    const int at = min(advance<1, kTop / 128>(tens, t), n_numbers - 1);
    const int64_t before = at > 0 ? running[place_of(at - 1)] : 0;
    LearnedClasses::Place place{at, t - before, running[place_of(at)] - before, true};
    classes.descend(place);
    if (!place.is_kept) {
      note_difference();
    }
    return {place.at, place.whole};
  }

  __device__ Class find(int64_t id) const { return {id, classes.weight[id]}; }
  __device__ double probability(const Class& k) const {
    return static_cast<double>(k.weight) / static_cast<double>(total);
  }
  __device__ bool differs() const { return differed != 0 || warp_sums[kLanes] != 0; }

 private:
  static constexpr int kTop = static_cast<int>(LearnedClasses::kMostTop), kEach = kTop / n_threads;
  static constexpr int kHead = kLanes + 2;  // the warps' sums, and whether sums and weights were found to differ

  const LearnedOnGpu& classes;
  int64_t *const warp_sums, *const running;
  const int first, n_numbers;  // a thread's of the top level, and all
  int64_t number[kEach], total, differed;

  // Numbers whose distance is a power of two lie in different banks.
  TORCHLAYER_BOTH static constexpr int place_of(int at) { return at + (at >> 4); }

  // From a multiple of stride * n_arms, after as many strides as end with a running sum of t or less.
  template <int stride, int n_arms>
  __device__ int advance(int at, int64_t t) const {
    const int64_t* const here = running + place_of(at);
    int n = 0;
#pragma unroll
    for (int j = 1; j < n_arms; ++j) {
      n += here[place_of(j * stride - 1)] <= t;
    }
    return at + n * stride;
  }

  __device__ void note_difference() const {
    classes.note_difference();
    *static_cast<volatile int64_t*>(warp_sums + kLanes) = 1;
  }
};

}  // namespace candidates
}  // namespace torchlayer

namespace {

using torch::stable::Tensor;
using torchlayer::candidates::Sample;

Sample learned_sample_(const Tensor& labels, const Tensor& seed, const Tensor& weight, const Tensor& sums, bool learns,
                       int64_t n_sampled, bool unique, int64_t max_tries) {
  const char* const op = "learned_sample_";
  const torchlayer::candidates::LearnedOnGpu classes{
      torchlayer::check_learned(op, weight, sums, labels, seed, n_sampled, unique)};
  return torchlayer::candidates::sample(op, classes, labels, seed, n_sampled, unique, max_tries, learns);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) { m.impl("learned_sample_", TORCH_BOX(&learned_sample_)); }
