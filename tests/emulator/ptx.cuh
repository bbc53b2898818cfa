// In the place of csrc/ptx.cuh: what its instructions do, at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace torchlayer {

template <int n>
void copy_async(float* to, const float* from, bool wanted = true) {
  if (reinterpret_cast<uintptr_t>(to) % (4 * n) != 0 || (wanted && reinterpret_cast<uintptr_t>(from) % (4 * n) != 0)) {
    emulator::fail("a copy is not aligned");
  }
  for (int i = 0; i < n; ++i) {
    to[i] = wanted ? from[i] : 0;
  }
}

inline void wait_for_copies() {}

constexpr int kLine = 128;

inline void prefetch(const void* from) {
#if defined(__SANITIZE_ADDRESS__)
  if (__asan_address_is_poisoned(from)) {
    emulator::fail("a prefetch begins outside of what was allocated");
  }
#endif
}

inline void prefetch_near(const void* from) { prefetch(from); }

template <typename piece_t>
piece_t load_past_l1(const piece_t* from) {
  return *from;
}

inline float exp2_fast(float x) { return std::exp2(x); }
inline float inverse_fast(float x) { return 1 / x; }

inline void wait_for_neighbours(int n_threads) {
  const int name = 1 + static_cast<int>(threadIdx.x) / n_threads;
  if (name > 15 || n_threads % emulator::kLanes != 0) {
    emulator::fail("there are fifteen named barriers, each of whole warps");
  }
  emulator::meet(emulator::own().named_barriers[name], n_threads, "wait_for_neighbours");
}

// Tensor cores look at eleven significant bits of either factor.
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const auto tf32 = [](uint32_t bits) { return double{__uint_as_float(bits & 0xffffe000u)}; };
  const unsigned lane = emulator::lane(), g = lane / 4, q = lane % 4;
  const uint64_t left[2] = {a[0] | uint64_t{a[1]} << 32, a[2] | uint64_t{a[3]} << 32};
  double lefts[8][2], rights[8][2];  // of the sum's numbers: rows g and g + 8, columns 2 q and 2 q + 1
  for (int half = 0; half < 2; ++half) {
    const uint64_t* values = emulator::exchange(~0u, left[half], "multiply_add, left");
    for (unsigned k = 0; k < 4; ++k) {
      lefts[4 * half + k][0] = tf32(static_cast<uint32_t>(values[4 * g + k]));
      lefts[4 * half + k][1] = tf32(static_cast<uint32_t>(values[4 * g + k] >> 32));
    }
  }
  const uint64_t* values = emulator::exchange(~0u, b0 | uint64_t{b1} << 32, "multiply_add, right");
  for (unsigned k = 0; k < 4; ++k) {
    for (unsigned x = 0; x < 2; ++x) {
      rights[k][x] = tf32(static_cast<uint32_t>(values[4 * (2 * q + x) + k]));
      rights[4 + k][x] = tf32(static_cast<uint32_t>(values[4 * (2 * q + x) + k] >> 32));
    }
  }
  for (int i = 0; i < 4; ++i) {
    double sum = c[i];
    for (int k = 0; k < 8; ++k) {
      sum += lefts[k][i / 2] * rights[k][i % 2];
    }
    c[i] = static_cast<float>(sum);
  }
}

}  // namespace torchlayer
