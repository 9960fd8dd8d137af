// The body of the CPU kernel of instance masks, and what resizes rows for other kernels, too; see
// vectors.h.
//
// Each band of rows of a mask goes from logits to bits through a few rows at a time, which stay in
// the first-level cache. Where no logit near a pixel is above 0, it is outside the mask: a sum with
// shares that are not negative cannot be above 0 then, and rows and columns without any are
// skipped.

#pragma once

#include "instance_masks.h"
#include "vectors.h"

namespace mask2former {
namespace MASK2FORMER_ISA {
namespace {

using Floats = Vector<float, kLanes<float>>;
constexpr int kFloats = kLanes<float>;
constexpr int64_t kBlock = 64;  // pixels; a multiple of all vectors

MASK2FORMER_INLINE Floats broadcast(float x) { return Floats{} + x; }

// a * x + b * y, rounded as PyTorch's own kernels for this instruction set do it.
MASK2FORMER_INLINE Floats mixed(const Floats& a, const Floats& x, const Floats& b,
                                const Floats& y) {
#if defined(MASK2FORMER_F16C) && MASK2FORMER_VECTOR_BYTES == 64
  return bits_as<Floats>(
      _mm512_fmadd_ps(bits_as<__m512>(a), bits_as<__m512>(x), bits_as<__m512>(b * y)));
#elif defined(MASK2FORMER_F16C) && MASK2FORMER_VECTOR_BYTES == 32
  return bits_as<Floats>(
      _mm256_fmadd_ps(bits_as<__m256>(a), bits_as<__m256>(x), bits_as<__m256>(b * y)));
#else
  return a * x + b * y;
#endif
}

// e^-x for x >= 0, to about one rounding; of other numbers, NaN too, some number in [0, 1].
MASK2FORMER_INLINE Floats exp_of_minus(const Floats& positive) {
  using Ints = Vector<int32_t, kFloats>;
  const Floats limit = broadcast(87.0f), least = positive > Floats{} ? positive : Floats{};
  const Floats x = -(least < limit ? least : limit);
  // x = n ln 2 + r, |r| <= ln 2 / 2; adding and subtracting 1.5 * 2^23 rounds to an integer.
  const Floats magic = broadcast(12582912.0f);
  const Floats shifted = x * 1.44269504f + magic;
  const Floats n = shifted - magic;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats sum = r * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * r + 8.3334519073e-3f;
  sum = sum * r + 4.1665795894e-2f;
  sum = sum * r + 1.6666665459e-1f;
  sum = sum * r + 5.0000001201e-1f;
  sum = sum * (r * r) + r + 1.0f;
  const Ints exponent = __builtin_convertvector(n, Ints) + 127;
  return sum * bits_as<Floats>(exponent << 23);
}

MASK2FORMER_INLINE float total(const Floats& x) {
  float sum = 0;
  for (int i = 0; i < kFloats; ++i) sum += x[i];
  return sum;
}

MASK2FORMER_INLINE bool any_above_zero(const float* p, int64_t count) {
  using Ints = Vector<int32_t, kFloats>;
  Ints found{};
  int64_t i = 0;
  for (; i + kFloats <= count; i += kFloats) found |= load_vector(p + i) > Floats{};
  bool any = false;
  for (; i < count; ++i) any |= p[i] > 0;
  uint64_t words[sizeof(found) / 8], joined = 0;
  std::memcpy(words, &found, sizeof(found));
  for (uint64_t word : words) joined |= word;
  return any || joined;
}

template <typename T>
MASK2FORMER_INLINE void convert_row(const T* row, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = load(row + i);
}

// A row of logits as floats, in exactly `w` of them, or a pointer to where they already are.
MASK2FORMER_INLINE const float* row_of_logits(const InstanceMasksProblem& p, int64_t query,
                                              int64_t row, float* memory) {
  const int64_t first = (query * p.h + row) * p.w;
  if (p.type == Type::kFloat) return static_cast<const float*>(p.logits) + first;
  if (p.type == Type::kBFloat16) {
    convert_row(static_cast<const BFloat16*>(p.logits) + first, p.w, memory);
  } else {
    convert_row(static_cast<const Half*>(p.logits) + first, p.w, memory);
  }
  return memory;
}

struct Range {
  int64_t begin, end;
};

// The outputs of an axis that have a share of an input in `range`. They are contiguous.
MASK2FORMER_INLINE Range outputs_of(const Axis& axis, const Range& range) {
  const auto first_with = [&](const int32_t* table, int64_t least) {
    int64_t low = 0, high = axis.outputs;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (table[middle] < least)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  return {first_with(axis.next, range.begin), first_with(axis.at, range.end)};
}

// Up to whole blocks. The tables' padding lets the last one be computed as a whole.
MASK2FORMER_INLINE Range in_blocks(const Range& range) {
  return {range.begin / kBlock * kBlock, (range.end + kBlock - 1) / kBlock * kBlock};
}

// What `resize_row` wants behind a row.
MASK2FORMER_INLINE void pad_row(float* row, int64_t count) {
  for (int i = 0; i <= kFloats; ++i) row[count + i] = row[count - 1];
}

// Resize a row along x. The outputs are whole blocks; behind the inputs of the row are as many
// copies of the last one as a vector has lanes, and one.
MASK2FORMER_INLINE void resize_row(const Axis& axis, const float* row, const Range& outputs,
                                   float* to) {
  int64_t i = outputs.begin;
#if defined(MASK2FORMER_F16C) && MASK2FORMER_VECTOR_BYTES >= 32
  if (axis.narrow) {
    for (; i < outputs.end; i += kFloats) {
      const float* base = row + axis.at[i];
#if MASK2FORMER_VECTOR_BYTES == 64
      const __m512i at =
          _mm512_sub_epi32(_mm512_loadu_si512(axis.at + i), _mm512_set1_epi32(axis.at[i]));
      const auto here = _mm512_maskz_permutexvar_ps(0xffff, at, _mm512_loadu_ps(base));
      const auto there = _mm512_maskz_permutexvar_ps(0xffff, at, _mm512_loadu_ps(base + 1));
#else
      const __m256i at =
          _mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(axis.at + i)),
                           _mm256_set1_epi32(axis.at[i]));
      const auto here = _mm256_permutevar8x32_ps(_mm256_loadu_ps(base), at);
      const auto there = _mm256_permutevar8x32_ps(_mm256_loadu_ps(base + 1), at);
#endif
      store_vector(to + i, mixed(bits_as<Floats>(here), load_vector(axis.share + i),
                                 bits_as<Floats>(there), load_vector(axis.next_share + i)));
    }
    return;
  }
#endif
  for (; i < outputs.end; i += kFloats) {
    Floats here, there;
    for (int lane = 0; lane < kFloats; ++lane) {
      here[lane] = row[axis.at[i + lane]];
      there[lane] = row[axis.next[i + lane]];
    }
    store_vector(to + i,
                 mixed(here, load_vector(axis.share + i), there, load_vector(axis.next_share + i)));
  }
}

// What the rows of a band are made of: rows that were resized along x already, kept as long as
// they are needed. Consecutive rows have places of their own.
struct KeptRows {
  float* rows[2];
  int64_t kept[2] = {-1, -1};

