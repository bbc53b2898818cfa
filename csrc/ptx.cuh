// Copies from global to shared memory, and into the cache, that a thread does not wait for.
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

constexpr int kLine = 128;  // bytes that one prefetch brings

// Into L2, while the address is known and the bytes are not needed yet. What others write meanwhile is seen there.
__device__ inline void prefetch(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(from)));
}

}  // namespace torchlayer
