// Predicts the instances in an image with an exported model, in onnxruntime's C++ interface alone:
//
//     predict MODEL.onnx IMAGE.ppm FOLDER [OPERATOR_LIBRARY.so]
//
// The image is a binary PPM file (P6, 8 bits), resized as the model wants it, in Pillow's BILINEAR
// form: the metadata's `min_size` is the length of its shorter side, `max_size` the limit of the
// longer one. The output has a line per instance, the best first: its class, its score and its
// mask, a PGM file in FOLDER. To compile it with an archive of onnxruntime's releases:
//
//     g++ -O2 -std=c++17 predict.cpp -I onnxruntime/include -L onnxruntime/lib -lonnxruntime

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Image {
  int64_t height = 0, width = 0;
  std::vector<unsigned char> pixels;  // red, green, blue
};

Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  Image image;
  int largest = 0;
  file >> magic >> image.width >> image.height >> largest;
  constexpr int64_t kLongest = 1 << 15;
  if (magic != "P6" || largest != 255 || image.width < 1 || image.height < 1 ||
      image.width > kLongest || image.height > kLongest) {
    throw std::runtime_error(path + " is not a PPM file (P6) with 8 bits per channel");
  }
  file.get();
  image.pixels.resize(3 * image.height * image.width);
  if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size())) {
    throw std::runtime_error(path + " is cut off");
  }
  return image;
}

