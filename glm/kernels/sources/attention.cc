// Exact attention in blocks of queries: scores of a block stay in the cache, and none is kept for the backward pass.
// Queries [B, T, N, D], keys and values [B, T, K, D]; query j sees column i where visible[b, 0, i] <= j < visible[b, 1, i].
#include "attention.h"

namespace {

constexpr float MASKED = -30000.0f;                   // as glm/model/visibility.py
constexpr int64_t MOST_SCORES = 1 << 16, MOST_QUERIES = 64, LEAST_QUERIES = 8;

struct Shape {
  int64_t batch, tokens, heads, groups, width;
  float rate;
  int64_t seed;

  int64_t queries() const {  // of a block
    return std::min(tokens, std::max(LEAST_QUERIES, std::min(MOST_QUERIES, MOST_SCORES / tokens)));
  }
  // Rows of one head lie so far apart.
  int64_t stride() const { return heads * width; }
  int64_t key_stride() const { return groups * width; }
};

// One query head of one row of the batch.
struct Head {
  const Shape& shape;
  int64_t row, head;
  const float *q, *k, *v;
  const int32_t *first, *end;
  float scale;

  Head(const Shape& s, int64_t task, const float* queries, const float* keys, const float* values,
       const int32_t* visible)
      : shape(s), row(task / s.heads), head(task % s.heads), scale(1.0f / std::sqrt(static_cast<float>(s.width))) {
    const int64_t group = head / (s.heads / s.groups), at = (row * s.tokens * s.groups + group) * s.width;
    q = queries + offset();
    k = keys + at;
    v = values + at;
    first = visible + row * 2 * s.tokens;
    end = first + s.tokens;
  }

  int64_t offset() const { return (row * shape.tokens * shape.heads + head) * shape.width; }

  // Keys [from, to) that any of some queries sees.
  void seen(int64_t start, int64_t stop, int64_t& from, int64_t& to) const {
    from = 0;
    to = shape.tokens;
    while (to > 0 && !(first[to - 1] < stop && end[to - 1] > start)) --to;
    while (from < to && !(first[from] < stop && end[from] > start)) ++from;
  }

  // q·k / √D of a block, without what is not seen.
  void scores(int64_t start, int64_t stop, int64_t from, int64_t to, float* out) const {
    const int64_t columns = to - from;
    gemm(ROWS, PLAIN, TURNED, stop - start, columns, shape.width, scale, q + start * shape.stride(), shape.stride(),
         k + from * shape.key_stride(), shape.key_stride(), 0.0f, out, columns);
    for (int64_t i = start; i < stop; ++i) {
      float* z = out + (i - start) * columns;
      const int32_t query = static_cast<int32_t>(i), *begins = first + from, *ends = end + from;
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) z[j] += begins[j] <= query && query < ends[j] ? 0.0f : MASKED;
    }
  }

  Dropout dropout(int64_t query) const {
    return Dropout(shape.rate, shape.seed).of_row((row * shape.heads + head) * shape.tokens + query);
  }
};

void attend(const Head& one, float* context, float* logsums, float* weights) {
  const Shape& s = one.shape;
  const int64_t block = s.queries();
  for (int64_t start = 0, from, to; start < s.tokens; start += block) {
    const int64_t stop = std::min(s.tokens, start + block);
    float* out = context + one.offset() + start * s.stride();
    one.seen(start, stop, from, to);
    if (from == to) {
      for (int64_t i = 0; i < stop - start; ++i) std::fill_n(out + i * s.stride(), s.width, 0.0f);
      continue;
    }
    const int64_t columns = to - from;
    one.scores(start, stop, from, to, weights);
    for (int64_t i = start; i < stop; ++i) {
      float* w = weights + (i - start) * columns;
      const float logsum = softmax(w, columns);
      if (logsums) logsums[(one.row * s.heads + one.head) * s.tokens + i] = logsum;
      if (s.rate > 0.0f) {
        const Dropout kept = one.dropout(i);
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j) w[j] *= kept.factor(static_cast<uint32_t>(from + j));
      }
    }
    gemm(ROWS, PLAIN, PLAIN, stop - start, s.width, columns, 1.0f, weights, columns,
         one.v + from * s.key_stride(), s.key_stride(), 0.0f, out, s.stride());
  }
}

// From the scores of a query and the slope of its weights: the weights that met the values, and the slope of the scores.
void score_slopes(const Head& one, int64_t query, int64_t from, int64_t columns, float logsum, float along, float* w,
                  float* slope) {
  const float scale = one.scale;
  if (one.shape.rate > 0.0f) {
    const Dropout kept = one.dropout(query);
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const float p = exponential(w[j] - logsum), factor = kept.factor(static_cast<uint32_t>(from + j));
      slope[j] = p * (slope[j] * factor - along) * scale;
      w[j] = p * factor;
    }
  } else {
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const float p = exponential(w[j] - logsum);
      slope[j] = p * (slope[j] - along) * scale;
      w[j] = p;
    }
  }
}

