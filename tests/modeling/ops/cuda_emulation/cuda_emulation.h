// Lets a C++20 compiler build a header of CUDA kernels and run them on the CPU, for tests.
//
// Every CUDA thread is a thread of the CPU, and several blocks run at a time, so that sanitizers
// see what the kernel does: reads and writes out of bounds, and races between threads. Warp
// shuffles wait for the lanes that the mask names; a lane that never comes, or reads from one that
// the mask does not name, ends the program with a message. Shuffles order memory between their
// lanes, which on a GPU they do not: of a __syncwarp() that is missing next to one, ThreadSanitizer
// cannot know.
//
// Shared memory is that of the threads of a block, and holds what an earlier block left. There is
// no __syncthreads(): the kernels do not use it.
//
// CUDA_EMULATION_NO_SYNCWARP makes __syncwarp() do nothing, to see the tests fail.
// CUDA_EMULATION_PLAIN_ADD makes atomicAdd() an ordinary addition, to see the tests fail.
#pragma once

#include <c10/macros/Macros.h>
#include <math.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cuda_emulation {

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "cuda_emulation: %s\n", message);
  std::abort();
}

// How often a CUDA_KERNEL_ASSERT did not hold. On a GPU the first one ends the program.
inline std::atomic<int> failed_assertions{0};

// Where the lanes that a mask names wait for one another.
class Meeting {
 public:
  void wait_for(int lanes) {
    std::unique_lock lock(mutex_);
    const uint64_t round = round_;
    if (++arrived_ == lanes) {
      arrived_ = 0;
      ++round_;
      all_here_.notify_all();
      return;
    }
    const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(60);
    if (!all_here_.wait_until(lock, deadline, [&] { return round_ != round; })) {
      fail("a lane named by the mask of a shuffle did not come");
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  int arrived_ = 0;
  uint64_t round_ = 0;
};

struct Warp {
  struct Slot {
    uint64_t bits;
    uint64_t block;
  };

  // Two of them in turn: who writes the second has seen all others arrive after reading the first.
  Slot slots[2][32];

  Meeting& meeting(unsigned mask) {
    const std::lock_guard lock(mutex_);
    return meetings_[mask];
  }

 private:
  std::mutex mutex_;
  std::map<unsigned, Meeting> meetings_;
};

constexpr size_t kSharedBytes = 48 * 1024;  // what every GPU has
struct alignas(64) SharedMemory {
  unsigned char bytes[kSharedBytes];
};

struct Thread {
  dim3 thread_index, block_index, block_size, grid_size;
  uint64_t block;
  Warp* warp;
  SharedMemory* shared;
  int next_slots = 0;
};
inline thread_local Thread self;

template <typename T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  const unsigned lane = self.thread_index.x % 32;
  if ((mask >> lane & 1) == 0) {
    fail("a lane shuffles with a mask that does not name it");
  }
  if (source < 0 || source > 31 || (mask >> source & 1) == 0) {
    fail("a lane reads from one that the mask of the shuffle does not name");
  }
  Warp::Slot* const slots = self.warp->slots[self.next_slots];
  self.next_slots ^= 1;
  slots[lane].block = self.block;
  std::memcpy(&slots[lane].bits, &value, sizeof(T));
  self.warp->meeting(mask).wait_for(__builtin_popcount(mask));
  if (slots[source].block != self.block) {
    fail("lanes of different blocks met in a shuffle");
  }
  std::memcpy(&value, &slots[source].bits, sizeof(T));
  return value;
}

// The block's one variable in shared memory.
template <typename T>
T& shared_variable() {
  static_assert(sizeof(T) <= kSharedBytes);
  if (reinterpret_cast<uintptr_t>(self.shared) % alignof(T) != 0) {
    fail("shared memory is not aligned");
  }
  return *reinterpret_cast<T*>(self.shared);
}

constexpr int kBlocksAtATime = 3;

// kernel<<<grid, threads>>>(arguments...), waiting for its end.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, Arguments... arguments) {
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  const unsigned warps = (threads + 31) / 32;
  std::vector<Warp> all_warps(kBlocksAtATime * warps);
  std::vector<SharedMemory> shared(kBlocksAtATime);
  std::vector<std::thread> running;
  for (uint64_t first = 0; first < kBlocksAtATime && first < blocks; ++first) {
    for (unsigned thread = 0; thread < threads; ++thread) {
      Warp* const warp = &all_warps[first * warps + thread / 32];
      SharedMemory* const memory = &shared[first];
      running.emplace_back([=] {
        self = {{thread}, {}, {threads}, grid, 0, warp, memory};
        for (uint64_t block = first; block < blocks; block += kBlocksAtATime) {
          self.block = block;
          self.block_index = {static_cast<unsigned>(block % grid.x),
                              static_cast<unsigned>(block / grid.x % grid.y),
                              static_cast<unsigned>(block / grid.x / grid.y)};
          kernel(arguments...);
        }
      });
    }
  }
  for (std::thread& thread : running) {
    thread.join();
  }
}

}  // namespace cuda_emulation

#define threadIdx (::cuda_emulation::self.thread_index)
#define blockIdx (::cuda_emulation::self.block_index)
#define blockDim (::cuda_emulation::self.block_size)
#define gridDim (::cuda_emulation::self.grid_size)

#undef CUDA_KERNEL_ASSERT
#define CUDA_KERNEL_ASSERT(condition) \
  (static_cast<void>((condition) ? 0 : ++::cuda_emulation::failed_assertions))

#define MASK2FORMER_SHARED(type, name) type& name = ::cuda_emulation::shared_variable<type>()

inline void __syncwarp() {
#ifndef CUDA_EMULATION_NO_SYNCWARP
  ::cuda_emulation::self.warp->meeting(~0u).wait_for(32);
#endif
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return ::cuda_emulation::shuffle(mask, value, lane ^ distance);
}

template <typename T>
T atomicAdd(T* address, T number) {
#ifdef CUDA_EMULATION_PLAIN_ADD
  const T before = *address;
  *address = before + number;
  return before;
#else
  return std::atomic_ref<T>(*address).fetch_add(number, std::memory_order_relaxed);
#endif
}

// As on the GPU, each of the four is added by itself.
inline float4 atomicAdd(float4* address, float4 numbers) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(float4) != 0) {
    ::cuda_emulation::fail("the address of a vector addition is not aligned");
  }
  return {atomicAdd(&address->x, numbers.x), atomicAdd(&address->y, numbers.y),
          atomicAdd(&address->z, numbers.z), atomicAdd(&address->w, numbers.w)};
}
