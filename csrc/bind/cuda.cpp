// The module entropic._cuda: addresses, strides and a stream as integers in, kernels started.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <stdexcept>
#include <string>

#include "../cuda/launch.hpp"

namespace py = pybind11;
using namespace entropic;

namespace {

using Address = std::uintptr_t;

cuda::Matrix matrix(int dtype, Address source, index_t rows, index_t cols, index_t row_stride, index_t col_stride,
                    Address scratch, int device, Address stream) {
  if (dtype < 0 || dtype > static_cast<int>(cuda::DType::bf16)) throw std::invalid_argument("no such dtype");
  return cuda::Matrix{static_cast<cuda::DType>(dtype),
                      reinterpret_cast<const void*>(source),
                      rows,
                      cols,
                      row_stride,
                      col_stride,
                      reinterpret_cast<void*>(scratch),
                      device,
                      stream};
}

void reduce_rows(int dtype, Address source, index_t rows, index_t cols, index_t row_stride, index_t col_stride,
                 int value, Address target, Address scratch, int device, Address stream) {
  if (value < 0 || value > static_cast<int>(Value::entropy)) throw std::invalid_argument("no such value");
  cuda::reduce_rows(matrix(dtype, source, rows, cols, row_stride, col_stride, scratch, device, stream),
                    static_cast<Value>(value), reinterpret_cast<void*>(target));
}

void log_probabilities(int dtype, Address source, index_t rows, index_t cols, index_t row_stride, index_t col_stride,
                       Address targets, Address target_out, Address scratch, int device, Address stream) {
  cuda::log_probabilities(matrix(dtype, source, rows, cols, row_stride, col_stride, scratch, device, stream),
                          reinterpret_cast<const std::int64_t*>(targets), reinterpret_cast<void*>(target_out));
}

void raise_device_error(const std::string& message) {
  const py::object type = py::module_::import("entropic._errors").attr("DeviceError");
  PyErr_SetString(type.ptr(), message.c_str());
}

void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const cuda::MissingKernels& e) {
    raise_device_error("built for " ENTROPIC_ARCHITECTURES ", this GPU is sm_" + std::to_string(e.capability));
  } catch (const cuda::Failure& e) {
    raise_device_error(e.what());
  }
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  using Released = py::call_guard<py::gil_scoped_release>;
  py::register_local_exception_translator(&translate);
  m.attr("version") = ENTROPIC_VERSION;
  m.attr("architectures") = ENTROPIC_ARCHITECTURES;
  m.def("problem", &cuda::problem, Released());
  m.def("devices", &cuda::devices, Released());
  m.def("scratch_bytes", &cuda::scratch_bytes, py::arg("rows"), py::arg("cols"));
  m.def("reduce_rows", &reduce_rows, Released(), py::arg("dtype"), py::arg("source"), py::arg("rows"), py::arg("cols"),
        py::arg("row_stride"), py::arg("col_stride"), py::arg("value"), py::arg("target"), py::arg("scratch"),
        py::arg("device"), py::arg("stream"));
  m.def("log_probabilities", &log_probabilities, Released(), py::arg("dtype"), py::arg("source"), py::arg("rows"),
        py::arg("cols"), py::arg("row_stride"), py::arg("col_stride"), py::arg("targets"), py::arg("target_out"),
        py::arg("scratch"), py::arg("device"), py::arg("stream"));
}
