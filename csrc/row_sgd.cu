// The update of row_sgd.cpp on CUDA.
#include "rows.cuh"

namespace {

using torch::stable::Tensor;
using torchlayer::Pack;
using torchlayer::Prepared;

template <typename element_t>
struct Sgd {
  using scalar_t = element_t;
  using sum_t = torchlayer::accumulate_t<scalar_t>;
  static constexpr int kMinBlocks = 4;
  static constexpr bool kWholeRow = false;
  template <int kN>
  struct Row {
    Pack<scalar_t, kN> w;
  };

  scalar_t* weight;

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
  __device__ sum_t row_state(int64_t) const { return 0; }
  template <int kN>
  __device__ void update(Row<kN>& row, int i, sum_t grad, sum_t, const Prepared& prepared) const {
    row.w.set(i, static_cast<scalar_t>(static_cast<sum_t>(row.w.get(i)) - static_cast<sum_t>(prepared.rate) * grad));
  }
};

void row_sgd_(const Tensor& weight, const Tensor& ids, const Tensor& row_grads, const Tensor& lr) {
  torchlayer::check_rows("row_sgd_", {{"weight", weight}}, ids, row_grads, lr);
  torchlayer::dispatch_floating(weight, "row_sgd_", [&](auto zero) {
    using scalar_t = decltype(zero);
    scalar_t* w = weight.mutable_data_ptr<scalar_t>();
    torchlayer::update_each_row("row_sgd_", Sgd<scalar_t>{w}, weight, ids, row_grads, {}, lr,
                                torchlayer::is_aligned(w));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("row_sgd_", TORCH_BOX(&row_sgd_));
}
