#include "generation/config.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/text.h"

namespace glm {

namespace {

constexpr double kColdest = 1e-6;  // far less, and logits divided by it leave float32

const std::map<std::string, std::int64_t GenerationConfig::*> kWhole = {
    {"max_length", &GenerationConfig::max_length},
    {"min_length", &GenerationConfig::min_length},
    {"num_beams", &GenerationConfig::num_beams},
    {"no_repeat_ngram_size", &GenerationConfig::no_repeat_ngram_size},
    {"top_k", &GenerationConfig::top_k},
    {"seed", &GenerationConfig::seed}};
const std::map<std::string, double GenerationConfig::*> kNumbers = {
    {"length_penalty", &GenerationConfig::length_penalty},
    {"temperature", &GenerationConfig::temperature},
    {"top_p", &GenerationConfig::top_p},
    {"repetition_penalty", &GenerationConfig::repetition_penalty},
    {"presence_penalty", &GenerationConfig::presence_penalty},
    {"frequency_penalty", &GenerationConfig::frequency_penalty},
    {"min_p", &GenerationConfig::min_p}};
const std::map<std::string, std::vector<std::int64_t> GenerationConfig::*> kLists = {
    {"suppress_tokens", &GenerationConfig::suppress_tokens},
    {"begin_suppress_tokens", &GenerationConfig::begin_suppress_tokens}};

// As Python writes a float.
std::string shown(double number) {
    if (std::isnan(number)) return "nan";
    if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
    const PlainNumbers plain;
    char text[40];
    for (int digits = 1; digits <= 17; ++digits) {
        std::snprintf(text, sizeof text, "%.*g", digits, number);
        if (std::strtod(text, nullptr) == number) break;
    }
    const std::string out = text;
    return out.find_first_of(".e") == std::string::npos ? out + ".0" : out;
}

void at_least(const char* name, std::int64_t value, std::int64_t least) {
    if (value < least) fail_usage(name, " is ", value, ", and must be at least ", least);
}

void between(const char* name, double value, int least, int most) {
    if (!(value >= least && value <= most))
        fail_usage(name, " is ", shown(value), ", and must be between ", least, " and ", most);
}

}  // namespace

void GenerationConfig::settle() {
    for (auto* ids : {&suppress_tokens, &begin_suppress_tokens}) {
        const std::set<std::int64_t> sorted(ids->begin(), ids->end());
        ids->assign(sorted.begin(), sorted.end());
    }
    if (top_k == -1) top_k = 0;
    if (temperature == 0) {
        do_sample = false;
        temperature = 1.0;
    }
    at_least("max_length", max_length, 1);
    at_least("min_length", min_length, 0);
    at_least("num_beams", num_beams, 1);
    at_least("no_repeat_ngram_size", no_repeat_ngram_size, 0);
    if (!(temperature >= 0)) fail_usage("temperature is ", shown(temperature), ", and must be at least 0");
    at_least("top_k", top_k, 0);
    at_least("seed", seed, 0);
    if (temperature < kColdest)
        fail_usage("temperature is ", shown(temperature), ", and must be at least 1e-06, or 0 for the best");
    if (!std::isfinite(length_penalty))
        fail_usage("length_penalty is ", shown(length_penalty), ", and must be a finite number");
    if (!std::isfinite(temperature))
        fail_usage("temperature is ", shown(temperature), ", and must be a finite number");
    between("top_p", top_p, 0, 1);
    between("min_p", min_p, 0, 1);
    between("presence_penalty", presence_penalty, -2, 2);
    between("frequency_penalty", frequency_penalty, -2, 2);
    if (!(repetition_penalty >= kColdest && repetition_penalty <= 1 / kColdest))
        fail_usage("repetition_penalty is ", shown(repetition_penalty), ", and must be a number above 0, as 1.1");
    for (const auto& [name, ids] : kLists)
        for (const std::int64_t id : this->*ids)
            if (id < 0 || id >= (std::int64_t{1} << 31))
                fail_usage(name, " holds ", id, ", and token ids are at least 0");
    if (min_length > max_length)
        fail_usage("min_length (", min_length, ") is above max_length (", max_length, ")");
}

bool ChosenOptions::has(const std::string& name) const {
    return numbers.count(name) || whole.count(name) || lists.count(name) || (name == "do_sample" && do_sample);
}

void ChosenOptions::apply(GenerationConfig& config) const {
    for (const auto& [name, value] : whole) config.*kWhole.at(name) = value;
    for (const auto& [name, value] : numbers) config.*kNumbers.at(name) = value;
    for (const auto& [name, value] : lists) config.*kLists.at(name) = value;
    if (do_sample) config.do_sample = *do_sample;
}

Kind kind_of_option(const std::string& name) {
    if (kWhole.count(name)) return Kind::kWhole;
    if (kNumbers.count(name)) return Kind::kNumber;
    if (kLists.count(name)) return Kind::kList;
    return name == "do_sample" ? Kind::kFlag : Kind::kNone;
}

}  // namespace glm
