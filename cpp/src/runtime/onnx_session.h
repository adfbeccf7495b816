// ONNX Runtime's C interface, owned: a session, tensors over memory of ours, and calls that are bound once.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#ifdef GLM_ONNXRUNTIME_HEADERS
#include <onnxruntime_c_api.h>
#else
#include "abi/ort_abi.h"
#endif

#include "base/files.h"

namespace glm {

// The library, which is loaded when it is first needed. Throws Error where it is missing or too old.
const OrtApi& onnxruntime();

// Throws Error with `doing` and the library's reason, on one line, unless `status` is null.
void require_ok(OrtStatus* status, const std::string& doing);

// A tensor over memory of ours, for the caller to release. Throws Error.
OrtValue* tensor_over(const float* data, const std::vector<std::int64_t>& shape);
OrtValue* tensor_over(const std::int32_t* data, const std::vector<std::int64_t>& shape);
OrtValue* tensor_over(const std::int64_t* data, const std::vector<std::int64_t>& shape);

// A call's inputs and outputs, bound to memory by address: what is written there is what the next run reads.
class OnnxCall {
public:
    explicit OnnxCall(OrtSession* session);
    ~OnnxCall();
    OnnxCall(const OnnxCall&) = delete;
    OnnxCall& operator=(const OnnxCall&) = delete;

    template <typename T>
    void bind(const std::string& name, bool input, const T* data, const std::vector<std::int64_t>& shape) {
        bind_value(name, input, tensor_over(data, shape));
    }

    // Throws Error where an operator fails.
    void run();

private:
    void bind_value(const std::string& name, bool input, OrtValue* value);

    OrtSession* session_;
    OrtIoBinding* binding_ = nullptr;
    std::vector<OrtValue*> values_;
};

class OnnxSession {
public:
    // Throws Error where the file is missing or cannot be loaded.
    OnnxSession(const fs::path& model_file, int threads);

    // Shapes by name, -1 where they are free.
    using Shapes = std::map<std::string, std::vector<std::int64_t>>;
    const Shapes& inputs() const { return inputs_; }
    const Shapes& outputs() const { return outputs_; }
    OrtSession* get() const { return session_.get(); }

private:
    OrtSession* open(const fs::path& model_file, OrtSessionOptions* options) const;
    Shapes shapes(bool input) const;

    struct Release {
        void operator()(OrtSession* session) const { onnxruntime().ReleaseSession(session); }
    };
    std::unique_ptr<OrtSession, Release> session_;
    Shapes inputs_, outputs_;
};

}  // namespace glm
