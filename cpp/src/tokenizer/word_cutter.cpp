#include "tokenizer/word_cutter.h"

#include <algorithm>
#include <new>

#include "base/error.h"
#include "base/text.h"

namespace glm {

namespace {

constexpr std::size_t kCodes = 0x110000;
constexpr int kMostDigits = 3;
constexpr char32_t kLongS = U'\u017f';  // an s where case does not count

bool is_line_end(char32_t code) { return code == '\r' || code == '\n'; }

char32_t lower(char32_t code) {
    if (code == kLongS) return 's';
    return code >= 'A' && code <= 'Z' ? code + 32 : code;
}

}  // namespace

// A place in a text, and the character there: 0x110000 at the end.
struct WordCutter::Cursor {
    static constexpr char32_t kEnd = kCodes;

    Cursor(const WordCutter& cutter, std::string_view text, std::size_t start)
        : cutter_(&cutter), text_(text), next_(start) {
        advance();
    }

    void advance() {
        place = next_;
        code = place < text_.size() ? next_code(text_, next_) : kEnd;
        kind = code == kEnd ? kOther : cutter_->kind_of(code);
    }
    bool at_end() const { return code == kEnd; }
    bool is(Kind wanted) const { return !at_end() && kind == wanted; }
    Cursor next() const {
        Cursor other = *this;
        other.advance();
        return other;
    }
    void skip(Kind wanted) {
        while (is(wanted)) advance();
    }

    std::size_t place = 0;
    char32_t code = kEnd;
    Kind kind = kOther;

private:
    const WordCutter* cutter_;
    std::string_view text_;
    std::size_t next_;
};

WordCutter::WordCutter(const std::vector<CodeRange>& ranges)
    : table_(static_cast<unsigned char*>(std::calloc(kCodes, 1))) {
    if (!table_) throw std::bad_alloc();
    for (const CodeRange& range : ranges) {
        if (range.kind < kLetter || range.kind > kSpace) fail("there is no class ", range.kind, " of characters");
        std::fill(table_.get() + range.first, table_.get() + range.last + 1, static_cast<unsigned char>(range.kind));
    }
}

std::vector<std::string_view> WordCutter::words(std::string_view text) const {
    std::vector<std::string_view> words;
    for (std::size_t start = 0; start < text.size();) {
        const std::size_t end = word_end(text, start);
        words.push_back(text.substr(start, end - start));
        start = end;
    }
    return words;
}

std::size_t WordCutter::word_end(std::string_view text, std::size_t start) const {
    Cursor here(*this, text, start);
    if (here.code == '\'') {  // 's 't 'm 'd 're 've 'll
        const Cursor first = here.next(), second = first.next();
        const char32_t one = lower(first.code), two = lower(second.code);
        if (one == 's' || one == 't' || one == 'm' || one == 'd') return second.place;
        if (((one == 'r' || one == 'v') && two == 'e') || (one == 'l' && two == 'l')) return second.next().place;
    }
    if (!here.is(kLetter) && !here.is(kNumber) && !is_line_end(here.code)) {
        Cursor after = here.next();
        if (after.is(kLetter)) here = after;  // what stands before a word goes with it
    }
    if (here.is(kLetter)) {
        here.skip(kLetter);
        return here.place;
    }
    if (here.is(kNumber)) {
        for (int digits = 0; digits < kMostDigits && here.is(kNumber); ++digits) here.advance();
        return here.place;
    }
    const Cursor after = here.next();
    if (here.is(kOther) || (here.code == ' ' && after.is(kOther))) {
        if (here.code == ' ' && !here.is(kOther)) here = after;
        here.skip(kOther);
        while (is_line_end(here.code)) here.advance();
        return here.place;
    }
    // White space: up to its last line end; else all of it but the last before something else.
    std::size_t line = 0, last = here.place, count = 0;
    for (; here.is(kSpace); here.advance(), ++count) {
        if (is_line_end(here.code)) line = here.next().place;
        last = here.place;
    }
    if (line > 0) return line;
    return here.at_end() || count == 1 ? here.place : last;
}

}  // namespace glm
