// Texts and conversations as prompts, and generated ids as what a user sees (glm/encoding/processor.py).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chat/cleaning.h"
#include "chat/messages.h"
#include "chat/positions.h"
#include "chat/role_chat.h"
#include "chat/thoughts.h"
#include "export/generation_file.h"
#include "export/manifest.h"
#include "generation/config.h"
#include "tokenizer/tokenizer.h"

namespace glm {

struct ProcessorOptions {
    std::optional<std::int64_t> src_length, tgt_length;  // most tokens of a source and of a generated text
    std::optional<std::int64_t> max_length;              // of both together
    bool no_block_position = false;
    bool plain = false;  // the text as it is, without chat template
    std::optional<bool> thinking;  // whether answers begin with thoughts; what the chat template says, if not given
};

class Processor {
public:
    // Of an export's directory. Throws Error for files that are damaged, UsageError for lengths that do not fit.
    Processor(const fs::path& directory, const ProcessorOptions& options, const Manifest& manifest);

    // Ids after which the model writes what follows from a user's text.
    std::vector<Id> text_prompt(const std::string& text);

    // Ids after which the model answers the last message; the oldest turns go first where they are too many.
    std::vector<Id> messages_prompt(const Messages& messages);

    // The decoding options of this model: those given, then generation_config.json's, then the kind of model's.
    GenerationConfig config(const ChosenOptions& given) const;

    Cleaning cleaning() const;
    // What tells an answer's thoughts apart, of a model that has them.
    bool thinks() const { return tokenizer_.kind() == "glm45"; }
    GrowingAnswer growing_answer(const std::vector<std::string>& stop_strings) const;
    std::vector<Id> stop_ids() const;
    bool holds_conversations() const { return kind_ != Kind::kGlm; }
    bool has_system_messages() const { return kind_ == Kind::kRoles; }
    const Tokenizer& tokenizer() const { return tokenizer_; }
    const GenerationFile& generation() const { return generation_; }
    const Positions& positions() const { return positions_; }
    std::int64_t src_length() const { return src_length_; }
    std::int64_t tgt_length() const { return tgt_length_; }

    // What to say of the sources that were cut since it was last asked, "" of none.
    std::string truncation_note();
    std::int64_t truncated = 0;  // sources that were cut since then

private:
    enum class Kind { kGlm, kRounds, kRoles };

    void choose_lengths(const ProcessorOptions& options);
    void make_room(const ProcessorOptions& options);
    void check_lengths() const;
    void check_fits(const Manifest& manifest);
    std::vector<Id> last_of(std::vector<Id> ids, std::int64_t room);
    std::vector<Id> role_ids(Messages messages) const;
    std::vector<Id> round_ids(Messages messages) const;

    Tokenizer tokenizer_;
    GenerationFile generation_;
    Kind kind_;
    Rounds rounds_;
    std::optional<RoleChat> chat_;  // of a chat model
    bool plain_;
    Positions positions_;
    std::int64_t src_length_ = 0, tgt_length_ = 0;
    bool src_open_ = false, tgt_open_ = false;  // lengths that the user left open
};

}  // namespace glm
