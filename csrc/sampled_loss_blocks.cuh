// Sampled softmax and NCE at any size, layout and dtype: torch's matrix products over blocks of rows, and a kernel
// between them that turns a row of logits into its loss, or into its errors.
#pragma once

#include "torch_product.h"
#include "sampled_loss.cuh"

#include <algorithm>

namespace torchlayer {
namespace blocks {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kLogits = 1 << 24;  // of a block of rows

// Sums and maxima over a block, the same in every thread, always in the same order.
template <typename real, typename Combine>
__device__ real reduce(real x, const Combine& combine) {
  __shared__ real of_warps[kWarps];
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    x = combine(x, __shfl_xor_sync(0xffffffffu, x, apart));
  }
  __syncthreads();  // what an earlier call left has been read
  if (threadIdx.x % 32 == 0) {
    of_warps[threadIdx.x / 32] = x;
  }
  __syncthreads();
  x = of_warps[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) {
    x = combine(x, of_warps[warp]);
  }
  return x;
}

template <typename real>
__device__ real sum(real x) {
  return reduce(x, [](real a, real b) { return a + b; });
}

template <typename real>
__device__ real largest(real x) {
  return reduce(x, [](real a, real b) { return fmax(a, b); });
}

// What every block of rows needs of the samples: their rows side by side, what is added to their logits, and whether one
// of their ids names no class.
template <typename scalar_t>
struct Samples {
  using real = accumulate_t<scalar_t>;
  Tensor rows, offsets, bad;  // (K, D), (K,), (1,)

  explicit Samples(const SampledLoss& loss)
      : rows(torch::stable::new_empty(loss.hidden, {loss.n_sampled, loss.n_features})),
        offsets(torch::stable::new_empty(loss.hidden, {loss.n_sampled}, real_type<scalar_t>())),
        bad(torch::stable::new_zeros(loss.hidden, {1}, torch::headeronly::ScalarType::Int)) {}
};

// A block copies a sample's row. Must move: the rows, in and out.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    gather_samples(const __grid_constant__ Given<scalar_t> given, scalar_t* __restrict__ rows,
                   accumulate_t<scalar_t>* __restrict__ offsets, int32_t* bad) {
  const int j = blockIdx.x;
  const int64_t id = given.sampled[j];
  const scalar_t* from = given.weight + given.clamp(id) * given.row_stride;
  for (int f = threadIdx.x; f < given.n_features; f += kThreads) {
    rows[static_cast<int64_t>(j) * given.n_features + f] = from[f * given.column_stride];
  }
  if (threadIdx.x == 0) {
    offsets[j] = given.sampled_offset(j);
    if (given.is_bad(id)) {
      *bad = 1;  // by any number of blocks, all of which write the same
      given.look_at_sample(j, id);
    }
  }
}

// A row's part of the arrays that the two kernels below walk through.
template <typename scalar_t>
struct Row {
  using real = accumulate_t<scalar_t>;
  const Given<scalar_t>& given;
  int64_t i;
  scalar_t* logits;  // (K,)
  const real* offsets;
  real* truths;  // (T,)
  bool bad;

  __device__ Row(const Given<scalar_t>& given, int64_t i, scalar_t* logits, const real* offsets, real* truths, bool bad)
      : given(given), i(i), logits(logits), offsets(offsets), truths(truths), bad(bad) {
    for (int t = 0; t < given.n_true; ++t) {
      this->bad |= given.is_bad(label(t));
    }
  }

  __device__ int64_t label(int t) const { return given.labels[i * given.n_true + t]; }

  __device__ void find_truths() const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int t = warp; t < given.n_true; t += kWarps) {
      const scalar_t* h = given.hidden + i * given.n_features;
      const scalar_t* w = given.weight + given.clamp(label(t)) * given.row_stride;
      real product = 0;
      for (int f = lane; f < given.n_features; f += 32) {
        product += static_cast<real>(h[f]) * static_cast<real>(w[f * given.column_stride]);
      }
#pragma unroll
      for (int apart = 16; apart > 0; apart /= 2) {
        product += __shfl_xor_sync(0xffffffffu, product, apart);
      }
      if (lane == 0) {
        truths[t] = product + given.true_offset(label(t), i * given.n_true + t);
      }
    }
    __syncthreads();
  }

  __device__ bool is_hit(int j) const {
    bool hit = false;
    for (int t = 0; given.remove_accidental_hits && t < given.n_true; ++t) {
      hit |= given.sampled[j] == label(t);
    }
    return hit;
  }

  __device__ real logit(int j) const { return static_cast<real>(logits[j]) + offsets[j]; }
};

