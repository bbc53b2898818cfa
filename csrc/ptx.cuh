// Instructions that C++ has no words for, one function each; those of Hopper alone are in hopper.cuh. PTX ISA,
// https://docs.nvidia.com/cuda/parallel-thread-execution.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace torchlayer {

// --- Copies from global to shared memory that a thread does not wait for.

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

// --- Loads, and what is called for while its address is known and its bytes are not needed yet.

constexpr int kLine = 128;  // bytes that one prefetch brings

// Into L2, where what others write meanwhile is seen.
__device__ inline void prefetch(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// Into L1: of what nobody writes before it is read.
__device__ inline void prefetch_near(const void* from) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(from));
}

// What is read once leaves L1 to others.
template <typename piece_t>
__device__ piece_t load_past_l1(const piece_t* from) {
  piece_t piece;
  if constexpr (sizeof(piece_t) == 16) {
    uint4 bits;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(from));
    piece = *reinterpret_cast<piece_t*>(&bits);
  } else if constexpr (sizeof(piece_t) == 8) {
    uint2 bits;
    asm volatile("ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(bits.x), "=r"(bits.y) : "l"(from));
    piece = *reinterpret_cast<piece_t*>(&bits);
  } else {
    piece = *from;
  }
  return piece;
}

// --- Arithmetic to some 22 bits.

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float inverse_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// --- Threads among themselves.

// Waits for `n_threads` neighbouring threads of the block, of which all groups are of that size.
__device__ inline void wait_for_neighbours(int n_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + static_cast<int>(threadIdx.x) / n_threads), "r"(n_threads) : "memory");
}

// --- Products by tensor cores, which multiply tf32: floats with eleven significant bits.

// c (16, 8) += a (16, 8) @ b (8, 8). With g = lane / 4 and q = lane % 4, a thread holds
//   a: (g, q), (g + 8, q), (g, q + 4), (g + 8, q + 4);  b: (q, g), (q + 4, g);
//   c: (g, 2q), (g, 2q + 1), (g + 8, 2q), (g + 8, 2q + 1).
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace torchlayer
