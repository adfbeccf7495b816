// The entry point that Paddle looks for in every library under CUSTOM_DEVICE_ROOT.
#include <cstring>

#include "collectives.h"
#include "device.h"

extern "C" void InitPlugin(CustomRuntimeParams* params) {
  PADDLE_CUSTOM_RUNTIME_CHECK_VERSION(params);
  static char device_type[] = "npu";
  static char sub_device_type[] = "simulator";
  params->device_type = device_type;
  params->sub_device_type = sub_device_type;
  // `size` is Paddle's to fill; entries left at null are those it does not call for this kind of device.
  const size_t size = params->interface->size;
  std::memset(static_cast<void*>(params->interface), 0, sizeof(C_DeviceInterface));
  params->interface->size = size;
  npu_simulator::FillDevice(params->interface);
  npu_simulator::FillCollectives(params->interface);
}
