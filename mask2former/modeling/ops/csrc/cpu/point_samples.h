// The CPU kernels that sample maps bilinearly at points, for the losses on masks; plain functions
// on pointers, for the same reason as those in kernels.h.
//
// Q: maps of H x W numbers, N: rows of P points each, every row of one of the maps.

#pragma once

#include <cstdint>

#include "kernels.h"

namespace mask2former {

struct PointSamples {
  int64_t P;
  const float* points;    // (N, P, 2): x, y, of which [0, 1] is the map; finite
  bool shared;            // the points are (P, 2), the same for all rows
  const int64_t* of;      // (N) which map
  int64_t H, W;           // of the maps
  int64_t height, width;  // of the image, which has zeros where a map of bits ends before
  Type type;              // of the maps; kDouble is not supported
  const void* maps;       // (Q, H, W)
  const uint8_t* planes;  // (Q / 8, H, W), instead of maps: map q is bit q % 8 of plane q / 8
  float* samples;         // (N, P)
  // Of the backward pass. The rows of map q are rows[starts[q]] up to rows[starts[q + 1]].
  const int64_t *starts, *rows;
  const float* grad_samples;  // (N, P)
  float* grad_maps;           // (Q, H, W)
  // Of the choice of points.
  int64_t chosen;        // how many of the points of each row to choose
  float* chosen_points;  // (N, chosen, 2)
};

// Work on the items [begin, end): rows, but maps in the backward pass.
using PointKernel = void (*)(const PointSamples&, int64_t begin, int64_t end);

// Numbers that a thread needs to choose points.
inline int64_t scratch_of(const PointSamples& p) { return 2 * p.P + 1; }

// As PointKernel, with scratch memory of its own.
using ChoiceKernel = void (*)(const PointSamples&, int64_t begin, int64_t end, uint32_t* scratch);

struct PointKernels {
  PointKernel sample_maps;
  PointKernel sample_bits;
  PointKernel backward;
  // The points at which the maps are nearest to zero, in the order in which they are given.
  ChoiceKernel choose;
};

namespace avx512 {
PointKernels point_kernels();
}
namespace avx2 {
PointKernels point_kernels();
}
namespace portable {
PointKernels point_kernels();
}

}  // namespace mask2former
