// Options by the names of infer_generation.py's flags.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "chat/processor.h"
#include "generation/config.h"

namespace glm {

struct Options {
    // An export, and how it is to be run.
    std::optional<fs::path> model_path;
    std::string model_prefix = "glm";
    std::optional<std::string> backend;
    std::int64_t cpu_threads;
    std::optional<std::int64_t> kv_cache_size;
    ProcessorOptions processor;
    std::vector<std::string> stop;

    // How text is generated.
    ChosenOptions decoding;
    std::int64_t batch_size = 2;
    std::optional<std::string> system;

    Options();

    // Throws UsageError for an unknown name, or a value that is none.
    void set(const std::string& name, const std::string& value);

    // Throws UsageError for options that do not fit together.
    void check() const;

    const fs::path& path() const;  // throws UsageError where there is none
};

// 5GB → 5,000,000,000 and 5GiB → 5,368,709,120. Throws UsageError for what is no size.
std::int64_t size_in_bytes(const std::string& text);

}  // namespace glm
