// What one process contributes to a sampled loss whose classes are divided among several: the terms of the rows of the
// table that it holds. An id of -1 is a class that another holds. Nothing is kept for the backward, which computes the
// logits again.
#include "sampled_loss.h"

namespace {

using torch::stable::Tensor;
using torchlayer::SampledLoss;

constexpr const char* kSoftmax = "class_parallel_softmax";
constexpr const char* kSoftmaxBackward = "class_parallel_softmax_backward";
constexpr const char* kNce = "class_parallel_nce";
constexpr const char* kNceBackward = "class_parallel_nce_backward";

template <typename... Arguments>
SampledLoss check(const char* op, const Arguments&... arguments) {
  return torchlayer::check_sampled_loss(op, arguments..., torchlayer::kElsewhere);
}

// The logarithm of the sum of the logits' exponentials, -inf if there are none here. They are overwritten.
template <typename real>
real log_sum_exp(real* sampled, int64_t n_sampled, const real* truth, int64_t n_true) {
  const real largest = std::max(torchlayer::max_of(sampled, n_sampled), *std::max_element(truth, truth + n_true));
  const real shift = std::isfinite(largest) ? largest : real(0);  // shifted by an infinity all others would be NaN
  real sum = torchlayer::exp_sum(sampled, shift, n_sampled);
  for (int64_t c = 0; c < n_true; ++c) {
    sum += std::exp(truth[c] - shift);
  }
  return shift + std::log(sum);
}

std::tuple<Tensor, Tensor> softmax(Tensor weight, std::optional<Tensor> bias, Tensor hidden, Tensor labels,
                                   Tensor sampled, std::optional<Tensor> true_expected_count,
                                   std::optional<Tensor> sampled_expected_count, bool remove_accidental_hits,
                                   bool sparse) {
  (void)sparse;  // how the gradient is stored, which is autograd's business
  const SampledLoss arguments = check(kSoftmax, weight, bias, hidden, labels, sampled, true_expected_count,
                                      sampled_expected_count, remove_accidental_hits);
  Tensor log_sums = torchlayer::per_row(arguments), means = torchlayer::per_row(arguments);
  torchlayer::with_sampled_rows(arguments, kSoftmax, [&](auto& rows) {
    using real = typename std::decay_t<decltype(rows)>::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    const int64_t* label = arguments.labels.const_data_ptr<int64_t>();
    real* log_sum = log_sums.mutable_data_ptr<real>();
    real* mean = means.mutable_data_ptr<real>();
    rows.forward(torchlayer::kept(arguments, 0), [=](int64_t i, real* sampled, real* truth) {
      mean[i] = 0;
      for (int64_t c = 0; c < t; ++c) {
        mean[i] += label[i * t + c] == torchlayer::kElsewhere ? 0 : truth[c] / t;
      }
      log_sum[i] = log_sum_exp(sampled, k, truth, t);
      return real(1);
    });
  });
  return {log_sums, means};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> softmax_backward(Tensor grad_log_sum, Tensor grad_mean, Tensor weight,
                                                            std::optional<Tensor> bias, Tensor hidden, Tensor labels,
                                                            Tensor sampled, std::optional<Tensor> true_expected_count,
                                                            std::optional<Tensor> sampled_expected_count,
                                                            Tensor log_sum_exp, bool remove_accidental_hits) {
  const SampledLoss arguments = check(kSoftmaxBackward, weight, bias, hidden, labels, sampled, true_expected_count,
                                      sampled_expected_count, remove_accidental_hits);
  torchlayer::check_per_row(kSoftmaxBackward, "grad_log_sum", grad_log_sum, arguments);
  torchlayer::check_per_row(kSoftmaxBackward, "grad_mean", grad_mean, arguments);
  torchlayer::check_per_row(kSoftmaxBackward, "log_sum_exp", log_sum_exp, arguments);
  const Tensor by_sums = torchlayer::contiguous(grad_log_sum), by_means = torchlayer::contiguous(grad_mean);
  const Tensor log_sums = torchlayer::contiguous(log_sum_exp), ones = torchlayer::per_row(arguments);
  std::tuple<Tensor, Tensor, Tensor, Tensor> gradients;
  torchlayer::with_sampled_rows(arguments, kSoftmaxBackward, [&](auto& rows) {
    using real = typename std::decay_t<decltype(rows)>::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    const int64_t* label = arguments.labels.const_data_ptr<int64_t>();
    const real* log_sum = log_sums.const_data_ptr<real>();
    const real* by_sum = by_sums.const_data_ptr<real>();
    const real* by_mean = by_means.const_data_ptr<real>();
    std::fill_n(ones.mutable_data_ptr<real>(), arguments.n_rows, real(1));  // the two gradients are in the errors
    gradients = rows.backward(
        ones, torchlayer::kept(arguments, 0),
        [=](int64_t i, real* sampled, real* truth) {
          const real nothing = -std::numeric_limits<real>::infinity();
          if (log_sum[i] == nothing) {  // every term of the row is elsewhere or left out
            std::fill(sampled, sampled + k, real(0));
          } else {
            torchlayer::exp_sum(sampled, log_sum[i], k);
          }
          for (int64_t c = 0; c < t; ++c) {
            const bool here = label[i * t + c] != torchlayer::kElsewhere;
            truth[c] = here ? by_sum[i] * std::exp(truth[c] - log_sum[i]) + by_mean[i] / t : 0;
          }
          return by_sum[i];
        },
        [=](int64_t i, real z) { return by_sum[i] * std::exp(z - log_sum[i]); });
  });
  return gradients;
}

// The loss of the terms of a row that are here. In place of the logits it leaves the errors.
template <typename real>
real logistic(const int64_t* labels, real* sampled, int64_t n_sampled, real* truth, int64_t n_true) {
  real sum = torchlayer::sigmoid_sum_softplus(sampled, n_sampled);
  for (int64_t c = 0; c < n_true; ++c) {
    const real x = truth[c];
    if (labels[c] == torchlayer::kElsewhere) {
      truth[c] = 0;
    } else if (n_true == 1) {  // softplus(x) - x is softplus(-x), which does not cancel for large x
      sum += torchlayer::softplus_of(-x);
      truth[c] = -torchlayer::sigmoid_of(-x);
    } else {
      sum += torchlayer::softplus_of(x) - x / n_true;
      truth[c] = torchlayer::sigmoid_of(x) - real(1) / n_true;
    }
  }
  return sum;
}

Tensor nce(Tensor weight, std::optional<Tensor> bias, Tensor hidden, Tensor labels, Tensor sampled,
           std::optional<Tensor> true_expected_count, std::optional<Tensor> sampled_expected_count,
           bool remove_accidental_hits, bool sparse) {
  (void)sparse;
  const SampledLoss arguments = check(kNce, weight, bias, hidden, labels, sampled, true_expected_count,
                                      sampled_expected_count, remove_accidental_hits);
  Tensor losses = torchlayer::per_row(arguments);
  torchlayer::with_sampled_rows(arguments, kNce, [&](auto& rows) {
    using real = typename std::decay_t<decltype(rows)>::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    const int64_t* label = arguments.labels.const_data_ptr<int64_t>();
    real* loss = losses.mutable_data_ptr<real>();
    rows.forward(torchlayer::kept(arguments, 0), [=](int64_t i, real* sampled, real* truth) {
      loss[i] = logistic(label + i * t, sampled, k, truth, t);
      return real(1);
    });
  });
  return losses;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nce_backward(Tensor grad, Tensor weight, std::optional<Tensor> bias,
                                                        Tensor hidden, Tensor labels, Tensor sampled,
                                                        std::optional<Tensor> true_expected_count,
                                                        std::optional<Tensor> sampled_expected_count,
                                                        bool remove_accidental_hits) {
  const SampledLoss arguments = check(kNceBackward, weight, bias, hidden, labels, sampled, true_expected_count,
                                      sampled_expected_count, remove_accidental_hits);
  torchlayer::check_per_row(kNceBackward, "grad", grad, arguments);
  const Tensor grads = torchlayer::contiguous(grad);
  std::tuple<Tensor, Tensor, Tensor, Tensor> gradients;
  torchlayer::with_sampled_rows(arguments, kNceBackward, [&](auto& rows) {
    using real = typename std::decay_t<decltype(rows)>::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    const int64_t* label = arguments.labels.const_data_ptr<int64_t>();
    gradients = rows.backward(
        grads, torchlayer::kept(arguments, 0),
        [=](int64_t i, real* sampled, real* truth) {
          logistic(label + i * t, sampled, k, truth, t);
          return real(1);
        },
        [=](int64_t, real z) { return torchlayer::sigmoid_of(z); });
  });
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("class_parallel_softmax", TORCH_BOX(&softmax));
  m.impl("class_parallel_softmax_backward", TORCH_BOX(&softmax_backward));
  m.impl("class_parallel_nce", TORCH_BOX(&nce));
  m.impl("class_parallel_nce_backward", TORCH_BOX(&nce_backward));
}
