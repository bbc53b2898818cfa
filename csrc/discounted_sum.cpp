// y[t] = r[t] + gamma * y[t + 1] along the last axis; with `reset` the sum starts anew at every non-zero reward.
#include "check.h"

#include <algorithm>

namespace {

using torch::stable::Tensor;
using torchlayer::accumulate_t;

// Work for one thread below which a second one costs more than it brings.
constexpr int64_t kGrain = 16384;

template <typename scalar_t>
void sum_row(const scalar_t* rewards, scalar_t* sums, int64_t n_steps, accumulate_t<scalar_t> gamma, bool reset) {
  accumulate_t<scalar_t> sum = 0;
  for (int64_t t = n_steps; t-- > 0;) {
    const accumulate_t<scalar_t> reward = rewards[t];
    sum = reset && reward != 0 ? reward : reward + gamma * sum;
    sums[t] = static_cast<scalar_t>(sum);
  }
}

// The transpose of sum_row: r[t] has reached every sum on its left, as far as the nearest restart.
template <typename scalar_t>
void sum_row_backward(const scalar_t* grad, const scalar_t* rewards, scalar_t* out, int64_t n_steps,
                      accumulate_t<scalar_t> gamma, bool reset) {
  accumulate_t<scalar_t> sum = 0;
  for (int64_t t = 0; t < n_steps; ++t) {
    const accumulate_t<scalar_t> here = grad[t];
    const bool restarted = reset && t > 0 && static_cast<accumulate_t<scalar_t>>(rewards[t - 1]) != 0;
    sum = restarted ? here : here + gamma * sum;
    out[t] = static_cast<scalar_t>(sum);
  }
}

// Calls `row(offset, n_steps)` for every row, the rows shared out among the threads.
template <typename Row>
void for_each_row(const Tensor& tensor, const Row& row) {
  const int64_t n_steps = tensor.size(tensor.dim() - 1);
  if (tensor.numel() == 0) {
    return;
  }
  const int64_t grain = std::max<int64_t>(1, kGrain / n_steps);
  torch::stable::parallel_for(0, tensor.numel() / n_steps, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      row(i * n_steps, n_steps);
    }
  });
}

Tensor discounted_sum(const Tensor& rewards, double gamma, bool reset) {
  STD_TORCH_CHECK(rewards.dim() > 0, "discounted_sum needs at least one axis, got a scalar");
  torchlayer::check_fraction("discounted_sum", "gamma", gamma);
  const Tensor r = torch::stable::contiguous(rewards);
  Tensor sums = torch::stable::empty_like(r);
  torchlayer::dispatch_floating(r, "discounted_sum", [&](auto zero) {
    using scalar_t = decltype(zero);
    const scalar_t* from = r.const_data_ptr<scalar_t>();
    scalar_t* to = sums.mutable_data_ptr<scalar_t>();
    for_each_row(r, [&](int64_t at, int64_t n_steps) {
      sum_row<scalar_t>(from + at, to + at, n_steps, static_cast<accumulate_t<scalar_t>>(gamma), reset);
    });
  });
  return sums;
}

Tensor discounted_sum_backward(const Tensor& grad, const Tensor& rewards, double gamma, bool reset) {
  STD_TORCH_CHECK(rewards.dim() > 0, "discounted_sum_backward needs at least one axis, got a scalar");
  torchlayer::check_fraction("discounted_sum_backward", "gamma", gamma);
  torchlayer::check_alike("discounted_sum_backward", grad, rewards);
  const Tensor g = torch::stable::contiguous(grad);
  const Tensor r = torch::stable::contiguous(rewards);
  Tensor out = torch::stable::empty_like(g);
  torchlayer::dispatch_floating(g, "discounted_sum_backward", [&](auto zero) {
    using scalar_t = decltype(zero);
    const scalar_t* from = g.const_data_ptr<scalar_t>();
    const scalar_t* restarts = r.const_data_ptr<scalar_t>();
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    for_each_row(g, [&](int64_t at, int64_t n_steps) {
      sum_row_backward<scalar_t>(from + at, restarts + at, to + at, n_steps,
                                 static_cast<accumulate_t<scalar_t>>(gamma), reset);
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("discounted_sum", TORCH_BOX(&discounted_sum));
  m.impl("discounted_sum_backward", TORCH_BOX(&discounted_sum_backward));
}
