#include "runtime/open.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "runtime/columns_step.h"
#include "runtime/library.h"
#include "runtime/onnx_graph.h"
#include "runtime/onnx_session.h"
#include "runtime/onnx_step.h"
#include "runtime/tuning.h"

namespace glm {

namespace {

const std::map<std::string, std::string> kFormats = {{"onnx_runtime", "onnx"}, {"paddle", "paddle"}, {"fastdeploy", "onnx"}};

std::unique_ptr<StepRuntime> open_paddle(const RuntimeOptions& options) {
    GraphShapes shapes = paddle_graph_shapes(options.model_file);
    if (!fs::is_regular_file(options.params_file))
        fail(options.params_file.string(), " is missing: export the model again");
    tune_for_paddle();
    return std::make_unique<ColumnsStep>(std::make_unique<Graph>(graph_module("paddle"), options), std::move(shapes));
}

bool holds(const std::vector<std::string>& formats, const std::string& format) {
    return std::find(formats.begin(), formats.end(), format) != formats.end();
}

}  // namespace

Choice choose(const std::optional<std::string>& wanted, const std::vector<std::string>& formats) {
    if (!wanted) {
        if (!holds(formats, "onnx")) return {"paddle", "--format onnx would be faster on a CPU", "paddle"};
        return {"onnx_runtime", "the fastest on a CPU", "onnx"};
    }
    const std::string& format = kFormats.at(*wanted);
    if (!formats.empty() && !holds(formats, format))
        fail("backend ", *wanted, " runs exports of --format ", format, ", and this one is ", formats[0],
             ": export again, or use --backend ", formats[0] == "onnx" ? "onnx_runtime" : "paddle");
    return {*wanted, "asked for", format};
}

std::unique_ptr<StepRuntime> open_step(const Choice& choice, const Manifest& manifest, const fs::path& directory,
                                       const std::string& prefix, int cpu_threads) {
    const std::string file = prefix + (choice.format == "onnx" ? ".onnx" : ".step.json");
    if (!manifest.names(file))
        fail((directory / file).string(), " is not in the export's manifest: export the model again");
    RuntimeOptions options;
    options.model_file = directory / file;
    options.cpu_threads = cpu_threads;
    const std::string own = prefix + ".step.pdiparams";
    options.params_file = directory / (manifest.names(own) ? own : prefix + ".pdiparams");
    if (choice.name == "paddle") return open_paddle(options);
    if (choice.name == "onnx_runtime" && !manifest.standard && !manifest.gives_columns)
        return std::make_unique<OnnxStep>(options);
    auto graph = std::make_unique<Graph>(choice.name == "fastdeploy" ? graph_module("fastdeploy") : onnx_graph_table(),
                                         options);
    GraphShapes shapes = graph->shapes(options.model_file);
    return std::make_unique<ColumnsStep>(std::move(graph), std::move(shapes));
}

}  // namespace glm
