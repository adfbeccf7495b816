// Products of a few rows with weights [in, out], as a step of generation has them: memory's speed is all that counts.
#include "common.h"

namespace {

constexpr int64_t TILE = 64, WIDEST = 2048;  // columns that a thread gets at least, and that it has sums of at once
constexpr int64_t DEPTH = 8;                 // rows of a weight that are read side by side, as streams
constexpr int64_t LINE = 16;                 // numbers of a line of the cache

struct Weight {
  const float *numbers, *bias;
  float* out;
  int64_t columns;

  int64_t tiles() const { return (columns + TILE - 1) / TILE; }
};

// sums [rows, columns] += x [rows, depth]·weight [depth, columns]; rows of x lie `in` apart, the others `stride`.
template <int rows, int depth>
void add_products(const float* x, int64_t in, const float* weight, float* sums, int64_t stride, int64_t columns) {
#pragma omp simd
  for (int64_t j = 0; j < columns; ++j) {
    float sum[rows];
    for (int r = 0; r < rows; ++r) sum[r] = sums[r * stride + j];
    for (int i = 0; i < depth; ++i) {
      const float w = weight[i * stride + j];
      for (int r = 0; r < rows; ++r) sum[r] += x[r * in + i] * w;
    }
    for (int r = 0; r < rows; ++r) sums[r * stride + j] = sum[r];
  }
}

// Of any number of rows, four at a time: more sums than that leave the registers.
template <int depth>
void add_rows(int64_t rows, const float* x, int64_t in, const float* weight, float* sums, int64_t stride,
              int64_t columns) {
  for (; rows >= 4; rows -= 4, x += 4 * in, sums += 4 * stride) {
    add_products<4, depth>(x, in, weight, sums, stride, columns);
  }
  if (rows == 3) add_products<3, depth>(x, in, weight, sums, stride, columns);
  if (rows == 2) add_products<2, depth>(x, in, weight, sums, stride, columns);
  if (rows == 1) add_products<1, depth>(x, in, weight, sums, stride, columns);
}

// `count` columns from `first` of x·W + b, at most WIDEST.
void multiply(int64_t rows, const float* x, int64_t in, const Weight& w, int64_t first, int64_t count) {
  const int64_t stride = w.columns;
  const float* weight = w.numbers + first;
  float* sums = w.out + first;
  for (int64_t r = 0; r < rows; ++r) {
    if (w.bias) {
      std::copy_n(w.bias + first, count, sums + r * stride);
    } else {
      std::fill_n(sums + r * stride, count, 0.0f);
    }
  }
  int64_t i = 0;
  for (; i + DEPTH <= in; i += DEPTH, weight += DEPTH * stride) {
    for (int64_t j = 0; j < count; j += TILE) {
      const int64_t columns = std::min(TILE, count - j);
      if (i + 2 * DEPTH <= in) {  // what the next turn reads here
        for (int64_t k = DEPTH; k < 2 * DEPTH; ++k) {
          for (int64_t line = 0; line < columns; line += LINE) __builtin_prefetch(weight + k * stride + j + line);
        }
      }
      add_rows<DEPTH>(rows, x + i, in, weight + j, sums + j, stride, columns);
    }
  }
  for (; i < in; ++i, weight += stride) add_rows<1>(rows, x + i, in, weight, sums, stride, count);
}

}  // namespace

// out = x [rows, in]·W [in, columns] + b of up to three weights; those that are left out have no columns.
KERNEL void few_rows(const float* x, const float* weight, const float* bias, float* out, const float* weight2,
                     const float* bias2, float* out2, const float* weight3, const float* bias3, float* out3,
                     int64_t rows, int64_t in, int64_t columns, int64_t columns2, int64_t columns3) {
  const Weight weights[] = {
      {weight, bias, out, columns}, {weight2, bias2, out2, columns2}, {weight3, bias3, out3, columns3}};
  int64_t tiles = 0;
  for (const Weight& w : weights) tiles += w.tiles();
  in_parts(tiles, std::max<int64_t>(1, ENOUGH / (TILE * in)), [&](int64_t, int64_t first, int64_t end) {
    for (const Weight& w : weights) {  // `first` and `end` count from its first tile
      const int64_t stop = std::min(w.columns, end * TILE);
      for (int64_t at = std::max<int64_t>(0, first) * TILE; at < stop; at += WIDEST) {
        multiply(rows, x, in, w, at, std::min(WIDEST, stop - at));
      }
      first -= w.tiles();
      end -= w.tiles();
    }
  });
}