template <typename real, typename scalar_t>
__device__ void find_loss(Softmax, const Row<scalar_t>& row, real& loss, real& log_sum) {
  const int n_true = row.given.n_true, n_sampled = row.given.n_sampled;
  real top = -INFINITY, mean = 0, of_truths = 0, of_samples = 0;
  for (int j = threadIdx.x; j < n_sampled; j += kThreads) {
    top = row.is_hit(j) ? top : fmax(top, row.logit(j));
  }
  top = largest(top);
  for (int t = 0; t < n_true; ++t) {
    top = fmax(top, row.truths[t]);
    mean += row.truths[t] / n_true;
  }
  // Shifted by an infinity every other logit would be NaN; without it the sum is infinite, zero or NaN, as it should.
  const real shift = isfinite(top) ? top : real(0);
  for (int j = threadIdx.x; j < n_sampled; j += kThreads) {
    of_samples += row.is_hit(j) ? real(0) : exp(row.logit(j) - shift);
  }
  of_samples = sum(of_samples);
  for (int t = 0; t < n_true; ++t) {
    of_truths += exp(row.truths[t] - shift);
  }
  log_sum = shift + log(of_samples + of_truths);
  // A single label's p may be near 1: its loss then comes from what the others hold, which does not cancel.
  const bool single = n_true == 1 && isfinite(of_samples) && of_samples < of_truths;
  loss = single ? log1p(of_samples / of_truths) : log_sum - mean;
}

template <typename real, typename scalar_t>
__device__ void find_loss(Nce, const Row<scalar_t>& row, real& loss, real&) {
  real of_samples = 0;
  for (int j = threadIdx.x; j < row.given.n_sampled; j += kThreads) {
    of_samples += row.is_hit(j) ? real(0) : softplus(row.logit(j));
  }
  loss = sum(of_samples);
  for (int t = 0; t < row.given.n_true; ++t) {
    loss += Nce::true_loss(row.truths[t], row.given.n_true);
  }
}

template <typename real>
__device__ real sample_error(Softmax, real logit, real log_sum) {
  return exp(logit - log_sum);
}
template <typename real>
__device__ real sample_error(Nce, real logit, real) {
  return sigmoid(logit);
}
template <typename real>
__device__ real true_error(Softmax, real logit, real log_sum, int n_true) {
  return n_true == 1 ? expm1(logit - log_sum) : exp(logit - log_sum) - real(1) / n_true;
}
template <typename real>
__device__ real true_error(Nce, real logit, real, int n_true) {
  return Nce::true_error(logit, n_true);
}

// A block takes a row. Must move: its logits twice or thrice, hidden and the labels' rows.
template <typename Loss, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    find_losses(const __grid_constant__ Given<scalar_t> given, int64_t first, scalar_t* __restrict__ logits,
                const accumulate_t<scalar_t>* __restrict__ offsets, const int32_t* __restrict__ bad,
                accumulate_t<scalar_t>* truths, accumulate_t<scalar_t>* __restrict__ losses,
                accumulate_t<scalar_t>* __restrict__ log_sums) {
  const int64_t r = blockIdx.x, i = first + r;
  const Row<scalar_t> row(given, i, logits + r * given.n_sampled, offsets, truths + r * given.n_true, *bad != 0);
  row.find_truths();
  accumulate_t<scalar_t> loss = 0, log_sum = 0;
  find_loss(Loss{}, row, loss, log_sum);
  if (threadIdx.x == 0) {
    for (int t = 0; row.bad && t < given.n_true; ++t) {
      given.look_at_label(i, row.label(t));
    }
    losses[i] = row.bad ? NAN : loss;
    if constexpr (Loss::kNormalised) {
      log_sums[i] = row.bad ? NAN : log_sum;
    }
  }
}

// An error of 0, as a removed sample has, is no part of any gradient, whatever `grad` is.
template <typename real>
__device__ real scaled(real error, real grad) {
  return error == 0 ? real(0) : error * grad;
}

// A block takes a row: errors in place of its logits, and its labels' errors, which are their biases' gradients.
template <typename Loss, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    find_errors(const __grid_constant__ Given<scalar_t> given, int64_t first, scalar_t* __restrict__ logits,
                const accumulate_t<scalar_t>* __restrict__ offsets, const int32_t* __restrict__ bad,
                const accumulate_t<scalar_t>* __restrict__ grad, const accumulate_t<scalar_t>* __restrict__ log_sums,
                accumulate_t<scalar_t>* biases, int64_t* __restrict__ ids) {
  using real = accumulate_t<scalar_t>;
  const int64_t r = blockIdx.x, i = first + r, at = given.n_sampled + i * given.n_true;
  const Row<scalar_t> row(given, i, logits + r * given.n_sampled, offsets, biases + at, *bad != 0);
  row.find_truths();
  const real log_sum = Loss::kNormalised ? log_sums[i] : real(0), g = grad[i];
  for (int j = threadIdx.x; j < given.n_sampled; j += kThreads) {
    const real error = row.bad || row.is_hit(j) ? real(0) : sample_error(Loss{}, row.logit(j), log_sum);
    row.logits[j] = static_cast<scalar_t>(scaled(error, g));
  }
  for (int t = threadIdx.x; t < given.n_true; t += kThreads) {
    biases[at + t] = row.bad ? real(0) : scaled(true_error(Loss{}, row.truths[t], log_sum, given.n_true), g);
    ids[at + t] = given.clamp(row.label(t));
  }
}

