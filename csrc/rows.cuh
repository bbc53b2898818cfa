// What the row optimisers share on CUDA: the sum of each distinct row's gradients, and the row's update with it.
#pragma once

#include "row_arguments.h"
#include "row_update_heavy.cuh"
#include "row_update_light.cuh"

#include <limits>

namespace torchlayer {

// The first blocks take heavy rows. In the others a team of lanes takes one light row, or (unless the optimiser needs all
// of it) a segment of one. Must move: every gradient once, every distinct row of weight and states in and out.
template <typename Optimizer, int kVec, int kPieces>
__global__ void __launch_bounds__(kThreads, sizeof(typename Optimizer::scalar_t) > 4 ? 2 : Optimizer::kMinBlocks)
    update_rows(const Optimizer optimizer, const Groups groups,
                const typename Optimizer::scalar_t* __restrict__ grads, typename Optimizer::sum_t* partials,
                const Shape shape) {
  if (blockIdx.x < shape.n_heavy_blocks) {
    update_heavy<Optimizer, kVec>(optimizer, groups, grads, partials, shape);
  } else {
    update_light<Optimizer, kVec, kPieces>(optimizer, groups, grads, shape);
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
