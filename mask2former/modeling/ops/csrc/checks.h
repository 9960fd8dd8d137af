// Argument checks of the operator.

#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace mask2former {

// Checks ranks, shapes, dtypes and devices, and the sizes in the metadata if these are on the CPU:
// everything that keeps the kernels inside their tensors. Raises a ValueError. Its text comes
// from checks.py, as for all other implementations; without Python there is a general one.
void check_arguments(const at::Tensor& value, const at::Tensor& spatial_shapes,
                     const at::Tensor& level_start_index, const at::Tensor& sampling_locations,
                     const at::Tensor& attention_weights,
                     const std::optional<at::Tensor>& grad_output = std::nullopt);

}  // namespace mask2former
