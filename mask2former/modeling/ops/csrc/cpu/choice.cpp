#include "choice.h"

#include <ATen/Version.h>

#include <string>

namespace mask2former {

InstructionSet instruction_set() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const std::string capability = at::get_cpu_capability();
  static const bool has_avx512 = capability == "AVX512" && __builtin_cpu_supports("avx512f") &&
                                 __builtin_cpu_supports("avx512vl") &&
                                 __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512dq");
  static const bool has_avx2 = (capability == "AVX512" || capability == "AVX2") &&
                               __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                               __builtin_cpu_supports("f16c");
  if (has_avx512 && has_avx2) return InstructionSet::kAvx512;
  if (has_avx2) return InstructionSet::kAvx2;
#endif
  return InstructionSet::kPortable;
}

Type type_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return Type::kDouble;
    case at::kBFloat16:
      return Type::kBFloat16;
    case at::kHalf:
      return Type::kHalf;
    default:
      return Type::kFloat;
  }
}

}  // namespace mask2former
