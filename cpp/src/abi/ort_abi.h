// What is used of ONNX Runtime's C interface, where its header is not there (PyPI's wheels bring the library alone).
//
// The interface is a table of functions to which new versions only append, so a place in it means the same in every
// library from version 1.14 on. Names, places and types are ONNX Runtime's; what is not used is a gap.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtAllocator;
struct OrtEnv;
struct OrtIoBinding;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_FATAL = 4 };
enum OrtAllocatorType { OrtDeviceAllocator = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7
};

struct OrtApi {
    void* at_0[2];
    const char* (*GetErrorMessage)(const OrtStatus*);
    OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char*, OrtEnv**);
    void* at_4[3];
    OrtStatus* (*CreateSession)(const OrtEnv*, const char*, const OrtSessionOptions*, OrtSession**);
    OrtStatus* (*CreateSessionFromArray)(const OrtEnv*, const void*, size_t, const OrtSessionOptions*, OrtSession**);
    OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*, size_t,
                      const char* const*, size_t, OrtValue**);
    OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);
    void* at_11[11];
    OrtStatus* (*SetSessionLogSeverityLevel)(OrtSessionOptions*, int);
    void* at_23[1];
    OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int);
    OrtStatus* (*SetInterOpNumThreads)(OrtSessionOptions*, int);
    void* at_26[4];
    OrtStatus* (*SessionGetInputCount)(const OrtSession*, size_t*);
    OrtStatus* (*SessionGetOutputCount)(const OrtSession*, size_t*);
    void* at_32[1];
    OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession*, size_t, OrtTypeInfo**);
    OrtStatus* (*SessionGetOutputTypeInfo)(const OrtSession*, size_t, OrtTypeInfo**);
    void* at_35[1];
    OrtStatus* (*SessionGetInputName)(const OrtSession*, size_t, OrtAllocator*, char**);
    OrtStatus* (*SessionGetOutputName)(const OrtSession*, size_t, OrtAllocator*, char**);
    void* at_38[11];
    OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void*, size_t, const int64_t*, size_t,
                                                 ONNXTensorElementDataType, OrtValue**);
    void* at_50[1];
    OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);
    void* at_52[3];
    OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**);
    void* at_56[4];
    OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*);
    OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t*);
    OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t);
    void* at_63[1];
    OrtStatus* (*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo*, size_t*);
    OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);
    void* at_66[3];
    OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);
    void* at_70[6];
    OrtStatus* (*AllocatorFree)(OrtAllocator*, void*);
    void* at_77[1];
    OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**);
    void* at_79[13];
    void (*ReleaseEnv)(OrtEnv*);
    void (*ReleaseStatus)(OrtStatus*);
    void (*ReleaseMemoryInfo)(OrtMemoryInfo*);
    void (*ReleaseSession)(OrtSession*);
    void (*ReleaseValue)(OrtValue*);
    void* at_97[1];
    void (*ReleaseTypeInfo)(OrtTypeInfo*);
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
    void (*ReleaseSessionOptions)(OrtSessionOptions*);
    void* at_101[29];
    OrtStatus* (*AddSessionConfigEntry)(OrtSessionOptions*, const char*, const char*);
    void* at_131[2];
    OrtStatus* (*RunWithBinding)(OrtSession*, const OrtRunOptions*, const OrtIoBinding*);
    OrtStatus* (*CreateIoBinding)(OrtSession*, OrtIoBinding**);
    void (*ReleaseIoBinding)(OrtIoBinding*);
    OrtStatus* (*BindInput)(OrtIoBinding*, const char*, const OrtValue*);
    OrtStatus* (*BindOutput)(OrtIoBinding*, const char*, const OrtValue*);
};

struct OrtApiBase {
    const OrtApi* (*GetApi)(uint32_t version);
    const char* (*GetVersionString)();
};

}  // extern "C"

// Each place is where the table has it.
#define GLM_ORT_PLACE(name, place) \
    static_assert(offsetof(OrtApi, name) == (place) * sizeof(void*), #name " is at another place")
GLM_ORT_PLACE(GetErrorMessage, 2);
GLM_ORT_PLACE(CreateEnv, 3);
GLM_ORT_PLACE(CreateSession, 7);
GLM_ORT_PLACE(Run, 9);
GLM_ORT_PLACE(CreateSessionOptions, 10);
GLM_ORT_PLACE(SetSessionLogSeverityLevel, 22);
GLM_ORT_PLACE(SetIntraOpNumThreads, 24);
GLM_ORT_PLACE(SessionGetInputCount, 30);
GLM_ORT_PLACE(SessionGetInputTypeInfo, 33);
GLM_ORT_PLACE(SessionGetInputName, 36);
GLM_ORT_PLACE(CreateTensorWithDataAsOrtValue, 49);
GLM_ORT_PLACE(GetTensorMutableData, 51);
GLM_ORT_PLACE(CastTypeInfoToTensorInfo, 55);
GLM_ORT_PLACE(GetTensorElementType, 60);
GLM_ORT_PLACE(GetDimensionsCount, 61);
GLM_ORT_PLACE(GetTensorTypeAndShape, 65);
GLM_ORT_PLACE(CreateCpuMemoryInfo, 69);
GLM_ORT_PLACE(AllocatorFree, 76);
GLM_ORT_PLACE(GetAllocatorWithDefaultOptions, 78);
GLM_ORT_PLACE(ReleaseEnv, 92);
GLM_ORT_PLACE(ReleaseValue, 96);
GLM_ORT_PLACE(ReleaseTypeInfo, 98);
GLM_ORT_PLACE(ReleaseSessionOptions, 100);
GLM_ORT_PLACE(AddSessionConfigEntry, 130);
GLM_ORT_PLACE(RunWithBinding, 133);
GLM_ORT_PLACE(ReleaseIoBinding, 135);
GLM_ORT_PLACE(BindOutput, 137);
#undef GLM_ORT_PLACE