// A block takes a row: what its labels add to its gradient, and what it adds to theirs.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    spread_truths(const __grid_constant__ Given<scalar_t> given, int64_t first,
                  const accumulate_t<scalar_t>* __restrict__ biases, scalar_t* __restrict__ d_hidden,
                  scalar_t* __restrict__ rows) {
  using real = accumulate_t<scalar_t>;
  const int64_t i = first + blockIdx.x;
  const int n_true = given.n_true, n_features = given.n_features;
  for (int f = threadIdx.x; f < n_features; f += kThreads) {
    const real h = static_cast<real>(given.hidden[i * n_features + f]);
    real to_hidden = static_cast<real>(d_hidden[i * n_features + f]);
    for (int t = 0; t < n_true; ++t) {
      const int64_t at = given.n_sampled + i * n_true + t;
      const scalar_t* w = given.weight + given.clamp(given.labels[i * n_true + t]) * given.row_stride;
      to_hidden += scaled(biases[at], static_cast<real>(w[f * given.column_stride]));
      rows[at * n_features + f] = static_cast<scalar_t>(scaled(biases[at], h));
    }
    d_hidden[i * n_features + f] = static_cast<scalar_t>(to_hidden);
  }
}

// A block takes 32 samples, a warp every eighth row: sums[j] += the sum of column j, always in the same order.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    add_columns(const __grid_constant__ Given<scalar_t> given, const scalar_t* __restrict__ errors, int64_t n_rows,
                bool is_first, accumulate_t<scalar_t>* __restrict__ sums, int64_t* __restrict__ ids) {
  using real = accumulate_t<scalar_t>;
  __shared__ real of_warps[kWarps][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, j = blockIdx.x * 32 + lane;
  real sum = 0;
  for (int64_t r = warp; j < given.n_sampled && r < n_rows; r += kWarps) {
    sum += static_cast<real>(errors[r * given.n_sampled + j]);
  }
  of_warps[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && j < given.n_sampled) {
    for (int other = 1; other < kWarps; ++other) {
      sum += of_warps[other][lane];
    }
    sums[j] = is_first ? sum : sums[j] + sum;
    ids[j] = given.clamp(given.sampled[j]);
  }
}

// total += part, or rows = total + part at the end; a thread takes an element.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    add_up(const scalar_t* __restrict__ part, accumulate_t<scalar_t>* __restrict__ total, scalar_t* __restrict__ rows,
           int64_t n, bool is_first, bool is_last) {
  const int64_t x = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (x < n) {
    const auto sum = static_cast<accumulate_t<scalar_t>>(part[x]) + (is_first ? accumulate_t<scalar_t>(0) : total[x]);
    if (is_last) {
      rows[x] = static_cast<scalar_t>(sum);
    } else {
      total[x] = sum;
    }
  }
}

inline dim3 cover(int64_t n) { return dim3(static_cast<unsigned>((n + kThreads - 1) / kThreads)); }

// Calls `visit(first, n, hidden, logits)` with blocks of rows of hidden, times the samples' rows.
template <typename scalar_t, typename Visit>
void for_each_block(const SampledLoss& loss, const Samples<scalar_t>& samples, const Visit& visit) {
  const int64_t most = std::clamp<int64_t>(kLogits / loss.n_sampled, 1, std::max<int64_t>(1, loss.n_rows));
  const Tensor columns = torch::stable::transpose(samples.rows, 0, 1);
  Tensor all = torch::stable::new_empty(loss.hidden, {most, loss.n_sampled});
  for (int64_t first = 0; first < loss.n_rows; first += most) {
    const int64_t n = std::min(most, loss.n_rows - first);
    Tensor hidden = loss.hidden;
    hidden = torch::stable::narrow(hidden, 0, first, n);
    const Tensor logits = torch::stable::narrow(all, 0, 0, n);
    multiply(hidden, columns, logits);
    visit(first, n, hidden, logits);
  }
}

