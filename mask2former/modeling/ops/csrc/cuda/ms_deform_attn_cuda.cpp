// The operator on CUDA tensors.

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <torch/library.h>

#include <cstdint>
#include <tuple>

#include "../checks.h"
#include "ms_deform_attn_launch.h"

namespace mask2former {
namespace {

using at::Tensor;

// Contiguous, and aligned for the widest load; only a view into the middle of a tensor is not.
Tensor for_kernel(const Tensor& tensor) {
  const Tensor contiguous = tensor.contiguous();
  const bool aligned = reinterpret_cast<uintptr_t>(contiguous.const_data_ptr()) % 16 == 0;
  return aligned ? contiguous : contiguous.clone();
}

kernels::Sizes sizes_of(const Tensor& value, const Tensor& sampling_locations) {
  kernels::Sizes sizes{};
  sizes.batch = value.size(0);
  sizes.positions = value.size(1);
  sizes.heads = value.size(2);
  sizes.channels = value.size(3);
  sizes.queries = sampling_locations.size(1);
  TORCH_CHECK_VALUE(sizes.heads <= kernels::kMaxHeads, "value has ", sizes.heads,
                    " heads, but on CUDA there may be at most ", kernels::kMaxHeads);
  TORCH_CHECK_VALUE(sizes.heads * sizes.channels <= kernels::kMaxRow, "value has ", sizes.heads,
                    " heads of ", sizes.channels, " channels, but on CUDA these may be at most ",
                    kernels::kMaxRow, " together");
  TORCH_CHECK_VALUE(sizes.positions <= kernels::kMaxPositions, "value has ", sizes.positions,
                    " positions, but on CUDA there may be at most ", kernels::kMaxPositions);
  sizes.levels = static_cast<int>(sampling_locations.size(3));
  sizes.points = static_cast<int>(sampling_locations.size(4));
  return sizes;
}

// The tensors must outlive the table, and hold what it points to.
struct Metadata {
  Tensor spatial_shapes, level_start_index;

  Metadata(const Tensor& shapes, const Tensor& starts, const Tensor& value) {
    const bool on_host = shapes.is_cpu() && starts.is_cpu();
    const bool fits_arguments = on_host && shapes.size(0) <= kernels::kMaxInlineLevels;
    spatial_shapes = (fits_arguments ? shapes : shapes.to(value.device())).contiguous();
    level_start_index = (fits_arguments ? starts : starts.to(value.device())).contiguous();
  }

  kernels::LevelTable table(int64_t positions) const {
    kernels::LevelTable table{};
    const int64_t* const shapes = spatial_shapes.const_data_ptr<int64_t>();
    const int64_t* const starts = level_start_index.const_data_ptr<int64_t>();
    if (!spatial_shapes.is_cpu()) {
      table.shapes = shapes;
      table.starts = starts;
      return table;
    }
    for (int64_t l = 0; l < spatial_shapes.size(0); ++l) {
      const int64_t height = shapes[2 * l], width = shapes[2 * l + 1];
      TORCH_CHECK_VALUE(kernels::level_fits(height, width, starts[l], positions), "level ", l,
                        " of ", height, " x ", width, " at position ", starts[l],
                        " is not inside value, which has ", positions, " positions");
      table.levels[l] = {starts[l], static_cast<int>(height), static_cast<int>(width)};
    }
    return table;
  }
};

// Calls run(value's type, the locations' type).
template <typename Run>
void for_types(at::ScalarType value, at::ScalarType locations, Run&& run) {
  const bool same = value == locations;
  switch (value) {
    case at::kFloat:
      return run(float{}, float{});
    case at::kDouble:
      return run(double{}, double{});
    case at::kHalf:
      return same ? run(c10::Half{}, c10::Half{}) : run(c10::Half{}, float{});
    case at::kBFloat16:
      return same ? run(c10::BFloat16{}, c10::BFloat16{}) : run(c10::BFloat16{}, float{});
    default:
      TORCH_INTERNAL_ASSERT(false, "check_arguments let ", value, " pass");
  }
}

}  // namespace

Tensor ms_deform_attn_cuda(const Tensor& value, const Tensor& spatial_shapes,
                           const Tensor& level_start_index, const Tensor& sampling_locations,
                           const Tensor& attention_weights) {
  check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const kernels::Sizes sizes = sizes_of(value, sampling_locations);
  const Tensor output =
      at::empty({sizes.batch, sizes.queries, sizes.heads * sizes.channels}, value.options());
  if (output.numel() == 0) {
    return output;
  }
  const Metadata metadata(spatial_shapes, level_start_index, value);
  const kernels::LevelTable levels = metadata.table(sizes.positions);
  const Tensor values = for_kernel(value);
  const Tensor locations = for_kernel(sampling_locations);
  const Tensor weights = for_kernel(attention_weights);
  for_types(value.scalar_type(), locations.scalar_type(), [&](auto value_type, auto location_type) {
    using T = decltype(value_type);
    using C = decltype(location_type);
    kernels::launch_forward<T, C>(values.const_data_ptr<T>(), levels, locations.const_data_ptr<C>(),
                                  weights.const_data_ptr<C>(), output.mutable_data_ptr<T>(), sizes,
                                  stream.stream());
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward_cuda(const Tensor& grad_output,
                                                                const Tensor& value,
                                                                const Tensor& spatial_shapes,
                                                                const Tensor& level_start_index,
                                                                const Tensor& sampling_locations,
                                                                const Tensor& attention_weights) {
  check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights,
                  grad_output);
  // The order in which the queries add to a pixel's gradient is not fixed.
  at::globalContext().alertNotDeterministic("ms_deform_attn_backward_cuda");
  const c10::cuda::CUDAGuard guard(value.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const kernels::Sizes sizes = sizes_of(value, sampling_locations);
  const auto sum_type = value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor grad_value = at::zeros(value.sizes(), value.options().dtype(sum_type));
  const Tensor grad_locations = at::empty(sampling_locations.sizes(), sampling_locations.options());
  const Tensor grad_weights = at::empty(attention_weights.sizes(), attention_weights.options());
  if (grad_weights.numel() != 0) {
    const Metadata metadata(spatial_shapes, level_start_index, value);
    const kernels::LevelTable levels = metadata.table(sizes.positions);
    const Tensor grads = for_kernel(grad_output);
    const Tensor values = for_kernel(value);
    const Tensor locations = for_kernel(sampling_locations);
    const Tensor weights = for_kernel(attention_weights);
    for_types(value.scalar_type(), locations.scalar_type(),
              [&](auto value_type, auto location_type) {
                using T = decltype(value_type);
                using C = decltype(location_type);
                using A = typename kernels::Accumulator<T>::type;
                kernels::launch_backward<T, C>(
                    grads.const_data_ptr<T>(), values.const_data_ptr<T>(), levels,
                    locations.const_data_ptr<C>(), weights.const_data_ptr<C>(),
                    grad_value.mutable_data_ptr<A>(), grad_locations.mutable_data_ptr<C>(),
                    grad_weights.mutable_data_ptr<C>(), sizes, stream.stream());
              });
  }
  return {grad_value.to(value.scalar_type()), grad_locations, grad_weights};
}

TORCH_LIBRARY_IMPL(mask2former, CUDA, m) {
  m.impl("ms_deform_attn", &ms_deform_attn_cuda);
  m.impl("ms_deform_attn_backward", &ms_deform_attn_backward_cuda);
}

}  // namespace mask2former
