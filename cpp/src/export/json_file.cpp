#include "export/json_file.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"

namespace glm {

using nlohmann::json;

namespace {

constexpr std::size_t kDeepest = 100;  // objects inside one another; files of exports have five

// The reader calls itself for what is nested, so the nesting is bounded before.
bool is_too_deep(const std::string& content) {
    std::size_t depth = 0;
    bool in_text = false;
    for (std::size_t i = 0; i < content.size(); ++i) {
        const char byte = content[i];
        if (in_text) {
            if (byte == '\\') ++i;
            in_text = byte != '"';
        } else if (byte == '"') {
            in_text = true;
        } else if (byte == '{' || byte == '[') {
            if (++depth > kDeepest) return true;
        } else if ((byte == '}' || byte == ']') && depth > 0) {
            --depth;
        }
    }
    return false;
}

const char* type_name(const json& value) {
    if (value.is_array()) return "list";
    if (value.is_string()) return "str";
    if (value.is_boolean()) return "bool";
    if (value.is_null()) return "NoneType";
    return value.is_number_float() ? "float" : "int";
}

}  // namespace

json parse_object(const std::string& content, const fs::path& path, const std::string& advice) {
    if (!is_utf8(content)) fail(path.string(), ": not UTF-8; save the file as UTF-8.");
    const std::string text = content.rfind("\xEF\xBB\xBF", 0) == 0 ? content.substr(3) : content;
    json value;
    try {
        if (is_too_deep(text)) throw Error("nested too deeply");
        value = json::parse(text);
    } catch (const std::exception& error) {
        fail(path.string(), " is not valid JSON (", on_one_line(error.what()), "): ", advice);
    }
    if (!value.is_object()) fail(path.string(), " holds a JSON ", type_name(value), ", not an object: ", advice);
    return value;
}

std::string python_repr(const json& value) {
    if (value.is_null()) return "None";
    if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
    if (value.is_string()) {
        const std::string text = value.get<std::string>();
        return text.find('\'') == std::string::npos ? "'" + text + "'" : "\"" + text + "\"";
    }
    if (!value.is_array() && !value.is_object()) return value.dump();
    std::string out;
    for (const auto& [key, item] : value.items()) {
        if (!out.empty()) out += ", ";
        if (value.is_object()) out += python_repr(key) + ": ";
        out += python_repr(item);
    }
    return value.is_array() ? "[" + out + "]" : "{" + out + "}";
}

}  // namespace glm
