// The bodies of the CPU kernels of multi-scale deformable attention; see vectors.h.

#include "kernels.h"
#include "vectors.h"

namespace mask2former {
namespace MASK2FORMER_ISA {
namespace {

// The sums of four vectors.
template <typename C, int N>
MASK2FORMER_INLINE Vector<C, 4> sums_of(const Vector<C, N>* v) {
  Vector<C, 4> sums;
  if constexpr (N == 16) {
    const auto halves = [](auto a, auto b) {
      return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30,
                                     31);
    };
    const auto a = halves(v[0], v[1]), b = halves(v[2], v[3]);
    auto c =
        __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
        __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    c += __builtin_shufflevector(c, c, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    c += __builtin_shufflevector(c, c, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    sums = __builtin_shufflevector(c, c, 0, 4, 8, 12);
  } else if constexpr (N == 8) {
    const auto halves = [](auto a, auto b) {
      return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
             __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    };
    const auto a = halves(v[0], v[1]), b = halves(v[2], v[3]);
    auto c = __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13) +
             __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15);
    c += __builtin_shufflevector(c, c, 1, 0, 3, 2, 5, 4, 7, 6);
    sums = __builtin_shufflevector(c, c, 0, 2, 4, 6);
  } else if constexpr (N == 4) {
    const auto halves = [](auto a, auto b) {
      return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    };
    const auto a = halves(v[0], v[1]), b = halves(v[2], v[3]);
    sums = __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
  } else {
    static_assert(N == 2);
    for (int i = 0; i < 4; ++i) sums[i] = v[i][0] + v[i][1];
  }
  return sums;
}

// --- Where to sample ---

// The corners of a pixel square, by number: bit 0 is right, bit 1 is bottom.
constexpr int kCorners = 4;

// The levels of a chunk of the L * P points, which are the same for all queries and heads.
template <typename C>
struct Levels {
  Reals<C> width{}, height{};
  Ints<C> columns{}, rows{}, start{};

  Levels() = default;
  Levels(const Problem& p, int64_t first) {
    for (int i = 0; i < kChunk && first + i < p.L * p.P; ++i) {
      const int64_t level = (first + i) / p.P;
      rows[i] = p.shapes[2 * level];
      columns[i] = p.shapes[2 * level + 1];
      start[i] = p.starts[level];
      height[i] = rows[i];
      width[i] = columns[i];
    }
  }
};

// Those of all chunks, as far as they fit.
template <typename C>
class LevelsOfChunks {
 public:
  explicit LevelsOfChunks(const Problem& p) : p_(p) {
    for (int i = 0; i < kKept; ++i) kept_[i] = Levels<C>(p, int64_t{i} * kChunk);
  }
  MASK2FORMER_INLINE const Levels<C>& of(int64_t first) {
    if (first < kKept * kChunk) return kept_[first / kChunk];
    other_ = Levels<C>(p_, first);
    return other_;
  }

