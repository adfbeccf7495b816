#include "api/generator.h"

#include <cstdio>
#include <fstream>
#include <future>

#include "base/error.h"
#include "base/text.h"
#include "runtime/open.h"
#include "runtime/tuning.h"

namespace glm {

namespace {

constexpr double kCacheShare = 0.8;  // of the memory that is free, the key/value cache takes at most so much

std::optional<std::int64_t> free_memory() {
    std::ifstream file("/proc/meminfo");
    for (std::string line; std::getline(file, line);) {
        long long kilobytes = 0;
        if (std::sscanf(line.c_str(), "MemAvailable: %lld kB", &kilobytes) == 1) return kilobytes * 1024;
    }
    return std::nullopt;
}

EngineOptions engine_options(const Options& options) {
    EngineOptions found;
    found.memory_limit = options.kv_cache_size;
    if (!found.memory_limit)
        if (const auto memory = free_memory())
            found.memory_limit = static_cast<std::int64_t>(kCacheShare * static_cast<double>(*memory));
    return found;
}

// Says that a generator runs, as long as it lives.
class Running {
public:
    explicit Running(bool& running) : running_(running) {
        if (running) throw UsageError("a callback generates with the model that called it: return from it first");
        running_ = true;
    }
    ~Running() { running_ = false; }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

private:
    bool& running_;
};

}  // namespace

Generator::Generator(const Options& options) {
    options.path();
    options.check();
    const Choice choice = choose(options.backend, exported_formats(options.path(), options.model_prefix));
    // FastDeploy is loaded in another working directory, while others read files here.
    const fs::path directory = choice.name == "fastdeploy" ? fs::absolute(options.path()) : options.path();
    const Manifest manifest = read_manifest(directory, options.model_prefix, choice.format);
    if (choice.name == "fastdeploy" && !manifest.standard)
        fail("backend fastdeploy knows standard operators alone, and ", (directory / options.model_prefix).string(),
             ".onnx has ONNX Runtime's own: export with --format onnx --opset 17, or use --backend onnx_runtime");
    if (!manifest.names(TokenizerFile::kName))
        fail(manifest.path.string(), " names no ", TokenizerFile::kName,
             ": export the model again; a tokenizer.json of another form than GLM-4's is read by infer_generation.py");
    backend_ = "backend: " + choice.name + " on cpu (" + choice.reason +
               (manifest.quantized ? "; " + manifest.weights + " weights" : "") + ")";
    check_ = std::make_unique<Check>(directory, manifest);
    const auto read_tokenizer = [&] {
        processor_ = std::make_unique<Processor>(directory, options.processor, manifest);
    };
    // Where that decides, the tokenizer says first whether a cache has twice the model's positions.
    const std::int64_t positions = manifest.max_position + 1;
    if (positions <= kAllScoresPositions && 2 * positions > kAllScoresPositions) read_tokenizer();
    // Here, not where the graph is opened: the environment is not to change under the other thread.
    const AttentionOf attention(processor_ ? processor_->positions().columns(manifest.max_position) : positions);
    // Loading the graph takes longest, so the tokenizer is read meanwhile.
    auto loading = std::async(std::launch::async, [&] {
        return open_step(choice, manifest, directory, options.model_prefix, static_cast<int>(options.cpu_threads));
    });
    if (!processor_) read_tokenizer();
    stop_strings_ = options.stop;
    for (const std::string& string : processor_->generation().stop_strings()) stop_strings_.push_back(string);
    runtime_ = loading.get();
    runtime_->capacity = processor_->positions().columns(manifest.max_position);
    if (runtime_->vocab_size != manifest.vocab_size)
        fail("the graph has ", grouped(runtime_->vocab_size), " logits, and its manifest says ",
             grouped(manifest.vocab_size), ": export the model again");
    if (runtime_->position_rows != processor_->positions().rows())
        fail("the graph takes ", runtime_->position_rows, " positions a token, and the tokenizer's kind of model has ",
             processor_->positions().rows(), ": export the model again");
    engine_ = std::make_unique<Engine>(*runtime_, processor_->positions(), processor_->stop_ids(),
                                       engine_options(options));
    for (const std::string& line : processor_->generation().warnings()) std::fprintf(stderr, "%s\n", line.c_str());
}

void Generator::require_whole() {
    if (whole_) return;
    check_->result();
    whole_ = true;
}

void Generator::run(const std::vector<Request>& requests, std::size_t batch_size, const OnIds& on_ids) {
    const Running running(running_);
    generated = 0;
    try {
        engine_->run(requests, batch_size, [&](std::size_t place, const std::vector<Id>& ids) {
            require_whole();
            generated += static_cast<std::int64_t>(ids.size());
            on_ids(place, ids);
        });
    } catch (const Error&) {
        require_whole();  // where the export is damaged, that is why
        throw;
    }
}

void Generator::generate(const std::vector<std::vector<Id>>& prompts, const GenerationConfig& config,
                         std::size_t batch_size, const OnIds& on_ids) {
    std::vector<Request> requests;
    const bool watched = !stop_strings_.empty() && config.num_beams == 1;  // of beams the one that wins is cut
    for (const std::vector<Id>& ids : prompts) {
        requests.push_back({ids, config, {}});
        if (!watched) continue;
        const auto watch = std::make_shared<StopStrings>(processor_->tokenizer(), stop_strings_);
        requests.back().on_token = [watch](Id id) { return watch->put(id); };
    }
    run(requests, batch_size, on_ids);
}

std::vector<Id> Generator::stream(const std::vector<Id>& prompt, const GenerationConfig& config,
                                  const OnPiece& on_piece) {
    require_streaming(config);
    std::vector<Id> written;
    GrowingText text(StopStrings(processor_->tokenizer(), stop_strings_), processor_->cleaning());
    const auto show = [&](const std::string& piece) { return !piece.empty() && on_piece(piece); };
    bool stopped = false;
    stream_ids(prompt, config, [&](Id id) {
        written.push_back(id);
        stopped = show(text.put(id));
        return stopped || text.found();
    });
    if (!stopped) show(text.end());
    return written;
}

void Generator::stream_ids(const std::vector<Id>& prompt, const GenerationConfig& config,
                           const std::function<bool(Id)>& on_token) {
    const Request request{prompt, config, [&](Id id) {
                              require_whole();
                              return on_token(id);
                          }};
    run({request}, 1, [](std::size_t, const std::vector<Id>&) {});
}

std::string Generator::answer(const std::vector<Id>& ids) const {
    if (stop_strings_.empty())
        return encode_utf8(processor_->cleaning().clean(decode_utf8(processor_->tokenizer().text_of(ids))));
    GrowingText text(StopStrings(processor_->tokenizer(), stop_strings_), processor_->cleaning());
    std::string answer;
    for (const Id id : ids) {
        answer += text.put(id);
        if (text.found()) break;
    }
    return answer + text.end();
}

void Generator::require_known(const std::vector<Id>& ids) const {
    for (const Id id : ids)
        if (id < 0 || id >= runtime_->vocab_size)
            fail_usage("token id ", id, " is outside the model's vocabulary of ", grouped(runtime_->vocab_size));
}

std::string Generator::notes() {
    std::string notes = "key/value cache " + size_in_words(static_cast<double>(engine_->cache_bytes()));
    if (engine_->reused_tokens() > 0)
        notes += ", which held " + grouped(engine_->reused_tokens()) + " of " + grouped(engine_->prompt_tokens()) +
                 " prompt tokens already";
    const std::string cut = processor_->truncation_note();
    return cut.empty() ? notes : notes + "\n" + cut;
}

void require_streaming(const GenerationConfig& config) {
    if (config.num_beams > 1)
        fail_usage("a conversation or a stream shows tokens as they come, and num_beams ", config.num_beams,
                   " chooses them at the end: use 1");
}

Conversation::Conversation(Generator& generator, const Options& options)
    : generator_(generator), config_(generator.config(options)) {
    require_streaming(config_);
    if (!generator.processor().holds_conversations())
        throw UsageError("a GLM (2021) model holds no conversations: leave out --chat");
    if (!options.system || options.system->empty()) return;
    if (!generator.processor().has_system_messages())
        throw UsageError("this model's conversations have no system message: leave out --system");
    messages_.push_back({"system", *options.system, {}});
}

void Conversation::ask(const std::string& question, const OnPiece& on_piece) {
    Messages asked = messages_;
    asked.push_back({"user", question, {}});
    const std::vector<Id> prompt = generator_.processor().messages_prompt(asked);
    const bool thinks = generator_.processor().thinks();
    const auto answered = thinks ? thinking_answer(prompt, on_piece) : answer(prompt, on_piece);
    if (!answered) return;
    asked.push_back(*answered);
    messages_ = std::move(asked);
}

// Nothing where it was ended.
std::optional<Message> Conversation::answer(const std::vector<Id>& prompt, const OnPiece& on_piece) {
    std::string text;
    bool stopped = false;
    const std::vector<Id> written = generator_.stream(prompt, config_, [&](const std::string& piece) {
        text += piece;
        return stopped = on_piece({false, piece});
    });
    if (stopped) return std::nullopt;
    return Message{"assistant", generator_.stop_strings().empty() ? generator_.answer(written) : text, {}};
}

std::optional<Message> Conversation::thinking_answer(const std::vector<Id>& prompt, const OnPiece& on_piece) {
    Message message{"assistant", {}, {}};
    GrowingAnswer text = generator_.processor().growing_answer(generator_.stop_strings());
    const auto show = [&](const AnswerPieces& pieces) {
        for (const AnswerPiece& piece : pieces) {
            (piece.is_thought ? message.thoughts : message.content) += piece.text;
            if (on_piece(piece)) return true;
        }
        return false;
    };
    bool stopped = false;
    generator_.stream_ids(prompt, config_, [&](Id id) {
        stopped = show(text.put(id));
        return stopped || text.found();
    });
    if (stopped || show(text.end())) return std::nullopt;
    return message;
}

}  // namespace glm
