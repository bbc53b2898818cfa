// a += mean(g^2), w -= lr * g / (sqrt(a) + eps) for the rows that ids name: one a for a whole row, the gradients of a
// row summed first.
#include "rows.h"

#include <cmath>

namespace {

using torch::stable::Tensor;
using torchlayer::accumulate_t;

// Eight sums side by side: in a single one, every addition would wait for the one before.
template <typename sum_t>
sum_t mean_square(const sum_t* grad, int64_t width) {
  constexpr int64_t kLanes = 8;
  sum_t lanes[kLanes] = {};
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += grad[d + lane] * grad[d + lane];
    }
  }
  sum_t total = 0;
  for (; d < width; ++d) {
    total += grad[d] * grad[d];
  }
  for (const sum_t lane : lanes) {
    total += lane;
  }
  return total / static_cast<sum_t>(width);
}

template <typename scalar_t, typename sum_t = accumulate_t<scalar_t>>
void update_row(scalar_t* w, sum_t* accumulator, const sum_t* grad, int64_t width, sum_t lr, sum_t eps) {
  *accumulator += mean_square(grad, width);
  const sum_t rate = lr / (std::sqrt(*accumulator) + eps);
  for (int64_t d = 0; d < width; ++d) {
    w[d] = static_cast<scalar_t>(static_cast<sum_t>(w[d]) - rate * grad[d]);
  }
}

void row_rowwise_adagrad_(const Tensor& weight, const Tensor& accumulator, const Tensor& ids, const Tensor& row_grads,
                          const Tensor& lr, double eps) {
  constexpr const char* kOp = "row_rowwise_adagrad_";
  torchlayer::check_rows(kOp, {{"weight", weight}, {"accumulator", accumulator}}, ids, row_grads, lr);
  STD_TORCH_CHECK(accumulator.dim() == 1, kOp, " needs accumulator with one number a row");
  const int64_t width = torchlayer::row_width(weight);
  torchlayer::dispatch_floating(weight, kOp, [&](auto zero) {
    using scalar_t = decltype(zero);
    using sum_t = accumulate_t<scalar_t>;
    const auto rate = static_cast<sum_t>(torchlayer::checked_rate(kOp, lr, ids, weight.size(0)));
    scalar_t* w = weight.mutable_data_ptr<scalar_t>();
    sum_t* a = accumulator.mutable_data_ptr<sum_t>();
    torchlayer::for_each_row<scalar_t>(ids, row_grads, weight, [&](int64_t row, const sum_t* grad) {
      update_row(w + row * width, a + row, grad, width, rate, static_cast<sum_t>(eps));
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("row_rowwise_adagrad_", TORCH_BOX(&row_rowwise_adagrad_));
}
