// The CPU kernels for AVX-512.

#include "attention_inputs.h"
#include "instance_masks.h"
#include "kernels.h"
#include "mask_losses.h"
#include "point_samples.h"
#include "residual_norm.h"
#include "upsample_add.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <cstring>
#include <type_traits>

#define MASK2FORMER_ISA avx512
#define MASK2FORMER_VECTOR_BYTES 64
#ifdef __clang__
#pragma clang attribute push(                                                    \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")
#endif
#define MASK2FORMER_F16C
#include "kernels_impl.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

namespace mask2former {
namespace avx512 {
Kernels kernels(Type, Type) { return {}; }
AttentionInputsKernel attention_inputs_kernel() { return nullptr; }
InstanceMasksKernel instance_masks_kernel() { return nullptr; }
PointKernels point_kernels() { return {}; }
MaskLossKernels mask_loss_kernels() { return {}; }
ResidualNormKernel residual_norm_kernel(Type, Type) { return nullptr; }
UpsampleAddKernel upsample_add_kernel() { return nullptr; }
}  // namespace avx512
}  // namespace mask2former

#endif
