// What sampled softmax and NCE are given, on any device, and the tensors they return.
#pragma once

#include "tensors.h"

#include <optional>

namespace torchlayer {

using torch::stable::Tensor;

// The arguments that both losses take, once they are known to fit together. N rows, T labels each, K samples,
// V classes, D features.
struct SampledLoss {
  Tensor weight;                // (V, D), any strides
  std::optional<Tensor> bias;   // (V,), any stride
  Tensor hidden;                // (N, D), from here on contiguous
  Tensor labels;                // (N, T) int64, or (N,) where T is 1
  Tensor sampled;               // (K,) int64
  std::optional<Tensor> true_expected_count, sampled_expected_count;  // like labels, (K,) in the type of the sums, or none
  bool remove_accidental_hits;
  int64_t n_rows, n_true, n_sampled, n_classes, n_features;
};

inline SampledLoss check_arguments(const char* op, const Tensor& weight, const std::optional<Tensor>& bias,
                                   const Tensor& hidden, const Tensor& labels, const Tensor& sampled,
                                   const std::optional<Tensor>& true_expected_count,
                                   const std::optional<Tensor>& sampled_expected_count, bool remove_accidental_hits) {
  using torch::headeronly::ScalarType;
  const bool ranks = weight.dim() == 2 && hidden.dim() == 2 && (labels.dim() == 1 || labels.dim() == 2) &&
                     sampled.dim() == 1;
  STD_TORCH_CHECK(ranks, op, " needs weight (V, D), hidden (N, D), labels (N,) or (N, T) and sampled (K,)");
  SampledLoss loss{weight, bias, torchlayer::contiguous(hidden), torchlayer::contiguous(labels),
                   torchlayer::contiguous(sampled), std::nullopt, std::nullopt, remove_accidental_hits,
                   hidden.size(0), labels.dim() == 1 ? 1 : labels.size(1), sampled.size(0), weight.size(0), weight.size(1)};
  STD_TORCH_CHECK(hidden.size(1) == loss.n_features && labels.size(0) == loss.n_rows, op,
                  " needs weight (V, D), hidden (N, D) and labels (N, T) that agree in D and N");
  STD_TORCH_CHECK(loss.n_classes > 0 && loss.n_features > 0 && loss.n_true > 0 && loss.n_sampled > 0, op,
                  " needs at least one class, feature, label a row and sample");
  STD_TORCH_CHECK(hidden.scalar_type() == weight.scalar_type() &&
                      (!bias || bias->scalar_type() == weight.scalar_type()),
                  op, " needs weight, bias and hidden of one dtype");
  STD_TORCH_CHECK(labels.scalar_type() == ScalarType::Long && sampled.scalar_type() == ScalarType::Long, op,
                  " needs int64 labels and samples");
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == loss.n_classes), op, " needs bias (V,)");
  STD_TORCH_CHECK(true_expected_count.has_value() == sampled_expected_count.has_value(), op,
                  " needs both expected counts or neither");
  if (true_expected_count) {
    const auto real = weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    STD_TORCH_CHECK(true_expected_count->scalar_type() == real && sampled_expected_count->scalar_type() == real, op,
                    " needs expected counts in ", torch::headeronly::toString(real));
    STD_TORCH_CHECK(true_expected_count->dim() == labels.dim() && true_expected_count->size(0) == loss.n_rows &&
                        true_expected_count->numel() == labels.numel() && sampled_expected_count->dim() == 1 &&
                        sampled_expected_count->size(0) == loss.n_sampled,
                    op, " needs expected counts in the shapes of labels and samples");
    loss.true_expected_count = torchlayer::contiguous(*true_expected_count);
    loss.sampled_expected_count = torchlayer::contiguous(*sampled_expected_count);
  }
  const auto here = [&](const Tensor& tensor) {
    return tensor.is_cuda() == hidden.is_cuda() && tensor.get_device_index() == hidden.get_device_index();
  };
  STD_TORCH_CHECK(here(weight) && here(labels) && here(sampled) && (!bias || here(*bias)) &&
                      (!true_expected_count || (here(*true_expected_count) && here(*sampled_expected_count))),
                  op, " needs all tensors on one device");
  return loss;
}

// One value a row, as the losses return it and their backward is given it.
inline void check_per_row(const char* op, const char* argument, const Tensor& tensor, const SampledLoss& loss) {
  using torch::headeronly::ScalarType;
  const auto real = loss.weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == loss.n_rows && tensor.scalar_type() == real &&
                      tensor.is_cuda() == loss.hidden.is_cuda() &&
                      tensor.get_device_index() == loss.hidden.get_device_index(),
                  op, " needs ", argument, " (N,) in ", torch::headeronly::toString(real), " beside hidden");
}

inline Tensor per_row(const SampledLoss& loss) {
  using torch::headeronly::ScalarType;
  const auto real = loss.weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return torchlayer::new_empty(loss.hidden, std::array{loss.n_rows}, real);
}

// What the forward leaves for the backward, as the kernels of a device see fit.
inline Tensor kept(const SampledLoss& loss, int64_t n_bytes) {
  return torchlayer::new_empty(loss.hidden, std::array{n_bytes}, torch::headeronly::ScalarType::Byte);
}

inline void check_kept(const char* op, const Tensor& kept, const SampledLoss& loss) {
  STD_TORCH_CHECK(kept.dim() == 1 && kept.scalar_type() == torch::headeronly::ScalarType::Byte &&
                      kept.is_contiguous() && kept.is_cuda() == loss.hidden.is_cuda() &&
                      kept.get_device_index() == loss.hidden.get_device_index(),
                  op, " needs kept as its forward returned it: a row of bytes beside hidden");
}

}  // namespace torchlayer
