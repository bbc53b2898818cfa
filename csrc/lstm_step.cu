// One step of an LSTM for a few sequences: products of matrices with vectors, as fast as the weights can be read.
#include "check.h"
#include "launch.cuh"
#include "ptx.cuh"

#include <optional>
#include <tuple>

namespace {

using torch::stable::Tensor;
using torchlayer::accumulate_t;

constexpr int kLanes = 32;
constexpr int kGates = 4;
constexpr int kThreads = kGates * kLanes;
constexpr int kInFlight = 64;    // bytes of a row of weights that a lane waits for at once, in at most 8 pieces
constexpr int kMostRows = 8;     // sequences that one reading of the weights serves
constexpr int64_t kAhead = 1024;  // bytes of each row of weights to prefetch: all blocks' together fit into L2
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename scalar_t>
struct Step {
  const scalar_t *x, *h, *c, *weight_ih, *weight_hh, *bias_ih, *bias_hh;  // a bias may be null
  scalar_t *y, *new_h, *new_c;
  int64_t n_rows, n_in, n_units;
};

template <typename scalar_t, int kWidth>
struct alignas(kWidth * sizeof(scalar_t)) Piece {
  scalar_t values[kWidth];
};

// Into L2 only, where whatever still writes to the weights is seen: so this may come before the wait.
__device__ void prefetch_row(const void* row, int64_t n_bytes, int lane) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const char* bytes = static_cast<const char*>(row);
  for (int64_t at = lane * torchlayer::kLine; at < min(n_bytes, kAhead); at += kLanes * torchlayer::kLine) {
    torchlayer::prefetch(bytes + at);
  }
#endif
}

// Adds this lane's share of the products of one row of weights with every sequence's vector.
template <typename scalar_t, int kWidth, int kRows>
__device__ void add_products(accumulate_t<scalar_t> (&sums)[kRows], const scalar_t* weights, const scalar_t* vectors,
                             int64_t length, int64_t n_rows, int lane) {
  using sum_t = accumulate_t<scalar_t>;
  using piece_t = Piece<scalar_t, kWidth>;
  constexpr int kPieces = kInFlight / sizeof(piece_t) < 8 ? kInFlight / sizeof(piece_t) : 8;
  const int n_pieces = static_cast<int>(length / kWidth);
  const auto* from = reinterpret_cast<const piece_t*>(weights);
  for (int at = lane; at < n_pieces; at += kPieces * kLanes) {
    piece_t w[kPieces];
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      w[p] = {};
      if (at + p * kLanes < n_pieces) {
        w[p] = torchlayer::load_past_l1(from + at + p * kLanes);  // L1 is for the activations, which every warp reads
      }
    }
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      asm volatile("" ::: "memory");  // the next piece's activations, near in L1, need no registers yet
      if (at + p * kLanes < n_pieces) {
#pragma unroll
        for (int n = 0; n < kRows; ++n) {
          if (n == 0 || n < n_rows) {
            const piece_t v = reinterpret_cast<const piece_t*>(vectors + n * length)[at + p * kLanes];
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
              sums[n] += static_cast<sum_t>(w[p].values[i]) * static_cast<sum_t>(v.values[i]);
            }
          }
        }
      }
    }
  }
}

template <typename sum_t>
__device__ sum_t sigmoid(sum_t x) {
  return 1 / (1 + exp(-x));
}

// A block a unit (and kRows sequences), a warp a gate: its lanes take neighbouring pieces of the gate's two rows of
// weights, for all sequences at once. Then a thread a sequence puts the gates together.
// Must move: the weights, (n_in + H) * 4H, once for every kRows sequences.
template <typename scalar_t, int kWidth, int kRows>
__global__ void __launch_bounds__(kThreads, kRows > 1 ? 1 : kWidth > 4 ? 10 : 12) lstm_step_rows(const Step<scalar_t> step) {
  using sum_t = accumulate_t<scalar_t>;
  __shared__ sum_t gates[kGates][kRows];
  const int lane = threadIdx.x % kLanes, gate = threadIdx.x / kLanes;
  const int64_t unit = blockIdx.x, row = gate * step.n_units + unit;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kRows;
  const int64_t n_rows = min(step.n_rows - first, static_cast<int64_t>(kRows));
  const scalar_t* of_x = step.weight_ih + row * step.n_in;
  const scalar_t* of_h = step.weight_hh + row * step.n_units;
  prefetch_row(of_x, step.n_in * sizeof(scalar_t), lane);
  prefetch_row(of_h, step.n_units * sizeof(scalar_t), lane);
  torchlayer::wait_for_earlier_kernels();

  sum_t sums[kRows] = {};
  add_products<scalar_t, kWidth, kRows>(sums, of_x, step.x + first * step.n_in, step.n_in, n_rows, lane);
  add_products<scalar_t, kWidth, kRows>(sums, of_h, step.h + first * step.n_units, step.n_units, n_rows, lane);
#pragma unroll
  for (int n = 0; n < kRows; ++n) {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      sums[n] += __shfl_xor_sync(kAllLanes, sums[n], distance);
    }
  }
  if (lane == 0) {
    sum_t bias = step.bias_ih == nullptr ? 0 : static_cast<sum_t>(step.bias_ih[row]);
    bias += step.bias_hh == nullptr ? 0 : static_cast<sum_t>(step.bias_hh[row]);
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      gates[gate][n] = sums[n] + bias;
    }
  }
  __syncthreads();
  const int n = threadIdx.x;
  if (n < n_rows) {
    const int64_t at = (first + n) * step.n_units + unit;
    const sum_t old = static_cast<sum_t>(step.c[at]);
    const sum_t c = sigmoid(gates[1][n]) * old + sigmoid(gates[0][n]) * tanh(gates[2][n]);
    const auto h = static_cast<scalar_t>(sigmoid(gates[3][n]) * tanh(c));
    step.y[at] = h;
    step.new_h[at] = h;
    step.new_c[at] = static_cast<scalar_t>(c);
  }
}

