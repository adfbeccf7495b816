// What runs exported graphs, and which of them is to (glm/runtime/backends.py).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "export/manifest.h"
#include "runtime/step.h"

namespace glm {

// A backend, and why it is the one.
struct Choice {
    std::string name, reason;
    std::string format;  // of the exports that it runs
};

// The backend that was asked for, or the fastest one that the export allows. Throws Error.
Choice choose(const std::optional<std::string>& wanted, const std::vector<std::string>& formats);

// Loads the decoder step graph of an export. Throws Error.
std::unique_ptr<StepRuntime> open_step(const Choice& choice, const Manifest& manifest, const fs::path& directory,
                                       const std::string& prefix, int cpu_threads);

}  // namespace glm
