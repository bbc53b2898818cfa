// CUDA's kernels on a CPU, for whoever looks for overruns, races and missing barriers without a GPU: what kernels take
// from the CUDA headers, with the threads of a block as fibres of one thread of the host.
//
// A block's warps run in an order drawn anew whenever all have come as far as they get, and a warp's lanes begin at one
// drawn likewise, so that what lacks a barrier comes out differently. Barriers and exchanges between lanes abort where
// threads that have to meet do not. Shared memory is static, or, if its size is given at the launch, exactly as large:
// the address sanitizer sees what lies outside of it. Blocks run one after the other. x86-64 and GCC or Clang.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __shared__ static

using std::abs, std::exp, std::log, std::log1p, std::pow, std::sqrt, std::isfinite, std::isinf, std::isnan;

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return static_cast<std::common_type_t<A, B>>(b) < static_cast<std::common_type_t<A, B>>(a) ? b : a;
}
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return static_cast<std::common_type_t<A, B>>(a) < static_cast<std::common_type_t<A, B>>(b) ? b : a;
}

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace emulator {

constexpr int kLanes = 32;
constexpr size_t kStack = 256 << 10;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel: %s\n", what);
  std::abort();
}

// Where threads meet: whoever comes last lets the others go on, who wait for the next generation.
struct Meeting {
  uint64_t generation = 0;
  int n_arrived = 0;
  const char* what = nullptr;
  uint64_t values[2][kLanes];  // of this generation and the one before, which some have still to read
  int total[2];
};

struct Fibre {
  void* stack_pointer;
  const Meeting* waits_for = nullptr;
  uint64_t generation = 0;
  bool is_done = false;
};

inline std::vector<Fibre> fibres;
inline int current = -1;  // the fibre that runs
inline void* scheduler;
inline std::function<void()> kernel;
inline dim3 grid, block;

struct Block {
  uint3 index;
  Meeting barrier;
  std::map<int, Meeting> named_barriers;
  std::vector<std::map<unsigned, Meeting>> exchanges;  // of each warp, by mask
  char* dynamic;                                       // shared memory
};
inline std::vector<Block> cluster;  // one block, or those that run side by side
inline Meeting cluster_barrier;
inline Block& own() { return cluster[current / block.x]; }

inline uint64_t random_state = [] {
  const char* order = std::getenv("TORCHLAYER_EMULATED_ORDER");
  return 88172645463325252u + (order == nullptr ? 0 : std::strtoull(order, nullptr, 10) * 0x9e3779b97f4a7c15u);
}();