template <typename scalar_t, int kWidth>
void launch_for_rows(const Step<scalar_t>& step, const Tensor& where) {
  const auto start = [&](auto kernel, int64_t rows) {
    const dim3 blocks(static_cast<unsigned>(step.n_units), static_cast<unsigned>((step.n_rows + rows - 1) / rows));
    torchlayer::launch_early("lstm_step", where, kernel, blocks, dim3(kThreads), 0, step);
  };
  if (step.n_rows == 1) {
    start(lstm_step_rows<scalar_t, kWidth, 1>, 1);
  } else if (step.n_rows == 2) {
    start(lstm_step_rows<scalar_t, kWidth, 2>, 2);
  } else if (step.n_rows <= 4) {
    start(lstm_step_rows<scalar_t, kWidth, 4>, 4);
  } else {
    start(lstm_step_rows<scalar_t, kWidth, kMostRows>, kMostRows);
  }
}

// Whether every row of the four matrices begins at a multiple of so many bytes.
template <typename scalar_t>
bool aligned(const Step<scalar_t>& step, uintptr_t bytes) {
  const auto all = reinterpret_cast<uintptr_t>(step.x) | reinterpret_cast<uintptr_t>(step.h) |
                   reinterpret_cast<uintptr_t>(step.weight_ih) | reinterpret_cast<uintptr_t>(step.weight_hh) |
                   step.n_in * sizeof(scalar_t) | step.n_units * sizeof(scalar_t);
  return all % bytes == 0;
}

void check_matrix(const Tensor& tensor, const Tensor& like, const char* name, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns &&
                      tensor.scalar_type() == like.scalar_type() && tensor.is_cuda() &&
                      tensor.get_device_index() == like.get_device_index(),
                  "lstm_step needs ", name, " of shape (", rows, ", ", columns, ") and of x's dtype and device");
}

Tensor checked_bias(const Tensor& bias, const Tensor& like, const char* name, int64_t rows) {
  STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == rows && bias.scalar_type() == like.scalar_type() &&
                      bias.is_cuda() && bias.get_device_index() == like.get_device_index(),
                  "lstm_step needs ", name, " of shape (", rows, ") and of x's dtype and device");
  return torch::stable::contiguous(bias);
}

std::tuple<Tensor, Tensor, Tensor> lstm_step(const Tensor& x, const Tensor& h, const Tensor& c,
                                             const Tensor& weight_ih, const Tensor& weight_hh,
                                             std::optional<Tensor> bias_ih, std::optional<Tensor> bias_hh) {
  STD_TORCH_CHECK(x.dim() == 2 && h.dim() == 2, "lstm_step needs x and h of shapes (N, D) and (N, H)");
  const int64_t n_rows = x.size(0), n_in = x.size(1), n_units = h.size(1);
  check_matrix(x, x, "x", n_rows, n_in);
  check_matrix(h, x, "h", n_rows, n_units);
  check_matrix(c, x, "c", n_rows, n_units);
  check_matrix(weight_ih, x, "weight_ih", kGates * n_units, n_in);
  check_matrix(weight_hh, x, "weight_hh", kGates * n_units, n_units);
  const Tensor xs = torch::stable::contiguous(x), hs = torch::stable::contiguous(h), cs = torch::stable::contiguous(c);
  const Tensor of_x = torch::stable::contiguous(weight_ih), of_h = torch::stable::contiguous(weight_hh);
  if (bias_ih.has_value()) {
    bias_ih = checked_bias(*bias_ih, x, "bias_ih", kGates * n_units);
  }
  if (bias_hh.has_value()) {
    bias_hh = checked_bias(*bias_hh, x, "bias_hh", kGates * n_units);
  }
  Tensor y = torch::stable::empty_like(hs), new_h = torch::stable::empty_like(hs);
  Tensor new_c = torch::stable::empty_like(hs);
  torchlayer::dispatch_floating(x, "lstm_step", [&](auto zero) {
    using scalar_t = decltype(zero);
    if (hs.numel() == 0) {
      return;
    }
    const auto bias = [](const std::optional<Tensor>& b) {
      return b.has_value() ? b->const_data_ptr<scalar_t>() : nullptr;
    };
    const Step<scalar_t> step{xs.const_data_ptr<scalar_t>(),     hs.const_data_ptr<scalar_t>(),
                              cs.const_data_ptr<scalar_t>(),     of_x.const_data_ptr<scalar_t>(),
                              of_h.const_data_ptr<scalar_t>(),   bias(bias_ih),
                              bias(bias_hh),                     y.mutable_data_ptr<scalar_t>(),
                              new_h.mutable_data_ptr<scalar_t>(), new_c.mutable_data_ptr<scalar_t>(),
                              n_rows,                            n_in,
                              n_units};
    if constexpr (sizeof(scalar_t) <= 4) {
      if (aligned(step, 16)) {
        return launch_for_rows<scalar_t, 16 / sizeof(scalar_t)>(step, x);
      }
      if (aligned(step, 8)) {  // such as 1500 numbers of two bytes
        return launch_for_rows<scalar_t, 8 / sizeof(scalar_t)>(step, x);
      }
    }
    launch_for_rows<scalar_t, 1>(step, x);
  });
  return {y, new_h, new_c};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("lstm_step", TORCH_BOX(&lstm_step));
}
