// The operator for programs that run without PyTorch: it checks the arguments, chooses the
// instruction set, and divides the work into steps for the threads of the program.

#pragma once

#include <array>
#include <cstdint>

#include "../arguments.h"
#include "../cpu/kernels.h"

namespace mask2former {

// Numbers of float or int64_t, contiguous, which stay the property of the caller.
struct Argument {
  Shape shape;
  const void* data;
};

class Attention {
 public:
  // Sizes and starts are int64_t, the others float. Throws std::invalid_argument if they do not fit
  // together; nothing outside of them is ever read.
  Attention(const Argument& value, const Argument& spatial_shapes,
            const Argument& level_start_index, const Argument& sampling_locations,
            const Argument& attention_weights);

  // (B, Q, H * D)
  std::array<int64_t, 3> output_shape() const;

  // Steps 0 to steps() - 1 write all of the output. Any threads may take them, in any order.
  int64_t steps() const;
  void step(int64_t number, float* output) const;

 private:
  Problem problem_{};
  Kernel forward_;
};

}  // namespace mask2former
