// The update of row_rowwise_adagrad.cpp on CUDA.
#include "rows.cuh"

namespace {

using torch::stable::Tensor;
using torchlayer::Pack;
using torchlayer::Prepared;

template <typename element_t>
struct RowwiseAdagrad {
  using scalar_t = element_t;
  using sum_t = torchlayer::accumulate_t<scalar_t>;
  static constexpr int kMinBlocks = 3;
  static constexpr bool kWholeRow = true;
  template <int kN>
  struct Row {
    Pack<scalar_t, kN> w;
  };

  scalar_t* weight;
  sum_t* accumulator;
  sum_t eps;

  template <int kN>
  __device__ void read(Row<kN>& row, int64_t at) const {
    row.w = torchlayer::read_pack<kN>(weight + at);
  }
  template <int kN>
  __device__ void write(const Row<kN>& row, int64_t at) const {
    torchlayer::write_pack(weight + at, row.w);
  }
  __device__ void prefetch(int64_t at) const {
    torchlayer::prefetch(weight + at);
  }
  __device__ sum_t row_state(int64_t id) const { return accumulator[id]; }
  __device__ sum_t row_rate(int64_t id, sum_t state, sum_t mean_square, bool is_writer,
                            const Prepared& prepared) const {
    state += mean_square;
    if (is_writer) {
      accumulator[id] = state;
    }
    return static_cast<sum_t>(prepared.rate) / (sqrt(state) + eps);
  }
  template <int kN>
  __device__ void update(Row<kN>& row, int i, sum_t grad, sum_t rate, const Prepared&) const {
    row.w.set(i, static_cast<scalar_t>(static_cast<sum_t>(row.w.get(i)) - rate * grad));
  }
};

void row_rowwise_adagrad_(const Tensor& weight, const Tensor& accumulator, const Tensor& ids, const Tensor& row_grads,
                          const Tensor& lr, double eps) {
  constexpr const char* kOp = "row_rowwise_adagrad_";
  torchlayer::check_rows(kOp, {{"weight", weight}, {"accumulator", accumulator}}, ids, row_grads, lr);
  STD_TORCH_CHECK(accumulator.dim() == 1, kOp, " needs accumulator with one number a row");
  torchlayer::dispatch_floating(weight, kOp, [&](auto zero) {
    using scalar_t = decltype(zero);
    using sum_t = torchlayer::accumulate_t<scalar_t>;
    scalar_t* w = weight.mutable_data_ptr<scalar_t>();
    sum_t* a = accumulator.mutable_data_ptr<sum_t>();
    torchlayer::update_each_row(kOp, RowwiseAdagrad<scalar_t>{w, a, static_cast<sum_t>(eps)}, weight, ids, row_grads,
                                {}, lr, torchlayer::is_aligned(w));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("row_rowwise_adagrad_", TORCH_BOX(&row_rowwise_adagrad_));
}
