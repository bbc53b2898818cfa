// In the place of csrc/hopper.cuh: what Hopper's own instructions do, at once. That products and copies go on in the
// background is not seen, so neither is a wait that is missing for them; a stage of a ring that nobody waits for is.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#define TORCHLAYER_HOPPER 1

// A matrix in global memory, as the copy engine is told of it.
struct CUtensorMap {
  char* data;
  int64_t rows, columns, pitch;
  int box_rows;
};

namespace torchlayer::hopper {

enum class Along { kSum = 0, kOther = 1 };

using emulator::own;

inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const char*>(pointer) - own().dynamic);
}
inline char* in_block(const void* pointer, uint32_t block) {
  return emulator::cluster[block].dynamic + shared_address(pointer);
}

// --- Barriers

struct Barrier {
  emulator::Meeting phase;
  int n_expected, n_missing;
  int64_t bytes_missing;

  void look() {
    if (n_missing == 0 && bytes_missing == 0) {
      n_missing = n_expected;
      ++phase.generation;
    }
  }
};
inline std::map<const void*, Barrier> barriers;

inline Barrier& barrier_at(const void* pointer) {
  const auto found = barriers.find(pointer);
  if (found == barriers.end()) {
    emulator::fail("a barrier was not initialised");
  }
  return found->second;
}

inline void init_barrier(uint64_t* barrier, uint32_t n_arrivals) {
  const int n = static_cast<int>(n_arrivals);
  *barrier = 0;
  barriers[barrier] = {{}, n, n, 0};
}
inline void fence_barrier_init() {}
inline void arrive_and_expect(uint64_t* barrier, uint32_t bytes) {
  Barrier& at = barrier_at(barrier);
  at.bytes_missing += bytes;
  --at.n_missing;
  at.look();
}
inline void bytes_have_come(const void* barrier, int64_t bytes) {
  Barrier& at = barrier_at(barrier);
  at.bytes_missing -= bytes;
  at.look();
}
inline void arrive_in_block(uint64_t* barrier, uint32_t block, bool mine = true) {
  if (mine) {
    Barrier& at = barrier_at(in_block(barrier, block));
    if (--at.n_missing < 0) {
      emulator::fail("more threads than expected arrive at a barrier");
    }
    at.look();
  }
}
inline void wait(uint64_t* barrier, uint32_t parity) {
  Barrier& at = barrier_at(barrier);
  if ((at.phase.generation & 1) == parity) {
    emulator::fibres[emulator::current].waits_for = &at.phase;
    emulator::fibres[emulator::current].generation = at.phase.generation;
    emulator::leave();
  }
}
inline void sync_named(int name, int n_threads) { emulator::meet(own().named_barriers[name], n_threads, "sync_named"); }
inline void arrive_named(int name, int n_threads) {
  emulator::Meeting& meeting = own().named_barriers[name];
  if (meeting.n_arrived == 0) {
    meeting.what = "sync_named";
  }
  if (++meeting.n_arrived == n_threads) {
    meeting.n_arrived = 0;
    ++meeting.generation;
  }
}
inline uint32_t block_in_cluster() { return emulator::current / blockDim.x; }
inline void sync_cluster() {
  const int n = static_cast<int>(emulator::cluster.size() * blockDim.x);
  emulator::meet(emulator::cluster_barrier, n, "sync_cluster");
}

// --- The copy engine

constexpr int kBoxColumns = 64;

inline uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

inline void prefetch_description(const CUtensorMap*) {}

inline __nv_bfloat16* number_at(const CUtensorMap* matrix, int64_t row, int64_t column) {
  const bool inside = row >= 0 && row < matrix->rows && column >= 0 && column < matrix->columns;
  return inside ? reinterpret_cast<__nv_bfloat16*>(matrix->data) + row * matrix->pitch + column : nullptr;
}

inline void copy_box_to(uint16_t blocks, void* to, const CUtensorMap* matrix, int column, int row, uint64_t* barrier) {
  const uint32_t start = shared_address(to);
  if (start % 1024 != 0) {
    emulator::fail("a box does not begin at a multiple of 1024 bytes");
  }
  for (uint32_t block = 0; block < emulator::cluster.size(); ++block) {
    if (blocks >> block & 1) {
      for (int r = 0; r < matrix->box_rows; ++r) {
        for (int c = 0; c < kBoxColumns; ++c) {
          const __nv_bfloat16* from = number_at(matrix, row + r, column + c);
          char* at = emulator::cluster[block].dynamic + swizzled(start + r * 128 + c * 2);
          *reinterpret_cast<__nv_bfloat16*>(at) = from != nullptr ? *from : __nv_bfloat16{};
        }
      }
      bytes_have_come(in_block(barrier, block), 2 * kBoxColumns * matrix->box_rows);
    }
  }
}
inline void copy_box(void* to, const CUtensorMap* matrix, int column, int row, uint64_t* barrier) {
  copy_box_to(static_cast<uint16_t>(1 << block_in_cluster()), to, matrix, column, row, barrier);
}
inline void copy_bytes(void* to, const void* from, uint32_t n_bytes, uint64_t* barrier) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | n_bytes) % 16 != 0) {
    emulator::fail("a copy is not of sixteens of bytes");
  }
  std::memcpy(to, from, n_bytes);
  bytes_have_come(barrier, n_bytes);
}

