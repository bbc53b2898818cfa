// A matrix product for processors with AVX-512, in float32 and, where they know it, in bfloat16 with sums in float32:
// the inner loop, and what brings matrices into its order.
//
// A word is a float, or two bfloat16 that follow each other along the axis that is summed over. The inner loop makes a
// tile of 12 x 32 results in registers, from a tile of `a` (12 x 256 words, first-level cache) and a panel of `b`
// (256 x 32 words): 24 multiply-adds for 14 loads.
#pragma once

#include "products.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && __GNUC__ >= 10 && !defined(__clang__)
#define TORCHLAYER_HAS_AVX512
#include <immintrin.h>

#define TORCHLAYER_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")))

namespace torchlayer {

// Whether this processor has it. ATEN_CPU_CAPABILITY, with which torch itself is told to use less, counts here too.
inline bool has_avx512(bool bfloat16) {
  static const bool allowed = [] {
    const char* capability = std::getenv("ATEN_CPU_CAPABILITY");
    return capability == nullptr || std::strcmp(capability, "avx512") == 0;
  }();
  static const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  static const bool pairs = __builtin_cpu_supports("avx512bf16");
  return allowed && wide && (pairs || !bfloat16);
}

namespace avx512 {

constexpr int64_t kTile = 12;                   // rows of `a` in registers
constexpr int64_t kPanel = 32;                  // columns of `b` in registers
constexpr int64_t kDepth = 256;                 // words summed over before the next block
constexpr int64_t kRowStride = kDepth + 16;     // no power of two: twelve rows would share a cache set
constexpr int64_t kPanels = 16;                 // whose 512 KiB stay in the second-level cache
using Word = uint32_t;

template <typename Element>
constexpr int64_t kElements = sizeof(Word) / sizeof(Element);  // in a word

// Where rows lie: one after the other, or anywhere.
template <typename Element>
struct Matrix {
  const Element* first;
  int64_t stride;
  const Element* operator[](int64_t row) const { return first + row * stride; }
};

template <typename Element>
struct Rows {
  const Element* const* at;
  const Element* operator[](int64_t row) const { return at[row]; }
};

inline int64_t n_panels(int64_t n_columns) { return (n_columns + kPanel - 1) / kPanel; }

template <typename Element>
int64_t n_words(int64_t n) {
  return (n + kElements<Element> - 1) / kElements<Element>;
}

inline __mmask32 first(int64_t n) {
  return n >= 32 ? 0xFFFFFFFFu : n > 0 ? (1u << n) - 1 : 0;
}

TORCHLAYER_AVX512 inline __m512 multiply_add(float, const Word* a, __m512 b, __m512 sum) {
  return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*a))), b, sum);
}

TORCHLAYER_AVX512 inline __m512 multiply_add(torch::headeronly::BFloat16, const Word* a, __m512 b, __m512 sum) {
  const __m512i pair = _mm512_set1_epi32(static_cast<int>(*a));
  return _mm512_dpbf16_ps(sum, (__m512bh)pair, (__m512bh)b);
}

