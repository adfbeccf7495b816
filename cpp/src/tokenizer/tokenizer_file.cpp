#include "tokenizer/tokenizer_file.h"

#include "base/bytes.h"
#include "base/text.h"

namespace glm {

namespace {

constexpr std::string_view kMagic = "GLMTOK01";
constexpr std::uint32_t kMostIds = 1u << 24;  // far more than any vocabulary has
enum Flags : std::uint32_t { kSpecial = 1, kLeft = 2, kRight = 4, kOwn = 8, kWritten = 16 };

Id checked_id(std::uint32_t value) {
    if (value >= kMostIds) fail("token id ", value, " is above ", kMostIds);
    return static_cast<Id>(value);
}

std::string checked_text(std::string_view bytes) {
    if (!is_utf8(bytes)) throw Error("a text of it is not UTF-8");
    return std::string(bytes);
}

void read_names(ByteReader bytes, TokenizerFile& file) {
    for (std::uint32_t left = bytes.number(); left > 0; --left) {
        std::string name = checked_text(bytes.sized());
        file.names[std::move(name)] = checked_text(bytes.sized());
    }
}

void read_ids(ByteReader bytes, TokenizerFile& file) {
    for (std::uint32_t left = bytes.number(); left > 0; --left) {
        std::vector<Id>& ids = file.ids[checked_text(bytes.sized())];
        ids.clear();
        for (const std::uint32_t value : bytes.numbers(bytes.number())) ids.push_back(checked_id(value));
    }
}

void read_added(ByteReader bytes, TokenizerFile& file) {
    for (std::uint32_t left = bytes.number(); left > 0; --left) {
        AddedToken token;
        token.id = checked_id(bytes.number());
        const std::uint32_t flags = bytes.number();
        token.special = flags & kSpecial;
        token.takes_left = flags & kLeft;
        token.takes_right = flags & kRight;
        token.has_own_id = flags & kOwn;
        token.written = flags & kWritten;
        token.text = checked_text(bytes.sized());
        if (token.text.empty()) throw Error("an added token has no text");
        file.added.push_back(std::move(token));
    }
}

void read_pieces(ByteReader bytes, TokenizerFile& file) {
    const std::uint32_t count = bytes.number();
    if (count >= kMostIds) fail("it has ", count, " pieces");
    const std::vector<std::uint32_t> offsets = bytes.numbers(std::size_t{count} + 1);
    const std::string_view text = bytes.take(offsets.back());
    for (std::uint32_t i = 0; i < count; ++i) {
        if (offsets[i] > offsets[i + 1] || offsets[i + 1] > text.size()) fail("piece ", i, " lies outside of it");
        file.pieces.push_back(text.substr(offsets[i], offsets[i + 1] - offsets[i]));
    }
}

void read_merges(ByteReader bytes, TokenizerFile& file) {
    const std::uint32_t count = bytes.number();
    for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint32_t left = bytes.number(), right = bytes.number();
        file.merges.push_back({left, right, bytes.number()});
    }
}

void read_ranges(ByteReader bytes, TokenizerFile& file) {
    const std::uint32_t count = bytes.number();
    for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint32_t first = bytes.number(), last = bytes.number();
        file.ranges.push_back({first, last, bytes.number()});
        if (first > last || last > 0x10FFFF) fail("the range ", first, " to ", last, " is none of code points");
    }
}

using Reader = void (*)(ByteReader, TokenizerFile&);
const std::map<std::string_view, Reader> kSections = {{"NAME", read_names},  {"IDS_", read_ids},
                                                      {"ADDD", read_added},  {"PIEC", read_pieces},
                                                      {"MERG", read_merges}, {"CHAR", read_ranges}};

}  // namespace

TokenizerFile TokenizerFile::parse(std::string_view bytes) {
    TokenizerFile file;
    ByteReader reader(bytes);
    if (bytes.size() < kMagic.size() || reader.take(kMagic.size()) != kMagic)
        throw Error("it does not begin as such files of this version do");
    while (!reader.done()) {
        const std::string_view name = reader.take(4);
        const auto section = kSections.find(name);
        const std::string_view content = reader.sized();
        if (section != kSections.end()) section->second(ByteReader(content), file);
    }
    for (AddedToken& token : file.added)
        if (const auto behind = file.names.find("behind " + token.text); behind != file.names.end())
            token.behind = behind->second;
    file.name("kind");
    file.list("size");
    return file;
}

TokenizerFile TokenizerFile::read(const fs::path& path) {
    auto mapping = std::make_unique<MappedFile>(path);
    try {
        TokenizerFile file = parse(mapping->bytes());
        file.mapping = std::move(mapping);
        return file;
    } catch (const Error& error) {
        fail(path.string(), " is damaged (", error.what(), "): export the model again");
    }
}

const std::string& TokenizerFile::name(const std::string& key) const {
    const auto found = names.find(key);
    if (found == names.end()) fail("it has no ", key);
    return found->second;
}

const std::vector<Id>& TokenizerFile::list(const std::string& key) const {
    const auto found = ids.find(key);
    if (found == ids.end()) fail("it has no list of ids named ", key);
    return found->second;
}

Id TokenizerFile::one(const std::string& key) const {
    const std::vector<Id>& found = list(key);
    if (found.size() != 1) fail("its ids named ", key, " are ", found.size(), ", not 1");
    return found[0];
}

}  // namespace glm
