#include "cli/arguments.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>

namespace cli {

const char* const kHelp = R"(usage: glm_infer --model_path DIRECTORY [flags] [TEXT ...]

Generate text with an exported GLM, ChatGLM or GLM-4. The export, the flags and the texts are those of
infer_generation.py; this program needs no Python.

  glm_infer --model_path checkpoints/infer "答案：9层，上下文：祥信塔共有9层。"
  glm_infer … --input_file sources.txt --batch_size 8 --num_beams 5 --no_repeat_ngram_size 3
  glm_infer … --chat                             a conversation in the terminal
  glm_infer … --stream --stop 。                 each token as it comes, up to the first full stop
  glm_infer … --ids "151331 151333 5 6"          prompts and answers as token ids

the export, and what runs it:
  --model_path, --model_dir DIRECTORY   of the export
  --model_prefix NAME                   of the export in that directory; glm
  --backend onnx_runtime|paddle|fastdeploy
                                        default: the fastest that the export allows
  --cpu_threads N                       default: one per core
  --max_length N                        most tokens of a source and its generated text together
  --kv_cache_size SIZE                  such as 2GiB; default: 80% of free memory

texts:
  TEXT                                  - reads standard input, one text per line
  --input_file FILE                     one text per line
  --output_file FILE                    write the generated texts there as well, one per line
  --batch_size N                        texts that are generated together; 2
  --src_length N, --tgt_length N        most tokens of a source, and of a generated text
  --no_block_position                   as in fine-tuning; GLM (2021) only
  --plain                               the text as it is, without chat template
  --ids                                 texts are token ids, and so is what is printed
  --stream                              show each token as soon as it is generated
  --chat, --system TEXT                 a conversation, and instructions before it
  --enable_thinking true|false          think before an answer, or do not; default: what the chat template says

decoding:
  --min_tgt_length N  --num_beams N  --length_penalty X  --no_repeat_ngram_size N
  --do_sample, --no-do_sample  --temperature X  --top_k N  --top_p X  --min_p X  --seed N
  --repetition_penalty X  --presence_penalty X  --frequency_penalty X
  --stop STRING                         ends a text, and is not part of it; may be given again
)";

namespace {

enum class Flag { kValue, kTrue, kHere, kForeign };

// How each flag is read: with a value for the library, true for the library, or by this program.
const std::map<std::string, Flag>& flags() {
    static const std::map<std::string, Flag> known = [] {
        std::map<std::string, Flag> made;
        for (const char* name :
             {"model_path", "model_dir", "model_prefix", "backend", "device", "cpu_threads", "max_length",
              "kv_cache_size", "batch_size", "predict_batch_size", "src_length", "tgt_length", "min_tgt_length",
              "num_beams", "length_penalty", "no_repeat_ngram_size", "temperature", "top_k", "top_p", "min_p",
              "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "stop", "system",
              "enable_thinking"})
            made[name] = Flag::kValue;
        for (const char* name : {"no_block_position", "plain", "do_sample", "no-do_sample"}) made[name] = Flag::kTrue;
        for (const char* name : {"input_file", "output_file", "stream", "chat", "ids", "help"}) made[name] = Flag::kHere;
        for (const char* name : {"json_schema", "response_format", "prompt_lookup", "predict_data", "task_name",
                                 "use_fp16", "device_id", "debug"})
            made[name] = Flag::kForeign;
        return made;
    }();
    return known;
}

std::size_t distance(const std::string& one, const std::string& other) {
    std::vector<std::size_t> row(other.size() + 1);
    for (std::size_t j = 0; j <= other.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= one.size(); ++i) {
        std::size_t diagonal = row[0];
        row[0] = i;
        for (std::size_t j = 1; j <= other.size(); ++j) {
            const std::size_t changed = diagonal + (one[i - 1] != other[j - 1]);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
        }
    }
    return row.back();
}

[[noreturn]] void unknown(const std::string& word, const std::string& name) {
    std::string hint;
    std::size_t nearest = 1 + name.size() / 4;
    for (const auto& [known, flag] : flags())
        if (const std::size_t far = distance(name, known); flag != Flag::kForeign && far <= nearest) {
            nearest = far - (far > 0);
            hint = "; did you mean --" + known + "?";
        }
    throw Exit(GLM_USAGE, "unknown argument " + word + hint + " (see --help)");
}

// As argparse calls a flag of two names.
std::string both_names(const std::string& name) {
    if (name == "model_path" || name == "model_dir") return "model_path/--model_dir";
    return name == "batch_size" || name == "predict_batch_size" ? "batch_size/--predict_batch_size" : name;
}

class Parser {
public:
    explicit Parser(const std::vector<std::string>& words) : words_(words) {
        arguments_.options.reset(glm_options_new());
        if (!arguments_.options) throw Exit(GLM_ERROR, "out of memory");
    }

