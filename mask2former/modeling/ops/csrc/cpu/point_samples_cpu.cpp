// Maps sampled at points on the CPU: tensors to pointers, and division among threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <vector>

#include "choice.h"
#include "point_samples.h"
#include "tensor_types.h"

namespace mask2former {
namespace {

using at::Tensor;

PointKernels find_kernels() {
  return chosen(avx512::point_kernels, avx2::point_kernels, portable::point_kernels)();
}

// Checked, contiguous arguments, and a problem that points to them.
struct Arguments {
  Tensor maps, of, points;
  PointSamples problem{};
  int64_t N, Q;

  // `maps` are (Q, H, W) floating-point numbers, or (Q / 8, H, W) bytes, which are bits of `count`
  // maps that are in an image of size (height, width). `points` are (N, P, 2) or (P, 2).
  Arguments(const Tensor& maps_, const Tensor& of_, const Tensor& points_,
            std::optional<int64_t> count, at::IntArrayRef size)
      : maps(maps_.contiguous()), of(of_.contiguous()), points(points_.contiguous()) {
    TORCH_CHECK_VALUE(maps.is_cpu() && of.is_cpu() && points.is_cpu(),
                      "tensors must be on the CPU");
    TORCH_CHECK_VALUE(maps.dim() == 3 && maps.size(1) >= 1 && maps.size(2) >= 1 &&
                          maps.size(1) * maps.size(2) <= std::numeric_limits<int32_t>::max(),
                      "maps must be (Q, H, W) with pixels, got ", maps.sizes());
    TORCH_CHECK_VALUE(count ? maps.scalar_type() == at::kByte : maps.is_floating_point(),
                      "maps are of the wrong type, ", maps.scalar_type());
    TORCH_CHECK_VALUE(of.dim() == 1 && of.scalar_type() == at::kLong, "of must be int64 (N,), got ",
                      of.scalar_type(), " ", of.sizes());
    N = of.size(0);
    Q = count.value_or(maps.size(0));
    TORCH_CHECK_VALUE(!count || (Q >= 0 && (Q + 7) / 8 == maps.size(0)), Q, " maps do not fit ",
                      maps.sizes());
    problem.shared = points.dim() == 2;
    TORCH_CHECK_VALUE(points.scalar_type() == at::kFloat &&
                          (problem.shared || (points.dim() == 3 && points.size(0) == N)) &&
                          points.size(-1) == 2,
                      "points must be float32 (P, 2) or (N=", N, ", P, 2), got ",
                      points.scalar_type(), " ", points.sizes());
    if (maps.scalar_type() == at::kDouble) maps = maps.to(at::kFloat);
    problem.P = points.size(-2);
    problem.points = points.const_data_ptr<float>();
    problem.of = of.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < N; ++i) {
      TORCH_CHECK_INDEX(problem.of[i] >= 0 && problem.of[i] < Q, "map ", problem.of[i],
                        " is out of range: there are ", Q);
    }
    problem.H = maps.size(1);
    problem.W = maps.size(2);
    problem.height = size.empty() ? problem.H : size[0];
    problem.width = size.empty() ? problem.W : size[1];
    TORCH_CHECK_VALUE(problem.height >= problem.H && problem.width >= problem.W &&
                          problem.height < (1 << 24) && problem.width < (1 << 24),
                      "maps of ", maps.sizes().slice(1), " do not fit into an image of ", size);
    problem.type = type_of(maps);
    if (count) {
      problem.planes = maps.const_data_ptr<uint8_t>();
    } else {
      problem.maps = maps.const_data_ptr();
    }
  }

  // Enough rows for a thread to be worth it: some ten thousand points.
  int64_t grain() const { return 1 + (1 << 13) / (problem.P + 1); }
};

Tensor sample_maps_cpu(const Tensor& maps, const Tensor& of, const Tensor& points) {
  Arguments arguments(maps, of, points, std::nullopt, {});
  PointSamples& p = arguments.problem;
  Tensor samples = at::empty({arguments.N, p.P}, points.options());
  p.samples = samples.mutable_data_ptr<float>();
  const PointKernel kernel = find_kernels().sample_maps;
  at::parallel_for(0, arguments.N, arguments.grain(),
                   [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
  return samples;
}

Tensor sample_packed_masks_cpu(const Tensor& planes, int64_t count, const Tensor& of,
                               const Tensor& points, at::IntArrayRef size) {
  TORCH_CHECK_VALUE(size.size() == 2, "image_size must be (height, width), got ", size);
  Arguments arguments(planes, of, points, count, size);
  PointSamples& p = arguments.problem;
  Tensor samples = at::empty({arguments.N, p.P}, points.options());
  p.samples = samples.mutable_data_ptr<float>();
  const PointKernel kernel = find_kernels().sample_bits;
  at::parallel_for(0, arguments.N, arguments.grain() + 7,
                   [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
  return samples;
}

Tensor sample_maps_backward_cpu(const Tensor& grad, const Tensor& maps, const Tensor& of,
                                const Tensor& points) {
  Arguments arguments(maps, of, points, std::nullopt, {});
  PointSamples& p = arguments.problem;
  const int64_t N = arguments.N, Q = arguments.Q;
  TORCH_CHECK_VALUE(grad.sizes() == at::IntArrayRef({N, p.P}) && grad.scalar_type() == at::kFloat &&
                        grad.is_cpu(),
                    "grad must be float32 (N, P), got ", grad.scalar_type(), " ", grad.sizes());
  const Tensor grad_samples = grad.contiguous();
  std::vector<int64_t> starts(Q + 1), rows(N);
  for (int64_t i = 0; i < N; ++i) ++starts[p.of[i] + 1];
  for (int64_t q = 0; q < Q; ++q) starts[q + 1] += starts[q];
  std::vector<int64_t> next(starts.begin(), starts.end() - 1);
  for (int64_t i = 0; i < N; ++i) rows[next[p.of[i]]++] = i;
  Tensor grad_maps = at::empty(maps.sizes(), grad.options());
  p.starts = starts.data();
  p.rows = rows.data();
  p.grad_samples = grad_samples.const_data_ptr<float>();
  p.grad_maps = grad_maps.mutable_data_ptr<float>();
  const PointKernel kernel = find_kernels().backward;
  at::parallel_for(0, Q, 1, [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
  return grad_maps.to(maps.scalar_type());
}

Tensor points_nearest_zero_cpu(const Tensor& maps, const Tensor& of, const Tensor& points,
                               int64_t count) {
  Arguments arguments(maps, of, points, std::nullopt, {});
  PointSamples& p = arguments.problem;
  TORCH_CHECK_VALUE(count >= 0 && count <= p.P, "cannot choose ", count, " of ", p.P, " points");
  Tensor chosen = at::empty({arguments.N, count, 2}, points.options());
  p.chosen = count;
  p.chosen_points = chosen.mutable_data_ptr<float>();
  const ChoiceKernel kernel = find_kernels().choose;
  at::parallel_for(0, arguments.N, arguments.grain(), [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> scratch(scratch_of(p));
    kernel(p, begin, end, scratch.data());
  });
  return chosen;
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former, CPU, m) {
  m.impl("sample_maps", sample_maps_cpu);
  m.impl("sample_maps_backward", sample_maps_backward_cpu);
  m.impl("sample_packed_masks", sample_packed_masks_cpu);
  m.impl("points_nearest_zero", points_nearest_zero_cpu);
}

}  // namespace mask2former
