// What all kernels share: parts of the work for the threads, and functions of one number that vectorise.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#define KERNEL extern "C" __attribute__((visibility("default")))

// Of the OpenMP library that Paddle's matmuls use as well: one team of threads serves both.
extern "C" int omp_get_thread_num(void);
extern "C" int omp_get_num_threads(void);

inline int64_t threads = 1;  // of the process (`use_threads`)

// How many parts 0..count has, one a thread, none of them below `least`.
inline int64_t parts_of(int64_t count, int64_t least) { return std::min(threads, (count + least - 1) / least); }

// work(part, first, end) of each of these parts.
template <class Work>
void in_parts(int64_t count, int64_t least, Work work) {
  const int64_t parts = parts_of(count, least);
  if (parts <= 1) {
    work(0, 0, count);
    return;
  }
#pragma omp parallel num_threads(parts)
  {
    const int64_t part = omp_get_thread_num(), all = omp_get_num_threads();
    work(part, count * part / all, count * (part + 1) / all);
  }
}

// Numbers that are worth a thread, and the rows that have them.
constexpr int64_t ENOUGH = 1 << 14;
inline int64_t enough_rows(int64_t width) { return std::max<int64_t>(1, ENOUGH / std::max<int64_t>(1, width)); }

// e^x within 2 units in the last place; 0 below the smallest normal number, NaN stays NaN (Cephes' polynomial).
inline float exponential(float x) {
  const float bounded = std::min(std::max(x, -87.3f), 88.3f);
  const float power = std::nearbyint(bounded * 1.44269504f);
  const float r = (bounded - power * 0.693359375f) + power * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(power) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return x < -87.3f ? 0.0f : p * scale;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// A hash of 32 bits with little bias (Wellons, "hash-prospector").
inline uint32_t mixed(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x21f0aaadu;
  x = (x ^ (x >> 15)) * 0x735a2d97u;
  return x ^ (x >> 15);
}

// Dropout's random numbers: a hash of two seeds, a row and a column, so that the backward pass has them again.
struct Dropout {
  float scale;
  uint32_t first, second;
  uint64_t limit;

  Dropout(float rate, int64_t seed)
      : scale(rate < 1.0f ? 1.0f / (1.0f - rate) : 0.0f),
        first(static_cast<uint32_t>(seed)),
        second(static_cast<uint32_t>(seed >> 32)),
        limit(static_cast<uint64_t>(static_cast<double>(rate) * 4294967296.0)) {}

  // The same of one row, whose columns `factor` numbers.
  Dropout of_row(uint64_t row) const {
    Dropout found = *this;
    found.first = mixed(first + mixed(static_cast<uint32_t>(row)));
    found.second = mixed(second ^ mixed(static_cast<uint32_t>(row >> 32) + 0x9e3779b9u));
    return found;
  }

  // What a number is multiplied by: 0, or 1 / (1 - rate).
  float factor(uint32_t column) const { return mixed(mixed(column + first) ^ second) >= limit ? scale : 0.0f; }
};
