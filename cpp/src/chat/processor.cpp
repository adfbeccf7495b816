#include "chat/processor.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace glm {

namespace {

// What a kind of model does unless its user or its generation_config.json says otherwise (glm/encoding/defaults.py).
struct Defaults {
    std::int64_t src_length, tgt_length;
    bool gnmt_length;
    double length_penalty;
};
constexpr Defaults kGlm2021 = {200, 20, true, 0.7};
constexpr Defaults kChat = {7168, 1024, false, 1.0};
constexpr std::int64_t kDrawnFrom = 50;  // top_k of sampling: the default of the models' own libraries

}  // namespace

Processor::Processor(const fs::path& directory, const ProcessorOptions& options, const Manifest& manifest)
    : tokenizer_(directory), generation_(GenerationFile::read(directory)), plain_(options.plain) {
    const std::string& kind = tokenizer_.kind();
    kind_ = kind == "glm-chinese"                        ? Kind::kGlm
            : kind == "chatglm" || kind == "chatglm2" ? Kind::kRounds
                                                      : Kind::kRoles;
    if (kind == "chatglm2") rounds_ = {1, "\n\n", false};
    const bool fills_blank = kind == "glm-chinese" || kind == "chatglm";
    if (kind_ == Kind::kGlm && plain_)
        throw UsageError(
            "GLM (2021) has no chat template, so its prompts are always plain text: leave out --plain");
    if (kind_ != Kind::kGlm && options.no_block_position)
        fail_usage("no_block_position is an option of GLM (2021), this is a ", kind, " model: leave it out");
    if (kind_ == Kind::kGlm && options.thinking)
        throw UsageError("enable_thinking is for chat models whose template has it: leave it out");
    if (kind_ != Kind::kGlm) chat_.emplace(tokenizer_.file(), tokenizer_.splitter(), options.thinking);
    positions_.blank = fills_blank;
    positions_.inside_blank = !options.no_block_position;
    positions_.ranked = kind == "chatglm";
    positions_.masks = tokenizer_.mask_ids();
    choose_lengths(options);
    check_lengths();
    make_room(options);
    check_fits(manifest);
}

void Processor::choose_lengths(const ProcessorOptions& options) {
    const Defaults& defaults = kind_ == Kind::kGlm ? kGlm2021 : kChat;
    src_open_ = !options.src_length;
    tgt_open_ = !options.tgt_length;
    src_length_ = options.src_length.value_or(defaults.src_length);
    tgt_length_ = options.tgt_length.value_or(generation_.max_new_tokens().value_or(defaults.tgt_length));
}

void Processor::check_lengths() const {
    if (kind_ == Kind::kGlm) {
        if (src_length_ < 4)
            fail_usage("src_length is ", src_length_, "; three tokens of frame and some text need at least 4");
        if (tgt_length_ < 3)
            fail_usage("tgt_length is ", tgt_length_, "; some text and the end token need at least 3");
        return;
    }
    const auto frame = static_cast<std::int64_t>(tokenizer_.frame_size());
    if (src_length_ <= frame)
        fail_usage("src_length is ", src_length_, "; ", frame, " tokens of frame and some text need at least ",
                   frame + 1);
    if (tgt_length_ < 1) fail_usage("tgt_length is ", tgt_length_, ", and must be at least 1");
}

void Processor::make_room(const ProcessorOptions& options) {
    if (!options.max_length) return;
    const std::int64_t most = *options.max_length;
    if (tgt_open_)
        tgt_length_ = std::max<std::int64_t>(1, std::min(tgt_length_, most < 0 ? (most - 1) / 2 : most / 2));
    const std::int64_t room = most - tgt_length_;
    if (room < 4)
        fail_usage("max_length ", most, " leaves ", std::max<std::int64_t>(room, 0),
                   " tokens for the source beside tgt_length ", tgt_length_,
                   ", and at least 4 are needed: raise --max_length or lower --tgt_length");
    src_length_ = std::min(src_length_, room);
}

void Processor::check_fits(const Manifest& manifest) {
    const std::int64_t last = manifest.max_position;
    if (tgt_open_) tgt_length_ = std::max<std::int64_t>(1, std::min(tgt_length_, (last + 1) / 2));
    if (src_open_ && positions_.longest(src_length_, tgt_length_) > last)
        src_length_ = std::max<std::int64_t>(1, std::min(src_length_, last + 1 - tgt_length_));
    if (tokenizer_.size() > manifest.vocab_size)
        fail("the tokenizer has ", grouped(tokenizer_.size()), " tokens and the model's vocabulary ",
             grouped(manifest.vocab_size), " rows: take both from the same directory");
    const std::vector<std::int64_t> ends = generation_.eos_token_ids();
    for (const Id id : tokenizer_.stop_ids())
        if (id < 0 || id >= manifest.vocab_size)
            fail("tokenizer.bin: its end token ", id, " is not among the model's ", grouped(manifest.vocab_size),
                 " tokens: export the model again");
    for (const std::int64_t id : ends)
        if (id < 0 || id >= manifest.vocab_size)
            fail("generation_config.json: eos_token_id ", id, " is not among the model's ",
                 grouped(manifest.vocab_size), " tokens: take it from the model's own directory");
    const std::int64_t longest = positions_.longest(src_length_, tgt_length_);
    if (longest > last)
        fail_usage("src_length ", src_length_, " and tgt_length ", tgt_length_, " need position ", longest,
                   ", and the model ends at ", last, ": choose shorter ones");
}

