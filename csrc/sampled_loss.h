// What sampled softmax and NCE share on the CPU: the rows that take part, their logits a block at a time, and the way
// back. The loss itself is a function of one row of logits, which sampled_softmax.cpp and nce.cpp supply.
#pragma once

#include "kept_errors.h"
#include "products_avx512.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace torchlayer {

using torch::stable::Tensor;

// Memory is some hundred nanoseconds away: true classes' weights are asked for before a product, as many as its rows,
// and once more, should they have been driven out, some rows before they are used.
constexpr int64_t kAtOnce = 96;
constexpr int64_t kAhead = 4;

// An id of a class whose row another process holds: it has no logit here and no gradient.
constexpr int64_t kElsewhere = -1;

// std::out_of_range and nothing else reaches Python as IndexError.
inline void check_ids(const char* op, const char* argument, const Tensor& ids, int64_t n_classes, int64_t least = 0) {
  const int64_t* id = ids.const_data_ptr<int64_t>();
  const int64_t n_columns = ids.dim() == 2 ? ids.size(1) : 1;
  for (int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] < least || id[i] >= n_classes) {
      throw std::out_of_range(std::string(op) + " needs " + argument + " from " + std::to_string(least) + " to " +
                              std::to_string(n_classes - 1) + ", got " + std::to_string(id[i]) + " in row " + std::to_string(i / n_columns));
    }
  }
}

inline SampledLoss check_sampled_loss(const char* op, const Tensor& weight, const std::optional<Tensor>& bias,
                                      const Tensor& hidden, const Tensor& labels, const Tensor& sampled,
                                      const std::optional<Tensor>& true_expected_count,
                                      const std::optional<Tensor>& sampled_expected_count,
                                      bool remove_accidental_hits, int64_t least_id = 0) {
  SampledLoss loss = check_arguments(op, weight, bias, hidden, labels, sampled, true_expected_count,
                                     sampled_expected_count, remove_accidental_hits);
  check_ids(op, "labels", loss.labels, loss.n_classes, least_id);
  check_ids(op, "sampled ids", loss.sampled, loss.n_classes, least_id);
  return loss;
}

// The sampled rows, the logits of a block of rows after the other, and the gradients.
template <typename scalar_t, typename Products>
class SampledRows {
 public:
  using real = accumulate_t<scalar_t>;
  using Element = typename Products::Element;

  explicit SampledRows(const SampledLoss& loss)
      : loss_(loss),
        weight_(loss.weight.template const_data_ptr<scalar_t>()),
        bias_(loss.bias ? loss.bias->template const_data_ptr<scalar_t>() : nullptr),
        hidden_(loss.hidden.template const_data_ptr<scalar_t>()),
        labels_(loss.labels.template const_data_ptr<int64_t>()),
        row_stride_(loss.weight.stride(0)),
        column_stride_(loss.weight.stride(1)),
        bias_stride_(loss.bias ? loss.bias->stride(0) : 0),
        products_(places(), loss.n_features) {}

  // Calls `visit(row, sampled, truth)` with the K and T corrected logits of every row, -inf for a removed hit and for a
  // class elsewhere, for it to put the errors in their place; it returns the factor that the K errors lack. They are
  // kept where there is room.
  template <typename Visit>
  void forward(const Tensor& bytes, const Visit& visit) {
    prepare_logits();
    const Kept<scalar_t> kept(loss_, bytes);
    const int64_t k = loss_.n_sampled, t = loss_.n_true;
    const auto keep = [&](int64_t i, real* sampled, real* truth) {
      kept.factors[i] = visit(i, sampled, truth);
      std::copy(truth, truth + t, kept.truths + i * t);
      if constexpr (!std::is_same_v<typename Kept<scalar_t>::Stored, real>) {
        store_scaled(kept.errors + i * k, sampled, real(1), k);
      }
    };
    for_each_block(0, kept.n_rows, [&](int64_t first, int64_t n) {
      if constexpr (std::is_same_v<typename Kept<scalar_t>::Stored, real>) {
        for_each_row(first, n, hidden(first, n), kept.errors + first * k, keep);
      } else {
        for_each_row(first, n, hidden(first, n), logits(n), keep);
      }
    });
    for_each_block(kept.n_rows, loss_.n_rows,
                   [&](int64_t first, int64_t n) { for_each_row(first, n, hidden(first, n), logits(n), visit); });
  }