// Gradients of one head's keys and values are its own here: heads that share them are added up later.
void attend_back(const Head& one, const float* context, const float* logsums, const float* grad, float* grad_q,
                 float* grad_k, float* grad_v, float* weights, float* slopes) {
  const Shape& s = one.shape;
  const int64_t block = s.queries(), stride = s.stride(), at = one.offset();
  for (int64_t i = 0; i < s.tokens; ++i) {
    std::fill_n(grad_k + at + i * stride, s.width, 0.0f);
    std::fill_n(grad_v + at + i * stride, s.width, 0.0f);
  }
  for (int64_t start = 0, from, to; start < s.tokens; start += block) {
    const int64_t stop = std::min(s.tokens, start + block), rows = stop - start;
    const float *g = grad + at + start * stride, *o = context + at + start * stride;
    one.seen(start, stop, from, to);
    if (from == to) {
      for (int64_t i = start; i < stop; ++i) std::fill_n(grad_q + at + i * stride, s.width, 0.0f);
      continue;
    }
    const int64_t columns = to - from;
    one.scores(start, stop, from, to, weights);
    gemm(ROWS, PLAIN, TURNED, rows, columns, s.width, 1.0f, g, stride, one.v + from * s.key_stride(), s.key_stride(),
         0.0f, slopes, columns);
    for (int64_t i = start; i < stop; ++i) {
      const float *of_context = o + (i - start) * stride, *of_grad = g + (i - start) * stride;
      float along = 0.0f;
#pragma omp simd reduction(+ : along)
      for (int64_t d = 0; d < s.width; ++d) along += of_context[d] * of_grad[d];
      score_slopes(one, i, from, columns, logsums[(one.row * s.heads + one.head) * s.tokens + i], along,
                   weights + (i - start) * columns, slopes + (i - start) * columns);
    }
    gemm(ROWS, TURNED, PLAIN, columns, s.width, rows, 1.0f, weights, columns, g, stride, 1.0f,
         grad_v + at + from * stride, stride);
    gemm(ROWS, PLAIN, PLAIN, rows, s.width, columns, 1.0f, slopes, columns, one.k + from * s.key_stride(),
         s.key_stride(), 0.0f, grad_q + at + start * stride, stride);
    gemm(ROWS, TURNED, PLAIN, columns, s.width, rows, 1.0f, slopes, columns, one.q + start * stride, stride, 1.0f,
         grad_k + at + from * stride, stride);
  }
}

// [tokens, groups, repeats, width] → [tokens, groups, width].
void add_up(const float* parts, float* sums, int64_t tokens, int64_t groups, int64_t repeats, int64_t width) {
  in_parts(tokens * groups, enough_rows(repeats * width), [=](int64_t, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) {
      float* sum = sums + i * width;
      const float* part = parts + i * repeats * width;
      std::copy_n(part, width, sum);
      for (int64_t r = 1; r < repeats; ++r) {
#pragma omp simd
        for (int64_t d = 0; d < width; ++d) sum[d] += part[r * width + d];
      }
    }
  });
}

// work(task, scratch) of every head, by whichever thread is free; `numbers` of scratch each.
template <class Work>
void each_head(const Shape& s, int64_t numbers, Work work) {
  std::atomic<int64_t> next{0};
  in_parts(std::min(threads, s.batch * s.heads), 1, [&](int64_t, int64_t, int64_t) {
    const std::unique_ptr<float[]> scratch(new float[numbers]);
    for (int64_t task; (task = next++) < s.batch * s.heads;) work(task, scratch.get());
  });
}

}  // namespace

KERNEL void use_matmul(void* cblas_sgemm) { gemm = reinterpret_cast<Gemm>(cblas_sgemm); }

KERNEL void attention(const float* q, const float* k, const float* v, const int32_t* visible, float* context,
                      float* logsums, int64_t batch, int64_t tokens, int64_t heads, int64_t groups, int64_t width,
                      float rate, int64_t seed) {
  const Shape s{batch, tokens, heads, groups, width, rate, seed};
  each_head(s, s.queries() * tokens, [&](int64_t task, float* scratch) {
    attend(Head(s, task, q, k, v, visible), context, logsums, scratch);
  });
}

// `of_heads` [2, B, T, N, D] is for gradients of keys and values by query head.
KERNEL void attention_grad(const float* q, const float* k, const float* v, const int32_t* visible,
                           const float* context, const float* logsums, const float* grad, float* grad_q,
                           float* grad_k, float* grad_v, float* of_heads, int64_t batch, int64_t tokens,
                           int64_t heads, int64_t groups, int64_t width, float rate, int64_t seed) {
  const Shape s{batch, tokens, heads, groups, width, rate, seed};
  const int64_t scores = s.queries() * tokens, size = batch * tokens * heads * width;
  each_head(s, 2 * scores, [&](int64_t task, float* scratch) {
    attend_back(Head(s, task, q, k, v, visible), context, logsums, grad, grad_q, of_heads, of_heads + size, scratch,
                scratch + scores);
  });
  add_up(of_heads, grad_k, batch * tokens, groups, heads / groups, width);
  add_up(of_heads + size, grad_v, batch * tokens, groups, heads / groups, width);
}
