// Adam for the rows that ids name, the gradients of a row summed first; other rows and their averages stay as they are.
#include "rows.h"

#include <cmath>

namespace {

using torch::stable::Tensor;
using torchlayer::accumulate_t;

template <typename sum_t>
struct Step {
  sum_t size, root, eps;        // size = lr / (1 - beta1^t), root = sqrt(1 - beta2^t)
  sum_t fresh1, beta2, fresh2;  // fresh = 1 - beta, taken in double: in float, 1 - 0.999 is off by 5e-5 of itself
};

template <typename scalar_t, typename sum_t = accumulate_t<scalar_t>>
void update_row(scalar_t* w, sum_t* m, sum_t* v, const sum_t* grad, int64_t width, const Step<sum_t> step) {
  for (int64_t d = 0; d < width; ++d) {
    m[d] += step.fresh1 * (grad[d] - m[d]);
    v[d] = step.beta2 * v[d] + step.fresh2 * grad[d] * grad[d];
    w[d] = static_cast<scalar_t>(static_cast<sum_t>(w[d]) - step.size * m[d] / (std::sqrt(v[d]) / step.root + step.eps));
  }
}

void row_adam_(const Tensor& weight, const Tensor& exp_avg, const Tensor& exp_avg_sq, const Tensor& step,
               const Tensor& ids, const Tensor& row_grads, const Tensor& lr, double beta1, double beta2, double eps) {
  torchlayer::check_rows(
      "row_adam_", {{"weight", weight}, {"exp_avg", exp_avg}, {"exp_avg_sq", exp_avg_sq}, {"step", step}}, ids,
      row_grads, lr);
  STD_TORCH_CHECK(exp_avg.dim() == weight.dim() && exp_avg_sq.dim() == weight.dim(),
                  "row_adam_ needs exp_avg and exp_avg_sq of the shape of weight");
  STD_TORCH_CHECK(step.dim() == 0 && step.scalar_type() == torch::headeronly::ScalarType::Float,
                  "row_adam_ needs step as one float32");
  torchlayer::check_fraction("row_adam_", "beta1", beta1);
  torchlayer::check_fraction("row_adam_", "beta2", beta2);
  const int64_t width = torchlayer::row_width(weight);
  torchlayer::dispatch_floating(weight, "row_adam_", [&](auto zero) {
    using scalar_t = decltype(zero);
    using sum_t = accumulate_t<scalar_t>;
    const double rate = torchlayer::checked_rate("row_adam_", lr, ids, weight.size(0));
    const double count = ++*step.mutable_data_ptr<float>();
    const Step<sum_t> now{static_cast<sum_t>(rate / (1 - std::pow(beta1, count))),
                          static_cast<sum_t>(std::sqrt(1 - std::pow(beta2, count))), static_cast<sum_t>(eps),
                          static_cast<sum_t>(1 - beta1), static_cast<sum_t>(beta2), static_cast<sum_t>(1 - beta2)};
    scalar_t* w = weight.mutable_data_ptr<scalar_t>();
    sum_t* m = exp_avg.mutable_data_ptr<sum_t>();
    sum_t* v = exp_avg_sq.mutable_data_ptr<sum_t>();
    torchlayer::for_each_row<scalar_t>(ids, row_grads, weight, [&](int64_t row, const sum_t* grad) {
      update_row(w + row * width, m + row * width, v + row * width, grad, width, now);
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("row_adam_", TORCH_BOX(&row_adam_));
}
