// The body of the CPU kernel that resizes a map and adds it to another; see vectors.h. Rows are
// resized by what instance_masks_impl.h has for it.

#include "instance_masks_impl.h"
#include "upsample_add.h"
#include "vectors.h"

namespace mask2former {
namespace MASK2FORMER_ISA {
namespace {

template <typename T>
void upsample_add_channels_last(const UpsampleAddProblem& p, int64_t begin, int64_t end) {
  constexpr int N = kFloats;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t image = row / p.H, y = row - image * p.H;
    const T* above[2];
    above[0] = static_cast<const T*>(p.above) + (image * p.h + p.rows.at[y]) * p.w * p.C;
    above[1] = static_cast<const T*>(p.above) + (image * p.h + p.rows.next[y]) * p.w * p.C;
    T* lateral = static_cast<T*>(p.lateral) + row * p.W * p.C;
    for (int64_t x = 0; x < p.W; ++x, lateral += p.C) {
      const int64_t columns[2] = {p.columns.at[x] * p.C, p.columns.next[x] * p.C};
      const float x_shares[2] = {p.columns.share[x], p.columns.next_share[x]};
      const float y_shares[2] = {p.rows.share[y], p.rows.next_share[y]};
      int64_t c = 0;
      for (; c + 2 * N <= p.C; c += 2 * N) {
        Floats first{}, second{};
#pragma GCC unroll 4
        for (int corner = 0; corner < 4; ++corner) {
          const auto loaded = Pair<T>::loaded(above[corner >> 1] + columns[corner & 1] + c);
          const float share = y_shares[corner >> 1] * x_shares[corner & 1];
          first += share * loaded.first;
          second += share * loaded.second;
        }
        const auto old = Pair<T>::loaded(lateral + c);
        Pair<T>{old.first + first, old.second + second}.store_to(lateral + c);
      }
      for (; c < p.C; ++c) {
        float sum = 0;
        for (int corner = 0; corner < 4; ++corner) {
          sum += y_shares[corner >> 1] * x_shares[corner & 1] *
                 load(above[corner >> 1] + columns[corner & 1] + c);
        }
        store(lateral + c, load(lateral + c) + sum);
      }
    }
  }
}

template <typename T>
void upsample_add_planes(const UpsampleAddProblem& p, int64_t begin, int64_t end, float* scratch) {
  constexpr int N = kFloats;
  const int64_t size = scratch_of(p) / 3;
  float* const source = scratch;
  const Range columns = in_blocks({0, p.W});
  for (int64_t plane = begin; plane < end; ++plane) {
    const T* above = static_cast<const T*>(p.above) + plane * p.h * p.w;
    T* lateral = static_cast<T*>(p.lateral) + plane * p.H * p.W;
    KeptRows rows;
    rows.rows[0] = scratch + size;
    rows.rows[1] = scratch + 2 * size;
    const auto make = [&](int64_t row, float* to) {
      convert_row(above + row * p.w, p.w, source);
      pad_row(source, p.w);
      resize_row(p.columns, source, columns, to);
    };
    for (int64_t y = 0; y < p.H; ++y, lateral += p.W) {
      const float* upper = rows.get(p.rows.at[y], make);
      const float* lower = rows.get(p.rows.next[y], make);
      const float share = p.rows.share[y], next_share = p.rows.next_share[y];
      int64_t x = 0;
      for (; x + N <= p.W; x += N) {
        const Floats sum = mixed(load_vector(upper + x), broadcast(share), load_vector(lower + x),
                                 broadcast(next_share));
        store_floats(lateral + x, load_vector(lateral + x) + sum);
      }
      for (; x < p.W; ++x) {
        store(lateral + x, load(lateral + x) + (upper[x] * share + lower[x] * next_share));
      }
    }
  }
}

template <typename T>
void upsample_add_of(const UpsampleAddProblem& p, int64_t begin, int64_t end, float* scratch) {
  if (p.channels_last) return upsample_add_channels_last<T>(p, begin, end);
  upsample_add_planes<T>(p, begin, end, scratch);
}

void upsample_add(const UpsampleAddProblem& p, int64_t begin, int64_t end, float* scratch) {
  if (p.type == Type::kFloat) return upsample_add_of<float>(p, begin, end, scratch);
  if (p.type == Type::kBFloat16) return upsample_add_of<BFloat16>(p, begin, end, scratch);
  upsample_add_of<Half>(p, begin, end, scratch);
}

}  // namespace

UpsampleAddKernel upsample_add_kernel() { return upsample_add; }

}  // namespace MASK2FORMER_ISA
}  // namespace mask2former
