// glm_infer: the first user of libglm, by its C interface; of the rest it takes Python's white space alone.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "base/text.h"
#include "cli/arguments.h"
#include "cli/terminal.h"
#include "cli/texts.h"
#include "glm.h"

namespace {

struct CloseModel {
    void operator()(glm_model* model) const { glm_close(model); }
};
using Model = std::unique_ptr<glm_model, CloseModel>;
using Texts = std::vector<std::string>;

int keep_text(void* user, size_t index, const char* text, size_t size) {
    (*static_cast<Texts*>(user))[index].assign(text, size);
    return 0;
}

int keep_ids(void* user, size_t index, const int32_t* ids, size_t count) {
    std::string line;
    for (size_t i = 0; i < count; ++i) line += (i ? " " : "") + std::to_string(ids[i]);
    (*static_cast<Texts*>(user))[index] = line;
    return 0;
}

int show_piece(void* user, size_t, const char* text, size_t size) {
    std::fwrite(text, 1, size, stdout);
    std::fflush(stdout);
    static_cast<std::string*>(user)->append(text, size);
    return std::ferror(stdout);
}

Texts generate(glm_model* model, const cli::Arguments& arguments, const Texts& texts) {
    Texts results(texts.size());
    std::vector<const char*> pointers;
    for (const std::string& text : texts) pointers.push_back(text.c_str());
    cli::require_ok(
        glm_generate(model, arguments.options.get(), pointers.data(), pointers.size(), keep_text, &results));
    return results;
}

Texts generate_ids(glm_model* model, const cli::Arguments& arguments, const Texts& texts) {
    Texts results(texts.size());
    std::vector<std::vector<int32_t>> prompts;
    std::vector<const int32_t*> pointers;
    std::vector<size_t> sizes;
    for (const std::string& text : texts) prompts.push_back(cli::parse_ids(text));
    for (const auto& prompt : prompts) {
        pointers.push_back(prompt.data());
        sizes.push_back(prompt.size());
    }
    cli::require_ok(glm_generate_ids(model, arguments.options.get(), pointers.data(), sizes.data(), pointers.size(),
                                     keep_ids, &results));
    return results;
}

void all_at_once(glm_model* model, const cli::Arguments& arguments, const Texts& texts) {
    const auto start = std::chrono::steady_clock::now();
    const Texts results = arguments.ids ? generate_ids(model, arguments, texts) : generate(model, arguments, texts);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (arguments.output_file) cli::write_texts(*arguments.output_file, results);
    for (std::size_t i = 0; i < texts.size(); ++i) std::cout << texts[i] << "\n  → " << results[i] << '\n';
    cli::require_printed();
    const long long tokens = glm_generated_tokens(model);
    std::fprintf(stderr, "%lld tokens in %.2f s: %.1f tokens/s\n", tokens, taken.count(),
                 static_cast<double>(tokens) / std::max(taken.count(), 1e-9));
}

// A text that does not fit is found before the first is shown.
void check_prompts(glm_model* model, const Texts& texts) {
    for (std::size_t i = 0; i < texts.size(); ++i) {
        size_t count = 0;
        const int status = glm_prompt(model, texts[i].c_str(), nullptr, 0, &count);
        const std::string place = "text " + std::to_string(i + 1) + " of " + std::to_string(texts.size());
        const std::string reason = glm_last_error();
        if (status != GLM_OK && texts.size() > 1 && reason.rfind("text ", 0) != 0)
            throw cli::Exit(status, place + ": " + reason);
        cli::require_ok(status);
    }
}

void one_by_one(glm_model* model, const cli::Arguments& arguments, const Texts& texts) {
    check_prompts(model, texts);
    Texts results;
    for (const std::string& text : texts) {
        std::printf("%s\n  → ", text.c_str());
        std::string result;
        cli::require_ok(glm_stream(model, arguments.options.get(), text.c_str(), show_piece, &result));
        std::puts("");
        cli::require_printed();
        results.push_back(glm::strip_utf8(result));
    }
    if (arguments.output_file) cli::write_texts(*arguments.output_file, results);
}

void run(const cli::Arguments& arguments) {
    glm_tune();
    const Texts texts = arguments.chat ? Texts() : cli::read_texts(arguments);
    glm_model* opened = nullptr;
    cli::require_ok(glm_open(arguments.options.get(), &opened));
    const Model model(opened);
    std::cerr << glm_backend(opened) << '\n';
    if (arguments.chat)
        cli::converse(opened, arguments.options.get());
    else if (arguments.stream)
        one_by_one(opened, arguments, texts);
    else
        all_at_once(opened, arguments, texts);
    std::cerr << glm_notes(opened) << '\n';
}

}  // namespace

int main(int count, char** words) {
    try {
        const cli::Arguments arguments = cli::parse({words + 1, words + count});
        if (arguments.help)
            std::cout << cli::kHelp;
        else
            run(arguments);
        cli::require_printed();
        return GLM_OK;
    } catch (const cli::Exit& exit) {
        std::fflush(stdout);
        std::cerr << "error: " << exit.what() << '\n';
        return exit.status;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << '\n';
        return GLM_ERROR;
    }
}
