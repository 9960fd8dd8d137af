// The CPU kernels as plain functions on pointers. They are compiled several times, for different
// instruction sets, and therefore know nothing of ATen: its inline functions must not be compiled
// with instructions that the machine may not have.
//
// B: batch, S: positions of all levels, Q: queries, H: heads, D: channels, L: levels, P: points.

#pragma once

#include <cstdint>

namespace mask2former {

enum class Type { kFloat, kDouble, kBFloat16, kHalf };

// Positions S are numbered in 32 bits.
constexpr int64_t kMostPositions = INT32_MAX;

// All tensors are contiguous. Metadata has been checked: every level lies within the S positions.
struct Problem {
  int64_t B, S, Q, H, D, L, P;
  const int64_t* shapes;    // (L, 2): height, width
  const int64_t* starts;    // (L)
  const void* value;        // (B, S, H, D)
  const void* locations;    // (B, Q, H, L, P, 2): x, y
  const void* weights;      // (B, Q, H, L, P)
  void* output;             // (B, Q, H, D), forward
  const void* grad_output;  // (B, Q, H, D), backward, as is all that follows
  void* grad_value;         // (B, S, H, D), zeros; float for the half types
  void* grad_locations;     // as locations
  void* grad_weights;       // as weights
};

// Work on the items [begin, end) of a problem: of B * Q queries forward, of B * H heads backward.
// No two items of a kind write to the same memory.
using Kernel = void (*)(const Problem&, int64_t begin, int64_t end);

struct Kernels {
  Kernel forward;
  Kernel backward;
};

// The kernels for a pair of value and coordinate types, or null pointers if there are none.
namespace avx512 {
Kernels kernels(Type value, Type coordinates);
}
namespace avx2 {
Kernels kernels(Type value, Type coordinates);
}
namespace portable {
Kernels kernels(Type value, Type coordinates);
}

}  // namespace mask2former
