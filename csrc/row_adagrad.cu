// The update of row_adagrad.cpp on CUDA.
#include "rows.cuh"

namespace {

using torch::stable::Tensor;
using torchlayer::Pack;
using torchlayer::Prepared;

template <typename element_t>
struct Adagrad {
  using scalar_t = element_t;
  using sum_t = torchlayer::accumulate_t<scalar_t>;
  static constexpr int kMinBlocks = 3;
  static constexpr bool kWholeRow = false;
  template <int kN>
  struct Row {
    Pack<scalar_t, kN> w;
    Pack<sum_t, kN> a;
  };

  scalar_t* weight;
  sum_t* accumulator;
  sum_t eps;

  template <int kN>
  __device__ void read(Row<kN>& row, int64_t at) const {
    row.w = torchlayer::read_pack<kN>(weight + at);
    row.a = torchlayer::read_pack<kN>(accumulator + at);
  }
  template <int kN>
  __device__ void write(const Row<kN>& row, int64_t at) const {
    torchlayer::write_pack(weight + at, row.w);
    torchlayer::write_pack(accumulator + at, row.a);
  }
  __device__ void prefetch(int64_t at) const {
    torchlayer::prefetch(weight + at);
    torchlayer::prefetch(accumulator + at);
  }
  __device__ sum_t row_state(int64_t) const { return 0; }
  template <int kN>
  __device__ void update(Row<kN>& row, int i, sum_t grad, sum_t, const Prepared& prepared) const {
    const sum_t a = row.a.get(i) + grad * grad;
    const auto rate = static_cast<sum_t>(prepared.rate);
    row.a.set(i, a);
    row.w.set(i, static_cast<scalar_t>(static_cast<sum_t>(row.w.get(i)) - rate * grad / (sqrt(a) + eps)));
  }
};

void row_adagrad_(const Tensor& weight, const Tensor& accumulator, const Tensor& ids, const Tensor& row_grads,
                  const Tensor& lr, double eps) {
  torchlayer::check_rows("row_adagrad_", {{"weight", weight}, {"accumulator", accumulator}}, ids, row_grads, lr);
  STD_TORCH_CHECK(accumulator.dim() == weight.dim(), "row_adagrad_ needs accumulator of the shape of weight");
  torchlayer::dispatch_floating(weight, "row_adagrad_", [&](auto zero) {
    using scalar_t = decltype(zero);
    using sum_t = torchlayer::accumulate_t<scalar_t>;
    scalar_t* w = weight.mutable_data_ptr<scalar_t>();
    sum_t* a = accumulator.mutable_data_ptr<sum_t>();
    torchlayer::update_each_row("row_adagrad_", Adagrad<scalar_t>{w, a, static_cast<sum_t>(eps)}, weight, ids,
                                row_grads, {}, lr, torchlayer::is_aligned(w) && torchlayer::is_aligned(a));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("row_adagrad_", TORCH_BOX(&row_adagrad_));
}
