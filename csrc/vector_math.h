// Loops over contiguous numbers, written so that a compiler turns them into vector instructions without being allowed
// to reorder sums: these are written with sixteen lanes that run side by side. The float exponential has no branch and
// no table for the same reason.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

// Compiled once for each of these instruction sets and chosen at load: the library stays portable.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TORCHLAYER_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TORCHLAYER_CLONES
#endif
#if defined(__GNUC__)
#define TORCHLAYER_INLINE inline __attribute__((always_inline))
#else
#define TORCHLAYER_INLINE inline
#endif

namespace torchlayer {

constexpr int kLanes = 16;

// Sixteen numbers, at any address: vector registers as wide as there are.
template <typename real>
struct Lanes {
  typedef real type __attribute__((vector_size(kLanes * sizeof(real)), aligned(sizeof(real)), may_alias));
};

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

// The sum, in an order that depends on n alone.
template <typename real>
TORCHLAYER_INLINE real sum_loop(const real* x, int64_t n) {
  using V = typename Lanes<real>::type;
  V sums = {}, more = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    sums += *reinterpret_cast<const V*>(x + i);
    more += *reinterpret_cast<const V*>(x + i + kLanes);
  }
  sums += more;
  real sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    sum += sums[lane];
  }
  for (; i < n; ++i) {
    sum += x[i];
  }
  return sum;
}

template <typename real>
TORCHLAYER_INLINE real dot_loop(const real* a, const real* b, int64_t n) {
  using V = typename Lanes<real>::type;
  V sums = {}, more = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    sums += *reinterpret_cast<const V*>(a + i) * *reinterpret_cast<const V*>(b + i);
    more += *reinterpret_cast<const V*>(a + i + kLanes) * *reinterpret_cast<const V*>(b + i + kLanes);
  }
  sums += more;
  real sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    sum += sums[lane];
  }
  for (; i < n; ++i) {
    sum += a[i] * b[i];
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
TORCHLAYER_INLINE void store_scaled_loop(scalar_t* y, const real* x, real scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = static_cast<scalar_t>(scale * x[i]);
  }
}

TORCHLAYER_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// The upper half of a float, rounded to even. A NaN stays one: all its bits but the sign are set.
TORCHLAYER_INLINE uint16_t upper_half(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(x != x ? 0x7FFFu : rounded);
}

TORCHLAYER_INLINE float from_upper_half(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The largest number; NaNs are passed over.
template <typename real>
TORCHLAYER_INLINE real max_loop(const real* x, int64_t n) {
  using V = typename Lanes<real>::type;
  real largest = -std::numeric_limits<real>::infinity();
  V lanes = largest - V{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const V next = *reinterpret_cast<const V*>(x + i);
    lanes = next > lanes ? next : lanes;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    largest = lanes[lane] > largest ? lanes[lane] : largest;
  }
  for (; i < n; ++i) {
    largest = x[i] > largest ? x[i] : largest;
  }
  return largest;
}

// x = exp(x - shift), and their sum
template <typename real>
TORCHLAYER_INLINE real exp_sum_loop(real* x, real shift, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    x[i] = exp_of(x[i] - shift);
  }
  return sum_loop(x, n);
}

// x = sigmoid(x), and the sum of softplus(x)
template <typename real>
TORCHLAYER_INLINE real sigmoid_sum_softplus_loop(real* x, int64_t n) {
  constexpr int64_t kChunk = 256;
  real softplus[kChunk], sum = 0;
  for (; n > 0; n -= kChunk, x += kChunk) {
    const int64_t m = n < kChunk ? n : kChunk;
    for (int64_t i = 0; i < m; ++i) {
      const real z = x[i], e = exp_of(z < 0 ? z : -z);
      x[i] = (z < 0 ? e : real(1)) / (1 + e);
      softplus[i] = (z < 0 ? real(0) : z) + log1p_of(e);
    }
    sum += sum_loop(softplus, m);
  }
  return sum;
}

