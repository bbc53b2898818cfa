// The search for candidates on a CPU: classes drawn with or without repetition, and how often each is expected among
// them.
#pragma once

#include "samplers.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

namespace torchlayer {
namespace candidates {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Draws, logarithms or blocks for one thread below which a second one costs more than it brings: some 100 us. A search
// for distinct classes is a score of ever shorter rounds, each of which would wait for its slowest thread.
constexpr int64_t kGrain = 4096;

// Draws whose random bits come first and whose lookups follow: a loop of lookups keeps more of them in flight.
constexpr int64_t kBatch = 64;

using Sample = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The classes seen so far: open addressing, at most half full.
class ClassSet {
 public:
  explicit ClassSet(int64_t n_most) {
    while ((int64_t{1} << bits_) < 2 * n_most) {
      ++bits_;
    }
    slots_.assign(size_t{1} << bits_, kEmpty);
  }

  // Whether the class is new.
  bool insert(int64_t k) {
    uint64_t at = (static_cast<uint64_t>(k) * 0x9E3779B97F4A7C15) >> (64 - bits_);  // Fibonacci hashing
    while (slots_[at] != kEmpty) {
      if (slots_[at] == k) {
        return false;
      }
      at = (at + 1) & (slots_.size() - 1);
    }
    slots_[at] = k;
    return true;
  }

 private:
  static constexpr int64_t kEmpty = -1;
  int bits_ = 1;
  std::vector<int64_t> slots_;
};

template <typename Classes>
void draw(const Classes& classes, const int64_t* seed, int64_t first, int64_t n, int64_t* out) {
  const auto range = [&](int64_t begin, int64_t end) {
    Uniforms u[kBatch];
    for (int64_t i = begin; i < end; i += kBatch) {
      const int64_t n_here = std::min(kBatch, end - i);
      for (int64_t j = 0; j < n_here; ++j) {
        u[j] = uniforms(seed, first + i + j);
      }
      for (int64_t j = 0; j < n_here; ++j) {
        out[i + j] = classes.pick(u[j]);
      }
    }
  };
  if (n <= kGrain) {
    range(0, n);  // the search for a rare class is millions of rounds of one draw
  } else {
    torch::stable::parallel_for(0, n, kGrain, range);
  }
}

// Draws until n_sampled classes are distinct, and returns how many draws it took. Each round draws as many as are still
// missing: fewer could never do, so no round draws beyond the end, and all but the search for repeats runs in parallel.
template <typename Classes>
int64_t draw_distinct(const char* op, const Classes& classes, const int64_t* seed, int64_t n_sampled,
                      int64_t max_tries, int64_t* out) {
  ClassSet seen(n_sampled);
  std::vector<int64_t> drawn(n_sampled);
  int64_t n_found = 0, n_tries = 0;
  while (n_found < n_sampled) {
    const int64_t n_missing = n_sampled - n_found;
    STD_TORCH_CHECK(n_tries + n_missing <= max_tries, op, " needs more than ", max_tries, " draws to find ", n_sampled,
                    " distinct classes of ", classes.n_classes, "; lower n_sampled or pass unique=False");
    draw(classes, seed, n_tries, n_missing, drawn.data());
    n_tries += n_missing;
    for (int64_t i = 0; i < n_missing; ++i) {
      if (seen.insert(drawn[i])) {
        out[n_found++] = drawn[i];
      }
    }
  }
  return n_tries;
}

// How often the classes at `ids` are expected in the sample; NaN for one that does not exist or is never drawn.
template <typename Classes>
Tensor expected_count(const Classes& classes, const Tensor& ids, int64_t n_sampled, int64_t n_tries) {
  Tensor counts = torch::stable::new_empty(ids, ids.sizes(), ScalarType::Float);
  const int64_t* from = ids.const_data_ptr<int64_t>();
  float* to = counts.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, ids.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const bool exists = from[i] >= 0 && from[i] < classes.n_classes;
      const double p = exists ? classes.probability(from[i]) : 0.0;
      // 1 - (1 - p)^n_tries; TensorFlow takes p * n_sampled where no draw was in vain
      const double count = n_tries == n_sampled ? p * static_cast<double>(n_sampled)
                                                : -std::expm1(static_cast<double>(n_tries) * std::log1p(-p));
      to[i] = p > 0 ? static_cast<float>(count) : std::numeric_limits<float>::quiet_NaN();
    }
  });
  return counts;
}

template <typename Classes>
Sample sample(const char* op, const Classes& classes, const Tensor& labels, const Tensor& seed, int64_t n_sampled,
              bool unique, int64_t max_tries) {
  const Tensor ids = torch::stable::contiguous(labels), key = torch::stable::contiguous(seed);
  const int64_t* words = key.const_data_ptr<int64_t>();
  Tensor sampled = torch::stable::new_empty(labels, {n_sampled}, ScalarType::Long);
  Tensor tries = torch::stable::new_empty(labels, {}, ScalarType::Long);
  int64_t* out = sampled.mutable_data_ptr<int64_t>();
  int64_t n_tries = n_sampled;
  if (unique) {
    n_tries = draw_distinct(op, classes, words, n_sampled, max_tries, out);
  } else {
    draw(classes, words, 0, n_sampled, out);
  }
  *tries.mutable_data_ptr<int64_t>() = n_tries;
  return {sampled, expected_count(classes, ids, n_sampled, n_tries),
          expected_count(classes, sampled, n_sampled, n_tries), tries};
}

}  // namespace candidates
}  // namespace torchlayer
