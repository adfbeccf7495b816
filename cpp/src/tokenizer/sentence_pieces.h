// sentencepiece models: those of GLM (2021), ChatGLM2 and ChatGLM3 as they are, ChatGLM-6B's with pieces for line ends,
// tabs and runs of blanks.
#pragma once

#include <map>
#include <memory>

#include "tokenizer/codec.h"
#include "tokenizer/unigram.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace glm {

class SentencePieces : public Codec {
public:
    // Throws Error where the file is no sentencepiece model.
    explicit SentencePieces(const fs::path& path);
    ~SentencePieces() override;

    void encode(std::string_view text, std::vector<Id>& ids) const override;
    std::string decode(const std::vector<Id>& ids) const override;

protected:
    std::unique_ptr<sentencepiece::SentencePieceProcessor> pieces_;

private:
    // The text as the library normalizes it: its pieces, joined.
    std::string normalized(std::string_view text) const;

    std::unique_ptr<Unigram> unigram_;  // null for a model of byte pairs, which the library cuts
};

// ChatGLM-6B's: a text's layout is written as pieces before it is cut.
class LayoutPieces : public SentencePieces {
public:
    explicit LayoutPieces(const fs::path& path);

    void encode(std::string_view text, std::vector<Id>& ids) const override;
    std::string decode(const std::vector<Id>& ids) const override;

private:
    struct Layout {
        std::string piece, text;
    };
    std::map<Id, Layout> layout_;
};

}  // namespace glm