// The functions themselves, for float and for double: a macro, since a template cannot be compiled in clones.
#define TORCHLAYER_FUNCTIONS(real)                                                                   \
  TORCHLAYER_CLONES [[maybe_unused]] static real dot(const real* a, const real* b, int64_t n) {      \
    return dot_loop(a, b, n);                                                                        \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static real max_of(const real* x, int64_t n) {                  \
    return max_loop(x, n);                                                                           \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static real exp_sum(real* x, real shift, int64_t n) {           \
    return exp_sum_loop(x, shift, n);                                                                \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static real sigmoid_sum_softplus(real* x, int64_t n) {          \
    return sigmoid_sum_softplus_loop(x, n);                                                          \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static void add_scaled(real* y, const real* x, real s, int64_t n) { \
    add_scaled_loop(y, x, s, n);                                                                     \
  }                                                                                                  \
  TORCHLAYER_CLONES [[maybe_unused]] static void store_scaled(real* y, const real* x, real s, int64_t n) { \
    store_scaled_loop(y, x, s, n);                                                                   \
  }
TORCHLAYER_FUNCTIONS(float)
TORCHLAYER_FUNCTIONS(double)
#undef TORCHLAYER_FUNCTIONS

using torch::headeronly::BFloat16;

// y = scale * x, from and to bfloat16: a loop over its bits can be made of vector instructions, one over the class
// cannot.
TORCHLAYER_CLONES [[maybe_unused]] static void store_scaled(BFloat16* y, const float* x, float scale, int64_t n) {
  uint16_t* to = &y->x;
  for (int64_t i = 0; i < n; ++i) {
    to[i] = upper_half(scale * x[i]);
  }
}

TORCHLAYER_CLONES [[maybe_unused]] static void store_scaled(float* y, const BFloat16* x, float scale, int64_t n) {
  const uint16_t* from = &x->x;
  for (int64_t i = 0; i < n; ++i) {
    y[i] = scale * from_upper_half(from[i]);
  }
}

TORCHLAYER_CLONES [[maybe_unused]] static void store_scaled(BFloat16* y, const BFloat16* x, float scale, int64_t n) {
  const uint16_t* from = &x->x;
  uint16_t* to = &y->x;
  for (int64_t i = 0; i < n; ++i) {
    to[i] = upper_half(scale * from_upper_half(from[i]));
  }
}

TORCHLAYER_CLONES [[maybe_unused]] static void add_scaled(float* y, const BFloat16* x, float scale, int64_t n) {
  const uint16_t* from = &x->x;
  for (int64_t i = 0; i < n; ++i) {
    y[i] += scale * from_upper_half(from[i]);
  }
}

TORCHLAYER_CLONES [[maybe_unused]] static float dot(const BFloat16* a, const BFloat16* b, int64_t n) {
  constexpr int64_t kChunk = 256;
  float x[kChunk], y[kChunk], sum = 0;
  for (; n > 0; n -= kChunk, a += kChunk, b += kChunk) {
    const int64_t m = n < kChunk ? n : kChunk;
    const uint16_t *p = &a->x, *q = &b->x;
    for (int64_t i = 0; i < m; ++i) {
      x[i] = from_upper_half(p[i]);
      y[i] = from_upper_half(q[i]);
    }
    sum += dot_loop(x, y, m);
  }
  return sum;
}

// The rest, float16 above all, has no such loop.
template <typename to_t, typename from_t>
void store_scaled(to_t* y, const from_t* x, std::conditional_t<std::is_same_v<from_t, double>, double, float> scale,
                  int64_t n) {
  using real = decltype(scale);
  for (int64_t i = 0; i < n; ++i) {
    y[i] = static_cast<to_t>(scale * static_cast<real>(x[i]));
  }
}

template <typename real, typename from_t>
void add_scaled(real* y, const from_t* x, real scale, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] += scale * static_cast<real>(x[i]);
  }
}

template <typename from_t>
float dot(const from_t* a, const from_t* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
  }
  return sum;
}

}  // namespace torchlayer
