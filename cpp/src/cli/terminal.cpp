#include "cli/terminal.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "base/text.h"
#include "cli/arguments.h"

namespace cli {

namespace {

constexpr const char* kMark = "\"\"\"";
constexpr const char* kHelpLine =
    "an empty line says this; \"\"\" begins and ends a question of several lines; /clear forgets the conversation; "
    "/exit or Ctrl-D ends it";

std::atomic<bool> interrupted{false};
void interrupt(int) { interrupted = true; }

// `flags`: SA_RESTART where an interrupt is to be noticed later, 0 where it is to end what waits.
void catch_interrupts(int flags) {
    struct sigaction action = {};
    action.sa_handler = interrupt;
    action.sa_flags = flags;
    ::sigaction(SIGINT, &action, nullptr);
}

bool ends_with_mark(const std::string& text) { return text.size() >= 3 && text.compare(text.size() - 3, 3, kMark) == 0; }

std::optional<std::string> read_line(const char* prompt) {
    if (::isatty(STDIN_FILENO)) std::cout << prompt << std::flush;
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    return line;
}

// The next question, without white space around it; nothing at the end of the input, or when interrupted.
std::optional<std::string> read_question() {
    interrupted = false;
    const std::optional<std::string> line = read_line("> ");
    if (!line) return std::nullopt;
    std::string text = glm::strip_utf8(*line);
    if (text.rfind(kMark, 0) != 0) return text;
    std::string first = text.substr(3);
    if (ends_with_mark(first)) return glm::strip_utf8(first.substr(0, first.size() - 3));
    std::string question = first;
    while (true) {
        const std::optional<std::string> next = read_line("… ");
        if (!next && interrupted) return std::nullopt;
        if (!next)
            throw Exit(GLM_ERROR, std::string("the input ended in a question that ") + kMark +
                                      " began: end it with a line " + kMark);
        // Behind a mark on a line of its own, code may end lines with quotes.
        const std::string end = glm::strip_right_utf8(*next);
        if (glm::strip_utf8(*next) == kMark || (!first.empty() && ends_with_mark(end)))
            return glm::strip_utf8(question + "\n" + end.substr(0, end.size() - 3));
        question += "\n" + *next;
    }
}

constexpr size_t kThoughts = 1;  // the index of a piece of them

// Thoughts are dim on a terminal; elsewhere an empty line behind them sets them apart.
void switch_to(bool thoughts) {
    if (::isatty(STDOUT_FILENO)) std::fputs(thoughts ? "\x1b[2m" : "\x1b[22m", stdout);
}

// `user`: whether the piece before was one of thoughts.
int show(void* user, size_t index, const char* text, size_t size) {
    bool& thinking = *static_cast<bool*>(user);
    const bool thinks = index == kThoughts;
    if (thinks != thinking) switch_to(thinks);
    if (thinking && !thinks) std::fputs("\n\n", stdout);
    thinking = thinks;
    std::fwrite(text, 1, size, stdout);
    std::fflush(stdout);
    return interrupted || std::ferror(stdout);
}

struct FreeConversation {
    void operator()(glm_conversation* conversation) const { glm_conversation_free(conversation); }
};
using ConversationOwner = std::unique_ptr<glm_conversation, FreeConversation>;

ConversationOwner begin(glm_model* model, const glm_options* options) {
    glm_conversation* made = nullptr;
    require_ok(glm_conversation_new(model, options, &made));
    return ConversationOwner(made);
}

void answer(glm_model* model, glm_conversation* conversation, const std::string& question) {
    const auto start = std::chrono::steady_clock::now();
    interrupted = false;
    catch_interrupts(SA_RESTART);
    bool thinking = false;
    const int status = glm_conversation_ask(conversation, question.c_str(), show, &thinking);
    catch_interrupts(0);
    if (thinking) switch_to(false);
    if (status != GLM_OK) {  // a turn that does not fit ends nothing: the user says something else
        std::cerr << "error: " << glm_last_error() << '\n';
        return;
    }
    if (interrupted) {  // the answer is left where it stands, and is not remembered
        std::cerr << "\n(stopped)\n";
        return;
    }
    std::puts("");
    require_printed();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    const long long tokens = glm_generated_tokens(model);
    std::fprintf(stderr, "%lld tokens in %.2f s: %.1f tokens/s\n", tokens, taken.count(),
                 static_cast<double>(tokens) / std::max(taken.count(), 1e-9));
}

}  // namespace

void converse(glm_model* model, const glm_options* options) {
    catch_interrupts(0);  // at a question it ends the conversation, as the end of the input does
    ConversationOwner conversation = begin(model, options);
    if (::isatty(STDIN_FILENO)) std::cerr << kHelpLine << '\n';
    while (const std::optional<std::string> question = read_question()) {
        if (*question == "/exit") return;
        if (*question == "/clear")
            conversation = begin(model, options);
        else if (question->empty())
            std::cerr << kHelpLine << '\n';
        else
            answer(model, conversation.get(), *question);
    }
}

}  // namespace cli
