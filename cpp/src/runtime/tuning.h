// What libraries read from the environment when they are loaded (glm/device/tuning.py), or open a graph.
#pragma once

#include <cstdint>

namespace glm {

// All scores of a call are faster than tiles, and take heads · tokens · capacity: up to so many positions of a cache
// that is 4 MB a head of a part of a prompt.
constexpr std::int64_t kAllScoresPositions = 4096;

// Sessions of ONNX Runtime that are opened while it lives attend as is best for a cache of so many positions; who set
// the variable has it as it is set (glm/runtime/onnx_step.py).
class AttentionOf {
public:
    explicit AttentionOf(std::int64_t positions);
    ~AttentionOf();
    AttentionOf(const AttentionOf&) = delete;
    AttentionOf& operator=(const AttentionOf&) = delete;

private:
    bool chosen_;
};

// The heap keeps what is freed, and lies in huge pages (`keep_freed_memory` and `use_huge_pages` of the Python file).
void tune_process();

// Sets the kind of processor for MKL, and Paddle's flag of strides; what the user has set stays, and GLM_TUNE=0 leaves
// all of it alone.
void tune_for_paddle();

}  // namespace glm
