// Multi-scale deformable attention on the CPU: tensors to pointers, choice of the instruction set,
// and division among threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "../checks.h"
#include "choice.h"
#include "kernels.h"
#include "tensor_types.h"

namespace mask2former {
namespace {

using at::Tensor;

Kernels find_kernels(Type value, Type coordinates) {
  return chosen(avx512::kernels, avx2::kernels, portable::kernels)(value, coordinates);
}

// Contiguous arguments, and the problem that points to them.
struct Arguments {
  Tensor value, shapes, starts, locations, weights;
  Problem problem{};
  Kernels kernels{};

  Arguments(const Tensor& value_, const Tensor& spatial_shapes, const Tensor& level_start_index,
            const Tensor& sampling_locations, const Tensor& attention_weights)
      : value(value_.contiguous()),
        shapes(spatial_shapes.contiguous()),
        starts(level_start_index.contiguous()),
        locations(sampling_locations.contiguous()),
        weights(attention_weights.contiguous()),
        kernels(find_kernels(type_of(value_), type_of(sampling_locations))) {
    problem.B = value.size(0);
    problem.S = value.size(1);
    problem.H = value.size(2);
    problem.D = value.size(3);
    problem.Q = locations.size(1);
    problem.L = locations.size(3);
    problem.P = locations.size(4);
    TORCH_CHECK_VALUE(problem.S <= kMostPositions, "value has ", problem.S,
                      " positions (S), more than the ", kMostPositions, " that can be numbered");
    problem.shapes = shapes.const_data_ptr<int64_t>();
    problem.starts = starts.const_data_ptr<int64_t>();
    problem.value = value.const_data_ptr();
    problem.locations = locations.const_data_ptr();
    problem.weights = weights.const_data_ptr();
  }
};

Tensor ms_deform_attn_cpu(const Tensor& value, const Tensor& spatial_shapes,
                          const Tensor& level_start_index, const Tensor& sampling_locations,
                          const Tensor& attention_weights) {
  check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  Arguments arguments(value, spatial_shapes, level_start_index, sampling_locations,
                      attention_weights);
  Problem& p = arguments.problem;
  Tensor output = at::empty({p.B, p.Q, p.H * p.D}, value.options());
  if (arguments.weights.numel() == 0) return output.zero_();  // nothing to sample
  p.output = output.mutable_data_ptr();
  // Enough work to be worth a thread: some 20 microseconds.
  constexpr int64_t kGrain = 32;
  at::parallel_for(0, p.B * p.Q, kGrain,
                   [&](int64_t begin, int64_t end) { arguments.kernels.forward(p, begin, end); });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward_cpu(const Tensor& grad_output,
                                                               const Tensor& value,
                                                               const Tensor& spatial_shapes,
                                                               const Tensor& level_start_index,
                                                               const Tensor& sampling_locations,
                                                               const Tensor& attention_weights) {
  check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights,
                  grad_output);
  Arguments arguments(value, spatial_shapes, level_start_index, sampling_locations,
                      attention_weights);
  Problem& p = arguments.problem;
  const Tensor grad = grad_output.contiguous();
  // Many small numbers are added here: in float even for the half types.
  Tensor grad_value = at::zeros(
      value.sizes(),
      value.options().dtype(value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  Tensor grad_locations = at::empty_like(arguments.locations);
  Tensor grad_weights = at::empty_like(arguments.weights);
  if (arguments.weights.numel() > 0) {
    p.grad_output = grad.const_data_ptr();
    p.grad_value = grad_value.mutable_data_ptr();
    p.grad_locations = grad_locations.mutable_data_ptr();
    p.grad_weights = grad_weights.mutable_data_ptr();
    at::parallel_for(0, p.B * p.H, 1, [&](int64_t begin, int64_t end) {
      arguments.kernels.backward(p, begin, end);
    });
  }
  return {grad_value.to(value.scalar_type()), grad_locations, grad_weights};
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former, CPU, m) {
  m.impl("ms_deform_attn", ms_deform_attn_cpu);
  m.impl("ms_deform_attn_backward", ms_deform_attn_backward_cpu);
}

}  // namespace mask2former
