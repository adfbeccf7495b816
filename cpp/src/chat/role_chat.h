// What a chat template writes around plain conversations, where it does no more than that (glm/encoding/plain_chat.py).
#pragma once

#include <optional>
#include <string>

#include "chat/messages.h"
#include "tokenizer/splitter.h"

namespace glm {

class RoleChat {
public:
    // `thinking`: whether answers are to begin with thoughts; what the template does, if not given. Throws UsageError
    // where the template has no such choice.
    RoleChat(const TokenizerFile& file, const Splitter& splitter, std::optional<bool> thinking);

    // A conversation up to where the model answers it, special tokens that a message spells marked. Throws Error where
    // the template is no plain one.
    std::string text(const Messages& messages) const;

    // Whether the prompt opens the model's thoughts.
    bool opens_thoughts() const;

private:
    const std::string* find(const std::string& name) const;
    const std::string& joint(const std::string& before, const std::string& after) const;
    std::string said(const Message& message, std::size_t number) const;

    const TokenizerFile& file_;
    const Splitter& splitter_;
    std::string mode_;  // what of the file is meant
};

}  // namespace glm
