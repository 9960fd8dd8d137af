// A library that gives onnxruntime the operator `ms_deform_attn` of the domain `mask2former`.

#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attention.h"
#include "onnxruntime_abi.h"

namespace mask2former::onnxruntime {
namespace {

// An exception that carries onnxruntime's own error.
struct Failure {
  Status* status;
};

void check(Status* status) {
  if (status) throw Failure{status};
}

// No exception may leave a function that onnxruntime calls.
template <typename Function>
Status* status_of(const Api& api, const Function& function) noexcept {
  try {
    function();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::invalid_argument& error) {
    return api.CreateStatus(kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return api.CreateStatus(kFail, error.what());
  }
}

std::vector<int64_t> sizes_of(const Api& api, const Value* value) {
  ShapeInfo* info = nullptr;
  check(api.GetTensorTypeAndShape(value, &info));
  const std::unique_ptr<ShapeInfo, void (*)(ShapeInfo*)> owner(info,
                                                               api.ReleaseTensorTypeAndShapeInfo);
  size_t count = 0;
  check(api.GetDimensionsCount(info, &count));
  std::vector<int64_t> sizes(count);
  check(api.GetDimensions(info, sizes.data(), count));
  return sizes;
}

void* data_of(const Api& api, const Value* value) {
  void* data = nullptr;
  check(api.GetTensorMutableData(const_cast<Value*>(value), &data));
  return data;
}

constexpr size_t kInputs = 5;

void run(const Api& api, KernelContext* context) {
  std::vector<int64_t> sizes[kInputs];
  Argument arguments[kInputs];
  for (size_t i = 0; i < kInputs; ++i) {
    const Value* value = nullptr;
    check(api.KernelContext_GetInput(context, i, &value));
    if (!value) {
      throw std::invalid_argument("ms_deform_attn has no input " + std::to_string(i));
    }
    sizes[i] = sizes_of(api, value);
    arguments[i] = {{sizes[i].data(), sizes[i].size()}, data_of(api, value)};
  }
  const Attention attention(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]);
  const auto shape = attention.output_shape();
  Value* output = nullptr;
  check(api.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
  std::pair<const Attention&, float*> work(attention, static_cast<float*>(data_of(api, output)));
  const auto step = [](void* data, size_t number) {
    const auto& [attention, output] = *static_cast<decltype(work)*>(data);
    attention.step(static_cast<int64_t>(number), output);
  };
  if (attention.steps() > 0) {
    check(api.KernelContext_ParallelFor(context, step, attention.steps(), 0, &work));
  }
}

int required(const CustomOp*, size_t) { return 0; }
int none(const CustomOp*) { return 0; }

CustomOp make_op() {
  CustomOp op{};
  op.version = kVersion;
  op.GetName = [](const CustomOp*) { return "ms_deform_attn"; };
  op.GetExecutionProviderType = [](const CustomOp*) { return "CPUExecutionProvider"; };
  op.GetInputTypeCount = [](const CustomOp*) { return kInputs; };
  op.GetInputType = [](const CustomOp*, size_t index) {
    return index == 1 || index == 2 ? kInt64 : kFloat;
  };
  op.GetOutputTypeCount = [](const CustomOp*) { return size_t{1}; };
  op.GetOutputType = [](const CustomOp*, size_t) { return kFloat; };
  op.GetInputCharacteristic = required;
  op.GetOutputCharacteristic = required;
  op.GetInputMemoryType = required;
  op.GetVariadicInputMinArity = none;
  op.GetVariadicInputHomogeneity = none;
  op.GetVariadicOutputMinArity = none;
  op.GetVariadicOutputHomogeneity = none;
  op.GetStartVersion = [](const CustomOp*) { return 1; };
  op.GetEndVersion = [](const CustomOp*) { return 1; };
  // The operator has no state: its kernel is the table of functions.
  op.CreateKernelV2 = [](const CustomOp*, const Api* api, const KernelInfo*,
                         void** kernel) -> Status* {
    *kernel = const_cast<Api*>(api);
    return nullptr;
  };
  op.KernelDestroy = [](void*) {};
  op.KernelComputeV2 = [](void* kernel, KernelContext* context) {
    const Api& api = *static_cast<const Api*>(kernel);
    return status_of(api, [&] { run(api, context); });
  };
  return op;
}

// The domain with the operator. Sessions use it until they end, so it is never released; there is
// one for each onnxruntime in the process.
Domain* domain_of(const Api& api) {
  static const CustomOp op = make_op();
  static std::mutex mutex;
  static std::vector<std::pair<const Api*, Domain*>> domains;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& [owner, domain] : domains) {
    if (owner == &api) return domain;
  }
  Domain* domain = nullptr;
  check(api.CreateCustomOpDomain("mask2former", &domain));
  check(api.CustomOpDomain_Add(domain, &op));
  domains.emplace_back(&api, domain);
  return domain;
}

}  // namespace

// What onnxruntime looks for in a library.
extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(SessionOptions* options,
                                                                            const ApiBase* base) {
  const Api* api = base->GetApi(kVersion);
  if (!api) {
    const std::string message = std::string(
                                    "the operators of mask2former need onnxruntime 1.17 "
                                    "or newer, this is ") +
                                base->GetVersionString();
    return base->GetApi(1)->CreateStatus(kFail, message.c_str());
  }
  return status_of(*api, [&] { check(api->AddCustomOpDomain(options, domain_of(*api))); });
}

}  // namespace mask2former::onnxruntime
