// The tensors that one run of skip-grams over a piece of text is given, on a CPU and on CUDA.
#pragma once

#include "row_arguments.h"

#include <initializer_list>

namespace torchlayer {

struct SkipGram {
  int64_t n_words, n_negatives, n_outputs, n_rows, width;  // outputs: a word and its negatives
  int64_t window, group, limit;
  const int64_t *words, *radius, *negatives;
};

inline SkipGram check_skip_gram(const torch::stable::Tensor& embeddings, const torch::stable::Tensor& weights,
                                const torch::stable::Tensor& words, const torch::stable::Tensor& radius,
                                const torch::stable::Tensor& negatives, const torch::stable::Tensor& lr,
                                int64_t window, int64_t group, int64_t limit) {
  using torch::headeronly::ScalarType;
  constexpr const char* op = "skip_gram_";
  const ScalarType dtype = embeddings.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, op,
                  " needs embeddings in float32 or float64, got ", torch::headeronly::toString(dtype));
  STD_TORCH_CHECK(embeddings.dim() == 2 && embeddings.size(0) > 0 && embeddings.size(1) > 0, op,
                  " needs embeddings of shape (V, D)");
  check_alike(op, embeddings, weights);
  STD_TORCH_CHECK(embeddings.is_contiguous() && weights.is_contiguous(), op, " needs contiguous tables");
  if (overlap(embeddings, weights)) {
    refuse<std::invalid_argument>(op, " needs embeddings and weights in memory of their own, but they overlap; ",
                                  "clone() one");
  }
  STD_TORCH_CHECK(words.dim() == 1 && radius.dim() == 1 && radius.size(0) == words.size(0), op,
                  " needs words and radius of shape (N,)");
  STD_TORCH_CHECK(negatives.dim() == 2 && negatives.size(0) == words.size(0), op, " needs negatives of shape (N, K)");
  for (const torch::stable::Tensor& tensor : {words, radius, negatives}) {
    STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Long && tensor.is_contiguous(), op,
                    " needs words, radius and negatives in contiguous int64");
    check_same_device(op, tensor, embeddings);
  }
  check_same_device(op, lr, embeddings);
  STD_TORCH_CHECK(lr.dim() == 0 && (lr.scalar_type() == ScalarType::Float || lr.scalar_type() == ScalarType::Double),
                  op, " needs lr as one float32 or float64");
  STD_TORCH_CHECK(window >= 1 && group >= 1 && limit >= 1, op, " needs window, group and limit of 1 or more, got ",
                  window, ", ", group, " and ", limit);
  return {words.size(0),
          negatives.size(1),
          1 + negatives.size(1),
          embeddings.size(0),
          embeddings.size(1),
          window,
          group,
          limit,
          words.const_data_ptr<int64_t>(),
          radius.const_data_ptr<int64_t>(),
          negatives.const_data_ptr<int64_t>()};
}

}  // namespace torchlayer
