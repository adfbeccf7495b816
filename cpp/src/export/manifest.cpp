#include "export/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "export/json_file.h"

namespace glm {

namespace {

using nlohmann::json;

constexpr const char* kAgain = "export the model again";
constexpr int kReadable[] = {3, 4, 5};
constexpr const char* kVersions = "3, 4 and 5";
constexpr std::int64_t kSmallFile = 16 << 20;  // bytes; read in milliseconds
const std::map<std::string, std::vector<std::string>> kRequired = {{"paddle", {".json", ".pdiparams"}},
                                                                   {"onnx", {".onnx", ".onnx.data"}}};
// What would be loaded with an export, wherever it comes from.
constexpr const char* kSideFiles[] = {"config.json",       "generation_config.json", "tokenizer_config.json",
                                      "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                                      "vocab.json",        "merges.txt",             "cog-pretrain.model",
                                      "ice_text.model",    "tokenizer.model",        "tokenizer.json"};

std::string suffix_of(const std::string& format) { return "." + format + ".manifest.json"; }

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

[[noreturn]] void no_export(const fs::path& directory, const std::string& name, const fs::path& path) {
    if (const fs::path old = directory / (name + ".info.json"); fs::is_regular_file(old))
        fail(old.string(), " has format version 1 or 2, this code reads ", kVersions, ": export again");
    std::vector<std::string> there;
    for (const auto& entry : fs::directory_iterator(directory))
        for (const auto& [format, files] : kRequired)
            if (const std::string file = entry.path().filename(); ends_with(file, suffix_of(format)))
                there.push_back(file.substr(0, file.size() - suffix_of(format).size()) + " (" + format + ")");
    std::sort(there.begin(), there.end());
    std::string list;
    for (const std::string& each : there) list += (list.empty() ? "" : ", ") + each;
    const std::string file = path.filename();
    fail(directory.string(), " holds no whole export ", file.substr(0, file.size() - 14), ": ", file,
         " is missing; exported models there (--model_prefix): ", list.empty() ? "none" : list);
}

void require_size(const fs::path& manifest, const std::string& name, std::int64_t expected) {
    const fs::path path = manifest.parent_path() / name;
    const std::string file = manifest.filename();
    if (!fs::is_regular_file(path))
        fail(path.string(), " is missing, which ", file, " names: copy the whole export, or export again");
    const auto size = static_cast<std::int64_t>(fs::file_size(path));
    if (size == expected) return;
    require_real(path);
    fail(path.string(), " has ", grouped(size), " bytes, ", file, " says ", grouped(expected),
         ": copy the whole export, or export again");
}

std::int64_t whole(const json& raw, const char* name) {
    const json& value = raw.at(name);
    if (!value.is_number_integer()) fail(name, " is ", value.dump());
    return value.get<std::int64_t>();
}

// false where a manifest of before has none.
bool truth(const json& raw, const char* name) {
    const json value = raw.value(name, json(false));
    if (!value.is_boolean()) fail(name, " is ", value.dump());
    return value.get<bool>();
}

Manifest::File described(const std::string& name, const json& expected) {
    const bool plain = !name.empty() && name != "." && name != ".." && fs::path(name).filename() == name;
    const Manifest::File file{whole(expected, "size"), expected.at("crc32").get<std::string>()};
    if (!plain || file.size < 0 || file.crc32.size() != 8) fail("what it says of '", name, "'");
    return file;
}

}  // namespace

std::vector<std::string> exported_formats(const fs::path& directory, const std::string& name) {
    std::vector<std::string> found;
    for (const char* format : {"paddle", "onnx"})
        if (fs::is_regular_file(directory / (name + suffix_of(format)))) found.emplace_back(format);
    return found;
}

Manifest parse_manifest(const std::string& content, const fs::path& path) {
    const json raw = parse_object(content, path, kAgain);
    Manifest manifest;
    manifest.path = path;
    try {
        const json& version = raw.at("format_version");
        if (!version.is_number_integer() || std::find(std::begin(kReadable), std::end(kReadable),
                                                      version.get<std::int64_t>()) == std::end(kReadable))
            throw UsageError(version.dump());
        manifest.format_version = version.get<std::int64_t>();
        manifest.format = raw.at("format").get<std::string>();
        manifest.dtype = raw.at("dtype").get<std::string>();
        manifest.weights = raw.at("weights").get<std::string>();
        raw.at("block_size");
        manifest.quantized = manifest.weights == "int8" || manifest.weights == "int4";
        manifest.standard = !raw.value("opset", json()).is_null();
        manifest.gives_columns = truth(raw, "gives_columns");
        manifest.vocab_size = whole(raw, "vocab_size");
        manifest.max_position = whole(raw, "max_position");
        whole(raw, "parameters");
        if (manifest.vocab_size < 1 || manifest.vocab_size > (1 << 24) || manifest.max_position < 0 ||
            manifest.max_position > (1 << 30))
            throw Error("its numbers are out of range");
        for (const auto& [name, expected] : raw.at("files").items()) manifest.files[name] = described(name, expected);
    } catch (const UsageError& version) {
        fail(path.string(), " has format version ", version.what(), ", this code reads ", kVersions, ": export again");
    } catch (const std::exception& error) {
        fail(path.string(), " is damaged (", on_one_line(error.what()), "): ", kAgain);
    }
    return manifest;
}

Manifest read_manifest(const fs::path& directory, const std::string& name, const std::string& format) {
    if (!fs::is_directory(directory))
        fail(directory.string(), " is not a directory; give the one that export_generation_model.py wrote");
    const fs::path path = directory / (name + suffix_of(format));
    if (!fs::is_regular_file(path)) no_export(directory, name, path);
    require_real(path);
    Manifest manifest = parse_manifest(read_file(path, kAgain), path);
    for (const std::string& suffix : kRequired.at(format))
        if (!manifest.names(name + suffix))
            fail(path.string(), " is damaged (it does not name ", name, suffix, "): ", kAgain);
    if (manifest.format != format)
        fail(path.string(), " is damaged (it is of format '", manifest.format, "', not '", format, "'): ", kAgain);
    for (const auto& [file, expected] : manifest.files) require_size(path, file, expected.size);
    for (const char* file : kSideFiles)
        if (!manifest.names(file) && fs::exists(directory / file))
            fail((directory / file).string(), " is not listed in ", path.filename().string(),
                 ", but would be loaded with the export: remove it, or export again");
    return manifest;
}

Check::Check(fs::path directory, const Manifest& manifest) : directory_(std::move(directory)) {
    std::vector<std::pair<std::string, std::string>> large;
    for (const auto& [name, file] : manifest.files) {
        if (file.size <= kSmallFile)
            compare(name, file.crc32);
        else
            large.emplace_back(name, file.crc32);
    }
    thread_ = std::thread([this, large] {
        try {
            for (const auto& [name, expected] : large) compare(name, expected);
        } catch (...) {
            error_ = std::current_exception();
        }
    });
}

Check::~Check() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
}

void Check::result() {
    if (thread_.joinable()) thread_.join();
    if (error_) std::rethrow_exception(error_);
}

void Check::compare(const std::string& name, const std::string& expected) const {
    const fs::path path = directory_ / name;
    const std::string found = file_digest(path, stop_);
    if (found != expected && !stop_)
        fail(path.string(), " has the checksum ", found, ", its manifest says ", expected,
             ": copy the whole export, or export again");
}

}  // namespace glm
