// The three matrix products of a sampled loss, over one block of rows at a time and the K sampled rows, which stay:
// logits from hidden, and the gradients of hidden and of the sampled rows from the errors. torch multiplies here;
// products_avx512.h does the same without it.
#pragma once

#include "check.h"
#include "vector_math.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace torchlayer {

// Multiply-adds for one thread below which a second one costs more than it brings.
constexpr int64_t kGrain = 1 << 15;
constexpr int64_t kProductGrain = 1 << 19;  // sixteen and more of them a cycle

// Memory for numbers that are written before they are read, in whole cache lines.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t n = 0)
      : size_(n), at_(n > 0 ? static_cast<T*>(::operator new(n * sizeof(T), kLine)) : nullptr) {}
  T* data() const { return at_.get(); }
  int64_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(T* at) const { ::operator delete(at, kLine); }
  };
  int64_t size_;
  std::unique_ptr<T, Free> at_;
};

template <typename real>
class TorchProducts {
 public:
  using Element = real;  // of hidden, errors and sampled rows
  using Tensor = torch::stable::Tensor;

  // Copies K rows of D numbers from their places.
  TorchProducts(const std::vector<const real*>& rows, int64_t d)
      : rows_(static_cast<int64_t>(rows.size()) * d), k_(static_cast<int64_t>(rows.size())), d_(d) {
    torch::stable::parallel_for(0, k_, std::max<int64_t>(1, kGrain / d), [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        std::copy(rows[j], rows[j] + d, rows_.data() + j * d);
      }
    });
  }

  // z (n, K) = h (n, D) @ rows.T + offset, where offset is as long as `padded(K)`; calls `before(begin, end)` and
  // `after(begin, end)` with rows that are next or done, as some thread has them at hand.
  template <typename Before, typename After>
  void logits(const real* h, int64_t n, const real* offset, real* z, const Before&, const After& after) {
    multiply(view(h, n, d_), torch::stable::transpose(view(rows_.data(), k_, d_), 0, 1), view(z, n, k_));
    torch::stable::parallel_for(0, n, std::max<int64_t>(1, kGrain / (4 * k_ + d_)), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        add_scaled(z + r * k_, offset, real(1), k_);
      }
      after(begin, end);
    });
  }

  // into (n, D) = e (n, K) @ rows; calls `before` with rows of e that are to be made first, and `after`.
  template <typename Before, typename After>
  void by_samples(const real* e, int64_t n, real* into, const Before& before, const After& after) {
    const int64_t grain = std::max<int64_t>(1, kGrain / (k_ + 2 * d_));
    torch::stable::parallel_for(0, n, grain, before);
    multiply(view(e, n, k_), view(rows_.data(), k_, d_), view(into, n, d_));
    torch::stable::parallel_for(0, n, grain, after);
  }

  // sums (K, D) = e.T @ h, or that more; calls `columns(begin, end)` with parts of the K columns of e, for what else is
  // summed over n.
  template <typename Columns>
  void by_classes(const real* e, const real* h, int64_t n, real* sums, bool add, const Columns& columns) {
    if (add && !product_.size()) {
      product_ = Scratch<real>(k_ * d_);
    }
    real* product = add ? product_.data() : sums;
    multiply(torch::stable::transpose(view(e, n, k_), 0, 1), view(h, n, d_), view(product, k_, d_));
    if (add) {
      torch::stable::parallel_for(0, k_ * d_, kGrain, [&](int64_t begin, int64_t end) {
        add_scaled(sums + begin, product + begin, real(1), end - begin);
      });
    }
    torch::stable::parallel_for(0, k_, std::max<int64_t>(16, kGrain / n), columns);
  }

  // Logits of one block: half a MB of float32 stays in a core's second-level cache. But every block adds to all
  // gradients of sampled rows, so it must not be short.
  static int64_t block_rows(int64_t k, int64_t) { return std::max<int64_t>(256, (1 << 17) / k); }

  static int64_t padded(int64_t k) { return k; }

 private:
  static Tensor view(const real* at, int64_t n, int64_t m) {
    constexpr auto kReal = std::is_same_v<real, double> ? torch::headeronly::ScalarType::Double
                                                        : torch::headeronly::ScalarType::Float;
    const std::array<int64_t, 2> sizes{n, m}, strides{m, 1};
    return torch::stable::from_blob(const_cast<real*>(at), sizes, strides,
                                    torch::stable::Device(torch::headeronly::DeviceType::CPU), kReal);
  }

  // into = a @ b, by torch's own matrix product
  static void multiply(const Tensor& a, const Tensor& b, const Tensor& into) {
    std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                      torch::stable::detail::from(into)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
    (void)torch::stable::detail::to<Tensor>(stack[0]);
  }

  Scratch<real> rows_, product_;
  int64_t k_, d_;
};

}  // namespace torchlayer