template <typename scalar_t>
Samples<scalar_t> gather(const char* op, const SampledLoss& loss, const Given<scalar_t>& given) {
  using real = accumulate_t<scalar_t>;
  Samples<scalar_t> samples(loss);
  launch(op, loss.hidden, gather_samples<scalar_t>, dim3(static_cast<unsigned>(loss.n_sampled)), dim3(kThreads), given,
         samples.rows.template mutable_data_ptr<scalar_t>(), samples.offsets.template mutable_data_ptr<real>(),
         samples.bad.template mutable_data_ptr<int32_t>());
  return samples;
}

template <typename Loss, typename scalar_t>
void forward(const char* op, const SampledLoss& loss, const Tensor& losses, const Tensor* log_sum_exp,
             IdReporter reporter) {
  using real = accumulate_t<scalar_t>;
  const Given<scalar_t> given(loss, reporter);
  const Samples<scalar_t> samples = gather(op, loss, given);
  const Tensor truths = torch::stable::new_empty(losses, {loss.n_rows, loss.n_true});
  for_each_block(loss, samples, [&](int64_t first, int64_t n, const Tensor&, const Tensor& logits) {
    launch(op, loss.hidden, find_losses<Loss, scalar_t>, dim3(static_cast<unsigned>(n)), dim3(kThreads), given, first,
           logits.template mutable_data_ptr<scalar_t>(), samples.offsets.template const_data_ptr<real>(),
           samples.bad.template const_data_ptr<int32_t>(), truths.template mutable_data_ptr<real>(),
           losses.template mutable_data_ptr<real>(),
           log_sum_exp ? log_sum_exp->template mutable_data_ptr<real>() : nullptr);
  });
}

template <typename Loss, typename scalar_t>
void backward(const char* op, const SampledLoss& loss, const Tensor& grad, const Tensor* log_sum_exp,
              const Gradients& to) {
  using real = accumulate_t<scalar_t>;
  const Given<scalar_t> given(loss);
  const Samples<scalar_t> samples = gather(op, loss, given);
  const int64_t n_in_rows = loss.n_sampled * loss.n_features;
  const Tensor part = torch::stable::new_empty(loss.hidden, {loss.n_sampled, loss.n_features});
  const Tensor total = torch::stable::new_empty(grad, {loss.n_sampled, loss.n_features});
  scalar_t* rows = to.rows.template mutable_data_ptr<scalar_t>();
  if (loss.n_rows == 0) {
    torch::stable::zero_(const_cast<Tensor&>(to.rows));
    launch(op, loss.hidden, add_columns<scalar_t>, dim3(static_cast<unsigned>((loss.n_sampled + 31) / 32)),
           dim3(kThreads), given, rows, 0, true, to.biases.template mutable_data_ptr<real>(),
           to.ids.template mutable_data_ptr<int64_t>());  // only the ids
    return;
  }
  for_each_block(loss, samples, [&](int64_t first, int64_t n, const Tensor& hidden, const Tensor& errors) {
    const bool is_first = first == 0, is_last = first + n == loss.n_rows;
    real* biases = to.biases.template mutable_data_ptr<real>();
    launch(op, loss.hidden, find_errors<Loss, scalar_t>, dim3(static_cast<unsigned>(n)), dim3(kThreads), given, first,
           errors.template mutable_data_ptr<scalar_t>(), samples.offsets.template const_data_ptr<real>(),
           samples.bad.template const_data_ptr<int32_t>(), grad.template const_data_ptr<real>(),
           log_sum_exp ? log_sum_exp->template const_data_ptr<real>() : nullptr, biases,
           to.ids.template mutable_data_ptr<int64_t>());
    Tensor d_hidden = to.hidden;
    multiply(errors, samples.rows, torch::stable::narrow(d_hidden, 0, first, n));
    launch(op, loss.hidden, spread_truths<scalar_t>, dim3(static_cast<unsigned>(n)), dim3(kThreads), given, first,
           biases, to.hidden.template mutable_data_ptr<scalar_t>(), rows);
    multiply(torch::stable::transpose(errors, 0, 1), hidden, part);
    launch(op, loss.hidden, add_up<scalar_t>, cover(n_in_rows), dim3(kThreads),
           part.template const_data_ptr<scalar_t>(), total.template mutable_data_ptr<real>(), rows, n_in_rows, is_first,
           is_last);
    launch(op, loss.hidden, add_columns<scalar_t>, dim3(static_cast<unsigned>((loss.n_sampled + 31) / 32)),
           dim3(kThreads), given, errors.template const_data_ptr<scalar_t>(), n, is_first,
           to.biases.template mutable_data_ptr<real>(), to.ids.template mutable_data_ptr<int64_t>());
  });
}

}  // namespace blocks
}  // namespace torchlayer
