// Texts after prompts: reads prompts in parts, decodes a batch together, reuses what was read (glm/engine).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "chat/positions.h"
#include "engine/slots.h"
#include "generation/search.h"
#include "runtime/step.h"

namespace glm {

struct Request {
    std::vector<Id> ids;  // the prompt, the token to decode from last
    GenerationConfig config;
    // Is told each token of a sequence of one beam as it is chosen; true ends the sequence.
    std::function<bool(Id)> on_token;
};

struct EngineOptions {
    std::optional<std::int64_t> memory_limit;  // most bytes of key/value cache; texts wait for slots
    int chunk = 256;                           // most tokens of a prompt that are read at once
};

class Engine {
public:
    Engine(StepRuntime& runtime, Positions positions, std::vector<Id> ends, EngineOptions options);
    ~Engine();

    // Completes requests, at most `batch_size` at a time, and tells the tokens of each, the end token included, when it
    // is finished. Random numbers depend on the request's place in its batch. Throws UsageError for more positions or
    // memory than there are.
    using Finished = std::function<void(std::size_t place, const std::vector<Id>& tokens)>;
    void run(const std::vector<Request>& requests, std::size_t batch_size, const Finished& finished);

    std::int64_t cache_bytes() const { return slots_.bytes(); }
    std::int64_t prompt_tokens() const { return prompt_tokens_; }
    std::int64_t reused_tokens() const { return reused_tokens_; }

private:
    struct Sequence;
    using Sequences = std::vector<std::unique_ptr<Sequence>>;

    void reserve(const std::vector<Request>& requests, std::size_t batch_size);
    const float* read(Sequence& sequence);
    void start(std::unique_ptr<Sequence> sequence, const float* logits, const Finished& finished);
    void decode(const Finished& finished);
    void advance(Sequence& sequence, const float* logits, bool shared);
    void settle(const Finished& finished);
    void leave(const Sequences& gone);
    void move(const Slots::Moved& moved);

    StepRuntime& runtime_;
    Positions positions_;
    std::vector<Id> ends_;
    EngineOptions options_;
    Slots slots_;
    Sequences decoding_;
    std::int64_t prompt_tokens_ = 0, reused_tokens_ = 0;
};

}  // namespace glm
