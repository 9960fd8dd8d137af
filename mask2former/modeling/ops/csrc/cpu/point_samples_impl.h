// The bodies of the CPU kernels that sample maps at points; see vectors.h.

#include "point_samples.h"
#include "vectors.h"

namespace mask2former {
namespace MASK2FORMER_ISA {
namespace {

using Reals16 = Reals<float>;
using Ints16 = Ints<float>;

// Sixteen points on one axis: a pixel, and the shares of it and of the next one. At a border, one
// of the two is outside and has no share; the pair is then the nearest one that exists. An axis of
// a single pixel has no next one, and its share is 0.
struct Pairs {
  Ints16 first;
  Reals16 share[2];
};

// By the arithmetic of torch.nn.functional.grid_sample with align_corners=False. Of `size` pixels,
// the first `stored` exist; the others are zeros, as is what is around them.
MASK2FORMER_INLINE Pairs pairs_on_axis(const Reals16& points, int64_t size, int64_t stored) {
  const Reals16 zero{}, one = zero + 1.0f;
  Reals16 place = ((2.0f * points - 1.0f) + 1.0f) * (0.5f * static_cast<float>(size)) - 0.5f;
  const float most = static_cast<float>(size) + 1.0f;
  place = place > -2.0f ? place : zero - 2.0f;  // NaN, too
  place = place < most ? place : zero + most;
  Ints16 before = __builtin_convertvector(place, Ints16);
  before += place < __builtin_convertvector(before, Reals16);  // true is -1: round down, not to 0
  const Reals16 after_share = place - __builtin_convertvector(before, Reals16);
  const Ints16 none{}, last = none + static_cast<int32_t>(stored - 1);
  const Ints16 after = before + 1;
  const Reals16 shares[2] = {((before >= none) & (before <= last)) ? one - after_share : zero,
                             ((after >= none) & (after <= last)) ? after_share : zero};
  const Ints16 most_first = stored > 1 ? last - 1 : none;
  Ints16 first = before > none ? before : none;
  first = first < most_first ? first : most_first;
  // Before the first pixel, the first of the pair is the point's second, and so on.
  return {first,
          {first == before  ? shares[0]
           : first == after ? shares[1]
                            : zero,
           stored == 1           ? zero
           : first + 1 == before ? shares[0]
           : first + 1 == after  ? shares[1]
                                 : zero}};
}

// Sixteen points: where their four pixels are and the share of each.
struct Located {
  alignas(64) int32_t offset[kChunk];  // of the first pixel
  Reals16 share[4];                    // by number: bit 0 is the next column, bit 1 the next row
};

// Locate the points of a row from `first`; beyond the last one they are some points.
MASK2FORMER_INLINE Located located(const PointSamples& p, int64_t row, int64_t first) {
  const float* points = p.points + 2 * ((p.shared ? 0 : row * p.P) + first);
  float last[2 * kChunk];
  if (p.P - first < kChunk) {
    std::memset(last, 0, sizeof(last));
    std::memcpy(last, points, 2 * (p.P - first) * sizeof(float));
    points = last;
  }
  Reals16 x, y;
  load_points<float>(points, x, y);
  const Pairs columns = pairs_on_axis(x, p.width, p.W), rows = pairs_on_axis(y, p.height, p.H);
  Located found;
  const Ints16 offset = rows.first * static_cast<int32_t>(p.W) + columns.first;
  std::memcpy(found.offset, &offset, sizeof(offset));
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) found.share[c] = rows.share[c >> 1] * columns.share[c & 1];
  return found;
}

template <typename T>
MASK2FORMER_INLINE Reals16 sampled(const Located& points, const T* map, int64_t right,
                                   int64_t below) {
  alignas(64) float corners[4][kChunk];
  for (int i = 0; i < kChunk; ++i) {
    const T* pixel = map + points.offset[i];
    corners[0][i] = load(pixel);
    corners[1][i] = load(pixel + right);
    corners[2][i] = load(pixel + below);
    corners[3][i] = load(pixel + below + right);
  }
  Reals16 sum{};
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    Reals16 corner;
    std::memcpy(&corner, corners[c], sizeof(corner));
    // Infinite numbers do not matter where they have no share.
    sum += points.share[c] == Reals16{} ? Reals16{} : points.share[c] * corner;
  }
  return sum;
}

MASK2FORMER_INLINE void store_samples(const Reals16& samples, float* to, int64_t left) {
  if (left >= kChunk) {
    std::memcpy(to, &samples, sizeof(samples));
  } else {
    std::memcpy(to, &samples, left * sizeof(float));
  }
}

// Offsets of a pixel's neighbours in a map: to the right, and below.
MASK2FORMER_INLINE int64_t step_right(const PointSamples& p) { return p.W > 1; }
MASK2FORMER_INLINE int64_t step_below(const PointSamples& p) { return p.H > 1 ? p.W : 0; }

template <typename T>
void sample_maps_of(const PointSamples& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* map = static_cast<const T*>(p.maps) + p.of[row] * p.H * p.W;
    for (int64_t i = 0; i < p.P; i += kChunk) {
      store_samples(sampled(located(p, row, i), map, step_right(p), step_below(p)),
                    p.samples + row * p.P + i, p.P - i);
    }
  }
}

