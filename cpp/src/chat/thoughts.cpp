#include "chat/thoughts.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/text.h"

namespace glm {

namespace {

constexpr std::u32string_view kThink = U"<think>", kThinkEnd = U"</think>";

std::u32string_view strip_left(std::u32string_view text) {
    while (!text.empty() && is_space(text[0])) text.remove_prefix(1);
    return text;
}

bool ends_with(std::u32string_view text, std::u32string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

void append(AnswerPieces& pieces, AnswerPieces more) {
    pieces.insert(pieces.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

}  // namespace

AnswerPieces ThoughtReader::put(std::u32string_view text) {
    for (const char32_t character : text) read(character);
    return taken();
}

AnswerPieces ThoughtReader::turn() {
    end_turn();
    state_ = State::kOpening;
    thinking_ = false;
    return taken();
}

AnswerPieces ThoughtReader::end() {
    end_turn();
    say_content(cleaning_.clean(content_));
    return taken();
}

void ThoughtReader::read(char32_t character) {
    if (state_ == State::kOpening) return read_opening(character);
    if (state_ == State::kThought) return read_thought(character);
    if (state_ == State::kBehindThought && is_space(character)) return;
    state_ = State::kText;
    content_ += character;
}

void ThoughtReader::read_opening(char32_t character) {
    held_ += character;
    const std::u32string_view seen = strip_left(held_);
    if (seen == kThink) {
        state_ = State::kThought;
        held_.clear();
    } else if (kThink.substr(0, seen.size()) != seen) {
        state_ = State::kText;
        content_ += held_;
        held_.clear();
    }
}

void ThoughtReader::read_thought(char32_t character) {
    held_ += character;
    if (ends_with(held_, kThinkEnd)) {
        say_thought(strip_right(std::u32string_view(held_).substr(0, held_.size() - kThinkEnd.size())));
        state_ = State::kBehindThought;
        held_.clear();
        return;
    }
    const std::size_t certain = held_.size() - overlap(held_, kThinkEnd);
    const std::u32string_view sure = strip_right(std::u32string_view(held_).substr(0, certain));
    if (strip_left(sure).empty()) return;
    say_thought(sure);
    thinking_ = true;
    held_.erase(0, sure.size());
}

void ThoughtReader::end_turn() {
    if (state_ == State::kThought)
        say_thought(strip_right(held_));
    else
        content_ += held_;
    held_.clear();
}

void ThoughtReader::say_thought(std::u32string_view text) { say(true, thinking_ ? text : strip_left(text)); }

void ThoughtReader::say_content(const std::u32string& settled) {
    if (settled.size() <= shown_) return;
    say(false, std::u32string_view(settled).substr(shown_));
    shown_ = settled.size();
}

void ThoughtReader::say(bool is_thought, std::u32string_view text) {
    if (text.empty()) return;
    if (pieces_.empty() || pieces_.back().is_thought != is_thought) pieces_.push_back({is_thought, {}});
    pieces_.back().text += encode_utf8(text);
}

AnswerPieces ThoughtReader::taken() {
    const std::u32string_view content = content_;
    say_content(cleaning_.clean(content.substr(0, cleaning_.stable_length(content))));
    return std::exchange(pieces_, {});
}

AnswerPieces GrowingAnswer::put(Id id) {
    if (between_ && id == *between_) turns_.push_back(written_.text().size());
    written_.put(id);
    return take();
}

AnswerPieces GrowingAnswer::end() {
    written_.end();
    AnswerPieces pieces = take();
    append(pieces, reader_.end());
    return pieces;
}

AnswerPieces GrowingAnswer::take() {
    AnswerPieces pieces;
    const std::size_t certain = written_.certain();
    const std::u32string_view text = written_.text();
    const auto read_to = [&](std::size_t end) {
        if (end > read_) append(pieces, reader_.put(text.substr(read_, end - read_)));
        read_ = end;
    };
    for (; !turns_.empty() && turns_.front() <= certain; turns_.pop_front()) {
        read_to(turns_.front());
        append(pieces, reader_.turn());
    }
    read_to(certain);
    return pieces;
}

}  // namespace glm
