#include "cli/texts.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/text.h"

namespace cli {

namespace {

namespace fs = std::filesystem;

constexpr const char* kByteOrderMark = "\xEF\xBB\xBF";
constexpr const char* kExamples[] = {"答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。",
                                     "答案：9层，上下文：祥信塔很有名，高72米，共有9层。"};
// What is read as rows of data by infer_generation.py.
constexpr const char* kDataNames[] = {".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".bz2", ".xz", ".zip"};

// Whether a text is JSON objects and nothing else, in a list or one behind the other.
bool holds_rows(const std::string& content) {
    using nlohmann::json;
    const auto is_row = [](const json& value) { return value.is_object(); };
    std::istringstream values(content);
    bool any = false;
    try {
        while (values >> std::ws && values.peek() != std::istringstream::traits_type::eof()) {
            if (values.peek() != '{' && values.peek() != '[') return false;
            json value;
            values >> value;
            if (!is_row(value) && !(value.is_array() && std::all_of(value.begin(), value.end(), is_row))) return false;
            any = true;
        }
    } catch (const json::exception&) {
        return false;
    }
    return any;
}

std::vector<std::string> lines_of(std::string content, const std::string& where) {
    for (std::size_t place; (place = content.find(kByteOrderMark)) != std::string::npos;) content.erase(place, 3);
    if (holds_rows(content))
        throw Exit(GLM_USAGE, where + " holds rows of JSON, which infer_generation.py reads: give one text per line");
    std::vector<std::string> texts;
    std::size_t blank = 0;
    std::istringstream lines(content);
    for (std::string line; std::getline(lines, line);) {
        line = glm::strip_utf8(line);
        if (line.empty())
            ++blank;
        else
            texts.push_back(line);
    }
    if (texts.empty()) throw Exit(GLM_USAGE, where + " holds no text");
    if (blank > 0) std::cerr << where << ": " << blank << " blank line(s) left out\n";
    return texts;
}

std::string read_all(std::istream& in) {
    return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

std::vector<std::string> file_lines(const std::string& path) {
    for (const char* end : kDataNames)
        if (fs::path(path).extension() == end)
            throw Exit(GLM_USAGE, path + " is called as a file of rows is, which infer_generation.py reads: give a file "
                                         "with one text per line");
    std::ifstream file(path, std::ios::binary);
    if (!file || fs::is_directory(path))
        throw Exit(GLM_USAGE, path + " cannot be read: " + std::strerror(fs::is_directory(path) ? EISDIR : errno));
    return lines_of(read_all(file), path);
}

}  // namespace

std::vector<std::string> read_texts(const Arguments& arguments) {
    if (arguments.output_file) check_output(*arguments.output_file);
    if (!arguments.texts.empty() && arguments.input_file)
        throw Exit(GLM_USAGE, "texts come from TEXT and from --input_file: choose one");
    if (arguments.input_file) return file_lines(*arguments.input_file);
    if (arguments.texts.size() == 1 && arguments.texts[0] == "-") return lines_of(read_all(std::cin), "standard input");
    if (!arguments.texts.empty()) return arguments.texts;
    if (arguments.ids) throw Exit(GLM_USAGE, "--ids needs prompts: give token ids, such as \"5 6 7\"");
    std::cerr << "no text given: generating for two examples\n";
    return {std::begin(kExamples), std::end(kExamples)};
}

void check_output(const std::string& path) {
    const fs::path parent = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : fs::path(".");
    std::error_code ignored;
    if (fs::is_directory(path, ignored))
        throw Exit(GLM_USAGE, "output_file " + path + " is a directory: give a file's name in it");
    if (!fs::is_directory(parent, ignored))
        throw Exit(GLM_USAGE, "output_file " + path + ": " + parent.string() + " is not a directory");
    const bool device = fs::exists(path, ignored) && !fs::is_regular_file(path, ignored);
    const fs::path place = device ? fs::path(path) : parent;
    if (::access(place.c_str(), W_OK) != 0)
        throw Exit(GLM_USAGE, "output_file " + path + ": " + place.string() +
                                  " cannot be written; choose another directory");
}

void write_texts(const std::string& path, const std::vector<std::string>& texts) {
    std::error_code failed;
    const bool device = fs::exists(path, failed) && !fs::is_regular_file(path, failed);
    const fs::path target = device ? fs::path(path) : fs::weakly_canonical(path, failed);
    const fs::path written = device ? target : fs::path(target.string() + ".tmp-" + std::to_string(::getpid()));
    std::ofstream file(written, std::ios::binary);
    for (const std::string& text : texts) file << glm::joined_lines(text) << '\n';
    file.close();
    if (file && !device) fs::rename(written, target, failed);
    if (!file || failed) {
        const std::string reason = failed ? failed.message() : std::strerror(errno);
        if (!device) fs::remove(written, failed);
        throw Exit(GLM_ERROR, "output_file " + path + " cannot be written: " + reason);
    }
}

std::vector<int32_t> parse_ids(const std::string& text) {
    std::istringstream words(text);
    std::vector<int32_t> ids;
    for (std::string word; words >> word;) {
        std::size_t end = 0;
        try {
            ids.push_back(std::stoi(word, &end));
        } catch (const std::exception&) {
            end = 0;
        }
        if (end != word.size()) throw Exit(GLM_USAGE, "'" + word + "' is no token id: with --ids a text is \"5 6 7\"");
    }
    return ids;
}

}  // namespace cli
