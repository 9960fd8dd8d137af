// Multi-scale deformable attention: the forward and the backward kernel.
//
// Work is split so that nothing has to be exchanged but three sums a point:
//   - gridDim.z runs over B, gridDim.y over H, gridDim.x over Q, hence no division to find one's
//     place, and the queries of a block, which are neighbours in the image, read the same head of
//     neighbouring pixels while these are in the L1 cache;
//   - a group of kLanes lanes of a warp serves one query; each lane owns kVector channels (and
//     those kLanes * kVector further, should D be larger);
//   - all lanes of a group find a point's corners and bilinear weights for themselves: that is one
//     instruction for the whole warp either way, and cheaper than a shuffle a number.
//
// Nothing of ATen here: it would take nvcc longer to read than the kernels.
#pragma once

#include <c10/macros/Macros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>

#include "ms_deform_attn_launch.h"
#include "ms_deform_attn_layout.h"

// From compute capability 9.0, one instruction adds four neighbouring floats.
#ifndef MASK2FORMER_VECTOR_ATOMICS
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && \
    __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1204
#define MASK2FORMER_VECTOR_ATOMICS 1
#else
#define MASK2FORMER_VECTOR_ATOMICS 0
#endif
#endif

namespace mask2former::kernels {

template <typename T, int kSize>
struct alignas(sizeof(T) * kSize) Pack {
  T data[kSize];
};

// Read in place of pixels that do not exist: a choice between addresses takes no branch, and leaves
// all loads of a point in flight together. As long as what a lane reaches from its first channel.
constexpr int kZeroBytes = 512;
alignas(16) static __device__ const unsigned char zeros[kZeroBytes] = {};

template <typename T>
__device__ __forceinline__ const T* zeros_of() {
  return reinterpret_cast<const T*>(zeros);
}

// Levels of the arguments were checked on the host. Others that do not fit are never read.
__device__ __forceinline__ Level read_level(const LevelTable& table, int index, int64_t positions) {
  if (table.shapes == nullptr) {
    return table.levels[index];
  }
  const int64_t height = table.shapes[2 * index];
  const int64_t width = table.shapes[2 * index + 1];
  const int64_t start = table.starts[index];
  const bool fits = level_fits(height, width, start, positions);
  CUDA_KERNEL_ASSERT(fits && "spatial_shapes or level_start_index point outside of value");
  return fits ? Level{start, static_cast<int>(height), static_cast<int>(width)} : Level{0, 0, 0};
}

// The four pixels around a point: top left, top right, bottom left, bottom right.
template <typename A>
struct Corners {
  A x, y;         // distance from the top left pixel, in [0, 1)
  bool inside;    // of (-1, width) x (-1, height); false for NaN
  bool valid[4];  // the pixel exists
  int pixel;      // index of the top left pixel in its level, were it to exist

  __device__ __forceinline__ A scale(int corner) const {
    return (corner & 1 ? x : 1 - x) * (corner & 2 ? y : 1 - y);
  }
};

template <typename A, typename C>
__device__ __forceinline__ Corners<A> find_corners(const C* locations, int64_t point,
                                                   const Level& level) {
  Corners<A> corners;
  const A width = static_cast<A>(level.width);
  const A height = static_cast<A>(level.height);
  const auto location = reinterpret_cast<const Pack<C, 2>*>(locations)[point];
  A x = static_cast<A>(location.data[0]) * width - static_cast<A>(0.5);
  A y = static_cast<A>(location.data[1]) * height - static_cast<A>(0.5);
  corners.inside = x > -1 && y > -1 && x < width && y < height;
  // A place without valid corners, since other numbers may not fit into an int.
  x = corners.inside ? x : static_cast<A>(-2);
  y = corners.inside ? y : static_cast<A>(0);
  const A floor_x = floor(x);
  const A floor_y = floor(y);
  const int left = static_cast<int>(floor_x);
  const int top = static_cast<int>(floor_y);
  corners.x = x - floor_x;
  corners.y = y - floor_y;
  corners.pixel = top * level.width + left;
  // As unsigned numbers, negative ones are too large. The upper bound is checked even though
  // x < width, because sizes above 2^24 are rounded when converted to float.
  const bool columns[2] = {static_cast<unsigned>(left) < static_cast<unsigned>(level.width),
                           static_cast<unsigned>(left + 1) < static_cast<unsigned>(level.width)};
  const bool rows[2] = {static_cast<unsigned>(top) < static_cast<unsigned>(level.height),
                        static_cast<unsigned>(top + 1) < static_cast<unsigned>(level.height)};
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    corners.valid[corner] = columns[corner & 1] && rows[corner >> 1];
  }
  return corners;
}

