// Sampled softmax and NCE for few samples and features, as word2vec has them: forward and backward in one pass each.
#pragma once

#include "sampled_loss_rows_backward.cuh"
#include "sampled_loss_rows_forward.cuh"

namespace torchlayer {

// Whether the kernels suit these sizes: beyond them, products that use tensor cores better take over. Weight must also
// lie with its features side by side.
inline bool rows_fit(int64_t n_true, int64_t n_sampled, int64_t n_features, torch::headeronly::ScalarType type) {
  return n_true <= 8 && n_sampled <= few::kMostSamples && n_features <= 256 &&
         type != torch::headeronly::ScalarType::Double;
}

}  // namespace torchlayer
