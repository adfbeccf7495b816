#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace glm {

namespace {

constexpr std::size_t kHead = 512;  // bytes that tell
constexpr std::size_t kChunk = 1 << 20;

class Descriptor {
public:
    explicit Descriptor(const fs::path& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    explicit operator bool() const { return fd_ >= 0; }

    // How many bytes were read, 0 at the end, -1 with errno.
    ssize_t read(void* data, std::size_t size) const {
        ssize_t count;
        do count = ::read(fd_, data, size);
        while (count < 0 && errno == EINTR);
        return count;
    }
    int number() const { return fd_; }

private:
    int fd_;
};

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

}  // namespace

MappedFile::MappedFile(const fs::path& path) {
    const Descriptor file(path);
    struct stat status {};
    if (!file || ::fstat(file.number(), &status) != 0)
        fail(path.string(), " cannot be read: ", std::strerror(errno), "; copy the file again");
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) return;
    void* place = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number(), 0);
    if (place == MAP_FAILED) fail(path.string(), " cannot be read: ", std::strerror(errno), "; copy the file again");
    data_ = static_cast<const char*>(place);
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<char*>(data_), size_);
}

std::string read_file(const fs::path& path, const std::string& advice) {
    const Descriptor file(path);
    std::string content;
    const std::unique_ptr<char[]> buffer(new char[kChunk]);
    ssize_t count = -1;
    while (file && (count = file.read(buffer.get(), kChunk)) > 0) content.append(buffer.get(), count);
    if (count < 0) fail(path.string(), " cannot be read: ", std::strerror(errno), "; ", advice);
    return content;
}

std::string stand_in(std::string_view head) {
    if (starts_with(head, "version https://git-lfs.github.com/spec/"))
        return "is a git-lfs pointer, not the file itself: run `git lfs pull` in its repository, or download the file";
    std::string lower;
    for (const char byte : head.substr(std::min(head.size(), head.find_first_not_of(" \t\r\n\f\v"))))
        lower += byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte + 32) : byte;
    if (starts_with(lower, "<!doctype html") || starts_with(lower, "<html"))
        return "is a web page that was saved in the file's place: download the file itself";
    for (const char* refusal :
         {"Entry not found", "Invalid username or password", "Access to model", "Repository not found"})
        if (starts_with(head, refusal))
            return text_of_all("holds a server's refusal (", head.substr(0, std::min<std::size_t>(60, head.find('.'))),
                               "): download it again");
    return "";
}

void require_real(const fs::path& path) {
    const Descriptor file(path);
    char head[kHead];
    const ssize_t count = file ? file.read(head, kHead) : -1;
    if (count < 0) return;  // its reader will say so
    if (const std::string what = stand_in({head, static_cast<std::size_t>(count)}); !what.empty())
        fail(path.string(), " ", what);
    if (count == 0) fail(path.string(), " is empty: copy or download it again");
}

std::string file_digest(const fs::path& path, const std::atomic<bool>& stop) {
    const Descriptor file(path);
    if (!file) fail(path.string(), " is gone since it was opened: copy the whole export, or export again");
    const std::unique_ptr<char[]> buffer(new char[kChunk]);
    std::uint32_t checksum = 0;
    ssize_t count = 0;
    while (!stop && (count = file.read(buffer.get(), kChunk)) > 0) checksum = crc32(checksum, buffer.get(), count);
    if (count < 0) fail(path.string(), " cannot be read: ", std::strerror(errno), "; copy the file again");
    char digits[9];
    std::snprintf(digits, sizeof digits, "%08x", checksum);
    return digits;
}

}  // namespace glm
