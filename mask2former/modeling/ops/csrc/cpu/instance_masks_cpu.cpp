// Masks of instances on the CPU: tensors to pointers, tables of the axes, and division among
// threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "axis_tables.h"
#include "choice.h"
#include "instance_masks.h"
#include "tensor_types.h"

namespace mask2former {
namespace {

using at::Tensor;

InstanceMasksKernel find_kernel() {
  return chosen(avx512::instance_masks_kernel, avx2::instance_masks_kernel,
                portable::instance_masks_kernel)();
}

void check_size(at::IntArrayRef size, const char* name) {
  TORCH_CHECK_VALUE(size.size() == 2 && size[0] >= 1 && size[1] >= 1 &&
                        size[0] < std::numeric_limits<int32_t>::max() / 2 &&
                        size[1] < std::numeric_limits<int32_t>::max() / 2,
                    name, " must be (height, width), 1 or larger, got ", size);
}

void check_arguments(const Tensor& logits, const Tensor& queries, at::IntArrayRef padded,
                     at::IntArrayRef image, at::IntArrayRef output) {
  TORCH_CHECK_VALUE(logits.dim() == 3 && logits.size(1) >= 1 && logits.size(2) >= 1,
                    "mask_logits must be (Q, h, w) with pixels, got ", logits.sizes());
  TORCH_CHECK_VALUE(logits.is_floating_point(), "mask_logits must be floating-point numbers, got ",
                    logits.scalar_type());
  TORCH_CHECK_VALUE(queries.dim() == 1 && queries.scalar_type() == at::kLong,
                    "queries must be int64 (D,), got ", queries.scalar_type(), " ",
                    queries.sizes());
  TORCH_CHECK_VALUE(logits.is_cpu() && queries.is_cpu(),
                    "mask_logits and queries must be on the CPU");
  check_size(padded, "padded_size");
  check_size(image, "image_size");
  check_size(output, "output_size");
  TORCH_CHECK_VALUE(image[0] <= padded[0] && image[1] <= padded[1], "image_size ", image,
                    " is larger than padded_size ", padded);
  check_size(logits.sizes().slice(1), "the size of mask_logits");
}

std::tuple<Tensor, Tensor, Tensor> instance_masks_cpu(const Tensor& mask_logits,
                                                      const Tensor& queries,
                                                      at::IntArrayRef padded_size,
                                                      at::IntArrayRef image_size,
                                                      at::IntArrayRef output_size) {
  check_arguments(mask_logits, queries, padded_size, image_size, output_size);
  const Tensor logits =
      (mask_logits.scalar_type() == at::kDouble ? mask_logits.to(at::kFloat) : mask_logits)
          .contiguous();
  const Tensor chosen = queries.contiguous();
  const int64_t D = chosen.size(0), H = output_size[0], W = output_size[1];
  Tensor masks = at::empty({D, H, W}, logits.options().dtype(at::kBool));
  Tensor probabilities = at::zeros({D}, logits.options().dtype(at::kFloat));
  Tensor boxes = at::zeros({D, 4}, logits.options().dtype(at::kFloat));
  const auto* query = chosen.const_data_ptr<int64_t>();
  auto* const bits = static_cast<uint8_t*>(masks.mutable_data_ptr());

  // A query can be there several times, with different classes: it is resized once.
  std::unordered_map<int64_t, int64_t> numbers;
  std::vector<int64_t> unique, number_of(D);
  std::vector<uint8_t*> outputs;
  for (int64_t i = 0; i < D; ++i) {
    TORCH_CHECK_INDEX(query[i] >= 0 && query[i] < logits.size(0), "query ", query[i],
                      " is out of range: there are ", logits.size(0));
    const auto [place, is_new] = numbers.try_emplace(query[i], unique.size());
    number_of[i] = place->second;
    if (is_new) {
      unique.push_back(query[i]);
      outputs.push_back(bits + i * H * W);
    }
  }

  const bool twice = image_size != output_size;
  const bool fused = instruction_set() != InstructionSet::kPortable;
  const AxisTables rows(logits.size(1), padded_size[0], image_size[0], fused);
  const AxisTables columns(logits.size(2), padded_size[1], image_size[1], fused);
  const AxisTables result_rows(image_size[0], H, H, fused);
  const AxisTables result_columns(image_size[1], W, W, fused);
  InstanceMasksProblem p{};
  p.h = logits.size(1);
  p.w = logits.size(2);
  p.H = H;
  p.W = W;
  p.type = type_of(logits);
  p.logits = logits.const_data_ptr();
  p.queries = unique.data();
  p.masks = outputs.data();
  p.rows[0] = rows.axis();
  p.rows[1] = result_rows.axis();
  p.columns[0] = columns.axis();
  p.columns[1] = result_columns.axis();
  p.twice = twice;
  // Bands large enough that what two of them both need does not matter.
  p.band_rows = 128;
  p.bands = (H + p.band_rows - 1) / p.band_rows;
  std::vector<BandResult> results(unique.size() * p.bands);
  p.results = results.data();
  const InstanceMasksKernel kernel = find_kernel();
  at::parallel_for(0, results.size(), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(scratch_of(p));
    kernel(p, begin, end, scratch.data());
  });

  auto* const probability = probabilities.mutable_data_ptr<float>();
  auto* const box = boxes.mutable_data_ptr<float>();
  for (int64_t i = 0; i < D; ++i) {
    BandResult total{};
    for (int64_t band = 0; band < p.bands; ++band) {
      const BandResult& part = results[number_of[i] * p.bands + band];
      if (part.area == 0) continue;
      const bool first = total.area == 0;
      total.x0 = first ? part.x0 : std::min(total.x0, part.x0);
      total.y0 = first ? part.y0 : total.y0;
      total.x1 = std::max(total.x1, part.x1);
      total.y1 = part.y1;
      total.area += part.area;
      total.probability += part.probability;
    }
    probability[i] = static_cast<float>(total.probability / (total.area + 1e-6));
    const int64_t corners[] = {total.x0, total.y0, total.x1, total.y1};
    for (int c = 0; c < 4; ++c) box[4 * i + c] = static_cast<float>(corners[c]);
    uint8_t* const mask = bits + i * H * W;
    if (mask != outputs[number_of[i]]) std::memcpy(mask, outputs[number_of[i]], H * W);
  }
  return {masks, probabilities, boxes};
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former, CPU, m) { m.impl("instance_masks", instance_masks_cpu); }

}  // namespace mask2former
