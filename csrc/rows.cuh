// What the row optimisers share on CUDA: the sum of each distinct row's gradients, and the row's update with it.
#pragma once

#include "row_arguments.h"
#include "row_groups.cuh"

#include <cmath>
#include <cstring>
#include <limits>

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

// Sixteen bytes at a time where a pack has as many. `kOnce`: nobody else wants them, so that they need not stay in cache.
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

template <int kN, typename element_t>
__device__ void write_pack(element_t* to, const Pack<element_t, kN>& pack) {
  if constexpr (kN * sizeof(element_t) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < pack.kWords / 4; ++i) {
      reinterpret_cast<uint4*>(to)[i] =
          make_uint4(pack.words[4 * i], pack.words[4 * i + 1], pack.words[4 * i + 2], pack.words[4 * i + 3]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      to[i] = pack.get(i);
    }
  }
}

// An optimiser is a struct that goes to the kernel by value, with
//   scalar_t, sum_t           of the weight, and of sums and states
//   kMinBlocks                of how many an SM's registers shall suffice, to keep enough loads in flight
//   kWholeRow                 whether an element's update depends on the whole row's gradient
//   struct Row<kN>            kN neighbouring elements of weight and states, and
//   read(row, at), write(row, at), to and from their offset `at` in the table
//   row_state(id)             what it keeps for a row, read early
//   row_rate(id, state, mean_square, is_writer, header)   for the whole row, called by all lanes of it
//   update(row, i, grad, rate, header constants)

struct Shape {
  int64_t width;
  int lanes, n_segments;              // for a light row: lanes that share it, pieces that each of them takes in turn
  int heavy_lanes, n_heavy_segments;  // for a heavy one
  uint32_t n_heavy_blocks;
};

// Adds `count` rows of gradients, in the order of `places`, to the elements from `column` on. Loads of two rows are in
// flight together with those of the weight and the states.
template <typename Optimizer, int kVec, int kPieces>
__device__ void add_light(typename Optimizer::sum_t (&sum)[kPieces][kVec],
                          const typename Optimizer::scalar_t* __restrict__ grads,
                          const uint32_t (&places)[kLightPlaces], uint32_t count, int64_t column, int64_t stride,
                          int64_t width) {
  using sum_t = typename Optimizer::sum_t;
  constexpr int kRows = 2;
#pragma unroll
  for (int k = 0; k < static_cast<int>(kLightPlaces); k += kRows) {
    if (k < count) {
      Pack<typename Optimizer::scalar_t, kVec> loaded[kRows][kPieces];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int u = 0; u < kPieces; ++u) {
          if (k + r < count && column + u * stride < width) {
            loaded[r][u] = read_pack<kVec, true>(grads + places[k + r] * width + column + u * stride);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int u = 0; u < kPieces; ++u) {
          if (k + r < count && column + u * stride < width) {
#pragma unroll
            for (int i = 0; i < kVec; ++i) {
              const auto more = static_cast<sum_t>(loaded[r][u].get(i));
              sum[u][i] = k + r == 0 ? more : sum[u][i] + more;
            }
          }
        }
      }
    }
  }
}

