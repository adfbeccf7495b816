#include "tokenizer/splitter.h"

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace glm {

namespace {

constexpr std::string_view kMark = "\ufdd0";  // a Unicode noncharacter: no text that is meant for reading holds it

std::size_t first_size(std::string_view token) {
    std::size_t place = 0;
    next_code(token, place);
    return place;
}

std::string marked(std::string_view token) {
    const std::size_t first = first_size(token);
    return std::string(token.substr(0, first)) + std::string(kMark) + std::string(token.substr(first));
}

bool ends_with(std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

Splitter::Splitter(const std::vector<AddedToken>& tokens) {
    for (const AddedToken& token : tokens) {
        if (!token.written) continue;
        tokens_.push_back(&token);
        first_bytes_[static_cast<unsigned char>(token.text[0])] = true;
    }
    std::stable_sort(tokens_.begin(), tokens_.end(),
                     [](const auto* one, const auto* other) { return one->text.size() > other->text.size(); });
}

const AddedToken* Splitter::token_at(std::string_view text, std::size_t place, Which which) const {
    if (!first_bytes_[static_cast<unsigned char>(text[place])]) return nullptr;
    for (const AddedToken* token : tokens_) {
        const bool asked = which == Which::kAll || token->special == (which == Which::kSpecial);
        if (asked && text.compare(place, token->text.size(), token->text) == 0 &&
            ends_with(text.substr(0, place), token->behind))
            return token;
    }
    return nullptr;
}

std::vector<Splitter::Part> Splitter::split(std::string_view text) const {
    std::vector<Part> parts = cut(text, Which::kAll);
    for (Part& part : parts)
        if (part.token == nullptr) part.text = unmark(part.text);
    return parts;
}

std::vector<Splitter::Part> Splitter::split_others(std::string_view text) const { return cut(text, Which::kOthers); }

std::vector<Splitter::Part> Splitter::cut(std::string_view text, Which which) const {
    std::vector<Part> parts;
    std::size_t start = 0;
    const auto add_text = [&](std::string before) {
        if (!before.empty()) parts.push_back({nullptr, std::move(before)});
    };
    for (std::size_t place = 0; place < text.size();) {
        const AddedToken* token = token_at(text, place, which);
        if (token == nullptr) {
            ++place;
            continue;
        }
        const std::size_t end = place + token->text.size();
        if (place >= start) {  // else white space that an earlier token took along
            const std::string_view before = text.substr(start, place - start);
            add_text(token->takes_left ? strip_right_utf8(before) : std::string(before));
            parts.push_back({token, {}});
            start = end;
            if (token->takes_right) start = text.size() - strip_left_utf8(text.substr(end)).size();
        }
        place = end;
    }
    if (start < text.size()) add_text(std::string(text.substr(start)));
    return parts;
}

std::string Splitter::mark(std::string_view text) const {
    std::string out;
    for (std::size_t place = 0; place < text.size();) {
        const AddedToken* token = token_at(text, place, Which::kSpecial);
        if (token == nullptr) {
            out += text[place++];
            continue;
        }
        out += marked(token->text);
        place += token->text.size();
    }
    return out;
}

std::string Splitter::unmark(std::string_view text) const {
    if (text.find(kMark) == std::string_view::npos) return std::string(text);
    std::string out;
    for (std::size_t place = 0; place < text.size();) {
        const AddedToken* found = nullptr;
        for (const AddedToken* token : tokens_)
            if (token->special && text.compare(place, token->text.size() + kMark.size(), marked(token->text)) == 0) {
                found = token;
                break;
            }
        if (found == nullptr) {
            out += text[place++];
            continue;
        }
        out += found->text;
        place += found->text.size() + kMark.size();
    }
    return out;
}

}  // namespace glm
