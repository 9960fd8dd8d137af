// The kernels' names of tensors' types.

#pragma once

#include <ATen/core/Tensor.h>

#include "kernels.h"

namespace mask2former {

// Float for what is not a floating-point type.
inline Type type_of(const at::Tensor& tensor) {
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
