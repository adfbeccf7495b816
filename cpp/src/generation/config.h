// How text is generated (glm/generation/options.py).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace glm {

inline constexpr float kNever = -1e9f;  // added to forbidden scores

struct GenerationConfig {
    std::int64_t max_length = 160;
    std::int64_t min_length = 0;
    std::int64_t num_beams = 1;
    double length_penalty = 1.0;
    bool gnmt_length = true;
    std::int64_t no_repeat_ngram_size = 0;
    bool do_sample = false;
    double temperature = 1.0;
    std::int64_t top_k = 0;
    double top_p = 0.0;
    std::int64_t seed = 0;
    double repetition_penalty = 1.0;
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    double min_p = 0.0;
    std::vector<std::int64_t> suppress_tokens;
    std::vector<std::int64_t> begin_suppress_tokens;

    // Gives each way to say "off" one form, and throws UsageError for a value out of its range.
    void settle();

    bool penalises() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
};

// Fields of `GenerationConfig` that someone chose, by name; what is not there is left as it is.
struct ChosenOptions {
    std::map<std::string, double> numbers;
    std::map<std::string, std::int64_t> whole;
    std::optional<bool> do_sample;
    std::map<std::string, std::vector<std::int64_t>> lists;

    bool has(const std::string& name) const;
    void apply(GenerationConfig& config) const;
};

// Whether an option's value is whole, a number, or a list; "" for no option.
enum class Kind { kNone, kWhole, kNumber, kFlag, kList };
Kind kind_of_option(const std::string& name);

}  // namespace glm
