// What may follow a sequence, and how likely it is (glm/engine/logits.py). V is the vocabulary.
#pragma once

#include <cstdint>
#include <vector>

#include "generation/config.h"
#include "tokenizer/tokenizer_file.h"

namespace glm {

// A prompt, and what was generated behind it by one beam.
struct Written {
    const std::vector<Id>& prompt;
    const std::vector<Id>& tokens;
};

// Log-probabilities of the next token under penalties and rules, in place of the logits.
// Throws Error where a logit is nan or infinite.
void to_log_probs(float* logits, std::size_t size, const Written& written, const GenerationConfig& config,
                  const std::vector<Id>& ends);

// The place of the highest value that `to_log_probs` would give, where nothing but the logits decides: few of them are
// looked at twice. Throws as it does. `sum_needed` says that the exact log-probabilities have to tell (close ones).
std::size_t likeliest(const float* logits, std::size_t size, bool& sum_needed);

// Ids, rising, of the `top_k` best tokens, of these those in the nucleus of mass `top_p`, of these those at least
// `min_p` times as likely as the best; 0 means all tokens, for each.
std::vector<Id> filtered_tokens(const std::vector<float>& logits, const GenerationConfig& config);

// Places of the highest scores, the best one first; of equal ones the earlier first.
std::vector<std::size_t> best_places(const float* scores, std::size_t size, std::size_t count);

}  // namespace glm