std::vector<Id> Processor::stop_ids() const {
    std::vector<Id> ids = tokenizer_.stop_ids();
    for (const std::int64_t id : generation_.eos_token_ids())
        if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(static_cast<Id>(id));
    return ids;
}

GenerationConfig Processor::config(const ChosenOptions& given) const {
    const Defaults& defaults = kind_ == Kind::kGlm ? kGlm2021 : kChat;
    const ChosenOptions file = generation_.options();
    GenerationConfig config;
    config.max_length = tgt_length_;
    config.gnmt_length = defaults.gnmt_length;
    config.length_penalty = defaults.length_penalty;
    file.apply(config);
    given.apply(config);
    if (!given.has("min_length")) config.min_length = std::min(config.min_length, config.max_length);
    if (config.do_sample && config.temperature != 0 && !file.has("top_k") && !given.has("top_k"))
        config.top_k = kDrawnFrom;
    config.settle();
    generation_.refuse_unsupported(config);
    return config;
}

Cleaning Processor::cleaning() const {
    if (plain_ || kind_ == Kind::kGlm) return plain_cleaning();
    return tokenizer_.kind() == "chatglm" ? round_cleaning() : role_cleaning();
}

GrowingAnswer Processor::growing_answer(const std::vector<std::string>& stop_strings) const {
    return {StopStrings(tokenizer_, stop_strings), ThoughtReader(cleaning(), chat_->opens_thoughts()),
            tokenizer_.added_id("<|assistant|>")};
}

std::vector<Id> Processor::text_prompt(const std::string& text) {
    if (kind_ != Kind::kGlm && !plain_) return messages_prompt({{"user", text, {}}});
    if (kind_ == Kind::kGlm) return tokenizer_.build_inputs(last_of(tokenizer_.text_ids(text), src_length_ - 3));
    const std::int64_t room = src_length_ - static_cast<std::int64_t>(tokenizer_.frame_size());
    if (room < 1)
        fail_usage("src_length ", src_length_, " has no room for a text beside the prompt's own tokens");
    return tokenizer_.build_inputs(last_of(tokenizer_.text_ids(text, true), room));
}

std::vector<Id> Processor::last_of(std::vector<Id> ids, std::int64_t room) {
    if (room < 1) fail_usage("src_length ", src_length_, " has no room beside 3 special tokens: use 4 or more");
    const auto size = static_cast<std::int64_t>(ids.size());
    if (size <= room) return ids;
    ++truncated;
    return {ids.end() - room, ids.end()};
}

std::vector<Id> Processor::messages_prompt(const Messages& messages) {
    const auto frame = static_cast<std::int64_t>(tokenizer_.frame_size());
    if (kind_ == Kind::kRounds && src_length_ <= frame)
        fail_usage("a prompt of ", src_length_, " tokens has no room for text beside ", frame, " special ones");
    const std::vector<Id> ids = kind_ == Kind::kRounds
                                    ? tokenizer_.build_inputs(tokenizer_.text_ids(rounds_.text(messages), true))
                                    : tokenizer_.text_ids(chat_->text(messages));
    if (static_cast<std::int64_t>(ids.size()) <= src_length_) return ids;
    ++truncated;
    return kind_ == Kind::kRounds ? round_ids(messages) : role_ids(messages);
}

std::vector<Id> Processor::role_ids(Messages messages) const {
    while (true) {
        std::vector<Id> ids = tokenizer_.text_ids(chat_->text(messages));
        if (static_cast<std::int64_t>(ids.size()) <= src_length_) return ids;
        Messages shorter = without_oldest(messages);
        if (shorter.empty())
            fail_usage("the last turn has ", ids.size(), " tokens, and the prompt's limit is ", src_length_,
                       ": raise src_length");
        messages = std::move(shorter);
    }
}

std::vector<Id> Processor::round_ids(Messages messages) const {
    const std::size_t room = static_cast<std::size_t>(src_length_) - tokenizer_.frame_size();
    std::vector<Id> ids = tokenizer_.text_ids(rounds_.text(messages), true);
    while (ids.size() > room && !(messages = without_oldest(messages)).empty())
        ids = tokenizer_.text_ids(rounds_.text(messages), true);
    if (ids.size() > room) ids.resize(room);
    return tokenizer_.build_inputs(ids);
}

std::string Processor::truncation_note() {
    if (truncated == 0) return "";
    const char* lost = kind_ == Kind::kGlm || plain_ ? "their beginning is lost"
                       : kind_ == Kind::kRounds      ? "their oldest rounds are lost, then their end"
                                                     : "their oldest turns are lost, in evaluation then the end of "
                                                       "the question";
    std::string note = text_of_all(truncated, " text(s) cut to src_length ", src_length_, ": ", lost);
    truncated = 0;
    return note;
}

}  // namespace glm
