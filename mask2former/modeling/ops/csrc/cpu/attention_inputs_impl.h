// The body of the CPU kernel for the inputs of deformable attention; see vectors.h.

#include <limits>

#include "attention_inputs.h"
#include "instance_masks_impl.h"
#include "vectors.h"

namespace mask2former {
namespace MASK2FORMER_ISA {
namespace {

// Combine all lanes, halves first.
template <int N, typename Combine>
MASK2FORMER_INLINE float of_lanes(const Vector<float, N>& x, const Combine& combine) {
  if constexpr (N > 4) {
    Vector<float, N / 2> halves[2];
    std::memcpy(halves, &x, sizeof(x));
    return of_lanes<N / 2>(combine(halves[0], halves[1]), combine);
  } else {
    const auto pairs = combine(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));
    return combine(pairs, __builtin_shufflevector(pairs, pairs, 1, 0, 3, 2))[0];
  }
}

// The softmax of `count` logits. Whole vectors are read and written.
MASK2FORMER_INLINE void softmax(const float* logits, int64_t count, float* weights) {
  using Ints = Vector<int32_t, kFloats>;
  Ints lanes{};
  for (int i = 0; i < kFloats; ++i) lanes[i] = i;
  const Floats least = broadcast(-std::numeric_limits<float>::infinity());
  const auto loaded = [&](int64_t first) {
    const Ints left = Ints{} + static_cast<int32_t>(count - first);
    return lanes < left ? load_vector(logits + first) : least;
  };
  Floats most = least;
  for (int64_t i = 0; i < count; i += kFloats) {
    const Floats x = loaded(i);
    most = x > most ? x : most;
  }
  most = broadcast(of_lanes<kFloats>(most, [](auto a, auto b) { return a > b ? a : b; }));
  Floats sums{};
  for (int64_t i = 0; i < count; i += kFloats) {
    const Floats below = most - loaded(i);
    const Ints left = Ints{} + static_cast<int32_t>(count - i);
    Floats share = exp_of_minus(below);
    share = below == below ? share : below;  // NaN, also where logits are infinite
    share = lanes < left ? share : Floats{};
    sums += share;
    store_vector(weights + i, share);
  }
  const float sum = of_lanes<kFloats>(sums, [](auto a, auto b) { return a + b; });
  for (int64_t i = 0; i < count; i += kFloats) {
    store_vector(weights + i, load_vector(weights + i) / sum);
  }
}

template <typename T>
void attention_inputs_of(const AttentionInputs& p, int64_t begin, int64_t end, float* scratch) {
  const int64_t weights_of_query = p.H * p.points, offsets = 2 * weights_of_query;
  float* locations = scratch;
  float* weights = scratch + (end - begin) * offsets;
  float* const logits = weights + (end - begin) * weights_of_query + kFloats;
  for (int64_t query = begin; query < end; ++query) {
    const T* projected = static_cast<const T*>(p.projected) + query * (offsets + weights_of_query);
    const float* reference = p.references + 2 * (query % p.Q);
    Floats xy{};
    for (int i = 0; i < kFloats; ++i) xy[i] = reference[i & 1];
    int64_t i = 0;
    for (; i + kFloats <= offsets; i += kFloats) {
      store_vector(locations + i, load_vector(projected + i) + xy);
    }
    for (; i < offsets; ++i) locations[i] = load(projected + i) + reference[i & 1];
    convert_row(projected + offsets, weights_of_query, logits);
    // In this order: what is written behind the weights of a head is where the next one's come.
    for (int64_t head = 0; head < p.H; ++head) {
      softmax(logits + head * p.points, p.points, weights + head * p.points);
    }
    locations += offsets;
    weights += weights_of_query;
  }
}

void attention_inputs(const AttentionInputs& p, int64_t begin, int64_t end, float* scratch) {
  if (p.type == Type::kFloat) {
    attention_inputs_of<float>(p, begin, end, scratch);
  } else if (p.type == Type::kBFloat16) {
    attention_inputs_of<BFloat16>(p, begin, end, scratch);
  } else {
    attention_inputs_of<Half>(p, begin, end, scratch);
  }
}

}  // namespace

AttentionInputsKernel attention_inputs_kernel() { return attention_inputs; }

}  // namespace MASK2FORMER_ISA
}  // namespace mask2former