// c (n_rows, columns in mask) = start, or c if there is none, + a @ b, for n_rows <= kRows; one step of `a` lies after
// the other, or one row.
template <typename Element, int kRows, bool kBySteps>
TORCHLAYER_AVX512 void multiply_tile(int64_t depth, const Word* a, const Word* b, const float* start, float* c,
                                     int64_t stride, int64_t n_rows, __mmask32 mask) {
  constexpr int64_t kRow = kBySteps ? 1 : kRowStride, kStep = kBySteps ? 16 : 1;
  const __mmask16 low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
  __m512 sum[kRows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    if (start) {
      sum[r][0] = _mm512_loadu_ps(start);
      sum[r][1] = _mm512_loadu_ps(start + 16);
    } else {
      const float* from = c + std::min<int64_t>(r, n_rows - 1) * stride;
      sum[r][0] = _mm512_maskz_loadu_ps(low, from);
      sum[r][1] = _mm512_maskz_loadu_ps(high, from + 16);
    }
  }
#pragma GCC unroll 4
  for (int64_t s = 0; s < depth; ++s) {
    const __m512 b0 = _mm512_load_ps(reinterpret_cast<const float*>(b + s * kPanel));
    const __m512 b1 = _mm512_load_ps(reinterpret_cast<const float*>(b + s * kPanel + 16));
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const Word* word = a + r * kRow + s * kStep;
      sum[r][0] = multiply_add(Element{}, word, b0, sum[r][0]);
      sum[r][1] = multiply_add(Element{}, word, b1, sum[r][1]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    if (r < n_rows) {
      _mm512_mask_storeu_ps(c + r * stride, low, sum[r][0]);
      _mm512_mask_storeu_ps(c + r * stride + 16, high, sum[r][1]);
    }
  }
}

// One tile of `a` with all of some panels; panel p makes the columns from p * kPanel of c.
template <typename Element, bool kBySteps>
TORCHLAYER_AVX512 void multiply_panels(int64_t depth, const Word* a, const Word* panels, int64_t n_columns,
                                       const float* start, int64_t start_step, float* c, int64_t stride,
                                       int64_t n_rows) {
  for (int64_t j = 0; j < n_columns; j += kPanel, panels += depth * kPanel) {
    if (!start && j + kPanel < n_columns) {
      for (int64_t r = 0; r < n_rows; ++r) {  // what the next panel's sums are added to
        _mm_prefetch(reinterpret_cast<const char*>(c + r * stride + j + kPanel), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(c + r * stride + j + kPanel + 16), _MM_HINT_T0);
      }
    }
    const float* from = start ? start + j * start_step : nullptr;
    const __mmask32 mask = first(n_columns - j);
    if (n_rows > 8) {
      multiply_tile<Element, 12, kBySteps>(depth, a, panels, from, c + j, stride, n_rows, mask);
    } else if (n_rows > 4) {
      multiply_tile<Element, 8, kBySteps>(depth, a, panels, from, c + j, stride, n_rows, mask);
    } else {
      multiply_tile<Element, 4, kBySteps>(depth, a, panels, from, c + j, stride, n_rows, mask);
    }
  }
}

// Sixteen words of a row of which `n` elements are left.
TORCHLAYER_AVX512 inline __m512i words_of(const float* at, int64_t n) {
  return _mm512_castps_si512(_mm512_maskz_loadu_ps(static_cast<__mmask16>(first(n)), at));
}

TORCHLAYER_AVX512 inline __m512i words_of(const torch::headeronly::BFloat16* at, int64_t n) {
  return _mm512_maskz_loadu_epi16(first(n), at);
}

// Sixteen words of one step, from column j: of row `s`, or of two rows, the second of which may not be there.
template <template <typename> typename Source>
TORCHLAYER_AVX512 inline __m512i step_of(const Source<float>& rows, int64_t j, int64_t s, int64_t, __mmask16 mask) {
  return _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, rows[s] + j));
}

template <template <typename> typename Source>
TORCHLAYER_AVX512 inline __m512i step_of(const Source<torch::headeronly::BFloat16>& rows, int64_t j, int64_t s,
                                         int64_t n_rows, __mmask16 mask) {
  const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, rows[2 * s] + j));
  if (2 * s + 1 == n_rows) {
    return even;
  }
  const __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, rows[2 * s + 1] + j));
  return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

// Steps [first_step, first_step + n_steps) of columns [begin, end), as panels; some at a time, since memory is read
// fastest along rows.
template <template <typename> typename Source, typename Element>
TORCHLAYER_AVX512 void pack_steps(const Source<Element>& rows, int64_t n_rows, int64_t begin, int64_t end,
                                  int64_t first_step, int64_t n_steps, Word* panels) {
  constexpr int64_t kColumns = 4 * kPanel;
  for (int64_t from = begin; from < end; from += kColumns, panels += n_steps * kColumns) {
    const int64_t n_columns = std::min(kColumns, end - from);
    for (int64_t s = 0; s < n_steps; ++s) {
      for (int64_t j = 0; j < n_columns; j += kPanel) {
        const __mmask32 mask = first(n_columns - j);
        const __mmask16 low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
        Word* to = panels + j * n_steps + s * kPanel;
        _mm512_store_si512(to, step_of(rows, from + j, first_step + s, n_rows, low));
        _mm512_store_si512(to + 16, high ? step_of(rows, from + j + 16, first_step + s, n_rows, high)
                                         : _mm512_setzero_si512());
      }
    }
  }
}

// Turns sixteen rows of sixteen words into columns: pairs, quadruples, then quarters of registers.
TORCHLAYER_AVX512 inline void transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

