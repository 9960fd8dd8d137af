// The emulated kernels for ctypes.

#include "run_kernels.h"

namespace {

// sizes: B, S, Q, H, D, L, P
emulated::Problem problem_of(int value_type, int location_type, const int64_t* sizes,
                             const int64_t* spatial_shapes, const int64_t* level_start_index,
                             int levels_in_arguments, int images_at_a_time) {
  emulated::Problem problem{};
  problem.value_type = static_cast<emulated::Type>(value_type);
  problem.location_type = static_cast<emulated::Type>(location_type);
  problem.sizes.batch = sizes[0];
  problem.sizes.positions = sizes[1];
  problem.sizes.queries = sizes[2];
  problem.sizes.heads = sizes[3];
  problem.sizes.channels = sizes[4];
  problem.sizes.levels = static_cast<int>(sizes[5]);
  problem.sizes.points = static_cast<int>(sizes[6]);
  problem.spatial_shapes = spatial_shapes;
  problem.level_start_index = level_start_index;
  problem.levels_in_arguments = levels_in_arguments != 0;
  problem.images_at_a_time = static_cast<unsigned>(images_at_a_time);
  problem.threads = 64;
  return problem;
}

int report(const emulated::Instance& instance, int* vector_and_lanes) {
  vector_and_lanes[0] = instance.vector;
  vector_and_lanes[1] = instance.lanes;
  return cuda_emulation::failed_assertions.exchange(0);
}

}  // namespace

// Both return how many assertions did not hold.
extern "C" int ms_deform_attn_forward(int value_type, int location_type, const int64_t* sizes,
                                      const int64_t* spatial_shapes,
                                      const int64_t* level_start_index, int levels_in_arguments,
                                      int images_at_a_time, const void* value,
                                      const void* locations, const void* weights, void* output,
                                      int* vector_and_lanes) {
  const auto problem = problem_of(value_type, location_type, sizes, spatial_shapes,
                                  level_start_index, levels_in_arguments, images_at_a_time);
  return report(emulated::forward(problem, value, locations, weights, output), vector_and_lanes);
}

extern "C" int ms_deform_attn_backward(int value_type, int location_type, const int64_t* sizes,
                                       const int64_t* spatial_shapes,
                                       const int64_t* level_start_index, int levels_in_arguments,
                                       int images_at_a_time, const void* grad_output,
                                       const void* value, const void* locations,
                                       const void* weights, void* grad_value, void* grad_locations,
                                       void* grad_weights, int* vector_and_lanes) {
  const auto problem = problem_of(value_type, location_type, sizes, spatial_shapes,
                                  level_start_index, levels_in_arguments, images_at_a_time);
  return report(emulated::backward(problem, grad_output, value, locations, weights, grad_value,
                                   grad_locations, grad_weights),
                vector_and_lanes);
}
