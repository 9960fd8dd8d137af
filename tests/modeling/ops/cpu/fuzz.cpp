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

#include "mask2former/modeling/ops/csrc/cpu/attention_inputs.h"
#include "mask2former/modeling/ops/csrc/cpu/axis_tables.h"
#include "mask2former/modeling/ops/csrc/cpu/instance_masks.h"
#include "mask2former/modeling/ops/csrc/cpu/kernels.h"
#include "mask2former/modeling/ops/csrc/cpu/mask_losses.h"
#include "mask2former/modeling/ops/csrc/cpu/point_samples.h"
#include "mask2former/modeling/ops/csrc/cpu/residual_norm.h"
#include "mask2former/modeling/ops/csrc/cpu/upsample_add.h"

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

void divide(int64_t items, const std::function<void(int64_t, int64_t)>& work) {
#ifdef THREADS
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < THREADS; ++i) {
    threads.emplace_back(work, items * i / THREADS, items * (i + 1) / THREADS);
  }
  for (auto& thread : threads) thread.join();
#else
  work(0, items);
#endif
}

void run(Kernel kernel, const Problem& problem, int64_t items) {
  divide(items, [&](int64_t begin, int64_t end) { kernel(problem, begin, end); });
}

// What the functions return of all instruction sets that this processor has.
template <typename Get, typename... Arguments>
auto of_this_processor(Get portable, [[maybe_unused]] Get with_avx2,
                       [[maybe_unused]] Get with_avx512, Arguments... arguments) {
  std::vector<decltype(portable(arguments...))> all{portable(arguments...)};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    all.push_back(with_avx2(arguments...));
  }
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    all.push_back(with_avx512(arguments...));
  }
#endif
  return all;
}

const double kOdd[] = {0,
                       1,
                       -1e30,
                       1e30,
                       std::numeric_limits<double>::quiet_NaN(),
                       std::numeric_limits<double>::infinity(),
                       0.5,
                       -0.001};

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
  for (int64_t i = 0; i < 2 * points; ++i) {
    locations.set(i, random() % 4 ? uniform(random) : kOdd[random() % 8]);
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
  for (const Kernels& kernels : of_this_processor(portable::kernels, avx2::kernels, avx512::kernels,
                                                  value_type, coordinate_type)) {
    run(kernels.forward, p, p.B * p.Q);
    run(kernels.backward, p, p.B * p.H);
  }
}

template <typename Random>
void resize_random_masks(Random& random, Type type) {
  const auto upto = [&](int64_t n) { return static_cast<int64_t>(random() % n) + 1; };
  const auto size = [&](int64_t n) { return random() % 2 ? 4 * n : upto(150); };
  InstanceMasksProblem p{};
  p.h = upto(20);
  p.w = upto(40);
  const int64_t padded_rows = size(p.h), padded_columns = size(p.w);
  const int64_t rows = upto(padded_rows), columns = upto(padded_columns);
  p.twice = random() % 2;
  p.H = p.twice ? upto(150) : rows;
  p.W = p.twice ? upto(150) : columns;
  const bool fused = random() % 2;
  const AxisTables tables[] = {
      {p.h, padded_rows, rows, fused},
      {rows, p.H, p.H, fused},
      {p.w, padded_columns, columns, fused},
      {columns, p.W, p.W, fused},
  };
  for (int i = 0; i < 2; ++i) {
    p.rows[i] = tables[i].axis();
    p.columns[i] = tables[2 + i].axis();
  }
  const int64_t queries = upto(3), masks = upto(3);
  Buffer logits(type, queries * p.h * p.w);
  std::uniform_real_distribution<double> uniform(-3, random() % 2 ? 1 : 0);
  for (int64_t i = 0; i < queries * p.h * p.w; ++i) {
    logits.set(i, random() % 100 ? uniform(random) : kOdd[random() % 8]);
  }
  std::vector<int64_t> chosen;
  std::vector<std::vector<uint8_t>> memory(masks, std::vector<uint8_t>(p.H * p.W));
  std::vector<uint8_t*> outputs;
  for (auto& mask : memory) {
    chosen.push_back(upto(queries) - 1);
    outputs.push_back(mask.data());
  }
  p.type = type;
  p.logits = logits.data();
  p.queries = chosen.data();
  p.masks = outputs.data();
  p.band_rows = upto(40);
  p.bands = (p.H + p.band_rows - 1) / p.band_rows;
  std::vector<BandResult> results(masks * p.bands);
  p.results = results.data();
  for (const InstanceMasksKernel kernel :
       of_this_processor(portable::instance_masks_kernel, avx2::instance_masks_kernel,
                         avx512::instance_masks_kernel)) {
    divide(masks * p.bands, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(scratch_of(p));
      kernel(p, begin, end, scratch.data());
    });
    for (const auto& mask : memory) {
      for (uint8_t bit : mask) {
        if (bit > 1) std::abort();
      }
    }
  }
}

