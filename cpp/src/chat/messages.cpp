#include "chat/messages.h"

#include "base/error.h"

namespace glm {

std::string round_prompt(const Messages& messages) {
    if (messages.size() == 1) return messages[0].content;
    std::string text;
    for (std::size_t i = 0; i < messages.size(); i += 2) {
        text += "[Round " + std::to_string(i / 2) + "]\n问：" + messages[i].content + "\n答：";
        if (i + 1 < messages.size()) text += messages[i + 1].content + "\n";
    }
    return text;
}

std::string role_prompt(const Tokenizer& tokenizer, const Messages& messages) {
    const auto& names = tokenizer.file().names;
    const auto joint = [&](const std::string& before, const std::string& after) -> const std::string& {
        const auto found = names.find("chat " + before + ">" + after);
        if (found == names.end())
            throw Error("this model's chat template does more than to join messages: use infer_generation.py, or "
                        "--plain for the text as it is");
        return found->second;
    };
    std::string text, before;
    for (const Message& message : messages) {
        if (message.content.empty()) {
            const auto empty = names.find("chat empty");
            if (messages.size() == 1 && empty != names.end()) return empty->second;
            throw Error("a message of the conversation is empty: say something in it");
        }
        text += joint(before, message.role) + tokenizer.splitter().mark(message.content);
        before = message.role;
    }
    return text + joint(before, "");
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
