// What sampled softmax and NCE share on the CPU: the rows that take part, their logits a block at a time, and the way
// back. The loss itself is a function of one row of logits, which sampled_softmax.cpp and nce.cpp supply.
#pragma once

#include "sampled_loss_arguments.h"
#include "vector_math.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace torchlayer {

using torch::stable::Tensor;

// Logits of one block: half a MB of float32 stays in a core's second-level cache.
constexpr int64_t kBlockLogits = 1 << 17;
// Multiply-adds for one thread below which a second one costs more than it brings.
constexpr int64_t kGrain = 16384;

// std::out_of_range and nothing else reaches Python as IndexError.
inline void check_ids(const char* op, const char* argument, const Tensor& ids, int64_t n_classes) {
  const int64_t* id = ids.const_data_ptr<int64_t>();
  const int64_t n_columns = ids.dim() == 2 ? ids.size(1) : 1;
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] < 0 || id[i] >= n_classes) {
      throw std::out_of_range(std::string(op) + " needs " + argument + " from 0 to " + std::to_string(n_classes - 1) +
                              ", got " + std::to_string(id[i]) + " in row " + std::to_string(i / n_columns));
    }
  }
}

inline SampledLoss check_sampled_loss(const char* op, const Tensor& weight, const std::optional<Tensor>& bias,
                                      const Tensor& hidden, const Tensor& labels, const Tensor& sampled,
                                      const std::optional<Tensor>& true_expected_count,
                                      const std::optional<Tensor>& sampled_expected_count,
                                      bool remove_accidental_hits) {
  SampledLoss loss = check_arguments(op, weight, bias, hidden, labels, sampled, true_expected_count,
                                     sampled_expected_count, remove_accidental_hits);
  check_ids(op, "labels", loss.labels, loss.n_classes);
  check_ids(op, "sampled ids", loss.sampled, loss.n_classes);
  return loss;
}

// into = a @ b, by torch's own matrix product.
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& into) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(into)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);
}

// The sampled rows gathered once, the logits of a block of rows after the other, and the gradients.
template <typename scalar_t>
class SampledRows {
 public:
  using real = accumulate_t<scalar_t>;