void sample_maps(const PointSamples& p, int64_t begin, int64_t end) {
  if (p.type == Type::kFloat) return sample_maps_of<float>(p, begin, end);
  if (p.type == Type::kBFloat16) return sample_maps_of<BFloat16>(p, begin, end);
  sample_maps_of<Half>(p, begin, end);
}

// The four bytes around each of sixteen points, as the bytes of a number.
MASK2FORMER_INLINE Ints16 bytes_around(const Located& points, const uint8_t* plane, int64_t right,
                                       int64_t below) {
  alignas(64) uint32_t bytes[kChunk];
  for (int i = 0; i < kChunk; ++i) {
    const uint8_t* pixel = plane + points.offset[i];
    bytes[i] = pixel[0] | pixel[right] << 8 | pixel[below] << 16 |
               static_cast<uint32_t>(pixel[below + right]) << 24;
  }
  Ints16 result;
  std::memcpy(&result, bytes, sizeof(result));
  return result;
}

MASK2FORMER_INLINE Reals16 samples_of_bit(const Located& points, const Ints16& bytes, int bit) {
  Reals16 sum{};
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    sum += (bytes & static_cast<int32_t>(1u << (8 * c + bit))) != 0 ? points.share[c] : Reals16{};
  }
  return sum;
}

void sample_bits(const PointSamples& p, int64_t begin, int64_t end) {
  const int64_t right = step_right(p), below = step_below(p);
  for (int64_t row = begin; row < end;) {
    const int64_t plane = p.of[row] / 8;
    const uint8_t* bytes = p.planes + plane * p.H * p.W;
    // Rows that share their points and the plane, too, are done together.
    int64_t next = row + 1;
    while (p.shared && next < end && p.of[next] / 8 == plane) ++next;
    for (int64_t i = 0; i < p.P; i += kChunk) {
      const Located points = located(p, row, i);
      const Ints16 around = bytes_around(points, bytes, right, below);
      for (int64_t r = row; r < next; ++r) {
        store_samples(samples_of_bit(points, around, p.of[r] % 8), p.samples + r * p.P + i,
                      p.P - i);
      }
    }
    row = next;
  }
}

void backward_of_samples(const PointSamples& p, int64_t begin, int64_t end) {
  const int64_t right = step_right(p), below = step_below(p);
  for (int64_t q = begin; q < end; ++q) {
    float* map = p.grad_maps + q * p.H * p.W;
    std::memset(map, 0, p.H * p.W * sizeof(float));
    for (int64_t r = p.starts[q]; r < p.starts[q + 1]; ++r) {
      const int64_t row = p.rows[r];
      for (int64_t i = 0; i < p.P; i += kChunk) {
        const Located points = located(p, row, i);
        const int64_t count = p.P - i < kChunk ? p.P - i : kChunk;
        Reals16 grad{};
        std::memcpy(&grad, p.grad_samples + row * p.P + i, count * sizeof(float));
        alignas(64) float shares[4][kChunk];
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) {
          const Reals16 share = points.share[c] == Reals16{} ? Reals16{} : points.share[c] * grad;
          std::memcpy(shares[c], &share, sizeof(share));
        }
        for (int64_t point = 0; point < count; ++point) {
          float* pixel = map + points.offset[point];
          pixel[0] += shares[0][point];
          pixel[right] += shares[1][point];
          pixel[below] += shares[2][point];
          pixel[below + right] += shares[3][point];
        }
      }
    }
  }
}

