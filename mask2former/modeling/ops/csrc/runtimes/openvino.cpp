// A library that gives OpenVINO the operator `ms_deform_attn`, and its frontend for ONNX files the
// node of that name in the domain `mask2former`.

#include <tbb/parallel_for.h>

#include <memory>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/op.hpp>
#include <stdexcept>
#include <vector>

#include "attention.h"

namespace mask2former {
namespace {

// The integers of a tensor, which some devices hold in 32 bits.
std::vector<int64_t> integers(const ov::Tensor& tensor) {
  if (tensor.get_element_type() == ov::element::i64) {
    const auto* data = tensor.data<const int64_t>();
    return {data, data + tensor.get_size()};
  }
  const auto* data = tensor.data<const int32_t>();
  return {data, data + tensor.get_size()};
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
          this,
          type.is_dynamic() || (is_metadata ? type == ov::element::i64 || type == ov::element::i32
                                            : type == ov::element::f32),
          "input ", i, " must be ", is_metadata ? "int64" : "float32", ", not ", type);
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
    set_output_type(0, ov::element::f32, output);
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    check_new_args_count(this, inputs);
    return std::make_shared<MsDeformAttn>(inputs);
  }

  bool visit_attributes(ov::AttributeVisitor&) override { return true; }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const auto sizes = integers(inputs[1]), starts = integers(inputs[2]);
    std::vector<int64_t> shapes[5];
    const void* data[5] = {inputs[0].data<const float>(), sizes.data(), starts.data(),
                           inputs[3].data<const float>(), inputs[4].data<const float>()};
    Argument arguments[5];
    for (size_t i = 0; i < 5; ++i) {
      const ov::Shape shape = inputs[i].get_shape();
      shapes[i].assign(shape.begin(), shape.end());
      arguments[i] = {{shapes[i].data(), shapes[i].size()}, data[i]};
    }
    const Attention attention(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]);
    const auto shape = attention.output_shape();
    outputs[0].set_shape(ov::Shape(shape.begin(), shape.end()));
    float* output = outputs[0].data<float>();
    // On the threads of the caller's arena, which are those of the inference.
    tbb::parallel_for(int64_t{0}, attention.steps(),
                      [&](int64_t number) { attention.step(number, output); });
    return true;
  }
};

}  // namespace
}  // namespace mask2former

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>(
    {std::make_shared<ov::OpExtension<mask2former::MsDeformAttn>>(),
     std::make_shared<ov::frontend::onnx::OpExtension<mask2former::MsDeformAttn>>("ms_deform_attn",
                                                                                  "mask2former")}));
