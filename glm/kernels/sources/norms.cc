// RMSNorm (arXiv:1910.07467), and LayerNorm (arXiv:1607.06450) where there are means.
#include "common.h"

// y = (x - mean)·inverse·weight + bias; without `means` and `bias` RMSNorm. Keeps mean and inverse of each row.
KERNEL void norm(const float* x, const float* weight, const float* bias, float* y, float* means, float* inverses,
                 int64_t rows, int64_t width, float epsilon) {
  in_parts(rows, enough_rows(width), [=](int64_t, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      const float* in = x + row * width;
      float* out = y + row * width;
      float sum = 0.0f, squares = 0.0f, mean = 0.0f;
      if (means) {
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < width; ++j) sum += in[j];
        means[row] = mean = sum / width;
      }
#pragma omp simd reduction(+ : squares)
      for (int64_t j = 0; j < width; ++j) squares += (in[j] - mean) * (in[j] - mean);
      const float inverse = inverses[row] = 1.0f / std::sqrt(squares / width + epsilon);
      if (bias) {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) out[j] = (in[j] - mean) * inverse * weight[j] + bias[j];
      } else {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) out[j] = (in[j] - mean) * inverse * weight[j];
      }
    }
  });
}

// Of those gradients that are not null; sums over rows are taken in double precision.
KERNEL void norm_grad(const float* x, const float* weight, const float* grad, const float* means,
                      const float* inverses, float* grad_x, float* grad_weight, float* grad_bias, int64_t rows,
                      int64_t width) {
  std::vector<double> sums(2 * threads * width);
  in_parts(rows, enough_rows(width), [=, &sums](int64_t part, int64_t first, int64_t end) {
    double *of_weight = &sums[2 * part * width], *of_bias = of_weight + width;
    for (int64_t row = first; row < end; ++row) {
      const float *in = x + row * width, *g = grad + row * width;
      const float mean = means ? means[row] : 0.0f, inverse = inverses[row];
      float along = 0.0f, slopes = 0.0f;
#pragma omp simd reduction(+ : along, slopes)
      for (int64_t j = 0; j < width; ++j) {
        along += g[j] * weight[j] * (in[j] - mean);
        slopes += g[j] * weight[j];
      }
      along *= inverse / width;
      slopes = means ? slopes / width : 0.0f;
      if (grad_x) {
        float* out = grad_x + row * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j)
          out[j] = (g[j] * weight[j] - slopes - (in[j] - mean) * inverse * along) * inverse;
      }
      if (grad_weight) {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) of_weight[j] += g[j] * ((in[j] - mean) * inverse);
      }
      if (grad_bias) {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) of_bias[j] += g[j];
      }
    }
  });
  for (int64_t j = 0; j < width; ++j) {
    double of_weight = 0.0, of_bias = 0.0;
    for (int64_t part = 0; part < threads; ++part) {
      of_weight += sums[2 * part * width + j];
      of_bias += sums[(2 * part + 1) * width + j];
    }
    if (grad_weight) grad_weight[j] = static_cast<float>(of_weight);
    if (grad_bias) grad_bias[j] = static_cast<float>(of_bias);
  }
}