  explicit SampledRows(const SampledLoss& loss)
      : loss_(loss),
        offset_(loss.n_sampled),
        weight_(loss.weight.template const_data_ptr<scalar_t>()),
        bias_(loss.bias ? loss.bias->template const_data_ptr<scalar_t>() : nullptr),
        labels_(loss.labels.template const_data_ptr<int64_t>()),
        row_stride_(loss.weight.stride(0)),
        column_stride_(loss.weight.stride(1)),
        bias_stride_(loss.bias ? loss.bias->stride(0) : 0) {
    const int64_t k = loss.n_sampled, d = loss.n_features;
    sampled_rows_ = torch::stable::new_empty(loss.hidden, {k, d}, kReal);
    real* to = sampled_rows_.template mutable_data_ptr<real>();
    const int64_t* ids = loss.sampled.template const_data_ptr<int64_t>();
    torch::stable::parallel_for(0, k, std::max<int64_t>(1, kGrain / d), [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        copy_row(ids[j], to + j * d);
      }
    });
    const real* count =
        loss.sampled_expected_count ? loss.sampled_expected_count->template const_data_ptr<real>() : nullptr;
    for (int64_t j = 0; j < k; ++j) {
      offset_[j] = bias(ids[j]) - (count ? std::log(count[j]) : 0);
    }
    if (loss.remove_accidental_hits) {
      for (int64_t j = 0; j < k; ++j) {
        positions_.emplace_back(ids[j], j);
      }
      std::sort(positions_.begin(), positions_.end());
    }
  }

  // Calls `visit(row, sampled, truth)` with the K and T corrected logits of every row; a removed hit is -inf there.
  template <typename Visit>
  void forward(const Visit& visit) {
    for_each_block([&](int64_t first, int64_t n, const Tensor& hidden, Tensor& logits) {
      for_each_row(first, n, hidden, logits, visit);
    });
  }

  // The same, where `visit` puts the gradient in place of each logit. Returns the gradients of hidden (N, D), and of
  // the rows (K + N * T, D) and biases (K + N * T,) of classes cat(sampled, labels), and those ids.
  template <typename Visit>
  std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Visit& visit) {
    const int64_t k = loss_.n_sampled, t = loss_.n_true, d = loss_.n_features, rows = k + loss_.n_rows * t;
    Tensor d_hidden = torch::stable::empty_like(loss_.hidden);
    Tensor d_rows = torch::stable::new_empty(loss_.hidden, {rows, d});
    Tensor d_biases = torch::stable::new_empty(loss_.hidden, {rows}, kReal);  // few, so not worth rounding
    Tensor ids = torch::stable::new_empty(loss_.hidden, {rows}, torch::headeronly::ScalarType::Long);
    Tensor d_sampled = torch::stable::new_zeros(loss_.hidden, {k, d}, kReal);  // summed over blocks
    std::vector<real> d_offset(k, 0);
    real* sums = d_sampled.template mutable_data_ptr<real>();
    scalar_t* to_hidden = d_hidden.template mutable_data_ptr<scalar_t>();
    scalar_t* to_rows = d_rows.template mutable_data_ptr<scalar_t>();
    real* to_biases = d_biases.template mutable_data_ptr<real>();

    Tensor products = torch::stable::new_empty(loss_.hidden, {k, d}, kReal);
    const real* product = products.template const_data_ptr<real>();
    for_each_block([&](int64_t first, int64_t n, const Tensor& hidden, Tensor& logits) {
      std::vector<real> d_truth(n * t);
      for_each_row(first, n, hidden, logits, [&](int64_t i, real* sampled, real* truth) {
        visit(i, sampled, truth);
        for_each_hit(i, [&](int64_t j) { sampled[j] = 0; });
        std::copy(truth, truth + t, d_truth.begin() + (i - first) * t);
      });
      Tensor by_samples = torch::stable::narrow(d_hidden, 0, first, n);  // (n, D), in `real`
      if constexpr (!std::is_same_v<scalar_t, real>) {
        by_samples = torch::stable::new_empty(loss_.hidden, {n, d}, kReal);
      }
      multiply(logits, sampled_rows_, by_samples);
      multiply(torch::stable::transpose(logits, 0, 1), hidden, products);
      torch::stable::parallel_for(0, k * d, kGrain, [&](int64_t begin, int64_t end) {
        add_scaled(sums + begin, product + begin, real(1), end - begin);
      });
      add_columns(logits.template const_data_ptr<real>(), n, d_offset);

      real* gradient = by_samples.template mutable_data_ptr<real>();
      const real* h = hidden.template const_data_ptr<real>();
      torch::stable::parallel_for(0, n, std::max<int64_t>(1, kGrain / (d * t)), [&](int64_t begin, int64_t end) {
        std::vector<real> scratch(d);
        for (int64_t r = begin; r < end; ++r) {
          for (int64_t c = 0; c < t; ++c) {
            const real grad = d_truth[r * t + c];
            const int64_t at = k + (first + r) * t + c;
            add_scaled(gradient + r * d, row(label(first + r, c), scratch.data()), grad, d);
            store_scaled(to_rows + at * d, h + r * d, grad, d);
            to_biases[at] = grad;
          }
          if constexpr (!std::is_same_v<scalar_t, real>) {
            store_scaled(to_hidden + (first + r) * d, gradient + r * d, real(1), d);
          }
        }
      });
    });

    torch::stable::parallel_for(0, k * d, kGrain, [&](int64_t begin, int64_t end) {
      store_scaled(to_rows + begin, sums + begin, real(1), end - begin);
    });
    std::copy(d_offset.begin(), d_offset.end(), to_biases);
    const int64_t* sampled_ids = loss_.sampled.template const_data_ptr<int64_t>();
    std::copy(labels_, labels_ + loss_.n_rows * t, std::copy(sampled_ids, sampled_ids + k, ids.mutable_data_ptr<int64_t>()));
    return {d_hidden, d_rows, d_biases, ids};
  }

 private:
  static constexpr auto kReal = std::is_same_v<real, double> ? torch::headeronly::ScalarType::Double
                                                             : torch::headeronly::ScalarType::Float;

  int64_t label(int64_t i, int64_t c) const { return labels_[i * loss_.n_true + c]; }

  real bias(int64_t id) const { return bias_ ? static_cast<real>(bias_[id * bias_stride_]) : real(0); }

  void copy_row(int64_t id, real* to) const {
    const scalar_t* from = weight_ + id * row_stride_;
    for (int64_t f = 0; f < loss_.n_features; ++f) {
      to[f] = static_cast<real>(from[f * column_stride_]);
    }
  }

  // The row of a class: where it lies if it can be read there, else copied into `scratch`.
  const real* row(int64_t id, real* scratch) const {
    if constexpr (std::is_same_v<scalar_t, real>) {
      if (column_stride_ == 1) {
        return weight_ + id * row_stride_;
      }
    }
    copy_row(id, scratch);
    return scratch;
  }

  // Calls `visit(first, n, hidden, logits)` with the rows [first, first + n) of hidden, in `real`, times sampled rows.
  template <typename Visit>
  void for_each_block(const Visit& visit) const {
    const int64_t d = loss_.n_features, block = std::max<int64_t>(32, kBlockLogits / loss_.n_sampled);
    const Tensor columns = torch::stable::transpose(sampled_rows_, 0, 1);  // (D, K)
    Tensor all = torch::stable::new_empty(loss_.hidden, {std::min(block, loss_.n_rows), loss_.n_sampled}, kReal);
    for (int64_t first = 0; first < loss_.n_rows; first += block) {
      const int64_t n = std::min(block, loss_.n_rows - first);
      Tensor hidden = loss_.hidden;
      hidden = torch::stable::narrow(hidden, 0, first, n);
      if constexpr (!std::is_same_v<scalar_t, real>) {
        const scalar_t* from = hidden.template const_data_ptr<scalar_t>();
        hidden = torch::stable::new_empty(hidden, {n, d}, kReal);
        std::copy(from, from + n * d, hidden.template mutable_data_ptr<real>());
      }
      Tensor logits = torch::stable::narrow(all, 0, 0, n);
      multiply(hidden, columns, logits);
      visit(first, n, hidden, logits);
    }
  }

  template <typename Visit>
  void for_each_row(int64_t first, int64_t n, const Tensor& hidden, Tensor& logits, const Visit& visit) const {
    const int64_t k = loss_.n_sampled, t = loss_.n_true, d = loss_.n_features;
    const real* h = hidden.template const_data_ptr<real>();
    real* z = logits.template mutable_data_ptr<real>();
    const real* count =
        loss_.true_expected_count ? loss_.true_expected_count->template const_data_ptr<real>() : nullptr;
    torch::stable::parallel_for(0, n, std::max<int64_t>(1, kGrain / (8 * k + d * t)), [&](int64_t begin, int64_t end) {
      std::vector<real> scratch(d), truth(t);
      for (int64_t r = begin; r < end; ++r) {
        const int64_t i = first + r;
        real* sampled = z + r * k;
        add_scaled(sampled, offset_.data(), real(1), k);
        for_each_hit(i, [&](int64_t j) { sampled[j] = -std::numeric_limits<real>::infinity(); });
        for (int64_t c = 0; c < t; ++c) {
          const int64_t id = label(i, c);
          truth[c] = dot(h + r * d, row(id, scratch.data()), d) + bias(id) - (count ? std::log(count[i * t + c]) : 0);
        }
        visit(i, sampled, truth.data());
      }
    });
  }

  // Calls `visit(j)` for every sample that is one of row i's labels, each of its repetitions included.
  template <typename Visit>
  void for_each_hit(int64_t i, const Visit& visit) const {
    for (int64_t c = 0; c < loss_.n_true && loss_.remove_accidental_hits; ++c) {
      const int64_t id = label(i, c);
      auto hit = std::lower_bound(positions_.begin(), positions_.end(), std::make_pair(id, int64_t(0)));
      for (; hit != positions_.end() && hit->first == id; ++hit) {
        visit(hit->second);
      }
    }
  }

  // sums[j] += the sum of column j, always in the same order however many threads there are.
  void add_columns(const real* z, int64_t n, std::vector<real>& sums) const {
    const int64_t k = loss_.n_sampled;
    torch::stable::parallel_for(0, k, std::max<int64_t>(16, kGrain / n), [&](int64_t begin, int64_t end) {
      for (int64_t r = 0; r < n; ++r) {
        add_scaled(sums.data() + begin, z + r * k + begin, real(1), end - begin);
      }
    });
  }

  const SampledLoss& loss_;
  Tensor sampled_rows_;                               // (K, D)
  std::vector<real> offset_;                          // (K,): bias - log expected count
  std::vector<std::pair<int64_t, int64_t>> positions_;  // (id, position among the samples), sorted
  const scalar_t* weight_;
  const scalar_t* bias_;
  const int64_t* labels_;
  int64_t row_stride_, column_stride_, bias_stride_;
};

}  // namespace torchlayer
