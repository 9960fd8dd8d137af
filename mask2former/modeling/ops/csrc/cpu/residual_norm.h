// The CPU kernel that normalises sums of two rows, as layers of transformers do with a residual and
// a branch; a plain function on pointers, for the same reason as those in kernels.h.

#pragma once

#include <cstdint>

#include "kernels.h"

namespace mask2former {

struct ResidualNormProblem {
  int64_t rows, C;      // rows of an image
  int64_t x_image;      // distance of images in x, in numbers; rows follow each other everywhere
  int64_t out_image;    // and in out
  const void* x;        // (B, rows, C)
  const void* branch;   // (B, rows, C), contiguous
  const float* weight;  // (C)
  const float* bias;    // (C)
  float eps;
  void* out;  // (B, rows, C), of the type of x, perhaps x itself
};

// Works on the rows [begin, end) of all images. `scratch` has C floats.
using ResidualNormKernel = void (*)(const ResidualNormProblem&, int64_t begin, int64_t end,
                                    float* scratch);

// For x and a branch of the same type or, if x is float, of any; kDouble is not supported.
namespace avx512 {
ResidualNormKernel residual_norm_kernel(Type x, Type branch);
}
namespace avx2 {
ResidualNormKernel residual_norm_kernel(Type x, Type branch);
}
namespace portable {
ResidualNormKernel residual_norm_kernel(Type x, Type branch);
}

}  // namespace mask2former
