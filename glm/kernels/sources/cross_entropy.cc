// Cross entropy with label smoothing (arXiv:1512.00567) of logits [rows, width], of which `real` columns count.
#include "common.h"

namespace {
constexpr int64_t STRETCH = 1024;  // columns whose sum is taken in float32; sums of stretches in double
}

// loss = log Σ exp z - on_label·z[label] - share·Σ z; keeps log Σ exp z of each row.
KERNEL void cross_entropy(const float* logits, const int64_t* labels, float* losses, float* logsums, int64_t rows,
                          int64_t width, int64_t real, float on_label, float share) {
  in_parts(rows, enough_rows(width), [=](int64_t, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      const float* z = logits + row * width;
      float highest = z[0];
#pragma omp simd reduction(max : highest)
      for (int64_t j = 0; j < real; ++j) highest = std::max(highest, z[j]);
      double powers = 0.0, all = 0.0;
      for (int64_t start = 0; start < real; start += STRETCH) {
        const int64_t stop = std::min(real, start + STRETCH);
        float some_powers = 0.0f, some = 0.0f;
#pragma omp simd reduction(+ : some_powers, some)
        for (int64_t j = start; j < stop; ++j) {
          some_powers += exponential(z[j] - highest);
          some += z[j];
        }
        powers += some_powers;
        all += some;
      }
      const double logsum = highest + std::log(powers);
      logsums[row] = static_cast<float>(logsum);
      losses[row] = static_cast<float>(logsum - on_label * static_cast<double>(z[labels[row]]) - share * all);
    }
  });
}

// Gradient of the logits for gradients of the losses; `out` may be the logits themselves.
KERNEL void cross_entropy_grad(const float* logits, const int64_t* labels, const float* logsums, const float* grads,
                               float* out, int64_t rows, int64_t width, int64_t real, float on_label, float share) {
  in_parts(rows, enough_rows(width), [=](int64_t, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      const float *z = logits + row * width, logsum = logsums[row], grad = grads[row];
      float* to = out + row * width;
#pragma omp simd
      for (int64_t j = 0; j < real; ++j) to[j] = (exponential(z[j] - logsum) - share) * grad;
      std::fill(to + real, to + width, 0.0f);
      to[labels[row]] -= on_label * grad;
    }
  });
}

KERNEL void log_softmax(const float* x, float* out, int64_t rows, int64_t width) {
  in_parts(rows, enough_rows(width), [=](int64_t, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      const float* in = x + row * width;
      float* to = out + row * width;
      float highest = in[0], sum = 0.0f;
#pragma omp simd reduction(max : highest)
      for (int64_t j = 0; j < width; ++j) highest = std::max(highest, in[j]);
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < width; ++j) sum += exponential(in[j] - highest);
      const float logsum = std::log(sum);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) to[j] = in[j] - highest - logsum;
    }
  });
}
