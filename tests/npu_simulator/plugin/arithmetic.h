// Element-wise arithmetic on raw buffers of any dtype.
#pragma once

#include <vector>

#include "paddle/phi/backends/device_ext.h"

namespace npu_simulator {

// out[i] = the reduction of sources[k][i] over k, in the order of k, so that every rank gets the same bits.
// Half precision is summed in float32 and rounded once, integers in int64; an integer average is cut towards zero, a
// bool's sum and average are "any". Throws GroupError for a dtype that has no arithmetic here.
void Reduce(const std::vector<const char*>& sources, C_DataType dtype, C_CCLReduceOp op, size_t count, char* out);

// y = alpha * x + beta * y. Throws GroupError as above.
void Axpby(C_DataType dtype, size_t count, float alpha, const void* x, float beta, void* y);

}  // namespace npu_simulator
