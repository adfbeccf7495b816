// Cuts a text at tokens that are never cut themselves (glm/tokenizers/added_tokens.py).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_file.h"

namespace glm {

class Splitter {
public:
    struct Part {
        const AddedToken* token;  // or text, where it is null
        std::string text;
    };

    // Of the tokens that a text may spell; `tokens` outlive it.
    explicit Splitter(const std::vector<AddedToken>& tokens);

    // The parts of `text` in order, no text among them empty; marks are gone.
    std::vector<Part> split(std::string_view text) const;
    // As `split`, but special tokens are text, and so are marks.
    std::vector<Part> split_others(std::string_view text) const;

    // `text` with a mark inside each special token, so that `split` takes it for text.
    std::string mark(std::string_view text) const;
    std::string unmark(std::string_view text) const;

private:
    enum class Which { kAll, kSpecial, kOthers };
    const AddedToken* token_at(std::string_view text, std::size_t place, Which which) const;
    std::vector<Part> cut(std::string_view text, Which which) const;

    std::vector<const AddedToken*> tokens_;  // the longest first: of two that fit at one place, the longer is meant
    bool first_bytes_[256] = {};
};

}  // namespace glm
