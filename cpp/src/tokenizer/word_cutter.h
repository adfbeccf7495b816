// Cuts text into words before bytes are merged, as GLM-4's pattern does:
//
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//
// Written by hand, so runs of any length are cut, in one pass; letters, numbers and white space are those of the
// library that Python uses (glm/tokenizers/character_classes.py).
#pragma once

#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_file.h"

namespace glm {

class WordCutter {
public:
    explicit WordCutter(const std::vector<CodeRange>& ranges);

    // The words of UTF-8 text, in order; joined they are the text.
    std::vector<std::string_view> words(std::string_view text) const;

private:
    enum Kind : unsigned char { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3 };
    struct Free {
        void operator()(unsigned char* table) const { std::free(table); }
    };
    struct Cursor;

    Kind kind_of(char32_t code) const { return static_cast<Kind>(table_.get()[code]); }
    std::size_t word_end(std::string_view text, std::size_t start) const;

    std::unique_ptr<unsigned char[], Free> table_;  // by code point; pages that no range touches stay unmapped
};

}  // namespace glm
