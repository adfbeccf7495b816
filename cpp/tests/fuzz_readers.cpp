// For the tests: mutated files into the readers of an export, under AddressSanitizer and UndefinedBehaviorSanitizer.
//
//   fuzz_readers COUNT DIRECTORY   → how many were taken, and how many refused with an error
#include <iostream>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "chat/role_chat.h"
#include "export/generation_file.h"
#include "export/manifest.h"
#include "runtime/columns_step.h"
#include "tokenizer/byte_pairs.h"
#include "tokenizer/splitter.h"

namespace {

using Random = std::mt19937;

std::size_t below(Random& random, std::size_t bound) { return bound == 0 ? 0 : random() % bound; }

// A few changes of bytes, words, lengths and places; in half of all files every byte stays in its place, so that more
// than the first wrong length is read of them.
std::string mutated(std::string content, Random& random) {
    const bool in_place = below(random, 2) == 0;
    for (std::size_t changes = 1 + below(random, 6); changes > 0; --changes) {
        const std::size_t place = below(random, content.size()), size = below(random, 16);
        switch (below(random, in_place ? 3 : 7)) {
            case 0:
                if (!content.empty()) content[place] = static_cast<char>(random());
                break;
            case 1:
                if (!content.empty()) content[place] ^= static_cast<char>(1 << below(random, 8));
                break;
            case 2:
                for (std::size_t i = 0; i < 4 && place + i < content.size(); ++i)
                    content[place + i] = random() % 2 ? '\xff' : '\0';
                break;
            case 3:
                content.insert(place, content.substr(below(random, content.size() + 1), size));
                break;
            case 4:
                content.resize(place);
                break;
            case 5:
                content.erase(place, size);
                break;
            default:
                static const char* words[] = {"{", "[", "\"", "1e999", "-9223372036854775809", "null", "\\ud800", "}"};
                content.insert(place, words[below(random, 8)]);
        }
    }
    return content;
}

void require_one_line(const glm::Error& error) {
    if (std::string(error.what()).find('\n') != std::string::npos) throw std::logic_error("an error of two lines");
}

// What is missing of a chat is an error of its own, and not of the file.
void read_chat(const glm::TokenizerFile& file, const glm::Splitter& splitter) {
    const glm::Messages messages = {{"system", "a", {}},
                                    {"user", "b <|user|>", {}},
                                    {"assistant", "<think>c</think> d", "c"},
                                    {"user", "e/nothink", {}}};
    for (const auto thinking : {std::optional<bool>(), std::optional<bool>(true), std::optional<bool>(false)}) {
        try {
            const glm::RoleChat chat(file, splitter, thinking);
            if (!glm::is_utf8(chat.text(messages))) throw std::logic_error("a prompt is not UTF-8");
            chat.opens_thoughts();
        } catch (const glm::Error& error) {
            require_one_line(error);
        }
    }
}

void read_tokenizer(const std::string& content) {
    const glm::TokenizerFile file = glm::TokenizerFile::parse(content);
    const glm::Splitter splitter(file.added);
    const std::string text = "I'll say <|user|> 你好 123456 \n\n [gMASK] \xF0\x9F\x98\x80 end   ";
    for (const auto& part : splitter.split(splitter.mark(text) + text)) (void)part;
    for (const auto& part : splitter.split_others(text)) (void)part;
    read_chat(file, splitter);
    const glm::BytePairs pairs(file);
    std::vector<glm::Id> ids;
    pairs.encode(text, ids);
    ids.insert(ids.end(), {-1, 1 << 30, 5, 300});
    if (!glm::is_utf8(pairs.decode(ids))) throw std::logic_error("a decoded text is not UTF-8");
}

void read_manifest(const std::string& content) { glm::parse_manifest(content, "glm.onnx.manifest.json"); }

void read_generation(const std::string& content) {
    const glm::GenerationFile file = glm::GenerationFile::parse(content, "generation_config.json");
    glm::GenerationConfig config;
    file.options().apply(config);
    config.settle();
    file.stop_strings();
    file.warnings();
    file.refuse_unsupported(config);
}

void fuzz(const char* name, const std::string& content, int count, void (*read)(const std::string&)) {
    Random random(7);
    int taken = 0, refused = 0;
    read(content);
    for (int i = 0; i < count; ++i) {
        try {
            read(mutated(content, random));
            ++taken;
        } catch (const glm::Error& error) {
            require_one_line(error);
            ++refused;
        }
    }
    std::cout << name << ' ' << taken << ' ' << refused << '\n';
}

}  // namespace

int main(int count, char** words) {
    if (count != 3) return 2;
    const glm::fs::path directory = words[2];
    const int times = std::stoi(words[1]);
    fuzz("tokenizer.bin", glm::read_file(directory / "tokenizer.bin", ""), times, read_tokenizer);
    fuzz("manifest", glm::read_file(directory / "glm.onnx.manifest.json", ""), times, read_manifest);
    fuzz("generation_config.json", glm::read_file(directory / "generation_config.json", ""), times, read_generation);
    return 0;
}
