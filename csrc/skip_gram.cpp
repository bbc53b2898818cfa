// Skip-grams with negative samples, a piece of text at a time: every word tells its neighbours from sampled words.
//
// A group of windows is computed on the tables as they are, and then its gradients are added. A window's logits are a
// small matrix product whose rows stay in the first cache: the negatives are read once for all neighbours, not once for
// each. Groups are cut into pieces of fixed length with buffers of their own, and every row of a table has one thread
// that adds to it, piece after piece: the result is the same for any number of threads.
#include "skip_gram.h"
#include "vector_math.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using torch::stable::Tensor;
using torchlayer::SkipGram;

// Windows of a piece: their gradients, some 5 KB each, are read again while a core's second cache has them.
constexpr int64_t kPiece = 64;

template <typename real, int kWidth>
struct Lanes {
  typedef real type __attribute__((vector_size(kWidth * sizeof(real))));
};

// as `type value; memcpy(...)`, which compilers turn into one load that needs no alignment
template <typename real, int kWidth>
struct Load {
  typename Lanes<real, kWidth>::type value;
  TORCHLAYER_INLINE explicit Load(const real* from) { std::memcpy(&value, from, sizeof value); }
};

// Adds to into[r * stride + s] the products of kWidth elements of x[r] and y[s], for as long as there are so many.
template <int kWidth, int kRows, int kColumns, typename real>
TORCHLAYER_INLINE int64_t dot_block(const real* const* x, const real* const* y, int64_t from, int64_t width, real* into,
                                    int64_t stride) {
  typename Lanes<real, kWidth>::type sum[kRows][kColumns] = {};
  int64_t d = from;
  for (; d + kWidth <= width; d += kWidth) {
    typename Lanes<real, kWidth>::type column[kColumns];
    for (int s = 0; s < kColumns; ++s) {
      column[s] = Load<real, kWidth>(y[s] + d).value;
    }
    for (int r = 0; r < kRows; ++r) {
      const Load<real, kWidth> row(x[r] + d);
      for (int s = 0; s < kColumns; ++s) {
        sum[r][s] += row.value * column[s];
      }
    }
  }
  if (d > from) {
    for (int r = 0; r < kRows; ++r) {
      for (int s = 0; s < kColumns; ++s) {
        real total = 0;
        for (int lane = 0; lane < kWidth; ++lane) {
          total += sum[r][s][lane];
        }
        into[r * stride + s] += total;
      }
    }
  }
  return d;
}

template <int kRows, int kColumns, typename real>
TORCHLAYER_INLINE void dots(const real* const* x, const real* const* y, int64_t width, real* into, int64_t stride) {
  for (int r = 0; r < kRows; ++r) {
    for (int s = 0; s < kColumns; ++s) {
      into[r * stride + s] = 0;
    }
  }
  int64_t d = dot_block<16, kRows, kColumns>(x, y, 0, width, into, stride);
  d = dot_block<4, kRows, kColumns>(x, y, d, width, into, stride);
  dot_block<1, kRows, kColumns>(x, y, d, width, into, stride);
}

// into[r] (+)= the sum over k of scale[r * row_stride + k * step] * y[k], kWidth elements at a time.
template <int kWidth, int kRows, bool kAdd, typename real>
TORCHLAYER_INLINE int64_t combine_block(const real* scale, int64_t row_stride, int64_t step, const real* const* y,
                                        int64_t n, int64_t from, int64_t width, real* const* into) {
  int64_t d = from;
  for (; d + kWidth <= width; d += kWidth) {
    typename Lanes<real, kWidth>::type sum[kRows] = {};
    for (int64_t k = 0; k < n; ++k) {
      const Load<real, kWidth> row(y[k] + d);
      for (int r = 0; r < kRows; ++r) {
        sum[r] += scale[r * row_stride + k * step] * row.value;
      }
    }
    for (int r = 0; r < kRows; ++r) {
      if (kAdd) {
        sum[r] += Load<real, kWidth>(into[r] + d).value;
      }
      std::memcpy(into[r] + d, &sum[r], sizeof sum[r]);
    }
  }
  return d;
}

template <int kRows, bool kAdd, typename real>
TORCHLAYER_INLINE void combine(const real* scale, int64_t row_stride, int64_t step, const real* const* y, int64_t n,
                               int64_t width, real* const* into) {
  int64_t d = combine_block<16, kRows, kAdd>(scale, row_stride, step, y, n, 0, width, into);
  d = combine_block<4, kRows, kAdd>(scale, row_stride, step, y, n, d, width, into);
  combine_block<1, kRows, kAdd>(scale, row_stride, step, y, n, d, width, into);
}