inline uint64_t draw() {  // Marsaglia 2003, xorshift, https://doi.org/10.18637/jss.v008.i14
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

extern "C" void emulator_switch(void** save, void* to);
__asm__(R"(
.weak emulator_switch
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

inline void leave() { emulator_switch(&fibres[current].stack_pointer, scheduler); }

inline void enter() {
  kernel();
  fibres[current].is_done = true;
  leave();
  std::abort();  // nobody comes back to it
}

// Waits for `n` threads; returns the sum of what they bring.
inline int meet(Meeting& meeting, int n, const char* what, int value = 0) {
  const uint64_t generation = meeting.generation;
  int& total = meeting.total[generation % 2];
  if (meeting.n_arrived == 0) {
    meeting.what = what;
    total = 0;
  }
  if (std::strcmp(meeting.what, what) != 0) {
    fail("threads meet at different barriers");
  }
  total += value;
  if (++meeting.n_arrived == n) {
    meeting.n_arrived = 0;
    ++meeting.generation;
  } else {
    fibres[current].waits_for = &meeting;
    fibres[current].generation = generation;
    leave();
  }
  return total;
}

inline unsigned thread() { return current % block.x; }
inline unsigned lane() { return thread() % kLanes; }

// Waits for the lanes of a mask; returns what each of them brings.
inline const uint64_t* exchange(unsigned mask, uint64_t value, const char* what) {
  if ((mask >> lane() & 1) == 0) {
    fail("a lane is missing in its own mask");
  }
  Meeting& meeting = own().exchanges[thread() / kLanes][mask];
  uint64_t* values = meeting.values[meeting.generation % 2];
  values[lane()] = value;
  meet(meeting, __builtin_popcount(mask), what);
  return values;
}

template <typename T>
T from_lane(unsigned mask, T value, unsigned other, const char* what) {
  uint64_t bits = 0;
  static_assert(sizeof(T) <= sizeof(bits));
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t* values = exchange(mask, bits, what);
  if (other >= kLanes || (mask >> other & 1) == 0) {
    fail("a lane asks one that is not in the mask");
  }
  std::memcpy(&value, &values[other], sizeof(T));
  return value;
}

template <typename T>
T* dynamic_memory() {
  return reinterpret_cast<T*>(own().dynamic);
}

inline bool can_run(const Fibre& fibre) {
  return !fibre.is_done && (fibre.waits_for == nullptr || fibre.waits_for->generation > fibre.generation);
}

inline void run_cluster(const std::vector<char*>& stacks) {
  const int n_blocks = static_cast<int>(cluster.size()), warps_each = (block.x + kLanes - 1) / kLanes;
  fibres.assign(n_blocks * block.x, {});
  cluster_barrier = {};
  for (size_t i = 0; i < fibres.size(); ++i) {
    void** top = reinterpret_cast<void**>(stacks[i] + kStack - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(enter);
    for (int saved = 0; saved < 6; ++saved) {
      *--top = nullptr;
    }
    fibres[i].stack_pointer = top;
  }
  std::vector<int> warps(n_blocks * warps_each);
  std::iota(warps.begin(), warps.end(), 0);
  for (bool has_moved = true; has_moved;) {
    has_moved = false;
    for (size_t i = warps.size(); i > 1; --i) {
      std::swap(warps[i - 1], warps[draw() % i]);
    }
    for (const int warp : warps) {  // as far as it gets
      const int begin = warp / warps_each * static_cast<int>(block.x), first = warp % warps_each * kLanes;
      const int start = static_cast<int>(draw() % kLanes);
      for (bool again = true; again;) {
        again = false;
        for (int k = 0; k < kLanes; ++k) {
          const int i = first + (start + k) % kLanes;
          if (i < static_cast<int>(block.x) && can_run(fibres[begin + i])) {
            current = begin + i;
            fibres[current].waits_for = nullptr;
            emulator_switch(&scheduler, fibres[current].stack_pointer);
            again = has_moved = true;
          }
        }
      }
    }
  }
  if (!std::all_of(fibres.begin(), fibres.end(), [](const Fibre& fibre) { return fibre.is_done; })) {
    for (size_t i = 0; i < fibres.size(); i += kLanes) {
      const Fibre& fibre = fibres[i];
      const char* what = fibre.is_done ? "has ended" : fibre.waits_for->what != nullptr ? fibre.waits_for->what : "a phase";
      std::fprintf(stderr, "block %zu, warp %zu: %s\n", i / block.x, i % block.x / kLanes, what);
    }
    fail("threads wait for others that have ended, or wait elsewhere");
  }
  current = -1;
}

// Blocks in clusters of so many; `bytes` of shared memory each.
inline void run(dim3 blocks, dim3 threads, size_t bytes, std::function<void()> body, unsigned n_side_by_side = 1) {
  static std::vector<char*> stacks;
  while (stacks.size() < n_side_by_side * threads.x) {
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stacks.push_back(static_cast<char*>(stack));
  }
  kernel = std::move(body);
  grid = blocks;
  block = threads;
  std::vector<unsigned> order(blocks.x * blocks.y * blocks.z / n_side_by_side);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[draw() % i]);
  }
  for (const unsigned which : order) {
    cluster.assign(n_side_by_side, {});
    for (unsigned rank = 0; rank < n_side_by_side; ++rank) {
      const unsigned index = which * n_side_by_side + rank;
      Block& one = cluster[rank];
      one.index = {index % blocks.x, index / blocks.x % blocks.y, index / blocks.x / blocks.y};
      one.exchanges.resize((threads.x + kLanes - 1) / kLanes);
      void* memory = nullptr;
      if (posix_memalign(&memory, 1024, std::max<size_t>(bytes, 1)) != 0) {
        fail("no memory");
      }
      one.dynamic = static_cast<char*>(std::memset(memory, 0xcd, bytes));
    }
    run_cluster(stacks);
    for (const Block& one : cluster) {
      std::free(one.dynamic);
    }
  }
}

}  // namespace emulator

