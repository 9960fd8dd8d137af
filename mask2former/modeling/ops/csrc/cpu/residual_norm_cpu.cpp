// Normalised sums of two rows on the CPU: tensors to pointers, and division among threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <vector>

#include "choice.h"
#include "residual_norm.h"
#include "tensor_types.h"

namespace mask2former {
namespace {

using at::Tensor;

bool rows_follow_each_other(const Tensor& x) {
  return x.dim() == 3 && (x.numel() == 0 || x.select(0, 0).is_contiguous());
}

Tensor& residual_norm_cpu(const Tensor& x, const Tensor& branch_, const Tensor& weight_,
                          const Tensor& bias_, double eps, Tensor& out) {
  TORCH_CHECK_VALUE(rows_follow_each_other(x) && rows_follow_each_other(out),
                    "x and out must be (B, rows, C), and each image contiguous, got ", x.sizes(),
                    " and ", out.sizes());
  TORCH_CHECK_VALUE(branch_.sizes() == x.sizes() && out.sizes() == x.sizes(),
                    "x, branch and out must have the same shape, got ", x.sizes(), ", ",
                    branch_.sizes(), " and ", out.sizes());
  const auto type = branch_.scalar_type(), x_type = x.scalar_type();
  TORCH_CHECK_VALUE((type == at::kFloat || type == at::kBFloat16 || type == at::kHalf) &&
                        (x_type == type || x_type == at::kFloat) && out.scalar_type() == x_type,
                    "branch must be float32, bfloat16 or float16, x the same or float32, and out "
                    "like x, got ",
                    type, ", ", x_type, " and ", out.scalar_type());
  for (const Tensor* tensor : {&weight_, &bias_}) {
    TORCH_CHECK_VALUE(
        tensor->scalar_type() == at::kFloat && tensor->dim() == 1 && tensor->size(0) == x.size(2),
        "weight and bias must be float32 (C=", x.size(2), "), got ", tensor->scalar_type(), " ",
        tensor->sizes());
  }
  if (x.numel() == 0) return out;
  const Tensor branch = branch_.contiguous();
  const Tensor weight = weight_.contiguous(), bias = bias_.contiguous();
  ResidualNormProblem p{};
  p.rows = x.size(1);
  p.C = x.size(2);
  p.x_image = x.stride(0);
  p.out_image = out.stride(0);
  p.x = x.const_data_ptr();
  p.branch = branch.const_data_ptr();
  p.weight = weight.const_data_ptr<float>();
  p.bias = bias.const_data_ptr<float>();
  p.eps = static_cast<float>(eps);
  p.out = out.mutable_data_ptr();
  const ResidualNormKernel kernel =
      chosen(avx512::residual_norm_kernel, avx2::residual_norm_kernel,
             portable::residual_norm_kernel)(type_of(x), type_of(branch));
  // Enough rows to be worth a thread.
  at::parallel_for(0, x.size(0) * p.rows, 1 + (1 << 14) / p.C, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(p.C);
    kernel(p, begin, end, scratch.data());
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former, CPU, m) { m.impl("residual_norm", residual_norm_cpu); }

}  // namespace mask2former
