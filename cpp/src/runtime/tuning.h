// What Paddle's libraries read from the environment when they are loaded (glm/device/tuning.py).
#pragma once

namespace glm {

// Sets the kind of processor for MKL, and Paddle's flag of strides; what the user has set stays, and GLM_TUNE=0 leaves
// all of it alone.
void tune_for_paddle();

}  // namespace glm
