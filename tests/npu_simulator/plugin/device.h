// One process's view of the simulated NPUs: device selection, streams, events, memory and device information.
#pragma once

#include "paddle/phi/backends/device_ext.h"

namespace npu_simulator {

// Fills the device, stream, event, memory and information entries of Paddle's device interface.
void FillDevice(C_DeviceInterface* table);

}  // namespace npu_simulator
