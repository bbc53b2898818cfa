// What the row optimisers share on CUDA: the sum of each distinct row's gradients, and the row's update with it.
#pragma once

#include "row_arguments.h"
#include "row_update_few.cuh"
#include "row_update_heavy.cuh"
#include "row_update_light.cuh"

#include <limits>
#include <optional>

namespace torchlayer {

constexpr int64_t kPrefetched = 16 << 20;  // bytes of gradients to bring into L2 while rows are grouped

// As many blocks as the chip holds at once. The first ones begin with heavy rows; then all take light ones, of which a
// team of lanes takes one, or (unless the optimiser needs all of it) a segment of one. Must move: every gradient once,
// every distinct row of weight and states in and out.
template <typename Optimizer, int kVec, int kPieces>
__global__ void __launch_bounds__(kThreads, kBlocks<Optimizer>)
    update_rows(const Optimizer optimizer, const Groups groups,
                const typename Optimizer::scalar_t* grads, typename Optimizer::sum_t* partials, const Shape shape) {
  const int64_t until = min(kPrefetched, groups.given.n * shape.width * int64_t{sizeof(*grads)});
  for (int64_t ahead = (blockIdx.x * kThreads + threadIdx.x) * kLine; ahead < until;
       ahead += int64_t{gridDim.x} * kThreads * kLine) {
    prefetch(reinterpret_cast<const char*>(grads) + ahead);
  }
  wait_for_earlier_kernels();
  if (blockIdx.x < shape.n_heavy_blocks) {
    update_heavy<Optimizer, kVec>(optimizer, groups, grads, partials, shape);
  }
  update_light<Optimizer, kVec, kPieces>(optimizer, groups, grads, shape);
}

inline int next_power_of_two(int64_t n, int most) {
  int power = 1;
  while (power < n && power < most) {
    power *= 2;
  }
  return power;
}

inline int n_multiprocessors(const torch::stable::Tensor& where) {
  int n = 0;
  cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, where.get_device_index());
  return std::max(n, 1);
}

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// What follows from the width of a row, in packs of kVec elements, kPieces of which a lane takes at once. A light row
// has as few lanes as will do, from `least` to `most`; `most_heavy` may share a heavy one.
template <int kVec, int kPieces>
Shape shape_for(int64_t width, int least, int most, int most_heavy) {
  const int64_t n_vectors = (width + kVec - 1) / kVec;
  Shape shape{};
  shape.width = width;
  shape.lanes = std::max(least, next_power_of_two((n_vectors + kPieces - 1) / kPieces, most));
  shape.n_segments = static_cast<int>((n_vectors + shape.lanes * kPieces - 1) / (shape.lanes * kPieces));
  shape.heavy_lanes = next_power_of_two(n_vectors, most_heavy);
  shape.n_heavy_segments = static_cast<int>((n_vectors + shape.heavy_lanes - 1) / shape.heavy_lanes);
  return shape;
}

template <typename Optimizer, int kVec, int kPieces>
void update_few(const char* op, const Optimizer& optimizer, const torch::stable::Tensor& weight, const RowIds& given,
                const Rate& rate, const typename Optimizer::scalar_t* grads, int64_t width) {
  Prepared* counted = nullptr;
  std::optional<torch::stable::Tensor> memory;  // until the last launch that is given it
  if (rate.step != nullptr) {
    memory = torch::stable::new_empty(weight, {sizeof(Prepared)}, torch::headeronly::ScalarType::Byte);
    counted = static_cast<Prepared*>(memory->mutable_data_ptr());
    launch_early(op, weight, count_step, dim3(1), dim3(1), 0, rate, counted);
  }
  const Shape shape = shape_for<kVec, kPieces>(width, 32, 32, kThreads);
  launch_early(op, weight, update_few_rows<Optimizer, kVec, kPieces>, dim3((given.n + kOwnPlaces - 1) / kOwnPlaces),
               dim3(kThreads), 0, optimizer, given, rate, counted, grads, shape);
}

