// Graphs in Paddle Inference: the module libglm_paddle.so (runtime/graph_module.h).
#include <cstdio>
#include <stdexcept>
#include <map>
#include <memory>
#include <string>
#include <vector>

#ifdef GLM_PADDLE_HEADERS
#include <paddle_inference_api.h>
#else
#include "abi/paddle_abi.h"
#endif

#include "runtime/graph_module.h"

struct glm_graph {
    std::shared_ptr<paddle_infer::Predictor> predictor;
    std::vector<std::string> outputs;
    // Handles live as long as the process: see paddle_abi.h.
    std::map<std::string, paddle_infer::Tensor*> handles;

    paddle_infer::Tensor& input(const std::string& name) {
        paddle_infer::Tensor*& handle = handles[name];
        if (handle == nullptr) handle = predictor->GetInputHandle(name).release();
        return *handle;
    }
};

namespace {

// Runs what may throw; the reason is the first line of Paddle's summary, which stands at the end of its message.
template <typename Work>
int guarded(glm_graph_error* error, const Work& work) {
    std::string reason;
    try {
        work();
        return 0;
    } catch (const std::exception& exception) {
        reason = exception.what();
    } catch (...) {
        reason = "an unknown error";
    }
    const std::string heading = "Error Message Summary:";
    if (const std::size_t place = reason.find(heading); place != std::string::npos) {
        reason = reason.substr(place + heading.size());
        if (const std::size_t start = reason.find_first_not_of("\n\r\t -"); start != std::string::npos)
            reason = reason.substr(start);
    }
    std::snprintf(error->text, sizeof error->text, "%s", reason.c_str());
    return 1;
}

int open_graph(const char* model_file, const char* params_file, int threads, glm_graph** graph,
               glm_graph_error* error) {
    return guarded(error, [&] {
        paddle::AnalysisConfig config{std::string(model_file), std::string(params_file)};
        config.DisableGlogInfo();
        // Measured on a decoder graph: oneDNN halves its speed, and one of its passes breaks it.
        config.DisableMKLDNN();
        config.DisableGpu();
        config.SetCpuMathLibraryNumThreads(threads);
        auto made = std::make_unique<glm_graph>();
        made->predictor = paddle_infer::CreatePredictor(config);
        made->outputs = made->predictor->GetOutputNames();
        *graph = made.release();
    });
}

void close_graph(glm_graph* graph) { delete graph; }

int set_int64(glm_graph* graph, const char* name, const int64_t* data, const int* shape, int rank,
              glm_graph_error* error) {
    return guarded(error, [&] {
        paddle_infer::Tensor& input = graph->input(name);
        input.Reshape({shape, shape + rank});
        input.CopyFromCpu(data);
    });
}

int set_float(glm_graph* graph, const char* name, const float* data, const int* shape, int rank,
              glm_graph_error* error) {
    return guarded(error, [&] {
        graph->input(name).ShareExternalData(data, {shape, shape + rank}, paddle_infer::PlaceType::kCPU,
                                             paddle_infer::DataLayout::kNCHW);
    });
}

int run_graph(glm_graph* graph, glm_graph_error* error) {
    return guarded(error, [&] {
        if (!graph->predictor->Run()) throw std::runtime_error("it did not run");
    });
}

int output(glm_graph* graph, int place, const float** data, size_t* count, glm_graph_error* error) {
    return guarded(error, [&] {
        paddle_infer::Tensor*& handle = graph->handles[" output " + std::to_string(place)];
        if (handle == nullptr)
            handle = graph->predictor->GetOutputHandle(graph->outputs.at(static_cast<std::size_t>(place))).release();
        paddle_infer::PlaceType where;
        int size = 0;
        *data = handle->data<float>(&where, &size);
        *count = static_cast<size_t>(size);
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const glm_graph_table* glm_graph_module_paddle() {
    static const std::string version = "Paddle Inference\n" + paddle_infer::GetVersion();
    static const glm_graph_table table = {GLM_GRAPH_VERSION, version.c_str(), open_graph, close_graph, nullptr,
                                          set_int64,         set_float,       run_graph,  output};
    return &table;
}
