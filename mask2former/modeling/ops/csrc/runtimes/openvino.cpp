// A library that gives OpenVINO the operator `ms_deform_attn`, and its frontend for ONNX files the
// node of that name in the domain `mask2former`.

#include <tbb/parallel_for.h>

#include <algorithm>
#include <memory>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/op.hpp>
#include <openvino/op/util/precision_sensitive_attribute.hpp>
#include <stdexcept>
#include <vector>

#include "attention.h"

namespace mask2former {
namespace {

// An input as numbers of type T, converted where the device holds others. The tensor outlives it.
template <typename T>
class Input {
 public:
  explicit Input(const ov::Tensor& tensor) : data_(tensor.data()) {
    const ov::Shape shape = tensor.get_shape();
    sizes_.assign(shape.begin(), shape.end());
    const auto type = tensor.get_element_type();
    if (type == ov::element::i32) convert<int32_t>(tensor.get_size());
    if (type == ov::element::f16) convert<ov::float16>(tensor.get_size());
    if (type == ov::element::bf16) convert<ov::bfloat16>(tensor.get_size());
  }
  Input(const Input&) = delete;

  Argument argument() const { return {{sizes_.data(), sizes_.size()}, data_}; }

 private:
  template <typename From>
  void convert(size_t count) {
    const auto* numbers = static_cast<const From*>(data_);
    converted_.assign(numbers, numbers + count);
    data_ = converted_.data();
  }

  std::vector<int64_t> sizes_;
  std::vector<T> converted_;
  const void* data_;
};

void run(const Attention& attention, float* output) {
  // On the threads of the caller's arena, which are those of the inference.
  tbb::parallel_for(int64_t{0}, attention.steps(),
                    [&](int64_t number) { attention.step(number, output); });
}

bool is_float(const ov::element::Type& type) {
  return type == ov::element::f32 || type == ov::element::f16 || type == ov::element::bf16;
}

bool is_integer(const ov::element::Type& type) {
  return type == ov::element::i64 || type == ov::element::i32;
}

class MsDeformAttn : public ov::op::Op {
 public:
  OPENVINO_OP("ms_deform_attn", "mask2former");

  MsDeformAttn() = default;
  explicit MsDeformAttn(const ov::OutputVector& arguments) : Op(arguments) {
    constructor_validate_and_infer_types();
  }

  void validate_and_infer_types() override {
    NODE_VALIDATION_CHECK(this, get_input_size() == 5, "it takes 5 inputs, not ", get_input_size());
    for (size_t i = 0; i < 5; ++i) {
      const auto type = get_input_element_type(i);
      const bool is_metadata = i == 1 || i == 2;
      NODE_VALIDATION_CHECK(
          this, type.is_dynamic() || (is_metadata ? is_integer(type) : is_float(type)), "input ", i,
          " must be ", is_metadata ? "int64" : "float32", ", not ", type);
    }
    const auto &value = get_input_partial_shape(0), &locations = get_input_partial_shape(3);
    auto output = ov::PartialShape::dynamic(3);
    if (value.rank().is_static()) {
      NODE_VALIDATION_CHECK(this, value.size() == 4, "value must be (B, S, H, D), not ", value);
      output[0] = value[0];
      output[2] = value[2] * value[3];
    }
    if (locations.rank().is_static()) {
      NODE_VALIDATION_CHECK(this, locations.size() == 6,
                            "sampling_locations must be (B, Q, H, L, P, 2), not ", locations);
      NODE_VALIDATION_CHECK(this, ov::Dimension::merge(output[0], output[0], locations[0]),
                            "value and sampling_locations have different batches");
      output[1] = locations[1];
    }
    // In half precision, locations could not tell neighbouring pixels of a large map apart.
    ov::mark_as_precision_sensitive(input(3));
    set_output_type(0, get_input_element_type(0), output);
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    check_new_args_count(this, inputs);
    return std::make_shared<MsDeformAttn>(inputs);
  }

  bool visit_attributes(ov::AttributeVisitor&) override { return true; }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const Input<float> value(inputs[0]), locations(inputs[3]), weights(inputs[4]);
    const Input<int64_t> sizes(inputs[1]), starts(inputs[2]);
    const Attention attention(value.argument(), sizes.argument(), starts.argument(),
                              locations.argument(), weights.argument());
    const auto shape = attention.output_shape();
    ov::Tensor& output = outputs[0];
    output.set_shape(ov::Shape(shape.begin(), shape.end()));
    if (output.get_element_type() == ov::element::f32) {
      run(attention, output.data<float>());
      return true;
    }
    std::vector<float> sums(output.get_size());
    run(attention, sums.data());
    if (output.get_element_type() == ov::element::f16) {
      std::copy(sums.begin(), sums.end(), output.data<ov::float16>());
    } else {
      std::copy(sums.begin(), sums.end(), output.data<ov::bfloat16>());
    }
    return true;
  }
};

}  // namespace
}  // namespace mask2former

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<mask2former::MsDeformAttn>>(),
     std::make_shared<ov::frontend::onnx::OpExtension<mask2former::MsDeformAttn>>("ms_deform_attn",
                                                                                  "mask2former")}));
