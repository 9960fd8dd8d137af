// Numbers and vectors of numbers for the bodies of the CPU kernels. A file that includes these says
// before for which instruction set: MASK2FORMER_ISA is the name of the namespace,
// MASK2FORMER_VECTOR_BYTES the width of its vectors.
//
// Vectors are the GNU extension, which GCC and Clang translate to any instruction set.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace mask2former {
namespace MASK2FORMER_ISA {
namespace {

#define MASK2FORMER_INLINE inline __attribute__((always_inline))

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// What a stored type is computed in.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T, int N>
using Vector = typename VectorOf<T, N>::type;

// Lanes of a vector register.
template <typename C>
constexpr int kLanes = MASK2FORMER_VECTOR_BYTES / sizeof(C);

template <typename To, typename From>
MASK2FORMER_INLINE To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// --- One number: load and store as float or double ---

MASK2FORMER_INLINE float load(const float* p) { return *p; }
MASK2FORMER_INLINE double load(const double* p) { return *p; }
MASK2FORMER_INLINE float load(const BFloat16* p) {
  return bits_as<float>(static_cast<uint32_t>(p->bits) << 16);
}
MASK2FORMER_INLINE float load(const Half* p) {
#if defined(MASK2FORMER_F16C)
  return _cvtsh_ss(p->bits);
#else
  // Exponent and mantissa moved to their place in a float; the product corrects the exponent, of
  // numbers below the normal ones too.
  const uint32_t bits = p->bits;
  const uint32_t magnitude = (bits & 0x7fffu) << 13;
  float number = bits_as<float>(magnitude) * bits_as<float>(0x77800000u);  // 2^112
  if (magnitude >= 0x0f800000u) {                                          // infinite or NaN
    number = bits_as<float>(magnitude | 0x7f800000u);
  }
  return bits_as<float>(bits_as<uint32_t>(number) | (bits & 0x8000u) << 16);
#endif
}

MASK2FORMER_INLINE void store(float* p, float x) { *p = x; }
MASK2FORMER_INLINE void store(double* p, double x) { *p = x; }
MASK2FORMER_INLINE void store(BFloat16* p, float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  // Round to the nearest, to even on a tie; a NaN stays one.
  p->bits = x != x ? 0x7fc0 : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
MASK2FORMER_INLINE void store(Half* p, float x) {
#if defined(MASK2FORMER_F16C)
  p->bits = _cvtss_sh(x, 0);
#else
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {  // NaN
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // rounds to more than 65504
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below the normal numbers: the addition rounds
    half = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1) - 0x38000000u) >> 13;
  }
  p->bits = sign | half;
#endif
}

// --- A vector register: load and store as floats or doubles ---

template <typename T>
MASK2FORMER_INLINE Vector<Compute<T>, kLanes<Compute<T>>> load_vector(const T* p) {
  using C = Compute<T>;
  constexpr int N = kLanes<C>;
  Vector<C, N> x;
  if constexpr (std::is_same_v<T, C>) {
    std::memcpy(&x, p, sizeof(x));
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    Vector<uint16_t, N> bits;
    std::memcpy(&bits, p, sizeof(bits));
    x = bits_as<Vector<C, N>>(__builtin_convertvector(bits, Vector<uint32_t, N>) << 16);
  } else {
#if defined(MASK2FORMER_F16C) && MASK2FORMER_VECTOR_BYTES == 64
    x = bits_as<Vector<C, N>>(
        _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(MASK2FORMER_F16C) && MASK2FORMER_VECTOR_BYTES == 32
    x = bits_as<Vector<C, N>>(
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    for (int i = 0; i < N; ++i) x[i] = load(p + i);
#endif
  }
  return x;
}

template <typename T, typename V>
MASK2FORMER_INLINE void store_vector(T* p, const V& x) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    std::memcpy(p, &x, sizeof(x));
  } else {
    for (int i = 0; i < kLanes<float>; ++i) store(p + i, x[i]);
  }
}

// Two registers of channels, in an order that makes loading and storing cheap.
template <typename T>
struct Pair {
  Vector<Compute<T>, kLanes<Compute<T>>> first, second;

  MASK2FORMER_INLINE static Pair loaded(const T* p) {
    return {load_vector(p), load_vector(p + kLanes<Compute<T>>)};
  }
  MASK2FORMER_INLINE void store_to(T* p) const {
    store_vector(p, first);
    store_vector(p + kLanes<Compute<T>>, second);
  }
};

// The even channels first: they and the odd ones are the halves of 32-bit numbers.
template <>
struct Pair<BFloat16> {
  using Bits = Vector<uint32_t, kLanes<float>>;
  Vector<float, kLanes<float>> first, second;

  MASK2FORMER_INLINE static Pair loaded(const BFloat16* p) {
    Bits bits;
    std::memcpy(&bits, p, sizeof(bits));
    return {bits_as<decltype(first)>(bits << 16), bits_as<decltype(second)>(bits & 0xffff0000u)};
  }
  MASK2FORMER_INLINE void store_to(BFloat16* p) const {
    const Bits bits = rounded(first) >> 16 | (rounded(second) & 0xffff0000u);
    std::memcpy(p, &bits, sizeof(bits));
  }

 private:
  // As `store` does it.
  MASK2FORMER_INLINE static Bits rounded(const Vector<float, kLanes<float>>& x) {
    const Bits bits = bits_as<Bits>(x);
    return x != x ? Bits{} + 0x7fc00000u : bits + 0x7fffu + (bits >> 16 & 1);
  }
};

// As `store_vector`, of floats to any type.
template <typename T>
MASK2FORMER_INLINE void store_floats(T* p, const Vector<float, kLanes<float>>& x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    using Bits = Vector<uint32_t, kLanes<float>>;
    const Bits bits = bits_as<Bits>(x);
    const Bits rounded = x != x ? Bits{} + 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    const auto halves = __builtin_convertvector(rounded, Vector<uint16_t, kLanes<float>>);
    std::memcpy(p, &halves, sizeof(halves));
  } else {
    store_vector(p, x);
  }
}

// --- Sixteen numbers at a time, whatever the width of a register ---

// Points that are located together.
constexpr int kChunk = 16;

template <typename C>
using Reals = Vector<C, kChunk>;
template <typename C>
using Ints = Vector<std::conditional_t<sizeof(C) == 8, int64_t, int32_t>, kChunk>;

template <typename C, typename T>
MASK2FORMER_INLINE Reals<C> load_reals(const T* p) {
  constexpr int N = kLanes<C>;
  Vector<C, N> parts[kChunk / N];
#pragma GCC unroll 8
  for (int i = 0; i < kChunk / N; ++i) parts[i] = load_vector(p + i * N);
  return bits_as<Reals<C>>(parts);
}

// Sixteen points (x, y) as their x and their y.
template <typename C, typename T>
MASK2FORMER_INLINE void load_points(const T* p, Reals<C>& x, Reals<C>& y) {
  const auto first = load_reals<C>(p), second = load_reals<C>(p + kChunk);
  x = __builtin_shufflevector(first, second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                              30);
  y = __builtin_shufflevector(first, second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29,
                              31);
}

}  // namespace
}  // namespace MASK2FORMER_ISA
}  // namespace mask2former
