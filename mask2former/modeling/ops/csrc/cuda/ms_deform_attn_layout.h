// Which instance of the kernels serves a number of channels, and in how many blocks.
#pragma once

#include <cstdint>

#include "ms_deform_attn_launch.h"

namespace mask2former::kernels {

constexpr int kThreads = 128;  // per block

// An instance: how many channels a lane owns at a time, and how many lanes serve a query.
template <int kVectorOf, int kLanesOf>
struct Layout {
  static constexpr int kVector = kVectorOf;
  static constexpr int kLanes = kLanesOf;
};

// The blocks to launch: enough for all queries and heads; images beyond kMaxHeads are served in
// turn by the blocks of others.
struct Blocks {
  unsigned x, y, z;
};

inline Blocks blocks_for(const Sizes& sizes, int threads, int lanes) {
  const int64_t groups = threads / lanes;
  return {static_cast<unsigned>((sizes.queries + groups - 1) / groups),
          static_cast<unsigned>(sizes.heads),
          static_cast<unsigned>(sizes.batch < kMaxHeads ? sizes.batch : kMaxHeads)};
}

// Calls use(Layout) with that of the forward kernel: 16 bytes per lane, and one pass over the
// channels if 32 lanes suffice for it. Pointers must be aligned to 16 bytes.
template <typename T, typename Use>
void choose_forward_layout(int64_t channels, Use&& use) {
  constexpr int kVector = 16 / sizeof(T);
  if (channels % kVector != 0) {
    use(Layout<1, 32>{});
  } else if (channels <= 4 * kVector) {
    use(Layout<kVector, 4>{});
  } else if (channels <= 8 * kVector) {
    use(Layout<kVector, 8>{});
  } else if (channels <= 16 * kVector) {
    use(Layout<kVector, 16>{});
  } else {
    use(Layout<kVector, 32>{});
  }
}

// The same for the backward kernel, whose lanes own their channels in several runs: all of a
// group's lanes must have channels to own. 16 bytes of the accumulator per lane.
template <typename T, typename Use>
void choose_backward_layout(int64_t channels, Use&& use) {
  constexpr int kVector = 16 / sizeof(typename Accumulator<T>::type);
  if (channels % (4 * kVector) != 0) {
    use(Layout<1, 32>{});
  } else if (channels % (8 * kVector) != 0) {
    use(Layout<kVector, 4>{});
  } else if (channels % (16 * kVector) != 0) {
    use(Layout<kVector, 8>{});
  } else if (channels % (32 * kVector) != 0) {
    use(Layout<kVector, 16>{});
  } else {
    use(Layout<kVector, 32>{});
  }
}

}  // namespace mask2former::kernels
