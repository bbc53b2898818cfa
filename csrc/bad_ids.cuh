// How a CUDA kernel tells the host of an id that names nothing, while nobody waits for anybody.
//
// The kernel moves the id into range, turns what it spoils into NaN, and writes a report into the host's own memory.
// There the host looks when the next op begins, which costs it two reads, and raises IndexError. A report stays until
// somebody looks; those that come meanwhile are dropped. Kernels of a replayed graph report like any others.
#pragma once

#include "launch.cuh"

#include "check.h"

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

namespace torchlayer {

// What the id was given as, which decides the words of the error. The last is no id: kept sums and the weights differ.
enum class IdArgument : uint32_t { kLabels, kSamples, kCountedLabels, kRows, kWeights };

struct BadId {
  const char* op;
  IdArgument argument;
  int64_t row, value, end;  // ids from 0 to end - 1 would have been right
};

// One for each device. Every word has one writer, so nothing rests on atomic operations between host and device.
struct alignas(256) BadIdRecord {
  uint32_t n_taken;                 // reports that the host has taken
  alignas(128) uint32_t n_claimed;  // reports that a thread of the device has begun to write
  uint32_t n_reported;              // and ended
  BadId id;
};

// What a kernel reports with, passed by value.
struct IdReporter {
  BadIdRecord* record;  // or null: nobody wants to know
  const char* op;       // only the host follows it

  // For threads that have met a bad id; of a warp's, one reports.
  __device__ void report(IdArgument argument, int64_t row, int64_t value, int64_t end) const {
    uint32_t lane;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    if (record == nullptr || lane != static_cast<uint32_t>(__ffs(static_cast<int>(__activemask())) - 1)) {
      return;
    }
    const uint32_t n_taken = *static_cast<volatile uint32_t*>(&record->n_taken);
    if (atomicCAS(&record->n_claimed, n_taken, n_taken + 1) != n_taken) {
      return;  // one is under way, or waits to be taken
    }
    volatile BadId& id = record->id;
    id.op = op;
    id.argument = argument;
    id.row = row;
    id.value = value;
    id.end = end;
    __threadfence_system();
    *static_cast<volatile uint32_t*>(&record->n_reported) = n_taken + 1;
  }
};

namespace bad_ids {

constexpr int32_t kMostDevices = 64;
inline std::atomic<BadIdRecord*> records{nullptr};  // of all devices; never freed, for a kernel may yet write
inline std::atomic<uint64_t> devices_in_use{0};

inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    cudaGetLastError();  // or the next launch would be blamed
    refuse<std::runtime_error>(what, ": ", cudaGetErrorString(status));
  }
}

inline cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

inline bool is_capturing(int32_t device) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(current_stream(device), &status);
  if (error == cudaErrorStreamCaptureImplicit) {  // the default stream, while another one captures
    cudaGetLastError();
    return true;
  }
  check_cuda(error, "bad_ids");
  return status != cudaStreamCaptureStatusNone;
}

// Pinned memory, which every device sees at the address where the host does. Allocated when an op first needs it; a
// capture may be under way, which forbids that unless told otherwise, as PyTorch's own allocators do.
inline BadIdRecord* allocate(int32_t device) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  if (BadIdRecord* existing = records.load()) {
    return existing;
  }
  const torch::stable::accelerator::DeviceGuard guard(device);
  constexpr size_t kBytes = sizeof(BadIdRecord) * kMostDevices;
  void* memory = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check_cuda(cudaThreadExchangeStreamCaptureMode(&mode), "bad_ids");
  const cudaError_t status = cudaHostAlloc(&memory, kBytes, cudaHostAllocMapped | cudaHostAllocPortable);
  cudaThreadExchangeStreamCaptureMode(&mode);
  check_cuda(status, "bad_ids cannot have pinned memory");
  std::memset(memory, 0, kBytes);
  // A forked child has no part in this memory, and reading it might be its end.
  pthread_atfork(nullptr, nullptr, [] { records.store(nullptr); });
  records.store(static_cast<BadIdRecord*>(memory));
  return static_cast<BadIdRecord*>(memory);
}

inline bool is_reported(int32_t device) {
  BadIdRecord* all = records.load(std::memory_order_acquire);
  return all != nullptr && __atomic_load_n(&all[device].n_reported, __ATOMIC_ACQUIRE) !=
                               __atomic_load_n(&all[device].n_taken, __ATOMIC_RELAXED);
}

