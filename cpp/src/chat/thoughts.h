// An answer's thoughts and what it says besides, told apart while it is written (glm/encoding/tool_calls.py).
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/stream.h"

namespace glm {

// A part of an answer; parts of one kind that follow each other are joined. UTF-8.
struct AnswerPiece {
    bool is_thought;
    std::string text;
};
using AnswerPieces = std::vector<AnswerPiece>;

// Reads one answer: each of its turns may begin with <think>, and thoughts end with </think>.
class ThoughtReader {
public:
    // `thinks`: whether the prompt opened the model's thoughts. `cleaning` is of what is said.
    ThoughtReader(Cleaning cleaning, bool thinks)
        : cleaning_(std::move(cleaning)), state_(thinks ? State::kThought : State::kOpening) {}

    AnswerPieces put(std::u32string_view text);
    // Says that the token between turns stands here.
    AnswerPieces turn();
    // Says that no text follows; gives what was held back.
    AnswerPieces end();

private:
    enum class State { kOpening, kThought, kBehindThought, kText };

    void read(char32_t character);
    void read_opening(char32_t character);
    void read_thought(char32_t character);
    void end_turn();
    void say_thought(std::u32string_view text);
    void say_content(const std::u32string& settled);
    void say(bool is_thought, std::u32string_view text);
    AnswerPieces taken();

    Cleaning cleaning_;
    State state_;
    bool thinking_ = false;        // whether a part of this turn's thoughts is out
    std::u32string held_;          // not yet known to be one thing or the other
    std::u32string content_;       // all that was said, as it was written
    std::size_t shown_ = 0;        // of it, cleaned
    AnswerPieces pieces_;
};

// Pieces of an answer while its ids arrive, up to a stop string.
class GrowingAnswer {
public:
    // `between`: the token between turns, if the vocabulary has it.
    GrowingAnswer(StopStrings written, ThoughtReader reader, std::optional<Id> between)
        : written_(std::move(written)), reader_(std::move(reader)), between_(between) {}

    AnswerPieces put(Id id);
    AnswerPieces end();
    bool found() const { return written_.found(); }

private:
    AnswerPieces take();

    StopStrings written_;
    ThoughtReader reader_;
    std::optional<Id> between_;
    std::size_t read_ = 0;
    std::deque<std::size_t> turns_;  // where turns begin that are not yet read
};

}  // namespace glm