template <typename Random>
void sample_random_points(Random& random, Type type) {
  const auto upto = [&](int64_t n) { return static_cast<int64_t>(random() % n) + 1; };
  PointSamples p{};
  const int64_t maps = upto(20), rows = upto(20);
  p.P = upto(60) - 1;
  p.H = upto(12);
  p.W = upto(12);
  p.height = p.H + upto(3) - 1;
  p.width = p.W + upto(3) - 1;
  p.shared = random() % 2;
  Buffer points(Type::kFloat, 2 * p.P * (p.shared ? 1 : rows)), numbers(type, maps * p.H * p.W);
  Buffer samples(Type::kFloat, rows * p.P), grad_samples(Type::kFloat, rows * p.P);
  Buffer grad_maps(Type::kFloat, maps * p.H * p.W);
  std::vector<uint8_t> planes((maps + 7) / 8 * p.H * p.W);
  std::uniform_real_distribution<double> uniform(-0.1, 1.1);
  for (int64_t i = 0; i < 2 * p.P * (p.shared ? 1 : rows); ++i) {
    points.set(i, random() % 50 ? uniform(random) : kOdd[random() % 8]);
  }
  for (int64_t i = 0; i < maps * p.H * p.W; ++i) {
    numbers.set(i, random() % 50 ? uniform(random) - 0.5 : kOdd[random() % 8]);
  }
  for (int64_t i = 0; i < rows * p.P; ++i) grad_samples.set(i, uniform(random));
  for (uint8_t& byte : planes) byte = random();
  p.chosen = upto(p.P + 1) - 1;
  Buffer chosen(Type::kFloat, 2 * rows * p.chosen);
  std::vector<int64_t> of, starts(maps + 1), by_map;
  for (int64_t i = 0; i < rows; ++i) of.push_back(upto(maps) - 1);
  for (int64_t q = 0; q < maps; ++q) {
    for (int64_t i = 0; i < rows; ++i) {
      if (of[i] == q) by_map.push_back(i);
    }
    starts[q + 1] = by_map.size();
  }
  p.points = static_cast<float*>(points.data());
  p.of = of.data();
  p.type = type;
  p.maps = numbers.data();
  p.planes = planes.data();
  p.samples = static_cast<float*>(samples.data());
  p.starts = starts.data();
  p.rows = by_map.data();
  p.grad_samples = static_cast<float*>(grad_samples.data());
  p.grad_maps = static_cast<float*>(grad_maps.data());
  p.chosen_points = static_cast<float*>(chosen.data());
  for (const PointKernels& kernels :
       of_this_processor(portable::point_kernels, avx2::point_kernels, avx512::point_kernels)) {
    divide(rows, [&](int64_t begin, int64_t end) {
      PointSamples whole = p;  // the image of a map of numbers is the map
      whole.height = p.H;
      whole.width = p.W;
      kernels.sample_maps(whole, begin, end);
      std::vector<uint32_t> scratch(scratch_of(whole));
      kernels.choose(whole, begin, end, scratch.data());
    });
    divide(rows, [&](int64_t begin, int64_t end) { kernels.sample_bits(p, begin, end); });
    divide(maps, [&](int64_t begin, int64_t end) { kernels.backward(p, begin, end); });
  }
}

template <typename Random>
void add_random_maps(Random& random, Type type) {
  const auto upto = [&](int64_t n) { return static_cast<int64_t>(random() % n) + 1; };
  UpsampleAddProblem p{};
  p.B = upto(2);
  p.C = upto(2) == 1 ? upto(70) : int64_t{16} << random() % 3;
  p.h = upto(8);
  p.w = upto(24);
  p.H = random() % 2 ? 2 * p.h : upto(20);
  p.W = random() % 2 ? 2 * p.w : upto(80);
  p.channels_last = random() % 2;
  p.type = type;
  const AxisTables rows(p.h, p.H, p.H, true), columns(p.w, p.W, p.W, true);
  p.rows = rows.axis();
  p.columns = columns.axis();
  Buffer above(type, p.B * p.C * p.h * p.w), lateral(type, p.B * p.C * p.H * p.W);
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (int64_t i = 0; i < p.B * p.C * p.h * p.w; ++i) {
    above.set(i, random() % 50 ? uniform(random) : kOdd[random() % 8]);
  }
  for (int64_t i = 0; i < p.B * p.C * p.H * p.W; ++i) lateral.set(i, uniform(random));
  p.above = above.data();
  p.lateral = lateral.data();
  for (const UpsampleAddKernel kernel : of_this_processor(
           portable::upsample_add_kernel, avx2::upsample_add_kernel, avx512::upsample_add_kernel)) {
    divide(p.B * (p.channels_last ? p.H : p.C), [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(scratch_of(p));
      kernel(p, begin, end, scratch.data());
    });
  }
}

