// What the CUDA kernels of sampled softmax and NCE share: the arguments as a kernel sees them, and the two losses.
#pragma once

#include "bad_ids.cuh"
#include "launch.cuh"
#include "sampled_loss_arguments.h"

#include <cstdint>

namespace torchlayer {

// The arguments by value. Kernels index with int64 where N, V or products of sizes enter; K, T and D fit in an int.
template <typename scalar_t>
struct Given {
  using real = accumulate_t<scalar_t>;

  const scalar_t* weight;
  int64_t row_stride, column_stride;
  const scalar_t* bias;  // or null
  int64_t bias_stride;
  const scalar_t* hidden;        // (N, D)
  const int64_t* labels;         // (N, T)
  const int64_t* sampled;        // (K,)
  const real* true_count;        // (N, T), or null
  const real* sampled_count;     // (K,), or null
  int64_t n_rows, n_classes;
  int n_true, n_sampled, n_features;
  bool remove_accidental_hits;
  IdReporter reporter;

  // Only a forward reports: its backward meets the same ids again.
  explicit Given(const SampledLoss& loss, IdReporter reporter = {})
      : weight(loss.weight.template const_data_ptr<scalar_t>()),
        row_stride(loss.weight.stride(0)),
        column_stride(loss.weight.stride(1)),
        bias(loss.bias ? loss.bias->template const_data_ptr<scalar_t>() : nullptr),
        bias_stride(loss.bias ? loss.bias->stride(0) : 0),
        hidden(loss.hidden.template const_data_ptr<scalar_t>()),
        labels(loss.labels.template const_data_ptr<int64_t>()),
        sampled(loss.sampled.template const_data_ptr<int64_t>()),
        true_count(loss.true_expected_count ? loss.true_expected_count->template const_data_ptr<real>() : nullptr),
        sampled_count(loss.sampled_expected_count ? loss.sampled_expected_count->template const_data_ptr<real>()
                                                  : nullptr),
        n_rows(loss.n_rows),
        n_classes(loss.n_classes),
        n_true(static_cast<int>(loss.n_true)),
        n_sampled(static_cast<int>(loss.n_sampled)),
        n_features(static_cast<int>(loss.n_features)),
        remove_accidental_hits(loss.remove_accidental_hits),
        reporter(reporter) {}

  // An id that names no class is never followed: it is moved into range, its row's loss is NaN, and it is reported.
  __device__ bool is_bad(int64_t id) const { return id < 0 || id >= n_classes; }
  __device__ int64_t clamp(int64_t id) const { return id < 0 ? 0 : id >= n_classes ? n_classes - 1 : id; }

  __device__ void look_at_label(int64_t row, int64_t id) const {
    if (is_bad(id)) {
      reporter.report(IdArgument::kLabels, row, id, n_classes);
    }
  }
  __device__ void look_at_sample(int64_t j, int64_t id) const {
    if (is_bad(id)) {
      reporter.report(IdArgument::kSamples, j, id, n_classes);
    }
  }

  // What is added to the product of a row of hidden and a class's row: its bias, less the log of its expected count.
  __device__ real true_offset(int64_t id, int64_t at) const {
    return (bias ? static_cast<real>(bias[clamp(id) * bias_stride]) : real(0)) - (true_count ? log(true_count[at]) : real(0));
  }
  __device__ real sampled_offset(int j) const {
    return (bias ? static_cast<real>(bias[clamp(sampled[j]) * bias_stride]) : real(0)) -
           (sampled_count ? log(sampled_count[j]) : real(0));
  }
};

// log(1 + exp(x)), right for every x.
template <typename real>
__device__ real softplus(real x) {
  return max(x, real(0)) + log1p(exp(-abs(x)));
}

template <typename real>
__device__ real sigmoid(real x) {
  return real(1) / (real(1) + exp(-x));
}

// The two losses, as far as a kernel must tell them apart. An NCE term of a logit x has the target 1 / T if it is a true
// one and 0 else; with one label, log(1 + exp(-x)) and -sigmoid(-x) do not cancel for large x as x's own form would.
struct Softmax {
  static constexpr bool kNormalised = true;
};

struct Nce {
  static constexpr bool kNormalised = false;

  template <typename real>
  __device__ static real true_loss(real x, int n_true) {
    return n_true == 1 ? softplus(-x) : softplus(x) - x / n_true;
  }
  template <typename real>
  __device__ static real true_error(real x, int n_true) {
    return n_true == 1 ? -sigmoid(-x) : sigmoid(x) - real(1) / n_true;
  }
};

// Gradients as the backward ops return them: of hidden (N, D), and of the rows (K + N * T, D) and biases (K + N * T,)
// of the classes in ids (K + N * T,), which are cat(sampled, labels) moved into range.
struct Gradients {
  Tensor hidden, rows, biases, ids;

  explicit Gradients(const SampledLoss& loss) {
    using torch::headeronly::ScalarType;
    const int64_t n = loss.n_sampled + loss.n_rows * loss.n_true;
    const auto dtype = loss.hidden.scalar_type();
    const auto real = loss.weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    hidden = new_empty(loss.hidden, std::array{loss.n_rows, loss.n_features}, dtype);
    rows = new_empty(loss.hidden, std::array{n, loss.n_features}, dtype);
    biases = new_empty(loss.hidden, std::array{n}, real);
    ids = new_empty(loss.hidden, std::array{n}, ScalarType::Long);
  }
};

}  // namespace torchlayer
