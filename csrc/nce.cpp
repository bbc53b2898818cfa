// Noise-contrastive estimation: a logistic loss for every true class and every sampled one, and its gradient.
#include "sampled_loss.h"

namespace {

using torch::stable::Tensor;
using torchlayer::SampledLoss;
using torchlayer::SampledRows;

constexpr const char* kForward = "nce_loss";
constexpr const char* kBackward = "nce_loss_backward";

std::tuple<Tensor, Tensor> nce_loss(Tensor weight, std::optional<Tensor> bias, Tensor hidden, Tensor labels,
                                    Tensor sampled, std::optional<Tensor> true_expected_count,
                                    std::optional<Tensor> sampled_expected_count, bool remove_accidental_hits,
                                    bool sparse, int64_t keep_bytes) {
  (void)sparse;  // how the gradient is stored, which is autograd's business
  const SampledLoss arguments =
      torchlayer::check_sampled_loss(kForward, weight, bias, hidden, labels, sampled, true_expected_count,
                                     sampled_expected_count, remove_accidental_hits);
  Tensor losses = torchlayer::per_row(arguments);
  torchlayer::dispatch_floating(hidden, kForward, [&](auto zero) {
    using Rows = SampledRows<decltype(zero)>;
    using real = typename Rows::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    real* loss = losses.mutable_data_ptr<real>();
    Rows(arguments).forward([=](int64_t i, const real* sampled, const real* truth) {
      real sum = torchlayer::sum_softplus(sampled, k);
      for (int64_t c = 0; c < t; ++c) {
        // softplus(x) - x / T; for T = 1 that is softplus(-x), which does not cancel for large x
        sum += t == 1 ? torchlayer::softplus_of(-truth[c]) : torchlayer::softplus_of(truth[c]) - truth[c] / t;
      }
      loss[i] = sum;
    });
  });
  return {losses, torchlayer::kept(arguments, keep_bytes)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nce_loss_backward(Tensor grad, Tensor weight, std::optional<Tensor> bias,
                                                             Tensor hidden, Tensor labels, Tensor sampled,
                                                             std::optional<Tensor> true_expected_count,
                                                             std::optional<Tensor> sampled_expected_count, Tensor kept,
                                                             bool remove_accidental_hits) {
  (void)kept;  // nothing: the logits are computed again
  const SampledLoss arguments =
      torchlayer::check_sampled_loss(kBackward, weight, bias, hidden, labels, sampled, true_expected_count,
                                     sampled_expected_count, remove_accidental_hits);
  torchlayer::check_per_row(kBackward, "grad", grad, arguments);
  const Tensor grads = torch::stable::contiguous(grad);
  std::tuple<Tensor, Tensor, Tensor, Tensor> gradients;
  torchlayer::dispatch_floating(hidden, kBackward, [&](auto zero) {
    using Rows = SampledRows<decltype(zero)>;
    using real = typename Rows::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    const real* g = grads.const_data_ptr<real>();
    gradients = Rows(arguments).backward([=](int64_t i, real* sampled, real* truth) {
      torchlayer::sigmoid_scaled(sampled, g[i], k);
      for (int64_t c = 0; c < t; ++c) {
        const real x = truth[c];  // sigmoid(x) - 1 / T; for T = 1 that is -sigmoid(-x)
        truth[c] = g[i] * (t == 1 ? -torchlayer::sigmoid_of(-x) : torchlayer::sigmoid_of(x) - real(1) / t);
      }
    });
  });
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("nce_loss", TORCH_BOX(&nce_loss));
  m.impl("nce_loss_backward", TORCH_BOX(&nce_loss_backward));
}
