#include "chat/role_chat.h"

#include "base/error.h"
#include "base/text.h"

namespace glm {

namespace {

constexpr std::string_view kThink = "<think>", kThinkEnd = "</think>";

bool ends_with(std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// What is said beside thoughts, without those that it repeats at its beginning (glm/encoding/messages.py).
std::string without_repeated(const Message& message, std::size_t number) {
    const std::string text = strip_left_utf8(message.content);
    const std::size_t end = text.compare(0, kThink.size(), kThink) == 0 ? text.find(kThinkEnd) : std::string::npos;
    if (end == std::string::npos) return message.content;
    const std::string thoughts = strip_utf8(text.substr(kThink.size(), end - kThink.size()));
    if (!thoughts.empty() && thoughts != strip_utf8(message.thoughts))
        fail("message ", number,
             ": thoughts are in a field of their own and, other ones, in <think> of the content: keep one");
    return strip_left_utf8(text.substr(end + kThinkEnd.size()));
}

std::string behind_thoughts(const std::string& text) {
    const std::size_t end = text.rfind(kThinkEnd);
    return end == std::string::npos ? text : text.substr(end + kThinkEnd.size());
}

}  // namespace

RoleChat::RoleChat(const TokenizerFile& file, const Splitter& splitter, std::optional<bool> thinking)
    : file_(file), splitter_(splitter), mode_("chat ") {
    if (!thinking) return;
    const std::string* found = find("variables");
    const std::string variables = found ? *found : "none";
    if ((", " + variables + ",").find(", enable_thinking,") == std::string::npos)
        fail_usage("this model's chat template reads no variable 'enable_thinking'; it reads ", variables);
    mode_ += *thinking ? "on " : "off ";
}

std::string RoleChat::text(const Messages& messages) const {
    std::string text, before;
    for (std::size_t i = 0; i < messages.size(); ++i) {
        const std::string& role = messages[i].role;
        const std::string content = said(messages[i], i + 1);
        const bool nothing = content.empty() && role == "assistant" && find("user>nothing");
        if (messages[i].content.empty() && !nothing) {
            const std::string* empty = find("empty");
            if (messages.size() == 1 && empty) return *empty;
            throw Error("a message of the conversation is empty: say something in it");
        }
        text += joint(before, nothing ? "nothing" : role) + splitter_.mark(content);
        before = role;
    }
    return text + joint(before, "");
}

bool RoleChat::opens_thoughts() const {
    const std::string* opening = find("user>");
    return opening && ends_with(strip_right_utf8(*opening), kThink);
}

const std::string* RoleChat::find(const std::string& name) const {
    const auto found = file_.names.find(mode_ + name);
    return found == file_.names.end() ? nullptr : &found->second;
}

const std::string& RoleChat::joint(const std::string& before, const std::string& after) const {
    const std::string* found = find(before + ">" + after);
    if (found == nullptr)
        throw Error("this model's chat template does more than to join messages: use infer_generation.py, or "
                    "--plain for the text as it is");
    return *found;
}

std::string RoleChat::said(const Message& message, std::size_t number) const {
    if (message.role == "user") {
        const std::string* end = find("question end");
        return end && !ends_with(message.content, *end) ? message.content + *end : message.content;
    }
    if (message.role != "assistant") return message.content;
    const std::string content = message.thoughts.empty() ? message.content : without_repeated(message, number);
    if (!find("strips")) return content;
    return strip_utf8(message.thoughts.empty() ? behind_thoughts(content) : content);
}

}  // namespace glm
