// The search for candidates on a GPU: the same classes in the same order from the same seed as a CPU finds.
//
// The CPU draws in rounds of as many as are still missing. What it arrives at are the first n_sampled distinct classes
// in the order of their first draws, and the number of draws up to the last of them; so here rounds are as long as
// suits the chip, and what a round draws too much is dropped. Draws are pure functions of their number: a round is
// drawn in parallel, every draw is offered to a hash table that keeps the lowest number of each class, and a draw is
// new if the table kept its number. Nothing depends on who comes first.
#pragma once

#include "candidate_rounds.cuh"

#include <algorithm>
#include <type_traits>

namespace torchlayer {
namespace candidates {

// One block draws until the classes are found: from the start, with the table in its shared memory, or on from a first
// round that did not suffice, and after one that did it is done at once. A thread takes every n_threads-th draw of a
// round. Alone it also counts the items, if they are few, with what it knows of them from the search. Costs: a draw is
// some 60 double operations, of which one SM does 64 a clock; for few draws the time is that of memory and barriers.
template <typename Classes, bool kIsAlone, int n_threads>
__global__ void __launch_bounds__(n_threads)
    search(const Classes classes, const Request request, const Round round, int first_length, bool counts) {
  wait_for_earlier_kernels();
  using OurPicker = Picker<Classes, n_threads>;
  using Class = typename OurPicker::Class;
  extern __shared__ Word shared_slots[];
  __shared__ uint32_t n_before[kItems * n_threads / kLanes];  // new draws of each warp, all of one item first
  __shared__ int64_t n_tries;
  constexpr int n_warps = n_threads / kLanes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes, warp = thread / kLanes;
  const Table table{kIsAlone ? shared_slots : round.table.slots, round.table.bits};
  auto* const found = reinterpret_cast<Class*>(shared_slots + (Word{1} << table.bits));
  int64_t start = 0, n_found = 0;
  if constexpr (!kIsAlone) {
    start = round.n_draws;
    n_found = *round.n_found;
    if (n_found >= request.n_sampled) {
      return;
    }
  }
  // All that is read and depends on nothing is under way before anything waits. No branch may come between: before one
  // the compiler moves to uniform registers what all threads read alike.
  const int64_t seed[2] = {request.seed[0], request.seed[1]};
  OurPicker picker(classes, kIsAlone ? static_cast<void*>(found + request.n_sampled) : shared_slots);
  int64_t label[kItemsCounted];
  Class known[kItemsCounted]{};
  if constexpr (kIsAlone) {
    const int64_t n_labels = counts ? request.n_labels : 0;
#pragma unroll
    for (int j = 0; j < kItemsCounted; ++j) {
      const int64_t i = static_cast<int64_t>(j) * n_threads + thread;
      label[j] = i < n_labels ? request.labels[i] : -1;
    }
    picker.read_ahead();
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      table.slots[j * n_threads + thread] = kEmpty;
    }
#pragma unroll
    for (int j = 0; j < kItemsCounted; ++j) {
      if (label[j] >= 0 && label[j] < classes.n_classes) {
        known[j] = picker.find(label[j]);
      }
    }
  }
  if (thread == 0) {
    n_tries = -1;
  }