template <typename Optimizer, int kVec, int kPieces>
void update_many(const char* op, const Optimizer& optimizer, const torch::stable::Tensor& weight, const RowIds& given,
                 const Rate& rate, const typename Optimizer::scalar_t* grads, int64_t width) {
  using sum_t = typename Optimizer::sum_t;
  const int64_t n_ids = given.n;
  // rows with more than kLightPlaces places, and all their parts, are at most so many: a part has more places than that
  const int64_t n_parts = n_ids / (kLightPlaces + 1);
  const int64_t n_slots = 2 * n_ids;
  int64_t n_bytes = 0;
  const auto reserve = [&n_bytes](int64_t bytes) {
    const int64_t at = n_bytes;
    n_bytes += (bytes + 255) / 256 * 256;
    return at;
  };
  const int64_t header_at = reserve(sizeof(Header));
  const int64_t slots_at = reserve(n_slots * sizeof(Slot));
  const int64_t ranks_at = reserve(n_ids * sizeof(uint2));
  const int64_t places_at = reserve(n_ids * sizeof(uint32_t));
  const int64_t light_at = reserve(n_ids * sizeof(LightRow));
  const int64_t heavy_at = reserve(n_parts * sizeof(HeavyRow));
  const int64_t parts_at = reserve(n_parts * sizeof(Part));
  const int64_t partials_at = reserve(n_parts * width * sizeof(sum_t));
  const torch::stable::Tensor memory =
      torch::stable::new_empty(weight, {n_bytes}, torch::headeronly::ScalarType::Byte);
  char* base = static_cast<char*>(memory.mutable_data_ptr());

  const Groups groups{reinterpret_cast<Header*>(base + header_at),
                      reinterpret_cast<Slot*>(base + slots_at),
                      reinterpret_cast<uint2*>(base + ranks_at),
                      reinterpret_cast<uint32_t*>(base + places_at),
                      reinterpret_cast<LightRow*>(base + light_at),
                      reinterpret_cast<HeavyRow*>(base + heavy_at),
                      reinterpret_cast<Part*>(base + parts_at),
                      given,
                      static_cast<uint32_t>(n_slots)};
  Shape shape = Optimizer::kWholeRow ? shape_for<kVec, kPieces>(width, 1, kThreads, kThreads)
                                     : shape_for<kVec, kPieces>(width, 1, 32, 64);
  const int64_t n_teams = n_ids * (Optimizer::kWholeRow ? 1 : shape.n_segments);
  STD_TORCH_CHECK(n_teams <= std::numeric_limits<int32_t>::max(), op, " was given too many ids for one launch, ",
                  n_ids);
  const int64_t n_held = int64_t{kBlocks<Optimizer>} * n_multiprocessors(weight);
  const int64_t n_blocks = std::min(n_held, (n_teams * shape.lanes + kThreads - 1) / kThreads);
  shape.n_heavy_blocks = static_cast<uint32_t>(std::min((n_blocks + 1) / 2, n_parts * shape.n_heavy_segments));
  group_rows(op, weight, groups, rate);
  launch_early(op, weight, update_rows<Optimizer, kVec, kPieces>, dim3(static_cast<unsigned>(n_blocks)),
               dim3(kThreads), 0, optimizer, groups, grads, reinterpret_cast<sum_t*>(base + partials_at), shape);
}

// Call after check_rows. `aligned` says whether the optimiser's own tensors allow loads of sixteen bytes.
template <typename Optimizer>
void update_each_row(const char* op, const Optimizer& optimizer, const torch::stable::Tensor& weight,
                     const torch::stable::Tensor& ids, const torch::stable::Tensor& row_grads, Rate rate,
                     const torch::stable::Tensor& lr, bool aligned) {
  using scalar_t = typename Optimizer::scalar_t;
  constexpr int kWide = 16 / sizeof(scalar_t);

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
  rate.is_double = lr.scalar_type() == torch::headeronly::ScalarType::Double;
  const RowIds given{ids.const_data_ptr<int64_t>(), ids.stride(0), weight.size(0), static_cast<uint32_t>(n_ids),
                     reporter};

  // of sixteen-bit elements a pack holds eight, whose sums alone take eight registers
  constexpr int kHalf = kWide == 8 ? 2 : 1, kSingle = Optimizer::kWholeRow ? 4 : 2;
  const bool in_packs = aligned && is_aligned(grads) && width % kWide == 0;
  if (n_ids > kFewIds) {
    in_packs ? update_many<Optimizer, kWide, 2 / kHalf>(op, optimizer, weight, given, rate, grads, width)
             : update_many<Optimizer, 1, kSingle>(op, optimizer, weight, given, rate, grads, width);
  } else if (!in_packs) {
    update_few<Optimizer, 1, kSingle>(op, optimizer, weight, given, rate, grads, width);
  } else if constexpr (!Optimizer::kWholeRow) {
    update_few<Optimizer, kWide, 2 / kHalf>(op, optimizer, weight, given, rate, grads, width);
  } else if (width > 32 * 4 / kHalf * kWide) {  // which would not fit into the lanes, and be read twice
    update_few<Optimizer, kWide, 8 / kHalf>(op, optimizer, weight, given, rate, grads, width);
  } else {
    update_few<Optimizer, kWide, 4 / kHalf>(op, optimizer, weight, given, rate, grads, width);
  }
  close_reports(weight);
}

}  // namespace torchlayer