template <typename Optimizer, int kVec, int kPieces>
__device__ void update_light(const Optimizer& optimizer, const Groups& groups,
                             const typename Optimizer::scalar_t* __restrict__ grads, const Shape& shape) {
  using sum_t = typename Optimizer::sum_t;
  const int64_t thread = static_cast<int64_t>(blockIdx.x - shape.n_heavy_blocks) * kThreads + threadIdx.x;
  const int64_t team = thread / shape.lanes;
  const int lane = static_cast<int>(thread) & (shape.lanes - 1);
  const int64_t index = Optimizer::kWholeRow ? team : team / shape.n_segments;
  const int begin = Optimizer::kWholeRow ? 0 : static_cast<int>(team - index * shape.n_segments);
  const int end = Optimizer::kWholeRow ? shape.n_segments : begin + 1;
  if (index >= static_cast<int64_t>(groups.header->cursors.rows_and_places >> 32)) {
    return;
  }
  const LightRow row = groups.light[index];
  const Header& header = *groups.header;
  const uint32_t count = row.count & ~kBad;
  const int64_t stride = static_cast<int64_t>(shape.lanes) * kVec;  // from one piece of a lane to its next
  const auto column_of = [&](int segment) { return segment * stride * kPieces + lane * kVec; };
  const auto offset = static_cast<int64_t>(row.id) * shape.width;

  typename Optimizer::template Row<kVec> values[kPieces];
  const auto read_values = [&](int64_t column) {
#pragma unroll
    for (int u = 0; u < kPieces; ++u) {
      if (column + u * stride < shape.width) {
        optimizer.read(values[u], offset + column + u * stride);
      }
    }
  };
  read_values(column_of(begin));
  const sum_t state = optimizer.row_state(row.id);

  uint32_t places[kLightPlaces];
  places[0] = row.start;
  if (count > 1) {
#pragma unroll
    for (int k = 0; k < static_cast<int>(kLightPlaces); ++k) {
      places[k] = k < count ? groups.places[row.start + k] : kAlone;
    }
#pragma unroll
    for (int round = 0; round < static_cast<int>(kLightPlaces); ++round) {
#pragma unroll
      for (int k = round % 2; k + 1 < static_cast<int>(kLightPlaces); k += 2) {
        const uint32_t lower = min(places[k], places[k + 1]);
        places[k + 1] = max(places[k], places[k + 1]);
        places[k] = lower;
      }
    }
  }

  sum_t sum[kPieces][kVec];
  const auto add = [&](int64_t column) {
    add_light<Optimizer, kVec, kPieces>(sum, grads, places, count, column, stride, shape.width);
    if (row.count & kBad) {
#pragma unroll
      for (int u = 0; u < kPieces; ++u) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          sum[u][i] = static_cast<sum_t>(NAN);
        }
      }
    }
  };

  sum_t row_rate = 0;
  if constexpr (Optimizer::kWholeRow) {
    sum_t square = 0;
    for (int segment = 0; segment < shape.n_segments; ++segment) {
      const int64_t column = column_of(segment);
      add(column);
#pragma unroll
      for (int u = 0; u < kPieces; ++u) {
        if (column + u * stride < shape.width) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) {
            square += sum[u][i] * sum[u][i];
          }
        }
      }
    }
    // other rows' lanes in this warp may be elsewhere, or gone
    const unsigned mates = (shape.lanes == 32 ? kAllLanes : (1u << shape.lanes) - 1)
                           << (threadIdx.x % 32 & ~(shape.lanes - 1));
    for (int distance = shape.lanes / 2; distance > 0; distance /= 2) {
      square += __shfl_xor_sync(mates, square, distance);
    }
    __syncwarp(mates);  // all of them have read the state that one now writes
    row_rate = optimizer.row_rate(row.id, state, square / static_cast<sum_t>(shape.width), lane == 0, header);
  }

  for (int segment = begin; segment < end; ++segment) {
    const int64_t column = column_of(segment);
    if (segment > begin) {
      read_values(column);
    }
    if (!Optimizer::kWholeRow || shape.n_segments > 1) {
      add(column);  // for a whole row, if it does not fit into the lanes, a second time
    }
#pragma unroll
    for (int u = 0; u < kPieces; ++u) {
      if (column + u * stride < shape.width) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          optimizer.update(values[u], i, sum[u][i], row_rate, header);
        }
        optimizer.write(values[u], offset + column + u * stride);
      }
    }
  }
}

constexpr int kBitWords = 2048;
constexpr uint32_t kWindow = kBitWords * 32;  // places that one bitmap sorts

