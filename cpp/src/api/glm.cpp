// The C interface over `Generator`: no exception leaves it.
#include "glm.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "api/generator.h"
#include "api/options.h"
#include "base/error.h"
#include "base/text.h"
#include "runtime/tuning.h"

struct glm_options {
    glm::Options options;
};

struct glm_model {
    explicit glm_model(const glm::Options& options) : generator(options) {}
    glm::Generator generator;
    std::string notes;
};

struct glm_conversation {
    glm_conversation(glm_model& model, const glm::Options& options) : conversation(model.generator, options) {}
    glm::Conversation conversation;
};

namespace {

thread_local std::string last_error;

int failed(int status, const char* reason) {
    try {
        last_error = glm::on_one_line(reason);
    } catch (...) {
        last_error.clear();
    }
    return status;
}

template <typename Work>
int guarded(const Work& work) {
    try {
        work();
        return GLM_OK;
    } catch (const glm::UsageError& error) {
        return failed(GLM_USAGE, error.what());
    } catch (const std::bad_alloc&) {
        return failed(GLM_ERROR, "out of memory: choose a smaller batch, shorter texts or a smaller model");
    } catch (const std::exception& error) {
        return failed(GLM_ERROR, error.what());
    } catch (...) {
        return failed(GLM_ERROR, "an unknown error");
    }
}

template <typename Pointer>
void require(Pointer pointer, const char* name) {
    if (pointer == nullptr) glm::fail_usage(name, " is null");
}

std::string checked_text(const char* text, const char* name) {
    require(text, name);
    if (!glm::is_utf8(text)) glm::fail_usage(name, " is not UTF-8: convert it first");
    return text;
}

// The prompts of texts; one that does not fit is named by its place among many.
std::vector<std::vector<glm::Id>> prompts_of(glm::Generator& generator, const char* const* texts, std::size_t count) {
    std::vector<std::vector<glm::Id>> prompts;
    for (std::size_t i = 0; i < count; ++i) {
        const std::string place = count > 1 ? glm::text_of_all("text ", i + 1, " of ", count, ": ") : "";
        require(texts[i], "text");
        if (!glm::is_utf8(texts[i]))
            glm::fail_usage("text ", i + 1, " of ", count, " is not UTF-8: convert it first");
        try {
            prompts.push_back(generator.processor().text_prompt(texts[i]));
        } catch (const glm::UsageError& error) {
            glm::fail_usage(place, error.what());
        } catch (const glm::Error& error) {
            glm::fail(place, error.what());
        }
    }
    return prompts;
}

}  // namespace

const char* glm_last_error(void) { return last_error.c_str(); }

void glm_tune(void) { glm::tune_process(); }

glm_options* glm_options_new(void) { return new (std::nothrow) glm_options(); }
void glm_options_free(glm_options* options) { delete options; }

int glm_options_set(glm_options* options, const char* name, const char* value) {
    return guarded([&] {
        require(options, "options");
        require(name, "name");
        require(value, "value");
        options->options.set(name, value);
    });
}

int glm_options_check(const glm_options* options) {
    return guarded([&] {
        require(options, "options");
        options->options.check();
    });
}

int glm_open(const glm_options* options, glm_model** model) {
    return guarded([&] {
        require(options, "options");
        require(model, "model");
        *model = nullptr;
        *model = new glm_model(options->options);
    });
}

void glm_close(glm_model* model) { delete model; }

const char* glm_backend(glm_model* model) { return model == nullptr ? "" : model->generator.backend().c_str(); }

const char* glm_notes(glm_model* model) {
    if (model == nullptr || guarded([&] { model->notes = model->generator.notes(); }) != GLM_OK) return "";
    return model->notes.c_str();
}

int glm_generate(glm_model* model, const glm_options* options, const char* const* texts, size_t count,
                 glm_on_text on_text, void* user) {
    return guarded([&] {
        require(model, "model");
        require(options, "options");
        require(texts, "texts");
        require(on_text, "on_text");
        glm::Generator& generator = model->generator;
        options->options.check();
        const auto config = generator.config(options->options);
        generator.generate(prompts_of(generator, texts, count), config,
                           static_cast<std::size_t>(options->options.batch_size),
                           [&](std::size_t place, const std::vector<glm::Id>& ids) {
                               const std::string text = generator.answer(ids);
                               on_text(user, place, text.data(), text.size());
                           });
    });
}

int glm_stream(glm_model* model, const glm_options* options, const char* text, glm_on_text on_text, void* user) {
    return guarded([&] {
        require(model, "model");
        require(options, "options");
        require(on_text, "on_text");
        glm::Generator& generator = model->generator;
        options->options.check();
        const auto config = generator.config(options->options);
        generator.stream(prompts_of(generator, &text, 1)[0], config, [&](const std::string& piece) {
            return on_text(user, 0, piece.data(), piece.size()) != 0;
        });
    });
}

int glm_generate_ids(glm_model* model, const glm_options* options, const int32_t* const* prompts, const size_t* sizes,
                     size_t count, glm_on_ids on_ids, void* user) {
    return guarded([&] {
        require(model, "model");
        require(options, "options");
        require(prompts, "prompts");
        require(sizes, "sizes");
        require(on_ids, "on_ids");
        glm::Generator& generator = model->generator;
        options->options.check();
        std::vector<std::vector<glm::Id>> ids;
        for (size_t i = 0; i < count; ++i) {
            if (sizes[i] > 0) require(prompts[i], "a prompt");
            ids.emplace_back(prompts[i], prompts[i] + sizes[i]);
            generator.require_known(ids.back());
        }
        generator.generate(ids, generator.config(options->options),
                           static_cast<std::size_t>(options->options.batch_size),
                           [&](std::size_t place, const std::vector<glm::Id>& written) {
                               on_ids(user, place, written.data(), written.size());
                           });
    });
}

int glm_prompt(glm_model* model, const char* text, int32_t* ids, size_t capacity, size_t* count) {
    return guarded([&] {
        require(model, "model");
        require(count, "count");
        const std::int64_t truncated = model->generator.processor().truncated;
        const auto prompt = prompts_of(model->generator, &text, 1)[0];
        model->generator.processor().truncated = truncated;  // who asks generates nothing
        *count = prompt.size();
        if (ids != nullptr) std::copy_n(prompt.begin(), std::min(capacity, prompt.size()), ids);
    });
}

int64_t glm_generated_tokens(const glm_model* model) { return model == nullptr ? 0 : model->generator.generated; }

int glm_conversation_new(glm_model* model, const glm_options* options, glm_conversation** conversation) {
    return guarded([&] {
        require(model, "model");
        require(options, "options");
        require(conversation, "conversation");
        *conversation = nullptr;
        *conversation = new glm_conversation(*model, options->options);
    });
}

void glm_conversation_free(glm_conversation* conversation) { delete conversation; }

int glm_conversation_ask(glm_conversation* conversation, const char* question, glm_on_text on_text, void* user) {
    return guarded([&] {
        require(conversation, "conversation");
        require(on_text, "on_text");
        conversation->conversation.ask(checked_text(question, "the question"), [&](const glm::AnswerPiece& piece) {
            return on_text(user, piece.is_thought, piece.text.data(), piece.text.size()) != 0;
        });
    });
}