  bool is_prepared = false;
  const auto draw = [&](auto n_items_of_a_thread, int length) {
    constexpr int n_items = decltype(n_items_of_a_thread)::value;
    Uniforms u[n_items];
    Class drawn[n_items];
    uint32_t slot[n_items];
    unsigned ballot[n_items];
#pragma unroll
    for (int item = 0; item < n_items; ++item) {
      const int i = item * n_threads + thread;
      u[item] = i < length ? uniforms(seed, start + i) : Uniforms{};
    }
    if (!is_prepared) {
      picker.prepare();
      is_prepared = true;
    }
    __syncthreads();  // the slots are empty, or marked
#pragma unroll
    for (int item = 0; item < n_items; ++item) {
      const int i = item * n_threads + thread;
      drawn[item] = i < length ? picker.pick(u[item]) : Class{};
    }
#pragma unroll
    for (int item = 0; item < n_items; ++item) {
      const int i = item * n_threads + thread;
      slot[item] = i < length ? table.insert(Table::word_of(drawn[item].id, i + 1)) : 0;
    }
    __syncthreads();
#pragma unroll
    for (int item = 0; item < n_items; ++item) {
      const int i = item * n_threads + thread;
      const bool is_new = i < length && table.look<kIsAlone>(slot[item]) == Table::word_of(drawn[item].id, i + 1);
      ballot[item] = __ballot_sync(kAllLanes, is_new);
      if (lane == 0) {
        n_before[item * n_warps + warp] = __popc(ballot[item]);
      }
    }
    __syncthreads();
    // after everyone has looked, before anyone inserts again
#pragma unroll
    for (int item = 0; item < n_items; ++item) {
      if (ballot[item] >> lane & 1) {
        table.slots[slot[item]] = Table::word_of(drawn[item].id, 0);
      }
    }
    // Each warp adds up all the counts, n_items neighbours a lane, and keeps those before its own, which are the same
    // neighbour of n_items lanes: the number of warps is a multiple of n_items.
    uint32_t sum = 0, before_mine = 0;
#pragma unroll
    for (int j = 0; j < n_items; ++j) {
      const int at = lane * n_items + j;
      before_mine = j == warp % n_items ? sum : before_mine;
      sum += at < n_items * n_warps ? n_before[at] : 0;
    }
    uint32_t through = sum;
    for (int distance = 1; distance < kLanes; distance *= 2) {
      const uint32_t below = __shfl_up_sync(kAllLanes, through, distance);
      through += lane >= distance ? below : 0;
    }
    before_mine += through - sum;
#pragma unroll
    for (int item = 0; item < n_items; ++item) {
      const int64_t rank = n_found + __shfl_sync(kAllLanes, before_mine, (item * n_warps + warp) / n_items) +
                           __popc(ballot[item] & ((1u << lane) - 1));
      if (ballot[item] >> lane & 1) {
        if (rank < request.n_sampled) {
          request.sampled[rank] = drawn[item].id;
          if constexpr (kIsAlone) {
            found[rank] = drawn[item];
          }
        }
        if (rank == request.n_sampled - 1) {
          n_tries = start + item * n_threads + thread + 1;
        }
      }
    }
    n_found += __shfl_sync(kAllLanes, through, kLanes - 1);
  };
  for (int length = first_length; n_found < request.n_sampled && start < request.max_tries;
       length = n_threads * kItems) {
    if (length > request.max_tries - start) {
      length = static_cast<int>(request.max_tries - start);
    }
    if (length <= n_threads) {
      draw(std::integral_constant<int, 1>{}, length);
    } else {
      draw(std::integral_constant<int, kItems>{}, length);
    }
    start += length;
  }
  for (int64_t rank = n_found + thread; rank < request.n_sampled; rank += n_threads) {
    request.sampled[rank] = 0;  // a class that exists, so that nothing is read where nothing is
    if constexpr (kIsAlone) {
      found[rank] = Class{};
    }
  }
  __syncthreads();
  if (thread == 0) {
    *request.n_tries = n_tries;
  }
  if (kIsAlone && counts) {
    if constexpr (kLearns<Classes>) {
      if (request.learns) {  // all draws and the labels have read what this changes
        learn_labels(classes, label);
      }
    }
    const bool differs = picker.differs();
    if (differs && thread == 0) {
      request.reporter.report(IdArgument::kWeights, 0, 0, 0);
    }
    const int64_t n_items = request.n_labels + request.n_sampled;
#pragma unroll
    for (int j = 0; j < kItemsCounted; ++j) {
      const int64_t i = static_cast<int64_t>(j) * n_threads + thread;
      if (i < n_items) {
        const bool is_label = i < request.n_labels;
        const Class k = is_label ? known[j] : found[i - request.n_labels];
        const int64_t id = is_label ? label[j] : k.id;
        const bool exists = id >= 0 && id < classes.n_classes;
        if (is_label && !exists) {
          request.reporter.report(IdArgument::kCountedLabels, i / request.n_true, id, classes.n_classes);
        }
        count_item(request, i, exists && !differs ? picker.probability(k) : 0.0, n_tries);
      }
    }
  }
}

// About how many draws find n distinct classes of n_classes equally probable ones.
inline double draws_for(const UniformClasses& classes, double n) {
  const auto n_classes = static_cast<double>(classes.n_classes);
  return -n_classes * std::log1p(-std::min(n, n_classes - 0.5) / n_classes);
}

// The same by Zipf's law, p(k) = 1 / (k h), a good first guess for other tables: their search goes on if it fails.
// Among a * h draws are, as an integral over k, d(a) = V (1 - exp(-z)) + a E1(z) distinct ones, with z = a / V; its
// slope is E1(z), and Newton's steps towards d(a) = n, begun below, stay below.
template <typename Classes>
double draws_for(const Classes& classes, double n) {
  const auto n_classes = static_cast<double>(classes.n_classes);
  double a = n / (1 + 1.5 * std::log1p(n_classes / n));
  for (int step = 0; step < 5; ++step) {
    const double z = a / n_classes;
    const double e1 = -0.5772156649 - std::log(z) + z * (1 - z / 4 * (1 - z / 4.5 * (1 - z / 5.333)));
    a = std::min(a + (n + n_classes * std::expm1(-z) - a * e1) / e1, n_classes);  // the series is one for z <= 1
  }
  return a * std::log1p(n_classes);
}

inline unsigned blocks_for(int64_t n, int64_t threads) { return static_cast<unsigned>((n + threads - 1) / threads); }

// Returns whether the labels have been counted.
template <int n_threads, typename Classes>
bool search_alone(const char* op, const Tensor& where, const Classes& classes, const Request& request,
                  int64_t n_guess) {
  const int64_t n_items = request.n_labels + request.n_sampled;
  constexpr int64_t longest = n_threads * kItems;
  const bool counts = n_items <= kItemsCounted * n_threads;  // more would wait for one SM
  Round round{};
  while (int64_t{1} << round.table.bits < kSlots * n_threads) {
    ++round.table.bits;
  }
  using OurPicker = Picker<Classes, n_threads>;
  const size_t bytes = (sizeof(Word) << round.table.bits) + OurPicker::bytes(classes) +
                       sizeof(typename OurPicker::Class) * static_cast<size_t>(request.n_sampled);
  launch_early(op, where, search<Classes, true, n_threads>, dim3(1), dim3(n_threads), bytes, classes, request, round,
               std::min(n_guess, longest), counts);
  if (!counts) {
    launch_early(op, where, count_items<Classes>, dim3(blocks_for(n_items, kThreads)), dim3(kThreads), 0, classes,
                 request);
  }
  return counts;
}

template <typename Classes>
bool search_together(const char* op, const Tensor& where, const Classes& classes, const Request& request,
                     int64_t n_guess) {
  constexpr int64_t kLongest = int64_t{kSearchThreads} * kItems;
  Round round{};
  round.n_draws = std::max<int64_t>(1, std::min({n_guess, request.max_tries, kLongestRound}));
  // What the table may have to hold: all draws of the first round, or not all that are wanted and a round of the
  // search. An alias table with classes that do not exist has two for each that does.
  const int64_t n_first = std::min(round.n_draws, 2 * classes.n_classes);
  const int64_t n_wanted = std::min(request.n_sampled, std::max<int64_t>(request.max_tries, 1));
  round.table.bits = bits_for(std::max(n_first, n_wanted + kLongest));
  const int64_t n_slots = int64_t{1} << round.table.bits, n_tiles = (round.n_draws + kTile - 1) / kTile;
  const int64_t n_halves = round.n_draws + n_tiles * kLanes + n_tiles;
  const Tensor memory =
      torch::stable::new_empty(where, {n_slots + round.n_draws + 1 + (n_halves + 1) / 2}, ScalarType::Long);
  auto* const words = memory.mutable_data_ptr<int64_t>();
  round.table.slots = reinterpret_cast<Word*>(words);
  round.drawn = words + n_slots;
  round.n_found = round.drawn + round.n_draws;
  round.slot = reinterpret_cast<uint32_t*>(round.n_found + 1);
  round.is_new = round.slot + round.n_draws;
  round.n_new = round.is_new + n_tiles * kLanes;

  const dim3 draws(blocks_for(round.n_draws, kThreads)), tiles(static_cast<unsigned>(n_tiles));
  const size_t bytes = Picker<Classes, kThreads>::bytes(classes);
  launch_early(op, where, draw_round<Classes>, draws, dim3(kThreads), bytes, classes, request.seed, round);
  launch_early(op, where, insert_round, draws, dim3(kThreads), 0, round);
  launch_early(op, where, find_new, tiles, dim3(kTile), 0, round);
  launch_early(op, where, emit_new, tiles, dim3(kTile), 0, round, request);
  launch_early(op, where, search<Classes, false, kSearchThreads>, dim3(1), dim3(kSearchThreads),
               Picker<Classes, kSearchThreads>::bytes(classes), classes, request, round, kLongest, false);
  const int64_t n_items = request.n_labels + request.n_sampled;
  launch_early(op, where, count_items<Classes>, dim3(blocks_for(n_items, kThreads)), dim3(kThreads), 0, classes,
               request);
  return false;
}

template <typename Classes>
Sample sample(const char* op, const Classes& classes, const Tensor& labels, const Tensor& seed, int64_t n_sampled,
              bool unique, int64_t max_tries, bool learns = false) {
  const IdReporter reporter = open_reports(op, labels);
  const Tensor ids = torch::stable::contiguous(labels), key = torch::stable::contiguous(seed);
  Tensor sampled = torch::stable::new_empty(labels, {n_sampled}, ScalarType::Long);
  Tensor tries = torch::stable::new_empty(labels, {}, ScalarType::Long);
  Tensor true_count = torch::stable::new_empty(labels, labels.sizes(), ScalarType::Float);
  Tensor sampled_count = torch::stable::new_empty(labels, {n_sampled}, ScalarType::Float);
  const Request request{key.const_data_ptr<int64_t>(),
                        ids.const_data_ptr<int64_t>(),
                        ids.numel(),
                        n_sampled,
                        max_tries,
                        sampled.mutable_data_ptr<int64_t>(),
                        tries.mutable_data_ptr<int64_t>(),
                        true_count.mutable_data_ptr<float>(),
                        sampled_count.mutable_data_ptr<float>(),
                        ids.numel() > 0 && ids.dim() > 0 ? ids.numel() / ids.size(0) : 1,
                        learns,
                        reporter};
  bool has_learned = false;
  if (!unique) {
    launch_early(op, labels, draw_and_count<Classes>, dim3(blocks_for(ids.numel() + n_sampled, kThreads)),
                 dim3(kThreads), Picker<Classes, kThreads>::bytes(classes), classes, request);
  } else {
    // six standard deviations or so more than it takes on average
    const double mean = draws_for(classes, static_cast<double>(n_sampled));
    const auto n_guess = static_cast<int64_t>(std::min(mean + 6 * std::sqrt(mean) + 16, 1e9));
    const auto search = n_sampled > kAlone ? search_together<Classes>
                        : n_guess <= 256   ? search_alone<256, Classes>
                        : n_guess <= 512   ? search_alone<512, Classes>
                                           : search_alone<kSearchThreads, Classes>;
    has_learned = search(op, labels, classes, request, n_guess);
  }
  if constexpr (kLearns<Classes>) {
    if (learns && !has_learned && ids.numel() > 0) {
      launch_early(op, labels, count_labels<Classes>, dim3(blocks_for(ids.numel(), kThreads)), dim3(kThreads), 0,
                   classes, request);
    }
  }
  close_reports(labels);
  return {sampled, true_count, sampled_count, tries};
}
}  // namespace candidates
}  // namespace torchlayer
