// The candidate samplers of samplers.cpp on a GPU.
#include "candidate_search.cuh"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torchlayer::check_column;
using torchlayer::candidates::sample;
using torchlayer::candidates::Sample;
using torchlayer::candidates::kAllLanes;
using torchlayer::candidates::kLanes;

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

constexpr int kBlock = torchlayer::WeightedClasses::kBlock;
constexpr int kSumThreads = 256;  // and as many blocks of weights a tile
static_assert(kBlock == kLanes, "a warp reads one block of weights at a time");

// The running sum over the lanes of a warp, each lane's own value included.
__device__ int64_t sum_through_lane(int64_t value, int lane) {
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const int64_t below = __shfl_up_sync(kAllLanes, value, distance);
    value += lane >= distance ? below : 0;
  }
  return value;
}

// Running sums of blocks of weights within a tile of kSumThreads blocks, and the sum of each tile. A warp takes 32
// blocks one after the other, a lane a weight. Must move: 8 bytes a weight.
__global__ void __launch_bounds__(kSumThreads)
    sum_blocks(const int64_t* weight, int64_t n_classes, int64_t n_blocks, int64_t* sums, int64_t* tile_sums) {
  torchlayer::wait_for_earlier_kernels();
  __shared__ int64_t warp_sums[kSumThreads / kLanes];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  const int64_t first = (block - lane) * kBlock + lane;
  int64_t mine = 0;
#pragma unroll 8
  for (int j = 0; j < kLanes; ++j) {
    const int64_t k = first + static_cast<int64_t>(j) * kBlock;
    int64_t value = k < n_classes ? weight[k] : 0;
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(kAllLanes, value, distance);
    }
    mine = lane == j ? value : mine;
  }
  mine = sum_through_lane(mine, lane);
  if (lane == kLanes - 1) {
    warp_sums[warp] = mine;
  }
  __syncthreads();
  for (int other = 0; other < warp; ++other) {
    mine += warp_sums[other];
  }
  if (block < n_blocks) {
    sums[block] = mine;
  }
  if (threadIdx.x == kSumThreads - 1) {
    tile_sums[blockIdx.x] = mine;
  }
}

// Adds to the running sums of a tile what the tiles before it hold. One thread a block of weights. Must move: 16 bytes
// a block of weights, and the tiles' sums once a tile, which are one for every 8192 weights.
__global__ void __launch_bounds__(kSumThreads)
    add_tiles_before(int64_t n_blocks, int64_t* sums, const int64_t* tile_sums) {
  torchlayer::wait_for_earlier_kernels();
  __shared__ int64_t warp_sums[kSumThreads / kLanes];
  const int lane = static_cast<int>(threadIdx.x) % kLanes, warp = static_cast<int>(threadIdx.x) / kLanes;
  int64_t before = 0;
  for (int64_t tile = threadIdx.x; tile < static_cast<int64_t>(blockIdx.x); tile += kSumThreads) {
    before += tile_sums[tile];
  }
  before = sum_through_lane(before, lane);
  if (lane == kLanes - 1) {
    warp_sums[warp] = before;
  }
  __syncthreads();
  before = 0;
  for (int other = 0; other < kSumThreads / kLanes; ++other) {
    before += warp_sums[other];
  }
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (block < n_blocks) {
    sums[block] += before;
  }
}

Sample weighted_sample(const Tensor& labels, const Tensor& seed, const Tensor& weight, int64_t n_sampled, bool unique,
                       int64_t max_tries) {
  const char* const op = "weighted_sample";
  const int64_t n_classes = weight.numel(), n_blocks = (n_classes + kBlock - 1) / kBlock;
  torchlayer::check_sampling(op, labels, seed, n_sampled, n_classes, unique);
  check_column(op, "weight", weight, labels, n_classes, ScalarType::Long);
  const Tensor dense = torch::stable::contiguous(weight);
  const int64_t* const weights = dense.const_data_ptr<int64_t>();
  const int64_t n_tiles = (n_blocks + kSumThreads - 1) / kSumThreads;
  const Tensor memory = torch::stable::new_empty(labels, {n_blocks + n_tiles}, ScalarType::Long);
  auto* const sums = memory.mutable_data_ptr<int64_t>();
  const dim3 tiles(static_cast<unsigned>(n_tiles));
  torchlayer::launch_early(op, labels, sum_blocks, tiles, dim3(kSumThreads), 0, weights, n_classes, n_blocks, sums,
                           sums + n_blocks);
  if (n_tiles > 1) {
    torchlayer::launch_early(op, labels, add_tiles_before, tiles, dim3(kSumThreads), 0, n_blocks, sums,
                             sums + n_blocks);
  }
  const torchlayer::WeightedClasses classes{n_classes, weights, sums, n_blocks};
  return sample(op, classes, labels, seed, n_sampled, unique, max_tries);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CUDA, m) {
  m.impl("uniform_sample", TORCH_BOX(&uniform_sample));
  m.impl("log_uniform_sample", TORCH_BOX(&log_uniform_sample));
  m.impl("alias_sample", TORCH_BOX(&alias_sample));
  m.impl("weighted_sample", TORCH_BOX(&weighted_sample));
}
