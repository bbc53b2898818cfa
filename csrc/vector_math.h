// Loops over contiguous numbers, written so that a compiler turns them into vector instructions without being allowed
// to reorder sums: kLanes sums run side by side. The float exponential has no branch and no table for the same reason.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

// Compiled once for each of these instruction sets and chosen at load: the library stays portable.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TORCHLAYER_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TORCHLAYER_CLONES
#endif
#if defined(__GNUC__)
#define TORCHLAYER_INLINE inline __attribute__((always_inline))
#define TORCHLAYER_LAMBDA __attribute__((always_inline))
#else
#define TORCHLAYER_LAMBDA
#define TORCHLAYER_INLINE inline
#endif

namespace torchlayer {

constexpr int kLanes = 16;

// exp(x) for x <= 0 (and a little above) within 2 ulp; 0 below -87.3, NaN for NaN. After Cephes' expf: x = n log 2 + r,
// and a polynomial in r.
TORCHLAYER_INLINE float exp_of(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3F800000u;  // 2^n
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.3f ? 0.0f : p * power;
}

TORCHLAYER_INLINE double exp_of(double x) { return std::exp(x); }

// log(1 + e) for 0 <= e <= 1, as 2 artanh(e / (2 + e)): exact for tiny e too, where 1 + e is not.
TORCHLAYER_INLINE float log1p_of(float e) {
  const float s = e / (2.0f + e), q = s * s;  // q <= 1/9
  float p = 1.0f / 15;
  p = p * q + 1.0f / 13;
  p = p * q + 1.0f / 11;
  p = p * q + 1.0f / 9;
  p = p * q + 1.0f / 7;
  p = p * q + 1.0f / 5;
  p = p * q + 1.0f / 3;
  return 2.0f * s + 2.0f * s * q * p;
}

TORCHLAYER_INLINE double log1p_of(double e) { return std::log1p(e); }

// log(1 + exp(x)), at most its argument's own rounding away; 0 for -inf.
template <typename real>
TORCHLAYER_INLINE real softplus_of(real x) {
  return (x < 0 ? real(0) : x) + log1p_of(exp_of(x < 0 ? x : -x));
}

template <typename real>
TORCHLAYER_INLINE real sigmoid_of(real x) {
  const real e = exp_of(x < 0 ? x : -x);
  return (x < 0 ? e : real(1)) / (1 + e);
}

// The sum of value(i), in an order that depends on n alone.
template <typename real, typename Value>
TORCHLAYER_INLINE real sum_of(int64_t n, const Value& value) {
  constexpr int kChunk = 4 * kLanes;
  real lanes[kLanes] = {}, chunk[kChunk], sum = 0;
  int64_t i = 0;
  for (; i + kChunk <= n; i += kChunk) {
    for (int j = 0; j < kChunk; ++j) {
      chunk[j] = value(i + j);
    }
    for (int j = 0; j < kChunk; ++j) {
      lanes[j % kLanes] += chunk[j];
    }
  }
  for (; i < n; ++i) {
    sum += value(i);
  }
  for (const real lane : lanes) {
    sum += lane;
  }
  return sum;
}

// y += scale * x
template <typename real>
TORCHLAYER_INLINE void add_scaled_loop(real* y, const real* x, real scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] += scale * x[i];
  }
}

// y = scale * x
template <typename scalar_t, typename real>
void store_scaled(scalar_t* y, const real* x, real scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = static_cast<scalar_t>(scale * x[i]);
  }
}

// The largest number; NaNs are passed over.
template <typename real>
TORCHLAYER_INLINE real max_loop(const real* x, int64_t n) {
  real lanes[kLanes];
  for (real& lane : lanes) {
    lane = -std::numeric_limits<real>::infinity();
  }
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    }
  }
  real largest = lanes[0];
  for (const real lane : lanes) {
    largest = lane > largest ? lane : largest;
  }
  for (; i < n; ++i) {
    largest = x[i] > largest ? x[i] : largest;
  }
  return largest;
}

// x = scale * exp(x - shift)
template <typename real>
TORCHLAYER_INLINE void exp_scaled_loop(real* x, real shift, real scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    x[i] = scale * exp_of(x[i] - shift);
  }
}

// x = scale * sigmoid(x)
template <typename real>
TORCHLAYER_INLINE void sigmoid_scaled_loop(real* x, real scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    x[i] = scale * sigmoid_of(x[i]);
  }
}

// The functions themselves, for float and for double: a macro, since a template cannot be compiled in clones.
#define TORCHLAYER_FUNCTIONS(real)                                                                   \
  TORCHLAYER_CLONES [[maybe_unused]] static real dot(const real* a, const real* b, int64_t n) {      \
    return sum_of<real>(n, [=](int64_t i) TORCHLAYER_LAMBDA { return a[i] * b[i]; });                \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static real max_of(const real* x, int64_t n) {                  \
    return max_loop(x, n);                                                                           \
  }                                                                                                  \
  /* the sum of exp(x - shift), for shift >= x */                                                    \
  TORCHLAYER_CLONES [[maybe_unused]] static real sum_exp(const real* x, real shift, int64_t n) {     \
    return sum_of<real>(n, [=](int64_t i) TORCHLAYER_LAMBDA { return exp_of(x[i] - shift); });       \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static real sum_softplus(const real* x, int64_t n) {            \
    return sum_of<real>(n, [=](int64_t i) TORCHLAYER_LAMBDA { return softplus_of(x[i]); });          \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static void add_scaled(real* y, const real* x, real s, int64_t n) { \
    add_scaled_loop(y, x, s, n);                                                                     \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static void exp_scaled(real* x, real shift, real s, int64_t n) { \
    exp_scaled_loop(x, shift, s, n);                                                                 \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static void sigmoid_scaled(real* x, real s, int64_t n) {        \
    sigmoid_scaled_loop(x, s, n);                                                                    \
  }
TORCHLAYER_FUNCTIONS(float)
TORCHLAYER_FUNCTIONS(double)
#undef TORCHLAYER_FUNCTIONS

}  // namespace torchlayer
