// The likeliest cut of a text into the pieces of a unigram model, as sentencepiece 0.2 finds it.
//
// Earlier versions (Debian 12 has 0.1.97) compare sums in float64 with rounded ones, and 0.2 in float32: 20 of 31,445
// texts were cut differently with ChatGLM-6B's vocabulary. So the library normalizes here, and this cuts.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_file.h"

namespace glm {

class Unigram {
public:
    // Of the bytes of a sentencepiece model. Throws Error where it is none.
    explicit Unigram(std::string_view model);

    // Whether the model is of this kind, and not of byte pairs.
    bool is_unigram() const { return is_unigram_; }

    // Appends the ids of normalized text (Kudo, arXiv:1804.10959, 3.2: Viterbi over all cuts).
    void encode(std::string_view normalized, std::vector<Id>& ids) const;

private:
    struct Piece {
        std::string text;
        float score;
    };
    void read_piece(std::string_view message);
    void index();
    std::optional<Id> find(std::string_view text) const;
    void append(Id id, std::string_view text, std::vector<Id>& ids) const;

    std::vector<Piece> pieces_;          // by id; without text where a text cannot have it
    std::vector<std::uint32_t> slots_;   // open addressing: id + 1 of a piece, 0 for none
    std::size_t longest_[256] = {};      // bytes of the longest piece, by its first byte
    std::vector<Id> byte_ids_;           // of pieces for single bytes, if the model falls back to them
    Id unknown_ = 0;
    float unknown_score_ = std::numeric_limits<float>::max();
    float best_score_ = std::numeric_limits<float>::lowest();
    std::vector<Id> users_;  // pieces that are to be taken whole
    bool is_unigram_ = true;
};

}  // namespace glm
