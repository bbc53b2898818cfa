// The two losses on CUDA: which kernels take which sizes. sampled_softmax.cu and nce.cu make ops of these.
#pragma once

#include "sampled_loss_blocks.cuh"
#include "sampled_loss_rows.cuh"
#include "sampled_loss_wide.cuh"

#include <limits>

namespace torchlayer {

// Calls `body` as dispatch_floating does, without double.
template <typename Body>
void dispatch_single(const Tensor& tensor, const char* op, const Body& body) {
  dispatch_floating(tensor, op, [&](auto zero) {
    if constexpr (!std::is_same_v<decltype(zero), double>) {
      body(zero);
    }
  });
}

inline bool few_fit(const SampledLoss& loss) {
  return rows_fit(loss.n_true, loss.n_sampled, loss.n_features, loss.weight.scalar_type()) &&
         loss.weight.stride(1) == 1;
}

inline int64_t few_kept(const SampledLoss& loss) { return 4 * loss.n_rows * (loss.n_sampled + loss.n_true); }

inline void check_sizes(const char* op, const SampledLoss& loss) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(loss.n_true <= kMost && loss.n_sampled <= kMost && loss.n_features <= kMost && loss.n_rows <= kMost,
                  op, " takes up to 2^31 - 1 rows, labels a row, samples and features on CUDA");
}

// Losses (N,) and, if the loss is normalised, the logarithms (N,) of its sums; and `kept`, as far as it goes.
// Raises what an earlier call has reported.
template <typename Loss>
void sampled_loss_forward(const char* op, const SampledLoss& loss, const Tensor& losses, const Tensor* log_sum_exp,
                          const Tensor& kept) {
  check_sizes(op, loss);
  const IdReporter reporter = open_reports(op, loss.hidden);
  if (loss.n_rows == 0) {
    return;
  }
  if (few_fit(loss)) {
    const bool keep = kept.numel() == few_kept(loss);
    dispatch_single(loss.hidden, op, [&](auto zero) {
      rows_forward<Loss, decltype(zero)>(op, loss, losses, log_sum_exp, keep ? kept : torchlayer::kept(loss, 0),
                                            reporter);
    });
  } else if (wide::fit(loss)) {
    wide::forward<Loss>(op, loss, losses, log_sum_exp, kept, reporter);
  } else {
    dispatch_floating(loss.hidden, op, [&](auto zero) {
      blocks::forward<Loss, decltype(zero)>(op, loss, losses, log_sum_exp, reporter);
    });
  }
  close_reports(loss.hidden);
}

// Gradients from that of the losses. What the forward has not kept is computed again.
template <typename Loss>
void sampled_loss_backward(const char* op, const SampledLoss& loss, const Tensor& grad, const Tensor* log_sum_exp,
                           const Tensor& kept, const Gradients& to) {
  check_sizes(op, loss);
  if (few_fit(loss)) {
    Tensor errors = kept;
    dispatch_single(loss.hidden, op, [&](auto zero) {
      using scalar_t = decltype(zero);
      if (errors.numel() != few_kept(loss)) {
        errors = torchlayer::kept(loss, few_kept(loss));
        const Tensor losses = per_row(loss), log_sums = per_row(loss);
        rows_forward<Loss, scalar_t>(op, loss, losses, &log_sums, errors, {});
      }
      rows_backward<Loss, scalar_t>(op, loss, grad, errors, to);
    });
  } else if (loss.n_rows > 0 && wide::fit(loss)) {
    wide::backward<Loss>(op, loss, grad, log_sum_exp, kept, to);
  } else {
    dispatch_floating(loss.hidden, op, [&](auto zero) {
      blocks::backward<Loss, decltype(zero)>(op, loss, grad, log_sum_exp, to);
    });
  }
}

}  // namespace torchlayer
