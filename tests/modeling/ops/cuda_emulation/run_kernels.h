// Runs the CUDA kernels of multi-scale deformable attention on the CPU, chosen as on a GPU.
#pragma once

#include "cuda_emulation.h"
// The kernels come second: they use what the emulation defines.
#include "mask2former/modeling/ops/csrc/cuda/ms_deform_attn_kernels.cuh"

namespace emulated {

namespace kernels = mask2former::kernels;

enum Type : int { kFloat, kDouble, kHalf, kBFloat16 };

struct Problem {
  Type value_type, location_type;
  kernels::Sizes sizes;
  const int64_t *spatial_shapes, *level_start_index;
  bool levels_in_arguments;
  unsigned images_at_a_time;  // the largest gridDim.z
  unsigned threads;           // of a block; on a GPU kernels::kThreads
};

inline kernels::LevelTable level_table(const Problem& problem) {
  kernels::LevelTable table{};
  if (!problem.levels_in_arguments) {
    table.shapes = problem.spatial_shapes;
    table.starts = problem.level_start_index;
    return table;
  }
  if (problem.sizes.levels > kernels::kMaxInlineLevels) {
    cuda_emulation::fail("too many levels for the arguments of a kernel");
  }
  for (int l = 0; l < problem.sizes.levels; ++l) {
    const int64_t height = problem.spatial_shapes[2 * l];
    const int64_t width = problem.spatial_shapes[2 * l + 1];
    const int64_t start = problem.level_start_index[l];
    if (!kernels::level_fits(height, width, start, problem.sizes.positions)) {
      cuda_emulation::fail("a level that does not fit must not come with the arguments");
    }
    table.levels[l] = {start, static_cast<int>(height), static_cast<int>(width)};
  }
  return table;
}

inline dim3 grid(const Problem& problem, int lanes) {
  const kernels::Blocks blocks = kernels::blocks_for(problem.sizes, problem.threads, lanes);
  const unsigned limit = problem.images_at_a_time;
  return {blocks.x, blocks.y, blocks.z < limit ? blocks.z : limit};
}

// Calls run(a value of the value's type, one of the locations' type).
template <typename Run>
void for_types(const Problem& problem, Run&& run) {
  const bool same = problem.value_type == problem.location_type;
  if (!same && problem.location_type != kFloat) {
    cuda_emulation::fail("locations must have the type of the value, or be float");
  }
  switch (problem.value_type) {
    case kFloat:
      return run(float{}, float{});
    case kDouble:
      return run(double{}, double{});
    case kHalf:
      return same ? run(c10::Half{}, c10::Half{}) : run(c10::Half{}, float{});
    case kBFloat16:
      return same ? run(c10::BFloat16{}, c10::BFloat16{}) : run(c10::BFloat16{}, float{});
  }
}

// Returns vector width and lanes of the instance that ran.
struct Instance {
  int vector, lanes;
};

inline Instance forward(const Problem& problem, const void* value, const void* locations,
                        const void* weights, void* output) {
  Instance instance{};
  for_types(problem, [&](auto value_type, auto location_type) {
    using T = decltype(value_type);
    using C = decltype(location_type);
    kernels::choose_forward_layout<T>(problem.sizes.channels, [&](auto layout) {
      constexpr int kVector = decltype(layout)::kVector;
      constexpr int kLanes = decltype(layout)::kLanes;
      instance = {kVector, kLanes};
      cuda_emulation::launch(&kernels::forward_kernel<T, C, kVector, kLanes>, grid(problem, kLanes),
                             problem.threads, static_cast<const T*>(value), level_table(problem),
                             static_cast<const C*>(locations), static_cast<const C*>(weights),
                             static_cast<T*>(output), problem.sizes);
    });
  });
  return instance;
}

// grad_value is float, or double if value is; it holds zeros.
inline Instance backward(const Problem& problem, const void* grad_output, const void* value,
                         const void* locations, const void* weights, void* grad_value,
                         void* grad_locations, void* grad_weights) {
  Instance instance{};
  for_types(problem, [&](auto value_type, auto location_type) {
    using T = decltype(value_type);
    using C = decltype(location_type);
    using A = typename kernels::Accumulator<T>::type;
    kernels::choose_backward_layout<T>(problem.sizes.channels, [&](auto layout) {
      constexpr int kVector = decltype(layout)::kVector;
      constexpr int kLanes = decltype(layout)::kLanes;
      instance = {kVector, kLanes};
      cuda_emulation::launch(
          &kernels::backward_kernel<T, C, kVector, kLanes>, grid(problem, kLanes), problem.threads,
          static_cast<const T*>(grad_output), static_cast<const T*>(value), level_table(problem),
          static_cast<const C*>(locations), static_cast<const C*>(weights),
          static_cast<A*>(grad_value), static_cast<C*>(grad_locations),
          static_cast<C*>(grad_weights), problem.sizes);
    });
  });
  return instance;
}

}  // namespace emulated
