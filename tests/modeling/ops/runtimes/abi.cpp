// Compiles only if onnxruntime_abi.h says the same as the headers of onnxruntime.

#include <onnxruntime_c_api.h>

#include <type_traits>

#include "mask2former/modeling/ops/csrc/runtimes/onnxruntime_abi.h"

namespace ours = mask2former::onnxruntime;

#define SAME_PLACE(OUR_STRUCT, OUR_NAME, STRUCT, NAME)                                  \
  static_assert(offsetof(ours::OUR_STRUCT, OUR_NAME) == offsetof(STRUCT, NAME), #NAME); \
  static_assert(sizeof(ours::OUR_STRUCT::OUR_NAME) == sizeof(STRUCT::NAME), #NAME)
#define FUNCTION(NAME) SAME_PLACE(Api, NAME, OrtApi, NAME)
#define MEMBER(NAME) SAME_PLACE(CustomOp, NAME, OrtCustomOp, NAME)

FUNCTION(CreateStatus);
FUNCTION(CreateCustomOpDomain);
FUNCTION(CustomOpDomain_Add);
FUNCTION(AddCustomOpDomain);
FUNCTION(GetTensorMutableData);
FUNCTION(GetDimensionsCount);
FUNCTION(GetDimensions);
FUNCTION(GetTensorTypeAndShape);
FUNCTION(KernelContext_GetInput);
FUNCTION(KernelContext_GetOutput);
FUNCTION(ReleaseTensorTypeAndShapeInfo);
FUNCTION(KernelContext_ParallelFor);

MEMBER(version);
MEMBER(CreateKernel);
MEMBER(GetName);
MEMBER(GetExecutionProviderType);
MEMBER(GetInputType);
MEMBER(GetInputTypeCount);
MEMBER(GetOutputType);
MEMBER(GetOutputTypeCount);
MEMBER(KernelCompute);
MEMBER(KernelDestroy);
MEMBER(GetInputCharacteristic);
MEMBER(GetOutputCharacteristic);
MEMBER(GetInputMemoryType);
MEMBER(GetVariadicInputMinArity);
MEMBER(GetVariadicInputHomogeneity);
MEMBER(GetVariadicOutputMinArity);
MEMBER(GetVariadicOutputHomogeneity);
MEMBER(CreateKernelV2);
MEMBER(KernelComputeV2);
MEMBER(GetStartVersion);
MEMBER(GetEndVersion);
SAME_PLACE(CustomOp, InferOutputShape, OrtCustomOp, InferOutputShapeFn);

SAME_PLACE(ApiBase, GetApi, OrtApiBase, GetApi);
SAME_PLACE(ApiBase, GetVersionString, OrtApiBase, GetVersionString);

static_assert(ours::kFail == ORT_FAIL && ours::kInvalidArgument == ORT_INVALID_ARGUMENT);
static_assert(ours::kFloat == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
static_assert(ours::kInt64 == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
static_assert(INPUT_OUTPUT_REQUIRED == 0 && OrtMemTypeDefault == 0);
static_assert(ours::kVersion <= ORT_API_VERSION);
