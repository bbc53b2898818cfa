// Candidates drawn uniformly, by Zipf's law, or by given weights.
#include "candidate_search.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torchlayer::check_column;
using torchlayer::candidates::sample;
using torchlayer::candidates::Sample;

Sample uniform_sample(const Tensor& labels, const Tensor& seed, int64_t n_sampled, int64_t n_classes, bool unique,
                      int64_t max_tries) {
  torchlayer::check_sampling("uniform_sample", labels, seed, n_sampled, n_classes, unique);
  return sample("uniform_sample", torchlayer::UniformClasses{n_classes}, labels, seed, n_sampled, unique, max_tries);
}

Sample log_uniform_sample(const Tensor& labels, const Tensor& seed, int64_t n_sampled, int64_t n_classes, bool unique,
                          int64_t max_tries) {
  torchlayer::check_sampling("log_uniform_sample", labels, seed, n_sampled, n_classes, unique);
  const torchlayer::LogUniformClasses classes{n_classes, std::log1p(static_cast<double>(n_classes))};
  return sample("log_uniform_sample", classes, labels, seed, n_sampled, unique, max_tries);
}

Sample alias_sample(const Tensor& labels, const Tensor& seed, const Tensor& probability, const Tensor& threshold,
                    const Tensor& alias, int64_t n_sampled, bool unique, int64_t max_tries) {
  const char* const op = "alias_sample";
  const int64_t n_classes = alias.numel();
  torchlayer::check_sampling(op, labels, seed, n_sampled, n_classes, unique);
  check_column(op, "probability", probability, labels, n_classes, ScalarType::Double);
  check_column(op, "threshold", threshold, labels, n_classes, ScalarType::Double);
  check_column(op, "alias", alias, labels, n_classes, ScalarType::Long);
  const Tensor p = torch::stable::contiguous(probability), t = torch::stable::contiguous(threshold);
  const Tensor a = torch::stable::contiguous(alias);
  const torchlayer::AliasTable classes{n_classes, p.const_data_ptr<double>(), t.const_data_ptr<double>(),
                                       a.const_data_ptr<int64_t>()};
  return sample(op, classes, labels, seed, n_sampled, unique, max_tries);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("uniform_sample", TORCH_BOX(&uniform_sample));
  m.impl("log_uniform_sample", TORCH_BOX(&log_uniform_sample));
  m.impl("alias_sample", TORCH_BOX(&alias_sample));
}
