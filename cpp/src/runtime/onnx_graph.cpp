#include "runtime/onnx_graph.h"

#include <cstdio>
#include <map>
#include <memory>
#include <vector>

#include "base/error.h"
#include "runtime/onnx_session.h"

namespace {

struct ReleaseValue {
    void operator()(OrtValue* value) const { glm::onnxruntime().ReleaseValue(value); }
};
using Value = std::unique_ptr<OrtValue, ReleaseValue>;

template <typename Work>
int guarded(glm_graph_error* error, const Work& work) {
    try {
        work();
        return 0;
    } catch (const std::exception& exception) {
        std::snprintf(error->text, sizeof error->text, "%s", exception.what());
        return 1;
    }
}

}  // namespace

// The session, what the next run reads, and what the last one gave: logits, new.
struct glm_graph {
    glm_graph(const char* model_file, int threads) : session(model_file, threads) {
        for (const auto& [name, shape] : session.inputs()) inputs[name] = nullptr;
    }

    glm::OnnxSession session;
    std::map<std::string, Value> inputs;
    Value outputs[2];
};

namespace {

constexpr const char* kOutputs[] = {"logits", "new"};

int open_graph(const char* model_file, const char*, int threads, glm_graph** graph, glm_graph_error* error) {
    return guarded(error, [&] { *graph = new glm_graph(model_file, threads); });
}

void close_graph(glm_graph* graph) { delete graph; }

int describe(glm_graph* graph, int is_output, int place, const char** name, int* shape, int* rank, glm_graph_error*) {
    const auto& ends = is_output ? graph->session.outputs() : graph->session.inputs();
    if (place >= static_cast<int>(ends.size())) return 1;
    const auto& [found, sizes] = *std::next(ends.begin(), place);
    *name = found.c_str();
    *rank = 0;
    for (const std::int64_t size : sizes)
        if (*rank < GLM_GRAPH_MOST_DIMENSIONS) shape[(*rank)++] = static_cast<int>(size);
    return 0;
}

template <typename T>
int set(glm_graph* graph, const char* name, const T* data, const int* shape, int rank, glm_graph_error* error) {
    return guarded(error, [&] {
        graph->inputs[name].reset(glm::tensor_over(data, std::vector<std::int64_t>(shape, shape + rank)));
    });
}

int run_graph(glm_graph* graph, glm_graph_error* error) {
    return guarded(error, [&] {
        std::vector<const char*> names;
        std::vector<const OrtValue*> values;
        for (const auto& [name, value] : graph->inputs) {
            if (!value) glm::fail("its input ", name, " is not given");
            names.push_back(name.c_str());
            values.push_back(value.get());
        }
        OrtValue* found[2] = {};
        glm::require_ok(glm::onnxruntime().Run(graph->session.get(), nullptr, names.data(), values.data(), names.size(),
                                               kOutputs, 2, found),
                        "ONNX Runtime");
        for (int place = 0; place < 2; ++place) graph->outputs[place].reset(found[place]);
    });
}

int output(glm_graph* graph, int place, const float** data, size_t* count, glm_graph_error* error) {
    return guarded(error, [&] {
        const OrtApi& api = glm::onnxruntime();
        OrtTensorTypeAndShapeInfo* info = nullptr;
        void* memory = nullptr;
        OrtValue* value = graph->outputs[place].get();
        glm::require_ok(api.GetTensorTypeAndShape(value, &info), "ONNX Runtime");
        const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> owner(
            info, api.ReleaseTensorTypeAndShapeInfo);
        ONNXTensorElementDataType type{};
        glm::require_ok(api.GetTensorElementType(info, &type), "ONNX Runtime");
        if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
            glm::fail(kOutputs[place], " is of ONNX's type ", static_cast<int>(type),
                      ", and must be float32: export the model again");
        glm::require_ok(api.GetTensorShapeElementCount(info, count), "ONNX Runtime");
        glm::require_ok(api.GetTensorMutableData(value, &memory), "ONNX Runtime");
        *data = static_cast<const float*>(memory);
    });
}

}  // namespace

namespace glm {

const glm_graph_table& onnx_graph_table() {
    static const glm_graph_table table = {GLM_GRAPH_VERSION, "ONNX Runtime", open_graph, close_graph, describe,
                                          set<std::int64_t>, set<float>,     run_graph,  output};
    return table;
}

}  // namespace glm
