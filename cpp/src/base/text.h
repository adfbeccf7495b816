// Text as Python has it: code points, its white space, its way to decode UTF-8 that is broken.
#pragma once

#include <locale.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace glm {

inline constexpr char32_t kReplacement = U'\ufffd';

// Code points of UTF-8; U+FFFD for each part that is none, as "replace" in Python and from_utf8_lossy in Rust.
std::u32string decode_utf8(std::string_view bytes);

// Whether all of it is UTF-8; surrogates are not.
bool is_utf8(std::string_view bytes);

std::string encode_utf8(std::u32string_view text);

// Appends one code point.
void append_utf8(std::string& out, char32_t code);

// str.isspace of one character.
bool is_space(char32_t code);

std::u32string_view strip_right(std::u32string_view text);
std::u32string_view strip(std::u32string_view text);
std::string strip_left_utf8(std::string_view text);
std::string strip_right_utf8(std::string_view text);
inline std::string strip_utf8(std::string_view text) { return strip_left_utf8(strip_right_utf8(text)); }

// One character at `place`, which must lie in the text; moves `place` behind it. Broken bytes are U+FFFD.
char32_t next_code(std::string_view bytes, std::size_t& place);

// While it lives, this thread reads and writes numbers as C does, whatever locale its program has set.
class PlainNumbers {
public:
    PlainNumbers();
    ~PlainNumbers();
    PlainNumbers(const PlainNumbers&) = delete;
    PlainNumbers& operator=(const PlainNumbers&) = delete;

private:
    locale_t before_;
};

// 1234567 as 1,234,567.
std::string grouped(std::int64_t number);

// Bytes in decimal units, such as 19.0 GB.
std::string size_in_words(double bytes);

// `text` with every `from` replaced.
std::u32string replaced(std::u32string text, std::u32string_view from, std::u32string_view to);

// " ".join(text.splitlines()) of Python.
std::string joined_lines(std::string_view text);

// All white space as one blank, none at the ends.
std::string on_one_line(std::string_view text);

}  // namespace glm
