// generation_config.json: how a model's authors want it to generate (glm/generation/config_json.py).
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "generation/config.h"

namespace glm {

class GenerationFile {
public:
    GenerationFile() = default;

    // Throws Error for a damaged file, and for end tokens or a length that are none.
    static GenerationFile read(const fs::path& directory);
    static GenerationFile parse(const std::string& content, const fs::path& path);

    // Throws Error for a value of another type, or out of its range, that is not left over from sampling.
    ChosenOptions options() const;
    std::optional<std::int64_t> max_new_tokens() const;
    std::vector<std::int64_t> eos_token_ids() const;
    std::vector<std::string> stop_strings() const;

    // Throws Error for an option that would make other texts of the decoding that was chosen.
    void refuse_unsupported(const GenerationConfig& config) const;

    // Lines that name what is known to nobody here, and what is known and not obeyed.
    std::vector<std::string> warnings() const;

private:
    void check() const;

    nlohmann::json raw_ = nlohmann::json::object();
    std::string place_ = "generation_config.json";
};

}  // namespace glm
