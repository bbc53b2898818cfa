// w -= lr * g for the rows that ids name, the gradients of a row summed first.
#include "rows.h"

namespace {

using torch::stable::Tensor;
using torchlayer::accumulate_t;

template <typename scalar_t, typename sum_t = accumulate_t<scalar_t>>
void update_row(scalar_t* w, const sum_t* grad, int64_t width, sum_t lr) {
  for (int64_t d = 0; d < width; ++d) {
    w[d] = static_cast<scalar_t>(static_cast<sum_t>(w[d]) - lr * grad[d]);
  }
}

void row_sgd_(const Tensor& weight, const Tensor& ids, const Tensor& row_grads, const Tensor& lr) {
  torchlayer::check_rows("row_sgd_", {{"weight", weight}}, ids, row_grads, lr);
  const int64_t width = torchlayer::row_width(weight);
  torchlayer::dispatch_floating(weight, "row_sgd_", [&](auto zero) {
    using scalar_t = decltype(zero);
    using sum_t = accumulate_t<scalar_t>;
    const auto rate = static_cast<sum_t>(torchlayer::checked_rate("row_sgd_", lr, ids, weight.size(0)));
    scalar_t* w = weight.mutable_data_ptr<scalar_t>();
    torchlayer::for_each_row<scalar_t>(ids, row_grads, weight, [&](int64_t row, const sum_t* grad) {
      update_row(w + row * width, grad, width, rate);
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("row_sgd_", TORCH_BOX(&row_sgd_));
}
