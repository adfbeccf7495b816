#include "generation/random_bits.h"

#include <cmath>

namespace glm {

namespace {

// The 32-bit finaliser of MurmurHash3 (Appleby).
std::uint32_t mix(std::uint32_t x) {
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    return x ^ (x >> 16);
}

}  // namespace

GumbelNoise::GumbelNoise(std::uint64_t seed, std::uint64_t step, std::uint64_t row)
    : place_(mix(mix(static_cast<std::uint32_t>(seed)) + static_cast<std::uint32_t>(step * 7919 + row * 104729))) {}

float GumbelNoise::operator()(std::uint32_t column) const {
    const std::uint32_t bits = mix(place_ + mix(column + 1));
    // 23 bits and a half: float32 holds that exactly. With 24 the last number would be 1, and its noise infinite.
    const float uniform = (static_cast<float>(bits >> 9) + 0.5f) * (1.0f / (1 << 23));
    return -std::log(-std::log(uniform));
}

}  // namespace glm
