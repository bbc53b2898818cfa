// Matrix products by torch, on whatever device the matrices are.
#pragma once

#include "check.h"

#include <array>

namespace torchlayer {

// into = a @ b
inline void multiply(const torch::stable::Tensor& a, const torch::stable::Tensor& b,
                     const torch::stable::Tensor& into) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(a), from(b), from(into)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
}

}  // namespace torchlayer