// One window. `x` and `into_x` are its neighbours' rows and where their gradients are summed, `y` and `into_y` those of
// the word and its negatives; `skip[k]` marks a negative that is the word itself. Returns the loss.
template <typename real>
TORCHLAYER_INLINE real window_of(const real* const* x, real* const* into_x, int64_t n_x, const real* const* y,
                                 real* const* into_y, const bool* skip, int64_t n_y, int64_t width, real rate,
                                 real* logits) {
  int64_t c = 0;
  for (; c + 2 <= n_x; c += 2) {
    int64_t k = 0;
    for (; k + 3 <= n_y; k += 3) {
      dots<2, 3>(x + c, y + k, width, logits + c * n_y + k, n_y);
    }
    for (; k < n_y; ++k) {
      dots<2, 1>(x + c, y + k, width, logits + c * n_y + k, n_y);
    }
  }
  for (; c < n_x; ++c) {
    int64_t k = 0;
    for (; k + 3 <= n_y; k += 3) {
      dots<1, 3>(x + c, y + k, width, logits + c * n_y + k, n_y);
    }
    for (; k < n_y; ++k) {
      dots<1, 1>(x + c, y + k, width, logits + c * n_y + k, n_y);
    }
  }
  real loss = 0;
  for (c = 0; c < n_x; ++c) {
    real* row = logits + c * n_y;
    loss += torchlayer::softplus_of(-row[0]);
    row[0] = rate * torchlayer::sigmoid_of(-row[0]);
    for (int64_t k = 1; k < n_y; ++k) {
      loss += skip[k] ? 0 : torchlayer::softplus_of(row[k]);
      row[k] = skip[k] ? 0 : -rate * torchlayer::sigmoid_of(row[k]);
    }
  }
  for (c = 0; c + 2 <= n_x; c += 2) {
    combine<2, true>(logits + c * n_y, n_y, 1, y, n_y, width, into_x + c);
  }
  if (c < n_x) {
    combine<1, true>(logits + c * n_y, n_y, 1, y, n_y, width, into_x + c);
  }
  int64_t k = 0;
  for (; k + 3 <= n_y; k += 3) {
    combine<3, false>(logits + k, 1, n_y, x, n_x, width, into_y + k);
  }
  for (; k < n_y; ++k) {
    combine<1, false>(logits + k, 1, n_y, x, n_x, width, into_y + k);
  }
  return loss;
}

// A template cannot be compiled in clones.
#define TORCHLAYER_WINDOW(real)                                                                                       \
  TORCHLAYER_CLONES real window(const real* const* x, real* const* into_x, int64_t n_x, const real* const* y,         \
                                real* const* into_y, const bool* skip, int64_t n_y, int64_t width, real rate,         \
                                real* logits) {                                                                       \
    return window_of(x, into_x, n_x, y, into_y, skip, n_y, width, rate, logits);                                      \
  }
TORCHLAYER_WINDOW(float)
TORCHLAYER_WINDOW(double)
#undef TORCHLAYER_WINDOW

template <typename real>
void prefetch(const real* row, int64_t width) {
  for (int64_t d = 0; d < width; d += static_cast<int64_t>(64 / sizeof(real))) {
    __builtin_prefetch(row + d);
  }
}

int64_t output(const SkipGram& text, int64_t i, int64_t k) {
  return k == 0 ? text.words[i] : text.negatives[i * text.n_negatives + k - 1];
}

// In how many windows of a group each row is.
struct Counts {
  explicit Counts(const SkipGram& text) : inputs(text.n_rows), outputs(text.n_rows), limit(text.limit) {}

  void add(const SkipGram& text, int64_t first, int64_t last, int32_t by) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = std::max<int64_t>(0, i - text.radius[i]);
      const int64_t end = std::min(text.n_words, i + text.radius[i] + 1);
      for (int64_t j = begin; j < end; ++j) {
        inputs[text.words[j]] += j == i ? 0 : by;
      }
      for (int64_t k = 0; k < text.n_outputs; ++k) {
        outputs[output(text, i, k)] += by;
      }
    }
  }
  double scale(int32_t count) const {
    return count <= limit ? 1 : static_cast<double>(limit) / count;
  }

  std::vector<int32_t> inputs, outputs;
  int64_t limit;
};

