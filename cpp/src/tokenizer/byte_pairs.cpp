#include "tokenizer/byte_pairs.h"

#include <algorithm>
#include <queue>

#include "base/error.h"
#include "base/text.h"

namespace glm {

namespace {

std::size_t hash_of(std::string_view bytes) {
    std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
    for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
    return hash ^ (hash >> 29);
}

std::size_t hash_of(std::uint32_t left, std::uint32_t right) {
    std::uint64_t hash = ((std::uint64_t{left} << 32) | right) * 0x9E3779B97F4A7C15;
    return hash ^ (hash >> 32);
}

// A power of two with at least half of it free.
std::size_t table_size(std::size_t count) {
    std::size_t size = 16;
    while (size < 2 * count) size *= 2;
    return size;
}

}  // namespace

// A part of a word; parts that were merged into the one before have no bytes.
struct BytePairs::Part {
    int start, size, before, after;
    Id id;
};

// Two neighbours that may become one.
struct BytePairs::Candidate {
    std::uint32_t rank;
    int place;
    Id merged;
    int size;  // of both together

    // The lowest rank is merged first, of equal ones the leftmost.
    bool operator<(const Candidate& other) const {
        return rank != other.rank ? rank > other.rank : place > other.place;
    }
};

BytePairs::BytePairs(const TokenizerFile& file)
    : file_(file), cutter_(file.ranges), whole_words_(file.one("whole words") != 0) {
    slots_.resize(table_size(file.pieces.size()));
    for (std::size_t id = 0; id < file.pieces.size(); ++id) {
        std::size_t slot = hash_of(file.pieces[id]) & (slots_.size() - 1);
        while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
        slots_[slot] = static_cast<std::uint32_t>(id) + 1;
    }
    for (int byte = 0; byte < 256; ++byte) {
        const char piece = static_cast<char>(byte);
        const std::optional<Id> id = piece_id({&piece, 1});
        if (!id) fail("the byte ", byte, " is no piece of it");
        byte_ids_[byte] = *id;
    }
    if (!file.merges.empty()) read_merges();
}

void BytePairs::read_merges() {
    merge_slots_.resize(table_size(file_.merges.size()));
    for (std::size_t rank = 0; rank < file_.merges.size(); ++rank) {
        const Merge& merge = file_.merges[rank];
        if (std::max({merge.left, merge.right, merge.merged}) >= file_.pieces.size())
            fail("merge ", rank, " names a piece that it has not");
        std::size_t slot = hash_of(merge.left, merge.right) & (merge_slots_.size() - 1);
        while (merge_slots_[slot] != 0) slot = (slot + 1) & (merge_slots_.size() - 1);
        merge_slots_[slot] = static_cast<std::uint32_t>(rank) + 1;
    }
}

std::optional<Id> BytePairs::piece_id(std::string_view piece) const {
    for (std::size_t slot = hash_of(piece);; ++slot) {
        const std::uint32_t found = slots_[slot & (slots_.size() - 1)];
        if (found == 0) return std::nullopt;
        if (file_.pieces[found - 1] == piece) return static_cast<Id>(found - 1);
    }
}

void BytePairs::encode(std::string_view text, std::vector<Id>& ids) const {
    for (const std::string_view word : cutter_.words(text)) {
        const std::optional<Id> whole = whole_words_ ? piece_id(word) : std::nullopt;
        if (whole)
            ids.push_back(*whole);
        else
            encode_word(word, ids);
    }
}

void BytePairs::encode_word(std::string_view word, std::vector<Id>& ids) const {
    const int count = static_cast<int>(word.size());
    std::vector<Part> parts(count);
    for (int i = 0; i < count; ++i)
        parts[i] = {i, 1, i - 1, i + 1 < count ? i + 1 : -1, byte_ids_[static_cast<unsigned char>(word[i])]};
    std::priority_queue<Candidate> queue;
    const auto consider = [&](int place) {
        if (place < 0) return;
        if (const auto found = candidate(word, parts, place)) queue.push(*found);
    };
    for (int i = 0; i + 1 < count; ++i) consider(i);
    while (!queue.empty()) {
        const Candidate best = queue.top();
        queue.pop();
        Part& left = parts[best.place];
        if (left.size == 0 || left.after < 0 || left.size + parts[left.after].size != best.size) continue;
        Part& right = parts[left.after];
        const auto still = candidate(word, parts, best.place);
        if (!still || still->merged != best.merged) continue;
        left.size += right.size;
        left.id = best.merged;
        left.after = right.after;
        right.size = 0;
        if (left.after >= 0) parts[left.after].before = best.place;
        consider(left.before);
        consider(best.place);
    }
    for (int i = 0; i >= 0 && i < count; i = parts[i].after) ids.push_back(parts[i].id);
}

std::optional<BytePairs::Candidate> BytePairs::candidate(std::string_view word, const std::vector<Part>& parts,
                                                         int place) const {
    const Part& left = parts[place];
    if (left.after < 0) return std::nullopt;
    const Part& right = parts[left.after];
    const int size = left.size + right.size;
    if (merge_slots_.empty()) {
        const std::optional<Id> id = piece_id(word.substr(left.start, size));
        if (!id) return std::nullopt;
        return Candidate{static_cast<std::uint32_t>(*id), place, *id, size};
    }
    for (std::size_t slot = hash_of(left.id, right.id);; ++slot) {
        const std::uint32_t found = merge_slots_[slot & (merge_slots_.size() - 1)];
        if (found == 0) return std::nullopt;
        const Merge& merge = file_.merges[found - 1];
        if (merge.left == static_cast<std::uint32_t>(left.id) && merge.right == static_cast<std::uint32_t>(right.id))
            return Candidate{found - 1, place, static_cast<Id>(merge.merged), size};
    }
}

std::string BytePairs::decode(const std::vector<Id>& ids) const {
    std::string bytes;
    for (const Id id : ids)
        if (id >= 0 && static_cast<std::size_t>(id) < file_.pieces.size()) bytes += file_.pieces[id];
    return is_utf8(bytes) ? bytes : encode_utf8(decode_utf8(bytes));
}

}  // namespace glm
