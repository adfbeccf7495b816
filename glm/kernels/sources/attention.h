// What attention of whole rows and of a cache share: matmuls, and the softmax of a row.
#pragma once

#include "common.h"

// cblas_sgemm of the library that Paddle multiplies with; inside a parallel region it takes one thread.
using Gemm = void (*)(int order, int left, int right, int m, int n, int k, float alpha, const float* a, int lda,
                      const float* b, int ldb, float beta, float* c, int ldc);
inline Gemm gemm = nullptr;  // (`use_matmul`)
constexpr int ROWS = 101, PLAIN = 111, TURNED = 112;  // CblasRowMajor, CblasNoTrans, CblasTrans

// Softmax of one row in place; gives log Σ exp.
inline float softmax(float* z, int64_t columns) {
  float highest = z[0], sum = 0.0f;
#pragma omp simd reduction(max : highest)
  for (int64_t j = 0; j < columns; ++j) highest = std::max(highest, z[j]);
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < columns; ++j) sum += z[j] = exponential(z[j] - highest);
  const float share = 1.0f / sum;
#pragma omp simd
  for (int64_t j = 0; j < columns; ++j) z[j] *= share;
  return highest + std::log(sum);
}
