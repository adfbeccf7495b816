#include "tokenizer/sentence_pieces.h"

#include <sentencepiece_processor.h>

#include <cctype>
#include <cstdlib>
#include <set>

#include "base/error.h"

namespace glm {

namespace {

constexpr const char* kLineEnd = "<n>";
constexpr const char* kTab = "<|tab|>";
constexpr std::size_t kShortestBlank = 2, kLongestBlank = 80;  // a single blank is no piece

// Pieces such as <0xE5> stand for the bytes of a character that no piece has. A text that spells one is cut smaller.
bool is_byte(const std::string& piece) {
    return piece.size() == 6 && piece.compare(0, 3, "<0x") == 0 && piece[5] == '>' && std::isxdigit(piece[3]) &&
           std::isxdigit(piece[4]);
}

std::string byte_of(const std::string& piece) {
    return {static_cast<char>(std::strtol(piece.substr(3, 2).c_str(), nullptr, 16))};
}

std::string blank_piece(std::size_t size) { return "<|blank_" + std::to_string(size) + "|>"; }

}  // namespace

SentencePieces::SentencePieces(const fs::path& path)
    : pieces_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
    const std::string model = read_file(path, "copy the vocabulary file there.");
    if (!pieces_->LoadFromSerializedProto(model).ok())
        fail(path.string(), ": not a sentencepiece model (", model.size(), " bytes)");
    auto unigram = std::make_unique<Unigram>(model);
    if (unigram->is_unigram()) unigram_ = std::move(unigram);
}

SentencePieces::~SentencePieces() = default;

void SentencePieces::encode(std::string_view text, std::vector<Id>& ids) const {
    if (unigram_) {
        unigram_->encode(normalized(text), ids);
        return;
    }
    std::vector<int> found;
    if (const auto status = pieces_->Encode(text, &found); !status.ok())
        fail("a text of ", text.size(), " bytes cannot be cut into tokens (", status.ToString(), ")");
    ids.insert(ids.end(), found.begin(), found.end());
}

std::string SentencePieces::normalized(std::string_view text) const {
    std::vector<std::string> pieces;
    if (const auto status = pieces_->Encode(text, &pieces); !status.ok())
        fail("a text of ", text.size(), " bytes cannot be cut into tokens (", status.ToString(), ")");
    std::string joined;
    for (const std::string& piece : pieces) joined += is_byte(piece) ? byte_of(piece) : piece;
    return joined;
}

std::string SentencePieces::decode(const std::vector<Id>& ids) const {
    std::string text;
    if (ids.empty()) return text;
    if (const auto status = pieces_->Decode(ids, &text); !status.ok())
        fail(ids.size(), " tokens cannot be decoded (", status.ToString(), ")");
    return text;
}

LayoutPieces::LayoutPieces(const fs::path& path) : SentencePieces(path) {
    const auto add = [&](const std::string& piece, const std::string& text) {
        const Id id = pieces_->PieceToId(piece);
        if (id == pieces_->unk_id())
            fail(path.string(), ": the vocabulary lacks ", piece, ", so it is not ChatGLM-6B's");
        layout_[id] = {piece, text};
    };
    add(kLineEnd, "\n");
    add(kTab, "\t");
    for (std::size_t size = kShortestBlank; size <= kLongestBlank; ++size)
        add(blank_piece(size), std::string(size, ' '));
}

void LayoutPieces::encode(std::string_view text, std::vector<Id>& ids) const {
    std::string written;
    for (std::size_t place = 0; place < text.size();) {
        std::size_t blanks = 0;
        while (blanks < kLongestBlank && place + blanks < text.size() && text[place + blanks] == ' ') ++blanks;
        if (blanks >= kShortestBlank) {
            written += blank_piece(blanks);
            place += blanks;
            continue;
        }
        const char byte = text[place++];
        if (byte == '\n')
            written += kLineEnd;
        else if (byte == '\t')
            written += kTab;
        else
            written += byte;
    }
    SentencePieces::encode(written, ids);
}

std::string LayoutPieces::decode(const std::vector<Id>& ids) const {
    std::string text = SentencePieces::decode(ids);
    const std::set<Id> there(ids.begin(), ids.end());
    for (const Id id : there) {
        const auto found = layout_.find(id);
        if (found == layout_.end()) continue;
        const auto& [piece, layout] = found->second;
        for (std::size_t place = 0; (place = text.find(piece, place)) != std::string::npos; place += layout.size())
            text.replace(place, piece.size(), layout);
    }
    return text;
}

}  // namespace glm
