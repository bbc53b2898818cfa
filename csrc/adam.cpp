// One Adam or AdamW update of many tensors, in place: torch.optim's formula, its state.
#include "adam.h"

#include <algorithm>
#include <cmath>

namespace {

using torch::stable::Tensor;
using torchlayer::Adam;

// Work for one thread below which a second one costs more than it brings.
constexpr int64_t kGrain = 16384;

template <typename scalar_t>
void update(const Adam& adam, const Tensor& param, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq,
            double step, double lr) {
  scalar_t* p = param.mutable_data_ptr<scalar_t>();
  const scalar_t* g = grad.const_data_ptr<scalar_t>();
  scalar_t* m = exp_avg.mutable_data_ptr<scalar_t>();
  scalar_t* v = exp_avg_sq.mutable_data_ptr<scalar_t>();
  const auto step_size = static_cast<scalar_t>(lr / (1 - std::pow(adam.beta1, step)));
  const auto root = static_cast<scalar_t>(std::sqrt(1 - std::pow(adam.beta2, step)));
  // 1 - beta is taken in double: in float, 1 - 0.999 is off by 5e-5 of itself
  const auto fresh1 = static_cast<scalar_t>(1 - adam.beta1), fresh2 = static_cast<scalar_t>(1 - adam.beta2);
  const auto beta2 = static_cast<scalar_t>(adam.beta2);
  const auto eps = static_cast<scalar_t>(adam.eps);
  const auto shrink = static_cast<scalar_t>(adam.decoupled ? 1 - lr * adam.weight_decay : 1);
  const auto decay = static_cast<scalar_t>(adam.decoupled ? 0 : adam.weight_decay);
  torch::stable::parallel_for(0, param.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const scalar_t gradient = g[i] + decay * p[i];
      m[i] += fresh1 * (gradient - m[i]);
      v[i] = beta2 * v[i] + fresh2 * gradient * gradient;
      p[i] = shrink * p[i] - step_size * m[i] / (std::sqrt(v[i]) / root + eps);
    }
  });
}

void adam_(std::vector<Tensor> params, std::vector<Tensor> grads, std::vector<Tensor> exp_avgs,
           std::vector<Tensor> exp_avg_sqs, std::vector<Tensor> steps, Tensor lr, double beta1, double beta2,
           double eps, double weight_decay, bool decoupled) {
  const Adam adam{beta1, beta2, eps, weight_decay, decoupled};
  torchlayer::check_adam(adam, params, grads, exp_avgs, exp_avg_sqs, steps, lr);
  for (size_t i = 0; i < params.size(); ++i) {
    float* step = steps[i].mutable_data_ptr<float>();
    *step += 1;
    const auto rate = static_cast<double>(*lr.const_data_ptr<float>());
    if (params[i].scalar_type() == torch::headeronly::ScalarType::Double) {
      update<double>(adam, params[i], grads[i], exp_avgs[i], exp_avg_sqs[i], *step, rate);
    } else {
      update<float>(adam, params[i], grads[i], exp_avgs[i], exp_avg_sqs[i], *step, rate);
    }
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("adam_", TORCH_BOX(&adam_));
}
