// The loss of nce.cpp on CUDA.
#include "sampled_loss_cuda.cuh"

namespace {

using torch::stable::Tensor;
using torchlayer::SampledLoss;
using torchlayer::Nce;

constexpr const char* kForward = "nce_loss";
constexpr const char* kBackward = "nce_loss_backward";

std::tuple<Tensor, Tensor> nce_loss(Tensor weight, std::optional<Tensor> bias, Tensor hidden, Tensor labels,
                                    Tensor sampled, std::optional<Tensor> true_expected_count,
                                    std::optional<Tensor> sampled_expected_count, bool remove_accidental_hits,
                                    bool sparse, int64_t keep_bytes) {
  (void)sparse;  // how the gradient is stored, which is autograd's business
  const SampledLoss loss = torchlayer::check_arguments(kForward, weight, bias, hidden, labels, sampled,
                                                       true_expected_count, sampled_expected_count,
                                                       remove_accidental_hits);
  const Tensor losses = torchlayer::per_row(loss);
  const Tensor kept = torchlayer::kept(loss, keep_bytes);
  torchlayer::sampled_loss_forward<Nce>(kForward, loss, losses, nullptr, kept);
  return {losses, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> nce_loss_backward(
    Tensor grad, Tensor weight, std::optional<Tensor> bias, Tensor hidden, Tensor labels, Tensor sampled,
    std::optional<Tensor> true_expected_count, std::optional<Tensor> sampled_expected_count, Tensor kept,
    bool remove_accidental_hits) {
  const SampledLoss loss = torchlayer::check_arguments(kBackward, weight, bias, hidden, labels, sampled,
                                                       true_expected_count, sampled_expected_count,
                                                       remove_accidental_hits);
  torchlayer::check_per_row(kBackward, "grad", grad, loss);
  const Tensor grads = torchlayer::contiguous(grad);
  const torchlayer::Gradients gradients(loss);
  torchlayer::sampled_loss_backward<Nce>(kBackward, loss, grads, nullptr, kept, gradients);
  return {gradients.hidden, gradients.rows, gradients.biases, gradients.ids};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("nce_loss", TORCH_BOX(&nce_loss));
  m.impl("nce_loss_backward", TORCH_BOX(&nce_loss_backward));
}
