// What is used of FastDeploy 1.0.7's C++ interface: its wheel brings the library, and no header.
//
// Structs are opaque and larger than the real ones, and have exported functions alone; names and types are those of
// release/1.0.7.
#pragma once

#include <cstdint>
#include <new>
#include <string>
#include <vector>

namespace fastdeploy {

enum FDDataType { INT64 = 3, FP32 = 5 };
enum Device { CPU = 0 };
enum ModelFormat { ONNX = 2 };

struct RuntimeOption {
    RuntimeOption();
    ~RuntimeOption();
    RuntimeOption(const RuntimeOption&) = delete;

    void SetModelPath(const std::string& model, const std::string& params, const ModelFormat& format);
    void UseCpu();
    void UseOrtBackend();
    void SetCpuThreadNum(int threads);

private:
    alignas(16) unsigned char storage_[32768];
};

struct FDTensor {
    explicit FDTensor(const char* name);
    ~FDTensor();
    FDTensor(const FDTensor&) = delete;

    void SetExternalData(const std::vector<int64_t>& shape, const FDDataType& type, void* data, const Device& device,
                         int device_id);
    const void* CpuData() const;
    int Numel() const;

private:
    alignas(16) unsigned char storage_[4096];
};

struct TensorInfo {
    std::string name;
    std::vector<int> shape;
    FDDataType dtype;
};

struct Runtime {
    // The real one has no exported constructor: it begins with its option, and all behind that begins as zeros.
    Runtime() { new (storage_) RuntimeOption(); }
    ~Runtime();
    Runtime(const Runtime&) = delete;

    bool Init(const RuntimeOption& option);
    bool Infer();
    void BindInputTensor(const std::string& name, FDTensor& input);
    FDTensor* GetOutputTensor(const std::string& name);
    std::vector<TensorInfo> GetInputInfos();
    std::vector<TensorInfo> GetOutputInfos();

private:
    alignas(16) unsigned char storage_[65536] = {};
};

void SetLogger(bool enable_info, bool enable_warning);

}  // namespace fastdeploy
