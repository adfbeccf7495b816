#include "runtime/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "base/files.h"
#include "base/text.h"

#ifndef GLM_ONNXRUNTIME_LIBRARY
#define GLM_ONNXRUNTIME_LIBRARY ""
#endif

namespace glm {

namespace {

// Where this program or library lies.
fs::path own_folder() {
    Dl_info info{};
    if (::dladdr(reinterpret_cast<void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return ".";
    std::error_code failed;
    const fs::path file = fs::canonical(info.dli_fname, failed);  // of a program it is how it was called
    return failed ? fs::canonical("/proc/self/exe").parent_path() : file.parent_path();
}

}  // namespace

Library::Library(const std::string& name, const std::string& path, const std::string& advice, bool alone)
    : name_(name), path_(path) {
    handle_ = ::dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL | (alone ? RTLD_DEEPBIND : 0));
    if (handle_ == nullptr)
        fail("the library of ", name_, " cannot be loaded (", on_one_line(::dlerror()), "): ", advice);
}

void* Library::find(const char* symbol) const {
    void* place = ::dlsym(handle_, symbol);
    if (place == nullptr) fail(path_, " is no library of ", name_, ": it has no ", symbol);
    return place;
}

const Library& onnxruntime_library() {
    static const Library library = [] {
        const char* wanted = std::getenv("GLM_ONNXRUNTIME");
        std::string path = wanted != nullptr ? wanted : "";
        if (path.empty()) path = GLM_ONNXRUNTIME_LIBRARY;
        if (path.empty()) path = "libonnxruntime.so.1";
        return Library("ONNX Runtime", path,
                       "pip install onnxruntime and build again (make cpp), or set GLM_ONNXRUNTIME to libonnxruntime.so");
    }();
    return library;
}

const glm_graph_table& graph_module(const std::string& runtime) {
    static std::map<std::string, std::unique_ptr<Library>> loaded;
    static std::mutex mutex;
    const std::lock_guard<std::mutex> alone(mutex);
    const fs::path file = own_folder() / ("libglm_" + runtime + ".so");
    if (!fs::is_regular_file(file))
        fail("backend ", runtime, " is not built in (there is no ", file.string(),
             "): install its package and build again (make cpp), or use --backend onnx_runtime");
    std::unique_ptr<Library>& library = loaded[runtime];
    if (!library)
        library = std::make_unique<Library>(runtime, file.string(),
                                            "install the version that it was built with, or build again (make cpp)", true);
    const glm_graph_table* table = library->function<glm_graph_module>(("glm_graph_module_" + runtime).c_str())();
    if (table->version != GLM_GRAPH_VERSION)
        fail(file.string(), " is of another build (version ", table->version, ", not ", GLM_GRAPH_VERSION,
             "): build again (make cpp)");
    return *table;
}

}  // namespace glm
