// How plain text becomes ids of a vocabulary's pieces, and ids text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_file.h"

namespace glm {

class Codec {
public:
    virtual ~Codec() = default;

    // Appends the ids of UTF-8 text without added tokens.
    virtual void encode(std::string_view text, std::vector<Id>& ids) const = 0;

    // UTF-8 text of ids of pieces; U+FFFD for each byte of an unfinished character.
    virtual std::string decode(const std::vector<Id>& ids) const = 0;
};

}  // namespace glm
