#include "generation/logits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "base/error.h"

namespace glm {

namespace {

constexpr const char* kNotFinite =
    "the model's logits became nan or infinite: its weights are damaged, or its numbers overflow; convert or export it "
    "again, or use --dtype float32";
constexpr std::size_t kLanes = 16;  // accumulators, so that the compiler uses vector instructions
constexpr float kLeast = -87.0f;    // the exponential of what is less is nothing beside 1
constexpr float kClose = 1e-4f;     // logits nearer than this may be one log-probability after rounding

// Built for AVX2 as well, and chosen when the program starts.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define GLM_VECTORS __attribute__((target_clones("default", "avx2")))
#else
#define GLM_VECTORS
#endif

// exp(x) of -87 … 0 without a call, for vector instructions: 2^n · e^r with |r| ≤ ln(2) / 2, e^r by its Taylor series.
inline float exp_of(float x) {
    const float n = std::nearbyint(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float sum = 1.0f / 5040;
    for (const float part : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * r + part;
    const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return sum * power;
}

// The highest value. Throws Error where it is nan or infinite.
GLM_VECTORS float highest_of(const float* values, std::size_t size) {
    float highest[kLanes];
    unsigned nan[kLanes] = {};
    std::fill(highest, highest + kLanes, -std::numeric_limits<float>::infinity());
    std::size_t i = 0;
    for (; i + kLanes <= size; i += kLanes)
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const float value = values[i + lane];
            highest[lane] = value > highest[lane] ? value : highest[lane];
            nan[lane] |= value != value;
        }
    for (; i < size; ++i) {
        highest[0] = std::max(highest[0], values[i]);
        nan[0] |= values[i] != values[i];
    }
    const float best = *std::max_element(highest, highest + kLanes);
    if (std::any_of(nan, nan + kLanes, [](unsigned flag) { return flag != 0; }) || !std::isfinite(best))
        throw Error(kNotFinite);
    return best;
}

// The log of the sum of exponentials of values that are at most 0.
GLM_VECTORS float log_sum(const float* shifted, std::size_t size) {
    float sums[kLanes] = {};
    double sum = 0;
    std::size_t i = 0;
    while (i + kLanes <= size) {
        for (int block = 0; block < 64 && i + kLanes <= size; ++block, i += kLanes)
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
                const float value = shifted[i + lane];
                sums[lane] += value > kLeast ? exp_of(std::max(value, kLeast)) : 0.0f;
            }
        for (float& part : sums) {
            sum += part;
            part = 0;
        }
    }
    for (; i < size; ++i) sum += std::exp(shifted[i]);
    return std::log(static_cast<float>(sum));
}

void penalise(float* scores, std::size_t size, const Written& written, const GenerationConfig& config) {
    const auto repetition = static_cast<float>(config.repetition_penalty);
    if (repetition != 1) {
        std::set<Id> said(written.prompt.begin(), written.prompt.end());
        said.insert(written.tokens.begin(), written.tokens.end());
        for (const Id id : said)
            if (static_cast<std::size_t>(id) < size)
                scores[id] = scores[id] < 0 ? scores[id] * repetition : scores[id] / repetition;
    }
    if (config.presence_penalty == 0 && config.frequency_penalty == 0) return;
    std::map<Id, int> counts;
    for (const Id id : written.tokens) ++counts[id];
    for (const auto& [id, count] : counts) {
        scores[id] -= static_cast<float>(config.frequency_penalty) * static_cast<float>(count);
        scores[id] -= static_cast<float>(config.presence_penalty);
    }
}

// Tokens that would complete an n-gram of `size` tokens a second time; once for each time.
std::vector<Id> repeating_tokens(const std::vector<Id>& tokens, std::size_t size) {
    std::vector<Id> found;
    if (tokens.size() < size) return found;
    const auto newest = tokens.end() - static_cast<std::ptrdiff_t>(size - 1);
    for (auto start = tokens.begin(); start + static_cast<std::ptrdiff_t>(size) <= tokens.end(); ++start)
        if (std::equal(newest, tokens.end(), start)) found.push_back(start[static_cast<std::ptrdiff_t>(size - 1)]);
    return found;
}

void suppress(float* scores, std::size_t size, const std::vector<std::int64_t>& ids) {
    for (const std::int64_t id : ids)
        if (static_cast<std::size_t>(id) < size) scores[id] += kNever;
}

// The lowest logit of a nucleus. `best` are all candidates, the best one first.
float lowest_kept(const std::vector<float>& best, double mass) {
    double whole = 0;
    for (const float value : best) whole += std::exp(value - best[0]);
    const auto sum = static_cast<float>(whole);
    float reached = 0, lowest = best[0];
    for (const float value : best) {
        const float share = std::exp(value - best[0]) / sum;
        reached += share;
        if (!(reached - share < static_cast<float>(mass))) break;
        lowest = value;
    }
    return lowest;
}

}  // namespace

void to_log_probs(float* logits, std::size_t size, const Written& written, const GenerationConfig& config,
                  const std::vector<Id>& ends) {
    float highest = highest_of(logits, size);
    if (config.penalises() && config.num_beams == 1) {
        penalise(logits, size, written, config);
        highest = highest_of(logits, size);
    }
    for (std::size_t i = 0; i < size; ++i) logits[i] -= highest;
    const float whole = log_sum(logits, size);
    for (std::size_t i = 0; i < size; ++i) logits[i] -= whole;
    if (config.penalises() && config.num_beams > 1) penalise(logits, size, written, config);
    // The rules come after the softmax: what they forbid must not make a beam's other tokens likelier.
    if (static_cast<std::int64_t>(written.tokens.size()) < config.min_length)
        for (const Id id : std::set<Id>(ends.begin(), ends.end())) logits[id] += kNever;
    if (config.no_repeat_ngram_size > 0)
        for (const Id id : repeating_tokens(written.tokens, static_cast<std::size_t>(config.no_repeat_ngram_size)))
            logits[id] += kNever;
    suppress(logits, size, config.suppress_tokens);
    if (written.tokens.empty()) suppress(logits, size, config.begin_suppress_tokens);
}

std::size_t likeliest(const float* logits, std::size_t size, bool& sum_needed) {
    const float highest = highest_of(logits, size);
    std::size_t place = size, close = 0;
    for (std::size_t i = 0; i < size; ++i) {
        if (logits[i] < highest - kClose) continue;
        if (logits[i] == highest && place == size) place = i;
        ++close;
    }
    sum_needed = close > 1;
    return place;
}

std::vector<Id> filtered_tokens(const std::vector<float>& logits, const GenerationConfig& config) {
    float least = -std::numeric_limits<float>::infinity();
    std::vector<float> left;
    const auto top_k = static_cast<std::size_t>(config.top_k);
    if (top_k > 0 && top_k < logits.size()) {
        left = logits;
        std::nth_element(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(top_k - 1), left.end(),
                         std::greater<>());
        least = left[top_k - 1];
    }
    if (config.top_p > 0 && config.top_p < 1) {
        left.clear();
        for (const float value : logits)
            if (value >= least) left.push_back(value);
        std::sort(left.begin(), left.end(), std::greater<>());
        least = lowest_kept(left, config.top_p);
    }
    if (config.min_p > 0)
        least = std::max(least, *std::max_element(logits.begin(), logits.end()) +
                                    std::log(static_cast<float>(config.min_p)));
    std::vector<Id> ids;
    for (std::size_t i = 0; i < logits.size(); ++i)
        if (logits[i] >= least) ids.push_back(static_cast<Id>(i));
    return ids;
}

std::vector<std::size_t> best_places(const float* scores, std::size_t size, std::size_t count) {
    count = std::min(count, size);
    const auto better = [scores](std::size_t one, std::size_t other) {
        return scores[one] != scores[other] ? scores[one] > scores[other] : one < other;
    };
    std::vector<std::size_t> heap;  // the worst of the best so far on top
    for (std::size_t place = 0; place < size; ++place) {
        if (heap.size() == count && !better(place, heap.front())) continue;
        if (heap.size() == count) {
            std::pop_heap(heap.begin(), heap.end(), better);
            heap.pop_back();
        }
        heap.push_back(place);
        std::push_heap(heap.begin(), heap.end(), better);
    }
    std::sort(heap.begin(), heap.end(), better);
    return heap;
}

}  // namespace glm