  // The same `visit` again for rows of which nothing is kept. `error(row, logit)` is a sample's error from its logit
  // alone. Returns the gradients of hidden (N, D), and of the rows (K + N * T, D) and biases (K + N * T,) of classes
  // cat(sampled, labels), and those ids.
  template <typename Visit, typename Error>
  std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& bytes, const Visit& visit,
                                                      const Error& error) {
    const int64_t k = loss_.n_sampled, t = loss_.n_true, d = loss_.n_features, rows = k + loss_.n_rows * t;
    const Kept<scalar_t> kept(loss_, bytes);
    // Where a sample is one of a row's labels and stays, its error and the true class's nearly cancel; in sixteen bits
    // that would leave nothing but rounding. These few are left out of the products and added in float32.
    constexpr bool kRounds = !std::is_same_v<Element, real>;
    const bool apart = kRounds && !loss_.remove_accidental_hits;
    if (kept.n_rows < loss_.n_rows || apart) {
      prepare_logits();
    }
    const torch::headeronly::ScalarType stored = loss_.hidden.scalar_type();
    Tensor d_hidden = torchlayer::new_empty(loss_.hidden, std::array{loss_.n_rows, d}, stored);
    Tensor d_rows = torchlayer::new_empty(loss_.hidden, std::array{rows, d}, stored);
    Tensor d_biases = torchlayer::new_empty(loss_.hidden, std::array{rows}, kReal);  // few, so not worth rounding
    Tensor ids = torchlayer::new_empty(loss_.hidden, std::array{rows}, torch::headeronly::ScalarType::Long);
    scalar_t* to_hidden = d_hidden.template mutable_data_ptr<scalar_t>();
    scalar_t* to_rows = d_rows.template mutable_data_ptr<scalar_t>();
    real* to_biases = d_biases.template mutable_data_ptr<real>();
    std::fill(to_biases, to_biases + k, real(0));

    // What is summed over blocks: in place if it is in `real`.
    constexpr bool kInPlace = std::is_same_v<scalar_t, real>;
    const int64_t block = std::min(block_rows(), loss_.n_rows);
    const Scratch<real> row_sums(kInPlace ? 0 : k * d), hidden_sums(kInPlace ? 0 : block * d);
    const Scratch<Element> errors(block * k);
    const Scratch<real> true_errors(block * t);
    real* sums = row_sums.data();
    if constexpr (kInPlace) {
      sums = to_rows;
    }
    if (loss_.n_rows == 0) {
      std::fill(sums, sums + k * d, real(0));
    }

    const real* g = grad.template const_data_ptr<real>();
    std::vector<Hit> hits;
    std::vector<size_t> first_hit;
    const auto backward_block = [&](int64_t first, int64_t n) {
      const Element* h = hidden(first, n);
      if (apart) {
        find_hits(first, n, g, error, hits, first_hit);
      }
      if (first >= kept.n_rows) {
        for_each_row(first, n, h, logits(n), [&](int64_t i, real* sampled, real* truth) {
          const real factor = g[i] * visit(i, sampled, truth);
          store_scaled(errors.data() + (i - first) * k, sampled, factor, k);
          for (int64_t c = 0; c < t; ++c) {
            true_errors.data()[(i - first) * t + c] = g[i] * truth[c];
          }
        });
      }
      real* gradients = hidden_sums.data();
      if constexpr (kInPlace) {
        gradients = to_hidden + first * d;
      }
      const auto finish_errors = [&](int64_t begin, int64_t end) {
        prefetch(first + begin, first + std::min(end, begin + kAtOnce));
        for (int64_t r = begin, i = first + begin; r < end; ++r, ++i) {
          if (i < kept.n_rows) {
            store_scaled(errors.data() + r * k, kept.errors + i * k, g[i] * kept.factors[i], k);
            for (int64_t c = 0; c < t; ++c) {
              true_errors.data()[r * t + c] = g[i] * kept.truths[i * t + c];
            }
          }
          for (size_t at = apart ? first_hit[r] : 0; apart && at < first_hit[r + 1]; ++at) {
            errors.data()[r * k + hits[at].sample] = Element(0);
          }
        }
      };
      const auto finish_rows = [&](int64_t begin, int64_t end) {
        std::vector<scalar_t> scratch(d);
        for (int64_t r = begin; r < end; ++r) {
          const int64_t i = first + r;
          prefetch(i + kAhead, i + kAhead + 1);
          for (size_t at = apart ? first_hit[r] : 0; apart && at < first_hit[r + 1]; ++at) {
            add_scaled(gradients + r * d, row(hits[at].id, scratch.data()), hits[at].error, d);
          }
          for (int64_t c = 0; c < t; ++c) {
            const real error = true_errors.data()[r * t + c];
            const int64_t at = k + i * t + c;
            if (label(i, c) == kElsewhere) {
              std::fill(to_rows + at * d, to_rows + (at + 1) * d, scalar_t(0));
              to_biases[at] = 0;
              continue;
            }
            add_scaled(gradients + r * d, row(label(i, c), scratch.data()), error, d);
            store_scaled(to_rows + at * d, hidden_ + i * d, error, d);
            to_biases[at] = error;
          }
          if constexpr (!kInPlace) {
            store_scaled(to_hidden + i * d, gradients + r * d, real(1), d);
          }
        }
      };
      products_.by_samples(errors.data(), n, gradients, finish_errors, finish_rows);
      products_.by_classes(errors.data(), h, n, sums, first > 0, [&](int64_t begin, int64_t end) {
        for (int64_t r = 0; r < n; ++r) {
          add_scaled(to_biases + begin, errors.data() + r * k + begin, real(1), end - begin);
        }
      });
      for (const Hit& hit : hits) {
        add_scaled(sums + hit.sample * d, hidden_ + hit.row * d, hit.error, d);
        to_biases[hit.sample] += hit.error;
      }
    };
    for_each_block(0, kept.n_rows, backward_block);
    for_each_block(kept.n_rows, loss_.n_rows, backward_block);

    if constexpr (!kInPlace) {
      torch::stable::parallel_for(0, k, std::max<int64_t>(1, kGrain / d), [&](int64_t begin, int64_t end) {
        store_scaled(to_rows + begin * d, sums + begin * d, real(1), (end - begin) * d);
      });
    }
    for (const int64_t j : elsewhere_) {  // where hidden is not finite, its error of zero was not enough
      std::fill(to_rows + j * d, to_rows + (j + 1) * d, scalar_t(0));
    }
    const int64_t* sampled = loss_.sampled.template const_data_ptr<int64_t>();
    std::copy(labels_, labels_ + loss_.n_rows * t, std::copy(sampled, sampled + k, ids.mutable_data_ptr<int64_t>()));
    return {d_hidden, d_rows, d_biases, ids};
  }

 private:
  static constexpr auto kReal = std::is_same_v<real, double> ? torch::headeronly::ScalarType::Double
                                                             : torch::headeronly::ScalarType::Float;

  int64_t label(int64_t i, int64_t c) const { return labels_[i * loss_.n_true + c]; }

  real bias(int64_t id) const { return bias_ ? static_cast<real>(bias_[id * bias_stride_]) : real(0); }

  // The row of a class: where it lies if it can be read there, else copied into `scratch`.
  const scalar_t* row(int64_t id, scalar_t* scratch) const {
    const scalar_t* from = weight_ + id * row_stride_;
    if (column_stride_ == 1) {
      return from;
    }
    for (int64_t f = 0; f < loss_.n_features; ++f) {
      scratch[f] = from[f * column_stride_];
    }
    return scratch;
  }

  // Asks for the first lines of the rows of the true classes of some rows, anywhere in memory; the processor guesses
  // the next ones itself.
  void prefetch(int64_t begin, int64_t end) const {
#ifdef __GNUC__
    const int64_t n_bytes = std::min<int64_t>(loss_.n_features * static_cast<int64_t>(sizeof(scalar_t)), 1024);
    end = column_stride_ == 1 ? std::min(end, loss_.n_rows) : 0;
    for (int64_t at = begin * loss_.n_true; at < end * loss_.n_true; ++at) {
      const char* row = reinterpret_cast<const char*>(weight_ + std::max<int64_t>(labels_[at], 0) * row_stride_);
      for (int64_t byte = 0; byte < n_bytes; byte += 64) {
        __builtin_prefetch(row + byte);
      }
    }
#endif
  }

  // Where the sampled rows can be read as the products take them: in the table if it can be, else in a copy.
  std::vector<const Element*> places() {
    const int64_t k = loss_.n_sampled, d = loss_.n_features;
    const int64_t* ids = loss_.sampled.template const_data_ptr<int64_t>();
    std::vector<const Element*> rows(k);
    if constexpr (std::is_same_v<scalar_t, Element>) {
      if (column_stride_ == 1) {
        for (int64_t j = 0; j < k; ++j) {
          rows[j] = weight_ + std::max<int64_t>(ids[j], 0) * row_stride_;
        }
        return rows;
      }
    }
    gathered_ = Scratch<Element>(k * d);
    torch::stable::parallel_for(0, k, std::max<int64_t>(1, kGrain / d), [&](int64_t begin, int64_t end) {
      std::vector<scalar_t> scratch(d);
      for (int64_t j = begin; j < end; ++j) {
        rows[j] = gathered_.data() + j * d;
        store_scaled(gathered_.data() + j * d, row(std::max<int64_t>(ids[j], 0), scratch.data()), real(1), d);
      }
    });
    return rows;
  }

  // What only logits need: what is added to them, and which samples may be hits.
  void prepare_logits() {
    const int64_t k = loss_.n_sampled;
    const int64_t* ids = loss_.sampled.template const_data_ptr<int64_t>();
    const real* count =
        loss_.sampled_expected_count ? loss_.sampled_expected_count->template const_data_ptr<real>() : nullptr;
    offset_.assign(Products::padded(k), 0);
    for (int64_t j = 0; j < k; ++j) {
      if (ids[j] == kElsewhere) {
        elsewhere_.push_back(j);
      } else {
        offset_[j] = bias(ids[j]) - (count ? std::log(count[j]) : 0);
      }
    }
    size_t n_bits = 64;
    while (n_bits < 16 * static_cast<size_t>(k)) {
      n_bits *= 2;
    }
    may_be_hit_.assign(n_bits / 64, 0);
    for (int64_t j = 0; j < k; ++j) {
      if (ids[j] == kElsewhere) {
        continue;
      }
      positions_.emplace_back(ids[j], j);
      const size_t bit = static_cast<size_t>(ids[j]) & (n_bits - 1);
      may_be_hit_[bit / 64] |= uint64_t(1) << (bit % 64);
    }
    std::sort(positions_.begin(), positions_.end());
  }

  int64_t block_rows() const { return Products::block_rows(loss_.n_sampled, loss_.n_features); }

  // Calls `visit(first, n)` with the rows [first, first + n) of each block of [begin, end).
  template <typename Visit>
  void for_each_block(int64_t begin, int64_t end, const Visit& visit) const {
    for (int64_t first = begin; first < end; first += block_rows()) {
      visit(first, std::min(block_rows(), end - first));
    }
  }

  // The rows [first, first + n) of hidden as the products take them, until the next call.
  const Element* hidden(int64_t first, int64_t n) {
    const int64_t d = loss_.n_features;
    const scalar_t* from = hidden_ + first * d;
    if constexpr (std::is_same_v<scalar_t, Element>) {
      return from;
    } else {
      if (converted_.size() < n * d) {
        converted_ = Scratch<Element>(n * d);
      }
      torch::stable::parallel_for(0, n, std::max<int64_t>(1, kGrain / d), [&](int64_t begin, int64_t end) {
        store_scaled(converted_.data() + begin * d, from + begin * d, real(1), (end - begin) * d);
      });
      return converted_.data();
    }
  }

  // Room for the logits of n rows, until the next call.
  real* logits(int64_t n) {
    if (logits_.size() < n * loss_.n_sampled) {
      logits_ = Scratch<real>(n * loss_.n_sampled);
    }
    return logits_.data();
  }

  // Calls `visit(row, sampled, truth)` with the logits of rows [first, first + n), which lie in z (n, K) and are its
  // own to overwrite.
  template <typename Visit>
  void for_each_row(int64_t first, int64_t n, const Element* hidden, real* z, const Visit& visit) {
    const int64_t k = loss_.n_sampled, t = loss_.n_true, d = loss_.n_features;
    const real* count =
        loss_.true_expected_count ? loss_.true_expected_count->template const_data_ptr<real>() : nullptr;
    const auto ask = [&](int64_t begin, int64_t end) {
      prefetch(first + begin, first + std::min(end, begin + kAtOnce));
    };
    products_.logits(hidden, n, offset_.data(), z, ask, [&](int64_t begin, int64_t end) {
      std::vector<scalar_t> scratch(d);
      std::vector<real> truth(t);
      for (int64_t r = begin; r < end; ++r) {
        const int64_t i = first + r;
        real* sampled = z + r * k;
        prefetch(i + kAhead, i + kAhead + 1);
        if (loss_.remove_accidental_hits) {
          for_each_hit(i, [&](int64_t j) { sampled[j] = -std::numeric_limits<real>::infinity(); });
        }
        for (const int64_t j : elsewhere_) {
          sampled[j] = -std::numeric_limits<real>::infinity();
        }
        for (int64_t c = 0; c < t; ++c) {
          const int64_t id = label(i, c);
          if (id == kElsewhere) {
            truth[c] = -std::numeric_limits<real>::infinity();
            continue;
          }
          truth[c] = dot(hidden_ + i * d, row(id, scratch.data()), d) + bias(id) -
                     (count ? std::log(count[i * t + c]) : 0);
        }
        visit(i, sampled, truth.data());
      }
    });
  }

  // Calls `visit(j)` once for every sample that is one of row i's labels, each of its repetitions included.
  template <typename Visit>
  void for_each_hit(int64_t i, const Visit& visit) const {
    const int64_t* labels = labels_ + i * loss_.n_true;
    for (int64_t c = 0; c < loss_.n_true; ++c) {
      const int64_t id = labels[c];
      if (id == kElsewhere || std::find(labels, labels + c, id) != labels + c) {
        continue;
      }
      const size_t bit = static_cast<size_t>(id) & (64 * may_be_hit_.size() - 1);
      if (may_be_hit_[bit / 64] >> (bit % 64) & 1) {
        auto hit = std::lower_bound(positions_.begin(), positions_.end(), std::make_pair(id, int64_t(0)));
        for (; hit != positions_.end() && hit->first == id; ++hit) {
          visit(hit->second);
        }
      }
    }
  }

  // A sample that is one of a row's labels, and its error.
  struct Hit {
    int64_t row, sample, id;
    real error;
  };

  // All of the rows [first, first + n), those of row first + r from `first_hit[r]` on.
  template <typename Error>
  void find_hits(int64_t first, int64_t n, const real* grad, const Error& error, std::vector<Hit>& hits,
                 std::vector<size_t>& first_hit) const {
    std::vector<scalar_t> scratch(loss_.n_features);
    hits.clear();
    first_hit.assign(1, 0);
    for (int64_t i = first; i < first + n; ++i) {
      for_each_hit(i, [&](int64_t j) {
        const int64_t id = loss_.sampled.template const_data_ptr<int64_t>()[j];
        const real z = dot(hidden_ + i * loss_.n_features, row(id, scratch.data()), loss_.n_features) + offset_[j];
        hits.push_back({i, j, id, grad[i] * error(i, z)});
      });
      first_hit.push_back(hits.size());
    }
  }

  const SampledLoss& loss_;
  const scalar_t* weight_;
  const scalar_t* bias_;
  const scalar_t* hidden_;
  const int64_t* labels_;
  int64_t row_stride_, column_stride_, bias_stride_;
  Scratch<Element> gathered_;
  Products products_;                                   // over the sampled rows (K, D)
  std::vector<real> offset_;                            // (K,): bias - log expected count
  std::vector<std::pair<int64_t, int64_t>> positions_;  // (id, position among the samples), sorted
  std::vector<uint64_t> may_be_hit_;                    // a bit for each id's lowest bits: most labels are no hit
  std::vector<int64_t> elsewhere_;                      // samples whose rows are elsewhere
  Scratch<Element> converted_;                          // hidden of a block
  Scratch<real> logits_;                                // of a block
};

// Calls `body` with the SampledRows for the tensors' type and this processor.
template <typename Body>
void with_sampled_rows(const SampledLoss& loss, const char* op, const Body& body) {
  dispatch_floating(loss.hidden, op, [&](auto zero) {
    using scalar_t = decltype(zero);
    using real = accumulate_t<scalar_t>;
#ifdef TORCHLAYER_HAS_AVX512
    if constexpr (std::is_same_v<real, float>) {
      constexpr bool kBFloat16 = std::is_same_v<scalar_t, BFloat16>;
      if (has_avx512(kBFloat16)) {
        SampledRows<scalar_t, Avx512Products<std::conditional_t<kBFloat16, BFloat16, float>>> rows(loss);
        return body(rows);
      }
    }
#endif
    SampledRows<scalar_t, TorchProducts<real>> rows(loss);
    body(rows);
  });
}

}  // namespace torchlayer
