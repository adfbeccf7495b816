#include "runtime/tuning.h"

#include <cstdlib>
#include <cstring>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace glm {

namespace {

// ONNX Runtime's name: with 1 its attention keeps all scores of a call, else they are computed in tiles.
constexpr const char* kAllScores = "ORT_GQA_DISABLE_FLASH_ATTENTION";

#if defined(__x86_64__)
// Paddle's wheels carry MKL 2019, which takes a slow path on AMD's processors unless it is told what they can.
const char* mkl_cpu_type() {
    unsigned highest = 0, vendor[3] = {};
    if (!__get_cpuid(0, &highest, &vendor[0], &vendor[2], &vendor[1])) return nullptr;
    if (std::memcmp(vendor, "AuthenticAMD", 12) != 0) return nullptr;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        return "9";
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "5" : nullptr;
}
#else
const char* mkl_cpu_type() { return nullptr; }
#endif

}  // namespace

AttentionOf::AttentionOf(std::int64_t positions)
    : chosen_(positions <= kAllScoresPositions && std::getenv(kAllScores) == nullptr) {
    if (chosen_) ::setenv(kAllScores, "1", 0);
}

AttentionOf::~AttentionOf() {
    if (chosen_) ::unsetenv(kAllScores);
}

void tune_for_paddle() {
    const char* tune = std::getenv("GLM_TUNE");
    for (const char* off : {"0", "false", "no", "off"})
        if (tune != nullptr && std::strcmp(tune, off) == 0) return;
    if (const char* type = mkl_cpu_type()) ::setenv("MKL_DEBUG_CPU_TYPE", type, 0);
    ::setenv("FLAGS_use_stride_kernel", "0", 0);
    ::setenv("GLOG_minloglevel", "2", 0);
}

}  // namespace glm
