// Multi-scale deformable attention: the forward and the backward kernel.
//
// How work is split:
//   - gridDim.z runs over B, gridDim.y over H, gridDim.x over Q, hence no division to find one's
//     place, and the queries of a block, which are neighbours in the image, read the same head of
//     neighbouring pixels while these are in the L1 cache;
//   - a group of kLanes lanes of a warp serves one query; each lane owns kVector channels (and
//     those kLanes * kVector further, should D be larger);
//   - where a point's corners are and what they weigh, one lane finds out for its group, which
//     reads it from shared memory: one lane per point. Nothing else is exchanged except, in the
//     backward kernel, four sums per point.
// Warps are whole at every step: groups without a query of their own repeat the last one's work.
//
// ATen is not included: nvcc would take longer to read it than the kernels.
#pragma once

#include <c10/macros/Macros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>

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

// A variable that the threads of a block share.
#ifndef MASK2FORMER_SHARED
#define MASK2FORMER_SHARED(type, name) __shared__ type name
#endif

namespace mask2former::kernels {

template <typename T, int kSize>
struct alignas(sizeof(T) * kSize) Pack {
  T data[kSize];
};

// Levels of the arguments were checked on the host. Others that do not fit are never read.
__device__ __forceinline__ Level read_level(const LevelTable& table, int index, int64_t positions) {
  if (table.shapes == nullptr) {
    return table.levels[index];
  }
  const int64_t height = table.shapes[2 * index];
  const int64_t width = table.shapes[2 * index + 1];
  const int64_t start = table.starts[index];
  const bool fits = level_fits(height, width, start, positions);
  CUDA_KERNEL_ASSERT(fits && "spatial_shapes or level_start_index point outside value");
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

constexpr unsigned kWholeWarp = ~0u;
constexpr uint32_t kNowhere = UINT32_MAX;
constexpr int kPointsAtATime = 4;  // of the backward kernel; no group has fewer lanes

// Blocks that a multiprocessor should hold, which limits a kernel's registers: as many as possible
// without spilling registers to memory. Those of compute capability 7.5 have room for 8.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
constexpr int kMostBlocks = 8;
#else
constexpr int kMostBlocks = 10;
#endif
template <typename T>
constexpr int kForwardBlocks = sizeof(T) == 4 ? kMostBlocks : 8;
template <typename T>
constexpr int kBackwardBlocks = sizeof(T) == 8 ? 4 : 5;

// What the lanes of a group find out for one another about kPoints points. Of the corners:
// attention times bilinear weight, and the position in the value tensor, or kNowhere.
template <typename A, int kPoints>
struct Found {
  Pack<A, 4> scales[kPoints];
  Pack<uint32_t, 4> positions[kPoints];
  Pack<uint32_t, 4> padding;  // groups of a warp read different banks at a time

  __device__ __forceinline__ void set(int index, const Corners<A>& corners, const Level& level,
                                      A weight) {
    const auto top_left = static_cast<uint32_t>(level.start) + static_cast<uint32_t>(corners.pixel);
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const uint32_t position =
          top_left + (corner & 1 ? 1 : 0) + (corner & 2 ? static_cast<uint32_t>(level.width) : 0);
      scales[index].data[corner] = weight * corners.scale(corner);
      positions[index].data[corner] = corners.valid[corner] ? position : kNowhere;
    }
  }
};

// The address of a position; a row is what one position has, in bytes.
template <typename T>
__device__ __forceinline__ T* at_position(T* base, uint32_t position, uint32_t row_bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(base) +
                              static_cast<uint64_t>(position) * row_bytes);
}

// The channels that a lane owns, as kRuns runs of kRun neighbours: those of run r begin at
// first + r * kLanes * kRun. A run is one access to memory.
template <int kRun, int kRuns, int kLanes>
struct Ownership {
  static constexpr int kVector = kRun * kRuns;

  __device__ static __forceinline__ int first() { return threadIdx.x % kLanes * kRun; }

