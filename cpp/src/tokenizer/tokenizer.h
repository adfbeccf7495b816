// The tokenizers of every kind of model: the ids and texts of glm/tokenizers.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "tokenizer/codec.h"
#include "tokenizer/splitter.h"

namespace glm {

class Tokenizer {
public:
    // Of an export's directory. Throws Error, one line, for a missing or damaged file.
    explicit Tokenizer(const fs::path& directory);
    Tokenizer(const Tokenizer&) = delete;
    Tokenizer& operator=(const Tokenizer&) = delete;

    // Ids of UTF-8 text without the tokens around a prompt; with `plain` what looks like a special token is text.
    std::vector<Id> text_ids(std::string_view text, bool plain = false) const;

    // UTF-8 text of ids; special tokens are left out.
    std::string text_of(const std::vector<Id>& ids) const;

    // A prompt's ids with the tokens that every prompt of this model has around it.
    std::vector<Id> build_inputs(const std::vector<Id>& ids) const;
    std::size_t frame_size() const { return prefix_.size() + suffix_.size(); }

    // Of a token that is no piece of the vocabulary.
    std::optional<Id> added_id(std::string_view text) const;

    const std::string& kind() const { return file_.name("kind"); }
    const TokenizerFile& file() const { return file_; }
    const Splitter& splitter() const { return splitter_; }
    const std::vector<Id>& stop_ids() const { return stop_; }
    const std::vector<Id>& mask_ids() const { return file_.list("masks"); }
    std::int64_t size() const { return size_; }  // the largest id + 1, added tokens included

private:
    fs::path directory_;
    TokenizerFile file_;
    Splitter splitter_;
    std::unique_ptr<Codec> codec_;
    std::vector<Id> prefix_, suffix_, stop_;
    std::unordered_map<Id, const AddedToken*> added_;
    std::unordered_set<Id> special_;
    Id piece_count_ = 0, size_ = 0;
    bool joins_with_blanks_ = false;
};

}  // namespace glm
