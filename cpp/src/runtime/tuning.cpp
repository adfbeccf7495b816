#include "runtime/tuning.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
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

bool is_off() {
    const char* tune = std::getenv("GLM_TUNE");
    for (const char* off : {"0", "false", "no", "off"})
        if (tune != nullptr && ::strcasecmp(tune, off) == 0) return true;
    return false;
}

#if defined(__GLIBC__) && defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)
#define GLM_HAS_HEAP
bool allocator_is_chosen() {
    for (char** variable = environ; *variable != nullptr; ++variable)
        for (const char* name : {"MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"})
            if (std::strncmp(*variable, name, std::strlen(name)) == 0) return true;
    return false;
}

// Grown by nearly as much as the machine has, which takes none of it before it is used, marked, and given back as one
// free piece. Where that is refused, pages stay small.
void mark_heap() {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t size = static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) / 16 * 15 * page;
    void* start = std::malloc(size);
    if (start == nullptr) return;
    const std::uintptr_t first = (reinterpret_cast<std::uintptr_t>(start) + page - 1) / page * page;
    ::madvise(reinterpret_cast<void*>(first), size - page, MADV_HUGEPAGE);
    std::free(start);
}
#endif

}  // namespace

AttentionOf::AttentionOf(std::int64_t positions)
    : chosen_(positions <= kAllScoresPositions && std::getenv(kAllScores) == nullptr) {
    if (chosen_) ::setenv(kAllScores, "1", 0);
}

AttentionOf::~AttentionOf() {
    if (chosen_) ::unsetenv(kAllScores);
}

void tune_process() {
#ifdef GLM_HAS_HEAP
    if (is_off() || allocator_is_chosen()) return;
    ::mallopt(M_MMAP_MAX, 0);
    ::mallopt(M_TRIM_THRESHOLD, -1);
    ::mallopt(M_ARENA_MAX, 1);  // a model is opened by a thread of its own, which would have a heap of its own
    mark_heap();
#endif
}

void tune_for_paddle() {
    if (is_off()) return;
    if (const char* type = mkl_cpu_type()) ::setenv("MKL_DEBUG_CPU_TYPE", type, 0);
    ::setenv("FLAGS_use_stride_kernel", "0", 0);
    ::setenv("GLOG_minloglevel", "2", 0);
}

}  // namespace glm
