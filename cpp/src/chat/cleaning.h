// What a user sees of generated text (glm/encoding/chat_formats.py).
#pragma once

#include "tokenizer/stream.h"

namespace glm {

// White space around the text goes.
Cleaning plain_cleaning();

// GLM-4's: also [[训练时间]] becomes 2023年.
Cleaning role_cleaning();

// ChatGLM-6B's: also ,!:;? beside a Chinese character are full-width.
Cleaning round_cleaning();

}  // namespace glm