 private:
  static constexpr int kKept = 2;
  const Problem& p_;
  Levels<C> kept_[kKept], other_;
};

// A located chunk: what the result needs of it.
template <typename C>
struct Chunk {
  int count;                                 // points; the others have no share in the result
  Vector<int64_t, kChunk> offset[kCorners];  // of the corners, or of some other pixel, in value
  Reals<C> weighted[kCorners];               // share of the corner in the sample, times weight
};

// What the gradients need besides.
template <typename C>
struct Details {
  Reals<C> share[kCorners];   // of the corners in the sample; 0 if they are outside the map
  Reals<C> inside[kCorners];  // 1 or 0
  Reals<C> weight;            // attention; 0 for a location that is outside or NaN
  Reals<C> right, bottom;     // shares of the right column and of the bottom row
};

// Locate the next `points` points, or a chunk if there are more. `readable` is the number of points
// up to the end of the tensors; `stride` is that of a pixel in value.
template <typename C, typename T>
MASK2FORMER_INLINE void locate(const Levels<C>& levels, const T* locations, const T* weights,
                               int64_t points, int64_t readable, int64_t stride, Chunk<C>& chunk,
                               Details<C>* details) {
  const int count = points < kChunk ? points : kChunk;
  T last_locations[2 * kChunk], last_weights[kChunk];
  if (readable < kChunk) {  // all of a chunk is read below, also of fewer points
    std::memset(last_locations, 0, sizeof(last_locations));
    std::memset(last_weights, 0, sizeof(last_weights));
    std::memcpy(last_locations, locations, 2 * count * sizeof(T));
    std::memcpy(last_weights, weights, count * sizeof(T));
    locations = last_locations;
    weights = last_weights;
  }
  const Reals<C> zero{}, one = zero + 1;
  Reals<C> x, y;
  load_points<C>(locations, x, y);
  Reals<C> weight = load_reals<C>(weights);
  x = x * levels.width - C(0.5);
  y = y * levels.height - C(0.5);
  // False for NaN, too; what follows can then be converted to integers. The levels of points beyond
  // `count` have no size: they are outside, or at least without pixels.
  const auto near = (x > -one) & (x < levels.width) & (y > -one) & (y < levels.height);
  x = near ? x : zero;
  y = near ? y : zero;
  weight = near ? weight : zero;
  Ints<C> left = __builtin_convertvector(x, Ints<C>), top = __builtin_convertvector(y, Ints<C>);
  left += x < __builtin_convertvector(left, Reals<C>);  // true is -1: round down, not to 0
  top += y < __builtin_convertvector(top, Reals<C>);
  const Reals<C> right = x - __builtin_convertvector(left, Reals<C>);
  const Reals<C> bottom = y - __builtin_convertvector(top, Reals<C>);
  const Ints<C> none{};
  using Offsets = Vector<int64_t, kChunk>;
  chunk.count = count;
#pragma GCC unroll 4
  for (int c = 0; c < kCorners; ++c) {
    const Ints<C> column = c & 1 ? left + 1 : left, row = c & 2 ? top + 1 : top;
    const auto valid =
        near & (column >= none) & (column < levels.columns) & (row >= none) & (row < levels.rows);
    const Ints<C> position = valid ? levels.start + row * levels.columns + column : none;
    const Reals<C> share = (c & 1 ? right : one - right) * (c & 2 ? bottom : one - bottom);
    chunk.offset[c] = __builtin_convertvector(position, Offsets) * stride;
    chunk.weighted[c] = valid ? share * weight : zero;
    if (details) {
      details->inside[c] = valid ? one : zero;
      details->share[c] = valid ? share : zero;
    }
  }
  if (details) {
    details->weight = weight;
    details->right = right;
    details->bottom = bottom;
  }
}

// --- Forward ---

// The most channels per head that are worked on together: up to 8 registers, up to 64 channels.
template <typename C>
constexpr int kMostChannels = 8 * kLanes<C> < 64 ? 8 * kLanes<C> : 64;

// Call `work` with the number of the next channels to work on together, of those that are left, and
// with the same as a constant; fewer than 16 are a rest, whose constant is 0. Returns the number.
template <typename C, typename Work>
MASK2FORMER_INLINE int64_t with_block(int64_t left, const Work& work) {
  if constexpr (kMostChannels<C> >= 64) {
    if (left >= 64) return work(64, std::integral_constant<int, 64>()), 64;
  }
  if constexpr (kMostChannels<C> >= 32) {
    if (left >= 32) return work(32, std::integral_constant<int, 32>()), 32;
  }
  if (left >= 16) return work(16, std::integral_constant<int, 16>()), 16;
  return work(left, std::integral_constant<int, 0>()), left;
}

template <int kChannels, typename T>
struct Sums {
  using C = Compute<T>;
  static constexpr int N = kLanes<C>;
  static constexpr int kVectors = kChannels / N;
  static constexpr int kPairs = kVectors / 2;
  // Several sums of the same channels, so that additions need not wait for each other.
  static constexpr int kSums = kVectors <= 2 ? 4 : kVectors <= 4 ? 2 : 1;

  Vector<C, N> sums[kSums][kVectors] = {};

