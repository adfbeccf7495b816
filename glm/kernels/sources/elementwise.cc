// Activations, dropout, the addition of a bias.
#include "common.h"

namespace {

template <class Each>
void each(int64_t count, Each one) {
  in_parts(count, ENOUGH, [=](int64_t, int64_t first, int64_t end) {
#pragma omp simd
    for (int64_t i = first; i < end; ++i) one(i);
  });
}

// gelu(x) = x·s(u) with the logistic function s, as tanh(u/2) = 2·s(u) - 1.
constexpr float SLOPE = 1.5957691216057308f, CUBE = 0.044715f;
inline float gelu_argument(float x) { return SLOPE * (x + CUBE * x * x * x); }

}  // namespace

KERNEL void use_threads(int64_t count) { threads = std::max<int64_t>(1, count); }

KERNEL void swiglu(const float* gate, const float* up, float* out, int64_t count) {
  each(count, [=](int64_t i) { out[i] = gate[i] * sigmoid(gate[i]) * up[i]; });
}

KERNEL void swiglu_grad(const float* gate, const float* up, const float* grad, float* grad_gate, float* grad_up,
                        int64_t count) {
  each(count, [=](int64_t i) {
    const float x = gate[i], e = exponential(-x), s = 1.0f / (1.0f + e), g = grad[i];
    grad_gate[i] = g * up[i] * s * (1.0f + x * (e * s));
    grad_up[i] = g * x * s;
  });
}

KERNEL void gelu_tanh(const float* x, float* out, int64_t count) {
  each(count, [=](int64_t i) { out[i] = x[i] * sigmoid(gelu_argument(x[i])); });
}

KERNEL void gelu_tanh_grad(const float* x, const float* grad, float* grad_x, int64_t count) {
  each(count, [=](int64_t i) {
    const float e = exponential(-gelu_argument(x[i])), s = 1.0f / (1.0f + e);  // e·s is 1 - s, without its rounding
    const float slope = SLOPE * (1.0f + 3.0f * CUBE * x[i] * x[i]);
    grad_x[i] = grad[i] * (s + x[i] * s * (e * s) * slope);
  });
}

// out = residual + dropout(x); its gradient is dropout(grad) with the same seed.
KERNEL void dropout(const float* x, const float* residual, float* out, int64_t count, float rate, int64_t seed) {
  const int64_t width = 4096, rows = (count + width - 1) / width;
  const Dropout all(rate, seed);
  in_parts(rows, enough_rows(width), [=](int64_t, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      const Dropout kept = all.of_row(row);
      const int64_t start = row * width, columns = std::min(width, count - start);
      if (residual) {
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j)
          out[start + j] = residual[start + j] + x[start + j] * kept.factor(static_cast<uint32_t>(j));
      } else {
#pragma omp simd
        for (int64_t j = 0; j < columns; ++j) out[start + j] = x[start + j] * kept.factor(static_cast<uint32_t>(j));
      }
    }
  });
}

KERNEL void add_bias(const float* x, const float* bias, float* out, int64_t rows, int64_t width) {
  in_parts(rows, enough_rows(width), [=](int64_t, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      const float* in = x + row * width;
      float* to = out + row * width;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) to[j] = in[j] + bias[j];
    }
  });
}
