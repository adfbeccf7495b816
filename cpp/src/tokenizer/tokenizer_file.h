// tokenizer.bin of an export (glm/export/tokenizer_file.py), mapped and checked.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"

namespace glm {

using Id = std::int32_t;

struct AddedToken {
    Id id = 0;
    std::string text;
    bool special = false;       // left out of decoded text
    bool takes_left = false;    // white space on its left goes with it
    bool takes_right = false;
    bool has_own_id = false;    // not one of the vocabulary's pieces
    bool written = false;       // a text may spell it
    std::string behind;         // the text behind which alone it is a token; "": anywhere
};

struct Merge {
    std::uint32_t left, right, merged;
};

struct CodeRange {
    std::uint32_t first, last, kind;
};

// What the file holds; pieces point into its mapping.
struct TokenizerFile {
    static constexpr const char* kName = "tokenizer.bin";

    std::map<std::string, std::string> names;
    std::map<std::string, std::vector<Id>> ids;
    std::vector<AddedToken> added;
    std::vector<std::string_view> pieces;
    std::vector<Merge> merges;
    std::vector<CodeRange> ranges;
    std::unique_ptr<MappedFile> mapping;

    // Throws Error, one line, for a file that is missing or damaged.
    static TokenizerFile read(const fs::path& path);

    // The same of bytes that outlive the result.
    static TokenizerFile parse(std::string_view bytes);

    const std::string& name(const std::string& key) const;      // throws where it is missing
    const std::vector<Id>& list(const std::string& key) const;  // the same
    Id one(const std::string& key) const;                       // of a list of one
};

}  // namespace glm
