// Random numbers as a pure function of a seed and a place: those of glm/generation/random_bits.py.
#pragma once

#include <cstdint>

namespace glm {

// Standard Gumbel noise of one row, column by column: argmax(logits + noise) draws from softmax(logits).
class GumbelNoise {
public:
    GumbelNoise(std::uint64_t seed, std::uint64_t step, std::uint64_t row);

    float operator()(std::uint32_t column) const;

private:
    std::uint32_t place_;
};

}  // namespace glm
