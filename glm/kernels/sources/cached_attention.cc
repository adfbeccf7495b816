// One new token of every beam against the prefix of its row and its own tail (glm/model/attention.py, CachedAttention).
// Queries [B, G, N, D], prefix keys and values [K, B, S, D] with a bias [B, S], tails [B, G, K, t, D].
#include "attention.h"

namespace {

constexpr int64_t FEW = 8;  // queries for which a call of the matmul takes longer than the products themselves

// scale·q [count, width]·keysᵀ [width, columns]; rows of the scores lie `stride` apart.
void scores(int64_t count, int64_t columns, int64_t width, float scale, const float* q, const float* keys, float* out,
            int64_t stride) {
  if (count > FEW) {
    gemm(ROWS, PLAIN, TURNED, count, columns, width, scale, q, width, keys, width, 0.0f, out, stride);
    return;
  }
  for (int64_t j = 0; j < columns; ++j, keys += width) {
    for (int64_t i = 0; i < count; ++i) {
      const float* query = q + i * width;
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < width; ++d) sum += query[d] * keys[d];
      out[i * stride + j] = scale * sum;
    }
  }
}

// out [count, width] = weights [count, columns]·values [columns, width], added to what is there or in its place.
void weigh(int64_t count, int64_t columns, int64_t width, const float* weights, int64_t stride, const float* values,
           bool added, float* out) {
  if (count > FEW) {
    gemm(ROWS, PLAIN, PLAIN, count, width, columns, 1.0f, weights, stride, values, width, added ? 1.0f : 0.0f, out,
         width);
    return;
  }
  if (!added) std::fill_n(out, count * width, 0.0f);
  for (int64_t j = 0; j < columns; ++j, values += width) {
    for (int64_t i = 0; i < count; ++i) {
      const float weight = weights[i * stride + j];
      float* sum = out + i * width;
#pragma omp simd
      for (int64_t d = 0; d < width; ++d) sum[d] += weight * values[d];
    }
  }
}

struct Cache {
  int64_t batch, beams, heads, groups, prefix, tail, width;

  int64_t repeats() const { return heads / groups; }
  int64_t columns() const { return prefix + tail; }
  int64_t queries() const { return beams * repeats(); }  // that share a row's keys of one group
};

// Queries of one group of heads of one row: those of all beams read the prefix together.
struct Group {
  const Cache& cache;
  int64_t row, group;

  float* query(float* of_all, int64_t beam) const {
    return of_all + ((row * cache.beams + beam) * cache.heads + group * cache.repeats()) * cache.width;
  }
  int64_t in_prefix() const { return (group * cache.batch + row) * cache.prefix * cache.width; }
  int64_t in_tail(int64_t beam) const {
    return ((row * cache.beams + beam) * cache.groups + group) * cache.tail * cache.width;
  }
};

// Repeats [first, end) of every beam; `scratch` for queries or contexts, and for weights.
void attend(const Group& one, int64_t first, int64_t end, float* q, const float* keys, const float* values,
            const float* bias, const float* tail_keys, const float* tail_values, float* context, float* scratch) {
  const Cache& c = one.cache;
  const int64_t each = end - first, count = c.beams * each, columns = c.columns();
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.width));
  float *some = scratch, *weights = scratch + count * c.width;
  for (int64_t g = 0; g < c.beams; ++g) {
    std::copy_n(one.query(q, g) + first * c.width, each * c.width, some + g * each * c.width);
  }
  if (c.prefix) {
    scores(count, c.prefix, c.width, scale, some, keys + one.in_prefix(), weights, columns);
  }
  for (int64_t g = 0; g < c.beams; ++g) {
    scores(each, c.tail, c.width, scale, some + g * each * c.width, tail_keys + one.in_tail(g),
           weights + g * each * columns + c.prefix, columns);
  }
  const float* hidden = bias + one.row * c.prefix;
  for (int64_t i = 0; i < count; ++i) {
    float* w = weights + i * columns;
#pragma omp simd
    for (int64_t j = 0; j < c.prefix; ++j) w[j] += hidden[j];
    softmax(w, columns);
  }
  if (c.prefix) {
    weigh(count, c.prefix, c.width, weights, columns, values + one.in_prefix(), false, some);
  }
  for (int64_t g = 0; g < c.beams; ++g) {
    float* out = some + g * each * c.width;
    weigh(each, c.tail, c.width, weights + g * each * columns + c.prefix, columns, tail_values + one.in_tail(g),
          c.prefix > 0, out);
    std::copy_n(out, each * c.width, one.query(context, g) + first * c.width);
  }
}

}  // namespace

KERNEL void cached_attention(float* q, const float* keys, const float* values, const float* bias,
                             const float* tail_keys, const float* tail_values, float* context, int64_t batch,
                             int64_t beams, int64_t heads, int64_t groups, int64_t prefix, int64_t tail,
                             int64_t width) {
  const Cache c{batch, beams, heads, groups, prefix, tail, width};
  const int64_t pairs = batch * groups;
  // Where groups are fewer than threads, the heads that share one are divided.
  const int64_t parts = std::min(c.repeats(), std::max<int64_t>(1, threads / pairs));
  in_parts(pairs * parts, 1, [&](int64_t, int64_t from, int64_t to) {
    const std::unique_ptr<float[]> scratch(new float[c.queries() * (width + c.columns())]);
    for (int64_t task = from; task < to; ++task) {
      const int64_t pair = task / parts, part = task % parts;
      attend(Group{c, pair / groups, pair % groups}, c.repeats() * part / parts, c.repeats() * (part + 1) / parts, q,
             keys, values, bias, tail_keys, tail_values, context, scratch.get());
    }
  });
}
