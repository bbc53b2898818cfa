// Random numbers that are a pure function of a seed and a counter: the twin of torchlayer/kernels/_philox.py.
// Integer operations and single roundings only, so that every compiler and device gives the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define TORCHLAYER_BOTH __host__ __device__
#else
#define TORCHLAYER_BOTH
#endif

// Where the machine can, compilers fuse a product and a sum into one rounding, unless told otherwise.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__) && defined(__FP_FAST_FMA)
#define TORCHLAYER_UNFUSED __attribute__((optimize("fp-contract=off")))
#else
#define TORCHLAYER_UNFUSED
#endif

namespace torchlayer {

// Philox4x32-10: four random words, in place of the counter's. Salmon et al. 2011, doi:10.1145/2063384.2063405.
TORCHLAYER_BOTH inline void philox(uint32_t (&counter)[4], uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter[0] = static_cast<uint32_t>(b >> 32) ^ counter[1] ^ k0;
    counter[1] = static_cast<uint32_t>(b);
    counter[2] = static_cast<uint32_t>(a >> 32) ^ counter[3] ^ k1;
    counter[3] = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
}

// Two uniform numbers in [0, 1), multiples of 2^-53.
struct Uniforms {
  double first, second;
};

TORCHLAYER_BOTH inline double uniform_of(uint32_t low, uint32_t high) {
  return static_cast<double>((static_cast<uint64_t>(high) << 21) | (low >> 11)) * (1.0 / 9007199254740992.0);
}

TORCHLAYER_BOTH inline Uniforms uniforms(const int64_t* seed, int64_t draw) {
  const auto key = static_cast<uint64_t>(seed[0]), above = static_cast<uint64_t>(seed[1]);
  const auto below = static_cast<uint64_t>(draw);
  uint32_t words[4] = {static_cast<uint32_t>(below), static_cast<uint32_t>(below >> 32), static_cast<uint32_t>(above),
                       static_cast<uint32_t>(above >> 32)};
  philox(words, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
  return {uniform_of(words[0], words[1]), uniform_of(words[2], words[3])};
}

// a * b + c in two roundings.
TORCHLAYER_BOTH TORCHLAYER_UNFUSED inline double multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(__dmul_rn(a, b), c);
#else
#if defined(__clang__)
#pragma clang fp contract(off)
#endif
  return a * b + c;
#endif
}

// exp(x) of 0 <= x < 700, within an ulp or two. x = n ln 2 + r, |r| <= ln 2 / 2; a Taylor polynomial of r; and n added
// to the exponent's bits.
TORCHLAYER_BOTH inline double exponential(double x) {
  // floor, for the cast cuts towards zero and no argument is negative
  const auto n = static_cast<double>(static_cast<int64_t>(multiply_add(x, 0x1.71547652b82fep+0, 0.5)));
  const double r = multiply_add(-n, 0x1.a39ef35793c76p-33, multiply_add(-n, 0x1.62e42feep-1, x));
  double total = 1.0 / 6227020800.0;  // 1 / 13!
  total = multiply_add(total, r, 1.0 / 479001600.0);
  total = multiply_add(total, r, 1.0 / 39916800.0);
  total = multiply_add(total, r, 1.0 / 3628800.0);
  total = multiply_add(total, r, 1.0 / 362880.0);
  total = multiply_add(total, r, 1.0 / 40320.0);
  total = multiply_add(total, r, 1.0 / 5040.0);
  total = multiply_add(total, r, 1.0 / 720.0);
  total = multiply_add(total, r, 1.0 / 120.0);
  total = multiply_add(total, r, 1.0 / 24.0);
  total = multiply_add(total, r, 1.0 / 6.0);
  total = multiply_add(total, r, 1.0 / 2.0);
  total = multiply_add(total, r, 1.0);
  total = multiply_add(total, r, 1.0);
  const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52;
  double scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return total * scale;
}

}  // namespace torchlayer
