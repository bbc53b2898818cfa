// What adam.cpp and adam.cu are both given, and what they demand of it.
#pragma once

#include "check.h"

#include <vector>

namespace torchlayer {

struct Adam {
  double beta1, beta2, eps, weight_decay;
  bool decoupled;  // AdamW: shrink the weights themselves, not by way of the gradient
};

// Every element of the storage behind it exactly once, in whatever order: then storage order will do.
inline bool is_dense(const torch::stable::Tensor& tensor) {
  int64_t reach = 1;
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    reach += (tensor.size(axis) - 1) * tensor.stride(axis);
  }
  return tensor.numel() == 0 || reach == tensor.numel();
}

inline bool same_layout(const torch::stable::Tensor& a, const torch::stable::Tensor& b) {
  bool same = a.dim() == b.dim() && a.scalar_type() == b.scalar_type() && a.is_cuda() == b.is_cuda() &&
              a.get_device_index() == b.get_device_index();
  for (int64_t axis = 0; same && axis < a.dim(); ++axis) {
    same = a.size(axis) == b.size(axis) && (a.size(axis) == 1 || a.stride(axis) == b.stride(axis));
  }
  return same;
}

inline void check_adam(const Adam& adam, const std::vector<torch::stable::Tensor>& params,
                       const std::vector<torch::stable::Tensor>& grads,
                       const std::vector<torch::stable::Tensor>& exp_avgs,
                       const std::vector<torch::stable::Tensor>& exp_avg_sqs,
                       const std::vector<torch::stable::Tensor>& steps, const torch::stable::Tensor& lr) {
  using torch::headeronly::ScalarType;
  const size_t n = params.size();
  STD_TORCH_CHECK(grads.size() == n && exp_avgs.size() == n && exp_avg_sqs.size() == n && steps.size() == n,
                  "adam_ needs five lists of one length, got ", n, ", ", grads.size(), ", ", exp_avgs.size(), ", ",
                  exp_avg_sqs.size(), " and ", steps.size());
  STD_TORCH_CHECK(lr.numel() == 1 && lr.scalar_type() == ScalarType::Float, "adam_ needs lr as one float32");
  check_fraction("adam_", "beta1", adam.beta1);
  check_fraction("adam_", "beta2", adam.beta2);
  for (size_t i = 0; i < n; ++i) {
    const bool known = params[i].scalar_type() == ScalarType::Float ||
                       (params[i].scalar_type() == ScalarType::Double && !params[i].is_cuda());
    STD_TORCH_CHECK(known, "adam_ needs float32 (on a CPU also float64) parameters, got ",
                    torch::headeronly::toString(params[i].scalar_type()), " at ", i);
    STD_TORCH_CHECK(is_dense(params[i]) && same_layout(params[i], grads[i]) && same_layout(params[i], exp_avgs[i]) &&
                        same_layout(params[i], exp_avg_sqs[i]),
                    "adam_ needs parameter, gradient and averages of one dense layout, dtype and device, which those at ",
                    i, " are not");
    STD_TORCH_CHECK(steps[i].numel() == 1 && steps[i].scalar_type() == ScalarType::Float &&
                        steps[i].is_cuda() == params[i].is_cuda() && lr.is_cuda() == params[i].is_cuda(),
                    "adam_ needs steps as one float32 each, and lr, on the device of the parameters; see ", i);
  }
}

}  // namespace torchlayer