void write_pgm(const std::string& path, int64_t height, int64_t width,
               const std::vector<unsigned char>& mask) {
  std::ofstream file(path, std::ios::binary);
  file << "P5\n" << width << " " << height << "\n255\n";
  file.write(reinterpret_cast<const char*>(mask.data()), mask.size());
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

// The metadata of the model, of which this program needs a few keys: no reader of all JSON.
class Metadata {
 public:
  explicit Metadata(std::string text) : text_(std::move(text)) {
    if (text_.find("\"mask2former-export\"") == std::string::npos) {
      throw std::runtime_error("the model was not exported by `mask2former export`");
    }
    if (number("version") != 1) throw std::runtime_error("the model is of a newer version");
  }

  double number(const std::string& key) const { return std::strtod(value(key), nullptr); }
  bool is_null(const std::string& key) const { return std::string(value(key), 4) == "null"; }
  bool starts_with(const std::string& key, const std::string& start) const {
    return std::string(value(key)).compare(0, start.size(), start) == 0;
  }

  std::vector<double> numbers(const std::string& key) const {
    std::vector<double> found;
    const char* at = value(key) + 1;  // after the bracket
    while (*at && *at != ']') {
      char* end;
      found.push_back(std::strtod(at, &end));
      if (end == at) break;
      at = end + std::min<size_t>(std::string(end).find_first_not_of(", "), 2);
    }
    return found;
  }

 private:
  const char* value(const std::string& key) const {
    const size_t at = text_.find("\"" + key + "\": ");
    if (at == std::string::npos) throw std::runtime_error("the metadata have no " + key);
    return text_.c_str() + at + key.size() + 4;
  }

  std::string text_;
};

// Normalised and padded: (1, 3, H, W).
std::vector<float> network_input(const Image& image, const Metadata& metadata, int64_t H,
                                 int64_t W) {
  const bool is_rgb = metadata.starts_with("channel_order", "\"RGB\"");
  const auto mean = metadata.numbers("mean"), std = metadata.numbers("std");
  if (mean.size() != 3 || std.size() != 3) throw std::runtime_error("the model takes no colours");
  if (!is_rgb && !metadata.starts_with("channel_order", "\"BGR\"")) {
    throw std::runtime_error("the model takes images as they are stored, not colours");
  }
  std::vector<float> input(3 * H * W, 0.0f);
  for (int64_t c = 0; c < 3; ++c) {
    const int64_t channel = is_rgb ? c : 2 - c;
    for (int64_t y = 0; y < image.height; ++y) {
      for (int64_t x = 0; x < image.width; ++x) {
        const float value = image.pixels[3 * (y * image.width + x) + channel];
        input[(c * H + y) * W + x] =
            (value - static_cast<float>(mean[c])) / static_cast<float>(std[c]);
      }
    }
  }
  return input;
}

// Where an output position lies between two inputs, for bilinear resizing.
struct Place {
  int64_t before, after;
  float share;

  Place(int64_t output, int64_t inputs, int64_t outputs) {
    const double scale = static_cast<float>(inputs) / static_cast<float>(outputs);
    const float position = static_cast<float>(std::max(scale * (output + 0.5) - 0.5, 0.0));
    before = std::min(static_cast<int64_t>(position), inputs - 1);
    after = std::min(before + 1, inputs - 1);
    share = position - static_cast<float>(before);
  }
};

// A mask of the image from logits (h, w) of the padded input (H, W), and its mean probability.
std::vector<unsigned char> mask_of(const float* logits, int64_t h, int64_t w, int64_t H, int64_t W,
                                   const Image& image, double& mean) {
  std::vector<unsigned char> mask(image.height * image.width, 0);
  double total = 0;
  int64_t area = 0;
  for (int64_t y = 0; y < image.height; ++y) {
    const Place row(y, h, H);
    for (int64_t x = 0; x < image.width; ++x) {
      const Place column(x, w, W);
      const auto along = [&](int64_t r) {
        return (1 - column.share) * logits[r * w + column.before] +
               column.share * logits[r * w + column.after];
      };
      const float logit = (1 - row.share) * along(row.before) + row.share * along(row.after);
      if (logit <= 0) continue;
      mask[y * image.width + x] = 255;
      total += 1 / (1 + std::exp(-logit));
      ++area;
    }
  }
  mean = area ? total / (area + 1e-6) : 0;
  return mask;
}

// One class of one query.
struct Candidate {
  int64_t query, label;
  float probability;
};

// The most probable pairs of a query and a class, the best first.
std::vector<Candidate> candidates(const float* logits, int64_t queries, int64_t outputs,
                                  const Metadata& metadata) {
  std::vector<Candidate> found;
  for (int64_t q = 0; q < queries; ++q) {
    const float* row = logits + q * outputs;
    const double largest = *std::max_element(row, row + outputs);
    double sum = 0;
    for (int64_t k = 0; k < outputs; ++k) sum += std::exp(row[k] - largest);
    for (int64_t k = 0; k + 1 < outputs; ++k) {  // the last one is "no object"
      found.push_back({q, k, static_cast<float>(std::exp(row[k] - largest) / sum)});
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    return a.probability > b.probability;
  });
  const auto most = static_cast<size_t>(metadata.number("max_detections"));
  found.resize(std::min(found.size(), most));
  if (!metadata.is_null("things")) {
    const auto things = metadata.numbers("things");
    const auto is_stuff = [&](const Candidate& candidate) {
      return std::find(things.begin(), things.end(), candidate.label) == things.end();
    };
    found.erase(std::remove_if(found.begin(), found.end(), is_stuff), found.end());
  }
  return found;
}

void predict(const std::string& model, const std::string& picture, const std::string& folder,
             const char* library) {
  // From 1.29 on, onnxruntime reports the models that it runs to its vendor by default.
  setenv("ORT_DISABLE_TELEMETRY", "1", /*replace=*/0);
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "predict");
  Ort::SessionOptions options;
  if (library) options.RegisterCustomOpsLibrary(library);
  Ort::Session session(env, model.c_str(), options);
  Ort::AllocatorWithDefaultOptions allocator;
  const auto text =
      session.GetModelMetadata().LookupCustomMetadataMapAllocated("mask2former", allocator);
  const Metadata metadata(text ? text.get() : "");

  const Image image = read_ppm(picture);
  const auto multiple = static_cast<int64_t>(metadata.number("size_divisibility"));
  const int64_t H = (image.height + multiple - 1) / multiple * multiple;
  const int64_t W = (image.width + multiple - 1) / multiple * multiple;
  std::vector<float> input = network_input(image, metadata, H, W);
  const int64_t shape[] = {1, 3, H, W};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const Ort::Value images =
      Ort::Value::CreateTensor<float>(memory, input.data(), input.size(), shape, 4);
  const char* input_names[] = {"images"};
  const char* output_names[] = {"logits", "masks"};
  const auto outputs = session.Run(Ort::RunOptions{}, input_names, &images, 1, output_names, 2);
  const auto logits_shape = outputs[0].GetTensorTypeAndShapeInfo().GetShape();  // (1, Q, K + 1)
  const auto masks_shape = outputs[1].GetTensorTypeAndShapeInfo().GetShape();   // (1, Q, h, w)
  const float* masks = outputs[1].GetTensorData<float>();
  const int64_t h = masks_shape[2], w = masks_shape[3];

  struct Instance {
    Candidate candidate;
    double score;
    std::vector<unsigned char> mask;
  };
  std::vector<Instance> instances;
  const double threshold = metadata.number("threshold");
  for (const auto& candidate :
       candidates(outputs[0].GetTensorData<float>(), logits_shape[1], logits_shape[2], metadata)) {
    if (candidate.probability < threshold) break;  // the score is at most as high
    double mean;
    auto mask = mask_of(masks + candidate.query * h * w, h, w, H, W, image, mean);
    const double score = candidate.probability * mean;
    if (mean > 0 && score >= threshold) instances.push_back({candidate, score, std::move(mask)});
  }
  std::stable_sort(instances.begin(), instances.end(),
                   [](const Instance& a, const Instance& b) { return a.score > b.score; });
  for (size_t i = 0; i < instances.size(); ++i) {
    const std::string path = folder + "/" + std::to_string(i) + ".pgm";
    write_pgm(path, image.height, image.width, instances[i].mask);
    std::printf("class %lld score %.6f %s\n", static_cast<long long>(instances[i].candidate.label),
                instances[i].score, path.c_str());
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4 && count != 5) {
    std::fprintf(stderr, "usage: %s MODEL.onnx IMAGE.ppm FOLDER [OPERATOR_LIBRARY.so]\n",
                 arguments[0]);
    return 2;
  }
  try {
    predict(arguments[1], arguments[2], arguments[3], count == 5 ? arguments[4] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
