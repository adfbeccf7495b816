// The command line of glm_infer: infer_generation.py's flags, as far as they are C++'s.
#pragma once

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "glm.h"

namespace cli {

// What ends the program: a line on standard error and an exit code.
class Exit : public std::runtime_error {
public:
    Exit(int status, const std::string& line) : std::runtime_error(line), status(status) {}
    const int status;
};

// Throws Exit with the library's reason unless `status` is GLM_OK.
void require_ok(int status);

// Throws Exit where standard output has not taken what was printed.
void require_printed();

struct FreeOptions {
    void operator()(glm_options* options) const { glm_options_free(options); }
};

struct Arguments {
    std::unique_ptr<glm_options, FreeOptions> options;
    std::vector<std::string> texts;
    std::optional<std::string> input_file, output_file;
    bool stream = false, chat = false, ids = false, help = false;
};

// Throws Exit for flags that are wrong, or that do nothing here.
Arguments parse(const std::vector<std::string>& words);

extern const char* const kHelp;

}  // namespace cli
