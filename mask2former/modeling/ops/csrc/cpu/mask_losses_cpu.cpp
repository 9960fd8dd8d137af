// Losses on masks on the CPU: tensors to pointers, and division among threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

#include "choice.h"
#include "mask_losses.h"

namespace mask2former {
namespace {

using at::Tensor;

MaskLossKernels find_kernels() {
  return chosen(avx512::mask_loss_kernels, avx2::mask_loss_kernels, portable::mask_loss_kernels)();
}

void check(const Tensor& tensor, at::IntArrayRef shape, const char* name) {
  TORCH_CHECK_VALUE(tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.dim() == 2 &&
                        tensor.sizes() == shape,
                    name, " must be float32 ", shape, " on the CPU, got ", tensor.scalar_type(),
                    " ", tensor.sizes());
}

void run(MaskLossKernel kernel, const MaskLossProblem& p, int64_t rows) {
  // Enough numbers to be worth a thread.
  at::parallel_for(0, rows, 1 + (1 << 13) / (p.P + 1),
                   [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
}

at::IntArrayRef rows_of(const Tensor& logits) {
  TORCH_CHECK_VALUE(logits.dim() == 2, "logits must be (N, P), got ", logits.sizes());
  return logits.sizes();
}

Tensor mask_loss_sums_cpu(const Tensor& logits, const Tensor& targets) {
  check(logits, rows_of(logits), "logits");
  check(targets, logits.sizes(), "targets");
  const Tensor x = logits.contiguous(), t = targets.contiguous();
  Tensor sums = at::empty({x.size(0), kLossSums}, x.options().dtype(at::kDouble));
  MaskLossProblem p{};
  p.P = x.size(1);
  p.logits = x.const_data_ptr<float>();
  p.targets = t.const_data_ptr<float>();
  p.sums = sums.mutable_data_ptr<double>();
  run(find_kernels().sums, p, x.size(0));
  return sums.to(at::kFloat);
}

Tensor mask_loss_sums_backward_cpu(const Tensor& grad_sums, const Tensor& logits,
                                   const Tensor& targets) {
  check(logits, rows_of(logits), "logits");
  check(targets, logits.sizes(), "targets");
  check(grad_sums, {logits.size(0), kLossSums}, "grad_sums");
  const Tensor x = logits.contiguous(), t = targets.contiguous(), grad = grad_sums.contiguous();
  Tensor grad_logits = at::empty_like(x);
  MaskLossProblem p{};
  p.P = x.size(1);
  p.logits = x.const_data_ptr<float>();
  p.targets = t.const_data_ptr<float>();
  p.grad_sums = grad.const_data_ptr<float>();
  p.output = grad_logits.mutable_data_ptr<float>();
  run(find_kernels().backward, p, x.size(0));
  return grad_logits;
}

std::tuple<Tensor, Tensor> mask_probabilities_cpu(const Tensor& logits) {
  check(logits, rows_of(logits), "logits");
  const Tensor x = logits.contiguous();
  Tensor probabilities = at::empty_like(x);
  Tensor sums = at::empty({x.size(0), kLossSums}, x.options().dtype(at::kDouble));
  MaskLossProblem p{};
  p.P = x.size(1);
  p.logits = x.const_data_ptr<float>();
  p.sums = sums.mutable_data_ptr<double>();
  p.output = probabilities.mutable_data_ptr<float>();
  run(find_kernels().probabilities, p, x.size(0));
  return {probabilities, sums.to(at::kFloat)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former, CPU, m) {
  m.impl("mask_loss_sums", mask_loss_sums_cpu);
  m.impl("mask_loss_sums_backward", mask_loss_sums_backward_cpu);
  m.impl("mask_probabilities", mask_probabilities_cpu);
}

}  // namespace mask2former
