// AdamW (arXiv:1711.05101), and the squares that gradients are clipped by.
#include "common.h"

// One step, as Paddle's: decays the weight by 1 - decay; `power1` and `power2` are β₁ᵗ and β₂ᵗ, for the next step too.
KERNEL void adamw(float* weight, const float* grad, float* moment1, float* moment2, float* power1, float* power2,
                  int64_t count, float grad_scale, float learning_rate, float decay, float beta1, float beta2,
                  float unbiased_epsilon) {
  const float root = std::sqrt(1.0f - *power2);
  const float rate = learning_rate * root / (1.0f - *power1), epsilon = unbiased_epsilon * root;
  *power1 *= beta1;
  *power2 *= beta2;
  in_parts(count, ENOUGH, [=](int64_t, int64_t first, int64_t end) {
#pragma omp simd
    for (int64_t i = first; i < end; ++i) {
      const float g = grad[i] * grad_scale;
      const float m = moment1[i] = beta1 * moment1[i] + (1.0f - beta1) * g;
      const float v = moment2[i] = beta2 * moment2[i] + (1.0f - beta2) * g * g;
      weight[i] = weight[i] * (1.0f - decay) - rate * (m / (std::sqrt(v) + epsilon));
    }
  });
}

// Σ x², summed in stretches.
KERNEL double squares(const float* x, int64_t count) {
  constexpr int64_t stretch = 1 << 12;
  const int64_t rows = (count + stretch - 1) / stretch;
  std::vector<double> sums(threads);
  in_parts(rows, enough_rows(stretch), [=, &sums](int64_t part, int64_t first, int64_t end) {
    double all = 0.0;
    for (int64_t row = first; row < end; ++row) {
      const int64_t stop = std::min(count, (row + 1) * stretch);
      float some = 0.0f;
#pragma omp simd reduction(+ : some)
      for (int64_t i = row * stretch; i < stop; ++i) some += x[i] * x[i];
      all += some;
    }
    sums[part] = all;
  });
  double all = 0.0;
  for (double sum : sums) all += sum;
  return all;
}
