// Runs the emulated kernels on random problems, for the sanitizers to watch.
//
//     fuzz SEED COUNT [short-value | short-gradient]
//
// Every buffer has exactly the size that the kernels may touch; with one of the last words, a
// buffer is too small by one number, which AddressSanitizer must find. Exit status 1: a result is
// not finite, although all values are, or a wrong table of levels went unnoticed.

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include "run_kernels.h"

namespace {

std::mt19937 engine;

int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine); }

bool chance(double p) { return std::bernoulli_distribution(p)(engine); }

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Numbers of one of the four types, in memory of exactly their size.
struct Buffer {
  Buffer(emulated::Type type, int64_t size, int64_t missing = 0) : type(type), size(size) {
    void* allocated = nullptr;
    const int64_t bytes = (size - missing) * bytes_of(type);
    if (posix_memalign(&allocated, 16, bytes > 0 ? bytes : 0) != 0) {
      cuda_emulation::fail("out of memory");
    }
    memory.reset(allocated);
    if (bytes > 0) {
      std::memset(allocated, 0, bytes);
    }
  }

  static int64_t bytes_of(emulated::Type type) {
    return type == emulated::kDouble ? 8 : type == emulated::kFloat ? 4 : 2;
  }

  void set(int64_t index, double number) {
    void* const at = static_cast<char*>(memory.get()) + index * bytes_of(type);
    switch (type) {
      case emulated::kFloat:
        *static_cast<float*>(at) = static_cast<float>(number);
        break;
      case emulated::kDouble:
        *static_cast<double*>(at) = number;
        break;
      case emulated::kHalf:
        *static_cast<c10::Half*>(at) = static_cast<float>(number);
        break;
      case emulated::kBFloat16:
        *static_cast<c10::BFloat16*>(at) = static_cast<float>(number);
        break;
    }
  }

  double get(int64_t index) const {
    const void* const at = static_cast<const char*>(memory.get()) + index * bytes_of(type);
    switch (type) {
      case emulated::kFloat:
        return *static_cast<const float*>(at);
      case emulated::kDouble:
        return *static_cast<const double*>(at);
      case emulated::kHalf:
        return static_cast<float>(*static_cast<const c10::Half*>(at));
      case emulated::kBFloat16:
        return static_cast<float>(*static_cast<const c10::BFloat16*>(at));
    }
    return 0;
  }

  void fill(int64_t missing = 0) {
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < size - missing; ++i) {
      set(i, normal(engine));
    }
  }

  void check_finite(const char* what) const {
    for (int64_t i = 0; i < size; ++i) {
      if (!std::isfinite(get(i))) {
        std::fprintf(stderr, "%s is not finite at %ld\n", what, static_cast<long>(i));
        std::exit(1);
      }
    }
  }

  emulated::Type type;
  int64_t size;
  std::unique_ptr<void, Free> memory;
};

// Mostly near or inside of the map; else on its border, far away, or no number.
double random_location(int size) {
  switch (uniform(0, 9)) {
    case 0:
      return uniform(0, 1);
    case 1:
      return (uniform(0, 2 * size) - 0.5) / size;
    case 2: {
      const double infinity = std::numeric_limits<double>::infinity();
      const double odd[] = {std::nan(""), infinity, -infinity, 1e30, -1e30, 1e9, -1e9, 3e4};
      return odd[uniform(0, 7)];
    }
    default:
      return std::uniform_real_distribution<double>(-0.3, 1.3)(engine);
  }
}

int random_channels() {
  const int usual[] = {1, 3, 8, 16, 32, 40, 64, 128, 256};
  return chance(0.7) ? usual[uniform(0, 8)] : uniform(1, 70);
}

