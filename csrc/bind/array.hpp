// NumPy arrays seen as the views of csrc/cpu, without copies.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <optional>

#include "../cpu/view.hpp"

namespace entropic {
namespace bind {

namespace py = pybind11;

// The element type, or nothing for one that the kernels do not read.
std::optional<cpu::DType> dtype_of(const py::array& a);

// `axes`: bit d set where dimension d is reduced. Throws std::invalid_argument for a dtype that is not read.
cpu::View view_of(const py::array& a, std::uint64_t axes);

// Throws what Python's signal handlers raised, after work that returned false.
inline void raise_if_interrupted(bool finished) {
  if (!finished) throw py::error_already_set();
}

// Small work keeps the GIL: releasing it costs as much as a few hundred elements.
class MaybeReleaseGil {
 public:
  explicit MaybeReleaseGil(index_t elements) {
    if (elements > 16384) release_.emplace();
  }

 private:
  std::optional<py::gil_scoped_release> release_;
};

}  // namespace bind
}  // namespace entropic
