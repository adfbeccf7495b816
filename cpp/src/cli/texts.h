// Where texts come from and go to.
#pragma once

#include <string>
#include <vector>

#include "cli/arguments.h"

namespace cli {

// The texts that the command line names; two examples if it names none. Throws Exit.
std::vector<std::string> read_texts(const Arguments& arguments);

// Finds out before anything is generated what would make the results impossible to write. Throws Exit.
void check_output(const std::string& path);

// Writes one text per line; a file appears whole or not at all. Throws Exit.
void write_texts(const std::string& path, const std::vector<std::string>& texts);

// The ids of a text such as "5 6 7". Throws Exit for anything else.
std::vector<int32_t> parse_ids(const std::string& text);

}  // namespace cli
