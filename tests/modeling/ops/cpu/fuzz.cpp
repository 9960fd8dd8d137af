// Runs the CPU kernels on problems of random shape, in buffers that end where their data end, for a
// sanitizer to watch: fuzz SEED COUNT. Locations are anywhere, outside, on borders, NaN and
// infinite. With THREADS defined, the items of a problem are divided among threads. With LIBFUZZER
// defined, libFuzzer chooses the numbers by the parts of the kernels that they reach.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "mask2former/modeling/ops/csrc/cpu/kernels.h"

using namespace mask2former;

namespace {

int64_t bytes_of(Type type) { return type == Type::kDouble ? 8 : type == Type::kFloat ? 4 : 2; }

// Numbers of any type in exactly as much memory as they need.
class Buffer {
 public:
  Buffer(Type type, int64_t count) : type_(type), data_(count * bytes_of(type)) {}
  void* data() { return data_.data(); }
  void set(int64_t i, double x) {
    const float f = static_cast<float>(x);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (type_ == Type::kDouble) {
      std::memcpy(data_.data() + i * 8, &x, 8);
    } else if (type_ == Type::kFloat) {
      std::memcpy(data_.data() + i * 4, &f, 4);
    } else if (type_ == Type::kBFloat16) {
      const uint16_t half = bits >> 16;
      std::memcpy(data_.data() + i * 2, &half, 2);
    } else {  // roughly: any bits are some number
      const uint16_t half = (bits >> 16 & 0x8000) | (bits >> 13 & 0x7fff);
      std::memcpy(data_.data() + i * 2, &half, 2);
    }
  }

 private:
  Type type_;
  std::vector<char> data_;
};

void run(Kernel kernel, const Problem& problem, int64_t items) {
#ifdef THREADS
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < THREADS; ++i) {
    threads.emplace_back(kernel, std::cref(problem), items * i / THREADS,
                         items * (i + 1) / THREADS);
  }
  for (auto& thread : threads) thread.join();
#else
  kernel(problem, 0, items);
#endif
}

template <typename Random>
void work_on_random_problem(Random& random, Type value_type, Type coordinate_type) {
  const auto upto = [&](int64_t n) { return static_cast<int64_t>(random() % n) + 1; };
  Problem p{};
  p.B = upto(2);
  p.H = upto(9);
  p.D = upto(3) == 1 ? upto(140) : int64_t{16} << random() % 3;
  p.L = upto(4);
  p.P = upto(3) == 1 ? upto(60) : upto(5);
  p.Q = upto(5);
  std::vector<int64_t> shapes, starts;
  for (int64_t level = 0; level < p.L; ++level) {
    shapes.push_back(upto(6));
    shapes.push_back(upto(6));
    starts.push_back(p.S);
    p.S += shapes[2 * level] * shapes[2 * level + 1];
  }
  const int64_t points = p.B * p.Q * p.H * p.L * p.P, outputs = p.B * p.Q * p.H * p.D;
  Buffer value(value_type, p.B * p.S * p.H * p.D), locations(coordinate_type, 2 * points);
  Buffer weights(coordinate_type, points), output(value_type, outputs);
  Buffer grad_output(value_type, outputs);
  Buffer grad_value(value_type == Type::kDouble ? value_type : Type::kFloat, p.B * p.S * p.H * p.D);
  Buffer grad_locations(coordinate_type, 2 * points), grad_weights(coordinate_type, points);
  std::uniform_real_distribution<double> uniform(-0.5, 1.5);
  const double odd[] = {0,
                        1,
                        -1e30,
                        1e30,
                        std::numeric_limits<double>::quiet_NaN(),
                        std::numeric_limits<double>::infinity(),
                        0.5,
                        -0.001};
  for (int64_t i = 0; i < 2 * points; ++i) {
    locations.set(i, random() % 4 ? uniform(random) : odd[random() % 8]);
  }
  for (int64_t i = 0; i < points; ++i) weights.set(i, uniform(random));
  for (int64_t i = 0; i < outputs; ++i) grad_output.set(i, uniform(random));
  for (int64_t i = 0; i < p.B * p.S * p.H * p.D; ++i) value.set(i, uniform(random));
  p.shapes = shapes.data();
  p.starts = starts.data();
  p.value = value.data();
  p.locations = locations.data();
  p.weights = weights.data();
  p.output = output.data();
  p.grad_output = grad_output.data();
  p.grad_value = grad_value.data();
  p.grad_locations = grad_locations.data();
  p.grad_weights = grad_weights.data();
  std::vector<Kernels> all{portable::kernels(value_type, coordinate_type)};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    all.push_back(avx2::kernels(value_type, coordinate_type));
  }
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    all.push_back(avx512::kernels(value_type, coordinate_type));
  }
#endif
  for (const Kernels& kernels : all) {
    run(kernels.forward, p, p.B * p.Q);
    run(kernels.backward, p, p.B * p.H);
  }
}

}  // namespace

#ifdef LIBFUZZER

namespace {

// The numbers that libFuzzer gives, then zeros.
struct Given {
  using result_type = uint32_t;
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return 0xffffffffu; }
  result_type operator()() {
    result_type number = 0;
    for (int i = 0; i < 2 && data < end; ++i) number = number << 8 | *data++;
    return number * 0x10001u;
  }
  const uint8_t *data, *end;
};

}  // namespace

// GCC's instrumentation calls this on each edge. libFuzzer reads what is in this section.
__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t counters[1 << 14];

extern "C" void __sanitizer_cov_trace_pc() {
  const auto place = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  ++counters[(place ^ place >> 14) % sizeof(counters)];
}

extern "C" void __sanitizer_cov_trace_cmpf(float, float) {}  // libFuzzer does not have these
extern "C" void __sanitizer_cov_trace_cmpd(double, double) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  Given given{data + 1, data + size};
  const Type types[] = {Type::kFloat, Type::kDouble, Type::kBFloat16, Type::kHalf};
  const Type value = types[data[0] % 4];
  const bool wide = data[0] & 4 && value != Type::kDouble;
  work_on_random_problem(given, value, wide ? Type::kFloat : value);
  return 0;
}

#else

int main(int, char** arguments) {
  std::mt19937 random(std::atoi(arguments[1]));
  const Type float32 = Type::kFloat, float64 = Type::kDouble;
  const Type bfloat16 = Type::kBFloat16, float16 = Type::kHalf;
  const int count = std::atoi(arguments[2]);
  for (int i = 0; i < count; ++i) {
    work_on_random_problem(random, float32, float32);
    work_on_random_problem(random, float64, float64);
    work_on_random_problem(random, bfloat16, i % 2 ? bfloat16 : float32);
    work_on_random_problem(random, float16, i % 2 ? float16 : float32);
  }
  std::printf("%d problems of each type\n", count);
}

#endif
