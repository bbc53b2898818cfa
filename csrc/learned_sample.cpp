// Candidates drawn as often as their classes were labels before, and the labels counted for the next call.
#include "candidate_search.h"
#include "learned_classes.h"

#include <numeric>

namespace {

using torch::stable::Tensor;
using torchlayer::candidates::Sample;

struct LearnedOnCpu : torchlayer::LearnedClasses {
  std::vector<int64_t> running;

  explicit LearnedOnCpu(const torchlayer::LearnedClasses& classes) : LearnedClasses(classes), running(length(top)) {
    std::partial_sum(sums + begin[top], sums + begin[top] + length(top), running.begin());
  }

  int64_t pick(torchlayer::Uniforms u) const {
    const auto t = static_cast<int64_t>(u.first * static_cast<double>(running.back()));
    size_t at = 0, last = running.size() - 1;
    while (at < last) {
      const size_t middle = (at + last) / 2;
      if (running[middle] > t) {
        last = middle;
      } else {
        at = middle + 1;
      }
    }
    const int64_t before = at > 0 ? running[at - 1] : 0;
    Place place{static_cast<int64_t>(at), t - before, running[at] - before, true};
    descend(place);
    if (!place.is_kept) {
      note_difference();
    }
    return place.at;
  }
};

void count_labels(const torchlayer::LearnedClasses& classes, const Tensor& labels) {
  const Tensor ids = torch::stable::contiguous(labels);
  const int64_t* const id = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] >= 0 && id[i] < classes.n_classes) {
      ++classes.weight[id[i]];
      ++classes.sums[0];
      for (int level = 1; level <= classes.top; ++level) {
        ++classes.sums[classes.begin[level] + (id[i] >> (torchlayer::LearnedClasses::kFanBits * level))];
      }
    }
  }
}

Sample learned_sample_(const Tensor& labels, const Tensor& seed, const Tensor& weight, const Tensor& sums, bool learns,
                       int64_t n_sampled, bool unique, int64_t max_tries) {
  const char* const op = "learned_sample_";
  const LearnedOnCpu classes(torchlayer::check_learned(op, weight, sums, labels, seed, n_sampled, unique));
  const Sample found = torchlayer::candidates::sample(op, classes, labels, seed, n_sampled, unique, max_tries);
  STD_TORCH_CHECK(!classes.differs(), op,
                  " keeps sums of its weights, and somebody wrote to the weights; call refresh()");
  if (learns) {
    count_labels(classes, labels);
  }
  return found;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) { m.impl("learned_sample_", TORCH_BOX(&learned_sample_)); }
