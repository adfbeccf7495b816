#include "generation/search.h"

#include <algorithm>
#include <cmath>

#include "generation/random_bits.h"

namespace glm {

Search::Search(const GenerationConfig& config, std::vector<Id> ends, std::vector<Id> prompt, std::int64_t row)
    : config_(config),
      ends_(std::move(ends)),
      prompt_(std::move(prompt)),
      row_(row),
      tokens_(static_cast<std::size_t>(config.num_beams)) {}

void Search::advance(const float* logits, std::size_t vocabulary, bool shared) {
    choose(logits, vocabulary, shared);
    finished = ended_ || step() >= config_.max_length;
}

bool Search::is_end(Id id) const { return std::find(ends_.begin(), ends_.end(), id) != ends_.end(); }

std::vector<float> Search::log_probs(const float* logits, std::size_t vocabulary, int beam) const {
    std::vector<float> scores(logits, logits + vocabulary);
    to_log_probs(scores.data(), vocabulary, {prompt_, tokens(beam)}, config_, ends_);
    return scores;
}

std::vector<float> Search::drawn(const std::vector<float>& log_probs, int beam, const std::vector<Id>& ids) const {
    const GumbelNoise noise(static_cast<std::uint64_t>(config_.seed), static_cast<std::uint64_t>(step()),
                            static_cast<std::uint64_t>(row_ * beams() + beam));
    std::vector<float> scores;
    scores.reserve(ids.size());
    for (const Id id : ids)
        scores.push_back(log_probs[static_cast<std::size_t>(id)] + noise(static_cast<std::uint32_t>(id)));
    return scores;
}

std::vector<float> Search::warped(std::vector<float> log_probs) const {
    const auto temperature = static_cast<float>(config_.temperature);
    for (float& value : log_probs) value /= temperature;
    return log_probs;
}

namespace {

// Greedy search or sampling: one beam.
class Sampling : public Search {
public:
    using Search::Search;

protected:
    void choose(const float* logits, std::size_t vocabulary, bool) override {
        const Id token = config_.do_sample ? sample(logits, vocabulary) : best(logits, vocabulary);
        tokens_[0].push_back(token);
        ended_ = is_end(token);
    }

private:
    // Whether nothing but the logits decides which token is the likeliest.
    bool is_plain() const {
        return !config_.penalises() && step() >= config_.min_length && config_.no_repeat_ngram_size == 0 &&
               config_.suppress_tokens.empty() && config_.begin_suppress_tokens.empty();
    }

    Id best(const float* logits, std::size_t vocabulary) const {
        if (is_plain()) {
            bool sum_needed = false;
            const std::size_t place = likeliest(logits, vocabulary, sum_needed);
            if (!sum_needed) return static_cast<Id>(place);
        }
        const std::vector<float> scores = log_probs(logits, vocabulary, 0);
        return static_cast<Id>(std::max_element(scores.begin(), scores.end()) - scores.begin());
    }

    Id sample(const float* logits, std::size_t vocabulary) const {
        const std::vector<float> scores = warped(log_probs(logits, vocabulary, 0));
        const std::vector<Id> ids = filtered_tokens(scores, config_);
        const std::vector<float> noisy = drawn(scores, 0, ids);
        return ids[static_cast<std::size_t>(std::max_element(noisy.begin(), noisy.end()) - noisy.begin())];
    }
};

// Beam search with a pool of the G best finished sequences; see glm/generation/search.py.
class BeamSearch : public Search {
public:
    BeamSearch(const GenerationConfig& config, std::vector<Id> ends, std::vector<Id> prompt, std::int64_t row)
        : Search(config, std::move(ends), std::move(prompt), row), pool_(tokens_.size(), {kNever, {}}) {
        // All beams start alike, so only the first may bring candidates into the first step.
        scores_.assign(tokens_.size(), kNever);
        scores_[0] = 0;
    }

