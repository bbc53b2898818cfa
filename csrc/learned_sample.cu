// Candidates drawn as often as their classes were labels before, on a GPU.
#include "candidate_search.cuh"
#include "learned_classes.h"

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

// The running sums of the top level, in shared memory: a thread adds up neighbours, then a warp, then all of them.
template <>
struct Picker<LearnedOnGpu> {
  const LearnedOnGpu& classes;
  const int64_t* running;

  static size_t bytes(const LearnedOnGpu& classes) {
    return sizeof(int64_t) * static_cast<size_t>(kLanes + classes.length(classes.top));
  }

  __device__ Picker(const LearnedOnGpu& classes, void* shared)
      : classes(classes), running(static_cast<const int64_t*>(shared) + kLanes) {
    auto* const warp_sums = static_cast<int64_t*>(shared);
    int64_t* const sums = warp_sums + kLanes;
    const int64_t* const top = classes.sums + classes.begin[classes.top];
    const int n = static_cast<int>(classes.length(classes.top)), n_threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes, warp = thread / kLanes;
#pragma unroll 8
    for (int at = thread; at < n; at += n_threads) {
      sums[at] = top[at];
    }
    __syncthreads();
    const int n_each = (n + n_threads - 1) / n_threads | 1;  // odd, so that threads read from different banks
    const int first = min(thread * n_each, n), end = min(first + n_each, n);
    int64_t mine = 0;
    for (int at = first; at < end; ++at) {
      mine += sums[at];
    }
    int64_t through = mine;
    for (int distance = 1; distance < kLanes; distance *= 2) {
      const int64_t below = __shfl_up_sync(kAllLanes, through, distance);
      through += lane >= distance ? below : 0;
    }
    if (lane == kLanes - 1) {
      warp_sums[warp] = through;
    }
    __syncthreads();
    int64_t before = lane < warp ? warp_sums[lane] : 0;
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      before += __shfl_xor_sync(kAllLanes, before, distance);
    }
    before += through - mine;
    for (int at = first; at < end; ++at) {
      before += sums[at];
      sums[at] = before;
    }
    __syncthreads();
  }
  __device__ int64_t pick(Uniforms u) const { return classes.pick(u, running); }
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
