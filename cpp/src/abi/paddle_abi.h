// What is used of Paddle Inference's C++ interface: Paddle's wheels bring the library, and no header of it.
//
// Classes are opaque, larger than the real ones, and have exported functions alone; names and types are Paddle 3.3.1's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace paddle {

class AnalysisConfig {
public:
    AnalysisConfig(const std::string& program_file, const std::string& params_file);
    ~AnalysisConfig();
    AnalysisConfig(const AnalysisConfig&) = delete;

    void DisableGpu();
    void DisableMKLDNN();
    void DisableGlogInfo();
    void SetCpuMathLibraryNumThreads(int threads);

private:
    alignas(16) unsigned char storage_[16384];
};

}  // namespace paddle

namespace paddle_infer {

enum class PlaceType { kUNK = -1, kCPU };
enum class DataLayout { kUNK = -1, kAny, kNHWC, kNCHW };

// A handle; it is never deleted, for only the real class knows how.
class Tensor {
public:
    void Reshape(const std::vector<int>& shape);
    template <typename T>
    void CopyFromCpu(const T* data);
    template <typename T>
    void ShareExternalData(const T* data, const std::vector<int>& shape, PlaceType place, DataLayout layout);
    template <typename T>
    T* data(PlaceType* place, int* size) const;
};

class Predictor {
public:
    std::vector<std::string> GetInputNames();
    std::vector<std::string> GetOutputNames();
    std::unique_ptr<Tensor> GetInputHandle(const std::string& name);
    std::unique_ptr<Tensor> GetOutputHandle(const std::string& name);
    bool Run();
};

std::shared_ptr<Predictor> CreatePredictor(const paddle::AnalysisConfig& config);
std::string GetVersion();

}  // namespace paddle_infer
