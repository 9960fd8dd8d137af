// The CPU kernels for what losses on masks and their matching need of sampled logits; plain
// functions on pointers, for the same reason as those in kernels.h.
//
// N: rows of P points each.

#pragma once

#include <cstdint>

#include "kernels.h"

namespace mask2former {

// Of each row of logits x, probabilities p and targets t.
constexpr int kLossSums = 4;  // sums of softplus(x) - t x, of p, of p t, and of t

struct MaskLossProblem {
  int64_t P;
  const float* logits;     // (N, P)
  const float* targets;    // (N, P), or null for zeros
  double* sums;            // (N, 4)
  const float* grad_sums;  // (N, 4), backward
  float* output;           // (N, P): gradients of the logits, or p
};

// Work on the rows [begin, end).
using MaskLossKernel = void (*)(const MaskLossProblem&, int64_t begin, int64_t end);

struct MaskLossKernels {
  MaskLossKernel sums;
  MaskLossKernel backward;
  MaskLossKernel probabilities;  // and the sums, without targets
};

namespace avx512 {
MaskLossKernels mask_loss_kernels();
}
namespace avx2 {
MaskLossKernels mask_loss_kernels();
}
namespace portable {
MaskLossKernels mask_loss_kernels();
}

}  // namespace mask2former
