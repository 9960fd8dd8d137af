#include "checks.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

namespace mask2former {
namespace {

using at::ScalarType;
using at::Tensor;

// As Python prints a tuple.
std::string tuple(at::IntArrayRef sizes) {
  std::ostringstream text;
  text << "(";
  for (size_t i = 0; i < sizes.size(); ++i) text << (i ? ", " : "") << sizes[i];
  text << (sizes.size() == 1 ? ",)" : ")");
  return text.str();
}

std::string list(const int64_t* numbers, int64_t count) {
  std::ostringstream text;
  text << "[";
  for (int64_t i = 0; i < count; ++i) text << (i ? ", " : "") << numbers[i];
  text << "]";
  return text.str();
}

std::string list_of_pairs(const int64_t* numbers, int64_t count) {
  std::string text = "[";
  for (int64_t i = 0; i < count; ++i) text += (i ? ", " : "") + list(numbers + 2 * i, 2);
  return text + "]";
}

// As Python prints a dtype, without "torch.".
std::string name(ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    case at::kLong:
      return "int64";
    case at::kInt:
      return "int32";
    case at::kShort:
      return "int16";
    case at::kChar:
      return "int8";
    case at::kByte:
      return "uint8";
    case at::kBool:
      return "bool";
    case at::kComplexFloat:
      return "complex64";
    case at::kComplexDouble:
      return "complex128";
    default:
      return c10::toString(type);
  }
}

bool is_half(ScalarType type) { return type == at::kHalf || type == at::kBFloat16; }

void check_like(const char* what, const Tensor& tensor, const char* other_name, const Tensor& other,
                std::initializer_list<ScalarType> allowed) {
  bool fits = tensor.device() == other.device();
  bool type_fits = false;
  std::string expected;
  for (ScalarType type : allowed) {
    type_fits |= tensor.scalar_type() == type;
    expected += (expected.empty() ? "" : " or ") + name(type);
  }
  fits &= type_fits;
  TORCH_CHECK_VALUE(fits, other_name, " is ", name(other.scalar_type()), " on ",
                    other.device().str(), ", but ", what, " is ", name(tensor.scalar_type()),
                    " on ", tensor.device().str(), "; it must be ", expected, " on ",
                    other.device().str());
}

void check_metadata_tensor(const char* what, const Tensor& tensor, const Tensor& value) {
  TORCH_CHECK_VALUE(tensor.scalar_type() == at::kLong, what, " must be int64, got ",
                    name(tensor.scalar_type()));
  TORCH_CHECK_VALUE(tensor.is_cpu() || tensor.device() == value.device(), "value is on ",
                    value.device().str(), ", but ", what, " is on ", tensor.device().str(),
                    "; it must be on the CPU or where value is");
}

// The data of metadata on the CPU.
void check_sizes(const Tensor& value, const Tensor& spatial_shapes,
                 const Tensor& level_start_index) {
  if (!spatial_shapes.is_cpu()) return;
  const Tensor shapes_tensor = spatial_shapes.contiguous();
  const int64_t* shapes = shapes_tensor.const_data_ptr<int64_t>();
  const int64_t L = spatial_shapes.size(0);
  // As a double: the product of wrong sizes may be beyond an integer.
  double total = 0;
  for (int64_t i = 0; i < L; ++i) {
    TORCH_CHECK_VALUE(shapes[2 * i] >= 1 && shapes[2 * i + 1] >= 1,
                      "spatial_shapes must be 1 or larger, got ", list_of_pairs(shapes, L));
    total += static_cast<double>(shapes[2 * i]) * static_cast<double>(shapes[2 * i + 1]);
  }
  TORCH_CHECK_VALUE(total == static_cast<double>(value.size(1)), "spatial_shapes ",
                    list_of_pairs(shapes, L), " cover ",
                    total < 9e15 ? std::to_string(static_cast<int64_t>(total)) : "too many",
                    " positions, but value ", tuple(value.sizes()), " has ", value.size(1));
  if (!level_start_index.is_cpu()) return;
  const Tensor starts_tensor = level_start_index.contiguous();
  const int64_t* starts = starts_tensor.const_data_ptr<int64_t>();
  std::vector<int64_t> expected(L);
  for (int64_t i = 1; i < L; ++i) {
    expected[i] = expected[i - 1] + shapes[2 * (i - 1)] * shapes[2 * (i - 1) + 1];
  }
  TORCH_CHECK_VALUE(std::equal(expected.begin(), expected.end(), starts),
                    "level_start_index must be ", list(expected.data(), L), " for spatial_shapes ",
                    list_of_pairs(shapes, L), ", got ", list(starts, L));
}

}  // namespace

void check_forward(const Tensor& value, const Tensor& spatial_shapes,
                   const Tensor& level_start_index, const Tensor& sampling_locations,
                   const Tensor& attention_weights) {
  TORCH_CHECK_VALUE(value.dim() == 4, "value must be (B, S, H, D), got ", tuple(value.sizes()));
  TORCH_CHECK_VALUE(spatial_shapes.dim() == 2 && spatial_shapes.size(1) == 2,
                    "spatial_shapes must be (L, 2), got ", tuple(spatial_shapes.sizes()));
  const int64_t B = value.size(0), H = value.size(2), L = spatial_shapes.size(0);
  TORCH_CHECK_VALUE(level_start_index.dim() == 1 && level_start_index.size(0) == L,
                    "level_start_index must be (L=", L, ",), got ",
                    tuple(level_start_index.sizes()));
  const auto shape = sampling_locations.sizes();
  TORCH_CHECK_VALUE(
      shape.size() == 6 && shape[0] == B && shape[2] == H && shape[3] == L && shape[5] == 2,
      "sampling_locations must be (B=", B, ", Q, H=", H, ", L=", L, ", P, 2), got ", tuple(shape));
  TORCH_CHECK_VALUE(attention_weights.sizes() == shape.slice(0, 5), "attention_weights must be ",
                    tuple(shape.slice(0, 5)), " like sampling_locations, got ",
                    tuple(attention_weights.sizes()));
  const ScalarType type = value.scalar_type();
  TORCH_CHECK_VALUE(type == at::kFloat || type == at::kDouble || is_half(type),
                    "value must be float32, float64, bfloat16 or float16, got ", name(type));
  if (is_half(type)) {
    check_like("sampling_locations", sampling_locations, "value", value, {type, at::kFloat});
  } else {
    check_like("sampling_locations", sampling_locations, "value", value, {type});
  }
  check_like("attention_weights", attention_weights, "sampling_locations", sampling_locations,
             {sampling_locations.scalar_type()});
  check_metadata_tensor("spatial_shapes", spatial_shapes, value);
  check_metadata_tensor("level_start_index", level_start_index, value);
  check_sizes(value, spatial_shapes, level_start_index);
}

void check_backward(const Tensor& grad_output, const Tensor& value, const Tensor& spatial_shapes,
                    const Tensor& level_start_index, const Tensor& sampling_locations,
                    const Tensor& attention_weights) {
  check_forward(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const int64_t B = value.size(0), Q = sampling_locations.size(1);
  const int64_t channels = value.size(2) * value.size(3);
  TORCH_CHECK_VALUE(grad_output.sizes() == at::IntArrayRef({B, Q, channels}),
                    "grad_output must be (B=", B, ", Q=", Q, ", H*D=", channels, "), got ",
                    tuple(grad_output.sizes()));
  check_like("grad_output", grad_output, "value", value, {value.scalar_type()});
}

}  // namespace mask2former
