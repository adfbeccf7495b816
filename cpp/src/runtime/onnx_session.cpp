#include "runtime/onnx_session.h"

#include <cstdlib>

#include "base/error.h"
#include "base/text.h"
#include "runtime/library.h"

namespace glm {

namespace {

constexpr std::uint32_t kApiVersion = 14;
constexpr std::size_t kLongestReason = 300;
constexpr const char* kFolderOption = "session.model_external_initializers_file_folder_path";

const OrtApiBase& api_base() {
    return *onnxruntime_library().function<const OrtApiBase* (*)()>("OrtGetApiBase")();
}

const OrtApi* load_api() {
    const OrtApi* api = api_base().GetApi(kApiVersion);
    if (api == nullptr)
        fail(onnxruntime_library().path(), " is ONNX Runtime ", api_base().GetVersionString(), ", and 1.14 or newer is needed: set "
             "GLM_ONNXRUNTIME to another libonnxruntime.so");
    return api;
}

OrtEnv* environment() {
    static OrtEnv* env = [] {
        OrtEnv* made = nullptr;
        require_ok(onnxruntime().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "glm", &made), "ONNX Runtime cannot start");
        return made;
    }();
    return env;
}

std::size_t elements(const std::vector<std::int64_t>& shape) {
    std::size_t count = 1;
    for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
    return count;
}

OrtValue* tensor(const void* data, std::size_t item, ONNXTensorElementDataType type,
                 const std::vector<std::int64_t>& shape) {
    static OrtMemoryInfo* memory = [] {
        OrtMemoryInfo* made = nullptr;
        require_ok(onnxruntime().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &made), "ONNX Runtime");
        return made;
    }();
    OrtValue* value = nullptr;
    require_ok(onnxruntime().CreateTensorWithDataAsOrtValue(memory, const_cast<void*>(data), item * elements(shape),
                                                            shape.data(), shape.size(), type, &value),
               "ONNX Runtime");
    return value;
}

}  // namespace

const OrtApi& onnxruntime() {
    static const OrtApi* api = load_api();
    return *api;
}

void require_ok(OrtStatus* status, const std::string& doing) {
    if (status == nullptr) return;
    const std::string reason = on_one_line(onnxruntime().GetErrorMessage(status)).substr(0, kLongestReason);
    onnxruntime().ReleaseStatus(status);
    fail(doing, ": ", reason);
}

OrtValue* tensor_over(const float* data, const std::vector<std::int64_t>& shape) {
    return tensor(data, sizeof *data, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, shape);
}

OrtValue* tensor_over(const std::int32_t* data, const std::vector<std::int64_t>& shape) {
    return tensor(data, sizeof *data, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, shape);
}

OrtValue* tensor_over(const std::int64_t* data, const std::vector<std::int64_t>& shape) {
    return tensor(data, sizeof *data, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, shape);
}

OnnxCall::OnnxCall(OrtSession* session) : session_(session) {
    require_ok(onnxruntime().CreateIoBinding(session, &binding_), "ONNX Runtime");
}

OnnxCall::~OnnxCall() {
    for (OrtValue* value : values_) onnxruntime().ReleaseValue(value);
    onnxruntime().ReleaseIoBinding(binding_);
}

void OnnxCall::bind_value(const std::string& name, bool input, OrtValue* value) {
    const OrtApi& api = onnxruntime();
    values_.push_back(value);
    require_ok((input ? api.BindInput : api.BindOutput)(binding_, name.c_str(), value), "the graph's " + name);
}

void OnnxCall::run() {
    require_ok(onnxruntime().RunWithBinding(session_, nullptr, binding_), "the graph failed in ONNX Runtime");
}

OnnxSession::OnnxSession(const fs::path& model_file, int threads) {
    if (!fs::is_regular_file(model_file))
        fail(model_file.string(), " is missing: export the model with --format onnx");
    const OrtApi& api = onnxruntime();
    OrtSessionOptions* made = nullptr;
    require_ok(api.CreateSessionOptions(&made), "ONNX Runtime");
    const std::unique_ptr<OrtSessionOptions, void (*)(OrtSessionOptions*)> options(made, api.ReleaseSessionOptions);
    require_ok(api.SetIntraOpNumThreads(options.get(), threads), "ONNX Runtime");
    require_ok(api.SetInterOpNumThreads(options.get(), 1), "ONNX Runtime");
    // Warnings are for those who build graphs, and errors are thrown.
    require_ok(api.SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL), "ONNX Runtime");
    session_.reset(open(model_file, options.get()));
    inputs_ = shapes(true);
    outputs_ = shapes(false);
}

// The weights are mapped where they lie: ONNX Runtime wants them beside the graph, so links are followed here.
OrtSession* OnnxSession::open(const fs::path& model_file, OrtSessionOptions* options) const {
    const OrtApi& api = onnxruntime();
    OrtSession* session = nullptr;
    const std::string doing = "ONNX Runtime cannot load " + model_file.string();
    const fs::path weights = model_file.string() + ".data";
    if (!fs::is_symlink(weights) && !fs::is_symlink(model_file)) {
        require_ok(api.CreateSession(environment(), model_file.c_str(), options, &session), doing);
        return session;
    }
    const fs::path real = fs::canonical(weights);
    if (real.filename() != weights.filename())
        fail(weights.string(), " is a link to a file of another name, ", real.filename().string(),
             ": copy the export, or use infer_generation.py");
    require_ok(api.AddSessionConfigEntry(options, kFolderOption, real.parent_path().c_str()), doing);
    const std::string graph = read_file(model_file, "export the model again");
    require_ok(api.CreateSessionFromArray(environment(), graph.data(), graph.size(), options, &session), doing);
    return session;
}

OnnxSession::Shapes OnnxSession::shapes(bool input) const {
    const OrtApi& api = onnxruntime();
    OrtAllocator* allocator = nullptr;
    require_ok(api.GetAllocatorWithDefaultOptions(&allocator), "ONNX Runtime");
    std::size_t count = 0;
    require_ok((input ? api.SessionGetInputCount : api.SessionGetOutputCount)(session_.get(), &count), "ONNX Runtime");
    Shapes found;
    for (std::size_t i = 0; i < count; ++i) {
        char* name = nullptr;
        OrtTypeInfo* type = nullptr;
        const OrtTensorTypeAndShapeInfo* info = nullptr;
        require_ok((input ? api.SessionGetInputName : api.SessionGetOutputName)(session_.get(), i, allocator, &name),
                   "ONNX Runtime");
        std::vector<std::int64_t>& shape = found[name];
        require_ok(api.AllocatorFree(allocator, name), "ONNX Runtime");
        require_ok((input ? api.SessionGetInputTypeInfo : api.SessionGetOutputTypeInfo)(session_.get(), i, &type),
                   "ONNX Runtime");
        const std::unique_ptr<OrtTypeInfo, void (*)(OrtTypeInfo*)> owner(type, api.ReleaseTypeInfo);
        require_ok(api.CastTypeInfoToTensorInfo(type, &info), "ONNX Runtime");
        if (info == nullptr) continue;  // no tensor
        std::size_t rank = 0;
        require_ok(api.GetDimensionsCount(info, &rank), "ONNX Runtime");
        shape.resize(rank);
        require_ok(api.GetDimensions(info, shape.data(), rank), "ONNX Runtime");
    }
    return found;
}

}  // namespace glm