  template <typename A, typename T>
  __device__ static __forceinline__ void load(const T* from, A (&to)[kVector]) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const auto pack = *reinterpret_cast<const Pack<T, kRun>*>(from + run * kLanes * kRun);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        to[run * kRun + i] = static_cast<A>(pack.data[i]);
      }
    }
  }

  // Zeros where the position does not exist: without a branch, all four loads of a point are under
  // way at once.
  template <typename A, typename T>
  __device__ static __forceinline__ void load_corner(const T* base, uint32_t position,
                                                     uint32_t row_bytes, A (&to)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      to[i] = 0;
    }
    if (position != kNowhere) {
      load(at_position(base, position, row_bytes), to);
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

// The level of a lane's next point, as the points of all levels follow one another.
struct PlaceInLevels {
  int level;
  int point;  // may be past the level's points

  __device__ __forceinline__ void settle(int points) {
    while (point >= points) {
      point -= points;
      ++level;
    }
  }
};

// Adds up two lanes' numbers, of which one lane gets the sums of the first half, the other those of
// the second.
template <int kDistance, int kHalf, typename A, int kCount>
__device__ __forceinline__ void share(A (&numbers)[kCount]) {
  const bool second = threadIdx.x & kDistance;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const A given = second ? numbers[i] : numbers[i + kHalf];
    const A kept = second ? numbers[i + kHalf] : numbers[i];
    numbers[i] = kept + __shfl_xor_sync(kWholeWarp, given, kDistance);
  }
}

// Sums over the kLanes lanes of a group of the four numbers per point: lane i has those of point i
// % 4 in the first four afterwards. That takes a third of the shuffles of one sum after the other.
template <int kLanes, typename A>
__device__ __forceinline__ void sum_points(A (&numbers)[4 * kPointsAtATime]) {
  static_assert(kPointsAtATime == 4);
  share<2, 8>(numbers);
  share<1, 4>(numbers);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int distance = kLanes / 2; distance >= 4; distance /= 2) {
      numbers[i] += __shfl_xor_sync(kWholeWarp, numbers[i], distance);
    }
  }
}

template <typename T, typename C, int kVector, int kLanes>
__global__ void __launch_bounds__(kThreads, kForwardBlocks<T>)
    forward_kernel(const T* __restrict__ value, const LevelTable levels,
                   const C* __restrict__ locations, const C* __restrict__ weights,
                   T* __restrict__ output, const Sizes sizes) {
  using A = typename Accumulator<T>::type;
  using Own = Ownership<kVector, 1, kLanes>;
  struct Shared {
    Found<A, kLanes> groups[kThreads / kLanes];
  };
  MASK2FORMER_SHARED(Shared, shared);
  Found<A, kLanes>& found = shared.groups[threadIdx.x / kLanes];
  const int lane = threadIdx.x % kLanes;
  const int64_t asked = own_query<kLanes>();
  const bool exists = asked < sizes.queries;
  const int64_t query = exists ? asked : sizes.queries - 1;
  const int head = blockIdx.y;
  const int channels = static_cast<int>(sizes.channels);
  const int stride = static_cast<int>(sizes.heads) * channels;  // to the next position
  const auto row_bytes = static_cast<uint32_t>(stride * sizeof(T));
  const int points = sizes.levels * sizes.points;
  for (int64_t batch = blockIdx.z; batch < sizes.batch; batch += gridDim.z) {
    const int64_t row = (batch * sizes.queries + query) * sizes.heads + head;
    const int64_t row_points = row * points;
    for (int pass = 0; pass < channels; pass += kLanes * kVector) {
      const int channel = pass + Own::first();
      // Lanes past the last channel go along with the first.
      const T* const base = value + batch * sizes.positions * stride + head * channels +
                            (channel < channels ? channel : 0);
      A sum[kVector] = {};
      PlaceInLevels place{0, lane};
      for (int first = 0; first < points; first += kLanes) {
        __syncwarp();  // all have read what is written over
        if (first + lane < points) {
          place.settle(sizes.points);
          const Level level = read_level(levels, place.level, sizes.positions);
          const int64_t point = row_points + first + lane;
          const auto corners = find_corners<A>(locations, point, level);
          const A weight = corners.inside ? static_cast<A>(weights[point]) : static_cast<A>(0);
          found.set(lane, corners, level, weight);
          place.point += kLanes;
        }
        __syncwarp();
        const int count = points - first < kLanes ? points - first : kLanes;
#pragma unroll 1
        for (int i = 0; i < count; ++i) {
          const auto scales = found.scales[i];
          const auto positions = found.positions[i];
          A pixels[4][kVector];
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            Own::load_corner(base, positions.data[corner], row_bytes, pixels[corner]);
          }
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
            for (int j = 0; j < kVector; ++j) {
              sum[j] += scales.data[corner] * pixels[corner][j];
            }
          }
        }
      }
      if (exists && channel < channels) {
        Own::store(sum, output + row * channels + channel);
      }
    }
  }
}