  MASK2FORMER_INLINE void add(const Chunk<C>& chunk, const T* value, int64_t) {
    for (int i = 0; i < chunk.count; ++i) {
#pragma GCC unroll 4
      for (int c = 0; c < kCorners; ++c) {
        const T* pixel = value + chunk.offset[c][i];
        const C share = chunk.weighted[c][i];
        Vector<C, N>* sum = sums[c % kSums];
#pragma GCC unroll 8
        for (int pair = 0; pair < kPairs; ++pair) {
          const auto loaded = Pair<T>::loaded(pixel + pair * 2 * N);
          sum[2 * pair] += share * loaded.first;
          sum[2 * pair + 1] += share * loaded.second;
        }
        if constexpr (kVectors == 1) sum[0] += share * load_vector(pixel);
      }
    }
  }

  MASK2FORMER_INLINE void store_to(T* output, int64_t) {
#pragma GCC unroll 4
    for (int s = 1; s < kSums; ++s) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[0][v] += sums[s][v];
    }
#pragma GCC unroll 8
    for (int pair = 0; pair < kPairs; ++pair) {
      Pair<T>{sums[0][2 * pair], sums[0][2 * pair + 1]}.store_to(output + pair * 2 * N);
    }
    if constexpr (kVectors == 1) store_vector(output, sums[0][0]);
  }
};

template <typename T>
struct Sums<0, T> {
  using C = Compute<T>;
  C sums[16] = {};

  void add(const Chunk<C>& chunk, const T* value, int64_t channels) {
    for (int i = 0; i < chunk.count; ++i) {
      for (int c = 0; c < kCorners; ++c) {
        const T* pixel = value + chunk.offset[c][i];
        const C share = chunk.weighted[c][i];
        for (int64_t d = 0; d < channels; ++d) sums[d] += share * load(pixel + d);
      }
    }
  }

  void store_to(T* output, int64_t channels) {
    for (int64_t d = 0; d < channels; ++d) store(output + d, sums[d]);
  }
};

// Chunks that are located, and whose pixels are asked for, before they are used: what is sampled
// lies far apart, and waiting for one pixel after the other would take most of the time.
constexpr int kAhead = 8;

// Bring `channels` channels of a chunk's pixels to the second-level cache. The first level is too
// small for as many, and takes too few requests at a time.
template <typename T, typename C>
MASK2FORMER_INLINE void prefetch(const Chunk<C>& chunk, const T* value, int64_t channels) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int i = 0; i < chunk.count; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kCorners; ++c) {
      const T* pixel = value + chunk.offset[c][i];
      for (int64_t d = 0; d < channels; d += kLine) __builtin_prefetch(pixel + d, 0, 2);
    }
  }
}

template <typename T, typename U>
void forward(const Problem& p, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const auto* locations = static_cast<const U*>(p.locations);
  const auto* weights = static_cast<const U*>(p.weights);
  const int64_t points = p.L * p.P, all_points = p.B * p.Q * p.H * points, stride = p.H * p.D;
  const int64_t chunks = (points + kChunk - 1) / kChunk;
  // Items are heads of queries. Of one with many points, every chunk is located when it is used.
  const int64_t items_ahead = chunks > kAhead ? 1 : kAhead / chunks;
  LevelsOfChunks<C> levels(p);
  Chunk<C> ahead[kAhead];
  const auto value_of = [&](int64_t item) {
    const int64_t query = item / p.H, head = item - query * p.H;
    return static_cast<const T*>(p.value) + query / p.Q * p.S * stride + head * p.D;
  };
  const auto locate_chunk = [&](int64_t item, int64_t chunk, Chunk<C>& located) {
    const int64_t first = chunk * kChunk, offset = item * points + first;
    locate<C>(levels.of(first), locations + 2 * offset, weights + offset, points - first,
              all_points - offset, stride, located, static_cast<Details<C>*>(nullptr));
    prefetch(located, value_of(item), p.D);
  };
  const int64_t last_item = end * p.H;
  for (int64_t first = begin * p.H; first < last_item; first += items_ahead) {
    const int64_t last = last_item - first < items_ahead ? last_item : first + items_ahead;
    if (chunks <= kAhead) {
      Chunk<C>* located = ahead;
      for (int64_t item = first; item < last; ++item) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) locate_chunk(item, chunk, *located++);
      }
    }
    for (int64_t item = first; item < last; ++item) {
      const T* value = value_of(item);
      for (int64_t d = 0; d < p.D;) {
        d += with_block<C>(p.D - d, [&](int64_t block, auto channels) {
          Sums<decltype(channels)::value, T> sums;
          for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            if (chunks > kAhead) locate_chunk(item, chunk, ahead[0]);
            sums.add(ahead[chunks > kAhead ? 0 : (item - first) * chunks + chunk], value + d,
                     block);
          }
          sums.store_to(static_cast<T*>(p.output) + item * p.D + d, block);
        });
      }
    }
  }
}

