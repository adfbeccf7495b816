// For the tests: a line of JSON in, a line of JSON out.
//
//   tokenize DIRECTORY   {"text": …, "plain": false, "stream": true} → {"ids": […], "text": …, "pieces": […]}   of a text
//                        {"ids": […]} → {"text": …, "pieces": […]}                                of ids
//                        {"lines": …} → {"joined": …, "stripped": …}                              of white space
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/stream.h"
#include "tokenizer/tokenizer.h"

int main(int count, char** words) {
    using nlohmann::json;
    try {
        if (count != 2) glm::fail_usage("tokenize DIRECTORY");
        const glm::Tokenizer tokenizer{glm::fs::path(words[1])};
        for (std::string line; std::getline(std::cin, line);) {
            const json asked = json::parse(line);
            json said;
            if (asked.contains("lines")) {
                const std::string text = asked["lines"].get<std::string>();
                std::cout << json{{"joined", glm::joined_lines(text)}, {"stripped", glm::strip_utf8(text)}} << '\n';
                continue;
            }
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
            std::cout << said.dump() << '\n';
        }
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
