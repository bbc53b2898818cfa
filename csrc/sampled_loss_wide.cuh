// Sampled softmax and NCE for many samples or features in bfloat16 on Hopper, as sampled_loss_wide_*.cuh compute them.
#pragma once

#include "sampled_loss_wide_backward.cuh"

#include <cstring>

namespace torchlayer {
namespace wide {

constexpr int64_t kMostKept = int64_t{192} << 20;    // bytes of errors between forward and backward
constexpr int64_t kMostScratch = int64_t{64} << 20;  // and of those computed again, where none could be kept

// Whether the kernels are compiled in and suit these arguments: rows as the copy engine and loads of sixteen bytes like
// them.
inline bool fit(const SampledLoss& loss) {
  using torch::headeronly::ScalarType;
  const auto aligned = [](const Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  };
  constexpr int64_t kMost = int64_t{1} << 30;
  if (std::strstr(TORCHLAYER_ARCHITECTURES, "9.0a") == nullptr || loss.weight.scalar_type() != ScalarType::BFloat16 ||
      loss.n_features % 8 != 0 || loss.weight.stride(1) != 1 || loss.weight.stride(0) % 8 != 0 ||
      !aligned(loss.weight) || !aligned(loss.hidden) || loss.n_classes >= INT32_MAX || loss.n_rows >= kMost ||
      loss.n_sampled >= kMost || loss.n_features >= kMost) {
    return false;
  }
  const int device = loss.hidden.get_device_index();
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return major == 9 && minor == 0;
}

inline int n_pairs_of_multiprocessors(const SampledLoss& loss) {
  int n = 0;
  cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, loss.hidden.get_device_index());
  return n / 2;
}

inline int divide_up(int64_t n, int64_t by) { return static_cast<int>((n + by - 1) / by); }

// Calls `body` with the number of rows that a warp takes at once, so that a thread has loads enough in flight, and warps
// are many.
template <typename Body>
void by_row_length(const SampledLoss& loss, const Body& body) {
  if (loss.n_features <= 256 && loss.n_rows >= 16384) {
    body(std::integral_constant<int, 4>{});
  } else {
    body(std::integral_constant<int, 1>{});
  }
}

inline CUtensorMap matrix(const char* op, const void* data, int64_t rows, int64_t columns, int64_t pitch,
                          uint32_t box_rows) {
  CUtensorMap map;
  STD_TORCH_CHECK(hopper::describe_matrix(&map, data, std::max<int64_t>(rows, 1), columns, pitch, box_rows), op,
                  ": the driver has no tensor maps; it must be of CUDA 12 or later");
  return map;
}

// Whether a kernel may begin while the one before it ends. Not where the errors are made again, chunk by chunk: the
// benchmark d4k takes 1351 us then and 1299 otherwise, perhaps because the clusters of a chunk's first product, which
// need two whole multiprocessors each, are dealt out as the last product of the chunk before gives these up.
inline bool overlap(const SampledLoss& loss, const Kept& kept) { return 2 * loss.n_rows * kept.pitch <= kMostKept; }

// How many samples a tile of find_errors takes: half of what products are best with, if all tiles then find places at
// once.
inline int error_width(const SampledLoss& loss, int64_t n_rows) {
  const bool narrow = divide_up(n_rows, kPairRows) * divide_up(loss.n_sampled, kColumns / 2) <=
                      n_pairs_of_multiprocessors(loss);
  return narrow ? kColumns / 2 : kColumns;
}

// Errors of n rows from `first` on into `errors` (n_kept_rows, pitch), and sums of theirs if they are wanted.
template <typename Loss>
void launch_errors(const char* op, const SampledLoss& loss, const Kept& kept, int64_t first, int64_t n,
                   const float* references, float* sums, float* exponents, __nv_bfloat16* errors,
                   int64_t n_kept_rows, const int32_t* only_if = nullptr) {
  const auto* hidden = static_cast<const __nv_bfloat16*>(loss.hidden.const_data_ptr()) + first * loss.n_features;
  const int64_t d = loss.n_features;
  const int width = error_width(loss, n);
  const Errors given{kept.offsets, kept.ids, references, kept.labels + first * loss.n_true,
                     loss.remove_accidental_hits ? kept.hits + first : nullptr, sums, exponents, only_if,
                     static_cast<int>(n), static_cast<int>(loss.n_true), static_cast<int>(n_kept_rows),
                     divide_up(n, kPairRows), divide_up(loss.n_sampled, width), divide_up(d, kDepth)};
  const int n_clusters = std::min(n_pairs_of_multiprocessors(loss), given.n_pairs * given.n_tiles);
  const auto kernel = width < kColumns ? find_errors<Loss, kColumns / 2> : find_errors<Loss, kColumns>;
  launch_as(overlap(loss, kept), op, loss.hidden, kernel, dim3(2 * n_clusters), dim3(kThreads), sizeof(Shared),
            matrix(op, hidden, n, d, d, kRows), matrix(op, kept.samples, loss.n_sampled, d, d, width / 2),
            matrix(op, errors, n_kept_rows, loss.n_sampled, kept.pitch, kOutRows), given);
}

// As sampled_loss_forward. `buffer` may be too small for anything to be kept.
template <typename Loss>
void forward(const char* op, const SampledLoss& loss, const Tensor& losses, const Tensor* log_sum_exp,
             const Tensor& buffer, IdReporter reporter) {
  Kept kept;
  Tensor own;
  const int64_t needed = kept.lay_out(loss, buffer.mutable_data_ptr(), buffer.numel());
  if (buffer.numel() < needed) {
    own = torchlayer::kept(loss, needed);
    kept.lay_out(loss, own.mutable_data_ptr(), needed);
  }
  const Given<torch::headeronly::BFloat16> given(loss, reporter);
  const int width = error_width(loss, loss.n_rows), n_tiles = divide_up(loss.n_sampled, width);
  const int n_columns = divide_up(loss.n_sampled, kColumns) * kColumns;
  const int n_hit_blocks = loss.remove_accidental_hits ? divide_up(loss.n_rows, kHitRows) : 0;
  const bool early = overlap(loss, kept);
  by_row_length(loss, [&](auto n) {
    constexpr int kRowsAWarp = decltype(n)::value;
    const int n_row_warps = divide_up(loss.n_rows, kBatches<kRowsAWarp> * kRowsAWarp);
    launch_as(early, op, loss.hidden, prepare<kRowsAWarp>,
              dim3(n_hit_blocks + divide_up(n_columns + n_row_warps, kWarps) + 1), dim3(32 * kWarps), 0, given, kept,
              n_hit_blocks, n_columns, n_row_warps);
  });
  const Tensor scratch = torch::stable::new_empty(losses, {(Loss::kNormalised ? 2 : 1) * n_tiles, loss.n_rows});
  float* sum = scratch.mutable_data_ptr<float>();
  float* exponents = Loss::kNormalised ? sum + n_tiles * loss.n_rows : nullptr;
  launch_errors<Loss>(op, loss, kept, 0, loss.n_rows, kept.references, sum, exponents, kept.errors, kept.n_kept_rows);
  launch_as(early, op, loss.hidden, finish_losses<Loss>, dim3(divide_up(loss.n_rows, 32)), dim3(32 * kWarps), 0,
            given, kept, sum, exponents, n_tiles, width, losses.mutable_data_ptr<float>(),
            log_sum_exp ? log_sum_exp->mutable_data_ptr<float>() : nullptr);
}

// The best schedule of a range of rows whose sums are made in so many parts.
inline Schedule schedule(const SampledLoss& loss, int64_t n_rows, int n_parts) {
  constexpr int64_t kCached = int64_t{48} << 20;  // bytes of errors that are still in the cache for the second product
  constexpr double kTwice = 1.4;                  // what it costs if they are not
  const int n_feature_tiles = divide_up(loss.n_features, kColumns), steps = divide_up(n_rows, kDepth);
  const auto make = [&](bool beside) {
    return Schedule(divide_up(n_rows, kPairRows) * n_feature_tiles, divide_up(loss.n_sampled, kDepth),
                    divide_up(loss.n_sampled, kPairRows) * n_feature_tiles * n_parts, divide_up(steps, n_parts),
                    n_pairs_of_multiprocessors(loss), beside);
  };
  Schedule both = make(false), beside = make(true);
  if (2 * n_rows * loss.n_sampled > kCached) {
    both.time = static_cast<int64_t>(static_cast<double>(both.time) * kTwice);
  }
  return both.time <= beside.time ? both : beside;
}

// In how many parts a range is best summed: more fill the chip better, but must be written and added.
inline int best_parts(const SampledLoss& loss, int64_t n_rows) {
  constexpr double kBytesAStep = 1.5e6;  // that memory moves while a step is multiplied
  int best = 1;
  double least = 0;
  for (int n_parts = 1; n_parts <= std::clamp(divide_up(n_rows, 4 * kDepth), 1, 64); ++n_parts) {
    const double bytes = 8.0 * n_parts * static_cast<double>(loss.n_sampled) * static_cast<double>(loss.n_features);
    const double time = static_cast<double>(schedule(loss, n_rows, n_parts).time) +
                        (n_parts == 1 ? 0 : 4 + bytes / kBytesAStep);
    if (n_parts == 1 || time < least) {
      least = time;
      best = n_parts;
    }
  }
  return best;
}

// As sampled_loss_backward.
template <typename Loss>
void backward(const char* op, const SampledLoss& loss, const Tensor& grad, const Tensor* log_sum_exp,
              const Tensor& buffer, const Gradients& to) {
  using torch::headeronly::ScalarType;
  const int64_t k = loss.n_sampled, d = loss.n_features, t = loss.n_true;
  auto* rows = static_cast<__nv_bfloat16*>(to.rows.mutable_data_ptr());
  float* biases = to.biases.mutable_data_ptr<float>();
  int64_t* ids = to.ids.mutable_data_ptr<int64_t>();
  Kept kept;
  Tensor own = buffer;
  const int64_t needed = kept.lay_out(loss, buffer.mutable_data_ptr(), buffer.numel());
  if (buffer.numel() < needed) {  // nothing was kept
    const Tensor losses = per_row(loss), log_sums = per_row(loss);
    own = torchlayer::kept(loss, needed + std::min(kMostKept, 2 * loss.n_rows * kept.pitch));
    forward<Loss>(op, loss, losses, &log_sums, own, {});
    kept.lay_out(loss, own.mutable_data_ptr(), own.numel());
  }

  const int64_t rest = loss.n_rows - kept.n_kept_rows;
  const bool replaces = kept.are_replaced(loss.n_rows);
  const int64_t most = replaces ? kept.n_kept_rows
                                : std::max<int64_t>(256, kMostScratch / (2 * kept.pitch) / 256 * 256);
  const int n_chunks = divide_up(rest, most);
  const int64_t chunk = n_chunks == 0 ? 0 : std::min<int64_t>(rest, divide_up(divide_up(rest, n_chunks), 256) * 256);
  const int n_ranges = (kept.n_kept_rows > 0) + n_chunks;
  const int n_parts = best_parts(loss, std::max(kept.n_kept_rows, chunk));
  const bool at_once = n_ranges == 1 && n_parts == 1;
  const int64_t longest = std::max(kept.n_kept_rows, chunk);
  const bool early = overlap(loss, kept);

  const int64_t n_scratch_rows = replaces ? 1 : std::max<int64_t>(1, chunk);
  const Tensor scratch = torch::stable::new_empty(loss.hidden, {n_scratch_rows, kept.pitch});
  const Tensor scaled = torch::stable::new_empty(loss.hidden, {longest, d});
  const Tensor row_scales = torch::stable::new_empty(grad, {longest});
  const Tensor scale_parts = torch::stable::new_empty(loss.hidden, {divide_up(longest, kDepth) * kScaleBytes / 2});
  const Tensor sums = torch::stable::new_empty(grad, {at_once ? 1 : n_parts * k * (d + 1)});
  float* sum = at_once ? nullptr : sums.mutable_data_ptr<float>();
  float* part_biases = n_parts == 1 ? biases : sum + n_parts * k * d;
  auto* scaled_rows = static_cast<__nv_bfloat16*>(scaled.mutable_data_ptr());
  const Given<torch::headeronly::BFloat16> given(loss);

  for (int64_t first = 0; first < loss.n_rows;) {
    const bool is_kept = first < kept.n_kept_rows;
    const int64_t n = is_kept ? kept.n_kept_rows : std::min(chunk, loss.n_rows - first);
    auto* errors = is_kept || replaces ? kept.errors : static_cast<__nv_bfloat16*>(scratch.mutable_data_ptr());
    if (!is_kept) {
      const float* references = Loss::kNormalised ? log_sum_exp->const_data_ptr<float>() + first : nullptr;
      launch_errors<Loss>(op, loss, kept, first, n, references, nullptr, nullptr, errors, n);
    } else if (replaces) {  // after another backward
      launch_errors<Loss>(op, loss, kept, first, n, kept.references, nullptr, nullptr, errors, n, kept.is_spent);
    }
    const int64_t at = k + first * t;
    const Spread spread{grad.const_data_ptr<float>() + first, kept.true_errors + first * t, kept.scales + first,
                        !is_kept && Loss::kNormalised, row_scales.mutable_data_ptr<float>(),
                        static_cast<__nv_bfloat16*>(scale_parts.mutable_data_ptr()), scaled_rows,
                        rows + at * d, biases + at, ids + at, first == 0 ? ids : nullptr,
                        is_kept && replaces ? kept.is_spent : nullptr, first, n};
    by_row_length(loss, [&](auto rows_a_warp) {
      constexpr int kRowsAWarp = decltype(rows_a_warp)::value;
      launch_as(early, op, loss.hidden, spread_rows<kRowsAWarp>, dim3(divide_up(n, kRowsAWarp * kWarps)),
                dim3(32 * kWarps), 0, given, spread);
    });

    const int steps = divide_up(n, kDepth);
    const Products products{schedule(loss, n, n_parts), static_cast<int>(n), static_cast<int>(k), static_cast<int>(d),
                            static_cast<int>(t), divide_up(d, kColumns), divide_up(k, kPairRows),
                            divide_up(k, kDepth), steps, n_parts,
                            row_scales.const_data_ptr<float>(),
                            static_cast<const char*>(scale_parts.const_data_ptr()), biases + at,
                            kept.labels + first * t,
                            static_cast<const __nv_bfloat16*>(loss.weight.const_data_ptr()), loss.weight.stride(0),
                            sum, part_biases, first > 0};
    auto* d_hidden = static_cast<__nv_bfloat16*>(to.hidden.mutable_data_ptr()) + first * d;
    launch_as(early, op, loss.hidden, multiply_errors, dim3(2 * products.schedule.n_clusters), dim3(kThreads),
              sizeof(Shared), matrix(op, errors, n, k, kept.pitch, kRows),
              matrix(op, errors, n, k, kept.pitch, kBox), matrix(op, kept.samples, k, d, d, kBox),
              matrix(op, scaled_rows, n, d, d, kBox), matrix(op, d_hidden, n, d, d, kOutRows),
              matrix(op, rows, k, d, d, kOutRows), products);
    first += n;
  }
  if (!at_once) {
    const int64_t threads = std::max(divide_up(k * d, 4), static_cast<int>(k));
    launch_as(early, op, loss.hidden, add_parts, dim3(divide_up(threads, 256)), dim3(256), 0, sum, part_biases, n_parts,
              k * d, static_cast<int>(k), rows, biases);
  }
}

}  // namespace wide
}  // namespace torchlayer