// grad_value has the type of the accumulator and holds zeros at the start; the other two gradients
// are written whole.
template <typename T, typename C, int kVector, int kLanes>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks<T>)
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
  struct Shared {
    Found<A, kPointsAtATime> groups[kThreads / kLanes];
  };
  MASK2FORMER_SHARED(Shared, shared);
  Found<A, kPointsAtATime>& found = shared.groups[threadIdx.x / kLanes];
  const int lane = threadIdx.x % kLanes;
  const int64_t asked = own_query<kLanes>();
  const bool exists = asked < sizes.queries;
  const int64_t query = exists ? asked : sizes.queries - 1;
  const int head = blockIdx.y;
  const int channels = static_cast<int>(sizes.channels);
  const int stride = static_cast<int>(sizes.heads) * channels;
  const auto value_row = static_cast<uint32_t>(stride * sizeof(T));
  const auto grad_row = static_cast<uint32_t>(stride * sizeof(A));
  const int points = sizes.levels * sizes.points;
  const bool one_pass = channels <= kLanes * kVector;
  for (int64_t batch = blockIdx.z; batch < sizes.batch; batch += gridDim.z) {
    const int64_t maps = batch * sizes.positions * stride + head * channels;
    const int64_t row = (batch * sizes.queries + query) * sizes.heads + head;
    const int64_t row_points = row * points;
    const T* const grads = grad_output + row * channels;
    A grad[kVector] = {};
    if (Own::first() < channels) {
      Own::load(grads + Own::first(), grad);
    }
    PlaceInLevels place{0, lane % kPointsAtATime};
    for (int first = 0; first < points; first += kPointsAtATime) {
      // Lanes beyond those that look up points do the same as these, and keep it to themselves.
      const int own = first + lane % kPointsAtATime;
      const int64_t point = row_points + own;
      Corners<A> corners{};
      Level level{};
      A weight = 0;
      __syncwarp();  // all have read what is written over
      if (own < points) {
        place.settle(sizes.points);
        level = read_level(levels, place.level, sizes.positions);
        corners = find_corners<A>(locations, point, level);
        weight = corners.inside ? static_cast<A>(weights[point]) : static_cast<A>(0);
        place.point += kPointsAtATime;
        if (lane < kPointsAtATime) {
          found.set(lane, corners, level, weight);
        }
      }
      __syncwarp();
      A dots[kPointsAtATime * 4] = {};  // of the gradient and each corner's pixel, in this lane
#pragma unroll
      for (int i = 0; i < kPointsAtATime; ++i) {
        if (first + i >= points) {
          continue;
        }
        const auto scales = found.scales[i];
        const auto positions = found.positions[i];
        for (int channel = Own::first(); channel < channels; channel += kLanes * kVector) {
          if (!one_pass) {
            Own::load(grads + channel, grad);
          }
          A pixels[4][kVector];
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
            Own::load_corner(value + maps + channel, positions.data[corner], value_row,
                             pixels[corner]);
          }
#pragma unroll
          for (int corner = 0; corner < 4; ++corner) {
#pragma unroll
            for (int j = 0; j < kVector; ++j) {
              dots[4 * i + corner] += grad[j] * pixels[corner][j];
            }
            if (exists && positions.data[corner] != kNowhere) {
              Own::atomic_add(
                  scales.data[corner], grad,
                  at_position(grad_value + maps + channel, positions.data[corner], grad_row));
            }
          }
        }
      }
      sum_points<kLanes>(dots);
      if (exists && lane < kPointsAtATime && own < points) {
        const A top = dots[1] - dots[0];
        const A bottom = dots[3] - dots[2];
        const A left = dots[2] - dots[0];
        const A right = dots[3] - dots[1];
        const A grad_x = top + corners.y * (bottom - top);
        const A grad_y = left + corners.x * (right - left);
        const A sample = corners.scale(0) * dots[0] + corners.scale(1) * dots[1] +
                         corners.scale(2) * dots[2] + corners.scale(3) * dots[3];
        Pack<C, 2> grad_location;
        grad_location.data[0] = static_cast<C>(weight * static_cast<A>(level.width) * grad_x);
        grad_location.data[1] = static_cast<C>(weight * static_cast<A>(level.height) * grad_y);
        reinterpret_cast<Pack<C, 2>*>(grad_locations)[point] =
            corners.inside ? grad_location : Pack<C, 2>{};
        grad_weights[point] = static_cast<C>(corners.inside ? sample : static_cast<A>(0));
      }
    }
  }
}

}  // namespace mask2former::kernels
