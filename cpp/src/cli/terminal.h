// A conversation in the terminal.
#pragma once

#include "glm.h"

namespace cli {

// Reads questions from standard input and prints the answers while they are generated, until the input ends.
// Throws Exit.
void converse(glm_model* model, const glm_options* options);

}  // namespace cli
