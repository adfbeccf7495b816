// A loaded graph that reads tokens into a key/value cache of fixed size and says what follows (glm/runtime/step.py).
//
// Shapes: B sequences that decode together, T tokens of a chunk, P position ids per token, V vocabulary, L layers, K
// key/value heads, C positions of a cache, D head_dim.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace glm {

// `slots` sequences of up to `max_length` tokens; the layout is the runtime's affair.
struct Cache {
    Cache(int slot_count, int positions) : slots(slot_count), max_length(positions) {}
    virtual ~Cache() = default;
    const int slots, max_length;
};

// A chunk of a prompt, which is read into positions start … start + T of one slot.
struct Chunk {
    int slot;
    int start;                       // positions of the slot that are read already; 0 where prefix_length is not
    int prefix_length;               // leading tokens that see each other in both directions
    std::vector<std::int64_t> ids;        // [T]
    std::vector<std::int64_t> positions;  // [P, T]
};

class StepRuntime {
public:
    virtual ~StepRuntime() = default;

    virtual std::int64_t cache_bytes(int slots, int max_length) const = 0;
    virtual std::unique_ptr<Cache> new_cache(int slots, int max_length) = 0;

    // Reads a chunk. Logits [V] of what follows it, valid until the next call. Throws Error where it does not fit.
    const float* prefill(Cache& cache, const Chunk& chunk);

    // Reads one token more in each of the first B slots: ids [B], positions [B, P], lengths [B], the tokens that each
    // slot has so far. Logits [B, V], valid until the next call.
    virtual const float* decode(Cache& cache, const std::vector<std::int64_t>& ids,
                                const std::vector<std::int64_t>& positions,
                                const std::vector<std::int64_t>& lengths) = 0;

    // Copies positions first … end of slots of one cache over slots of another, or of the same, as if all at once.
    virtual void copy(Cache& to, const std::vector<int>& slots, const Cache& of, const std::vector<int>& sources,
                      int first, int end) = 0;

    std::int64_t capacity = 0;  // longest max_length of a cache
    std::int64_t vocab_size = 0;
    std::int64_t position_rows = 1;  // P; 1 as well of a graph that counts positions itself

protected:
    // As prefill, of a chunk that the cache and the graph have a place for.
    virtual const float* read(Cache& cache, const Chunk& chunk) = 0;

    bool bidirectional_ = true;  // whether the graph lets tokens of a prefix see later ones
};

// What a runtime has to know to load a graph.
struct RuntimeOptions {
    fs::path model_file, params_file;
    int cpu_threads = 0;  // of the matmuls; 0 = one per core
    std::int64_t capacity = 0;
};

// Throws Error where positions start … end of a slot are not all in a cache.
inline void check_chunk(const Cache& cache, int slot, int start, int end) {
    if (slot < 0 || slot >= cache.slots || start < 0 || end > cache.max_length)
        fail("slot ", slot, ", positions ", start, " to ", end, " are outside a cache of ", cache.slots, " slots of ",
             cache.max_length, " positions: reserve a larger one");
}

inline const float* StepRuntime::prefill(Cache& cache, const Chunk& chunk) {
    check_chunk(cache, chunk.slot, chunk.start, chunk.start + static_cast<int>(chunk.ids.size()));
    if (chunk.prefix_length > 0 && (chunk.start > 0 || !bidirectional_))
        fail("prefix_length is ", chunk.prefix_length, " at position ", chunk.start,
             bidirectional_ ? ": such prompts are read whole" : ": no token of this graph sees a later one");
    return read(cache, chunk);
}

// Throws Error where a cache has no place for one token more in each of its first slots.
inline void check_step(const Cache& cache, const std::vector<std::int64_t>& lengths) {
    std::int64_t longest = 0;
    for (const std::int64_t length : lengths) longest = std::max(longest, length);
    if (static_cast<int>(lengths.size()) > cache.slots || longest >= cache.max_length)
        fail(lengths.size(), " sequences of up to ", longest + 1, " positions do not fit a cache of ", cache.slots,
             " slots of ", cache.max_length, " positions: reserve a larger one");
}

}  // namespace glm