// The digit at which `wanted` of those that are counted are reached, and how many have smaller
// ones.
MASK2FORMER_INLINE uint32_t digit_at(const uint32_t* counts, int64_t wanted, int64_t& smaller) {
  uint32_t digit = 0;
  for (smaller = 0; smaller + counts[digit] < wanted; ++digit) smaller += counts[digit];
  return digit;
}

// The key of which `wanted` of P keys are reached when they are in order. Returns how many of those
// that are equal to it are among them. `memory` has a place more than there are keys.
//
// Its three digits, of 11, 11 and 9 bits, are found one after the other.
MASK2FORMER_INLINE int64_t find_threshold(const uint32_t* keys, int64_t P, int64_t wanted,
                                          uint32_t* memory, uint32_t& threshold) {
  constexpr int kDigits = 2048;
  // Two counts, since adding to the same number twice in a row takes long.
  uint32_t counts[kDigits] = {}, odd_counts[kDigits] = {};
  int64_t k = 0;
  for (; k + 1 < P; k += 2) {
    ++counts[keys[k] >> 20];
    ++odd_counts[keys[k + 1] >> 20];
  }
  if (k < P) ++counts[keys[k] >> 20];
  for (int i = 0; i < kDigits; ++i) counts[i] += odd_counts[i];
  int64_t smaller;
  uint32_t digit = digit_at(counts, wanted, smaller);
  wanted -= smaller;
  threshold = digit << 20;
  int64_t left = 0;
  for (k = 0; k < P; ++k) {
    memory[left] = keys[k];  // the next one overwrites it if it has another digit
    left += keys[k] >> 20 == digit;
  }
  std::memset(counts, 0, sizeof(counts));
  for (k = 0; k < left; ++k) ++counts[memory[k] >> 9 & 2047];
  digit = digit_at(counts, wanted, smaller);
  wanted -= smaller;
  threshold |= digit << 9;
  std::memset(counts, 0, sizeof(counts));
  for (k = 0; k < left; ++k) counts[memory[k] & 511] += memory[k] >> 9 == threshold >> 9;
  threshold |= digit_at(counts, wanted, smaller);
  return wanted - smaller;
}

template <typename T>
void choose_of(const PointSamples& p, int64_t begin, int64_t end, uint32_t* keys) {
  if (p.chosen == 0) return;
  for (int64_t row = begin; row < end; ++row) {
    const T* map = static_cast<const T*>(p.maps) + p.of[row] * p.H * p.W;
    for (int64_t i = 0; i < p.P; i += kChunk) {
      const Reals16 samples = sampled(located(p, row, i), map, step_right(p), step_below(p));
      // The bits of numbers that are not negative are ordered as they are, NaN behind them all.
      const Ints16 bits = bits_as<Ints16>(samples) & 0x7fffffff;
      std::memcpy(keys + i, &bits, (p.P - i < kChunk ? p.P - i : kChunk) * sizeof(uint32_t));
    }
    uint32_t threshold;
    int64_t equals = find_threshold(keys, p.P, p.chosen, keys + p.P, threshold);
    const float* point = p.points + (p.shared ? 0 : 2 * row * p.P);
    float* to = p.chosen_points + 2 * row * p.chosen;
    float* const done = to + 2 * p.chosen;
    for (const uint32_t* key = keys; to < done; ++key, point += 2) {
      const bool equal = *key == threshold;
      std::memcpy(to, point, 2 * sizeof(float));  // the next one overwrites it if it is not chosen
      to += 2 * (*key < threshold || (equal && equals > 0));
      equals -= equal;
    }
  }
}

void choose(const PointSamples& p, int64_t begin, int64_t end, uint32_t* keys) {
  if (p.type == Type::kFloat) return choose_of<float>(p, begin, end, keys);
  if (p.type == Type::kBFloat16) return choose_of<BFloat16>(p, begin, end, keys);
  choose_of<Half>(p, begin, end, keys);
}

}  // namespace

PointKernels point_kernels() { return {sample_maps, sample_bits, backward_of_samples, choose}; }

}  // namespace MASK2FORMER_ISA
}  // namespace mask2former