  // The place of a row, which `make` fills if another one is there.
  template <typename Make>
  MASK2FORMER_INLINE const float* get(int64_t row, const Make& make) {
    if (kept[row & 1] != row) {
      make(row, rows[row & 1]);
      kept[row & 1] = row;
    }
    return rows[row & 1];
  }
};

// The last step: a row of the mask, of rows above and below. Adds to the band's result.
MASK2FORMER_INLINE void threshold_row(const float* above, float above_share, const float* below,
                                      float below_share, const Range& blocks, int64_t W,
                                      uint64_t* columns, uint8_t* mask, int64_t& area,
                                      double& probability) {
  const Floats share = broadcast(above_share), next_share = broadcast(below_share);
  Floats sum{};
  for (int64_t x = blocks.begin; x < blocks.end; x += kBlock) {
    Floats values[kBlock / kFloats];
    alignas(64) uint8_t bytes[kBlock];
#pragma GCC unroll 16
    for (int v = 0; v < kBlock / kFloats; ++v) {
      values[v] = mixed(load_vector(above + x + v * kFloats), share,
                        load_vector(below + x + v * kFloats), next_share);
      const auto inside =
          __builtin_convertvector((values[v] > Floats{}) & 1, Vector<uint8_t, kFloats>);
      std::memcpy(bytes + v * kFloats, &inside, kFloats);
    }
    const int64_t width = W - x < kBlock ? W - x : kBlock;
    if (width < kBlock) std::memset(bytes + width, 0, kBlock - width);
    uint64_t words[kBlock / 8], joined = 0;
    std::memcpy(words, bytes, kBlock);
    for (uint64_t word : words) joined |= word;
    if (width == kBlock) {
      std::memcpy(mask + x, bytes, kBlock);
    } else {
      std::memcpy(mask + x, bytes, width);
    }
    if (!joined) continue;
    uint64_t counts = 0;  // of each byte
    for (int word = 0; word < kBlock / 8; ++word) {
      columns[x / 8 + word] |= words[word];
      counts += words[word];
    }
    area += (counts * 0x0101010101010101u) >> 56;
#pragma GCC unroll 16
    for (int v = 0; v < kBlock / kFloats; ++v) {
      Vector<uint8_t, kFloats> narrow;
      std::memcpy(&narrow, bytes + v * kFloats, kFloats);
      const auto inside = __builtin_convertvector(narrow, Vector<int32_t, kFloats>) != 0;
      const Floats p = 1.0f / (1.0f + exp_of_minus(values[v]));
      sum += inside ? p : Floats{};
    }
  }
  probability += total(sum);
}

class Band {
 public:
  Band(const InstanceMasksProblem& p, int64_t item, float* scratch)
      : p_(p),
        query_(p.queries[item / p.bands]),
        mask_(p.masks[item / p.bands]),
        result_(p.results[item]) {
    const int64_t size = scratch_of(p) / 8;
    row_ = scratch;
    mixed_ = scratch + size;
    columns_ = reinterpret_cast<uint64_t*>(scratch + 2 * size);
    once_.rows[0] = scratch + 3 * size;
    once_.rows[1] = scratch + 4 * size;
    twice_.rows[0] = scratch + 5 * size;
    twice_.rows[1] = scratch + 6 * size;
    begin_ = item % p.bands * p.band_rows;
    end_ = p.H - begin_ < p.band_rows ? p.H : begin_ + p.band_rows;
  }

