// The tensors that the row optimisers accept, on a CPU and on CUDA.
#pragma once

#include "check.h"

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace torchlayer {

struct NamedTensor {
  const char* name;
  const torch::stable::Tensor& tensor;
};

inline int64_t row_width(const torch::stable::Tensor& weight) {
  return weight.dim() == 1 ? 1 : weight.size(1);
}

inline bool overlap(const torch::stable::Tensor& a, const torch::stable::Tensor& b) {
  const auto extent = [](const torch::stable::Tensor& tensor) {
    int64_t reach = 1;
    for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
      reach += (tensor.size(axis) - 1) * tensor.stride(axis);
    }
    const char* begin = static_cast<const char*>(tensor.const_data_ptr());
    return std::pair{begin, begin + reach * static_cast<int64_t>(tensor.element_size())};
  };
  if (a.numel() == 0 || b.numel() == 0) {
    return false;
  }
  const auto [a_begin, a_end] = extent(a);
  const auto [b_begin, b_end] = extent(b);
  return a_begin < b_end && b_begin < a_end;
}

inline void check_same_device(const char* op, const torch::stable::Tensor& tensor, const torch::stable::Tensor& weight) {
  STD_TORCH_CHECK(tensor.is_cuda() == weight.is_cuda() && tensor.get_device_index() == weight.get_device_index(), op,
                  " needs all its tensors on the device of weight");
}

// `written` are the weight and its states; a state has the weight's shape, or one number a row, or is a single count.
inline void check_rows(const char* op, const std::vector<NamedTensor>& written, const torch::stable::Tensor& ids,
                       const torch::stable::Tensor& row_grads, const torch::stable::Tensor& lr) {
  using torch::headeronly::ScalarType;
  const torch::stable::Tensor& weight = written[0].tensor;
  STD_TORCH_CHECK((weight.dim() == 1 || weight.dim() == 2) && row_width(weight) > 0, op,
                  " needs weight of shape (V, D) or (V,)");
  STD_TORCH_CHECK(ids.dim() == 1 && ids.scalar_type() == ScalarType::Long, op, " needs ids as (M,) int64");
  STD_TORCH_CHECK(row_grads.dim() == weight.dim() && row_grads.size(0) == ids.size(0) &&
                      (weight.dim() == 1 || row_grads.size(1) == weight.size(1)) &&
                      row_grads.scalar_type() == weight.scalar_type(),
                  op, " needs row_grads with one row for each id, as wide as weight and of its dtype");
  STD_TORCH_CHECK(lr.dim() == 0 && (lr.scalar_type() == ScalarType::Float || lr.scalar_type() == ScalarType::Double),
                  op, " needs lr as one float32 or float64");
  for (const torch::stable::Tensor& tensor : {ids, row_grads, lr}) {
    check_same_device(op, tensor, weight);
  }
  const auto state_type = weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  for (size_t i = 0; i < written.size(); ++i) {
    const auto& [name, tensor] = written[i];
    check_same_device(op, tensor, weight);
    STD_TORCH_CHECK(tensor.is_contiguous(), op, " needs ", name, " contiguous");
    if (i > 0 && tensor.dim() > 0) {
      bool fits = tensor.scalar_type() == state_type && tensor.dim() <= weight.dim();
      for (int64_t axis = 0; fits && axis < tensor.dim(); ++axis) {
        fits = tensor.size(axis) == weight.size(axis);
      }
      STD_TORCH_CHECK(fits, op, " needs ", name, " to fit weight, in ", torch::headeronly::toString(state_type));
    }
    for (size_t j = 0; j < i; ++j) {
      if (overlap(tensor, written[j].tensor)) {
        refuse<std::invalid_argument>(op, " needs ", written[j].name, " and ", name,
                                      " in memory of their own, but they overlap; clone() one");
      }
    }
    if (overlap(tensor, row_grads)) {
      refuse<std::invalid_argument>(op, " needs ", name, " and row_grads in memory of their own, but they overlap; ",
                                    "clone() one");
    }
  }
}

}  // namespace torchlayer
