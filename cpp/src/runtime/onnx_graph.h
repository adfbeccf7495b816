// Step graphs of standard operators (glm/export/onnx/standard.py) in ONNX Runtime, as a module's runtime has them.
#pragma once

#include "runtime/graph_module.h"

namespace glm {

const glm_graph_table& onnx_graph_table();

}  // namespace glm
