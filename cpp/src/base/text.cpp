#include "base/text.h"

#include <cstdio>

namespace glm {

namespace {

// What may follow a lead byte: how many more, and the bounds of the first of them (Unicode 15, table 3-7).
struct Lead {
    int more;
    unsigned char low, high;
};

Lead lead_of(unsigned char byte) {
    if (byte >= 0xC2 && byte <= 0xDF) return {1, 0x80, 0xBF};
    if (byte == 0xE0) return {2, 0xA0, 0xBF};
    if (byte == 0xED) return {2, 0x80, 0x9F};
    if (byte >= 0xE1 && byte <= 0xEF) return {2, 0x80, 0xBF};
    if (byte == 0xF0) return {3, 0x90, 0xBF};
    if (byte >= 0xF1 && byte <= 0xF3) return {3, 0x80, 0xBF};
    if (byte == 0xF4) return {3, 0x80, 0x8F};
    return {0, 0, 0};
}

struct Read {
    char32_t code;
    std::size_t size;
    bool good;
};

Read read_code(std::string_view bytes, std::size_t place) {
    const auto first = static_cast<unsigned char>(bytes[place]);
    if (first < 0x80) return {first, 1, true};
    const Lead lead = lead_of(first);
    char32_t code = first & (0x3F >> lead.more);
    std::size_t size = 1;
    for (int i = 0; i < lead.more; ++i, ++size) {
        if (place + size >= bytes.size()) return {kReplacement, size, false};
        const auto byte = static_cast<unsigned char>(bytes[place + size]);
        if (byte < (i ? 0x80 : lead.low) || byte > (i ? 0xBF : lead.high)) return {kReplacement, size, false};
        code = (code << 6) | (byte & 0x3F);
    }
    return {lead.more ? code : kReplacement, size, lead.more > 0};
}

}  // namespace

char32_t next_code(std::string_view bytes, std::size_t& place) {
    const Read read = read_code(bytes, place);
    place += read.size;
    return read.code;
}

std::u32string decode_utf8(std::string_view bytes) {
    std::u32string text;
    text.reserve(bytes.size());
    for (std::size_t place = 0; place < bytes.size();) text.push_back(next_code(bytes, place));
    return text;
}

bool is_utf8(std::string_view bytes) {
    for (std::size_t place = 0; place < bytes.size();) {
        const Read read = read_code(bytes, place);
        if (!read.good) return false;
        place += read.size;
    }
    return true;
}

void append_utf8(std::string& out, char32_t code) {
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xC0 | (code >> 6));
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        out += static_cast<char>(0xE0 | (code >> 12));
        out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
        out += static_cast<char>(0xF0 | (code >> 18));
        out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
        out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    }
}

std::string encode_utf8(std::u32string_view text) {
    std::string out;
    out.reserve(text.size() * 2);
    for (const char32_t code : text) append_utf8(out, code);
    return out;
}

bool is_space(char32_t code) {
    if (code < 0x80) return (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x20);
    return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

std::u32string_view strip_right(std::u32string_view text) {
    while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    return text;
}

std::u32string_view strip(std::u32string_view text) {
    text = strip_right(text);
    while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    return text;
}

std::string strip_left_utf8(std::string_view text) {
    std::size_t kept = 0;
    while (kept < text.size()) {
        std::size_t next = kept;
        if (!is_space(next_code(text, next))) break;
        kept = next;
    }
    return std::string(text.substr(kept));
}

std::string strip_right_utf8(std::string_view text) {
    std::size_t end = text.size();
    while (end > 0) {
        std::size_t start = end - 1;
        while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
        std::size_t place = start;
        if (!is_space(next_code(text, place)) || place != end) break;
        end = start;
    }
    return std::string(text.substr(0, end));
}

PlainNumbers::PlainNumbers() {
    static const locale_t plain = ::newlocale(LC_ALL_MASK, "C", locale_t{});
    before_ = ::uselocale(plain);
}

PlainNumbers::~PlainNumbers() { ::uselocale(before_); }

std::string grouped(std::int64_t number) {
    std::string digits = std::to_string(number);
    for (std::size_t place = digits.size(); place > 3 + (number < 0);) digits.insert(place -= 3, ",");
    return digits;
}

std::string size_in_words(double bytes) {
    const PlainNumbers plain;
    char text[64];
    if (bytes < 1000) {
        std::snprintf(text, sizeof text, "%.0f B", bytes);
        return text;
    }
    const char* unit = "GB";
    for (const char* smaller : {"kB", "MB"}) {
        bytes /= 1000;
        if (bytes < 1000) {
            unit = smaller;
            break;
        }
    }
    if (*unit == 'G') bytes /= 1000;
    std::snprintf(text, sizeof text, "%.1f %s", bytes, unit);
    return text;
}

std::u32string replaced(std::u32string text, std::u32string_view from, std::u32string_view to) {
    for (std::size_t place = 0; (place = text.find(from, place)) != std::u32string::npos; place += to.size())
        text.replace(place, from.size(), to);
    return text;
}

std::string joined_lines(std::string_view text) {
    constexpr std::u32string_view kEnds = U"\n\v\f\r\x1c\x1d\x1e\u2028\u2029";
    std::string line;
    for (std::size_t place = 0; place < text.size();) {
        const std::size_t start = place;
        const char32_t code = next_code(text, place);
        if (code != 0x85 && kEnds.find(code) == std::u32string_view::npos) {
            line += text.substr(start, place - start);
            continue;
        }
        if (code == '\r' && place < text.size() && text[place] == '\n') ++place;
        if (place < text.size()) line += ' ';  // what ends the last line is followed by none
    }
    return line;
}

std::string on_one_line(std::string_view text) {
    std::string line;
    bool blank = false;
    for (const char byte : text) {
        if (byte == ' ' || (byte >= '\t' && byte <= '\r')) {
            blank = !line.empty();
            continue;
        }
        if (blank) line += ' ';
        blank = false;
        line += byte;
    }
    return line;
}

}  // namespace glm
