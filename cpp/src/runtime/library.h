// Shared libraries of runtimes, which are loaded when they are first needed, so that what is missing is one line.
#pragma once

#include <string>

#include "base/error.h"
#include "runtime/graph_module.h"

namespace glm {

class Library {
public:
    // It stays loaded for the process's life. Throws Error with `name`, the reason and `advice` where it cannot be.
    // `alone`: its own symbols win over those of the same name here, such as another protobuf's (sentencepiece's).
    Library(const std::string& name, const std::string& path, const std::string& advice, bool alone = false);

    const std::string& path() const { return path_; }

    template <typename Function>
    Function function(const char* symbol) const {
        return reinterpret_cast<Function>(find(symbol));
    }

private:
    void* find(const char* symbol) const;

    std::string name_, path_;
    void* handle_ = nullptr;
};

// ONNX Runtime's: the one that GLM_ONNXRUNTIME names, else the one that was there when this was built, else the
// system's.
const Library& onnxruntime_library();

// The module of a runtime, libglm_<runtime>.so beside this program or library. Throws Error where it was not built, or
// its runtime's library is gone.
const glm_graph_table& graph_module(const std::string& runtime);

}  // namespace glm