void run_one(const std::string& defect) {
  emulated::Problem problem{};
  const int types = uniform(0, 5);
  problem.value_type = static_cast<emulated::Type>(types % 4);
  problem.location_type = types < 4 ? problem.value_type : emulated::kFloat;
  if (types >= 4) {
    problem.value_type = types == 4 ? emulated::kHalf : emulated::kBFloat16;
  }
  auto& sizes = problem.sizes;
  sizes.batch = uniform(1, 3);
  sizes.queries = uniform(1, 9);
  sizes.heads = uniform(1, 3);
  sizes.channels = random_channels();
  sizes.levels = uniform(0, 4);
  sizes.points = uniform(0, 3);
  std::vector<int64_t> shapes, starts;
  for (int l = 0; l < sizes.levels; ++l) {
    const int64_t height = uniform(1, 5), width = uniform(1, 5);
    shapes.insert(shapes.end(), {height, width});
    starts.push_back(sizes.positions);
    sizes.positions += height * width;
  }
  // Tables that lie, as they can on a GPU, where nobody looks at them before the kernel does.
  const bool lies = sizes.levels > 0 && sizes.points > 0 && defect.empty() && chance(0.25);
  if (lies) {
    const int64_t huge[] = {-1, 1000, int64_t{1} << 31, int64_t{1} << 40, INT64_MAX, INT64_MIN};
    const int l = uniform(0, sizes.levels - 1);
    int64_t* const where[] = {&shapes[2 * l], &shapes[2 * l + 1], &starts[l]};
    *where[uniform(0, 2)] = huge[uniform(0, 5)];
  }
  problem.spatial_shapes = shapes.data();
  problem.level_start_index = starts.data();
  problem.levels_in_arguments = !lies && chance(0.5);
  problem.images_at_a_time = uniform(1, 3);
  problem.threads = chance(0.8) ? 32 : 64;

  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  const int64_t points = rows * sizes.levels * sizes.points;
  const int64_t values = sizes.batch * sizes.positions * sizes.heads * sizes.channels;
  const auto sum_type =
      problem.value_type == emulated::kDouble ? emulated::kDouble : emulated::kFloat;
  const int missing_value = defect == "short-value" && values > 0;
  const int missing_gradient = defect == "short-gradient" && values > 0;
  Buffer value(problem.value_type, values, missing_value);
  Buffer locations(problem.location_type, 2 * points);
  Buffer weights(problem.location_type, points);
  Buffer output(problem.value_type, rows * sizes.channels);
  Buffer grad_output(problem.value_type, rows * sizes.channels);
  Buffer grad_value(sum_type, values, missing_gradient);
  Buffer grad_locations(problem.location_type, 2 * points);
  Buffer grad_weights(problem.location_type, points);
  value.fill(missing_value);
  weights.fill();
  grad_output.fill();
  for (int64_t i = 0; i < points; ++i) {
    const int64_t level = i / sizes.points % sizes.levels;
    locations.set(2 * i, random_location(lies ? 3 : static_cast<int>(shapes[2 * level + 1])));
    locations.set(2 * i + 1, random_location(lies ? 3 : static_cast<int>(shapes[2 * level])));
  }

  emulated::forward(problem, value.memory.get(), locations.memory.get(), weights.memory.get(),
                    output.memory.get());
  emulated::backward(problem, grad_output.memory.get(), value.memory.get(), locations.memory.get(),
                     weights.memory.get(), grad_value.memory.get(), grad_locations.memory.get(),
                     grad_weights.memory.get());
  output.check_finite("the output");
  if (!missing_gradient) {
    grad_value.check_finite("the gradient of the value");
  }
  grad_locations.check_finite("the gradient of the locations");
  grad_weights.check_finite("the gradient of the weights");
  const bool noticed = cuda_emulation::failed_assertions.exchange(0) > 0;
  if (noticed != lies) {
    std::fprintf(stderr, "a table of levels that %s was %s\n", lies ? "lies" : "is right",
                 noticed ? "refused" : "accepted");
    std::exit(1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s SEED COUNT [short-value | short-gradient]\n", argv[0]);
    return 2;
  }
  engine.seed(static_cast<unsigned>(std::stoul(argv[1])));
  const int count = std::stoi(argv[2]);
  for (int i = 0; i < count; ++i) {
    run_one(argc > 3 ? argv[3] : "");
  }
  std::printf("%d problems\n", count);
  return 0;
}
