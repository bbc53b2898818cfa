// The products of products.h for processors with AVX-512. Against torch's: no calls through the dispatcher, which cost
// small blocks as much as the arithmetic, the sampled rows are brought into the order of the inner loop once, what else
// is to be done with rows is done while a cache has them, and sixteen-bit products are not rounded.
#pragma once

#include "avx512.h"

#ifdef TORCHLAYER_HAS_AVX512

namespace torchlayer {

template <typename scalar_t>
class Avx512Products {
 public:
  using Element = scalar_t;

  // Takes the places of K rows of D numbers, which must stay there.
  Avx512Products(std::vector<const Element*> rows, int64_t d)
      : rows_(std::move(rows)), k_(static_cast<int64_t>(rows_.size())), d_(d) {}

  template <typename Before, typename After>
  void logits(const Element* h, int64_t n, const float* offset, float* z, const Before& before, const After& after) {
    if (!transposed_.size()) {
      pack_transposed();
    }
    each_tile(n, [&](int64_t begin, int64_t end) {
      before(begin, end);
      avx512::multiply_rows(h, d_, begin, end, transposed_.data(), k_, offset, 1, z);
      after(begin, end);
    });
  }

  template <typename Before, typename After>
  void by_samples(const Element* e, int64_t n, float* into, const Before& before, const After& after) {
    if (!straight_.size()) {
      pack_straight();
    }
    each_tile(n, [&](int64_t begin, int64_t end) {
      before(begin, end);
      avx512::multiply_rows(e, k_, begin, end, straight_.data(), d_, kZeros, 0, into);
      after(begin, end);
    });
  }

  // A thread makes some columns, whose part of hidden it alone reads: of all rows or, where columns are few, of some.
  template <typename Columns>
  void by_classes(const Element* e, const Element* h, int64_t n, float* sums, bool add, const Columns& columns) {
    const int64_t n_panels = avx512::n_panels(d_), n_tiles = (k_ + avx512::kTile - 1) / avx512::kTile;
    const int64_t n_threads = std::clamp<int64_t>(n * k_ * d_ / kProductGrain, 1, torch::stable::get_num_threads());
    const int64_t across = std::min(n_threads, n_panels), down = std::min(n_threads / across, n_tiles);
    torch::stable::parallel_for(0, across * down, 1, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const int64_t x = part % across, y = part / across;
        const int64_t begin = y * n_tiles / down * avx512::kTile;
        const int64_t end = std::min(k_, (y + 1) * n_tiles / down * avx512::kTile);
        avx512::multiply_columns(e, k_, h, d_, n, begin, end, x * n_panels / across * avx512::kPanel,
                                 std::min(d_, (x + 1) * n_panels / across * avx512::kPanel), add ? nullptr : kZeros,
                                 sums);
        if (x == 0) {
          columns(begin, end);
        }
      }
    });
  }

  // Half a MB of hidden, its gradient, that of the true rows and the errors, for every thread: a second-level cache has
  // them until the last of the products reads them. No fewer rows than one step of by_classes sums over.
  static int64_t block_rows(int64_t k, int64_t d) {
    const int64_t fit = (1 << 17) / (k + 3 * d) / kRows * kRows;
    return std::max(3 * kRows, fit) * torch::stable::get_num_threads();
  }

  static int64_t padded(int64_t k) { return avx512::n_panels(k) * avx512::kPanel; }

 private:
  static constexpr int64_t kRows = 8 * avx512::kTile;

  // Calls `body` with kRows rows at a time: few enough for caches, enough to read all packed rows for.
  template <typename Body>
  void each_tile(int64_t n, const Body& body) const {
    const int64_t n_parts = (n + kRows - 1) / kRows;
    const int64_t grain = std::max<int64_t>(1, kProductGrain / (kRows * k_ * d_));
    torch::stable::parallel_for(0, n_parts, grain, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        body(part * kRows, std::min(n, (part + 1) * kRows));
      }
    });
  }

  void pack_transposed() {
    const int64_t steps = avx512::n_words<Element>(d_), n_panels = avx512::n_panels(k_);
    transposed_ = Scratch<avx512::Word>(steps * n_panels * avx512::kPanel);
    const int64_t grain = std::max<int64_t>(1, kGrain / (avx512::kPanel * steps));
    torch::stable::parallel_for(0, n_panels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t s = 0; s < steps; s += avx512::kDepth) {
        const int64_t n_steps = std::min(avx512::kDepth, steps - s);
        for (int64_t p = begin; p < end; ++p) {
          avx512::pack_transposed(avx512::Rows<Element>{rows_.data()}, k_, d_, s, n_steps, p,
                                  transposed_.data() + (s * n_panels + p * n_steps) * avx512::kPanel);
        }
      }
    });
  }

  void pack_straight() {
    const int64_t steps = avx512::n_words<Element>(k_), n_panels = avx512::n_panels(d_);
    straight_ = Scratch<avx512::Word>(steps * n_panels * avx512::kPanel);
    const int64_t grain = std::max<int64_t>(1, kGrain / (avx512::kPanel * steps));
    torch::stable::parallel_for(0, n_panels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t s = 0; s < steps; s += avx512::kDepth) {
        const int64_t n_steps = std::min(avx512::kDepth, steps - s);
        avx512::pack_steps(avx512::Rows<Element>{rows_.data()}, k_, begin * avx512::kPanel,
                           std::min(d_, end * avx512::kPanel), s, n_steps,
                           straight_.data() + (s * n_panels + begin * n_steps) * avx512::kPanel);
      }
    });
  }

  alignas(64) static constexpr float kZeros[avx512::kPanel] = {};

  std::vector<const Element*> rows_;
  Scratch<avx512::Word> transposed_, straight_;  // they, packed for logits and for by_samples
  int64_t k_, d_;
};

}  // namespace torchlayer
#endif
