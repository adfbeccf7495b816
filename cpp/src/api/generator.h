// An export that is open: prompts in, texts out (glm/inference/exported.py).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/options.h"
#include "chat/processor.h"
#include "engine/engine.h"
#include "export/manifest.h"

namespace glm {

class Generator {
public:
    // Throws Error for files that are missing or damaged, or a runtime that is not there.
    explicit Generator(const Options& options);

    using OnIds = std::function<void(std::size_t place, const std::vector<Id>& ids)>;
    using OnPiece = std::function<bool(const std::string& piece)>;  // true ends the text

    // What follows prompts, each when it is finished.
    void generate(const std::vector<std::vector<Id>>& prompts, const GenerationConfig& config, std::size_t batch_size,
                  const OnIds& on_ids);

    // Pieces of what follows a prompt, as soon as they are certain. The ids that were written.
    std::vector<Id> stream(const std::vector<Id>& prompt, const GenerationConfig& config, const OnPiece& on_piece);

    // The ids of what follows a prompt while they are written: true from `on_token` ends them.
    void stream_ids(const std::vector<Id>& prompt, const GenerationConfig& config,
                    const std::function<bool(Id)>& on_token);

    // The text that a user sees of generated ids.
    std::string answer(const std::vector<Id>& ids) const;

    // Throws UsageError for an id that the model has not.
    void require_known(const std::vector<Id>& ids) const;

    GenerationConfig config(const Options& options) const { return processor_->config(options.decoding); }
    Processor& processor() { return *processor_; }
    const std::vector<std::string>& stop_strings() const { return stop_strings_; }
    const std::string& backend() const { return backend_; }
    std::string notes();
    std::int64_t generated = 0;  // tokens of the newest call

private:
    void require_whole();
    void run(const std::vector<Request>& requests, std::size_t batch_size, const OnIds& on_ids);

    std::string backend_;
    std::vector<std::string> stop_strings_;
    std::unique_ptr<Check> check_;
    bool whole_ = false, running_ = false;
    std::unique_ptr<Processor> processor_;
    std::unique_ptr<StepRuntime> runtime_;
    std::unique_ptr<Engine> engine_;
};

// Throws UsageError where tokens are not certain when they come.
void require_streaming(const GenerationConfig& config);

// A conversation: turns that remember the earlier ones.
class Conversation {
public:
    // Throws UsageError for a model that holds none, a system message that it has no place for, or beams.
    Conversation(Generator& generator, const Options& options);

    using OnPiece = std::function<bool(const AnswerPiece& piece)>;  // true ends the answer

    // Pieces of the answer. It is remembered when all are taken.
    void ask(const std::string& question, const OnPiece& on_piece);

private:
    std::optional<Message> answer(const std::vector<Id>& prompt, const OnPiece& on_piece);
    std::optional<Message> thinking_answer(const std::vector<Id>& prompt, const OnPiece& on_piece);

    Generator& generator_;
    GenerationConfig config_;
    Messages messages_;
};

}  // namespace glm
