// The one way to start a CUDA kernel: on the tensor's device, on the stream PyTorch is queueing on, checked.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>

namespace torchlayer {

// What a kernel that `launch_early` starts calls before it touches memory: until then the kernels before it in the
// stream may be at work. The next one may come as soon as all blocks of this one have begun. Such a kernel reads
// nothing through const __restrict__ or __ldg: loads that nobody is said to write for may be moved up before the wait.
__device__ inline void wait_for_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Lets the next kernel come as soon as all blocks of this one have begun, to wait beside it: for small ones of a chain.
__device__ inline void admit_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether kernels wait as above: compiled for Hopper, and on one. Others, made from an older chip's code, do not.
inline bool kernels_wait(int32_t device) {
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  return major == 9 && std::strstr(TORCHLAYER_ARCHITECTURES, "9.0") != nullptr;
}

// Early: while the kernel before may still be at work, for kernels that call `wait_for_earlier_kernels`. With so many
// bytes of dynamic shared memory, which may be all that the chip allows a block.
template <typename... Parameters, typename... Arguments>
void launch_as(bool early, const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...),
               dim3 blocks, dim3 threads, size_t bytes, Arguments... arguments) {
  const int32_t device = where.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  if (bytes > 48 * 1024) {
    const auto* function = reinterpret_cast<const void*>(kernel);
    cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  }
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &overlap;
  config.numAttrs = early && kernels_wait(device) ? 1 : 0;
  const cudaError_t launched = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  // Not STD_CUDA_KERNEL_LAUNCH_CHECK: its symbol is absent from torch 2.11.
  const cudaError_t last = cudaGetLastError(), status = launched != cudaSuccess ? launched : last;
  STD_TORCH_CHECK(status == cudaSuccess, name, ": ", cudaGetErrorString(status),
                  " (this library was compiled for " TORCHLAYER_ARCHITECTURES ")");
}

template <typename... Parameters, typename... Arguments>
void launch_with_memory(const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...),
                        dim3 blocks, dim3 threads, size_t bytes, Arguments... arguments) {
  launch_as(false, name, where, kernel, blocks, threads, bytes, arguments...);
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...), dim3 blocks,
            dim3 threads, Arguments... arguments) {
  launch_with_memory(name, where, kernel, blocks, threads, 0, arguments...);
}

template <typename... Parameters, typename... Arguments>
void launch_early(const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...), dim3 blocks,
                  dim3 threads, size_t bytes, Arguments... arguments) {
  launch_as(true, name, where, kernel, blocks, threads, bytes, arguments...);
}

}  // namespace torchlayer
