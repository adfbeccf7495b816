#include "chat/cleaning.h"

#include "base/text.h"

namespace glm {

namespace {

constexpr std::u32string_view kPlaceholder = U"[[训练时间]]", kYear = U"2023年";
constexpr std::u32string_view kHalfWidth = U",!:;?", kFullWidth = U"，！：；？";

bool is_chinese(char32_t code) { return code >= 0x4E00 && code <= 0x9FFF; }

std::u32string without_placeholder(std::u32string_view text) {
    return replaced(std::u32string(strip(text)), kPlaceholder, kYear);
}

std::u32string full_width(std::u32string_view text) {
    const std::u32string before = without_placeholder(text);
    std::u32string after = before;
    for (std::size_t i = 0; i < before.size(); ++i) {
        const std::size_t mark = kHalfWidth.find(before[i]);
        if (mark == std::u32string_view::npos) continue;
        if ((i > 0 && is_chinese(before[i - 1])) || (i + 1 < before.size() && is_chinese(before[i + 1])))
            after[i] = kFullWidth[mark];
    }
    return after;
}

// How many characters are left where a text loses those of `unstable` at its end.
std::size_t length_without(std::u32string_view text, std::u32string_view unstable) {
    std::size_t size = text.size();
    while (size > 0 && unstable.find(text[size - 1]) != std::u32string_view::npos) --size;
    return size;
}

}  // namespace

Cleaning plain_cleaning() {
    return {[](std::u32string_view text) { return std::u32string(strip(text)); },
            [](std::u32string_view text) { return strip_right(text).size(); }};
}

Cleaning role_cleaning() {
    return {without_placeholder,
            [](std::u32string_view text) { return length_without(text, U" \t\r\n\u3000[[训练时间]]"); }};
}

Cleaning round_cleaning() {
    return {full_width,
            [](std::u32string_view text) { return length_without(text, U" \t\r\n\u3000[[训练时间]],!:;?"); }};
}

}  // namespace glm
