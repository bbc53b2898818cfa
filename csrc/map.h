// An elementwise op from one function of the elements, compiled as C++ for CPU tensors and by nvcc for CUDA tensors.
#pragma once

#include "check.h"

#include <cmath>

#ifdef __CUDACC__
#include "launch.cuh"
#define TORCHLAYER_HOST_DEVICE __host__ __device__
#define TORCHLAYER_DEVICE CUDA
#else
#define TORCHLAYER_HOST_DEVICE
#define TORCHLAYER_DEVICE CPU
#endif

namespace torchlayer {

#ifdef __CUDACC__

// A thread takes one element, its neighbour the next. Must move: every input and the output, once.
template <typename scalar_t, typename Function, typename... Inputs>
__global__ void __launch_bounds__(256) map_elements(int64_t n, Function function, scalar_t* out, Inputs... inputs) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) {
    out[i] = static_cast<scalar_t>(function(static_cast<accumulate_t<scalar_t>>(inputs[i])...));
  }
}

#endif

// `out[i] = function(inputs[i]...)` for contiguous tensors of one shape; sixteen bits are computed in float.
template <typename Function, typename... Tensors>
torch::stable::Tensor map_contiguous(const char* op, Function function, const torch::stable::Tensor& first,
                                     const Tensors&... rest) {
  torch::stable::Tensor out = torch::stable::empty_like(first);
  const int64_t n = out.numel();
  dispatch_floating(first, op, [&](auto zero) {
    using scalar_t = decltype(zero);
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
#ifdef __CUDACC__
    if (n > 0) {
      launch(op, first, map_elements<scalar_t, Function, decltype(first.template const_data_ptr<scalar_t>()),
                                     decltype(rest.template const_data_ptr<scalar_t>())...>,
             dim3(static_cast<unsigned>((n + 255) / 256)), dim3(256), n, function, to,
             first.template const_data_ptr<scalar_t>(), rest.template const_data_ptr<scalar_t>()...);
    }
#else
    const auto map_range = [n, to, function](const auto*... inputs) {
      torch::stable::parallel_for(0, n, 4096, [to, function, inputs...](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          to[i] = static_cast<scalar_t>(function(static_cast<accumulate_t<scalar_t>>(inputs[i])...));
        }
      });
    };
    map_range(first.template const_data_ptr<scalar_t>(), rest.template const_data_ptr<scalar_t>()...);
#endif
  });
  return out;
}

// A new contiguous tensor with `function` of the elements of one or more tensors, which have any strides.
template <typename Function, typename... Tensors>
torch::stable::Tensor map(const char* op, Function function, const torch::stable::Tensor& first,
                          const Tensors&... rest) {
  (check_alike(op, first, rest), ...);
  return map_contiguous(op, function, torch::stable::contiguous(first), torch::stable::contiguous(rest)...);
}

}  // namespace torchlayer
