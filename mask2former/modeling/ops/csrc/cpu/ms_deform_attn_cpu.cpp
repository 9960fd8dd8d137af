// Multi-scale deformable attention on the CPU: tensors to pointers, choice of the instruction set,
// and division among threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../arguments.h"
#include "../checks.h"
#include "attention_inputs.h"
#include "choice.h"
#include "kernels.h"
#include "tensor_types.h"

namespace mask2former {
namespace {

using at::Tensor;

Kernels find_kernels(Type value, Type coordinates) {
  return chosen(avx512::kernels, avx2::kernels, portable::kernels)(value, coordinates);
}

// Enough queries to be worth a thread: some 20 microseconds of work.
constexpr int64_t kGrain = 32;

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
  at::parallel_for(0, p.B * p.Q, kGrain,
                   [&](int64_t begin, int64_t end) { arguments.kernels.forward(p, begin, end); });
  return output;
}

// The dispatcher has seen that all are on the CPU.
void check_projected(const Tensor& value, const Tensor& spatial_shapes,
                     const Tensor& level_start_index, const Tensor& references,
                     const Tensor& projected) {
  TORCH_CHECK_VALUE(value.dim() == 4 && projected.dim() == 3 && value.size(0) == projected.size(0),
                    "value must be (B, S, H, D) and projected (B, Q, H * L * P * 3), got ",
                    value.sizes(), " and ", projected.sizes());
  TORCH_CHECK_VALUE(references.dim() == 2 && references.size(0) == projected.size(1) &&
                        references.size(1) == 2 && references.scalar_type() == at::kFloat,
                    "references must be float32 (Q=", projected.size(1), ", 2), got ",
                    references.scalar_type(), " ", references.sizes());
  const auto type = value.scalar_type();
  TORCH_CHECK_VALUE(
      (type == at::kFloat || type == at::kBFloat16 || type == at::kHalf) &&
          (projected.scalar_type() == type || projected.scalar_type() == at::kFloat),
      "value must be float32, bfloat16 or float16, and projected the same or float32, got ", type,
      " and ", projected.scalar_type());
  TORCH_CHECK_VALUE(
      spatial_shapes.dim() == 2 && spatial_shapes.size(1) == 2 && level_start_index.dim() == 1 &&
          level_start_index.size(0) == spatial_shapes.size(0) &&
          spatial_shapes.scalar_type() == at::kLong && level_start_index.scalar_type() == at::kLong,
      "spatial_shapes must be int64 (L, 2) and level_start_index (L), got ", spatial_shapes.sizes(),
      " and ", level_start_index.sizes());
  const int64_t divisor = 3 * value.size(2) * spatial_shapes.size(0);
  TORCH_CHECK_VALUE(divisor > 0 && projected.size(2) % divisor == 0,
                    "projected must be (B, Q, H * L * P * 3) of H=", value.size(2),
                    " heads and L=", spatial_shapes.size(0), " levels, got ", projected.sizes());
  TORCH_CHECK_VALUE(levels_fit(spatial_shapes.const_data_ptr<int64_t>(),
                               level_start_index.const_data_ptr<int64_t>(), spatial_shapes.size(0),
                               value.size(1)) &&
                        value.size(1) <= kMostPositions,
                    "the levels must follow each other, and cover all S=", value.size(1),
                    " positions of value");
}

// A block of queries at a time, whose locations and weights stay in a cache.
Tensor ms_deform_attn_projected_cpu(const Tensor& value_, const Tensor& spatial_shapes,
                                    const Tensor& level_start_index, const Tensor& references_,
                                    const Tensor& projected_) {
  const Tensor shapes = spatial_shapes.contiguous(), starts = level_start_index.contiguous();
  check_projected(value_, shapes, starts, references_, projected_);
  const Tensor value = value_.contiguous(), references = references_.contiguous();
  const Tensor projected = projected_.contiguous();
  Problem p{};
  p.B = value.size(0);
  p.S = value.size(1);
  p.Q = projected.size(1);
  p.H = value.size(2);
  p.D = value.size(3);
  p.L = shapes.size(0);
  p.P = projected.size(2) / (3 * p.H * p.L);
  p.shapes = shapes.const_data_ptr<int64_t>();
  p.starts = starts.const_data_ptr<int64_t>();
  Tensor output = at::empty({p.B, p.Q, p.H * p.D}, value.options());
  if (projected.numel() == 0 || value.numel() == 0) return output.zero_();
  AttentionInputs inputs{};
  inputs.Q = p.Q;
  inputs.H = p.H;
  inputs.points = p.L * p.P;
  inputs.type = type_of(projected);
  inputs.references = references.const_data_ptr<float>();
  inputs.projected = projected.const_data_ptr();
  const auto make_inputs = chosen(avx512::attention_inputs_kernel, avx2::attention_inputs_kernel,
                                  portable::attention_inputs_kernel)();
  const Kernel forward = find_kernels(type_of(value), Type::kFloat).forward;
  const auto* values = static_cast<const char*>(value.const_data_ptr());
  auto* outputs = static_cast<char*>(output.mutable_data_ptr());
  const int64_t query_bytes = p.H * p.D * value.element_size();
  at::parallel_for(0, p.B * p.Q, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(scratch_of(inputs, kGrain));
    Problem block = p;
    block.B = 1;
    for (; begin < end; begin += block.Q) {
      const int64_t image = begin / p.Q;
      block.Q = std::min({kGrain, end - begin, (image + 1) * p.Q - begin});
      make_inputs(inputs, begin, begin + block.Q, scratch.data());
      block.value = values + image * p.S * query_bytes;
      block.locations = scratch.data();
      block.weights = scratch.data() + 2 * block.Q * p.H * inputs.points;
      block.output = outputs + begin * query_bytes;
      forward(block, 0, block.Q);
    }
  });
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
  m.impl("ms_deform_attn_projected", ms_deform_attn_projected_cpu);
}

}  // namespace mask2former
