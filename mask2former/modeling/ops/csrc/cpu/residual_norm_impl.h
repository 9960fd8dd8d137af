// The body of the CPU kernel that normalises sums of two rows; see vectors.h.

#include <cmath>

#include "instance_masks_impl.h"
#include "residual_norm.h"
#include "vectors.h"

namespace mask2former {
namespace MASK2FORMER_ISA {
namespace {

template <typename X, typename T>
void residual_norm(const ResidualNormProblem& p, int64_t begin, int64_t end, float* sums) {
  const int64_t whole = p.C / kFloats * kFloats;
  for (int64_t number = begin; number < end; ++number) {
    const int64_t image = number / p.rows, row = number - image * p.rows;
    const X* x = static_cast<const X*>(p.x) + image * p.x_image + row * p.C;
    const T* branch = static_cast<const T*>(p.branch) + number * p.C;
    X* out = static_cast<X*>(p.out) + image * p.out_image + row * p.C;
    Floats total_sums{};
    for (int64_t c = 0; c < whole; c += kFloats) {
      const Floats sum = load_vector(x + c) + load_vector(branch + c);
      store_vector(sums + c, sum);
      total_sums += sum;
    }
    float mean = total(total_sums);
    for (int64_t c = whole; c < p.C; ++c) mean += sums[c] = load(x + c) + load(branch + c);
    mean /= p.C;
    Floats squares{};
    for (int64_t c = 0; c < whole; c += kFloats) {
      const Floats d = load_vector(sums + c) - mean;
      squares += d * d;
    }
    float variance = total(squares);
    for (int64_t c = whole; c < p.C; ++c) variance += (sums[c] - mean) * (sums[c] - mean);
    const float factor = 1 / std::sqrt(variance / p.C + p.eps);
    for (int64_t c = 0; c < whole; c += kFloats) {
      const Floats normed = (load_vector(sums + c) - mean) * factor;
      store_floats(out + c, normed * load_vector(p.weight + c) + load_vector(p.bias + c));
    }
    for (int64_t c = whole; c < p.C; ++c) {
      store(out + c, (sums[c] - mean) * factor * p.weight[c] + p.bias[c]);
    }
  }
}

}  // namespace

ResidualNormKernel residual_norm_kernel(Type x, Type branch) {
  switch (branch) {
    case Type::kBFloat16:
      return x == Type::kFloat ? residual_norm<float, BFloat16> : residual_norm<BFloat16, BFloat16>;
    case Type::kHalf:
      return x == Type::kFloat ? residual_norm<float, Half> : residual_norm<Half, Half>;
    default:
      return residual_norm<float, float>;
  }
}

}  // namespace MASK2FORMER_ISA
}  // namespace mask2former