// Panel p (n_steps, 32) of the transposed rows: steps from `first_step`, of rows from p * 32.
template <typename Element>
TORCHLAYER_AVX512 void pack_transposed(const Rows<Element>& rows, int64_t n_rows, int64_t n_columns, int64_t first_step,
                                       int64_t n_steps, int64_t p, Word* panel) {
  for (int64_t half = 0; half < kPanel; half += 16) {
    for (int64_t s = 0; s < n_steps; s += 16) {
      const int64_t at = (first_step + s) * kElements<Element>;
      __m512i block[16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t row = p * kPanel + half + i;
        block[i] = row < n_rows ? words_of(rows[row] + at, n_columns - at) : _mm512_setzero_si512();
      }
      transpose(block);
      for (int64_t i = 0; i < std::min<int64_t>(16, n_steps - s); ++i) {
        _mm512_store_si512(panel + (s + i) * kPanel + half, block[i]);
      }
    }
  }
}

// c (end - begin rows, n_columns) = start + a @ b, b packed in blocks of kDepth steps of all panels.
template <typename Element>
TORCHLAYER_AVX512 void multiply_rows(const Element* a, int64_t depth, int64_t begin, int64_t end, const Word* panels,
                                     int64_t n_columns, const float* start, int64_t start_step, float* c) {
  alignas(64) Word tile[kTile * kRowStride];
  const int64_t steps = n_words<Element>(depth);
  for (int64_t s = 0; s < steps; s += kDepth) {
    const int64_t n_steps = std::min(kDepth, steps - s);
    for (int64_t j = 0; j < n_columns; j += kPanels * kPanel) {
      const int64_t n = std::min(kPanels * kPanel, n_columns - j);
      for (int64_t i = begin; i < end; i += kTile) {
        const int64_t n_rows = std::min(kTile, end - i);
        for (int64_t r = 0; r < kTile; ++r) {
          const Element* row = a + (i + std::min(r, n_rows - 1)) * depth;
          for (int64_t w = 0; w < n_steps; w += 16) {
            const int64_t at = (s + w) * kElements<Element>;
            _mm512_store_si512(tile + r * kRowStride + w, words_of(row + at, depth - at));
          }
        }
        multiply_panels<Element, false>(n_steps, tile, panels + j * n_steps, n,
                                        s == 0 ? start + j * start_step : nullptr, start_step,
                                        c + i * n_columns + j, n_columns, n_rows);
      }
    }
    panels += n_steps * n_panels(n_columns) * kPanel;
  }
}

// c (K, D), rows [k_begin, k_end) and columns [d_begin, d_end), = start or c + e.T @ h.
template <typename Element>
TORCHLAYER_AVX512 void multiply_columns(const Element* e, int64_t k, const Element* h, int64_t d, int64_t n,
                                        int64_t k_begin, int64_t k_end, int64_t d_begin, int64_t d_end,
                                        const float* start, float* c) {
  constexpr int64_t kTiles = 4;  // made at once, so that whole cache lines of e are read
  alignas(64) Word tiles[kTiles][kDepth * 16];
  const int64_t steps = n_words<Element>(n);
  const int64_t most = std::min(kPanels, n_panels(d_end - d_begin)) * kPanel;
  const Scratch<Word> panels(most * std::min(kDepth, steps));
  const Matrix<Element> errors{e, k}, hidden{h, d};
  for (int64_t s = 0; s < steps; s += kDepth) {
    const int64_t n_steps = std::min(kDepth, steps - s);
    for (int64_t j = d_begin; j < d_end; j += most) {
      const int64_t n_columns = std::min(most, d_end - j);
      pack_steps(hidden, n, j, j + n_columns, s, n_steps, panels.data());
      for (int64_t from = k_begin; from < k_end; from += kTiles * kTile) {
        const int64_t to = std::min(k_end, from + kTiles * kTile);
        for (int64_t at = 0; at < n_steps; ++at) {
          for (int64_t i = from, tile = 0; i < to; i += kTile, ++tile) {
            const __mmask16 mask = static_cast<__mmask16>(first(std::min(kTile, to - i)));
            _mm512_store_si512(tiles[tile] + at * 16, step_of(errors, i, s + at, n, mask));
          }
        }
        for (int64_t i = from, tile = 0; i < to; i += kTile, ++tile) {
          multiply_panels<Element, true>(n_steps, tiles[tile], panels.data(), n_columns, s == 0 ? start : nullptr, 0,
                                         c + i * d + j, d, std::min(kTile, to - i));
        }
      }
    }
  }
}

}  // namespace avx512
}  // namespace torchlayer
#endif
