// The xccl entries of Paddle's device interface.
#pragma once

#include "paddle/phi/backends/device_ext.h"

namespace npu_simulator {

void FillCollectives(C_DeviceInterface* table);

}  // namespace npu_simulator
