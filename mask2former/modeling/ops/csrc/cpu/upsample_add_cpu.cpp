// A map resized and added to another on the CPU: tensors to pointers, and division among threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <limits>
#include <vector>

#include "axis_tables.h"
#include "choice.h"
#include "tensor_types.h"
#include "upsample_add.h"

namespace mask2former {
namespace {

using at::Tensor;

UpsampleAddKernel find_kernel() {
  return chosen(avx512::upsample_add_kernel, avx2::upsample_add_kernel,
                portable::upsample_add_kernel)();
}

void check_arguments(const Tensor& lateral, const Tensor& above) {
  TORCH_CHECK_VALUE(lateral.is_cpu() && above.is_cpu(), "maps must be on the CPU");
  TORCH_CHECK_VALUE(lateral.dim() == 4 && above.dim() == 4 && lateral.size(0) == above.size(0) &&
                        lateral.size(1) == above.size(1),
                    "maps must be (B, C, H, W) and (B, C, h, w), got ", lateral.sizes(), " and ",
                    above.sizes());
  for (const Tensor* map : {&lateral, &above}) {
    TORCH_CHECK_VALUE(map->size(2) >= 1 && map->size(3) >= 1 &&
                          map->size(2) < std::numeric_limits<int32_t>::max() / 2 &&
                          map->size(3) < std::numeric_limits<int32_t>::max() / 2,
                      "maps must have pixels, got ", map->sizes());
  }
  TORCH_CHECK_VALUE(
      lateral.scalar_type() == above.scalar_type() &&
          (lateral.scalar_type() == at::kFloat || lateral.scalar_type() == at::kBFloat16 ||
           lateral.scalar_type() == at::kHalf),
      "maps must be float32, bfloat16 or float16, and the same, got ", lateral.scalar_type(),
      " and ", above.scalar_type());
  TORCH_CHECK_VALUE(
      lateral.is_contiguous() || lateral.is_contiguous(at::MemoryFormat::ChannelsLast),
      "the map that is added to must be contiguous");
}

Tensor& upsample_add_cpu(Tensor& lateral, const Tensor& above) {
  check_arguments(lateral, above);
  UpsampleAddProblem p{};
  p.B = lateral.size(0);
  p.C = lateral.size(1);
  p.H = lateral.size(2);
  p.W = lateral.size(3);
  p.h = above.size(2);
  p.w = above.size(3);
  p.channels_last = !lateral.is_contiguous();
  const Tensor source = above.contiguous(p.channels_last ? at::MemoryFormat::ChannelsLast
                                                         : at::MemoryFormat::Contiguous);
  const bool fused = instruction_set() != InstructionSet::kPortable;
  const AxisTables rows(p.h, p.H, p.H, fused), columns(p.w, p.W, p.W, fused);
  p.rows = rows.axis();
  p.columns = columns.axis();
  p.type = type_of(lateral);
  p.above = source.const_data_ptr();
  p.lateral = lateral.mutable_data_ptr();
  const UpsampleAddKernel kernel = find_kernel();
  at::parallel_for(0, p.B * (p.channels_last ? p.H : p.C), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(scratch_of(p));
    kernel(p, begin, end, scratch.data());
  });
  return lateral;
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former, CPU, m) { m.impl("upsample_add_", upsample_add_cpu); }

}  // namespace mask2former
