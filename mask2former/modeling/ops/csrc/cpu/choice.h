// Which instruction set the CPU kernels use.

#pragma once

namespace mask2former {

enum class InstructionSet { kPortable, kAvx2, kAvx512 };

// The best that the processor has, or less by the environment variable that lowers PyTorch's own
// choice: ATEN_CPU_CAPABILITY=default or avx2.
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

}  // namespace mask2former
