// Rotary positions (arXiv:2104.09864): heads [tokens, heads, width] turned by angles [tokens, pairs].
#include "common.h"

namespace {

// Dimensions step·i and step·i + distance are a pair; direction -1 turns back.
template <int64_t step>
void rotate(const float* x, const float* cosines, const float* sines, float* y, int64_t tokens, int64_t heads,
            int64_t width, int64_t pairs, int64_t distance, float direction) {
  in_parts(tokens, enough_rows(heads * width), [=](int64_t, int64_t first, int64_t end) {
    for (int64_t token = first; token < end; ++token) {
      const float *c = cosines + token * pairs, *s = sines + token * pairs;
      for (int64_t head = 0; head < heads; ++head) {
        const float* in = x + (token * heads + head) * width;
        float* out = y + (token * heads + head) * width;
#pragma omp simd
        for (int64_t i = 0; i < pairs; ++i) {
          const float a = in[step * i], b = in[step * i + distance], sine = direction * s[i];
          out[step * i] = a * c[i] - b * sine;
          out[step * i + distance] = b * c[i] + a * sine;
        }
        std::copy(in + 2 * pairs, in + width, out + 2 * pairs);
      }
    }
  });
}

}  // namespace

// Neighbouring pairs of the first 2·pairs dimensions.
KERNEL void rotate_pairs(const float* x, const float* cosines, const float* sines, float* y, int64_t tokens,
                         int64_t heads, int64_t width, int64_t pairs, float direction) {
  rotate<2>(x, cosines, sines, y, tokens, heads, width, pairs, 1, direction);
}

// The same dimensions, but i goes with i + pairs.
KERNEL void rotate_apart(const float* x, const float* cosines, const float* sines, float* y, int64_t tokens,
                         int64_t heads, int64_t width, int64_t pairs, float direction) {
  rotate<1>(x, cosines, sines, y, tokens, heads, width, pairs, pairs, direction);
}

// Dimension i of each half with i + pairs, the halves by angles of their own; width = 4·pairs.
KERNEL void rotate_halves(const float* x, const float* cosines, const float* sines, const float* cosines2,
                          const float* sines2, float* y, int64_t tokens, int64_t heads, int64_t pairs,
                          float direction) {
  const float *c[] = {cosines, cosines2}, *s[] = {sines, sines2};
  in_parts(tokens, enough_rows(heads * 4 * pairs), [=](int64_t, int64_t first, int64_t end) {
    for (int64_t token = first; token < end; ++token) {
      for (int64_t half = 0; half < 2 * heads; ++half) {
        const float* in = x + (2 * token * heads + half) * 2 * pairs;
        float* out = y + (2 * token * heads + half) * 2 * pairs;
        const float *cosine = c[half % 2] + token * pairs, *sine = s[half % 2] + token * pairs;
#pragma omp simd
        for (int64_t i = 0; i < pairs; ++i) {
          const float a = in[i], b = in[i + pairs], turned = direction * sine[i];
          out[i] = a * cosine[i] - b * turned;
          out[i + pairs] = b * cosine[i] + a * turned;
        }
      }
    }
  });
}
