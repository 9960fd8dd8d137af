#include "checks.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include "arguments.h"

namespace mask2former {
namespace {

using at::Tensor;

Shape shape_of(const Tensor& tensor) {
  return {tensor.sizes().data(), static_cast<size_t>(tensor.dim())};
}

bool tensors_fit(const Tensor& value, const Tensor& spatial_shapes, const Tensor& level_start_index,
                 const Tensor& sampling_locations, const Tensor& attention_weights,
                 const std::optional<Tensor>& grad_output) {
  return shapes_fit({shape_of(value), shape_of(spatial_shapes), shape_of(level_start_index),
                     shape_of(sampling_locations), shape_of(attention_weights)}) &&
         (!grad_output ||
          grad_output->sizes() == at::IntArrayRef({value.size(0), sampling_locations.size(1),
                                                   value.size(2) * value.size(3)}));
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

bool metadata_fits(const Tensor& value, const Tensor& spatial_shapes,
                   const Tensor& level_start_index) {
  if (!spatial_shapes.is_cpu()) return true;
  const Tensor shapes = spatial_shapes.contiguous(), starts = level_start_index.contiguous();
  return levels_fit(shapes.const_data_ptr<int64_t>(),
                    starts.is_cpu() ? starts.const_data_ptr<int64_t>() : nullptr, shapes.size(0),
                    value.size(1));
}

}  // namespace

void check_arguments(const Tensor& value, const Tensor& spatial_shapes,
                     const Tensor& level_start_index, const Tensor& sampling_locations,
                     const Tensor& attention_weights, const std::optional<Tensor>& grad_output) {
  if (tensors_fit(value, spatial_shapes, level_start_index, sampling_locations, attention_weights,
                  grad_output) &&
      types_fit(value, spatial_shapes, level_start_index, sampling_locations, attention_weights,
                grad_output) &&
      devices_fit(value, spatial_shapes, level_start_index, sampling_locations, attention_weights,
                  grad_output) &&
      metadata_fits(value, spatial_shapes, level_start_index)) {
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
