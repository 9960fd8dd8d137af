// Where the outputs of a bilinear resizing are between its inputs.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "instance_masks.h"

namespace mask2former {

// The first `outputs` of an axis that bilinear resizing takes from `inputs` to `size` pixels, by
// the arithmetic of torch.nn.functional.interpolate with align_corners=False.
class AxisTables {
 public:
  // `fused`: whether the kernels' instruction set multiplies and adds with a single rounding.
  AxisTables(int64_t inputs, int64_t size, int64_t outputs, bool fused)
      : inputs_(inputs), outputs_(outputs), narrow_(inputs < size) {
    const float scale = static_cast<float>(inputs) / static_cast<float>(size);
    for (int64_t i = 0; i < outputs + kTablePadding; ++i) {
      const int64_t output = std::min(i, outputs - 1);
      if (inputs == size) {
        add(output, output, 0.0f);
        continue;
      }
      const float centre = static_cast<float>(output) + 0.5f;
      const float place = fused ? std::fma(scale, centre, -0.5f) : scale * centre - 0.5f;
      const float position = std::max(place, 0.0f);
      const int64_t before = std::min(static_cast<int64_t>(position), inputs - 1);
      const float share = std::min(std::max(position - static_cast<float>(before), 0.0f), 1.0f);
      add(before, std::min(before + 1, inputs - 1), share);
    }
    for (int64_t i = 0; narrow_ && i + 16 <= outputs + kTablePadding; i += 8) {
      narrow_ = at_[i + 7] - at_[i] <= 7 && (i % 16 || at_[i + 15] - at_[i] <= 15);
    }
  }

  Axis axis() const {
    return {inputs_,       outputs_,           at_.data(), next_.data(),
            share_.data(), next_share_.data(), narrow_};
  }

 private:
  void add(int64_t at, int64_t next, float next_share) {
    at_.push_back(static_cast<int32_t>(at));
    next_.push_back(static_cast<int32_t>(next));
    share_.push_back(1.0f - next_share);
    next_share_.push_back(next_share);
  }

  int64_t inputs_, outputs_;
  bool narrow_;
  std::vector<int32_t> at_, next_;
  std::vector<float> share_, next_share_;
};

}  // namespace mask2former
