// a += g^2, w -= lr * g / (sqrt(a) + eps) for the rows that ids name, the gradients of a row summed first.
#include "rows.h"

#include <cmath>

namespace {

using torch::stable::Tensor;
using torchlayer::accumulate_t;

template <typename scalar_t, typename sum_t = accumulate_t<scalar_t>>
void update_row(scalar_t* w, sum_t* accumulator, const sum_t* grad, int64_t width, sum_t lr, sum_t eps) {
  for (int64_t d = 0; d < width; ++d) {
    accumulator[d] += grad[d] * grad[d];
    w[d] = static_cast<scalar_t>(static_cast<sum_t>(w[d]) - lr * grad[d] / (std::sqrt(accumulator[d]) + eps));
  }
}

void row_adagrad_(const Tensor& weight, const Tensor& accumulator, const Tensor& ids, const Tensor& row_grads,
                  const Tensor& lr, double eps) {
  torchlayer::check_rows("row_adagrad_", {{"weight", weight}, {"accumulator", accumulator}}, ids, row_grads, lr);
  STD_TORCH_CHECK(accumulator.dim() == weight.dim(), "row_adagrad_ needs accumulator of the shape of weight");
  const int64_t width = torchlayer::row_width(weight);
  torchlayer::dispatch_floating(weight, "row_adagrad_", [&](auto zero) {
    using scalar_t = decltype(zero);
    using sum_t = accumulate_t<scalar_t>;
    const auto rate = static_cast<sum_t>(torchlayer::checked_rate("row_adagrad_", lr, ids, weight.size(0)));
    scalar_t* w = weight.mutable_data_ptr<scalar_t>();
    sum_t* a = accumulator.mutable_data_ptr<sum_t>();
    torchlayer::for_each_row<scalar_t>(ids, row_grads, weight, [&](int64_t row, const sum_t* grad) {
      update_row(w + row * width, a + row * width, grad, width, rate, static_cast<sum_t>(eps));
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("row_adagrad_", TORCH_BOX(&row_adagrad_));
}
