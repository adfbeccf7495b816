#include "tokenizer/unigram.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/text.h"

namespace glm {

namespace {

constexpr float kUnknownPenalty = 10.0f;  // below the least likely piece, for a character that no piece has
constexpr float kUsersBonus = -0.1f;      // of pieces that are to be taken whole, beside the best score a byte
// Of sentencepiece_model.proto.
constexpr std::uint64_t kPieces = 1, kTrainerSpec = 2, kModelType = 3, kUnigram = 1;
constexpr std::uint64_t kText = 1, kScore = 2, kType = 3;
enum Type : std::uint64_t { kNormal = 1, kUnknown = 2, kUserDefined = 4, kByte = 6 };
enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::size_t hash_of(std::string_view bytes) {
    std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
    for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
    return hash ^ (hash >> 29);
}

// Reads the fields of a protobuf message; throws Error where it ends too early.
class Message {
public:
    explicit Message(std::string_view bytes) : rest_(bytes) {}

    // The next field with its number, and what it holds: of numbers `value`, else `bytes`. False at the end.
    bool next() {
        if (rest_.empty()) return false;
        const std::uint64_t tag = varint();
        field = tag >> 3;
        bytes = {};
        switch (tag & 7) {
            case kVarint:
                value = varint();
                return true;
            case kFixed64:
                take(8);
                return true;
            case kBytes:
                bytes = take(varint());
                return true;
            case kFixed32:
                bytes = take(4);
                return true;
            default:
                throw Error("it is no protobuf message");
        }
    }

    std::uint64_t field = 0, value = 0;
    std::string_view bytes;

private:
    std::uint64_t varint() {
        std::uint64_t number = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<unsigned char>(take(1)[0]);
            number |= std::uint64_t{byte & 0x7Fu} << shift;
            if (byte < 0x80) break;
        }
        return number;
    }
    std::string_view take(std::uint64_t size) {
        if (size > rest_.size()) throw Error("it ends too early");
        const std::string_view taken = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return taken;
    }

    std::string_view rest_;
};

}  // namespace

Unigram::Unigram(std::string_view model) {
    for (Message message(model); message.next();) {
        if (message.field == kPieces) read_piece(message.bytes);
        if (message.field != kTrainerSpec) continue;
        for (Message spec(message.bytes); spec.next();)
            if (spec.field == kModelType) is_unigram_ = spec.value == kUnigram;
    }
    if (byte_ids_.size() != 256) byte_ids_.clear();
    unknown_score_ -= kUnknownPenalty;
    for (const Id id : users_) {
        Piece& piece = pieces_[static_cast<std::size_t>(id)];
        piece.score = static_cast<float>(piece.text.size()) * best_score_ + kUsersBonus;
    }
    index();
}

void Unigram::read_piece(std::string_view message) {
    const auto id = static_cast<Id>(pieces_.size());
    Piece piece{{}, 0};
    std::uint64_t type = kNormal;
    std::string_view text;
    for (Message fields(message); fields.next();) {
        if (fields.field == kText) text = fields.bytes;
        if (fields.field == kType) type = fields.value;
        if (fields.field == kScore && fields.bytes.size() == 4) std::memcpy(&piece.score, fields.bytes.data(), 4);
    }
    if (type == kNormal) {
        unknown_score_ = std::min(unknown_score_, piece.score);
        best_score_ = std::max(best_score_, piece.score);
    }
    if (type == kNormal || type == kUserDefined) piece.text = std::string(text);
    if (type == kUserDefined) users_.push_back(id);
    if (type == kUnknown) unknown_ = id;
    if (type == kByte) byte_ids_.push_back(id);  // they stand in order
    pieces_.push_back(std::move(piece));
}

void Unigram::index() {
    std::size_t size = 16;
    while (size < 2 * pieces_.size()) size *= 2;
    slots_.resize(size);
    for (std::size_t id = 0; id < pieces_.size(); ++id) {
        const std::string& text = pieces_[id].text;
        if (text.empty()) continue;
        std::size_t& longest = longest_[static_cast<unsigned char>(text[0])];
        longest = std::max(longest, text.size());
        std::size_t slot = hash_of(text) & (slots_.size() - 1);
        while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
        slots_[slot] = static_cast<std::uint32_t>(id) + 1;
    }
}

std::optional<Id> Unigram::find(std::string_view text) const {
    for (std::size_t slot = hash_of(text);; ++slot) {
        const std::uint32_t found = slots_[slot & (slots_.size() - 1)];
        if (found == 0) return std::nullopt;
        if (pieces_[found - 1].text == text) return static_cast<Id>(found - 1);
    }
}

void Unigram::encode(std::string_view normalized, std::vector<Id>& ids) const {
    struct Best {
        float score = 0;
        std::size_t start = 0;
        Id id = -1;  // -1: no cut ends here
    };
    std::vector<Best> ends(normalized.size() + 1);
    const auto offer = [&](std::size_t start, std::size_t end, float score, Id id) {
        const float total = score + ends[start].score;
        if (ends[end].id < 0 || total > ends[end].score) ends[end] = {total, start, id};
    };
    for (std::size_t start = 0; start < normalized.size();) {
        std::size_t next = start;
        next_code(normalized, next);
        bool whole = false;  // whether a piece is this character alone
        const std::size_t most = std::min(longest_[static_cast<unsigned char>(normalized[start])],
                                          normalized.size() - start);
        for (std::size_t size = next - start; size <= most; ++size) {
            const std::optional<Id> id = find(normalized.substr(start, size));
            if (!id) continue;
            offer(start, start + size, pieces_[static_cast<std::size_t>(*id)].score, *id);
            whole = whole || size == next - start;
        }
        if (!whole) offer(start, next, unknown_score_, unknown_);
        start = next;
    }
    std::vector<std::size_t> cuts;
    for (std::size_t end = normalized.size(); end > 0; end = ends[end].start) cuts.push_back(end);
    bool after_unknown = false;  // of neighbours that no piece has, all together are one
    for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
        const Best& best = ends[*cut];
        const bool unknown = best.id == unknown_;
        if (!(unknown && after_unknown && byte_ids_.empty()))
            append(best.id, normalized.substr(best.start, *cut - best.start), ids);
        after_unknown = unknown;
    }
}

void Unigram::append(Id id, std::string_view text, std::vector<Id>& ids) const {
    if (id != unknown_ || byte_ids_.empty()) {
        ids.push_back(id);
        return;
    }
    for (const char byte : text) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
}

}  // namespace glm
