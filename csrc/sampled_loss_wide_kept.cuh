// What the kernels for many rows and samples leave in memory between forward and backward, and between each other.
#pragma once

#include "sampled_loss.cuh"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>

namespace torchlayer {
namespace wide {

// Parts of one buffer. The errors take what is left of it, as whole rows. Those of later rows are computed again by the
// backward, in the place of the kept ones, which a second backward must therefore compute again as well.
struct Kept {
  float* offsets;          // (K,), and more to fill a tile: added to the logits, in multiples of log 2; -inf past the end
  int32_t* ids;            // the same, of the samples, moved into range; -2 past the end
  float* scales;           // (N,): what a row's errors must be multiplied by
  float* references;       // (N,)
  float* true_errors;      // (N, T)
  int32_t* labels;         // (N, T), moved into range
  int32_t* hits;           // (N,): the sample that is a row's label, or what sampled_loss_wide_hits.cuh says
  int32_t* bad_sample;     // whether one is
  int32_t* is_spent;       // whether a backward has put other rows' errors in the place of these
  __nv_bfloat16* samples;  // (K, D): their rows
  __nv_bfloat16* errors;   // (n_kept_rows, pitch)
  int64_t pitch, n_kept_rows;

  // Whether a backward has errors to make again and room for whole pairs of tiles of them, in the place of these.
  __host__ __device__ bool are_replaced(int64_t n_rows) const { return n_kept_rows >= 256 && n_kept_rows < n_rows; }

  // Of a buffer of so many bytes; returns how many the parts but for the errors take.
  int64_t lay_out(const SampledLoss& loss, void* buffer, int64_t n_bytes) {
    int64_t at = 0;
    const int64_t n_labels = loss.n_rows * loss.n_true;
    const auto take = [&](auto*& part, int64_t n) {
      part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(static_cast<char*>(buffer) + at);
      at += (n * static_cast<int64_t>(sizeof(*part)) + 255) / 256 * 256;
    };
    const int64_t n_columns = (loss.n_sampled + 255) / 256 * 256;
    take(offsets, n_columns);
    take(ids, n_columns);
    take(scales, loss.n_rows);
    take(references, loss.n_rows);
    take(true_errors, n_labels);
    take(labels, n_labels);
    take(hits, loss.n_rows);
    take(bad_sample, 1);
    take(is_spent, 1);
    take(samples, loss.n_sampled * loss.n_features);
    pitch = (loss.n_sampled + 7) / 8 * 8;
    const int64_t fit = std::max<int64_t>(0, (n_bytes - at) / (2 * pitch));
    n_kept_rows = fit >= loss.n_rows ? loss.n_rows : fit / 256 * 256;
    errors = reinterpret_cast<__nv_bfloat16*>(static_cast<char*>(buffer) + at);
    return at;
  }
};

}  // namespace wide
}  // namespace torchlayer