// --- Backward ---

// For each point of a chunk and each corner, the product of the output's gradient with the corner's
// value.
template <typename C>
struct Products {
  Vector<C, kCorners> of_point[kChunk];

  // The products of a corner, whether inside or not, for all points.
  MASK2FORMER_INLINE Reals<C> of_corner(int corner) const {
    Reals<C> products{};
#pragma GCC unroll 16
    for (int i = 0; i < kChunk; ++i) products[i] = of_point[i][corner];
    return products;
  }
};

// Of one chunk and some channels: add to the gradients of the corners' values, and to the products.
template <int kChannels, typename T, typename C>
MASK2FORMER_INLINE void scatter(const Chunk<C>& chunk, const T* grad_output, const T* value,
                                C* grad_value, int64_t channels, Products<C>& products) {
  if constexpr (kChannels > 0) {
    constexpr int N = kLanes<C>, kVectors = kChannels / N;
    Vector<C, N> grad[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) grad[v] = load_vector(grad_output + v * N);
    for (int i = 0; i < chunk.count; ++i) {
      Vector<C, N> product[kCorners] = {};
#pragma GCC unroll 4
      for (int c = 0; c < kCorners; ++c) {
        const T* pixel = value + chunk.offset[c][i];
        C* grad_pixel = grad_value + chunk.offset[c][i];
        const C share = chunk.weighted[c][i];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          product[c] += grad[v] * load_vector(pixel + v * N);
          store_vector(grad_pixel + v * N, load_vector(grad_pixel + v * N) + share * grad[v]);
        }
      }
      products.of_point[i] += sums_of<C, N>(product);
    }
  } else {
    for (int i = 0; i < chunk.count; ++i) {
      for (int c = 0; c < kCorners; ++c) {
        const T* pixel = value + chunk.offset[c][i];
        C* grad_pixel = grad_value + chunk.offset[c][i];
        C product = 0;
        for (int64_t d = 0; d < channels; ++d) {
          const C grad = load(grad_output + d);
          product += grad * load(pixel + d);
          grad_pixel[d] += chunk.weighted[c][i] * grad;
        }
        products.of_point[i][c] += product;
      }
    }
  }
}

// Store the first `count` numbers. The counts of published models are known to the compiler, which
// then makes a few instructions of them.
template <typename U, typename C>
MASK2FORMER_INLINE void store_some(U* p, const C* numbers, int count) {
  U stored[2 * kChunk];
  if (count == 12 || count == 24) {
    for (int i = 0; i < 12; ++i) store(stored + i, numbers[i]);
    std::memcpy(p, stored, 12 * sizeof(U));
    if (count == 12) return;
    for (int i = 12; i < 24; ++i) store(stored + i, numbers[i]);
    std::memcpy(p + 12, stored + 12, 12 * sizeof(U));
  } else {
    for (int i = 0; i < count; ++i) store(p + i, numbers[i]);
  }
}

// Gradients of locations and weights, from the products.
template <typename C, typename U>
MASK2FORMER_INLINE void store_gradients(const Details<C>& details, const Levels<C>& levels,
                                        int count, const Products<C>& products, U* grad_locations,
                                        U* grad_weights) {
  Reals<C> product[kCorners], grad_weight{};
#pragma GCC unroll 4
  for (int c = 0; c < kCorners; ++c) {
    product[c] = products.of_corner(c) * details.inside[c];
    grad_weight += details.share[c] * product[c];
  }
  const Reals<C> one = Reals<C>{} + 1;
  const Reals<C> grad_x = details.weight * levels.width *
                          ((one - details.bottom) * (product[1] - product[0]) +
                           details.bottom * (product[3] - product[2]));
  const Reals<C> grad_y = details.weight * levels.height *
                          ((one - details.right) * (product[2] - product[0]) +
                           details.right * (product[3] - product[1]));
  const Reals<C> xy[2] = {__builtin_shufflevector(grad_x, grad_y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20,
                                                  5, 21, 6, 22, 7, 23),
                          __builtin_shufflevector(grad_x, grad_y, 8, 24, 9, 25, 10, 26, 11, 27, 12,
                                                  28, 13, 29, 14, 30, 15, 31)};
  C numbers[2 * kChunk];
  std::memcpy(numbers, xy, sizeof(numbers));
  store_some(grad_locations, numbers, 2 * count);
  std::memcpy(numbers, &grad_weight, sizeof(grad_weight));
  store_some(grad_weights, numbers, count);
}

