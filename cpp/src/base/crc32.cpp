// CRC-32 at the speed of memory where the processor multiplies without carry, else by tables.
//
// The polynomial is IEEE 802.3's, bits reflected. Folding: Gopal et al., "Fast CRC Computation for Generic Polynomials
// Using PCLMULQDQ Instruction" (Intel, 2009); constants are powers of x modulo the polynomial.
#include <array>
#include <cstring>

#include "base/files.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace glm {

namespace {

constexpr std::uint32_t kPolynomial = 0xEDB88320;

// Row k: what a byte that stands k bytes before the end adds.
constexpr std::array<std::array<std::uint32_t, 256>, 8> make_tables() {
    std::array<std::array<std::uint32_t, 256>, 8> tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t rest = byte;
        for (int bit = 0; bit < 8; ++bit) rest = (rest >> 1) ^ (rest & 1 ? kPolynomial : 0);
        tables[0][byte] = rest;
    }
    for (std::size_t row = 1; row < 8; ++row)
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t before = tables[row - 1][byte];
            tables[row][byte] = (before >> 8) ^ tables[0][before & 0xFF];
        }
    return tables;
}

constexpr auto kTables = make_tables();

std::uint32_t by_tables(std::uint32_t rest, const unsigned char* data, std::size_t size) {
    for (; size >= 8; data += 8, size -= 8) {
        std::uint32_t low, high;
        std::memcpy(&low, data, 4);
        std::memcpy(&high, data + 4, 4);
        low ^= rest;
        rest = kTables[7][low & 0xFF] ^ kTables[6][(low >> 8) & 0xFF] ^ kTables[5][(low >> 16) & 0xFF] ^
               kTables[4][low >> 24] ^ kTables[3][high & 0xFF] ^ kTables[2][(high >> 8) & 0xFF] ^
               kTables[1][(high >> 16) & 0xFF] ^ kTables[0][high >> 24];
    }
    for (; size > 0; ++data, --size) rest = (rest >> 8) ^ kTables[0][(rest ^ *data) & 0xFF];
    return rest;
}

#if defined(__x86_64__)
__attribute__((target("pclmul,sse4.1"))) __m128i folded(__m128i rest, __m128i next, __m128i powers) {
    const __m128i low = _mm_clmulepi64_si128(rest, powers, 0x00);
    const __m128i high = _mm_clmulepi64_si128(rest, powers, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// At least 64 bytes, in steps of 16.
__attribute__((target("pclmul,sse4.1"))) std::uint32_t by_folding(std::uint32_t rest, const unsigned char* data,
                                                                 std::size_t size) {
    const __m128i by_64 = _mm_set_epi64x(0x1C6E41596, 0x154442BD4), by_16 = _mm_set_epi64x(0x0CCAA009E, 0x1751997D0);
    const auto load = [&](std::size_t place) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data + place));
    };
    __m128i lanes[4] = {load(0), load(16), load(32), load(48)};
    lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128(static_cast<int>(rest)));
    std::size_t place = 64;
    for (; place + 64 <= size; place += 64)
        for (std::size_t lane = 0; lane < 4; ++lane) lanes[lane] = folded(lanes[lane], load(place + 16 * lane), by_64);
    __m128i sum = lanes[0];
    for (std::size_t lane = 1; lane < 4; ++lane) sum = folded(sum, lanes[lane], by_16);
    for (; place + 16 <= size; place += 16) sum = folded(sum, load(place), by_16);
    alignas(16) unsigned char left[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(left), sum);
    return by_tables(by_tables(0, left, 16), data + place, size - place);
}

bool can_fold() {
    static const bool can = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
    return can;
}
#endif

}  // namespace

std::uint32_t crc32(std::uint32_t checksum, const void* data, std::size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
#if defined(__x86_64__)
    if (size >= 64 && can_fold()) return ~by_folding(~checksum, bytes, size);
#endif
    return ~by_tables(~checksum, bytes, size);
}

}  // namespace glm
