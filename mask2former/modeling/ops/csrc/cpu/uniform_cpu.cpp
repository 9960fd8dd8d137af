// Random numbers on the CPU. PyTorch's own generator computes each number from the one before, on
// one thread. Here the n-th follows from the seed and n alone.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cstdint>

namespace mask2former {
namespace {

using at::Tensor;

constexpr int64_t kGrain = 1 << 14;  // enough numbers to be worth a thread
constexpr float kUnit = 1.0f / (1 << 24);

// Number n of SplitMix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators"
// (2014).
uint64_t splitmix64(uint64_t seed, uint64_t n) {
  uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// Of 32 bits, the upper 24, which float32 holds.
float unit(uint32_t bits) { return static_cast<float>(bits >> 8) * kUnit; }

Tensor& uniform_cpu(Tensor& out, int64_t seed) {
  TORCH_CHECK_VALUE(out.is_cpu() && out.scalar_type() == at::kFloat && out.is_contiguous(),
                    "random numbers need a contiguous float32 tensor on the CPU, got ",
                    out.scalar_type(), " ", out.sizes());
  float* numbers = out.mutable_data_ptr<float>();
  const int64_t count = out.numel();
  at::parallel_for(0, count / 2, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const uint64_t bits = splitmix64(seed, n);
      numbers[2 * n] = unit(static_cast<uint32_t>(bits));
      numbers[2 * n + 1] = unit(static_cast<uint32_t>(bits >> 32));
    }
  });
  if (count % 2) numbers[count - 1] = unit(static_cast<uint32_t>(splitmix64(seed, count / 2)));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former, CPU, m) { m.impl("uniform_", uniform_cpu); }

}  // namespace mask2former
