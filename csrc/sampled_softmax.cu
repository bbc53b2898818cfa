// The loss of sampled_softmax.cpp on CUDA.
#include "sampled_loss_cuda.cuh"

namespace {

using torch::stable::Tensor;
using torchlayer::SampledLoss;
using torchlayer::Softmax;

constexpr const char* kForward = "sampled_softmax_loss";
constexpr const char* kBackward = "sampled_softmax_loss_backward";

std::tuple<Tensor, Tensor, Tensor> sampled_softmax_loss(Tensor weight, std::optional<Tensor> bias, Tensor hidden,
                                                        Tensor labels, Tensor sampled,
                                                        std::optional<Tensor> true_expected_count,
                                                        std::optional<Tensor> sampled_expected_count,
                                                        bool remove_accidental_hits, bool sparse, int64_t keep_bytes) {
  (void)sparse;  // how the gradient is stored, which is autograd's business
  const SampledLoss loss = torchlayer::check_arguments(kForward, weight, bias, hidden, labels, sampled,
                                                       true_expected_count, sampled_expected_count,
                                                       remove_accidental_hits);
  const Tensor losses = torchlayer::per_row(loss), log_sums = torchlayer::per_row(loss);
  const Tensor kept = torchlayer::kept(loss, keep_bytes);
  torchlayer::sampled_loss_forward<Softmax>(kForward, loss, losses, &log_sums, kept);
  return {losses, log_sums, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sampled_softmax_loss_backward(
    Tensor grad, Tensor weight, std::optional<Tensor> bias, Tensor hidden, Tensor labels, Tensor sampled,
    std::optional<Tensor> true_expected_count, std::optional<Tensor> sampled_expected_count, Tensor log_sum_exp,
    Tensor kept, bool remove_accidental_hits) {
  const SampledLoss loss = torchlayer::check_arguments(kBackward, weight, bias, hidden, labels, sampled,
                                                       true_expected_count, sampled_expected_count,
                                                       remove_accidental_hits);
  torchlayer::check_per_row(kBackward, "grad", grad, loss);
  torchlayer::check_per_row(kBackward, "log_sum_exp", log_sum_exp, loss);
  const Tensor grads = torchlayer::contiguous(grad), log_sums = torchlayer::contiguous(log_sum_exp);
  const torchlayer::Gradients gradients(loss);
  torchlayer::sampled_loss_backward<Softmax>(kBackward, loss, grads, &log_sums, kept, gradients);
  return {gradients.hidden, gradients.rows, gradients.biases, gradients.ids};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("sampled_softmax_loss", TORCH_BOX(&sampled_softmax_loss));
  m.impl("sampled_softmax_loss_backward", TORCH_BOX(&sampled_softmax_loss_backward));
}
