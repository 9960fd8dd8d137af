// Which instruction set the CPU kernels use, and their names of tensors' types.

#pragma once

#include <ATen/core/Tensor.h>

#include "kernels.h"

namespace mask2former {

enum class InstructionSet { kPortable, kAvx2, kAvx512 };

// PyTorch's own choice, which the environment variable ATEN_CPU_CAPABILITY can lower.
InstructionSet instruction_set();

// Of a function that is compiled for each instruction set, the form for `instruction_set`. The
// others must not even be called: what they return, they make with instructions of their own.
template <typename Function>
Function* chosen(Function* avx512, Function* avx2, Function* portable) {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return avx512;
    case InstructionSet::kAvx2:
      return avx2;
    default:
      return portable;
  }
}

// Float for what is not a floating-point type.
Type type_of(const at::Tensor& tensor);

}  // namespace mask2former