template <typename Random>
void make_random_inputs(Random& random, Type type) {
  const auto upto = [&](int64_t n) { return static_cast<int64_t>(random() % n) + 1; };
  AttentionInputs p{};
  p.Q = upto(9);
  p.H = upto(9);
  p.points = upto(3) == 1 ? upto(40) : upto(20);
  p.type = type;
  const int64_t queries = p.Q * upto(2), of_query = p.H * p.points;
  Buffer references(Type::kFloat, 2 * p.Q), projected(type, 3 * queries * of_query);
  std::uniform_real_distribution<double> uniform(-5, 5);
  for (int64_t i = 0; i < 2 * p.Q; ++i) references.set(i, uniform(random));
  for (int64_t i = 0; i < 3 * queries * of_query; ++i) {
    projected.set(i, random() % 50 ? uniform(random) : kOdd[random() % 8]);
  }
  p.references = static_cast<float*>(references.data());
  p.projected = projected.data();
  for (const AttentionInputsKernel kernel :
       of_this_processor(portable::attention_inputs_kernel, avx2::attention_inputs_kernel,
                         avx512::attention_inputs_kernel)) {
    divide(queries, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(scratch_of(p, end - begin));
      kernel(p, begin, end, scratch.data());
    });
  }
}

template <typename Random>
void normalise_random_rows(Random& random, Type type) {
  const auto upto = [&](int64_t n) { return static_cast<int64_t>(random() % n) + 1; };
  ResidualNormProblem p{};
  const int64_t B = upto(3);
  p.rows = upto(9);
  p.C = upto(90);
  p.x_image = (p.rows + upto(2) - 1) * p.C;
  p.out_image = p.rows * p.C;
  const Type x_type = random() % 2 ? type : Type::kFloat;
  const int64_t count = B * p.rows * p.C, count_of_x = (B - 1) * p.x_image + p.rows * p.C;
  Buffer x(x_type, count_of_x), branch(type, count), out(x_type, count);
  Buffer weight(Type::kFloat, p.C), bias(Type::kFloat, p.C);
  std::uniform_real_distribution<double> uniform(-5, 5);
  for (int64_t i = 0; i < count_of_x; ++i) x.set(i, uniform(random));
  for (int64_t i = 0; i < count; ++i) {
    branch.set(i, random() % 50 ? uniform(random) : kOdd[random() % 8]);
  }
  for (int64_t c = 0; c < p.C; ++c) {
    weight.set(c, uniform(random));
    bias.set(c, uniform(random));
  }
  p.x = x.data();
  p.branch = branch.data();
  p.weight = static_cast<float*>(weight.data());
  p.bias = static_cast<float*>(bias.data());
  p.eps = 1e-5f;
  p.out = out.data();
  for (const ResidualNormKernel kernel :
       of_this_processor(portable::residual_norm_kernel, avx2::residual_norm_kernel,
                         avx512::residual_norm_kernel, x_type, type)) {
    divide(B * p.rows, [&](int64_t begin, int64_t end) {
      std::vector<float> scratch(p.C);
      kernel(p, begin, end, scratch.data());
    });
  }
}

template <typename Random>
void sum_random_losses(Random& random) {
  const int64_t rows = random() % 6, P = random() % 1200;
  Buffer logits(Type::kFloat, rows * P), targets(Type::kFloat, rows * P);
  Buffer grad_sums(Type::kFloat, rows * kLossSums), output(Type::kFloat, rows * P);
  std::uniform_real_distribution<double> uniform(-20, 20);
  for (int64_t i = 0; i < rows * P; ++i) {
    logits.set(i, random() % 50 ? uniform(random) : kOdd[random() % 8]);
    targets.set(i, random() % 2);
  }
  for (int64_t i = 0; i < rows * kLossSums; ++i) grad_sums.set(i, uniform(random));
  std::vector<double> sums(rows * kLossSums);
  MaskLossProblem p{};
  p.P = P;
  p.logits = static_cast<float*>(logits.data());
  p.targets = static_cast<float*>(targets.data());
  p.sums = sums.data();
  p.grad_sums = static_cast<float*>(grad_sums.data());
  p.output = static_cast<float*>(output.data());
  for (const MaskLossKernels& kernels : of_this_processor(
           portable::mask_loss_kernels, avx2::mask_loss_kernels, avx512::mask_loss_kernels)) {
    for (const MaskLossKernel kernel : {kernels.sums, kernels.backward, kernels.probabilities}) {
      divide(rows, [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
    }
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
  if (data[0] & 32) {
    add_random_maps(given, value == Type::kDouble ? Type::kFloat : value);
    make_random_inputs(given, value == Type::kDouble ? Type::kFloat : value);
    normalise_random_rows(given, value == Type::kDouble ? Type::kFloat : value);
    sum_random_losses(given);
    return 0;
  }
  if (data[0] & 16) {
    sample_random_points(given, value == Type::kDouble ? Type::kFloat : value);
    return 0;
  }
  if (data[0] & 8) {
    resize_random_masks(given, value == Type::kDouble ? Type::kFloat : value);
    return 0;
  }
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
    for (const Type type : {float32, bfloat16, float16}) {
      resize_random_masks(random, type);
      sample_random_points(random, type);
      add_random_maps(random, type);
      make_random_inputs(random, type);
      normalise_random_rows(random, type);
    }
    sum_random_losses(random);
  }
  std::printf("%d problems of each type\n", count);
}

#endif
