// What the forward of a sampled loss leaves for its backward on the CPU.
#pragma once

#include "sampled_loss_arguments.h"

#include <algorithm>
#include <type_traits>

namespace torchlayer {

// Of as many rows from the first as `bytes` has room for, so that their logits need not be computed again: K errors each,
// in the rows' own sixteen bits if they are bfloat16, T errors of the true classes, and a factor that the K are still to
// be multiplied by. kernels/_sampled_loss.py knows the size.
template <typename scalar_t>
struct Kept {
  using real = accumulate_t<scalar_t>;
  using Stored = std::conditional_t<std::is_same_v<scalar_t, torch::headeronly::BFloat16>, scalar_t, real>;

  Kept(const SampledLoss& loss, const Tensor& bytes) {
    const int64_t k = loss.n_sampled, t = loss.n_true;
    const int64_t row = k * static_cast<int64_t>(sizeof(Stored)) + (1 + t) * static_cast<int64_t>(sizeof(real));
    n_rows = std::min(loss.n_rows, bytes.numel() / row);
    factors = static_cast<real*>(bytes.mutable_data_ptr());
    truths = factors + n_rows;
    errors = reinterpret_cast<Stored*>(truths + n_rows * t);
  }

  int64_t n_rows;
  real* factors;   // (n_rows,)
  real* truths;    // (n_rows, T)
  Stored* errors;  // (n_rows, K)
};

}  // namespace torchlayer
