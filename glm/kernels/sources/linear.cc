// Products of a few rows with weights [in, out], as a step of generation has them: memory's speed is all that counts.
#include "common.h"

namespace {

constexpr int64_t TILE = 64, WIDEST = 2048;  // columns that are read at once, and that are summed at once
constexpr int64_t DEPTH = 8;                 // rows of a weight that are read side by side, as streams
constexpr int64_t AHEAD = 2 * TILE;          // columns that are asked of memory before they are needed
constexpr int64_t LINE = 16;                 // numbers of a line of the cache
constexpr int64_t NARROW = 8192;             // columns below which threads divide a weight's rows, not its columns

struct Weight {
  const float *numbers, *bias;
  float* out;
  int64_t columns;

  int64_t tiles() const { return (columns + TILE - 1) / TILE; }
};

// x [rows, in], and the part of its columns that is multiplied.
struct Input {
  const float* numbers;
  int64_t rows, in, first, end;
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

// A weight is read once: past the larger caches, which keep what Python's code needs between two products.
void ask_for(const float* weight, int64_t stride) {
  for (int64_t k = 0; k < DEPTH; ++k) {
    for (int64_t line = 0; line < TILE; line += LINE) __builtin_prefetch(weight + k * stride + line, 0, 0);
  }
}

// sums += the product's `count` columns from `first` on, at most WIDEST; rows of the sums lie as those of the weight.
void add_columns(const Input& x, const Weight& w, int64_t first, int64_t count, float* sums) {
  const int64_t stride = w.columns;
  int64_t i = x.first;
  for (; i + DEPTH <= x.end; i += DEPTH) {
    const float* weight = w.numbers + i * stride + first;
    for (int64_t j = 0; j < count; j += TILE) {
      const int64_t next = j + AHEAD;
      if (next + TILE <= count) {
        ask_for(weight + next, stride);
      } else if (i + 2 * DEPTH <= x.end && next - count + TILE <= count) {
        ask_for(weight + DEPTH * stride + std::max<int64_t>(0, next - count), stride);
      }
      add_rows<DEPTH>(x.rows, x.numbers + i, x.in, weight + j, sums + first + j, stride, std::min(TILE, count - j));
    }
  }
  for (; i < x.end; ++i) {
    add_rows<1>(x.rows, x.numbers + i, x.in, w.numbers + i * stride + first, sums + first, stride, count);
  }
}

// sums = columns [first, end) of the product, with the bias or without it.
void multiply(const Input& x, const Weight& w, int64_t first, int64_t end, bool biased, float* sums) {
  for (int64_t r = 0; r < x.rows; ++r) {
    float* row = sums + r * w.columns;
    if (biased && w.bias) {
      std::copy(w.bias + first, w.bias + end, row + first);
    } else {
      std::fill(row + first, row + end, 0.0f);
    }
  }
  for (; first < end; first += WIDEST) add_columns(x, w, first, std::min(WIDEST, end - first), sums);
}

// Each thread has some of the columns.
void by_columns(const Input& x, const Weight (&weights)[3]) {
  int64_t tiles = 0;
  for (const Weight& w : weights) tiles += w.tiles();
  in_parts(tiles, std::max<int64_t>(1, ENOUGH / (TILE * x.in)), [&](int64_t, int64_t first, int64_t end) {
    for (const Weight& w : weights) {  // `first` and `end` count from its first tile
      const int64_t start = std::max<int64_t>(0, first) * TILE, stop = std::min(w.columns, end * TILE);
      if (start < stop) multiply(x, w, start, stop, true, w.out);
      first -= w.tiles();
      end -= w.tiles();
    }
  });
}

// Each thread has some of the rows of a weight, which lie together in memory; its sums are added to the first one's.
void by_rows(const Input& x, const Weight (&weights)[3], int64_t columns) {
  const int64_t blocks = std::max<int64_t>(1, x.in / DEPTH), least = std::max<int64_t>(1, ENOUGH / (DEPTH * columns));
  const int64_t others = parts_of(blocks, least) - 1, size = x.rows * columns;
  const std::unique_ptr<float[]> scratch(new float[others * size]);
  int64_t ran = 0;  // parts beside the first one
  in_parts(blocks, least, [&](int64_t part, int64_t first, int64_t end) {
    const Input own{x.numbers, x.rows, x.in, first * DEPTH, end == blocks ? x.in : end * DEPTH};
    float* sums = scratch.get() + std::max<int64_t>(0, part - 1) * size;
    if (end == blocks) ran = part;
    for (const Weight& w : weights) {
      multiply(own, w, 0, w.columns, part == 0, part ? sums : w.out);
      sums += x.rows * w.columns;
    }
  });
  const float* sums = scratch.get();
  for (int64_t part = 0; part < ran; ++part) {
    for (const Weight& w : weights) {
      const int64_t count = x.rows * w.columns;
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) w.out[j] += sums[j];
      sums += count;
    }
  }
}

}  // namespace

// swiglu of elementwise.cc.
KERNEL void swiglu(const float* gate, const float* up, float* out, int64_t count);

// out = x [rows, in]·W [in, columns] + b of up to three weights; those that are left out have no columns.
KERNEL void few_rows(const float* x, const float* weight, const float* bias, float* out, const float* weight2,
                     const float* bias2, float* out2, const float* weight3, const float* bias3, float* out3,
                     int64_t rows, int64_t in, int64_t columns, int64_t columns2, int64_t columns3) {
  const Weight weights[] = {
      {weight, bias, out, columns}, {weight2, bias2, out2, columns2}, {weight3, bias3, out3, columns3}};
  const Input input{x, rows, in, 0, in};
  const int64_t all = columns + columns2 + columns3;
  all < NARROW ? by_rows(input, weights, all) : by_columns(input, weights);
}

// out [rows, columns] = (silu(x·G + g) · (x·U + u))·D + d of x [rows, in], with `inner` columns of G and U.
KERNEL void few_gated_rows(const float* x, const float* gate, const float* gate_bias, const float* up,
                           const float* up_bias, const float* down, const float* down_bias, float* out, int64_t rows,
                           int64_t in, int64_t inner, int64_t columns) {
  const std::unique_ptr<float[]> both(new float[2 * rows * inner]);
  float *gates = both.get(), *ups = gates + rows * inner;
  few_rows(x, gate, gate_bias, gates, up, up_bias, ups, nullptr, nullptr, nullptr, rows, in, inner, inner, 0);
  swiglu(gates, ups, gates, rows * inner);
  few_rows(gates, down, down_bias, out, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, rows, inner, columns, 0, 0);
}
