// The one way to start a CUDA kernel: on the tensor's device, on the stream PyTorch is queueing on, checked.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

namespace torchlayer {

template <typename... Parameters, typename... Arguments>
void launch(const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...), dim3 blocks,
            dim3 threads, Arguments... arguments) {
  const int32_t device = where.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<Parameters>(arguments)...);
  // Not STD_CUDA_KERNEL_LAUNCH_CHECK: its symbol is absent from torch 2.11.
  const cudaError_t status = cudaGetLastError();
  STD_TORCH_CHECK(status == cudaSuccess, name, ": ", cudaGetErrorString(status),
                  " (this library was compiled for " TORCHLAYER_ARCHITECTURES ")");
}

}  // namespace torchlayer
