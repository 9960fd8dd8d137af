// The part of onnxruntime's C interface that a library of operators needs.
//
// Packages of onnxruntime for Python bring no headers. None are needed: the interface is binary
// compatible from version to version. A function keeps its place in the table of functions, new
// ones are appended, and a struct that a library fills says for which version it does. Here are the
// places of the functions in use, all of them in the table of version 1.17 and later.

#pragma once

#include <cstddef>
#include <cstdint>

namespace mask2former::onnxruntime {

constexpr uint32_t kVersion = 17;  // of the interface: onnxruntime 1.17

// What only onnxruntime looks into.
struct Status;
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct ShapeInfo;

constexpr int kFail = 1, kInvalidArgument = 2;  // codes of a status
constexpr int kFloat = 1, kInt64 = 7;           // types of a tensor's elements

// The table of functions. A status is null for success, and belongs to the caller.
struct Api {
  Status* (*CreateStatus)(int code, const char* message);
  void* unused_1[25];
  Status* (*CreateCustomOpDomain)(const char* name, Domain** domain);
  Status* (*CustomOpDomain_Add)(Domain* domain, const struct CustomOp* op);
  Status* (*AddCustomOpDomain)(SessionOptions* options, Domain* domain);
  void* unused_29[22];
  Status* (*GetTensorMutableData)(Value* value, void** data);
  void* unused_52[9];
  Status* (*GetDimensionsCount)(const ShapeInfo* info, size_t* count);
  Status* (*GetDimensions)(const ShapeInfo* info, int64_t* sizes, size_t count);
  void* unused_63[2];
  Status* (*GetTensorTypeAndShape)(const Value* value, ShapeInfo** info);
  void* unused_66[24];
  Status* (*KernelContext_GetInput)(const KernelContext* context, size_t index,
                                    const Value** value);
  Status* (*KernelContext_GetOutput)(KernelContext* context, size_t index, const int64_t* sizes,
                                     size_t count, Value** value);
  void* unused_92[7];
  void (*ReleaseTensorTypeAndShapeInfo)(ShapeInfo* info);
  void* unused_100[174];
  // Calls function(data, i) for each i below `total`, on the threads of the session.
  Status* (*KernelContext_ParallelFor)(const KernelContext* context,
                                       void (*function)(void*, size_t), size_t total,
                                       size_t batches, void* data);
};
static_assert(offsetof(Api, AddCustomOpDomain) == 28 * sizeof(void*));
static_assert(offsetof(Api, GetTensorMutableData) == 51 * sizeof(void*));
static_assert(offsetof(Api, GetDimensionsCount) == 61 * sizeof(void*));
static_assert(offsetof(Api, GetTensorTypeAndShape) == 65 * sizeof(void*));
static_assert(offsetof(Api, KernelContext_GetInput) == 90 * sizeof(void*));
static_assert(offsetof(Api, ReleaseTensorTypeAndShapeInfo) == 99 * sizeof(void*));
static_assert(offsetof(Api, KernelContext_ParallelFor) == 274 * sizeof(void*));

struct ApiBase {
  const Api* (*GetApi)(uint32_t version);  // null if it is newer than this onnxruntime
  const char* (*GetVersionString)();
};

// An operator: what onnxruntime asks of it, and how it calls it.
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  int (*GetInputType)(const CustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp*);
  int (*GetOutputType)(const CustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, KernelContext*);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const CustomOp*, size_t index);   // 0: required
  int (*GetOutputCharacteristic)(const CustomOp*, size_t index);  // 0: required
  int (*GetInputMemoryType)(const CustomOp*, size_t index);       // 0: that of the provider
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  // These replace CreateKernel and KernelCompute where they are not null.
  Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  Status* (*InferOutputShape)(const CustomOp*, void* context);  // may be null
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
};

}  // namespace mask2former::onnxruntime
