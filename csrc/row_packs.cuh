// Neighbouring elements of a row, as the CUDA row optimisers read, hold and write them.
#pragma once

#include "ptx.cuh"

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace torchlayer {

template <typename to_t, typename from_t>
__device__ to_t bits_as(const from_t& from) {
  static_assert(sizeof(to_t) == sizeof(from_t));
  to_t to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// Neighbouring elements as they lie in memory, in registers of 32 bits: a register each would double those of sixteen.
template <typename element_t, int kN>
struct Pack {
  static constexpr int kWords = (kN * sizeof(element_t) + 3) / 4;
  uint32_t words[kWords];

  __device__ element_t get(int i) const {
    if constexpr (sizeof(element_t) == 2) {
      return bits_as<element_t>(static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)));
    } else if constexpr (sizeof(element_t) == 4) {
      return bits_as<element_t>(words[i]);
    } else {
      return bits_as<element_t>(words[2 * i] | static_cast<unsigned long long>(words[2 * i + 1]) << 32);
    }
  }
  __device__ void set(int i, element_t value) {
    if constexpr (sizeof(element_t) == 2) {
      const uint32_t bits = bits_as<uint16_t>(value);
      words[i / 2] = i % 2 == 0 ? (words[i / 2] & 0xffff0000u) | bits : (words[i / 2] & 0xffffu) | bits << 16;
    } else if constexpr (sizeof(element_t) == 4) {
      words[i] = bits_as<uint32_t>(value);
    } else {
      const auto bits = bits_as<unsigned long long>(value);
      words[2 * i] = static_cast<uint32_t>(bits);
      words[2 * i + 1] = static_cast<uint32_t>(bits >> 32);
    }
  }
};

// Sixteen bytes at a time where a pack has as many. `kOnce`: nobody else wants them, so they need not stay in cache.
template <int kN, bool kOnce = false, typename element_t>
__device__ Pack<element_t, kN> read_pack(const element_t* from) {
  Pack<element_t, kN> pack;
  if constexpr (kN * sizeof(element_t) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < pack.kWords / 4; ++i) {
      const uint4* piece = reinterpret_cast<const uint4*>(from) + i;
      const uint4 four = kOnce ? __ldcs(piece) : *piece;
      pack.words[4 * i] = four.x;
      pack.words[4 * i + 1] = four.y;
      pack.words[4 * i + 2] = four.z;
      pack.words[4 * i + 3] = four.w;
    }
  } else {
    pack.words[0] = 0;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      pack.set(i, from[i]);
    }
  }
  return pack;
}

// Rows written are the first to leave the cache: gradients that wait there are of more use.
template <int kN, typename element_t>
__device__ void write_pack(element_t* to, const Pack<element_t, kN>& pack) {
  if constexpr (kN * sizeof(element_t) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < pack.kWords / 4; ++i) {
      __stcs(reinterpret_cast<uint4*>(to) + i,
             make_uint4(pack.words[4 * i], pack.words[4 * i + 1], pack.words[4 * i + 2], pack.words[4 * i + 3]));
    }
  } else {
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      to[i] = pack.get(i);
    }
  }
}

}  // namespace torchlayer
