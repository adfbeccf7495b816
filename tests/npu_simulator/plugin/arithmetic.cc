#include "arithmetic.h"

#include <type_traits>

#include "group.h"
#include "paddle/phi/common/bfloat16.h"
#include "paddle/phi/common/float16.h"

namespace npu_simulator {
namespace {

template <typename T>
using Wide = std::conditional_t<std::is_integral_v<T>,
                                int64_t,
                                std::conditional_t<std::is_floating_point_v<T>, T, float>>;

template <typename T>
T Narrow(Wide<T> value) {
  if constexpr (std::is_same_v<T, bool>) return value != 0;
  return static_cast<T>(value);
}

// The greater and the less of two; not-a-number wins, so that it is not lost on the way.
template <typename W>
W Greater(W a, W b) { return a > b || a != a ? a : b; }
template <typename W>
W Less(W a, W b) { return a < b || a != a ? a : b; }

template <typename T, typename Combine>
void ReduceWith(const std::vector<const char*>& sources, size_t count, Wide<T> divisor, char* out, Combine combine) {
  T* target = reinterpret_cast<T*>(out);
  for (size_t i = 0; i < count; ++i) {
    Wide<T> value = static_cast<Wide<T>>(reinterpret_cast<const T*>(sources[0])[i]);
    for (size_t k = 1; k < sources.size(); ++k) {
      value = combine(value, static_cast<Wide<T>>(reinterpret_cast<const T*>(sources[k])[i]));
    }
    target[i] = Narrow<T>(value / divisor);
  }
}

template <typename T>
void ReduceAs(const std::vector<const char*>& sources, C_CCLReduceOp op, size_t count, char* out) {
  using W = Wide<T>;
  const bool averages = op == AVG && !std::is_same_v<T, bool>;
  const W divisor = static_cast<W>(averages ? sources.size() : 1);
  switch (op) {
    case SUM: case AVG: return ReduceWith<T>(sources, count, divisor, out, [](W a, W b) { return a + b; });
    case MAX: return ReduceWith<T>(sources, count, divisor, out, Greater<W>);
    case MIN: return ReduceWith<T>(sources, count, divisor, out, Less<W>);
    case PRODUCT: return ReduceWith<T>(sources, count, divisor, out, [](W a, W b) { return a * b; });
  }
  throw GroupError("unknown reduction " + std::to_string(op));
}

// Calls `visit` with a value of the C++ type that `dtype` names.
template <typename Visitor>
void Visit(C_DataType dtype, Visitor visit) {
  switch (dtype) {
    case BOOL: return visit(bool());
    case UINT8: return visit(uint8_t());
    case INT8: return visit(int8_t());
    case INT16: return visit(int16_t());
    case INT32: return visit(int32_t());
    case INT64: return visit(int64_t());
    case FLOAT16: return visit(phi::dtype::float16());
    case BFLOAT16: return visit(phi::dtype::bfloat16());
    case FLOAT32: return visit(float());
    case FLOAT64: return visit(double());
    default: throw GroupError("no arithmetic for Paddle's dtype number " + std::to_string(dtype));
  }
}

}  // namespace

void Reduce(const std::vector<const char*>& sources, C_DataType dtype, C_CCLReduceOp op, size_t count, char* out) {
  Visit(dtype, [&](auto zero) { ReduceAs<decltype(zero)>(sources, op, count, out); });
}

void Axpby(C_DataType dtype, size_t count, float alpha, const void* x, float beta, void* y) {
  Visit(dtype, [&](auto zero) {
    using T = decltype(zero);
    using W = std::conditional_t<std::is_integral_v<T>, double, Wide<T>>;
    for (size_t i = 0; i < count; ++i) {
      const W from_x = static_cast<W>(static_cast<const T*>(x)[i]), from_y = static_cast<W>(static_cast<T*>(y)[i]);
      static_cast<T*>(y)[i] = static_cast<T>(W(alpha) * from_x + W(beta) * from_y);
    }
  });
}

}  // namespace npu_simulator
