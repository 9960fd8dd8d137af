#include "checks.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

namespace mask2former {
namespace {

using at::Tensor;

bool shapes_fit(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                const Tensor& sampling_locations, const Tensor& attention_weights,
                const std::optional<Tensor>& grad_output) {
  if (value.dim() != 4 || spatial_shapes.dim() != 2 || sampling_locations.dim() != 6) return false;
  const int64_t B = value.size(0), H = value.size(2), D = value.size(3);
  const int64_t Q = sampling_locations.size(1), L = spatial_shapes.size(0);
  const auto shape = sampling_locations.sizes();
  return spatial_shapes.size(1) == 2 && level_start_index.sizes() == at::IntArrayRef({L}) &&
         shape == at::IntArrayRef({B, Q, H, L, shape[4], 2}) &&
         attention_weights.sizes() == shape.slice(0, 5) &&
         (!grad_output || grad_output->sizes() == at::IntArrayRef({B, Q, H * D}));
}

bool types_fit(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
               const Tensor& sampling_locations, const Tensor& attention_weights,
               const std::optional<Tensor>& grad_output) {
  const auto type = value.scalar_type(), coordinates = sampling_locations.scalar_type();
  const bool is_half = type == at::kHalf || type == at::kBFloat16;
  return (is_half || type == at::kFloat || type == at::kDouble) &&
         (coordinates == type || (is_half && coordinates == at::kFloat)) &&
         attention_weights.scalar_type() == coordinates &&
         spatial_shapes.scalar_type() == at::kLong &&
         level_start_index.scalar_type() == at::kLong &&
         (!grad_output || grad_output->scalar_type() == type);
}

bool devices_fit(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                 const Tensor& sampling_locations, const Tensor& attention_weights,
                 const std::optional<Tensor>& grad_output) {
  const auto device = value.device();
  return sampling_locations.device() == device && attention_weights.device() == device &&
         (spatial_shapes.is_cpu() || spatial_shapes.device() == device) &&
         (level_start_index.is_cpu() || level_start_index.device() == device) &&
         (!grad_output || grad_output->device() == device);
}

// The levels add up to value's positions, and each one starts where the one before it ends.
bool levels_fit(const Tensor& value, const Tensor& spatial_shapes,
                const Tensor& level_start_index) {
  if (!spatial_shapes.is_cpu()) return true;
  const Tensor shapes = spatial_shapes.contiguous(), starts = level_start_index.contiguous();
  const int64_t* const size = shapes.const_data_ptr<int64_t>();
  const int64_t* const start = starts.is_cpu() ? starts.const_data_ptr<int64_t>() : nullptr;
  int64_t total = 0;
  for (int64_t l = 0; l < shapes.size(0); ++l) {
    const int64_t height = size[2 * l], width = size[2 * l + 1];
    const int64_t left = value.size(1) - total;
    // A division, since the product of wrong sizes may be beyond an integer.
    if (height < 1 || width < 1 || height > left / width) return false;
    if (start && start[l] != total) return false;
    total += height * width;
  }
  return total == value.size(1);
}

}  // namespace

void check_arguments(const Tensor& value, const Tensor& spatial_shapes,
                     const Tensor& level_start_index, const Tensor& sampling_locations,
                     const Tensor& attention_weights, const std::optional<Tensor>& grad_output) {
  if (shapes_fit(value, spatial_shapes, level_start_index, sampling_locations, attention_weights,
                 grad_output) &&
      types_fit(value, spatial_shapes, level_start_index, sampling_locations, attention_weights,
                grad_output) &&
      devices_fit(value, spatial_shapes, level_start_index, sampling_locations, attention_weights,
                  grad_output) &&
      levels_fit(value, spatial_shapes, level_start_index)) {
    return;
  }
  using Explain = void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       const std::optional<Tensor>&);
  const auto explain =
      c10::Dispatcher::singleton().findSchema({"mask2former::explain_bad_arguments", ""});
  if (explain) {
    explain->typed<Explain>().call(value, spatial_shapes, level_start_index, sampling_locations,
                                   attention_weights, grad_output);
  }
  TORCH_CHECK_VALUE(false, "the arguments of mask2former::ms_deform_attn do not fit together");
}

}  // namespace mask2former
