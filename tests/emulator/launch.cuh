// In the place of csrc/launch.cuh: kernels run at once, one after the other.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/tensor.h>

namespace torchlayer {

constexpr size_t kOfClusters = 128 << 10;  // bytes of shared memory from which blocks come in pairs

inline void wait_for_earlier_kernels() {}
inline void admit_next_kernel() {}

template <typename... Parameters, typename... Arguments>
void launch_as(bool, const char*, const torch::stable::Tensor&, void (*kernel)(Parameters...), dim3 blocks,
               dim3 threads, size_t bytes, Arguments... arguments) {
  const unsigned n_side_by_side = bytes > kOfClusters ? 2 : 1;
  emulator::run(blocks, threads, bytes, [=] { kernel(static_cast<Parameters>(arguments)...); }, n_side_by_side);
}

template <typename... Parameters, typename... Arguments>
void launch_with_memory(const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...),
                        dim3 blocks, dim3 threads, size_t bytes, Arguments... arguments) {
  launch_as(false, name, where, kernel, blocks, threads, bytes, arguments...);
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...), dim3 blocks,
            dim3 threads, Arguments... arguments) {
  launch_as(false, name, where, kernel, blocks, threads, 0, arguments...);
}

template <typename... Parameters, typename... Arguments>
void launch_early(const char* name, const torch::stable::Tensor& where, void (*kernel)(Parameters...), dim3 blocks,
                  dim3 threads, size_t bytes, Arguments... arguments) {
  launch_as(true, name, where, kernel, blocks, threads, bytes, arguments...);
}

}  // namespace torchlayer