template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

// --- Products by a warpgroup

inline uint64_t describe_tile(const void* tile, uint32_t box_bytes) {
  return uint64_t{box_bytes >> 4} << 16 | shared_address(tile) >> 4;
}
inline uint64_t describe_columns(const void* tile, uint32_t next_bytes) { return describe_tile(tile, next_bytes); }

inline uint32_t start_of(uint64_t description) { return static_cast<uint32_t>(description & 0x3fff) << 4; }
inline uint32_t apart_of(uint64_t description) { return static_cast<uint32_t>(description >> 16 & 0x3fff) << 4; }

inline float number(uint32_t address) {
  return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(own().dynamic + address));
}

// Number k of the sum of row or column i.
template <Along kAlong>
float factor(uint64_t description, int i, int k) {
  const uint32_t start = start_of(description);
  return number(swizzled(kAlong == Along::kSum
                             ? start + i * 128 + k * 2
                             : start + i / kBoxColumns * apart_of(description) + k * 128 + i % kBoxColumns * 2));
}

inline void begin_products() {}
inline void commit_products() {}
// All of the group: when one thread's products are done, those of its four warps are, as CUTLASS takes for granted, too.
template <int kPending>
void wait_products() {
  constexpr int kGroup = 128, kNames = 16;
  emulator::meet(own().named_barriers[kNames + threadIdx.x / kGroup], kGroup, "wait_products");
}

// Of 16 numbers of the sum: `right(column, k)`.
template <Along kA, int kN, typename Right>
void multiply_any(float (&sum)[kN], uint64_t a, const Right& right) {
  const int thread = static_cast<int>(threadIdx.x) % 128, row = thread / 32 * 16 + thread % 32 / 4;
  float left[2][16];
  for (int k = 0; k < 16; ++k) {
    left[0][k] = factor<kA>(a, row, k);
    left[1][k] = factor<kA>(a, row + 8, k);
  }
  for (int n = 0; n < kN / 4; ++n) {
    for (int x = 0; x < 2; ++x) {
      const int column = 8 * n + 2 * (thread % 4) + x;
      float &upper = sum[4 * n + x], &lower = sum[4 * n + 2 + x];
      for (int k = 0; k < 16; ++k) {
        const float other = right(column, k);
        upper += left[0][k] * other;
        lower += left[1][k] * other;
      }
    }
  }
}

template <Along kA, Along kB, int kN>
void multiply(float (&sum)[kN], uint64_t a, uint64_t b) {
  multiply_any<kA>(sum, a, [&](int column, int k) { return factor<kB>(b, column, k); });
}
template <Along kA>
void multiply_columns(float (&sum)[4], uint64_t a, uint64_t b) {
  multiply_any<kA>(sum, a, [&](int column, int k) {
    return number(start_of(b) + k / 8 * apart_of(b) + column * 16 + k % 8 * 2);
  });
}

// --- To global memory

inline void store_matrices(void* row, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3) {
  const uint64_t* rows = emulator::exchange(~0u, reinterpret_cast<uint64_t>(row), "store_matrices");
  const uint32_t matrices[] = {m0, m1, m2, m3};
  const unsigned lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    char* to = reinterpret_cast<char*>(rows[8 * i + lane / 4]);
    *reinterpret_cast<uint32_t*>(to + lane % 4 * 4) = matrices[i];
  }
}
inline void fence_for_copies() {}
inline void store_box(const CUtensorMap* matrix, int column, int row, const void* from, bool mine) {
  const uint32_t start = shared_address(from);
  for (int r = 0; mine && r < matrix->box_rows; ++r) {
    for (int c = 0; c < kBoxColumns; ++c) {
      if (__nv_bfloat16* to = number_at(matrix, row + r, column + c)) {
        *to = *reinterpret_cast<const __nv_bfloat16*>(own().dynamic + swizzled(start + r * 128 + c * 2));
      }
    }
  }
}
template <int kPending>
void wait_stores_read() {}
inline void wait_stores() {}
inline void add_two(float* to, float x, float y) {
  to[0] += x;
  to[1] += y;
}

inline bool describe_matrix(CUtensorMap* map, const void* data, int64_t rows, int64_t columns, int64_t pitch,
                            uint32_t box_rows) {
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && pitch % 8 == 0 && box_rows <= 256;
  *map = {static_cast<char*>(const_cast<void*>(data)), rows, columns, pitch, static_cast<int>(box_rows)};
  return aligned;
}

}  // namespace torchlayer::hopper
