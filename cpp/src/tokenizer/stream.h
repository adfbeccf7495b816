// Text that appears while ids arrive, without half a character, up to a string that ends it (glm/tokenizers/stream.py,
// stop_strings.py). Lengths are in characters.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace glm {

// How many characters of the end of a text a string begins with, the whole string left out.
std::size_t overlap(std::u32string_view text, std::u32string_view string);

// Gives the text that each new id completes; everything joined is the text of all ids.
class StreamDecoder {
public:
    explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

    std::u32string put(Id id);

    // What was held back; the decoder is ready for the next text.
    std::u32string end();

private:
    const Tokenizer& tokenizer_;
    std::vector<Id> window_;  // begins with ids whose text is out: what a piece shows can depend on the one before it
    std::u32string shown_;
    std::size_t context_ = 0;
};

// Watches one text for the strings that end it; the one that is found is not part of the text.
class StopStrings {
public:
    StopStrings(const Tokenizer& tokenizer, const std::vector<std::string>& strings);

    // Takes the next token; says whether a stop string is complete.
    bool put(Id id) { return look(decoder_.put(id)); }
    // Says that no token follows.
    bool end();

    // How many characters are shown however the text continues.
    std::size_t certain() const;
    const std::u32string& text() const { return text_; }
    bool found() const { return found_.has_value(); }

private:
    bool look(const std::u32string& added);

    std::vector<std::u32string> strings_;
    std::size_t longest_ = 0;
    StreamDecoder decoder_;
    std::u32string text_;
    std::optional<std::size_t> found_;
    bool over_ = false;
};

// What a user sees of a text.
struct Cleaning {
    std::function<std::u32string(std::u32string_view)> clean;
    // How many characters of an unfinished text `clean` gives the same, however the text continues.
    std::function<std::size_t(std::u32string_view)> stable_length;
};

// A text that a user sees while its ids arrive: cleaned, and in pieces that stand for certain. UTF-8.
class GrowingText {
public:
    GrowingText(StopStrings written, Cleaning cleaning)
        : written_(std::move(written)), cleaning_(std::move(cleaning)) {}

    // What the next id makes certain; no id comes behind a stop string.
    std::string put(Id id);
    std::string end();
    bool found() const { return written_.found(); }

private:
    std::string fresh(const std::u32string& settled);

    StopStrings written_;
    Cleaning cleaning_;
    std::size_t shown_ = 0;
};

}  // namespace glm
