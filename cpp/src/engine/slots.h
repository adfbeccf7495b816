// The slots of one cache: capacity, prefix reuse, order (glm/engine/slots.py).
//
// The first `active` ones decode; of the others some are in use, by prompts that are being read, and the rest hold
// prefixes for prompts that begin alike.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "runtime/step.h"
#include "tokenizer/tokenizer_file.h"

namespace glm {

class Slots {
public:
    using Moved = std::map<int, int>;  // old → new place of the slots in use that moved

    Slots(StepRuntime& runtime, std::optional<std::int64_t> memory_limit)
        : runtime_(runtime), memory_limit_(memory_limit) {}

    // Reserves so many slots of so many positions, or as many slots as the memory limit allows, `least` at least.
    // Throws UsageError for more positions than the runtime has, or more memory than the limit allows.
    void reserve(std::int64_t slots, std::int64_t max_length, std::int64_t least);

    // Takes so many slots for a sequence; there are enough. The first is the one to read the prompt into.
    std::vector<int> open(const std::vector<Id>& ids, int count);

    // Copies into a slot what another one holds more of a prompt; how many leading ids it has then, never all.
    int extend(int slot, const std::vector<Id>& ids);

    // Says that a slot has read the first `count` of these ids; without `keep` they mean nothing to other sequences.
    void note(int slot, const std::vector<Id>& ids, std::size_t count, bool keep);

    // Makes a slot in use the next one that decodes.
    Moved start(int slot);

    // Copies what the first slot has read of a prompt to the others.
    void share(const std::vector<int>& slots, const std::vector<Id>& ids, bool keep);

    // Frees slots, and closes the gaps so that the active slots are the first ones.
    Moved close(const std::vector<int>& slots);

    // Frees the cache, and with it what was kept.
    void release();

    int count() const { return static_cast<int>(in_use_.size()); }
    int free_count() const;
    std::int64_t bytes() const { return cache_ ? runtime_.cache_bytes(cache_->slots, cache_->max_length) : 0; }
    Cache& cache() { return *cache_; }
    std::int64_t& length(int slot) { return lengths_[static_cast<std::size_t>(slot)]; }
    std::vector<Id>& prefix(int slot) { return prefixes_[static_cast<std::size_t>(slot)]; }

private:
    struct Longest {
        int length, slot;
    };
    Longest longest_prefix(const std::vector<Id>& ids) const;
    Moved exchange(int one, int other);
    bool fits(std::int64_t slots, std::int64_t max_length) const;
    void grow(std::int64_t slots, std::int64_t max_length);
    void touch(const std::vector<int>& slots);

    StepRuntime& runtime_;
    std::optional<std::int64_t> memory_limit_;  // most bytes of caches
    std::unique_ptr<Cache> cache_;
    std::vector<std::vector<Id>> prefixes_;  // ids whose keys and values a slot holds; {} for nothing to reuse
    std::vector<std::int64_t> lengths_;      // positions that are read and kept
    std::vector<std::int64_t> last_used_;
    std::vector<char> in_use_;
    int active_ = 0;
    std::int64_t uses_ = 0;
};

}  // namespace glm
