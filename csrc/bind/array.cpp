#include "array.hpp"

#include <stdexcept>
#include <string>

namespace entropic {
namespace bind {

using cpu::DType;

std::optional<DType> dtype_of(const py::array& a) {
  const py::dtype dtype = a.dtype();
  const int num = dtype.num();
  // NumPy's own type numbers of the two types that matter most: float32 and float64.
  if (num == 11) return DType::f32;
  if (num == 12) return DType::f64;
  const py::ssize_t size = dtype.itemsize();
  switch (dtype.kind()) {
    case 'f':
      if (size == 2) return DType::f16;
      break;
    case 'c':
      if (size == 8) return DType::c64;
      if (size == 16) return DType::c128;
      break;
    case 'b': return DType::boolean;
    case 'i': return size == 1 ? DType::i8 : size == 2 ? DType::i16 : size == 4 ? DType::i32 : DType::i64;
    case 'u': return size == 1 ? DType::u8 : size == 2 ? DType::u16 : size == 4 ? DType::u32 : DType::u64;
    default:  // ml_dtypes registers a type of its own
      if (size == 2 && py::str(dtype).cast<std::string>() == "bfloat16") return DType::bf16;
  }
  return std::nullopt;
}

cpu::View view_of(const py::array& a, std::uint64_t axes) {
  const std::optional<DType> dtype = dtype_of(a);
  if (!dtype) throw std::invalid_argument("unsupported dtype");
  cpu::View view;
  view.data = static_cast<char*>(const_cast<void*>(a.data()));
  view.dtype = *dtype;
  const char order = a.dtype().byteorder();
  const std::uint16_t one = 1;
  const bool little = *reinterpret_cast<const unsigned char*>(&one) == 1;
  view.swapped = order == (little ? '>' : '<');
  std::uintptr_t address = reinterpret_cast<std::uintptr_t>(view.data);
  const int ndim = static_cast<int>(a.ndim());
  if (ndim > cpu::kMaxDims) throw std::invalid_argument("too many dimensions");
  for (int d = 0; d < ndim; ++d) {
    cpu::Dims& dims = axes >> d & 1 ? view.inner : view.outer;
    dims.shape[dims.n] = a.shape(d);
    dims.stride[dims.n] = a.strides(d);
    ++dims.n;
    address |= static_cast<std::uintptr_t>(a.strides(d));
  }
  const index_t alignment = cpu::itemsize(view.dtype) == 16 ? 8 : cpu::itemsize(view.dtype);
  view.aligned = address % static_cast<std::uintptr_t>(alignment) == 0;
  return view;
}

}  // namespace bind
}  // namespace entropic
