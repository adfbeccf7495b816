// JSON objects of files, with errors of one line (glm/files/json_files.py).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/files.h"

namespace glm {

// The object in a JSON text. Throws Error for anything else; `path` and `advice` are for its message.
nlohmann::json parse_object(const std::string& content, const fs::path& path, const std::string& advice);

// A JSON value as Python writes it.
std::string python_repr(const nlohmann::json& value);

}  // namespace glm
