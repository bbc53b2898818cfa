// Softmax cross-entropy over the true classes and the sampled ones, and its gradient.
#include "sampled_loss.h"

namespace {

using torch::stable::Tensor;
using torchlayer::SampledLoss;
using torchlayer::SampledRows;

constexpr const char* kForward = "sampled_softmax_loss";
constexpr const char* kBackward = "sampled_softmax_loss_backward";

template <typename real>
real log_sum_exp(const real* sampled, int64_t n_sampled, const real* truth, int64_t n_true) {
  const real largest = std::max(torchlayer::max_of(sampled, n_sampled), torchlayer::max_of(truth, n_true));
  // Shifted by an infinity every other logit would be NaN; without it the sum is infinite, zero or NaN, as it should.
  const real shift = std::isfinite(largest) ? largest : real(0);
  real sum = 0;
  if (std::isfinite(largest)) {
    sum = torchlayer::sum_exp(sampled, shift, n_sampled) + torchlayer::sum_exp(truth, shift, n_true);
  } else {
    for (int64_t j = 0; j < n_sampled; ++j) {
      sum += std::exp(sampled[j]);
    }
    for (int64_t c = 0; c < n_true; ++c) {
      sum += std::exp(truth[c]);
    }
  }
  return shift + std::log(sum);
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
  torchlayer::dispatch_floating(hidden, kForward, [&](auto zero) {
    using Rows = SampledRows<decltype(zero)>;
    using real = typename Rows::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    real* loss = losses.mutable_data_ptr<real>();
    real* log_sum = log_sums.mutable_data_ptr<real>();
    Rows(arguments).forward([=](int64_t i, const real* sampled, const real* truth) {
      log_sum[i] = log_sum_exp(sampled, k, truth, t);
      real mean = 0;
      for (int64_t c = 0; c < t; ++c) {
        mean += truth[c] / t;
      }
      loss[i] = log_sum[i] - mean;
    });
  });
  return {losses, log_sums, torchlayer::kept(arguments, keep_bytes)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sampled_softmax_loss_backward(
    Tensor grad, Tensor weight, std::optional<Tensor> bias, Tensor hidden, Tensor labels, Tensor sampled,
    std::optional<Tensor> true_expected_count, std::optional<Tensor> sampled_expected_count, Tensor log_sum_exp,
    Tensor kept, bool remove_accidental_hits) {
  (void)kept;  // nothing: the logits are computed again
  const SampledLoss arguments =
      torchlayer::check_sampled_loss(kBackward, weight, bias, hidden, labels, sampled, true_expected_count,
                                     sampled_expected_count, remove_accidental_hits);
  torchlayer::check_per_row(kBackward, "grad", grad, arguments);
  torchlayer::check_per_row(kBackward, "log_sum_exp", log_sum_exp, arguments);
  const Tensor grads = torch::stable::contiguous(grad), log_sums = torch::stable::contiguous(log_sum_exp);
  std::tuple<Tensor, Tensor, Tensor, Tensor> gradients;
  torchlayer::dispatch_floating(hidden, kBackward, [&](auto zero) {
    using Rows = SampledRows<decltype(zero)>;
    using real = typename Rows::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    const real* g = grads.const_data_ptr<real>();
    const real* log_sum = log_sums.const_data_ptr<real>();
    gradients = Rows(arguments).backward([=](int64_t i, real* sampled, real* truth) {
      torchlayer::exp_scaled(sampled, log_sum[i], g[i], k);
      for (int64_t c = 0; c < t; ++c) {
        truth[c] = g[i] * (std::exp(truth[c] - log_sum[i]) - real(1) / t);
      }
    });
  });
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("sampled_softmax_loss", TORCH_BOX(&sampled_softmax_loss));
  m.impl("sampled_softmax_loss_backward", TORCH_BOX(&sampled_softmax_loss_backward));
}
