// Argument checks of the operator, with the same texts as checks.py.

#pragma once

#include <ATen/core/Tensor.h>

namespace mask2former {

// Ranks, shapes, dtypes and devices, and the sizes in the metadata if these are on the CPU.
// Raises ValueError.
void check_forward(const at::Tensor& value, const at::Tensor& spatial_shapes,
                   const at::Tensor& level_start_index, const at::Tensor& sampling_locations,
                   const at::Tensor& attention_weights);

// The same, and those of the output's gradient.
void check_backward(const at::Tensor& grad_output, const at::Tensor& value,
                    const at::Tensor& spatial_shapes, const at::Tensor& level_start_index,
                    const at::Tensor& sampling_locations, const at::Tensor& attention_weights);

}  // namespace mask2former