template <typename T, typename U>
void backward(const Problem& p, int64_t begin, int64_t end) {
  using C = Compute<T>;
  const auto* locations = static_cast<const U*>(p.locations);
  const auto* weights = static_cast<const U*>(p.weights);
  const int64_t points = p.L * p.P, all_points = p.B * p.Q * p.H * points, stride = p.H * p.D;
  LevelsOfChunks<C> levels(p);
  Chunk<C> ahead[kAhead];
  Details<C> details[kAhead];
  int64_t items[kAhead], bases[kAhead];
  // The images one after the other. Of an image the queries, and of a query the heads, which lie
  // side by side in memory.
  for (int64_t heads; begin < end; begin += heads) {
    const int64_t image = begin / p.H, first_head = begin - image * p.H;
    heads = end - begin < p.H - first_head ? end - begin : p.H - first_head;
    for (int64_t done = 0; done < p.Q * heads; done += kAhead) {
      const int64_t count = p.Q * heads - done < kAhead ? p.Q * heads - done : kAhead;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t query = (done + i) / heads, head = first_head + (done + i) - query * heads;
        items[i] = (image * p.Q + query) * p.H + head;
        bases[i] = image * p.S * stride + head * p.D;
      }
      for (int64_t first = 0; first < points; first += kChunk) {
        for (int64_t i = 0; i < count; ++i) {
          const int64_t offset = items[i] * points + first;
          locate<C>(levels.of(first), locations + 2 * offset, weights + offset, points - first,
                    all_points - offset, stride, ahead[i], &details[i]);
          prefetch(ahead[i], static_cast<const T*>(p.value) + bases[i], p.D);
          prefetch(ahead[i], static_cast<const C*>(p.grad_value) + bases[i], p.D);
        }
        for (int64_t i = 0; i < count; ++i) {
          Products<C> products{};
          for (int64_t d = 0; d < p.D;) {
            d += with_block<C>(p.D - d, [&](int64_t block, auto channels) {
              scatter<decltype(channels)::value>(
                  ahead[i], static_cast<const T*>(p.grad_output) + items[i] * p.D + d,
                  static_cast<const T*>(p.value) + bases[i] + d,
                  static_cast<C*>(p.grad_value) + bases[i] + d, block, products);
            });
          }
          const int64_t offset = items[i] * points + first;
          store_gradients(details[i], levels.of(first), ahead[i].count, products,
                          static_cast<U*>(p.grad_locations) + 2 * offset,
                          static_cast<U*>(p.grad_weights) + offset);
        }
      }
    }
  }
}

#ifdef MASK2FORMER_FORWARD_ONLY

}  // namespace

Kernels kernels(Type value, Type coordinates) {
  const bool floats = value == Type::kFloat && coordinates == Type::kFloat;
  return floats ? Kernels{forward<float, float>, nullptr} : Kernels{};
}

#else

template <typename T, typename U>
constexpr Kernels kKernels{forward<T, U>, backward<T, U>};

}  // namespace

Kernels kernels(Type value, Type coordinates) {
  const bool same = value == coordinates, wide = coordinates == Type::kFloat;
  switch (value) {
    case Type::kFloat:
      return same ? kKernels<float, float> : Kernels{};
    case Type::kDouble:
      return same ? kKernels<double, double> : Kernels{};
    case Type::kBFloat16:
      return same ? kKernels<BFloat16, BFloat16> : wide ? kKernels<BFloat16, float> : Kernels{};
    case Type::kHalf:
      return same ? kKernels<Half, Half> : wide ? kKernels<Half, float> : Kernels{};
  }
  return {};
}

#endif

}  // namespace MASK2FORMER_ISA
}  // namespace mask2former
