// Noise-contrastive estimation: a logistic loss for every true class and every sampled one, and its gradient.
#include "sampled_loss.h"

namespace {

using torch::stable::Tensor;
using torchlayer::SampledLoss;

constexpr const char* kForward = "nce_loss";
constexpr const char* kBackward = "nce_loss_backward";

// The loss of one row. In place of the logits it leaves the errors.
template <typename real>
real logistic(real* sampled, int64_t n_sampled, real* truth, int64_t n_true) {
  real sum = torchlayer::sigmoid_sum_softplus(sampled, n_sampled);
  for (int64_t c = 0; c < n_true; ++c) {
    const real x = truth[c];
    if (n_true == 1) {  // softplus(x) - x is softplus(-x), which does not cancel for large x; so is its derivative
      sum += torchlayer::softplus_of(-x);
      truth[c] = -torchlayer::sigmoid_of(-x);
    } else {
      sum += torchlayer::softplus_of(x) - x / n_true;
      truth[c] = torchlayer::sigmoid_of(x) - real(1) / n_true;
    }
  }
  return sum;
}

std::tuple<Tensor, Tensor> nce_loss(Tensor weight, std::optional<Tensor> bias, Tensor hidden, Tensor labels,
                                    Tensor sampled, std::optional<Tensor> true_expected_count,
                                    std::optional<Tensor> sampled_expected_count, bool remove_accidental_hits,
                                    bool sparse, int64_t keep_bytes) {
  (void)sparse;  // how the gradient is stored, which is autograd's business
  const SampledLoss arguments =
      torchlayer::check_sampled_loss(kForward, weight, bias, hidden, labels, sampled, true_expected_count,
                                     sampled_expected_count, remove_accidental_hits);
  Tensor losses = torchlayer::per_row(arguments);
  const Tensor kept = torchlayer::kept(arguments, keep_bytes);
  torchlayer::with_sampled_rows(arguments, kForward, [&](auto& rows) {
    using real = typename std::decay_t<decltype(rows)>::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    real* loss = losses.mutable_data_ptr<real>();
    rows.forward(kept, [=](int64_t i, real* sampled, real* truth) {
      loss[i] = logistic(sampled, k, truth, t);
      return real(1);
    });
  });
  return {losses, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nce_loss_backward(Tensor grad, Tensor weight, std::optional<Tensor> bias,
                                                             Tensor hidden, Tensor labels, Tensor sampled,
                                                             std::optional<Tensor> true_expected_count,
                                                             std::optional<Tensor> sampled_expected_count, Tensor kept,
                                                             bool remove_accidental_hits) {
  const SampledLoss arguments =
      torchlayer::check_sampled_loss(kBackward, weight, bias, hidden, labels, sampled, true_expected_count,
                                     sampled_expected_count, remove_accidental_hits);
  torchlayer::check_per_row(kBackward, "grad", grad, arguments);
  torchlayer::check_kept(kBackward, kept, arguments);
  const Tensor grads = torchlayer::contiguous(grad);
  std::tuple<Tensor, Tensor, Tensor, Tensor> gradients;
  torchlayer::with_sampled_rows(arguments, kBackward, [&](auto& rows) {
    using real = typename std::decay_t<decltype(rows)>::real;
    const int64_t k = arguments.n_sampled, t = arguments.n_true;
    gradients = rows.backward(
        grads, kept,
        [=](int64_t, real* sampled, real* truth) {
          logistic(sampled, k, truth, t);
          return real(1);
        },
        [=](int64_t, real z) { return torchlayer::sigmoid_of(z); });
  });
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("nce_loss", TORCH_BOX(&nce_loss));
  m.impl("nce_loss_backward", TORCH_BOX(&nce_loss_backward));
}
