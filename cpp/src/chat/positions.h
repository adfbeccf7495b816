// Where tokens stand, and how a prompt is read (glm/encoding/batches.py).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tokenizer/tokenizer_file.h"

namespace glm {

// Tokens count up from 0 and see what stands before them (GLM-4), or have two positions: in the text, and inside the
// blank that the answer fills (arXiv:2103.10360, 2.1; GLM (2021) and ChatGLM-6B). Then the prompt up to its last token
// is read in both directions; behind it the first position repeats that of the prompt's mask, and the second one counts
// from 1.
struct Positions {
    bool blank = false;        // whether there are two
    bool inside_blank = true;  // false: the first one counts on in the text instead
    bool ranked = false;       // of several masks the one that comes first in `masks` is the blank, not in the prompt
    std::vector<Id> masks;

    int rows() const { return blank ? 2 : 1; }

    // What a generated token adds to each row.
    std::array<std::int64_t, 2> step() const {
        if (!blank) return {1, 0};
        return inside_blank ? std::array<std::int64_t, 2>{0, 1} : std::array<std::int64_t, 2>{1, 0};
    }

    // How many ids of a prompt all see each other.
    int prompt_prefix(const std::vector<Id>& ids) const { return blank ? static_cast<int>(ids.size()) - 1 : 0; }

    // [rows, ids] of a prompt. Throws Error for one without mask.
    std::vector<std::int64_t> of(const std::vector<Id>& ids, int prefix_length) const;

    // The largest position of a prompt and a text that fill their lengths.
    std::int64_t longest(std::int64_t source, std::int64_t target) const;

    // Most tokens of a prompt and its text in a model whose positions end there.
    std::int64_t columns(std::int64_t max_position) const {
        return (1 + (blank && inside_blank)) * (max_position + 1);
    }
};

}  // namespace glm