// Threads that share out tasks and sleep while there are none. A machine's cores may be wanted by others: torch's own
// threads spin while they wait for one that has no core, which with two waits a group made this twenty times as slow.
class Team {
 public:
  explicit Team(int64_t n_threads) {
    for (int64_t i = 1; i < n_threads; ++i) {
      threads_.emplace_back([this] { work(); });
    }
  }
  ~Team() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_over_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Calls task(0) to task(n - 1), each once, and returns when all are done. No task may throw.
  void run(int64_t n, const std::function<void(int64_t)>& task) {
    std::unique_lock<std::mutex> lock(mutex_);
    task_ = &task, n_ = n, next_ = 0, n_done_ = 0;
    wake_.notify_all();
    do_all(lock);
    done_.wait(lock, [this] { return n_done_ == n_; });
  }

 private:
  void do_all(std::unique_lock<std::mutex>& lock) {
    while (next_ < n_) {
      const int64_t mine = next_++;
      lock.unlock();
      (*task_)(mine);
      lock.lock();
      if (++n_done_ == n_) {
        done_.notify_all();
      }
    }
  }
  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!is_over_) {
      do_all(lock);
      wake_.wait(lock, [this] { return next_ < n_ || is_over_; });
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int64_t)>* task_ = nullptr;
  int64_t n_ = 0, next_ = 0, n_done_ = 0;
  bool is_over_ = false;
  std::vector<std::thread> threads_;
};

// The windows of the words from `first` to before `last`, and their gradients.
template <typename real>
class Piece {
 public:
  Piece(const SkipGram& text, const real* embeddings, const real* weights)
      : text_(text),
        embeddings_(embeddings),
        weights_(weights),
        d_inputs_((kPiece + 2 * text.window) * text.width),
        d_outputs_(kPiece * text.n_outputs * text.width),
        logits_(2 * text.window * text.n_outputs),
        x_(2 * text.window),
        y_(text.n_outputs),
        into_x_(2 * text.window),
        into_y_(text.n_outputs),
        skip_(new bool[text.n_outputs]{}) {}

  void compute(int64_t first, int64_t last, real rate, real* losses) {
    first_ = first, last_ = last;
    begin_ = std::max<int64_t>(0, first - text_.window);
    end_ = std::min(text_.n_words, last + text_.window);
    std::fill_n(d_inputs_.data(), (end_ - begin_) * text_.width, real(0));
    for (int64_t i = first; i < last; ++i) {
      prefetch_for(i + 2);
      losses[i] = compute_window(i, rate);
    }
  }

  // To the rows whose ids leave the remainder `shard`.
  void add(int64_t shard, int64_t n_shards, const Counts& counts, real* embeddings, real* weights) const {
    const int64_t width = text_.width, n_outputs = text_.n_outputs;
    for (int64_t j = begin_; j < end_; ++j) {
      const int64_t id = text_.words[j];
      if (id % n_shards == shard) {
        const auto scale = static_cast<real>(counts.scale(counts.inputs[id]));
        torchlayer::add_scaled(embeddings + id * width, &d_inputs_[(j - begin_) * width], scale, width);
      }
    }
    const real* from = d_outputs_.data();
    for (int64_t i = first_; i < last_; ++i) {
      for (int64_t k = 0; k < n_outputs; ++k, from += width) {
        const int64_t id = output(text_, i, k);
        if (id % n_shards == shard) {
          const auto scale = static_cast<real>(counts.scale(counts.outputs[id]));
          torchlayer::add_scaled(weights + id * width, from, scale, width);
        }
      }
    }
  }

 private:
  void prefetch_for(int64_t i) const {
    if (i < text_.n_words) {
      for (int64_t k = 0; k < text_.n_outputs; ++k) {
        prefetch(weights_ + output(text_, i, k) * text_.width, text_.width);
      }
    }
    if (i + text_.window < text_.n_words) {
      prefetch(embeddings_ + text_.words[i + text_.window] * text_.width, text_.width);
    }
  }

  real compute_window(int64_t i, real rate) {
    const int64_t width = text_.width, n_outputs = text_.n_outputs;
    const int64_t radius = text_.radius[i];
    int64_t n = 0;
    for (int64_t j = std::max<int64_t>(0, i - radius); j <= std::min(text_.n_words - 1, i + radius); ++j) {
      if (j != i) {
        x_[n] = embeddings_ + text_.words[j] * width;
        into_x_[n++] = &d_inputs_[(j - begin_) * width];
      }
    }
    for (int64_t k = 0; k < n_outputs; ++k) {
      const int64_t id = output(text_, i, k);
      y_[k] = weights_ + id * width;
      into_y_[k] = &d_outputs_[((i - first_) * n_outputs + k) * width];
      skip_[k] = k > 0 && id == text_.words[i];
    }
    return window(x_.data(), into_x_.data(), n, y_.data(), into_y_.data(), skip_.get(), n_outputs, width, rate,
                  logits_.data());
  }

