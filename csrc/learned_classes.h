// Classes drawn as often as they weigh, where a call changes few of the weights: kept sums lead to the class.
//
// Level 0 are the weights; a number of level l + 1 is the sum of kFan numbers of level l, up to a level of kMostTop
// numbers or fewer. A call adds up that level once; a draw finds its place there, and then reads kFan numbers a level.
// To count a label is to add 1 on each level. weight_sums of _sampler_ops.py lays the sums out.
#pragma once

#include "samplers.h"

namespace torchlayer {

struct LearnedClasses {
  static constexpr int64_t kFan = 8, kFanBits = 3;
  static constexpr int64_t kMostTop = 1024;  // at most 8192 numbers a level below, which an L1 cache holds
  static constexpr int kMostLevels = 12;  // of 2^40 classes, and one more
  static constexpr int64_t kHeader = kFan;  // the total, whether sums and weights were found to differ, zeros

  int64_t n_classes;
  int64_t* weight;
  int64_t* sums;
  int top = 0;                   // the level that draws begin with
  int64_t begin[kMostLevels]{};  // of a level among the sums
  int64_t n_sums = kHeader;
  bool is_aligned;               // to 16 bytes

  LearnedClasses(int64_t n_classes, int64_t* weight, int64_t* sums)
      : n_classes(n_classes),
        weight(weight),
        sums(sums),
        is_aligned((reinterpret_cast<uintptr_t>(weight) | reinterpret_cast<uintptr_t>(sums)) % 16 == 0) {
    do {
      ++top;
      begin[top] = n_sums;
      n_sums += (length(top) + kFan - 1) / kFan * kFan;  // whole groups, the last one filled up with zeros
    } while (length(top) > kMostTop);
  }

  TORCHLAYER_BOTH int64_t length(int level) const {
    return (n_classes + (int64_t{1} << (kFanBits * level)) - 1) >> (kFanBits * level);
  }
  TORCHLAYER_BOTH double probability(int64_t k) const {
    return static_cast<double>(weight[k]) / static_cast<double>(sums[0]);
  }

  // Where a draw has arrived: number t, a part of the total, belongs to the first class with
  // weight[0] + ... + weight[k] > t, and to the sums above it.
  struct Place {
    int64_t at;     // on a level, from the top to the weights
    int64_t rest;   // what is left of t
    int64_t whole;  // the number there, as the level above tells
    bool is_kept;   // whether the levels above and the numbers seen agree
  };

  // From the top level to a class. Whatever weights and sums hold, the class exists.
  TORCHLAYER_BOTH void descend(Place& place) const {
    for (int level = top - 1; level >= 0; --level) {
      const int64_t first = place.at << kFanBits, n = length(level) - first;  // here and after it
      int64_t value[kFan];
      read_group(level > 0 ? sums + begin[level] + first : weight + first, level > 0 ? kFan : n, value);
      int64_t through = 0, below = 0, chosen = 0, part = 0;
      bool is_below = true;
#if defined(__CUDACC__)
#pragma unroll
#endif
      for (int j = 0; j < kFan; ++j) {
        part = is_below ? value[j] : part;
        through += value[j];
        is_below = through <= place.rest;
        below = is_below ? through : below;
        chosen += is_below;
      }
      place.is_kept = place.is_kept && through == place.whole;
      place.at = first + (chosen < n ? (chosen < kFan ? chosen : kFan - 1) : n - 1);
      place.whole = part;
      place.rest -= below;
    }
  }

  TORCHLAYER_BOTH bool differs() const { return *static_cast<const volatile int64_t*>(sums + 1) != 0; }

  // For a draw that saw sums and weights differ: somebody wrote to the weights.
  TORCHLAYER_BOTH void note_difference() const {
#if defined(__CUDA_ARCH__)
    *static_cast<volatile int64_t*>(sums + 1) = 1;
#else
    __atomic_store_n(sums + 1, int64_t{1}, __ATOMIC_RELAXED);
#endif
  }

 private:
  // A group's numbers, of which n exist; all loads at once, as wide as they can be.
  TORCHLAYER_BOTH void read_group(const int64_t* from, int64_t n, int64_t (&value)[kFan]) const {
#if defined(__CUDA_ARCH__)
    if (is_aligned && n >= kFan) {
#pragma unroll
      for (int j = 0; j < kFan; j += 2) {
        const longlong2 pair = *reinterpret_cast<const longlong2*>(from + j);
        value[j] = pair.x;
        value[j + 1] = pair.y;
      }
      return;
    }
#pragma unroll
#endif
    for (int j = 0; j < kFan; ++j) {
      value[j] = j < n ? from[j] : 0;
    }
  }
};

inline LearnedClasses check_learned(const char* op, const torch::stable::Tensor& weight,
                                    const torch::stable::Tensor& sums, const torch::stable::Tensor& labels,
                                    const torch::stable::Tensor& seed, int64_t n_sampled, bool unique) {
  using torch::headeronly::ScalarType;
  const int64_t n_classes = weight.numel();
  check_sampling(op, labels, seed, n_sampled, n_classes, unique);
  check_column(op, "weight", weight, labels, n_classes, ScalarType::Long);
  STD_TORCH_CHECK(weight.is_contiguous() && sums.is_contiguous(), op, " needs contiguous weight and sums");
  const LearnedClasses classes(n_classes, static_cast<int64_t*>(weight.mutable_data_ptr()),
                               static_cast<int64_t*>(sums.mutable_data_ptr()));
  STD_TORCH_CHECK(sums.dim() == 1 && sums.numel() == classes.n_sums && sums.scalar_type() == ScalarType::Long &&
                      sums.is_cuda() == weight.is_cuda() && sums.get_device_index() == weight.get_device_index(),
                  op, " needs ", classes.n_sums, " int64 sums for ", n_classes, " weights, on their device");
  return classes;
}

}  // namespace torchlayer
