// Copies from global to shared memory that a thread does not wait for.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace torchlayer {

// 1, 2 or 4 floats on their way to shared memory, or zeros without a look at `from`.
template <int n>
__device__ void copy_async(float* to, const float* from, bool wanted = true) {
  static_assert(n == 1 || n == 2 || n == 4, "copies are of 1, 2 or 4 floats");
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const auto global = __cvta_generic_to_global(from);
  const int bytes = wanted ? 4 * n : 0;
  if constexpr (n == 4) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(shared), "l"(global), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;"
                 :
                 : "r"(shared), "l"(global), "r"(bytes), "n"(4 * n)
                 : "memory");
  }
}

__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace torchlayer
