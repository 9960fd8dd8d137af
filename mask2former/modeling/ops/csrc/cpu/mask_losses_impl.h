// The bodies of the CPU kernels for losses on masks; see vectors.h.

#include "instance_masks_impl.h"
#include "mask_losses.h"
#include "vectors.h"

namespace mask2former {
namespace MASK2FORMER_ISA {
namespace {

MASK2FORMER_INLINE Floats either(const Vector<int32_t, kFloats>& condition, const Floats& a,
                                 const Floats& b) {
  return condition ? a : b;
}

// The first `count` numbers, then zeros.
MASK2FORMER_INLINE Floats load_first(const float* p, int64_t count) {
  if (count >= kFloats) return load_vector(p);
  Floats x{};
  std::memcpy(&x, p, count * sizeof(float));
  return x;
}

MASK2FORMER_INLINE void store_first(float* p, const Floats& x, int64_t count) {
  if (count >= kFloats) return store_vector(p, x);
  std::memcpy(p, &x, count * sizeof(float));
}

// log(1 + e) for e in [0, 1], to about one rounding: 2 artanh(e / (2 + e)).
MASK2FORMER_INLINE Floats log_of_one_and(const Floats& e) {
  const Floats s = e / (e + 2.0f), z = s * s;
  Floats sum = z * (1.0f / 15) + 1.0f / 13;
  sum = sum * z + 1.0f / 11;
  sum = sum * z + 1.0f / 9;
  sum = sum * z + 1.0f / 7;
  sum = sum * z + 1.0f / 5;
  sum = sum * z + 1.0f / 3;
  return 2.0f * s + 2.0f * s * z * sum;
}

struct Logistic {
  Floats softplus, probability;  // NaN if the logit is
};

MASK2FORMER_INLINE Logistic logistic(const Floats& x) {
  const Floats zero{}, magnitude = either(x < zero, -x, x);
  const Floats e = exp_of_minus(magnitude), p = 1.0f / (e + 1.0f);
  const Floats bent = either(x > zero, x, zero) + log_of_one_and(e);
  return {either(x != x, x, bent), either(x != x, x, either(x < zero, e * p, p))};
}

template <bool kStore>
MASK2FORMER_INLINE void sums_of_row(const MaskLossProblem& p, int64_t row) {
  // A few hundred numbers at a time in float, all of them in double.
  constexpr int64_t kPart = 512;
  const float* logits = p.logits + row * p.P;
  double totals[kLossSums] = {};
  for (int64_t part = 0; part < p.P; part += kPart) {
    const int64_t end = p.P - part < kPart ? p.P : part + kPart;
    Floats sums[kLossSums] = {};
    for (int64_t i = part; i < end; i += kFloats) {
      const int64_t count = end - i;
      const Floats x = load_first(logits + i, count);
      Logistic found = logistic(x);
      if (count < kFloats) {  // what is behind the last one has no share
        for (int lane = count; lane < kFloats; ++lane) {
          found.softplus[lane] = 0;
          found.probability[lane] = 0;
        }
      }
      if (kStore) {
        store_first(p.output + row * p.P + i, found.probability, count);
        sums[0] += found.softplus;
        sums[1] += found.probability;
      } else {
        const Floats t = load_first(p.targets + row * p.P + i, count);
        sums[0] += found.softplus - t * x;
        sums[1] += found.probability;
        sums[2] += found.probability * t;
        sums[3] += t;
      }
    }
    for (int s = 0; s < kLossSums; ++s) totals[s] += total(sums[s]);
  }
  std::memcpy(p.sums + row * kLossSums, totals, sizeof(totals));
}

void mask_loss_sums(const MaskLossProblem& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) sums_of_row<false>(p, row);
}

void mask_probabilities(const MaskLossProblem& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) sums_of_row<true>(p, row);
}

void mask_loss_backward(const MaskLossProblem& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* grad = p.grad_sums + row * kLossSums;
    for (int64_t i = row * p.P; i < (row + 1) * p.P; i += kFloats) {
      const int64_t count = (row + 1) * p.P - i;
      const Floats x = load_first(p.logits + i, count), t = load_first(p.targets + i, count);
      const Floats magnitude = either(x < Floats{}, -x, x);
      const Floats e = exp_of_minus(magnitude), larger = 1.0f / (e + 1.0f);
      const Floats probability = either(x != x, x, either(x < Floats{}, e * larger, larger));
      const Floats slope = e * larger * larger;
      store_first(p.output + i, grad[0] * (probability - t) + (grad[1] + grad[2] * t) * slope,
                  count);
    }
  }
}

}  // namespace

MaskLossKernels mask_loss_kernels() {
  return {mask_loss_sums, mask_loss_backward, mask_probabilities};
}

}  // namespace MASK2FORMER_ISA
}  // namespace mask2former
