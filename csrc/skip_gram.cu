// The groups of skip_gram.cpp on a GPU: a warp for each window, and one for each row that is added to a table.
//
// A window moves 2 C + K + 1 rows of the tables and of gradients, C neighbours and K negatives, mostly from and to the
// second cache; a window's own rows come from the first one after their first reading.
#include "launch.cuh"
#include "skip_gram.h"

#include <algorithm>
#include <cmath>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torchlayer::SkipGram;

constexpr int kLanes = 32;
constexpr int kWarps = 4;      // of a block
constexpr int kColumns = 8;    // logits of one neighbour that are computed side by side
constexpr int kThreads = 256;  // of the counting kernel
constexpr unsigned kAllLanes = 0xffffffffu;

struct Rate {
  const void* lr;
  bool is_double;

  __device__ double value() const {
    return is_double ? *static_cast<const double*>(lr) : *static_cast<const float*>(lr);
  }
};

// Where a group's windows lie in the text, and the words that they reach.
struct Group {
  int64_t first, last, begin, end;
};

// Ids are not looked at by the host: one out of range is moved into range, and what it touches becomes NaN.
__device__ int64_t inside(const SkipGram& text, int64_t id) {
  return min(max(id, int64_t{0}), text.n_rows - 1);
}

__device__ int64_t output(const SkipGram& text, int64_t i, int64_t k) {
  return k == 0 ? text.words[i] : text.negatives[i * text.n_negatives + k - 1];
}

__device__ int64_t reach(const SkipGram& text, int64_t i) {
  return max(min(text.radius[i], text.window), int64_t{0});
}

__device__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
__device__ double softplus(double x) { return fmax(x, 0.0) + log1p(exp(-fabs(x))); }
__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

template <typename real>
__device__ real sum_of_warp(real value) {
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// A thread for each window of the group adds `by` to the counts of the rows that it is going to change; 4 bytes each.
__global__ void count_windows(SkipGram text, Group group, int by, int* inputs, int* outputs) {
  const int64_t i = group.first + blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= group.last) {
    return;
  }
  const int64_t radius = reach(text, i);
  for (int64_t j = max(int64_t{0}, i - radius); j <= min(text.n_words - 1, i + radius); ++j) {
    if (j != i) {
      atomicAdd(inputs + inside(text, text.words[j]), by);
    }
  }
  for (int64_t k = 0; k <= text.n_negatives; ++k) {
    atomicAdd(outputs + inside(text, output(text, i, k)), by);
  }
}

// A warp for each window, its lanes side by side in a row. Gradients of neighbours are added up, since windows share
// them; those of the word and its negatives have places of their own. `steps` are lr times the gradients of the logits.
template <typename real>
__global__ void __launch_bounds__(kLanes* kWarps)
    compute_windows(SkipGram text, Group group, Rate rate, const real* __restrict__ embeddings,
                    const real* __restrict__ weights, real* d_inputs, real* d_outputs, real* losses) {
  extern __shared__ char memory[];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t i = group.first + blockIdx.x * int64_t{kWarps} + warp;
  if (i >= group.last) {
    return;  // a whole warp, and nothing below waits for another one
  }
  const int64_t n_outputs = text.n_outputs, width = text.width, radius = reach(text, i);
  const int64_t begin = max(int64_t{0}, i - radius), end = min(text.n_words, i + radius + 1);
  real* steps = reinterpret_cast<real*>(memory) + warp * 2 * text.window * n_outputs;  // (C, 1 + K)
  const auto lr = static_cast<real>(rate.value());
  const int64_t word = text.words[i];
  real loss = 0;

  int64_t c = 0;
  for (int64_t j = begin; j < end; ++j) {
    if (j == i) {
      continue;
    }
    const int64_t id = inside(text, text.words[j]);
    const bool is_missing = id != text.words[j];
    const real* x = embeddings + id * width;
    for (int64_t first = 0; first < n_outputs; first += kColumns) {
      const real* y[kColumns];
      bool misplaced[kColumns], counts[kColumns];
      real logit[kColumns] = {};
#pragma unroll
      for (int s = 0; s < kColumns; ++s) {
        const int64_t k = min(first + s, n_outputs - 1);
        const int64_t given = output(text, i, k), place = inside(text, given);
        y[s] = weights + place * width;
        misplaced[s] = is_missing || place != given;
        counts[s] = first + s < n_outputs && (k == 0 || given != word);
      }
      for (int64_t d = lane; d < width; d += kLanes) {
        const real here = x[d];
#pragma unroll
        for (int s = 0; s < kColumns; ++s) {
          logit[s] += first + s < n_outputs ? here * y[s][d] : 0;
        }
      }
#pragma unroll
      for (int s = 0; s < kColumns; ++s) {
        real value = sum_of_warp(logit[s]);
        if (misplaced[s]) {
          value = static_cast<real>(nan(""));
        }
        const real sign = first + s == 0 ? -1 : 1;
        loss += counts[s] ? softplus(sign * value) : 0;
        if (lane == 0 && first + s < n_outputs) {
          steps[c * n_outputs + first + s] = counts[s] ? -lr * sign * sigmoid(sign * value) : 0;
        }
      }
    }
    __syncwarp();
    for (int64_t d = lane; d < width; d += kLanes) {
      real sum = 0;
      for (int64_t k = 0; k < n_outputs; ++k) {
        sum += steps[c * n_outputs + k] * weights[inside(text, output(text, i, k)) * width + d];
      }
      atomicAdd(d_inputs + (j - group.begin) * width + d, sum);
    }
    ++c;
  }
  __syncwarp();
  for (int64_t k = 0; k < n_outputs; ++k) {
    real* into = d_outputs + ((i - group.first) * n_outputs + k) * width;
    for (int64_t d = lane; d < width; d += kLanes) {
      real sum = 0;
      int64_t at = k;
      for (int64_t j = begin; j < end; ++j) {
        if (j != i) {
          sum += steps[at] * embeddings[inside(text, text.words[j]) * width + d];
          at += n_outputs;
        }
      }
      into[d] = sum;
    }
  }
  if (lane == 0) {
    losses[i] = loss;
  }
}

