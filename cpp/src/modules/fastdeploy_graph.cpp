// Graphs in FastDeploy 1.0.7, with the ONNX Runtime 1.12 that it has inside: the module libglm_fastdeploy.so
// (runtime/graph_module.h).
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef GLM_FASTDEPLOY_HEADERS
#include <fastdeploy/runtime.h>
#else
#include "abi/fastdeploy_abi.h"
#endif

#include "runtime/graph_module.h"

struct glm_graph {
    fastdeploy::Runtime runtime;
    std::vector<fastdeploy::TensorInfo> inputs, outputs;
    std::map<std::string, std::unique_ptr<fastdeploy::FDTensor>> tensors;
};

namespace {

namespace fs = std::filesystem;

template <typename Work>
int guarded(glm_graph_error* error, const Work& work) {
    const char* reason = "an unknown error";
    try {
        work();
        return 0;
    } catch (const std::exception& exception) {
        std::snprintf(error->text, sizeof error->text, "%s", exception.what());
        return 1;
    } catch (...) {
        std::snprintf(error->text, sizeof error->text, "%s", reason);
        return 1;
    }
}

// FastDeploy gives ONNX Runtime the graph without its place, so the weights are looked for from the working directory,
// which is the whole process's: one thread at a time.
class InDirectory {
public:
    explicit InDirectory(const fs::path& directory) : alone_(lock()), before_(fs::current_path()) {
        fs::current_path(directory);
    }
    ~InDirectory() {
        std::error_code ignored;
        fs::current_path(before_, ignored);
    }

private:
    static std::unique_lock<std::mutex> lock() {
        static std::mutex mutex;
        return std::unique_lock<std::mutex>(mutex);
    }

    std::unique_lock<std::mutex> alone_;
    fs::path before_;
};

int open_graph(const char* model_file, const char*, int threads, glm_graph** graph, glm_graph_error* error) {
    return guarded(error, [&] {
        fastdeploy::SetLogger(false, false);
        const fs::path model = fs::absolute(model_file);
        fastdeploy::RuntimeOption option;
        option.SetModelPath(model.string(), std::string(), fastdeploy::ModelFormat::ONNX);
        option.UseCpu();
        option.UseOrtBackend();
        if (threads > 0) option.SetCpuThreadNum(threads);
        auto made = std::make_unique<glm_graph>();
        const InDirectory here(model.parent_path());
        if (!made->runtime.Init(option)) throw std::runtime_error("it does not take the graph");
        made->inputs = made->runtime.GetInputInfos();
        made->outputs = made->runtime.GetOutputInfos();
        for (const fastdeploy::TensorInfo& info : made->outputs)
            if (info.dtype != fastdeploy::FDDataType::FP32)
                throw std::runtime_error(info.name + " is not float32: export the model again");
        *graph = made.release();
    });
}

void close_graph(glm_graph* graph) { delete graph; }

int describe(glm_graph* graph, int is_output, int place, const char** name, int* shape, int* rank, glm_graph_error*) {
    const auto& infos = is_output ? graph->outputs : graph->inputs;
    if (place >= static_cast<int>(infos.size())) return 1;
    const fastdeploy::TensorInfo& info = infos[static_cast<std::size_t>(place)];
    *name = info.name.c_str();
    *rank = 0;
    for (const int size : info.shape)
        if (*rank < GLM_GRAPH_MOST_DIMENSIONS) shape[(*rank)++] = size;
    return 0;
}

int bind(glm_graph* graph, const char* name, const void* data, fastdeploy::FDDataType type, const int* shape, int rank,
         glm_graph_error* error) {
    return guarded(error, [&] {
        std::unique_ptr<fastdeploy::FDTensor>& tensor = graph->tensors[name];
        if (!tensor) tensor = std::make_unique<fastdeploy::FDTensor>(name);
        tensor->SetExternalData(std::vector<int64_t>(shape, shape + rank), type, const_cast<void*>(data),
                                fastdeploy::Device::CPU, -1);
        graph->runtime.BindInputTensor(name, *tensor);
    });
}

int set_int64(glm_graph* graph, const char* name, const int64_t* data, const int* shape, int rank,
              glm_graph_error* error) {
    return bind(graph, name, data, fastdeploy::FDDataType::INT64, shape, rank, error);
}

int set_float(glm_graph* graph, const char* name, const float* data, const int* shape, int rank,
              glm_graph_error* error) {
    return bind(graph, name, data, fastdeploy::FDDataType::FP32, shape, rank, error);
}

int run_graph(glm_graph* graph, glm_graph_error* error) {
    return guarded(error, [&] {
        if (!graph->runtime.Infer()) throw std::runtime_error("it did not run");
    });
}

int output(glm_graph* graph, int place, const float** data, size_t* count, glm_graph_error* error) {
    return guarded(error, [&] {
        const fastdeploy::FDTensor* found = graph->runtime.GetOutputTensor(place == 0 ? "logits" : "new");
        if (found == nullptr) throw std::runtime_error("an output is missing");
        *data = static_cast<const float*>(found->CpuData());
        *count = static_cast<size_t>(found->Numel());
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const glm_graph_table* glm_graph_module_fastdeploy() {
    static const glm_graph_table table = {GLM_GRAPH_VERSION, "FastDeploy 1.0.7", open_graph, close_graph, describe,
                                          set_int64,         set_float,          run_graph,  output};
    return &table;
}
