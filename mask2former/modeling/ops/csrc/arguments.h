// Which arguments of the operator fit together, in plain numbers: for PyTorch and other runtimes.

#pragma once

#include <cstddef>
#include <cstdint>

namespace mask2former {

struct Shape {
  const int64_t* sizes;
  size_t count;

  int64_t operator[](size_t i) const { return sizes[i]; }
};

bool operator==(const Shape& a, const Shape& b);

struct ArgumentShapes {
  Shape value;               // (B, S, H, D)
  Shape spatial_shapes;      // (L, 2)
  Shape level_start_index;   // (L)
  Shape sampling_locations;  // (B, Q, H, L, P, 2)
  Shape attention_weights;   // (B, Q, H, L, P)
};

bool shapes_fit(const ArgumentShapes& shapes);

// Whether L levels, each (height, width), add up to S positions, and each one starts where the one
// before it ends. No starts (nullptr) fit always.
bool levels_fit(const int64_t* spatial_shapes, const int64_t* level_start_index, int64_t L,
                int64_t S);

}  // namespace mask2former
