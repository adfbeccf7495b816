// For the tests: a line of JSON in, a line of JSON out.
//
//   tokenize DIRECTORY
//
//   {"text": …, "plain": false, "stream": true} → {"ids": […], "text": …, "pieces": […]}      of a text
//   {"ids": […]} → {"text": …, "pieces": […]}                                                 of ids
//   {"lines": …} → {"joined": …, "stripped": …}                                               of white space
//   {"messages": […], "thinking": null} → {"ids": […], "opens": …}, or {"error": …}           of a conversation
//   {"answer": […], "thinks": …, "stop": […]} → {"answer": [[thought?, text], …]}             of an answer's ids
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "chat/cleaning.h"
#include "chat/role_chat.h"
#include "chat/thoughts.h"
#include "tokenizer/stream.h"
#include "tokenizer/tokenizer.h"

namespace {

using nlohmann::json;

json lines(const std::string& text) {
    return {{"joined", glm::joined_lines(text)}, {"stripped", glm::strip_utf8(text)}};
}

json text_or_ids(const glm::Tokenizer& tokenizer, const json& asked) {
    json said;
    std::vector<glm::Id> ids;
    if (asked.contains("text")) {
        ids = tokenizer.text_ids(asked["text"].get<std::string>(), asked.value("plain", false));
        said["ids"] = ids;
    } else {
        ids = asked["ids"].get<std::vector<glm::Id>>();
    }
    said["text"] = tokenizer.text_of(ids);
    if (asked.value("stream", true)) {
        glm::StreamDecoder stream(tokenizer);
        for (const glm::Id id : ids) said["pieces"].push_back(glm::encode_utf8(stream.put(id)));
        said["pieces"].push_back(glm::encode_utf8(stream.end()));
    }
    return said;
}

json conversation(const glm::Tokenizer& tokenizer, const json& asked) {
    glm::Messages messages;
    for (const json& each : asked["messages"])
        messages.push_back({each["role"], each["content"], each.value("reasoning_content", "")});
    std::optional<bool> thinking;
    if (!asked["thinking"].is_null()) thinking = asked["thinking"].get<bool>();
    const glm::RoleChat chat(tokenizer.file(), tokenizer.splitter(), thinking);
    return {{"ids", tokenizer.text_ids(chat.text(messages))}, {"opens", chat.opens_thoughts()}};
}

json answer(const glm::Tokenizer& tokenizer, const json& asked) {
    glm::GrowingAnswer text(glm::StopStrings(tokenizer, asked["stop"].get<std::vector<std::string>>()),
                            glm::ThoughtReader(glm::role_cleaning(), asked["thinks"]),
                            tokenizer.added_id("<|assistant|>"));
    json found = json::array();
    const auto keep = [&](const glm::AnswerPieces& pieces) {
        for (const glm::AnswerPiece& piece : pieces) found.push_back({piece.is_thought, piece.text});
    };
    for (const glm::Id id : asked["answer"].get<std::vector<glm::Id>>()) {
        keep(text.put(id));
        if (text.found()) break;
    }
    keep(text.end());
    return {{"answer", found}};
}

json answered(const glm::Tokenizer& tokenizer, const json& asked) {
    if (asked.contains("lines")) return lines(asked["lines"]);
    if (asked.contains("messages")) return conversation(tokenizer, asked);
    return asked.contains("answer") ? answer(tokenizer, asked) : text_or_ids(tokenizer, asked);
}

}  // namespace

int main(int count, char** words) {
    try {
        if (count != 2) glm::fail_usage("tokenize DIRECTORY");
        const glm::Tokenizer tokenizer{glm::fs::path(words[1])};
        for (std::string line; std::getline(std::cin, line);) {
            const json asked = json::parse(line);
            json said;
            try {
                said = answered(tokenizer, asked);
            } catch (const glm::Error& error) {
                if (!asked.contains("messages")) throw;
                said["error"] = error.what();
            }
            std::cout << said.dump() << '\n';
        }
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
