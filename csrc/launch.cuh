// The one way to start a CUDA kernel: on the tensor's device, on the stream PyTorch is queueing on, checked.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

namespace torchlayer {

// With so many bytes of dynamic shared memory, which may be all that the chip allows a block.
template <typename... Parameters, typename... Arguments>
void launch_with_memory(const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...),
                        dim3 blocks, dim3 threads, size_t bytes, Arguments... arguments) {
  const int32_t device = where.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  if (bytes > 48 * 1024) {
    const auto* function = reinterpret_cast<const void*>(kernel);
    cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  }
  kernel<<<blocks, threads, bytes, static_cast<cudaStream_t>(stream)>>>(static_cast<Parameters>(arguments)...);
  // Not STD_CUDA_KERNEL_LAUNCH_CHECK: its symbol is absent from torch 2.11.
  const cudaError_t status = cudaGetLastError();
  STD_TORCH_CHECK(status == cudaSuccess, name, ": ", cudaGetErrorString(status),
                  " (this library was compiled for " TORCHLAYER_ARCHITECTURES ")");
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...), dim3 blocks,
            dim3 threads, Arguments... arguments) {
  launch_with_memory(name, where, kernel, blocks, threads, 0, arguments...);
}

}  // namespace torchlayer
