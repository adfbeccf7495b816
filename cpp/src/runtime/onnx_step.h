// Step graphs of glm/export/onnx in ONNX Runtime (glm/runtime/onnx_step.py).
//
// One array holds the whole cache. A call is bound to it by address, to one slot or to the first B slots, and writes its
// new keys and values in place: nothing is copied between steps.
#pragma once

#include <map>

#include "runtime/memory.h"
#include "runtime/onnx_session.h"
#include "runtime/step.h"

namespace glm {

class OnnxStep : public StepRuntime {
public:
    // Throws Error where the file is missing, damaged or no step graph.
    explicit OnnxStep(const RuntimeOptions& options);
    ~OnnxStep() override;

    std::int64_t cache_bytes(int slots, int max_length) const override;
    std::unique_ptr<Cache> new_cache(int slots, int max_length) override;
    const float* decode(Cache& cache, const std::vector<std::int64_t>& ids, const std::vector<std::int64_t>& positions,
                        const std::vector<std::int64_t>& lengths) override;
    void copy(Cache& to, const std::vector<int>& slots, const Cache& of, const std::vector<int>& sources, int first,
              int end) override;

private:
    struct Call;
    struct ArrayCache;

    const float* read(Cache& cache, const Chunk& chunk) override;

    // Binds a call of `count` slots from `slot` on, with `tokens` each.
    std::unique_ptr<Call> bind(ArrayCache& cache, int slot, int count, int tokens, int total) const;

    OnnxSession session_;
    std::int64_t layers_ = 0, heads_ = 0, head_dim_ = 0;
    bool takes_positions_ = false, any_columns_ = false;
    std::unique_ptr<Call> prompt_;  // the newest call of a prompt, whose logits are valid
};

}  // namespace glm
