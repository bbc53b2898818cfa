// What the row optimisers share on a CPU: the gradient of each distinct row.
#pragma once

#include "row_arguments.h"

#include <algorithm>
#include <array>
#include <vector>

namespace torchlayer {

// Work for one thread below which a second one costs more than it brings, in elements.
constexpr int64_t kRowGrain = 16384;

// One place of `ids`: which row it names, and which gradient belongs to it.
struct Occurrence {
  int64_t row, position;
};

// The rate, once nothing can go wrong any more: call after check_rows and before the first write.
inline double checked_rate(const char* op, const torch::stable::Tensor& lr, const torch::stable::Tensor& ids,
                           int64_t n_rows) {
  const double rate = lr.scalar_type() == torch::headeronly::ScalarType::Double ? *lr.const_data_ptr<double>()
                                                                                : *lr.const_data_ptr<float>();
  if (!(rate >= 0)) {
    refuse<std::invalid_argument>(op, " needs lr of 0 or more, got ", rate);
  }
  const int64_t* id = ids.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.size(0); ++i) {
    const int64_t value = id[i * ids.stride(0)];
    if (value < 0 || value >= n_rows) {
      refuse<std::out_of_range>(op, " was given id ", value, " at position ", i, ", but weight has ", n_rows,
                                " rows; ids count from 0");
    }
  }
  return rate;
}

// By row, and within a row by position: a radix sort, which is stable, so sums are the same in every run.
inline std::vector<Occurrence> sort_by_row(const torch::stable::Tensor& ids, int64_t n_rows) {
  constexpr int kBits = 11;
  constexpr int64_t kMask = (1 << kBits) - 1;
  const int64_t n = ids.size(0), stride = ids.stride(0);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  std::vector<Occurrence> sorted(n), next(n);
  for (int64_t i = 0; i < n; ++i) {
    sorted[i] = {id[i * stride], i};
  }
  for (int shift = 0; (n_rows - 1) >> shift > 0; shift += kBits) {
    std::array<int64_t, kMask + 2> start{};
    for (const Occurrence& o : sorted) {
      ++start[((o.row >> shift) & kMask) + 1];
    }
    for (int64_t digit = 0; digit < kMask; ++digit) {
      start[digit + 1] += start[digit];
    }
    for (const Occurrence& o : sorted) {
      next[start[(o.row >> shift) & kMask]++] = o;
    }
    sorted.swap(next);
  }
  return sorted;
}

// Calls `update(row, grad)` once for every distinct row, with the sum of its gradients. Threads share out the sorted
// occurrences; a row is the business of the thread that holds its first, so no two threads write to one row.
template <typename scalar_t, typename Update>
void for_each_row(const torch::stable::Tensor& ids, const torch::stable::Tensor& row_grads,
                  const torch::stable::Tensor& weight, const Update& update) {
  const torch::stable::Tensor contiguous = torch::stable::contiguous(row_grads);
  const scalar_t* grads = contiguous.const_data_ptr<scalar_t>();
  const int64_t width = row_width(weight);
  const std::vector<Occurrence> sorted = sort_by_row(ids, weight.size(0));
  const auto n = static_cast<int64_t>(sorted.size());
  torch::stable::parallel_for(0, n, std::max<int64_t>(1, kRowGrain / width), [&](int64_t begin, int64_t end) {
    std::vector<accumulate_t<scalar_t>> sum(width);
    int64_t i = begin;
    while (i > 0 && i < end && sorted[i].row == sorted[i - 1].row) {
      ++i;  // begun by the thread before
    }
    while (i < end) {
      const int64_t row = sorted[i].row;
      std::copy_n(grads + sorted[i].position * width, width, sum.data());
      for (++i; i < n && sorted[i].row == row; ++i) {
        const scalar_t* more = grads + sorted[i].position * width;
        for (int64_t d = 0; d < width; ++d) {
          sum[d] += static_cast<accumulate_t<scalar_t>>(more[d]);
        }
      }
      update(row, sum.data());
    }
  });
}

}  // namespace torchlayer
