// Memory of caches: zeros that take no room before they are written.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

namespace glm {

struct FreeMemory {
    void operator()(void* memory) const { std::free(memory); }
};
using FloatArray = std::unique_ptr<float[], FreeMemory>;

inline FloatArray zeros(std::size_t count) {
    auto* memory = static_cast<float*>(std::calloc(count ? count : 1, sizeof(float)));
    if (memory == nullptr) throw std::bad_alloc();
    return FloatArray(memory);
}

}  // namespace glm
