// The CPU kernel that makes locations and weights of deformable attention from what one linear
// layer gives for both; a plain function on pointers, for the same reason as those in kernels.h.

#pragma once

#include <cstdint>

#include "kernels.h"

namespace mask2former {

struct AttentionInputs {
  int64_t Q, H, points;     // queries of an image, heads, L * P
  Type type;                // of projected; kDouble is not supported
  const float* references;  // (Q, 2): x, y
  const void* projected;    // (B, Q, 3 * H * points): offsets (H, L, P, 2), then logits (H, L, P)
};

// Floats of memory that a thread needs for `queries` queries.
inline int64_t scratch_of(const AttentionInputs& p, int64_t queries) {
  constexpr int64_t kPadding = 16;  // the most lanes of a vector, which are written as a whole
  return (3 * queries + 1) * p.H * p.points + 2 * kPadding;
}

// Of the queries [begin, end) of all images, writes locations (H, L, P, 2) to the beginning of
// `scratch` and weights (H, L, P), a softmax over L * P, behind all locations.
using AttentionInputsKernel = void (*)(const AttentionInputs&, int64_t begin, int64_t end,
                                       float* scratch);

namespace avx512 {
AttentionInputsKernel attention_inputs_kernel();
}
namespace avx2 {
AttentionInputsKernel attention_inputs_kernel();
}
namespace portable {
AttentionInputsKernel attention_inputs_kernel();
}

}  // namespace mask2former
