#include "arguments.h"

#include <algorithm>

namespace mask2former {

bool operator==(const Shape& a, const Shape& b) {
  return std::equal(a.sizes, a.sizes + a.count, b.sizes, b.sizes + b.count);
}

bool shapes_fit(const ArgumentShapes& shapes) {
  const Shape &value = shapes.value, &sizes = shapes.spatial_shapes;
  const Shape& locations = shapes.sampling_locations;
  if (value.count != 4 || sizes.count != 2 || locations.count != 6) return false;
  const int64_t L = sizes[0];
  const int64_t wanted[] = {value[0], locations[1], value[2], L, locations[4], 2};
  return sizes[1] == 2 && shapes.level_start_index == Shape{&L, 1} &&
         locations == Shape{wanted, 6} && shapes.attention_weights == Shape{wanted, 5};
}

bool levels_fit(const int64_t* spatial_shapes, const int64_t* level_start_index, int64_t L,
                int64_t S) {
  int64_t total = 0;
  for (int64_t l = 0; l < L; ++l) {
    const int64_t height = spatial_shapes[2 * l], width = spatial_shapes[2 * l + 1];
    // A division, since the product of wrong sizes may be beyond an integer.
    if (height < 1 || width < 1 || height > (S - total) / width) return false;
    if (level_start_index && level_start_index[l] != total) return false;
    total += height * width;
  }
  return total == S;
}

}  // namespace mask2former