    std::vector<Id> result() const override {
        const float running = scores_[0] / penalty(step());
        return !ended_ && running > pool_[0].score ? tokens_[0] : pool_[0].tokens;
    }

protected:
    void choose(const float* logits, std::size_t vocabulary, bool shared) override {
        const std::vector<Grown> found = candidates(logits, vocabulary, shared);
        const std::size_t count = tokens_.size();
        // Whether the stop token counts as part of the sequence.
        const float divisor = penalty(step() + !config_.gnmt_length);
        float best = found[0].score;
        std::vector<float> running;
        for (std::size_t i = 0; i < found.size(); ++i) {
            best = std::max(best, found[i].score);
            const bool end = is_end(found[i].token);
            running.push_back(found[i].score + (end ? kNever : 0.0f));
            if (end && i < count) pool_.push_back({found[i].score / divisor, grown(found[i])});
        }
        std::stable_sort(pool_.begin(), pool_.end(), [](const Ended& a, const Ended& b) { return a.score > b.score; });
        pool_.resize(count);

        std::vector<std::vector<Id>> tokens;
        sources_.clear();
        std::vector<float> scores;
        for (const std::size_t kept : best_places(running.data(), running.size(), count)) {
            tokens.push_back(grown(found[kept]));
            sources_.push_back(found[kept].beam);
            scores.push_back(running[kept]);
        }
        tokens_ = std::move(tokens);
        scores_ = std::move(scores);
        ended_ = pool_.back().score >= (config_.gnmt_length ? best : scores_[0]) / divisor;
    }

private:
    struct Grown {
        int beam;
        Id token;
        float score;
    };
    struct Ended {
        float score;
        std::vector<Id> tokens;
    };

    std::vector<Id> grown(const Grown& candidate) const {
        std::vector<Id> tokens = tokens_[static_cast<std::size_t>(candidate.beam)];
        tokens.push_back(candidate.token);
        return tokens;
    }

    // The best continuations: so many that G of them do not end the sequence.
    std::vector<Grown> candidates(const float* logits, std::size_t vocabulary, bool shared) const {
        const std::size_t count = tokens_.size();
        std::vector<float> total(count * vocabulary), chosen;
        if (config_.do_sample) chosen.assign(count * vocabulary, kNever);
        for (std::size_t beam = 0; beam < count; ++beam) {
            const std::vector<float> scores =
                log_probs(logits + (shared ? 0 : beam * vocabulary), vocabulary, static_cast<int>(beam));
            for (std::size_t i = 0; i < vocabulary; ++i) total[beam * vocabulary + i] = scores_[beam] + scores[i];
            if (config_.do_sample) perturb(&chosen[beam * vocabulary], scores, static_cast<int>(beam));
        }
        const std::vector<float>& ranked = config_.do_sample ? chosen : total;
        std::vector<Grown> found;
        for (const std::size_t place : best_places(ranked.data(), ranked.size(), (1 + ends_.size()) * count))
            found.push_back({static_cast<int>(place / vocabulary), static_cast<Id>(place % vocabulary), total[place]});
        return found;
    }

    void perturb(float* chosen, const std::vector<float>& log_probs, int beam) const {
        const std::vector<float> scores = warped(log_probs);
        const std::vector<Id> ids = filtered_tokens(scores, config_);
        const std::vector<float> noisy = drawn(scores, beam, ids);
        for (std::size_t i = 0; i < ids.size(); ++i) chosen[ids[i]] = noisy[i];
        for (std::size_t i = 0; i < log_probs.size(); ++i) chosen[i] += scores_[static_cast<std::size_t>(beam)];
    }

    // What a sequence's score is divided by (`GenerationConfig.length_penalty`).
    float penalty(std::int64_t length) const {
        const float offset = config_.gnmt_length ? 5.0f : 0.0f;
        return std::pow((static_cast<float>(length) + offset) / (1 + offset),
                        static_cast<float>(config_.length_penalty));
    }

    std::vector<float> scores_;
    std::vector<Ended> pool_;
};

}  // namespace

std::unique_ptr<Search> make_search(const GenerationConfig& config, std::vector<Id> ends, std::vector<Id> prompt,
                                    std::int64_t row) {
    if (config.num_beams > 1) return std::make_unique<BeamSearch>(config, std::move(ends), std::move(prompt), row);
    return std::make_unique<Sampling>(config, std::move(ends), std::move(prompt), row);
}

}  // namespace glm