// The channels that a lane owns, as kRuns runs of kRun neighbours: those of run r begin at
// first + r * kLanes * kRun. A run is one access to memory.
template <int kRun, int kRuns, int kLanes>
struct Ownership {
  static constexpr int kVector = kRun * kRuns;

  __device__ static __forceinline__ int first() { return threadIdx.x % kLanes * kRun; }

  template <typename A, typename T>
  __device__ static __forceinline__ void load(const T* from, A (&to)[kVector]) {
    static_assert(sizeof(T) * ((kRuns - 1) * kLanes * kRun + kRun) <= kZeroBytes);
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const auto pack = *reinterpret_cast<const Pack<T, kRun>*>(from + run * kLanes * kRun);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        to[run * kRun + i] = static_cast<A>(pack.data[i]);
      }
    }
  }

  template <typename A, typename T>
  __device__ static __forceinline__ void store(const A (&from)[kVector], T* to) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      Pack<T, kRun> pack;
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        pack.data[i] = static_cast<T>(from[run * kRun + i]);
      }
      *reinterpret_cast<Pack<T, kRun>*>(to + run * kLanes * kRun) = pack;
    }
  }

  // to += scale * from
  template <typename A>
  __device__ static __forceinline__ void atomic_add(A scale, const A (&from)[kVector], A* to) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      A* const address = to + run * kLanes * kRun;
      if constexpr (kRun == 4) {
        atomicAdd(reinterpret_cast<float4*>(address),
                  make_float4(scale * from[4 * run], scale * from[4 * run + 1],
                              scale * from[4 * run + 2], scale * from[4 * run + 3]));
      } else {
        static_assert(kRun == 1);
        atomicAdd(address, scale * from[run]);
      }
    }
  }
};

// The query that the group of this lane serves; may be past the last one.
template <int kLanes>
__device__ __forceinline__ int64_t own_query() {
  return static_cast<int64_t>(blockIdx.x) * (blockDim.x / kLanes) + threadIdx.x / kLanes;
}

// Sum over the kLanes lanes of a group, in each of them.
template <int kLanes, typename A>
__device__ __forceinline__ A group_sum(A number) {
  // Groups of a warp may be at different points, so each waits for its own lanes alone.
  const unsigned lanes = kLanes == 32 ? ~0u : (1u << (kLanes % 32)) - 1;
  const unsigned mask = lanes << (threadIdx.x % 32 / kLanes * kLanes);
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    number += __shfl_xor_sync(mask, number, distance);
  }
  return number;
}

template <typename T, typename C, int kVector, int kLanes>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* __restrict__ value, const LevelTable levels,
                   const C* __restrict__ locations, const C* __restrict__ weights,
                   T* __restrict__ output, const Sizes sizes) {
  using A = typename Accumulator<T>::type;
  using Own = Ownership<kVector, 1, kLanes>;
  const int64_t query = own_query<kLanes>();
  if (query >= sizes.queries) {
    return;
  }
  const int64_t head = blockIdx.y;
  const int stride = static_cast<int>(sizes.heads * sizes.channels);  // to the next pixel
  for (int64_t batch = blockIdx.z; batch < sizes.batch; batch += gridDim.z) {
    const T* const maps = value + batch * sizes.positions * stride + head * sizes.channels;
    const int64_t row = (batch * sizes.queries + query) * sizes.heads + head;
    for (int64_t channel = Own::first(); channel < sizes.channels; channel += kLanes * kVector) {
      int64_t point = row * sizes.levels * sizes.points;
      A sum[kVector] = {};
      for (int l = 0; l < sizes.levels; ++l) {
        const Level level = read_level(levels, l, sizes.positions);
        const T* const map = maps + level.start * stride + channel;
        const int64_t below = static_cast<int64_t>(level.width) * stride;
        for (const int64_t end = point + sizes.points; point < end; ++point) {
          const auto at = find_corners<A>(locations, point, level);
          const A weight = at.inside ? static_cast<A>(weights[point]) : static_cast<A>(0);
          const T* const top_left = map + static_cast<int64_t>(at.pixel) * stride;
          A pixels[4][kVector];
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            const T* const pixel = top_left + (corner & 1 ? stride : 0) + (corner & 2 ? below : 0);
            Own::load(at.valid[corner] ? pixel : zeros_of<T>(), pixels[corner]);
          }
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            const A scale = weight * at.scale(corner);
#pragma unroll
            for (int i = 0; i < kVector; ++i) {
              sum[i] += scale * pixels[corner][i];
            }
          }
        }
      }
      Own::store(sum, output + row * sizes.channels + channel);
    }
  }
}

