// Every call finishes before it returns, so streams and events carry no work: they only have to exist.
#include "device.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

struct C_Stream_st {
  int device;
};
struct C_Event_st {
  bool recorded;
};

namespace npu_simulator {
namespace {

constexpr size_t kAlignment = 64;  // bytes, one cache line; the CPU's vector kernels want it
constexpr size_t kMinimumChunk = 512;
constexpr size_t kDefaultDevices = 8;  // an Atlas training server has eight

thread_local int current_device = 0;
std::atomic<size_t> allocated_bytes{0};

size_t Devices() {
  const char* value = std::getenv("NPU_SIMULATOR_DEVICES");
  const long devices = value ? std::atol(value) : 0;
  return devices > 0 ? static_cast<size_t>(devices) : kDefaultDevices;
}

size_t RoundUp(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

C_Status Succeed() { return C_SUCCESS; }
C_Status SucceedOnDevice(const C_Device) { return C_SUCCESS; }

C_Status SetDevice(const C_Device device) {
  current_device = device->id;
  return C_SUCCESS;
}

C_Status GetDevice(const C_Device device) {
  device->id = current_device;
  return C_SUCCESS;
}

C_Status CreateStream(const C_Device device, C_Stream* stream) {
  *stream = new C_Stream_st{device->id};
  return C_SUCCESS;
}

C_Status DestroyStream(const C_Device, C_Stream stream) {
  delete stream;
  return C_SUCCESS;
}

C_Status StreamIsDone(const C_Device, C_Stream) { return C_SUCCESS; }

C_Status RunCallback(const C_Device device, C_Stream stream, C_Callback callback, void* user_data) {
  C_Status status = C_SUCCESS;
  callback(device, stream, user_data, &status);
  return status;
}

C_Status CreateEvent(const C_Device, C_Event* event) {
  *event = new C_Event_st{false};
  return C_SUCCESS;
}

C_Status DestroyEvent(const C_Device, C_Event event) {
  delete event;
  return C_SUCCESS;
}

C_Status RecordEvent(const C_Device, C_Stream, C_Event event) {
  event->recorded = true;
  return C_SUCCESS;
}

C_Status EventIsDone(const C_Device, C_Event) { return C_SUCCESS; }
C_Status WaitForEvent(const C_Device, C_Stream, C_Event) { return C_SUCCESS; }

C_Status Allocate(const C_Device, void** pointer, size_t size) {
  *pointer = std::aligned_alloc(kAlignment, RoundUp(size));
  if (!*pointer) return C_FAILED;
  allocated_bytes += size;
  return C_SUCCESS;
}

C_Status Free(const C_Device, void* pointer, size_t size) {
  std::free(pointer);
  allocated_bytes -= size;
  return C_SUCCESS;
}

C_Status Set(const C_Device, void* pointer, unsigned char value, size_t size) {
  std::memset(pointer, value, size);
  return C_SUCCESS;
}

C_Status Copy(const C_Device, void* target, const void* source, size_t size) {
  std::memmove(target, source, size);  // the two may overlap when a tensor is copied onto itself
  return C_SUCCESS;
}

C_Status CopyOnStream(const C_Device device, C_Stream, void* target, const void* source, size_t size) {
  return Copy(device, target, source, size);
}

C_Status CopyToPeer(const C_Device device, const C_Device, void* target, const void* source, size_t size) {
  return Copy(device, target, source, size);
}

C_Status CopyToPeerOnStream(
    const C_Device device, const C_Device, C_Stream, void* target, const void* source, size_t size) {
  return Copy(device, target, source, size);
}

C_Status GetDeviceCount(size_t* count) {
  *count = Devices();
  return C_SUCCESS;
}

C_Status GetDeviceList(size_t* devices) {
  for (size_t i = 0; i < Devices(); ++i) devices[i] = i;
  return C_SUCCESS;
}

C_Status MemoryStats(const C_Device, size_t* total, size_t* free) {
  *total = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  const size_t used = allocated_bytes;
  *free = *total > used ? *total - used : 0;
  return C_SUCCESS;
}

C_Status MinimumChunk(const C_Device, size_t* size) {
  *size = kMinimumChunk;
  return C_SUCCESS;
}

// No vendor library overreads its buffers here, and nothing is reserved ahead.
C_Status ZeroBytes(const C_Device, size_t* size) {
  *size = 0;
  return C_SUCCESS;
}

C_Status One(const C_Device, size_t* value) {
  *value = 1;
  return C_SUCCESS;
}

C_Status ComputeCapability(const C_Device, size_t* value) {
  *value = 100;  // Paddle gates some kernels on it as if it were a GPU's; 100 passes every gate
  return C_SUCCESS;
}

C_Status Cores(const C_Device, size_t* count) {
  *count = static_cast<size_t>(sysconf(_SC_NPROCESSORS_ONLN));
  return C_SUCCESS;
}

C_Status GridSize(const C_Device, std::array<unsigned int, 3>* size) {
  size->fill(1);
  return C_SUCCESS;
}

C_Status Supported(const C_Device, bool* supported) {
  *supported = true;
  return C_SUCCESS;
}

C_Status Unsupported(const C_Device, bool* supported) {
  *supported = false;
  return C_SUCCESS;
}

C_Status ProfilerStart(C_Profiler, void** user_data) {
  *user_data = nullptr;
  return C_SUCCESS;
}

C_Status ProfilerStep(C_Profiler, void*) { return C_SUCCESS; }
C_Status ProfilerCollect(C_Profiler, uint64_t, void*) { return C_SUCCESS; }

void FillStreams(C_DeviceInterface* table) {
  table->create_stream = CreateStream;
  table->destroy_stream = DestroyStream;
  table->query_stream = StreamIsDone;
  table->synchronize_stream = StreamIsDone;
  table->stream_add_callback = RunCallback;
  table->create_event = CreateEvent;
  table->destroy_event = DestroyEvent;
  table->record_event = RecordEvent;
  table->query_event = EventIsDone;
  table->synchronize_event = EventIsDone;
  table->stream_wait_event = WaitForEvent;
}

void FillMemory(C_DeviceInterface* table) {
  table->device_memory_allocate = table->host_memory_allocate = table->unified_memory_allocate = Allocate;
  table->device_memory_deallocate = table->host_memory_deallocate = table->unified_memory_deallocate = Free;
  table->device_memory_set = Set;
  table->memory_copy_h2d = table->memory_copy_d2h = table->memory_copy_d2d = Copy;
  table->async_memory_copy_h2d = table->async_memory_copy_d2h = table->async_memory_copy_d2d = CopyOnStream;
  table->memory_copy_p2p = CopyToPeer;
  table->async_memory_copy_p2p = CopyToPeerOnStream;
}

void FillInformation(C_DeviceInterface* table) {
  table->get_device_count = GetDeviceCount;
  table->get_device_list = GetDeviceList;
  table->device_memory_stats = MemoryStats;
  table->device_min_chunk_size = MinimumChunk;
  table->device_extra_padding_size = ZeroBytes;
  table->get_compute_capability = ComputeCapability;
  table->get_runtime_version = table->get_driver_version = One;
  table->get_multi_process = Cores;
  table->get_max_threads_per_mp = table->get_max_threads_per_block = One;
  table->get_max_grid_dim_size = GridSize;
  table->is_float16_supported = table->is_bfloat16_supported = Supported;
  table->is_dnn_supported = Unsupported;
}

}  // namespace

void FillDevice(C_DeviceInterface* table) {
  table->initialize = table->finalize = Succeed;
  table->init_device = table->deinit_device = table->synchronize_device = SucceedOnDevice;
  table->set_device = SetDevice;
  table->get_device = GetDevice;
  FillStreams(table);
  FillMemory(table);
  FillInformation(table);
  table->profiler_initialize = ProfilerStart;
  table->profiler_finalize = table->profiler_prepare_tracing = ProfilerStep;
  table->profiler_start_tracing = table->profiler_stop_tracing = ProfilerStep;
  table->profiler_collect_trace_data = ProfilerCollect;
}

}  // namespace npu_simulator
