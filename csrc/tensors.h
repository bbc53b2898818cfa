// New tensors and contiguous ones, without the dispatcher's search for an operator by its name: of a loss over few rows
// that is a good part of the time.
#pragma once

#include "check.h"

#include <algorithm>
#include <array>

namespace torchlayer {

// The tensor itself where it is contiguous, else a copy.
inline torch::stable::Tensor contiguous(const torch::stable::Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Uninitialised, contiguous, on the device of `beside`.
template <size_t n_axes>
torch::stable::Tensor new_empty(const torch::stable::Tensor& beside, const std::array<int64_t, n_axes>& shape,
                                torch::headeronly::ScalarType dtype) {
  std::array<int64_t, n_axes> strides;
  int64_t stride = 1;
  for (size_t axis = n_axes; axis-- > 0;) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(shape[axis], 1);
  }
  const auto dtype_code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  int32_t device_type;
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(beside.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(n_axes, shape.data(), strides.data(), dtype_code, device_type,
                                                         beside.get_device_index(), &made));
  return torch::stable::Tensor(made);
}

}  // namespace torchlayer
