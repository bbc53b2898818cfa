// Products of float matrices on tensor cores, which multiply tf32: floats with eleven significant bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace torchlayer {

// A thread's n numbers of a fragment. A float is the sum of two tf32 to 22 bits; one that came out of sixteen bits is a
// tf32 as it stands.
template <int n, bool kExact>
struct Operand {
  uint32_t high[n], low[kExact ? 1 : n];

  __device__ void set(int i, float x) {
    if constexpr (kExact) {
      high[i] = __float_as_uint(x);
    } else {
      high[i] = (__float_as_uint(x) + 0x1000u) & 0xffffe000u;  // rounded, so that errors have no common sign
      low[i] = __float_as_uint(x - __uint_as_float(high[i]));  // of which the tensor core drops the bits too many
    }
  }
};

// c (16, 8) += a (16, 8) @ b (8, 8). With g = lane / 4 and q = lane % 4, a thread holds
//   a: (g, q), (g + 8, q), (g, q + 4), (g + 8, q + 4);  b: (q, g), (q + 4, g);
//   c: (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1).
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same to float's accuracy: what is left out is 2^-22 of a product.
template <bool kExactA, bool kExactB>
__device__ void multiply_add(float (&c)[4], const Operand<4, kExactA>& a, const Operand<2, kExactB>& b) {
  if constexpr (!kExactA) {
    multiply_add(c, a.low, b.high[0], b.high[1]);
  }
  if constexpr (!kExactB) {
    multiply_add(c, a.high, b.low[0], b.low[1]);
  }
  multiply_add(c, a.high, b.high[0], b.high[1]);
}

// 1 or 4 floats on their way to shared memory, or zeros without a look at `from`.
template <int n>
__device__ void copy_async(float* to, const float* from, bool wanted) {
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const auto global = __cvta_generic_to_global(from);
  const int bytes = wanted ? 4 * n : 0;
  if constexpr (n == 4) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(shared), "l"(global), "r"(bytes) : "memory");
  } else {
    static_assert(n == 1, "copies are of 1 or 4 floats");
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" : : "r"(shared), "l"(global), "r"(bytes) : "memory");
  }
}

__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace torchlayer
