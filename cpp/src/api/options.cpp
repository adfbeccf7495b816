#include "api/options.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/text.h"

namespace glm {

namespace {

constexpr std::int64_t kMostThreads = 4096;
constexpr std::int64_t kLongest = std::int64_t{1} << 40;  // sums of such lengths do not overflow
const std::vector<std::string> kBackends = {"onnx_runtime", "paddle", "fastdeploy"};

[[noreturn]] void invalid(const std::string& name, const char* type, const std::string& value) {
    fail_usage("argument --", name, ": invalid ", type, " value: '", value, "' (see --help)");
}

std::int64_t whole(const std::string& name, const std::string& value) {
    const std::string text = strip_utf8(value);
    char* end = nullptr;
    errno = 0;
    const long long number = std::strtoll(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || errno != 0 || std::isspace(static_cast<unsigned char>(text[0])))
        invalid(name, "int", value);
    return number;
}

std::int64_t length(const std::string& name, const std::string& value) {
    const std::int64_t tokens = whole(name, value);
    if (tokens > kLongest || tokens < -kLongest)
        fail_usage(name, " is ", tokens, ", and no length is beyond ", grouped(kLongest), " tokens: choose another");
    return tokens;
}

double real(const std::string& name, const std::string& value) {
    const std::string text = strip_utf8(value);
    const PlainNumbers plain;
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || text.find_first_of("xX") != std::string::npos) invalid(name, "float", value);
    return number;
}

bool truth(const std::string& name, const std::string& value) {
    if (value != "true" && value != "false") fail_usage(name, " is '", value, "', and must be true or false");
    return value == "true";
}

// The value of a flag, by the flag's name. Options of `GenerationConfig` are not among them.
using Setter = std::function<void(Options&, const std::string&)>;
const std::map<std::string, Setter>& setters() {
    static const std::map<std::string, Setter> known = {
        {"model_path", [](Options& o, const std::string& v) { o.model_path = v; }},
        {"model_prefix", [](Options& o, const std::string& v) { o.model_prefix = v; }},
        {"backend",
         [](Options& o, const std::string& v) {
             if (std::find(kBackends.begin(), kBackends.end(), v) == kBackends.end())
                 fail_usage("argument --backend: invalid choice: '", v,
                            "' (choose from 'onnx_runtime', 'paddle', 'fastdeploy') (see --help)");
             o.backend = v;
         }},
        {"device",
         [](Options&, const std::string& v) {
             if (v != "cpu")
                 fail_usage("--device is '", v, "', and this program runs on the CPU: use infer_generation.py");
         }},
        {"cpu_threads", [](Options& o, const std::string& v) { o.cpu_threads = whole("cpu_threads", v); }},
        {"kv_cache_size", [](Options& o, const std::string& v) { o.kv_cache_size = size_in_bytes(v); }},
        {"src_length", [](Options& o, const std::string& v) { o.processor.src_length = length("src_length", v); }},
        {"tgt_length",
         [](Options& o, const std::string& v) {
             o.processor.tgt_length = length("tgt_length", v);
             o.decoding.whole["max_length"] = *o.processor.tgt_length;
         }},
        {"min_tgt_length",
         [](Options& o, const std::string& v) { o.decoding.whole["min_length"] = length("min_tgt_length", v); }},
        {"max_length", [](Options& o, const std::string& v) { o.processor.max_length = length("max_length", v); }},
        {"no_block_position",
         [](Options& o, const std::string& v) { o.processor.no_block_position = truth("no_block_position", v); }},
        {"plain", [](Options& o, const std::string& v) { o.processor.plain = truth("plain", v); }},
        {"enable_thinking",
         [](Options& o, const std::string& v) {
             if (v != "true" && v != "false")
                 fail_usage("argument --enable_thinking: '", v, "' is neither true nor false (see --help)");
             o.processor.thinking = v == "true";
         }},
        {"stop", [](Options& o, const std::string& v) { o.stop.push_back(v); }},
        {"batch_size",
         [](Options& o, const std::string& v) { o.batch_size = whole("batch_size/--predict_batch_size", v); }},
        {"system", [](Options& o, const std::string& v) { o.system = v; }}};
    return known;
}

std::int64_t usable_cores() {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    return ::sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

}  // namespace

Options::Options() : cpu_threads(usable_cores()) {}

void Options::set(const std::string& name, const std::string& value) {
    if (const auto setter = setters().find(name); setter != setters().end()) {
        setter->second(*this, value);
        return;
    }
    switch (kind_of_option(name)) {
        case Kind::kWhole:
            decoding.whole[name] = name == "min_length" ? length(name, value) : whole(name, value);
            return;
        case Kind::kNumber:
            decoding.numbers[name] = real(name, value);
            return;
        case Kind::kFlag:
            decoding.do_sample = truth(name, value);
            return;
        default:
            fail_usage("unknown option '", name, "' (see --help)");
    }
}

void Options::check() const {
    GenerationConfig config;
    config.max_length = std::numeric_limits<std::int64_t>::max();
    decoding.apply(config);
    config.settle();
    if (cpu_threads < 0 || cpu_threads > kMostThreads)
        fail_usage("cpu_threads is ", cpu_threads, ", and must be between 1 and ", kMostThreads,
                   ", or 0 for one per core");
    if (batch_size < 1) fail_usage("batch_size is ", batch_size, ", and must be at least 1");
    for (const std::string& string : stop) {
        if (string.empty()) fail_usage("an empty stop string would end every text at once: leave it out");
        if (!is_utf8(string)) fail_usage("a stop string is not UTF-8: convert it first");
    }
}

const fs::path& Options::path() const {
    if (!model_path)
        throw UsageError("the following arguments are required: --model_path/--model_dir (see --help)");
    return *model_path;
}

std::int64_t size_in_bytes(const std::string& text) {
    const std::string stripped = strip_utf8(text);
    std::size_t place = 0, dots = 0;
    while (place < stripped.size() && (std::isdigit(static_cast<unsigned char>(stripped[place])) ||
                                       (stripped[place] == '.' && place > 0 && dots++ == 0)))
        ++place;
    const std::string digits = stripped.substr(0, place);
    std::string unit;
    for (const char letter : stripped.substr(place))
        if (letter != ' ') unit += static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
    if (!unit.empty() && unit.back() == 'B') unit.pop_back();
    const bool binary = !unit.empty() && unit.back() == 'I';
    if (binary) unit.pop_back();
    const std::size_t found = unit.empty() ? std::string::npos : std::string("KMGT").find(unit);
    const std::size_t power = found + 1;  // 0 for bytes
    const bool fits = !digits.empty() && digits.back() != '.' && unit.size() <= 1 && (unit.empty() || power > 0) &&
                      !(binary && power == 0);
    const PlainNumbers plain;
    const double size = fits ? std::strtod(digits.c_str(), nullptr) * std::pow(binary ? 1024 : 1000, power) : 0;
    if (size < 1 || size > 9e18)
        fail_usage("argument --kv_cache_size: '", text, "' is not a size: write something like 5GB or 500MB (see --help)");
    return static_cast<std::int64_t>(size);
}

}  // namespace glm
