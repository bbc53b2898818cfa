// The update of row_adam.cpp on CUDA.
#include "rows.cuh"

namespace {

using torch::stable::Tensor;
using torchlayer::Pack;
using torchlayer::Prepared;

template <typename element_t>
struct Adam {
  using scalar_t = element_t;
  using sum_t = torchlayer::accumulate_t<scalar_t>;
  static constexpr int kMinBlocks = 3;
  static constexpr bool kWholeRow = false;
  template <int kN>
  struct Row {
    Pack<scalar_t, kN> w;
    Pack<sum_t, kN> m, v;
  };

  scalar_t* weight;
  sum_t* exp_avg;
  sum_t* exp_avg_sq;
  sum_t eps, fresh1, beta2, fresh2;  // fresh = 1 - beta, taken in double

  template <int kN>
  __device__ void read(Row<kN>& row, int64_t at) const {
    row.w = torchlayer::read_pack<kN>(weight + at);
    row.m = torchlayer::read_pack<kN>(exp_avg + at);
    row.v = torchlayer::read_pack<kN>(exp_avg_sq + at);
  }
  template <int kN>
  __device__ void write(const Row<kN>& row, int64_t at) const {
    torchlayer::write_pack(weight + at, row.w);
    torchlayer::write_pack(exp_avg + at, row.m);
    torchlayer::write_pack(exp_avg_sq + at, row.v);
  }
  __device__ void prefetch(int64_t at) const {
    torchlayer::prefetch(weight + at);
    torchlayer::prefetch(exp_avg + at);
    torchlayer::prefetch(exp_avg_sq + at);
  }
  __device__ sum_t row_state(int64_t) const { return 0; }
  template <int kN>
  __device__ void update(Row<kN>& row, int i, sum_t grad, sum_t, const Prepared& prepared) const {
    const sum_t m = row.m.get(i) + fresh1 * (grad - row.m.get(i));
    const sum_t v = beta2 * row.v.get(i) + fresh2 * grad * grad;
    const auto rate = static_cast<sum_t>(prepared.rate), root = static_cast<sum_t>(prepared.root);
    row.m.set(i, m);
    row.v.set(i, v);
    row.w.set(i, static_cast<scalar_t>(static_cast<sum_t>(row.w.get(i)) - rate * m / (sqrt(v) / root + eps)));
  }
};

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
  torchlayer::dispatch_floating(weight, "row_adam_", [&](auto zero) {
    using scalar_t = decltype(zero);
    using sum_t = torchlayer::accumulate_t<scalar_t>;
    scalar_t* w = weight.mutable_data_ptr<scalar_t>();
    sum_t* m = exp_avg.mutable_data_ptr<sum_t>();
    sum_t* v = exp_avg_sq.mutable_data_ptr<sum_t>();
    const Adam<scalar_t> adam{w,
                              m,
                              v,
                              static_cast<sum_t>(eps),
                              static_cast<sum_t>(1 - beta1),
                              static_cast<sum_t>(beta2),
                              static_cast<sum_t>(1 - beta2)};
    torchlayer::update_each_row("row_adam_", adam, weight, ids, row_grads,
                                {nullptr, false, step.mutable_data_ptr<float>(), beta1, beta2}, lr,
                                torchlayer::is_aligned(w) && torchlayer::is_aligned(m) && torchlayer::is_aligned(v));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("row_adam_", TORCH_BOX(&row_adam_));
}
