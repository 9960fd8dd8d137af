// Which instruction set the CPU kernels use, and their names of tensors' types.

#pragma once

#include <ATen/core/Tensor.h>

#include "kernels.h"

namespace mask2former {

enum class InstructionSet { kPortable, kAvx2, kAvx512 };

// PyTorch's own choice, which the environment variable ATEN_CPU_CAPABILITY can lower.
InstructionSet instruction_set();

// Float for what is not a floating-point type.
Type type_of(const at::Tensor& tensor);

}  // namespace mask2former
