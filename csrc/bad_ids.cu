// The look at what kernels have reported, for Python: without waiting, or once all devices have done their work.
#include "bad_ids.cuh"

#include <torch/csrc/stable/library.h>

namespace {

void raise_for_bad_ids(bool wait) {
  namespace bad_ids = torchlayer::bad_ids;
  const uint64_t devices = bad_ids::records.load() == nullptr ? 0 : bad_ids::devices_in_use.load();
  for (int32_t device = 0; device < bad_ids::kMostDevices; ++device) {
    if ((devices >> device & 1) == 0) {
      continue;
    }
    if (wait) {
      const torch::stable::accelerator::DeviceGuard guard(device);
      bad_ids::check_cuda(cudaDeviceSynchronize(), "check_ids");
    }
    torchlayer::BadId id{};
    if (bad_ids::take(device, &id)) {
      bad_ids::raise(id, false);
    }
  }
}

}  // namespace

// No tensor among the arguments, so no device to dispatch by: this key serves for all, and comes with CUDA's library.
STABLE_TORCH_LIBRARY_IMPL(torchlayer, CompositeExplicitAutograd, m) {
  m.impl("raise_for_bad_ids", TORCH_BOX(&raise_for_bad_ids));
}
