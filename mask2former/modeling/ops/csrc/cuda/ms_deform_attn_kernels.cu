// Launches the kernels, in the instance that suits the number of channels.

#include <c10/cuda/CUDAException.h>

#include "ms_deform_attn_kernels.cuh"

namespace mask2former::kernels {
namespace {

dim3 grid(const Sizes& sizes, int lanes) {
  const Blocks blocks = blocks_for(sizes, kThreads, lanes);
  return dim3(blocks.x, blocks.y, blocks.z);
}

}  // namespace

template <typename T, typename C>
void launch_forward(const T* value, const LevelTable& levels, const C* locations, const C* weights,
                    T* output, const Sizes& sizes, CUstream_st* stream) {
  choose_forward_layout<T>(sizes.channels, [&](auto layout) {
    constexpr int kVector = decltype(layout)::kVector;
    constexpr int kLanes = decltype(layout)::kLanes;
    forward_kernel<T, C, kVector, kLanes><<<grid(sizes, kLanes), kThreads, 0, stream>>>(
        value, levels, locations, weights, output, sizes);
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, typename C>
void launch_backward(const T* grad_output, const T* value, const LevelTable& levels,
                     const C* locations, const C* weights,
                     typename Accumulator<T>::type* grad_value, C* grad_locations, C* grad_weights,
                     const Sizes& sizes, CUstream_st* stream) {
  choose_backward_layout<T>(sizes.channels, [&](auto layout) {
    constexpr int kVector = decltype(layout)::kVector;
    constexpr int kLanes = decltype(layout)::kLanes;
    backward_kernel<T, C, kVector, kLanes><<<grid(sizes, kLanes), kThreads, 0, stream>>>(
        grad_output, value, levels, locations, weights, grad_value, grad_locations, grad_weights,
        sizes);
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

#define INSTANTIATE(T, C)                                                                        \
  template void launch_forward<T, C>(const T*, const LevelTable&, const C*, const C*, T*,        \
                                     const Sizes&, CUstream_st*);                                \
  template void launch_backward<T, C>(const T*, const T*, const LevelTable&, const C*, const C*, \
                                      Accumulator<T>::type*, C*, C*, const Sizes&, CUstream_st*);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(c10::Half, c10::Half)
INSTANTIATE(c10::Half, float)
INSTANTIATE(c10::BFloat16, c10::BFloat16)
INSTANTIATE(c10::BFloat16, float)
#undef INSTANTIATE

}  // namespace mask2former::kernels
