// Products of float matrices on tensor cores, which multiply tf32.
#pragma once

#include "ptx.cuh"

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

// c (16, 8) += a (16, 8) @ b (8, 8) to float's accuracy: what is left out is 2^-22 of a product.
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

}  // namespace torchlayer