  MASK2FORMER_INLINE void work() {
    result_ = BandResult{};
    if (!find_columns()) {
      std::memset(mask_ + begin_ * p_.W, 0, (end_ - begin_) * p_.W);
      return;
    }
    std::memset(columns_ + blocks_.begin / 8, 0, blocks_.end - blocks_.begin);
    const int64_t drawn = blocks_.end < p_.W ? blocks_.end : p_.W;
    const Axis& rows = p_.rows[p_.twice];
    for (int64_t y = begin_; y < end_; ++y) {
      uint8_t* mask = mask_ + y * p_.W;
      std::memset(mask, 0, blocks_.begin);
      std::memset(mask + drawn, 0, p_.W - drawn);
      const int64_t before = result_.area;
      const float* above = row(rows.at[y]);
      const float* below = row(rows.next[y]);
      threshold_row(above, rows.share[y], below, rows.next_share[y], blocks_, p_.W, columns_, mask,
                    result_.area, result_.probability);
      if (result_.area > before) {
        if (before == 0) result_.y0 = y;
        result_.y1 = y + 1;
      }
    }
    if (result_.area > 0) {
      const auto* hits = reinterpret_cast<const uint8_t*>(columns_);
      result_.x0 = blocks_.begin;
      result_.x1 = drawn;
      while (!hits[result_.x0]) ++result_.x0;
      while (!hits[result_.x1 - 1]) --result_.x1;
    }
  }