template <typename sum_t, int kVec>
struct HeavyMemory {
  union {
    uint32_t bits[kBitWords];
    sum_t sums[kThreads * kVec];
    uint32_t unsorted[kSortable];
  };
  uint32_t sorted[kThreads];
  uint32_t warp_totals[kThreads / 32];
  sum_t squares[kThreads / 32];
  bool is_last;
};

// Adds the rows of gradients at `sorted`: team t of the block takes the t-th, the one after as many as there are teams,
// and so on, four loads in flight.
template <typename Optimizer, int kVec>
__device__ void add_heavy(typename Optimizer::sum_t (&sum)[kVec],
                          const typename Optimizer::scalar_t* __restrict__ grads, const uint32_t* sorted,
                          uint32_t count, int64_t column, const Shape& shape) {
  using sum_t = typename Optimizer::sum_t;
  constexpr int kRows = 4;
  if (column >= shape.width) {
    return;
  }
  const uint32_t n_teams = kThreads / shape.heavy_lanes;
  for (uint32_t k = threadIdx.x / shape.heavy_lanes; k < count; k += n_teams * kRows) {
    Pack<typename Optimizer::scalar_t, kVec> loaded[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (k + r * n_teams < count) {
        loaded[r] = read_pack<kVec, true>(grads + sorted[k + r * n_teams] * shape.width + column);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (k + r * n_teams < count) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          sum[i] += static_cast<sum_t>(loaded[r].get(i));
        }
      }
    }
  }
}

// Adds one part of a row with many places. A part is a range of places, of one width for all parts of a row; within it
// they are sorted as bits of a map, one window after the other.
template <typename Optimizer, int kVec>
__device__ void add_part(HeavyMemory<typename Optimizer::sum_t, kVec>& memory, typename Optimizer::sum_t (&sum)[kVec],
                         const typename Optimizer::scalar_t* __restrict__ grads, const Groups& groups,
                         const HeavyRow& row, uint32_t part, int64_t column, const Shape& shape) {
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t count = row.count & ~kBad;
  const uint32_t* places = groups.places + row.start;
  if (row.n_parts == 1) {
    const uint32_t mine = thread < count ? places[thread] : kAlone;
    memory.unsorted[thread] = mine;
    __syncthreads();
    uint32_t rank = 0;
    for (uint32_t k = 0; k < count; ++k) {
      rank += memory.unsorted[k] < mine;
    }
    if (thread < count) {
      memory.sorted[rank] = mine;
    }
    __syncthreads();
    add_heavy<Optimizer, kVec>(sum, grads, memory.sorted, count, column, shape);
    return;
  }
  const uint32_t range = (groups.n_ids + row.n_parts - 1) / row.n_parts;
  const uint32_t end = min(groups.n_ids, (part + 1) * range);
  for (uint32_t begin = part * range; begin < end; begin += kWindow) {
    const uint32_t size = min(kWindow, end - begin);
    const uint32_t words_each = ((size + 31) / 32 + kThreads - 1) / kThreads;
    for (uint32_t word = thread; word < words_each * kThreads; word += kThreads) {
      memory.bits[word] = 0;
    }
    __syncthreads();
    for (uint32_t k = thread; k < count; k += kThreads) {
      const uint32_t bit = places[k] - begin;  // below `begin` it wraps around, and is too large as well
      if (bit < size) {
        atomicOr(&memory.bits[bit / 32], 1u << bit % 32);
      }
    }
    __syncthreads();
    uint32_t mine = 0;
    for (uint32_t word = 0; word < words_each; ++word) {
      mine += __popc(memory.bits[thread * words_each + word]);
    }
    uint32_t until = mine;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const uint32_t below = __shfl_up_sync(kAllLanes, until, distance);
      until += lane >= static_cast<uint32_t>(distance) ? below : 0;
    }
    if (lane == 31) {
      memory.warp_totals[warp] = until;
    }
    __syncthreads();
    uint32_t before = until - mine, total = 0;
    for (uint32_t other = 0; other < kThreads / 32; ++other) {
      before += other < warp ? memory.warp_totals[other] : 0;
      total += memory.warp_totals[other];
    }
    for (uint32_t batch = 0; batch < total; batch += kThreads) {
      uint32_t rank = before;
      for (uint32_t word = 0; word < words_each && rank < batch + kThreads; ++word) {
        for (uint32_t rest = memory.bits[thread * words_each + word]; rest != 0; rest &= rest - 1, ++rank) {
          if (rank >= batch && rank < batch + kThreads) {
            memory.sorted[rank - batch] = begin + (thread * words_each + word) * 32 + __ffs(static_cast<int>(rest)) - 1;
          }
        }
      }
      __syncthreads();
      add_heavy<Optimizer, kVec>(sum, grads, memory.sorted, min(total - batch, uint32_t{kThreads}), column, shape);
      __syncthreads();
    }
    __syncthreads();  // `warp_totals` and `bits` have been read by all
  }
}

