// Byte-pair encoding over pieces of bytes: by the ranks of the pieces (tiktoken), or by a list of merges.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/codec.h"
#include "tokenizer/word_cutter.h"

namespace glm {

class BytePairs : public Codec {
public:
    // `file` outlives it. Throws Error where its pieces are no such vocabulary.
    explicit BytePairs(const TokenizerFile& file);

    void encode(std::string_view text, std::vector<Id>& ids) const override;
    std::string decode(const std::vector<Id>& ids) const override;

private:
    struct Part;
    struct Candidate;

    std::optional<Id> piece_id(std::string_view piece) const;
    void encode_word(std::string_view word, std::vector<Id>& ids) const;
    std::optional<Candidate> candidate(std::string_view word, const std::vector<Part>& parts, int place) const;
    void read_merges();

    const TokenizerFile& file_;
    WordCutter cutter_;
    bool whole_words_;
    std::vector<std::uint32_t> slots_;  // open addressing: id + 1 of a piece, 0 for none
    std::vector<std::uint32_t> merge_slots_;  // the same of merges, by their two ids
    Id byte_ids_[256];
};

}  // namespace glm
