// What an op may be given: the element types our kernels know, and the sizes they trust.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <type_traits>

namespace torchlayer {

// Sixteen bits are for storage: sums are kept in float, and in double for double.
template <typename scalar_t>
using accumulate_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

template <typename scalar_t>
constexpr auto real_type() {
  return std::is_same_v<scalar_t, double> ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;
}

// Calls `body` with a zero of the tensor's element type; `decltype` of it names the type.
template <typename Body>
void dispatch_floating(const torch::stable::Tensor& tensor, const char* op, const Body& body) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::Half:
      return body(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return body(torch::headeronly::BFloat16{});
    default:
      STD_TORCH_CHECK(false, op, " needs float32, float64, float16 or bfloat16, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

// PyTorch hands std::invalid_argument on as ValueError, std::out_of_range as IndexError, std::runtime_error as itself.
template <typename Error, typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(text.str());
}

inline void check_fraction(const char* op, const char* argument, double value) {
  STD_TORCH_CHECK(value >= 0 && value <= 1, op, " needs ", argument, " between 0 and 1, got ", value);
}

// One shape, dtype and device: a kernel that reads both with one offset needs all three.
inline void check_alike(const char* op, const torch::stable::Tensor& a, const torch::stable::Tensor& b) {
  bool alike = a.scalar_type() == b.scalar_type() && a.is_cuda() == b.is_cuda() &&
               a.get_device_index() == b.get_device_index() && a.dim() == b.dim();
  for (int64_t axis = 0; alike && axis < a.dim(); ++axis) {
    alike = a.size(axis) == b.size(axis);
  }
  STD_TORCH_CHECK(alike, op, " needs two tensors of one shape, dtype and device");
}

}  // namespace torchlayer
