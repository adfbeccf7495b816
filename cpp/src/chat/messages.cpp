#include "chat/messages.h"

namespace glm {

std::string Rounds::text(const Messages& messages) const {
    if (bare && messages.size() == 1) return messages[0].content;
    std::string text;
    for (std::size_t i = 0; i < messages.size(); i += 2) {
        text += "[Round " + std::to_string(first + i / 2) + "]" + gap + "问：" + messages[i].content + gap + "答：";
        if (i + 1 < messages.size()) text += messages[i + 1].content + gap;
    }
    return text;
}

Messages without_oldest(const Messages& messages) {
    std::size_t second = 0, questions = 0;
    for (; second < messages.size(); ++second)
        if (messages[second].role == "user" && ++questions == 2) break;
    Messages kept;
    if (questions < 2) return kept;
    for (std::size_t i = 0; i < messages.size(); ++i)
        if (i >= second || messages[i].role == "system") kept.push_back(messages[i]);
    return kept;
}

}  // namespace glm