// Blocks that a multiprocessor shall hold: as many as take no register's content to memory.
template <typename T, int kVector>
constexpr int kBackwardBlocks = sizeof(T) == 8                               ? 2
                                : MASK2FORMER_VECTOR_ATOMICS && kVector == 4 ? 4
                                                                             : 3;

// grad_value has the type of the accumulator and holds zeros at the start; the other two gradients
// are written whole.
template <typename T, typename C, int kVector, int kLanes>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks<T, kVector>)
    backward_kernel(const T* __restrict__ grad_output, const T* __restrict__ value,
                    const LevelTable levels, const C* __restrict__ locations,
                    const C* __restrict__ weights,
                    typename Accumulator<T>::type* __restrict__ grad_value,
                    C* __restrict__ grad_locations, C* __restrict__ grad_weights,
                    const Sizes sizes) {
  using A = typename Accumulator<T>::type;
  // Where atomics take one number at a time, neighbouring lanes own neighbouring channels, so that
  // each instruction adds to whole sectors of 32 bytes.
  constexpr int kRun = MASK2FORMER_VECTOR_ATOMICS && kVector == 4 ? kVector : 1;
  using Own = Ownership<kRun, kVector / kRun, kLanes>;
  const int64_t query = own_query<kLanes>();
  if (query >= sizes.queries) {
    return;
  }
  const int64_t head = blockIdx.y;
  const int stride = static_cast<int>(sizes.heads * sizes.channels);
  for (int64_t batch = blockIdx.z; batch < sizes.batch; batch += gridDim.z) {
    const int64_t maps = batch * sizes.positions * stride + head * sizes.channels;
    const int64_t row = (batch * sizes.queries + query) * sizes.heads + head;
    int64_t point = row * sizes.levels * sizes.points;
    for (int l = 0; l < sizes.levels; ++l) {
      const Level level = read_level(levels, l, sizes.positions);
      const int64_t map = maps + level.start * stride;
      const int64_t below = static_cast<int64_t>(level.width) * stride;
      for (const int64_t end = point + sizes.points; point < end; ++point) {
        const auto at = find_corners<A>(locations, point, level);
        const A weight = at.inside ? static_cast<A>(weights[point]) : static_cast<A>(0);
        A dots[4] = {};  // of the gradient and each corner's pixel, over this lane's channels
        for (int64_t channel = Own::first(); channel < sizes.channels;
             channel += kLanes * kVector) {
          const int64_t top_left = map + static_cast<int64_t>(at.pixel) * stride + channel;
          A grad[kVector];
          A pixels[4][kVector];
          Own::load(grad_output + row * sizes.channels + channel, grad);
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            const int64_t pixel = top_left + (corner & 1 ? stride : 0) + (corner & 2 ? below : 0);
            Own::load(at.valid[corner] ? value + pixel : zeros_of<T>(), pixels[corner]);
          }
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            const int64_t pixel = top_left + (corner & 1 ? stride : 0) + (corner & 2 ? below : 0);
#pragma unroll
            for (int i = 0; i < kVector; ++i) {
              dots[corner] += grad[i] * pixels[corner][i];
            }
            if (at.valid[corner]) {
              Own::atomic_add(weight * at.scale(corner), grad, grad_value + pixel);
            }
          }
        }
        const A top = dots[1] - dots[0];
        const A bottom = dots[3] - dots[2];
        const A left = dots[2] - dots[0];
        const A right = dots[3] - dots[1];
        const A grad_x = group_sum<kLanes>(top + at.y * (bottom - top));
        const A grad_y = group_sum<kLanes>(left + at.x * (right - left));
        const A sample = group_sum<kLanes>(at.scale(0) * dots[0] + at.scale(1) * dots[1] +
                                           at.scale(2) * dots[2] + at.scale(3) * dots[3]);
        if (threadIdx.x % kLanes == 0) {
          Pack<C, 2> grad_location;
          grad_location.data[0] = static_cast<C>(weight * static_cast<A>(level.width) * grad_x);
          grad_location.data[1] = static_cast<C>(weight * static_cast<A>(level.height) * grad_y);
          reinterpret_cast<Pack<C, 2>*>(grad_locations)[point] =
              at.inside ? grad_location : Pack<C, 2>{};
          grad_weights[point] = static_cast<C>(at.inside ? sample : static_cast<A>(0));
        }
      }
    }
  }
}

}  // namespace mask2former::kernels
