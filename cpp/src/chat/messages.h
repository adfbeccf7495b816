// Plain conversations: a system message or none, then questions and answers in turn.
#pragma once

#include <string>
#include <vector>

namespace glm {

struct Message {
    std::string role;  // system, user or assistant
    std::string content;
    std::string thoughts;  // of an assistant's message, told apart from its content
};
using Messages = std::vector<Message>;

// How ChatGLM-6B and ChatGLM2 read a conversation (glm/encoding/chat_rounds.py).
struct Rounds {
    std::size_t first = 0;    // number of the first round
    std::string gap = "\n";   // between the parts of a round, and between rounds
    bool bare = true;         // whether a first question stands alone

    std::string text(const Messages& messages) const;
};

// Without what comes before the second question, but for system messages; {} where there is no second one.
Messages without_oldest(const Messages& messages);

}  // namespace glm