  SkipGram text_;
  const real *embeddings_, *weights_;
  std::vector<real> d_inputs_, d_outputs_, logits_;  // of each word in reach, of each word and negative
  std::vector<const real*> x_, y_;
  std::vector<real*> into_x_, into_y_;
  std::unique_ptr<bool[]> skip_;
  int64_t first_ = 0, last_ = 0, begin_ = 0, end_ = 0;
};

template <typename real>
void train(const SkipGram& text, real* embeddings, real* weights, real rate, real* losses) {
  const int64_t n_pieces = (std::min(text.group, text.n_words) + kPiece - 1) / kPiece;
  std::vector<Piece<real>> pieces;
  for (int64_t p = 0; p < n_pieces; ++p) {
    pieces.emplace_back(text, embeddings, weights);
  }
  Counts counts(text);
  const int64_t n_threads = std::min<int64_t>(torch::stable::get_num_threads(), std::max<int64_t>(n_pieces, 1));
  Team team(n_threads);
  for (int64_t begin = 0; begin < text.n_words; begin += text.group) {
    const int64_t end = std::min(begin + text.group, text.n_words);
    const int64_t n = (end - begin + kPiece - 1) / kPiece;
    counts.add(text, begin, end, 1);
    team.run(n, [&](int64_t p) {
      const int64_t first = begin + p * kPiece;
      pieces[p].compute(first, std::min(first + kPiece, end), rate, losses);
    });
    team.run(n_threads, [&](int64_t shard) {
      for (int64_t p = 0; p < n; ++p) {
        pieces[p].add(shard, n_threads, counts, embeddings, weights);
      }
    });
    counts.add(text, begin, end, -1);
  }
}

// Before the first write, so that nothing is half done.
void check_values(const SkipGram& text, double rate) {
  using torchlayer::refuse;
  if (!(rate >= 0)) {
    refuse<std::invalid_argument>("skip_gram_ needs lr of 0 or more, got ", rate);
  }
  const auto check = [&](const char* name, const int64_t* ids, int64_t n, int64_t n_columns) {
    for (int64_t i = 0; i < n * n_columns; ++i) {
      if (ids[i] < 0 || ids[i] >= text.n_rows) {
        refuse<std::out_of_range>("skip_gram_ was given ", name, " ", ids[i], " at position ", i / n_columns,
                                  ", but there are ", text.n_rows, " words; ids count from 0");
      }
    }
  };
  check("word", text.words, text.n_words, 1);
  check("negative", text.negatives, text.n_words, text.n_negatives);
  for (int64_t i = 0; i < text.n_words; ++i) {
    if (text.radius[i] < 0 || text.radius[i] > text.window) {
      refuse<std::invalid_argument>("skip_gram_ needs radius from 0 to window=", text.window, ", got ", text.radius[i],
                                    " at position ", i);
    }
  }
}

Tensor skip_gram_(Tensor embeddings, Tensor weights, Tensor words, Tensor radius, Tensor negatives, Tensor lr,
                  int64_t window, int64_t group, int64_t limit) {
  const SkipGram text =
      torchlayer::check_skip_gram(embeddings, weights, words, radius, negatives, lr, window, group, limit);
  const bool is_double = lr.scalar_type() == torch::headeronly::ScalarType::Double;
  const double rate = is_double ? *lr.const_data_ptr<double>() : *lr.const_data_ptr<float>();
  check_values(text, rate);
  Tensor losses = torch::stable::new_empty(embeddings, {text.n_words});
  if (embeddings.scalar_type() == torch::headeronly::ScalarType::Double) {
    train<double>(text, embeddings.mutable_data_ptr<double>(), weights.mutable_data_ptr<double>(), rate,
                  losses.mutable_data_ptr<double>());
  } else {
    train<float>(text, embeddings.mutable_data_ptr<float>(), weights.mutable_data_ptr<float>(),
                 static_cast<float>(rate), losses.mutable_data_ptr<float>());
  }
  return losses;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(torchlayer, CPU, m) {
  m.impl("skip_gram_", TORCH_BOX(&skip_gram_));
}