    Arguments parse() {
        bool only_texts = false;
        for (; place_ < words_.size(); ++place_) {
            const std::string& word = words_[place_];
            if (!only_texts && word == "--")
                only_texts = true;
            else if (!only_texts && word == "-h")
                arguments_.help = true;
            else if (!only_texts && word.size() > 1 && word[0] == '-')
                flag(word);
            else
                arguments_.texts.push_back(word);
        }
        return std::move(arguments_);
    }

private:
    void flag(const std::string& word) {
        const std::size_t equal = word.find('=');
        const std::string name = word.size() > 2 && word[1] == '-' ? word.substr(2, equal - 2) : "";
        const auto found = flags().find(name);
        if (found == flags().end()) unknown(word, name);
        value_.reset();
        if (equal != std::string::npos) value_ = word.substr(equal + 1);
        switch (found->second) {
            case Flag::kForeign:
                throw Exit(GLM_USAGE, "--" + name + " is infer_generation.py's: leave it out, or run that");
            case Flag::kValue:
                set(name, value(name));
                return;
            case Flag::kTrue:
                no_value(name);
                set(name == "no-do_sample" ? "do_sample" : name, name == "no-do_sample" ? "false" : "true");
                return;
            case Flag::kHere:
                here(name);
        }
    }

    void here(const std::string& name) {
        if (name == "input_file" || name == "output_file") {
            (name == "input_file" ? arguments_.input_file : arguments_.output_file) = value(name);
            return;
        }
        no_value(name);
        (name == "stream" ? arguments_.stream
         : name == "chat" ? arguments_.chat
         : name == "ids"  ? arguments_.ids
                          : arguments_.help) = true;
    }

    void set(const std::string& name, const std::string& value) {
        const std::string known = name == "model_dir"            ? "model_path"
                                  : name == "predict_batch_size" ? "batch_size"
                                                                 : name;
        require_ok(glm_options_set(arguments_.options.get(), known.c_str(), value.c_str()));
    }

    // The value of a flag: behind its =, or the next word, which may be a negative number.
    std::string value(const std::string& name) {
        if (value_) return *value_;
        const bool there = place_ + 1 < words_.size();
        const std::string next = there ? words_[place_ + 1] : "";
        const bool is_flag = next.size() > 1 && next[0] == '-' && next.find_first_not_of("0123456789.", 1) == 1;
        if (!there || is_flag) throw Exit(GLM_USAGE, "argument --" + both_names(name) + ": expected one argument (see --help)");
        ++place_;
        return next;
    }

    void no_value(const std::string& name) const {
        if (value_)
            throw Exit(GLM_USAGE, "argument --" + name + ": ignored explicit argument '" + *value_ + "' (see --help)");
    }

    const std::vector<std::string>& words_;
    std::size_t place_ = 0;
    std::optional<std::string> value_;
    Arguments arguments_;
};

void check(const Arguments& arguments, const std::vector<std::string>& words) {
    const bool system = std::any_of(words.begin(), words.end(), [](const std::string& word) {
        return word == "--system" || word.rfind("--system=", 0) == 0;
    });
    if (system && !arguments.chat) throw Exit(GLM_USAGE, "--system begins a conversation: add --chat");
    const std::pair<const char*, bool> useless[] = {{"TEXT", !arguments.texts.empty()},
                                                    {"--input_file", arguments.input_file.has_value()},
                                                    {"--output_file", arguments.output_file.has_value()},
                                                    {"--ids", arguments.ids},
                                                    {"--plain", std::count(words.begin(), words.end(), "--plain") > 0}};
    for (const auto& [name, given] : useless)
        if (arguments.chat && given)
            throw Exit(GLM_USAGE,
                       std::string("--chat reads questions from standard input and prints the answers: leave out ") + name);
    if (arguments.stream && arguments.ids)
        throw Exit(GLM_USAGE, "--stream shows text, and --ids asks for token ids: choose one");
    require_ok(glm_options_check(arguments.options.get()));
}

}  // namespace

void require_ok(int status) {
    if (status != GLM_OK) throw Exit(status, glm_last_error());
}

void require_printed() {
    errno = 0;
    std::cout.flush();
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout) return;
    const std::string reason = errno != 0 ? std::string(" (") + std::strerror(errno) + ")" : "";
    throw Exit(GLM_ERROR, "the results cannot be printed" + reason + ": send standard output somewhere else");
}

Arguments parse(const std::vector<std::string>& words) {
    Arguments arguments = Parser(words).parse();
    if (!arguments.help) check(arguments, words);
    return arguments;
}

}  // namespace cli