// Ends a row whose parts have all been added: their sums in the parts' order, then the update.
template <typename Optimizer, int kVec>
__device__ void finish_heavy(HeavyMemory<typename Optimizer::sum_t, kVec>& memory, const Optimizer& optimizer,
                             const Header& header, const HeavyRow& row, const typename Optimizer::sum_t* partials,
                             int64_t width) {
  using sum_t = typename Optimizer::sum_t;
  const int64_t first = static_cast<int64_t>(threadIdx.x) * kVec;
  const auto whole = [&](int64_t column, sum_t(&sum)[kVec]) {
    const sum_t* from = partials + row.first_part * width + column;
#pragma unroll 4
    for (uint32_t part = 0; part < row.n_parts; ++part) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const sum_t more = __ldcg(from + part * width + i);
        sum[i] = part == 0 ? more : sum[i] + more;
      }
    }
    if (row.count & kBad) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        sum[i] = static_cast<sum_t>(NAN);
      }
    }
  };
  sum_t sum[kVec];
  sum_t row_rate = 0;
  if constexpr (Optimizer::kWholeRow) {
    const sum_t state = optimizer.row_state(row.id);
    sum_t square = 0;
    for (int64_t column = first; column < width; column += kThreads * kVec) {
      whole(column, sum);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        square += sum[i] * sum[i];
      }
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      square += __shfl_xor_sync(kAllLanes, square, distance);
    }
    if (threadIdx.x % 32 == 0) {
      memory.squares[threadIdx.x / 32] = square;
    }
    __syncthreads();
    square = 0;
    for (int warp = 0; warp < kThreads / 32; ++warp) {
      square += memory.squares[warp];
    }
    // every thread has read the old state by now
    row_rate = optimizer.row_rate(row.id, state, square / static_cast<sum_t>(width), threadIdx.x == 0, header);
  }
  for (int64_t column = first; column < width; column += kThreads * kVec) {
    typename Optimizer::template Row<kVec> values;
    optimizer.read(values, static_cast<int64_t>(row.id) * width + column);
    whole(column, sum);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      optimizer.update(values, i, sum[i], row_rate, header);
    }
    optimizer.write(values, static_cast<int64_t>(row.id) * width + column);
  }
}

