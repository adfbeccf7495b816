// Greedy search, sampling and beam search of one sequence over logits that come step by step (glm/engine/search.py).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "generation/config.h"
#include "generation/logits.h"

namespace glm {

// One sequence that grows. V is the vocabulary, G the beams.
class Search {
public:
    // `row` is what random numbers depend on besides the seed.
    Search(const GenerationConfig& config, std::vector<Id> ends, std::vector<Id> prompt, std::int64_t row);
    virtual ~Search() = default;

    // Chooses the next token of every beam, from logits of what follows each: G rows of V, or one row for all.
    void advance(const float* logits, std::size_t vocabulary, bool shared);

    // The tokens, the end token included.
    virtual std::vector<Id> result() const { return tokens_[0]; }

    int beams() const { return static_cast<int>(config_.num_beams); }
    std::int64_t step() const { return static_cast<std::int64_t>(tokens_[0].size()); }
    const std::vector<Id>& tokens(int beam = 0) const { return tokens_[static_cast<std::size_t>(beam)]; }
    const GenerationConfig& config() const { return config_; }

    // The beam that each new beam continues; taken once.
    std::vector<int> take_sources() { return std::move(sources_); }

    bool finished = false;  // whether it is complete, or has its full length

protected:
    virtual void choose(const float* logits, std::size_t vocabulary, bool shared) = 0;

    bool is_end(Id id) const;
    // A beam's log-probabilities.
    std::vector<float> log_probs(const float* logits, std::size_t vocabulary, int beam) const;
    // Scores of some tokens with the noise that makes the best one a random draw.
    std::vector<float> drawn(const std::vector<float>& log_probs, int beam, const std::vector<Id>& ids) const;
    // Log-probabilities divided by the temperature.
    std::vector<float> warped(std::vector<float> log_probs) const;

    GenerationConfig config_;
    std::vector<Id> ends_, prompt_;
    std::int64_t row_;
    std::vector<std::vector<Id>> tokens_;
    std::vector<int> sources_;
    bool ended_ = false;
};

std::unique_ptr<Search> make_search(const GenerationConfig& config, std::vector<Id> ends, std::vector<Id> prompt,
                                    std::int64_t row);

}  // namespace glm
