// Reads numbers and texts of a flat file, and never past its end.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace glm {

class ByteReader {
public:
    explicit ByteReader(std::string_view bytes) : rest_(bytes) {}

    bool done() const { return rest_.empty(); }

    std::string_view take(std::size_t size) {
        if (size > rest_.size()) throw Error("it ends too early");
        const std::string_view taken = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return taken;
    }

    std::uint32_t number() {
        std::uint32_t value;
        std::memcpy(&value, take(4).data(), 4);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        value = __builtin_bswap32(value);
#endif
        return value;
    }

    // `count` numbers; no memory is taken for more than the file has.
    std::vector<std::uint32_t> numbers(std::size_t count) {
        if (count > rest_.size() / 4) throw Error("it ends too early");
        std::vector<std::uint32_t> values(count);
        for (std::uint32_t& value : values) value = number();
        return values;
    }

    // A length, and that many bytes.
    std::string_view sized() { return take(number()); }

private:
    std::string_view rest_;
};

}  // namespace glm