 private:
  // Find which columns can have pixels of the mask; none if there are none.
  MASK2FORMER_INLINE bool find_columns() {
    Range rows{begin_, end_};
    if (p_.twice) rows = inputs_of(p_.rows[1], rows);
    rows = inputs_of(p_.rows[0], rows);
    Range found{p_.w, 0};
    constexpr int64_t kStep = 16;
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const float* row = row_of_logits(p_, query_, r, row_);
      if (found.begin >= found.end && !any_above_zero(row, p_.w)) continue;
      int64_t x = 0;
      while (x < found.begin) {
        const int64_t count = found.begin - x < kStep ? found.begin - x : kStep;
        if (any_above_zero(row + x, count)) {
          found.begin = x;
          break;
        }
        x += count;
      }
      x = p_.w;
      while (x > found.end) {
        const int64_t count = x - found.end < kStep ? x - found.end : kStep;
        if (any_above_zero(row + x - count, count)) {
          found.end = x;
          break;
        }
        x -= count;
      }
    }
    if (found.begin >= found.end) return false;
    Range columns = outputs_of(p_.columns[0], found);
    if (columns.begin >= columns.end) return false;
    once_columns_ = blocks_ = in_blocks(columns);
    if (p_.twice) {
      columns = outputs_of(p_.columns[1], columns);
      if (columns.begin >= columns.end) return false;
      blocks_ = in_blocks(columns);
      const int64_t end = blocks_.end < p_.W ? blocks_.end : p_.W;
      once_columns_ = in_blocks(inputs_of(p_.columns[1], {blocks_.begin, end}));
    }
    return true;
  }

  static MASK2FORMER_INLINE Range inputs_of(const Axis& axis, const Range& outputs) {
    return {axis.at[outputs.begin], int64_t{axis.next[outputs.end - 1]} + 1};
  }

  // A row of what the last step mixes: resized once, or twice but for the mixing of rows.
  MASK2FORMER_INLINE const float* row(int64_t number) {
    if (!p_.twice) return row_resized_once(number);
    return twice_.get(number, [&](int64_t n, float* to) {
      const Axis& rows = p_.rows[0];
      const float *above = row_resized_once(rows.at[n]), *below = row_resized_once(rows.next[n]);
      const Floats share = broadcast(rows.share[n]), next_share = broadcast(rows.next_share[n]);
      for (int64_t x = once_columns_.begin; x < once_columns_.end; x += kFloats) {
        store_vector(mixed_ + x,
                     mixed(load_vector(above + x), share, load_vector(below + x), next_share));
      }
      pad_row(mixed_, p_.columns[0].outputs);
      resize_row(p_.columns[1], mixed_, blocks_, to);
    });
  }

  MASK2FORMER_INLINE const float* row_resized_once(int64_t number) {
    return once_.get(number, [&](int64_t n, float* to) {
      const float* logits = row_of_logits(p_, query_, n, row_);
      if (logits != row_) std::memcpy(row_, logits, p_.w * sizeof(float));
      pad_row(row_, p_.w);
      resize_row(p_.columns[0], row_, once_columns_, to);
    });
  }

  const InstanceMasksProblem& p_;
  const int64_t query_;
  uint8_t* const mask_;
  BandResult& result_;
  float *row_, *mixed_;
  uint64_t* columns_;  // one byte per column: whether it has a pixel
  KeptRows once_, twice_;
  int64_t begin_, end_;       // rows
  Range blocks_{0, 0};        // columns of the mask
  Range once_columns_{0, 0};  // columns after the first resizing
};

void instance_masks(const InstanceMasksProblem& p, int64_t begin, int64_t end, float* scratch) {
  for (int64_t item = begin; item < end; ++item) Band(p, item, scratch).work();
}

}  // namespace

InstanceMasksKernel instance_masks_kernel() { return instance_masks; }

}  // namespace MASK2FORMER_ISA
}  // namespace mask2former