// The first blocks take heavy rows: each a part of a row's places and a segment of its columns at a time, the last to
// arrive at a row ends it. In the others a team of lanes takes one light row, or (unless the optimiser needs all of it) a
// segment of one. Must move: every gradient once, every distinct row of weight and states in and out.
template <typename Optimizer, int kVec, int kPieces>
__global__ void __launch_bounds__(kThreads, sizeof(typename Optimizer::scalar_t) > 4 ? 2 : Optimizer::kMinBlocks)
    update_rows(const Optimizer optimizer, const Groups groups,
                const typename Optimizer::scalar_t* __restrict__ grads, typename Optimizer::sum_t* partials,
                const Shape shape) {
  using sum_t = typename Optimizer::sum_t;
  if (blockIdx.x >= shape.n_heavy_blocks) {
    update_light<Optimizer, kVec, kPieces>(optimizer, groups, grads, shape);
    return;
  }
  __shared__ HeavyMemory<sum_t, kVec> memory;
  const int64_t n_items = static_cast<int64_t>(groups.header->cursors.n_parts) * shape.n_heavy_segments;
  const int segment_width = shape.heavy_lanes * kVec;
  for (int64_t item = blockIdx.x; item < n_items; item += shape.n_heavy_blocks) {
    const int64_t which = item / shape.n_heavy_segments;
    const int64_t segment_start = (item - which * shape.n_heavy_segments) * segment_width;
    const Part part = groups.parts[which];
    const HeavyRow row = groups.heavy[part.row];
    sum_t sum[kVec] = {};
    const int64_t column = segment_start + static_cast<int64_t>(threadIdx.x % shape.heavy_lanes) * kVec;
    add_part<Optimizer, kVec>(memory, sum, grads, groups, row, part.index, column, shape);
    __syncthreads();  // bits and sums share their memory
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      memory.sums[threadIdx.x * kVec + i] = sum[i];
    }
    __syncthreads();
    for (int e = threadIdx.x; e < segment_width; e += kThreads) {
      if (segment_start + e < shape.width) {
        sum_t total = memory.sums[e];
        for (int team = 1; team < kThreads / shape.heavy_lanes; ++team) {
          total += memory.sums[team * segment_width + e];
        }
        partials[which * shape.width + segment_start + e] = total;
      }
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      const uint32_t n_all = row.n_parts * shape.n_heavy_segments;
      memory.is_last = atomicAdd(&groups.heavy[part.row].n_arrived, 1u) == n_all - 1;
    }
    __syncthreads();
    if (memory.is_last) {
      __threadfence();
      finish_heavy<Optimizer, kVec>(memory, optimizer, *groups.header, row, partials, shape.width);
    }
    __syncthreads();  // the memory is free for the next item
  }
}

