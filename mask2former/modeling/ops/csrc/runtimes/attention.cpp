#include "attention.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../cpu/choice.h"

namespace mask2former {
namespace {

// Some 0.1 ms of work: enough to be worth a thread, and little enough to be shared evenly.
constexpr int64_t kQueriesPerStep = 128;

std::string text(const int64_t* numbers, size_t count) {
  constexpr size_t kShown = 16;
  std::string result;
  for (size_t i = 0; i < std::min(count, kShown); ++i) {
    result += (i ? ", " : "") + std::to_string(numbers[i]);
  }
  return "(" + result + (count > kShown ? ", ...)" : ")");
}

std::string text(const Argument& argument) {
  return text(argument.shape.sizes, argument.shape.count);
}

}  // namespace

Attention::Attention(const Argument& value, const Argument& spatial_shapes,
                     const Argument& level_start_index, const Argument& sampling_locations,
                     const Argument& attention_weights)
    : forward_(chosen(avx512::kernels, avx2::kernels, portable::kernels)(Type::kFloat, Type::kFloat)
                   .forward) {
  if (!shapes_fit({value.shape, spatial_shapes.shape, level_start_index.shape,
                   sampling_locations.shape, attention_weights.shape})) {
    throw std::invalid_argument(
        "the shapes of ms_deform_attn's arguments must be value (B, S, H, D), spatial_shapes "
        "(L, 2), level_start_index (L), sampling_locations (B, Q, H, L, P, 2) and "
        "attention_weights (B, Q, H, L, P), got " +
        text(value) + ", " + text(spatial_shapes) + ", " + text(level_start_index) + ", " +
        text(sampling_locations) + " and " + text(attention_weights));
  }
  const auto* sizes = static_cast<const int64_t*>(spatial_shapes.data);
  const auto* starts = static_cast<const int64_t*>(level_start_index.data);
  const int64_t S = value.shape[1], L = spatial_shapes.shape[0];
  if (S > kMostPositions || !levels_fit(sizes, starts, L, S)) {
    throw std::invalid_argument(
        "the levels of ms_deform_attn must follow each other, and cover all " + std::to_string(S) +
        " positions (S) of value, at most " + std::to_string(kMostPositions) +
        ", got spatial_shapes " + text(sizes, 2 * L) + " and level_start_index " + text(starts, L));
  }
  problem_.B = value.shape[0];
  problem_.S = S;
  problem_.H = value.shape[2];
  problem_.D = value.shape[3];
  problem_.Q = sampling_locations.shape[1];
  problem_.L = L;
  problem_.P = sampling_locations.shape[4];
  problem_.shapes = sizes;
  problem_.starts = starts;
  problem_.value = value.data;
  problem_.locations = sampling_locations.data;
  problem_.weights = attention_weights.data;
}

std::array<int64_t, 3> Attention::output_shape() const {
  return {problem_.B, problem_.Q, problem_.H * problem_.D};
}

int64_t Attention::steps() const {
  return (problem_.B * problem_.Q + kQueriesPerStep - 1) / kQueriesPerStep;
}

void Attention::step(int64_t number, float* output) const {
  const int64_t begin = number * kQueriesPerStep;
  const int64_t end = std::min(begin + kQueriesPerStep, problem_.B * problem_.Q);
  const int64_t channels = problem_.H * problem_.D;
  if (problem_.L * problem_.P == 0) {  // nothing to sample
    std::fill(output + begin * channels, output + end * channels, 0.0f);
    return;
  }
  Problem problem = problem_;
  problem.output = output;
  forward_(problem, begin, end);
}

}  // namespace mask2former
