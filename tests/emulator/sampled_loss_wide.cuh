// In the place of csrc/sampled_loss_wide.cuh: no emulated chip has Hopper's instructions.
#pragma once

#include "sampled_loss.cuh"

namespace torchlayer::wide {

inline bool fit(const SampledLoss&) { return false; }
template <typename Loss>
void forward(const char*, const SampledLoss&, const Tensor&, const Tensor*, const Tensor&, IdReporter) {}
template <typename Loss>
void backward(const char*, const SampledLoss&, const Tensor&, const Tensor*, const Tensor&, const Gradients&) {}

}  // namespace torchlayer::wide