inline int next_power_of_two(int64_t n, int most) {
  int power = 1;
  while (power < n && power < most) {
    power *= 2;
  }
  return power;
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Call after check_rows. `aligned` says whether the optimiser's own tensors allow loads of sixteen bytes.
template <typename Optimizer>
void update_each_row(const char* op, const Optimizer& optimizer, const torch::stable::Tensor& weight,
                     const torch::stable::Tensor& ids, const torch::stable::Tensor& row_grads, Rate rate,
                     const torch::stable::Tensor& lr, bool aligned) {
  using torch::headeronly::ScalarType;
  using scalar_t = typename Optimizer::scalar_t;
  using sum_t = typename Optimizer::sum_t;
  constexpr int kWide = 16 / sizeof(scalar_t);
  constexpr int64_t kMostHeavyBlocks = 512;

  const int64_t n_ids = ids.size(0), width = row_width(weight);
  const IdReporter reporter = open_reports(op, weight);
  if (n_ids == 0) {
    if (rate.step != nullptr) {
      launch(op, weight, count_step_only, dim3(1), dim3(1), rate.step);
    }
    return;
  }
  STD_TORCH_CHECK(weight.size(0) > 0 && weight.size(0) < kEmpty, op, " needs weight with 1 to 2^32 - 2 rows, got ",
                  weight.size(0));
  STD_TORCH_CHECK(n_ids <= int64_t{1} << 30, op, " takes up to 2^30 ids on CUDA, got ", n_ids);
  const torch::stable::Tensor contiguous = torch::stable::contiguous(row_grads);
  const scalar_t* grads = contiguous.template const_data_ptr<scalar_t>();
  rate.lr = lr.const_data_ptr();
  rate.is_double = lr.scalar_type() == ScalarType::Double;

  // Rows with more than kLightPlaces places, and all their parts, are at most so many: a part has more places than that.
  const int64_t n_parts = n_ids / (kLightPlaces + 1);
  const bool is_few = n_ids <= kFewIds;
  const int64_t n_slots = 2 * n_ids;
  int64_t n_bytes = 0;
  const auto reserve = [&n_bytes](int64_t bytes) {
    const int64_t at = n_bytes;
    n_bytes += (bytes + 255) / 256 * 256;
    return at;
  };
  const int64_t header_at = reserve(sizeof(Header));
  const int64_t slots_at = reserve(is_few ? 0 : n_slots * sizeof(Slot));
  const int64_t ranks_at = reserve(n_ids * sizeof(uint2));
  const int64_t places_at = reserve(n_ids * sizeof(uint32_t));
  const int64_t light_at = reserve(n_ids * sizeof(LightRow));
  const int64_t heavy_at = reserve(n_parts * sizeof(HeavyRow));
  const int64_t parts_at = reserve(n_parts * sizeof(Part));
  const int64_t partials_at = reserve(n_parts * width * sizeof(sum_t));
  const torch::stable::Tensor memory = torch::stable::new_empty(weight, {n_bytes}, ScalarType::Byte);
  char* base = static_cast<char*>(memory.mutable_data_ptr());

  const Groups groups{reinterpret_cast<Header*>(base + header_at),
                      reinterpret_cast<Slot*>(base + slots_at),
                      reinterpret_cast<uint2*>(base + ranks_at),
                      reinterpret_cast<uint32_t*>(base + places_at),
                      reinterpret_cast<LightRow*>(base + light_at),
                      reinterpret_cast<HeavyRow*>(base + heavy_at),
                      reinterpret_cast<Part*>(base + parts_at),
                      ids.const_data_ptr<int64_t>(),
                      ids.stride(0),
                      weight.size(0),
                      static_cast<uint32_t>(n_ids),
                      static_cast<uint32_t>(n_slots),
                      reporter};
  group_rows(op, weight, groups, rate);

  const auto update = [&](auto vec) {
    constexpr int kVec = decltype(vec)::value;
    // of sixteen-bit elements a pack holds eight, whose sums alone take eight registers
    constexpr int kPieces = (Optimizer::kWholeRow ? 4 : 2) / (kVec == 8 ? 2 : 1);
    const int64_t n_vectors = (width + kVec - 1) / kVec;
    Shape shape{};
    shape.width = width;
    shape.lanes = next_power_of_two((n_vectors + kPieces - 1) / kPieces, 32);
    shape.n_segments = static_cast<int>((n_vectors + shape.lanes * kPieces - 1) / (shape.lanes * kPieces));
    shape.heavy_lanes = next_power_of_two(n_vectors, 32);
    shape.n_heavy_segments = static_cast<int>((n_vectors + shape.heavy_lanes - 1) / shape.heavy_lanes);
    shape.n_heavy_blocks = static_cast<uint32_t>(std::min(kMostHeavyBlocks, n_parts * shape.n_heavy_segments));
    const int64_t n_teams = n_ids * (Optimizer::kWholeRow ? 1 : shape.n_segments);
    const int64_t n_blocks = shape.n_heavy_blocks + (n_teams * shape.lanes + kThreads - 1) / kThreads;
    STD_TORCH_CHECK(n_blocks <= std::numeric_limits<int32_t>::max(), op, " was given too many ids for one launch, ",
                    n_ids);
    launch(op, weight, update_rows<Optimizer, kVec, kPieces>, dim3(static_cast<unsigned>(n_blocks)), dim3(kThreads),
           optimizer, groups, grads, reinterpret_cast<sum_t*>(base + partials_at), shape);
  };
  if (aligned && is_aligned(grads) && width % kWide == 0) {
    update(std::integral_constant<int, kWide>{});
  } else {
    update(std::integral_constant<int, 1>{});
  }
  close_reports(weight);
}

}  // namespace torchlayer
