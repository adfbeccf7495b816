// The manifest of an export, and whether its files are those that it names (glm/export/files.py).
#pragma once

#include <atomic>
#include <exception>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/files.h"

namespace glm {

struct Manifest {
    struct File {
        std::int64_t size;
        std::string crc32;
    };
    std::int64_t format_version = 0;
    std::string format, dtype, weights;
    bool quantized = false;
    bool standard = false;  // whether an ONNX graph is of standard operators alone (--opset 17)
    bool gives_columns = false;  // whether another one gives new keys and values back as well
    std::int64_t vocab_size = 0, max_position = 0;
    std::map<std::string, File> files;
    fs::path path;

    bool names(const std::string& file) const { return files.count(file) > 0; }
};

// The formats in which a directory has an export of this name.
std::vector<std::string> exported_formats(const fs::path& directory, const std::string& name);

// The manifest of an export; its files are there and have the sizes that it says. Throws Error.
Manifest read_manifest(const fs::path& directory, const std::string& name, const std::string& format);

// The content of a manifest, which is not compared with any file; `path` is for messages.
Manifest parse_manifest(const std::string& content, const fs::path& path);

// Files compared with a manifest's checksums: small ones at once, the weights on a thread of their own.
class Check {
public:
    // Throws Error where a small file differs from what was exported: what it holds is never parsed.
    Check(fs::path directory, const Manifest& manifest);
    ~Check();
    Check(const Check&) = delete;
    Check& operator=(const Check&) = delete;

    // Waits for the comparison; throws Error where a file differs.
    void result();

private:
    void compare(const std::string& name, const std::string& expected) const;

    fs::path directory_;
    std::atomic<bool> stop_{false};
    std::exception_ptr error_;
    std::thread thread_;
};

}  // namespace glm