#define threadIdx (uint3{emulator::thread(), 0, 0})
#define blockIdx (emulator::own().index)
#define blockDim (emulator::block)
#define gridDim (emulator::grid)
#define __syncthreads() static_cast<void>(emulator::meet(emulator::own().barrier, blockDim.x, "__syncthreads"))

inline int __syncthreads_count(bool yes) {
  return emulator::meet(emulator::own().barrier, blockDim.x, "__syncthreads_count", yes);
}
inline int __syncthreads_or(bool yes) {
  return emulator::meet(emulator::own().barrier, blockDim.x, "__syncthreads_or", yes) > 0;
}
inline void __threadfence() {}
inline void __syncwarp(unsigned mask = ~0u) { emulator::exchange(mask, 0, "__syncwarp"); }
inline unsigned __activemask() { return 1u << emulator::lane(); }

inline unsigned __match_any_sync(unsigned mask, uint64_t value) {
  const uint64_t* values = emulator::exchange(mask, value, "__match_any_sync");
  unsigned same = 0;
  for (int i = 0; i < emulator::kLanes; ++i) {
    same |= mask >> i & 1 && values[i] == value ? 1u << i : 0;
  }
  return same;
}
inline unsigned __ballot_sync(unsigned mask, bool yes) {
  const uint64_t* values = emulator::exchange(mask, yes, "__ballot_sync");
  unsigned ballot = 0;
  for (int i = 0; i < emulator::kLanes; ++i) {
    ballot |= mask >> i & 1 && values[i] != 0 ? 1u << i : 0;
  }
  return ballot;
}
inline bool __any_sync(unsigned mask, bool yes) { return __ballot_sync(mask, yes) != 0; }
inline bool __all_sync(unsigned mask, bool yes) { return __ballot_sync(mask, yes) == mask; }
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  const uint64_t* values = emulator::exchange(mask, value, "__reduce_add_sync");
  unsigned sum = 0;
  for (int i = 0; i < emulator::kLanes; ++i) {
    sum += mask >> i & 1 ? static_cast<unsigned>(values[i]) : 0;
  }
  return sum;
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  const uint64_t* values = emulator::exchange(mask, value, "__reduce_or_sync");
  unsigned all = 0;
  for (int i = 0; i < emulator::kLanes; ++i) {
    all |= mask >> i & 1 ? static_cast<unsigned>(values[i]) : 0;
  }
  return all;
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int from) {
  return emulator::from_lane(mask, value, from % emulator::kLanes, "__shfl_sync");
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return emulator::from_lane(mask, value, emulator::lane() ^ distance, "__shfl_xor_sync");
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  const unsigned own = emulator::lane();
  return emulator::from_lane(mask, value, own < distance ? own : own - distance, "__shfl_up_sync");
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  const unsigned own = emulator::lane(), other = own + distance;
  return emulator::from_lane(mask, value, other < emulator::kLanes ? other : own, "__shfl_down_sync");
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Loads and stores of several numbers want them aligned, which the sanitizer of undefined behaviour looks at.
template <typename T>
T __ldcs(const T* from) { return *from; }
template <typename T>
T __ldcg(const T* from) { return *from; }
template <typename T>
void __stcs(T* to, T value) { *to = value; }

template <typename T, typename U>
T atomicAdd(T* at, U value) { return std::exchange(*at, static_cast<T>(*at + value)); }
template <typename T, typename U>
T atomicMin(T* at, U value) { return std::exchange(*at, std::min<T>(*at, value)); }
template <typename T, typename U>
T atomicMax(T* at, U value) { return std::exchange(*at, std::max<T>(*at, value)); }
template <typename T, typename U>
T atomicOr(T* at, U value) { return std::exchange(*at, static_cast<T>(*at | value)); }
template <typename T, typename U>
T atomicExch(T* at, U value) { return std::exchange(*at, static_cast<T>(value)); }
template <typename T, typename U, typename V>
T atomicCAS(T* at, U expected, V value) {
  const T before = *at;
  if (before == static_cast<T>(expected)) {
    *at = value;
  }
  return before;
}

// A Hopper with few multiprocessors, so that a block has several tiles, and at times with less shared memory.
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};
inline void cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const int of_attribute[] = {5, emulator::draw() % 2 == 0 ? 233472 : 102400, 9, 0};
  *value = of_attribute[attribute];
}