// A warp for each gradient, first those of the words in reach, whose place is cleared for the next group, then those of
// words and negatives. Moves two rows, and one for the clearing.
template <typename real>
__global__ void __launch_bounds__(kLanes* kWarps)
    add_rows(SkipGram text, Group group, const int* inputs, const int* outputs, real* d_inputs, const real* d_outputs,
             real* embeddings, real* weights) {
  const int lane = threadIdx.x % kLanes;
  int64_t row = blockIdx.x * int64_t{kWarps} + threadIdx.x / kLanes;
  const int64_t n_inputs = group.end - group.begin, n_outputs = text.n_outputs;
  const bool is_input = row < n_inputs;
  int64_t id;
  if (is_input) {
    id = inside(text, text.words[group.begin + row]);
  } else {
    row -= n_inputs;
    if (row >= (group.last - group.first) * n_outputs) {
      return;
    }
    id = inside(text, output(text, group.first + row / n_outputs, row % n_outputs));
  }
  const int64_t count = is_input ? inputs[id] : outputs[id];
  const auto scale = static_cast<real>(static_cast<double>(text.limit) / max(count, text.limit));
  real* into = (is_input ? embeddings : weights) + id * text.width;
  for (int64_t d = lane; d < text.width; d += kLanes) {
    if (is_input) {
      real* from = d_inputs + row * text.width + d;
      atomicAdd(into + d, scale * *from);
      *from = 0;
    } else {
      atomicAdd(into + d, scale * d_outputs[row * text.width + d]);
    }
  }
}

dim3 blocks_for(int64_t n, int64_t in_block) { return dim3(static_cast<unsigned>((n + in_block - 1) / in_block)); }

template <typename real>
void train(const SkipGram& text, const Tensor& embeddings, const Tensor& weights, const Tensor& lr,
           const Tensor& losses) {
  const int64_t longest = std::min(text.group, text.n_words), n_outputs = text.n_outputs;
  const int64_t most_inputs = std::min(longest + 2 * text.window, text.n_words);
  const Tensor inputs = torch::stable::new_zeros(embeddings, {text.n_rows}, ScalarType::Int);
  const Tensor outputs = torch::stable::new_zeros(embeddings, {text.n_rows}, ScalarType::Int);
  const Tensor d_inputs = torch::stable::new_zeros(embeddings, {most_inputs, text.width});
  const Tensor d_outputs = torch::stable::new_empty(embeddings, {longest * n_outputs, text.width});
  int* n_in = inputs.mutable_data_ptr<int>();
  int* n_out = outputs.mutable_data_ptr<int>();
  real* to_in = d_inputs.mutable_data_ptr<real>();
  real* to_out = d_outputs.mutable_data_ptr<real>();
  real* x = embeddings.mutable_data_ptr<real>();
  real* y = weights.mutable_data_ptr<real>();
  const Rate rate{lr.const_data_ptr(), lr.scalar_type() == ScalarType::Double};
  const size_t shared = kWarps * 2 * text.window * n_outputs * sizeof(real);
  for (int64_t first = 0; first < text.n_words; first += text.group) {
    const int64_t last = std::min(first + text.group, text.n_words);
    const Group group{first, last, std::max<int64_t>(0, first - text.window), std::min(text.n_words, last + text.window)};
    const int64_t n = last - first, n_rows = group.end - group.begin + n * n_outputs;
    const auto count = [&](int by) {
      torchlayer::launch("skip_gram_", embeddings, count_windows, blocks_for(n, kThreads), dim3(kThreads), text, group,
                         by, n_in, n_out);
    };
    count(1);
    torchlayer::launch_with_memory("skip_gram_", embeddings, compute_windows<real>, blocks_for(n, kWarps),
                                   dim3(kLanes * kWarps), shared, text, group, rate, x, y, to_in, to_out,
                                   losses.mutable_data_ptr<real>());
    torchlayer::launch("skip_gram_", embeddings, add_rows<real>, blocks_for(n_rows, kWarps), dim3(kLanes * kWarps),
                       text, group, n_in, n_out, to_in, to_out, x, y);
    count(-1);
  }
}

Tensor skip_gram_(Tensor embeddings, Tensor weights, Tensor words, Tensor radius, Tensor negatives, Tensor lr,
                  int64_t window, int64_t group, int64_t limit) {
  const SkipGram text =
      torchlayer::check_skip_gram(embeddings, weights, words, radius, negatives, lr, window, group, limit);
  const Tensor losses = torch::stable::new_empty(embeddings, {text.n_words});
  if (text.n_words == 0) {
    return losses;
  }
  if (embeddings.scalar_type() == ScalarType::Double) {
    train<double>(text, embeddings, weights, lr, losses);
  } else {
    train<float>(text, embeddings, weights, lr, losses);
  }
  return losses;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("skip_gram_", TORCH_BOX(&skip_gram_));
}
