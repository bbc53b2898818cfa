// The distributions that candidates are drawn from: which class a pair of uniform numbers stands for, and how probable
// a class is. Picking is exact arithmetic, so that every tier and device picks the same class.
#pragma once

#include "check.h"
#include "philox.h"

#include <cmath>

namespace torchlayer {

// Every class as probable as any other. A product of u < 1 and fewer than 2^53 classes never rounds up to their number.
struct UniformClasses {
  int64_t n_classes;

  TORCHLAYER_BOTH int64_t pick(Uniforms u) const {
    return static_cast<int64_t>(u.first * static_cast<double>(n_classes));
  }
  TORCHLAYER_BOTH double probability(int64_t) const { return 1.0 / static_cast<double>(n_classes); }
};

// P(k) = log((k + 2) / (k + 1)) / log(n_classes + 1), Zipf's law for classes in order of falling frequency.
struct LogUniformClasses {
  int64_t n_classes;
  double log_range;  // log1p(n_classes), of the host's library, also for the device

  TORCHLAYER_BOTH int64_t pick(Uniforms u) const {
    const auto k = static_cast<int64_t>(exponential(u.first * log_range)) - 1;
    return k < n_classes ? k : n_classes - 1;  // rounding may reach n_classes, once in 2^50 draws or so
  }
  TORCHLAYER_BOTH double probability(int64_t k) const {
    return std::log1p(1.0 / (static_cast<double>(k) + 1.0)) / log_range;
  }
};

// Walker's alias table: a column, and its own class below the threshold, another one above it.
struct AliasTable {
  int64_t n_classes;
  const double* probabilities;
  const double* threshold;
  const int64_t* alias;

  TORCHLAYER_BOTH int64_t pick(Uniforms u) const {
    const auto column = static_cast<int64_t>(u.first * static_cast<double>(n_classes));
    return u.second < threshold[column] ? column : alias[column];
  }
  TORCHLAYER_BOTH double probability(int64_t k) const { return probabilities[k]; }
};

inline void check_sampling(const char* op, const torch::stable::Tensor& labels, const torch::stable::Tensor& seed,
                           int64_t n_sampled, int64_t n_classes, bool unique) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(labels.scalar_type() == ScalarType::Long, op, " needs int64 labels, got ",
                  torch::headeronly::toString(labels.scalar_type()));
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.dim() == 1 && seed.numel() == 2, op,
                  " needs a seed of two int64");
  STD_TORCH_CHECK(seed.is_cuda() == labels.is_cuda() && seed.get_device_index() == labels.get_device_index(), op,
                  " needs labels and seed on one device");
  STD_TORCH_CHECK(n_classes >= 1 && n_classes <= (int64_t{1} << 40), op, " needs 1 to 2^40 classes, got ", n_classes);
  STD_TORCH_CHECK(n_sampled >= 1 && (!unique || n_sampled <= n_classes), op, " cannot draw ", n_sampled,
                  unique ? " distinct classes of " : " classes of ", n_classes);
}

// A table's column: one value for each class, on the labels' device.
inline void check_column(const char* op, const char* name, const torch::stable::Tensor& column,
                         const torch::stable::Tensor& labels, int64_t n_classes,
                         torch::headeronly::ScalarType dtype) {
  STD_TORCH_CHECK(column.dim() == 1 && column.numel() == n_classes && column.scalar_type() == dtype &&
                      column.is_cuda() == labels.is_cuda() && column.get_device_index() == labels.get_device_index(),
                  op, " needs ", name, " as one ", torch::headeronly::toString(dtype), " a class, on the labels' device");
}

}  // namespace torchlayer