// The report of a device, if there is one and no other thread takes it; the device may then write the next.
inline bool take(int32_t device, BadId* id) {
  if (!is_reported(device)) {
    return false;
  }
  BadIdRecord& record = records.load(std::memory_order_acquire)[device];
  uint32_t n_taken = __atomic_load_n(&record.n_taken, __ATOMIC_RELAXED);
  const uint32_t n_reported = __atomic_load_n(&record.n_reported, __ATOMIC_ACQUIRE);
  *id = record.id;
  return n_taken != n_reported &&
         __atomic_compare_exchange_n(&record.n_taken, &n_taken, n_reported, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

[[noreturn]] inline void raise(const BadId& id, bool is_of_this_call) {
  const auto later = [&](const char* spoilt) {
    return is_of_this_call ? std::string()
                           : std::string(" (of an earlier call; ") + spoilt + "; TORCHLAYER_CHECK=1 tells at once)";
  };
  switch (id.argument) {
    case IdArgument::kLabels:
      refuse<std::out_of_range>(id.op, " needs labels from 0 to ", id.end - 1, ", got ", id.value, " in row ", id.row,
                                later("its loss is NaN"));
    case IdArgument::kSamples:
      refuse<std::out_of_range>(id.op, " needs sampled ids from 0 to ", id.end - 1, ", got ", id.value, " in row ",
                                id.row, later("all its losses are NaN"));
    case IdArgument::kCountedLabels:
      refuse<std::out_of_range>(id.op, " needs labels from 0 to ", id.end - 1, ", got ", id.value, " in row ", id.row,
                                later("its expected count is NaN"));
    case IdArgument::kWeights:
      refuse<std::runtime_error>(id.op, " keeps sums of its weights, and somebody wrote to the weights; call refresh()",
                                 later("all its expected counts are NaN"));
    default:
      refuse<std::out_of_range>(id.op, " was given id ", id.value, " at position ", id.row, ", but weight has ", id.end,
                                " rows; ids count from 0", later("the row it met is NaN"));
  }
}

// Whether TORCHLAYER_CHECK=1 asks every call to wait for its own reports; read once.
inline bool is_at_once() {
  static const bool at_once = [] {
    const char* value = std::getenv("TORCHLAYER_CHECK");
    const std::string text = value == nullptr ? "" : value;
    if (text != "" && text != "0" && text != "1") {
      refuse<std::invalid_argument>("TORCHLAYER_CHECK='", text, "' is not a choice; set it to one of 0, 1");
    }
    return text == "1";
  }();
  return at_once;
}

}  // namespace bad_ids

// An op that looks at ids begins with this, before it writes anything, and hands the result to its kernels. Raises what
// an earlier call has reported, unless a capture is under way, which that would break: then it waits for the next look.
inline IdReporter open_reports(const char* op, const torch::stable::Tensor& where) {
  const int32_t device = where.get_device_index();
  STD_TORCH_CHECK(device >= 0 && device < bad_ids::kMostDevices, op, " knows ", bad_ids::kMostDevices,
                  " GPUs, got number ", device);
  BadIdRecord* all = bad_ids::records.load(std::memory_order_acquire);
  if (all == nullptr) {
    all = bad_ids::allocate(device);
  }
  bad_ids::devices_in_use.fetch_or(uint64_t{1} << device, std::memory_order_relaxed);
  BadId id{};
  if (bad_ids::is_reported(device) && !bad_ids::is_capturing(device) && bad_ids::take(device, &id)) {
    bad_ids::raise(id, false);
  }
  return {all + device, op};
}

// And ends with this, after its last launch: with TORCHLAYER_CHECK=1 it waits, and raises what this call has reported.
inline void close_reports(const torch::stable::Tensor& where) {
  if (!bad_ids::is_at_once()) {
    return;
  }
  const int32_t device = where.get_device_index();
  if (bad_ids::is_capturing(device)) {
    return;
  }
  const torch::stable::accelerator::DeviceGuard guard(device);
  bad_ids::check_cuda(cudaStreamSynchronize(bad_ids::current_stream(device)), "TORCHLAYER_CHECK=1");
  BadId id{};
  if (bad_ids::take(device, &id)) {
    bad_ids::raise(id, true);
  }
}

}  // namespace torchlayer
