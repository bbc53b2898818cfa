// Softmax cross-entropy over the true classes and the sampled ones, and its gradient.
#include "sampled_loss.h"

namespace {

using torch::stable::Tensor;
using torchlayer::SampledLoss;

constexpr const char* kForward = "sampled_softmax_loss";
constexpr const char* kBackward = "sampled_softmax_loss_backward";

// The logarithm of the sum of the logits' exponentials. In place of the logits it leaves p * factor for the samples and
// p - 1 / T for the true classes, where p are their probabilities and `factor` is returned, too.
template <typename real>
std::pair<real, real> softmax(real* sampled, int64_t n_sampled, real* truth, int64_t n_true) {
  const real largest = std::max(torchlayer::max_of(sampled, n_sampled), torchlayer::max_of(truth, n_true));
  if (std::isfinite(largest)) {
    real sum = torchlayer::exp_sum(sampled, largest, n_sampled);
    for (int64_t c = 0; c < n_true; ++c) {
      truth[c] = torchlayer::exp_of(truth[c] - largest);
      sum += truth[c];
    }
    for (int64_t c = 0; c < n_true; ++c) {
      truth[c] = truth[c] / sum - real(1) / n_true;
    }
    return {largest + std::log(sum), 1 / sum};
  }
  // Shifted by an infinity every other logit would be NaN; without it the sum is infinite, zero or NaN, as it should.
  real sum = 0;
  for (int64_t j = 0; j < n_sampled; ++j) {
    sum += std::exp(sampled[j]);
  }
  for (int64_t c = 0; c < n_true; ++c) {
    sum += std::exp(truth[c]);
  }
  const real log_sum = std::log(sum);
  for (int64_t j = 0; j < n_sampled; ++j) {
    const bool hit = sampled[j] == -std::numeric_limits<real>::infinity();
    sampled[j] = hit ? 0 : std::exp(sampled[j] - log_sum);
  }
  for (int64_t c = 0; c < n_true; ++c) {
    truth[c] = std::exp(truth[c] - log_sum) - real(1) / n_true;
  }
  return {log_sum, real(1)};
}

std::tuple<Tensor, Tensor, Tensor> sampled_softmax_loss(Tensor weight, std::optional<Tensor> bias, Tensor hidden,
                                                        Tensor labels, Tensor sampled,
                                                        std::optional<Tensor> true_expected_count,
                                                        std::optional<Tensor> sampled_expected_count,
                                                        bool remove_accidental_hits, bool sparse, int64_t keep_bytes) {
  (void)sparse;  // how the gradient is stored, which is autograd's business
  const SampledLoss arguments =
      torchlayer::check_sampled_loss(kForward, weight, bias, hidden, labels, sampled, true_expected_count,
                                     sampled_expected_count, remove_accidental_hits);
  Tensor losses = torchlayer::per_row(arguments), log_sums = torchlayer::per_row(arguments);
  const Tensor kept = torchlayer::kept(arguments, keep_bytes);
  torchlayer::with_sampled_rows(arguments, kForward, [&](auto& rows) {
    using real = typename std::decay_t<decltype(rows)>::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    real* loss = losses.mutable_data_ptr<real>();
    real* log_sum = log_sums.mutable_data_ptr<real>();
    rows.forward(kept, [=](int64_t i, real* sampled, real* truth) {
      real mean = 0, factor;
      for (int64_t c = 0; c < t; ++c) {
        mean += truth[c] / t;
      }
      std::tie(log_sum[i], factor) = softmax(sampled, k, truth, t);
      loss[i] = log_sum[i] - mean;
      return factor;
    });
  });
  return {losses, log_sums, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sampled_softmax_loss_backward(
    Tensor grad, Tensor weight, std::optional<Tensor> bias, Tensor hidden, Tensor labels, Tensor sampled,
    std::optional<Tensor> true_expected_count, std::optional<Tensor> sampled_expected_count, Tensor log_sum_exp,
    Tensor kept, bool remove_accidental_hits) {
  const SampledLoss arguments =
      torchlayer::check_sampled_loss(kBackward, weight, bias, hidden, labels, sampled, true_expected_count,
                                     sampled_expected_count, remove_accidental_hits);
  torchlayer::check_per_row(kBackward, "grad", grad, arguments);
  torchlayer::check_per_row(kBackward, "log_sum_exp", log_sum_exp, arguments);
  torchlayer::check_kept(kBackward, kept, arguments);
  const Tensor grads = torchlayer::contiguous(grad), log_sums = torchlayer::contiguous(log_sum_exp);
  std::tuple<Tensor, Tensor, Tensor, Tensor> gradients;
  torchlayer::with_sampled_rows(arguments, kBackward, [&](auto& rows) {
    using real = typename std::decay_t<decltype(rows)>::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    const real* log_sum = log_sums.const_data_ptr<real>();
    gradients = rows.backward(
        grads, kept, [=](int64_t, real* sampled, real* truth) { return softmax(sampled, k, truth, t).second; },
        [=](int64_t i, real z) { return std::exp(z - log_sum[i]); });
  });
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("sampled_softmax_loss", TORCH_BOX(&sampled_softmax_loss));
  m.impl("sampled_softmax_loss_backward", TORCH_BOX(&sampled_softmax_loss_backward));
}
