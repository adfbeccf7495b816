#include "export/generation_file.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "export/json_file.h"

namespace glm {

namespace {

using nlohmann::json;

constexpr std::int64_t kLargest = std::int64_t{1} << 62;  // of numbers, and of lengths
constexpr std::int64_t kLongest = std::int64_t{1} << 40;
constexpr double kNarrowest = 1e-9;  // a nucleus of the likeliest token alone: what top_p 0 is in such files

// Hugging Face's name, or for the last two vLLM's → the field of `GenerationConfig`.
const std::vector<std::pair<std::string, std::string>> kOptions = {
    {"do_sample", "do_sample"},
    {"temperature", "temperature"},
    {"top_k", "top_k"},
    {"top_p", "top_p"},
    {"min_p", "min_p"},
    {"num_beams", "num_beams"},
    {"length_penalty", "length_penalty"},
    {"no_repeat_ngram_size", "no_repeat_ngram_size"},
    {"min_new_tokens", "min_length"},
    {"repetition_penalty", "repetition_penalty"},
    {"suppress_tokens", "suppress_tokens"},
    {"begin_suppress_tokens", "begin_suppress_tokens"},
    {"presence_penalty", "presence_penalty"},
    {"frequency_penalty", "frequency_penalty"}};
// Options that change texts and are not implemented, with the values at which they do nothing besides null: always, of
// texts that are drawn, and of those that beams find.
using Neutral = std::vector<std::pair<std::string, std::vector<json>>>;
const Neutral kAlways = {{"min_length", {0}},
                         {"encoder_no_repeat_ngram_size", {0}},
                         {"encoder_repetition_penalty", {1}},
                         {"penalty_alpha", {0}},
                         {"dola_layers", {}},
                         {"bad_words_ids", {json::array()}},
                         {"force_words_ids", {json::array()}},
                         {"constraints", {json::array()}},
                         {"forced_bos_token_id", {}},
                         {"forced_eos_token_id", {}},
                         {"sequence_bias", {json::object(), json::array()}},
                         {"guidance_scale", {1}},
                         {"exponential_decay_length_penalty", {}},
                         {"watermarking_config", {}},
                         {"max_time", {}}};
const Neutral kDrawn = {{"typical_p", {1}}, {"epsilon_cutoff", {0}}, {"eta_cutoff", {0}}, {"top_h", {}}};
const Neutral kBeams = {
    {"early_stopping", {false}}, {"num_beam_groups", {1}}, {"diversity_penalty", {0}}, {"low_memory", {false}}};
// Where a file comes from, how its library computes, what its library returns, and lengths that count the prompt.
const std::set<std::string> kIgnored = {
    "_from_model_config", "_commit_hash", "assistant_confidence_threshold", "assistant_early_exit",
    "assistant_lookbehind", "bos_token_id", "cache_config", "cache_implementation", "compile_config",
    "continuous_batching_config", "decode_strategy", "decoder_start_token_id", "disable_compile", "eos_token_id",
    "generation_kwargs", "is_assistant", "max_length", "max_matching_ngram_size", "max_new_tokens",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "pad_token_id", "paddlenlp_version", "prefill_chunk_size",
    "prompt_lookup_num_tokens", "remove_invalid_values", "renormalize_logits", "return_dict_in_generate",
    "return_legacy_cache", "stop_strings", "target_lookbehind", "token_healing", "trainer", "transformers_version",
    "use_cache", "use_model_defaults"};

bool is_whole(const json& value) {
    return value.is_number_integer() || (value.is_number_float() && std::trunc(value.get<double>()) == value);
}

// Python's whole numbers have no end; one beyond `most` is as good as that here.
std::int64_t whole_number(const json& value, std::int64_t most) {
    if (value.is_number_unsigned())
        return static_cast<std::int64_t>(std::min(value.get<std::uint64_t>(), static_cast<std::uint64_t>(most)));
    if (!value.is_number_float()) return std::clamp(value.get<std::int64_t>(), -most, most);
    const auto bound = static_cast<double>(most);
    return static_cast<std::int64_t>(std::clamp(value.get<double>(), -bound, bound));
}

std::string cut(const std::string& text) { return encode_utf8(decode_utf8(text).substr(0, 80)); }

[[noreturn]] void wrong(const std::string& name, const json& value, const char* type) {
    fail_usage(name, " is ", cut(python_repr(value)), ", which is no ", type);
}

// Takes a JSON value as that of an option: whole numbers may be written as floats, and the other way round.
void take(ChosenOptions& chosen, const std::string& name, const std::string& ours, const json& value) {
    switch (kind_of_option(ours)) {
        case Kind::kFlag:
            if (!value.is_boolean()) wrong(name, value, "boolean");
            chosen.do_sample = value.get<bool>();
            return;
        case Kind::kNumber:
            if (!value.is_number()) wrong(name, value, "number");
            chosen.numbers[ours] = value.get<double>();
            return;
        case Kind::kList:
            if (!value.is_array()) wrong(name, value, "list of token ids");
            for (const json& id : value) {
                if (!id.is_number_integer()) wrong(name, value, "list of token ids");
                if (id.get<std::int64_t>() >= 0) chosen.lists[ours].push_back(id.get<std::int64_t>());
            }
            return;
        default:
            if (value.is_null()) {  // top_k, which is off then
                chosen.whole[ours] = 0;
                return;
            }
            if (!is_whole(value)) wrong(name, value, "whole number");
            chosen.whole[ours] = whole_number(value, kLargest);
    }
}

// The tokens of `bad_words_ids` if each word is one; nothing for longer words.
std::optional<std::vector<std::int64_t>> single_tokens(const json& words) {
    if (!words.is_array()) return std::nullopt;
    std::vector<std::int64_t> ids;
    for (const json& word : words) {
        if (!word.is_array() || word.size() != 1 || !word[0].is_number_integer()) return std::nullopt;
        ids.push_back(word[0].get<std::int64_t>());
    }
    return ids;
}

}  // namespace

GenerationFile GenerationFile::read(const fs::path& directory) {
    const fs::path path = directory / "generation_config.json";
    if (!fs::is_regular_file(path)) return {};
    require_real(path);
    return parse(read_file(path, "copy the file again"), path);
}

GenerationFile GenerationFile::parse(const std::string& content, const fs::path& path) {
    GenerationFile file;
    file.raw_ = parse_object(content, path, "copy the file again");
    file.place_ = path.string();
    file.check();
    return file;
}

void GenerationFile::check() const {
    const auto ids = raw_.find("eos_token_id");
    const bool fits = ids == raw_.end() || ids->is_null() || ids->is_number_integer() ||
                      (ids->is_array() && std::all_of(ids->begin(), ids->end(),
                                                      [](const json& id) { return id.is_number_integer(); }));
    if (!fits)
        fail(place_, " is damaged: eos_token_id is ", python_repr(*ids), ", not a token id or a list of them");
    const auto longest = raw_.find("max_new_tokens");
    if (longest != raw_.end() && !longest->is_null() && (!is_whole(*longest) || longest->get<double>() < 1))
        fail(place_, " sets max_new_tokens to ", python_repr(*longest), ", and it must be a whole number above 0");
}

ChosenOptions GenerationFile::options() const {
    ChosenOptions found;
    const bool samples = raw_.value("do_sample", json()) == true;
    for (const auto& [name, ours] : kOptions) {
        const auto value = raw_.find(name);
        if (value == raw_.end() || (value->is_null() && name != "top_k")) continue;
        try {
            ChosenOptions one;
            take(one, name, ours, *value);
            GenerationConfig probe;
            probe.max_length = std::int64_t{1} << 40;
            one.apply(probe);
            probe.settle();
            take(found, name, ours, *value);
        } catch (const UsageError& error) {
            const bool of_sampling = name == "temperature" || name == "top_k" || name == "top_p" || name == "min_p";
            if (samples || !of_sampling) fail(place_, ": ", error.what(), "; fix it, or remove the entry");
        }
    }
    for (const char* name : {"temperature", "top_p"}) {  // how files say greedy, unless they draw
        const auto zero = found.numbers.find(name);
        if (zero == found.numbers.end() || zero->second != 0) continue;
        if (!samples)
            found.numbers.erase(zero);
        else if (zero->first == "top_p")
            zero->second = kNarrowest;
    }
    const auto least = found.whole.find("min_length");
    if (const auto longest = max_new_tokens(); longest && least != found.whole.end() && least->second > *longest)
        fail(place_, ": min_new_tokens (", least->second, ") is above max_new_tokens (", *longest, "): fix it");
    if (const auto words = single_tokens(raw_.value("bad_words_ids", json())); words && !words->empty()) {
        const std::vector<std::int64_t> ends = eos_token_ids();
        for (const std::int64_t id : *words)
            if (std::find(ends.begin(), ends.end(), id) == ends.end()) found.lists["suppress_tokens"].push_back(id);
    }
    return found;
}

std::optional<std::int64_t> GenerationFile::max_new_tokens() const {
    const json longest = raw_.value("max_new_tokens", json());
    if (longest.is_null()) return std::nullopt;
    return whole_number(longest, kLongest);
}

std::vector<std::int64_t> GenerationFile::eos_token_ids() const {
    const json ids = raw_.value("eos_token_id", json());
    if (ids.is_null()) return {};
    if (ids.is_array()) return ids.get<std::vector<std::int64_t>>();
    return {ids.get<std::int64_t>()};
}

std::vector<std::string> GenerationFile::stop_strings() const {
    const json texts = raw_.value("stop_strings", json());
    if (texts.is_string() && texts != "") return {texts.get<std::string>()};
    std::vector<std::string> found;
    bool fits = texts.is_array() || texts.is_null() || texts.is_string() || texts == 0 || texts == false;
    if (texts.is_array())
        for (const json& text : texts) {
            fits = fits && text.is_string() && text != "";
            if (fits) found.push_back(text.get<std::string>());
        }
    if (!fits)
        fail(place_, ": stop_strings is ", cut(python_repr(texts)), ", which is no text or list of texts; fix it");
    return found;
}

void GenerationFile::refuse_unsupported(const GenerationConfig& config) const {
    std::vector<const Neutral*> acting = {&kAlways};
    if (config.do_sample) acting.push_back(&kDrawn);
    if (config.num_beams > 1) acting.push_back(&kBeams);
    for (const Neutral* kind : acting)
        for (const auto& [name, values] : *kind) {
            const json value = raw_.value(name, json());
            if (value.is_null() || std::find(values.begin(), values.end(), value) != values.end()) continue;
            if (name == "bad_words_ids" && single_tokens(value)) continue;
            fail(place_, " sets ", name, " to ", cut(python_repr(value)),
                 ", which is not supported: remove it from the file");
        }
}

std::vector<std::string> GenerationFile::warnings() const {
    std::set<std::string> known = kIgnored;
    known.insert("num_return_sequences");
    for (const auto& [name, ours] : kOptions) known.insert(name);
    for (const Neutral* kind : {&kAlways, &kDrawn, &kBeams})
        for (const auto& [name, values] : *kind) known.insert(name);
    std::vector<std::string> lines;
    const json count = raw_.value("num_return_sequences", json());
    if (!count.is_null() && count != 1)
        lines.push_back(place_ + ": num_return_sequences: one text is written for a prompt");
    std::string unknown;
    for (const auto& [name, value] : raw_.items())
        if (!known.count(name) && !value.is_null()) unknown += (unknown.empty() ? "" : ", ") + name;
    if (!unknown.empty()) lines.push_back(place_ + ": not known here, and not obeyed: " + unknown);
    return lines;
}

}  // namespace glm
