// The CPU kernel that adds a map, resized bilinearly, to a larger one, as feature pyramids do; a
// plain function on pointers, for the same reason as those in kernels.h.

#pragma once

#include <cstdint>

#include "instance_masks.h"

namespace mask2former {

struct UpsampleAddProblem {
  int64_t B, C, h, w, H, W;
  bool channels_last;  // both maps are (B, height, width, C) in memory, else (B, C, height, width)
  Type type;           // of both; kDouble is not supported
  const void* above;   // h x w
  void* lateral;       // H x W, which is added to
  Axis rows, columns;
};

// Floats that a thread needs to work on a problem.
inline int64_t scratch_of(const UpsampleAddProblem& p) {
  return 3 * ((p.W > p.w ? p.W : p.w) + 2 * kTablePadding);
}

// Works on the items [begin, end): rows of the lateral maps (B * H) if the channels come last, else
// planes (B * C).
using UpsampleAddKernel = void (*)(const UpsampleAddProblem&, int64_t begin, int64_t end,
                                   float* scratch);

namespace avx512 {
UpsampleAddKernel upsample_add_kernel();
}
namespace avx2 {
UpsampleAddKernel upsample_add_kernel();
}
namespace portable {
UpsampleAddKernel upsample_add_kernel();
}

}  // namespace mask2former
