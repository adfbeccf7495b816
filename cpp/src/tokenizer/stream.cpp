#include "tokenizer/stream.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace glm {

namespace {

// An unfinished UTF-8 character is at most three bytes, each shown as one replacement character.
constexpr std::size_t kLongestUnfinished = 3;

std::u32string from(const std::u32string& text, std::size_t start) {
    return start < text.size() ? text.substr(start) : std::u32string();
}

}  // namespace

std::size_t overlap(std::u32string_view text, std::u32string_view string) {
    for (std::size_t size = std::min(text.size(), string.size() - 1); size > 0; --size)
        if (text.substr(text.size() - size) == string.substr(0, size)) return size;
    return 0;
}

std::u32string StreamDecoder::put(Id id) {
    window_.push_back(id);
    const std::u32string text = decode_utf8(tokenizer_.text_of(window_));
    std::size_t unfinished = 0;
    while (unfinished < std::min(kLongestUnfinished, text.size()) &&
           text[text.size() - 1 - unfinished] == kReplacement)
        ++unfinished;
    // Every text that is out stays the beginning of the later ones: only the unfinished end can still change.
    const std::u32string added = from(text.substr(0, text.size() - unfinished), shown_.size());
    shown_ += added;
    if (unfinished == 0 && !strip(added).empty()) {
        window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(context_));
        context_ = window_.size();
        shown_ = decode_utf8(tokenizer_.text_of(window_));
    }
    return added;
}

std::u32string StreamDecoder::end() {
    std::u32string rest = from(decode_utf8(tokenizer_.text_of(window_)), shown_.size());
    window_.clear();
    shown_.clear();
    context_ = 0;
    return rest;
}

StopStrings::StopStrings(const Tokenizer& tokenizer, const std::vector<std::string>& strings) : decoder_(tokenizer) {
    for (const std::string& string : strings) {
        if (string.empty()) fail_usage("an empty stop string would end every text at once: leave it out");
        strings_.push_back(decode_utf8(string));
        longest_ = std::max(longest_, strings_.back().size());
    }
}

bool StopStrings::end() {
    over_ = true;
    return look(decoder_.end());
}

std::size_t StopStrings::certain() const {
    if (over_ || found_) return text_.size();
    std::size_t open = 0;
    for (const std::u32string& string : strings_) open = std::max(open, overlap(text_, string));
    return text_.size() - open;
}

bool StopStrings::look(const std::u32string& added) {
    if (found_) return true;
    const std::size_t start = text_.size() + 1 > longest_ ? text_.size() + 1 - longest_ : 0;
    text_ += added;
    std::size_t first = std::u32string::npos;
    for (std::size_t i = 0; i < strings_.size(); ++i)
        if (const std::size_t place = text_.find(strings_[i], start); place < first) {
            first = place;
            found_ = i;
        }
    if (found_) text_.resize(first);
    return found_.has_value();
}

std::string GrowingText::put(Id id) {
    written_.put(id);
    const std::u32string text = written_.text().substr(0, written_.certain());
    return fresh(cleaning_.clean(std::u32string_view(text).substr(0, cleaning_.stable_length(text))));
}

std::string GrowingText::end() {
    written_.end();
    return fresh(cleaning_.clean(written_.text()));
}

std::string GrowingText::fresh(const std::u32string& settled) {
    const std::string piece = encode_utf8(from(settled, shown_));
    shown_ = settled.size();
    return piece;
}

}  // namespace glm
