// Plain conversations as text: a system message or none, then questions and answers in turn
// (glm/encoding/chat_formats.py, chat_roles.py, plain_chat.py).
#pragma once

#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace glm {

struct Message {
    std::string role;  // system, user or assistant
    std::string content;
};
using Messages = std::vector<Message>;

// What ChatGLM-6B reads: a first question as it is, later ones with the rounds before them.
std::string round_prompt(const Messages& messages);

// What GLM-4 reads: the texts of its chat template between the messages, special tokens that a message spells marked.
// Throws Error where the template is no plain one.
std::string role_prompt(const Tokenizer& tokenizer, const Messages& messages);

// Without what comes before the second question, but for system messages; {} where there is no second one.
Messages without_oldest(const Messages& messages);

}  // namespace glm
