// Step graphs that give new keys and values back (glm/export/onnx/column_cache.py) in ONNX Runtime, as a module's
// runtime has them.
#pragma once

#include "runtime/graph_module.h"

namespace glm {

const glm_graph_table& onnx_graph_table();

}  // namespace glm
