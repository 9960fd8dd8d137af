// The CPU kernel that turns mask logits of queries into masks at the resolution of the result; a
// plain function on pointers, for the same reason as those in kernels.h.
//
// h, w: size of the logits, H, W: size of the masks.

#pragma once

#include <cstdint>

#include "kernels.h"

namespace mask2former {

// One axis of a bilinear resizing: output i is input[at[i]] * share[i] + input[next[i]] *
// next_share[i]. All four have kTablePadding more elements than outputs: copies of the last one.
struct Axis {
  int64_t inputs, outputs;
  const int32_t *at, *next;
  const float *share, *next_share;
  // Whether `at` grows by 15 at most within 16 outputs from a multiple of 16, by 7 within 8, and
  // `next` is `at` + 1, but at the last input.
  bool narrow;
};
constexpr int64_t kTablePadding = 64;

// What is known of the rows of a mask in a band.
struct BandResult {
  double probability;      // sum over the pixels in the mask
  int64_t area;            // pixels in the mask
  int64_t x0, y0, x1, y1;  // bounding box, upper ends exclusive; undefined if the area is 0
};

struct InstanceMasksProblem {
  int64_t h, w, H, W;
  Type type;               // kDouble is not supported
  const void* logits;      // (queries, h, w)
  const int64_t* queries;  // which to resize
  uint8_t* const* masks;   // (H, W) of each of those: 0 or 1
  // From the logits to the padded input, of which the first `outputs` rows and columns are needed,
  // and from there to the result, unless it has that size (`twice`).
  Axis rows[2], columns[2];
  bool twice;
  int64_t bands, band_rows;  // each mask is done in bands of so many rows
  BandResult* results;       // (masks, bands)
};

// Floats that a thread needs to work on a problem.
inline int64_t scratch_of(const InstanceMasksProblem& p) {
  const int64_t most = p.columns[0].outputs > p.W ? p.columns[0].outputs : p.W;
  return 8 * ((most > p.w ? most : p.w) + 2 * kTablePadding);
}

// Works on the items [begin, end) of a problem, bands of masks, with scratch memory of its own.
using InstanceMasksKernel = void (*)(const InstanceMasksProblem&, int64_t begin, int64_t end,
                                     float* scratch);

namespace avx512 {
InstanceMasksKernel instance_masks_kernel();
}
namespace avx2 {
InstanceMasksKernel instance_masks_kernel();
}
namespace portable {
InstanceMasksKernel instance_masks_kernel();
}

}  // namespace mask2former
