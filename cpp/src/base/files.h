// Files: whole ones in memory or mapped, and their checksums.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace glm {

namespace fs = std::filesystem;

// A file's bytes, mapped read-only.
class MappedFile {
public:
    explicit MappedFile(const fs::path& path);  // throws Error
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::string_view bytes() const { return {data_, size_}; }

private:
    const char* data_ = nullptr;
    std::size_t size_ = 0;
};

// All bytes of a file. Throws Error, with `advice` behind the reason.
std::string read_file(const fs::path& path, const std::string& advice);

// What a file with these first bytes is, and what to do, where it only stands in the place of another; else "".
std::string stand_in(std::string_view head);

// Throws Error where a file only stands in the place of another, or is empty.
void require_real(const fs::path& path);

// CRC-32 of a whole file in 8 hexadecimal digits; stops early, with what it has, once `stop` is set.
std::string file_digest(const fs::path& path, const std::atomic<bool>& stop);

// CRC-32 (IEEE 802.3, as zlib's) of bytes that follow others of which it is `checksum`; 0 for none.
std::uint32_t crc32(std::uint32_t checksum, const void* data, std::size_t size);

}  // namespace glm
