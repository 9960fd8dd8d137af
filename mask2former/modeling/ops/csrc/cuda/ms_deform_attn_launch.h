// What the kernels of multi-scale deformable attention are given, for C++ and CUDA alike.
//
// Sizes: B batch, S sum of height * width over the levels, Q queries, H heads, D channels per
// head, L levels, P points per level and head. All tensors are contiguous:
//     value (B, S, H, D), locations (B, Q, H, L, P, 2) as (x, y), weights (B, Q, H, L, P),
//     output (B, Q, H, D).
#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

struct CUstream_st;  // cudaStream_t points to it

namespace mask2former::kernels {

constexpr int kMaxInlineLevels = 8;  // more than any published model has
constexpr int kMaxHeads = 65535;     // as many blocks as a grid may have along y and z
// Bounds that keep bytes of a position and indices of positions in 32 bits.
constexpr int64_t kMaxRow = int64_t{1} << 28;  // heads times channels
constexpr int64_t kMaxPositions = int64_t{UINT32_MAX} - 1;

struct Sizes {
  int64_t batch, positions, queries, heads, channels;
  int levels, points;
};

struct Level {
  int64_t start;
  int height, width;
};

// Where each level is. A table known on the host travels with the kernel's arguments: copying it
// into device memory would take longer than a small input's kernel.
struct LevelTable {
  const int64_t* shapes;  // (L, 2) as (height, width), device memory; null: `levels` instead
  const int64_t* starts;  // (L,), device memory
  Level levels[kMaxInlineLevels];
};

// Whether a level lies inside the value tensor. Its area is bounded so that a pixel's index
// inside its level is an int.
C10_HOST_DEVICE inline bool level_fits(int64_t height, int64_t width, int64_t start,
                                       int64_t positions) {
  return height >= 0 && height <= INT32_MAX && width >= 0 && width <= INT32_MAX &&
         height * width <= INT32_MAX && start >= 0 && start <= positions &&
         height * width <= positions - start;
}

// Half types are summed in float.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

// T is the value's type, C that of locations and weights: T, or float where T is a half type. All
// pointers are aligned to 16 bytes; no size but levels and points is 0, none is beyond the bounds
// above.
template <typename T, typename C>
void launch_forward(const T* value, const LevelTable& levels, const C* locations, const C* weights,
                    T* output, const Sizes& sizes, CUstream_st* stream);

// grad_value must hold zeros; all of the other two gradients is written.
template <typename T, typename C>
void launch_backward(const T* grad_output, const T* value, const LevelTable& levels,
                     const C* locations, const C* weights,
                     typename Accumulator<T>::type* grad_value, C* grad_locations, C* grad_weights,
                     const Sizes& sizes, CUstream_st* stream);

}  // namespace mask2former::kernels
