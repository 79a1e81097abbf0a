// Bindings of the spectral family: kernel matrices of points. Python has checked the values.
#include "../cpu/spectral.hpp"

#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "array.hpp"
#include "register.hpp"

namespace entropic {
namespace bind {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;

std::unique_ptr<cpu::PointKernel> kernel_of(const Doubles& x, const Doubles& rates) {
  if (rates.size() != x.shape(0)) throw std::invalid_argument("a rate for each point");
  return std::make_unique<cpu::PointKernel>(x.data(), rates.data(), x.shape(0), x.shape(1));
}

// The product, and with `w` the sums of squared elements times it.
std::pair<Doubles, std::optional<Doubles>> product(const cpu::PointKernel& kernel, const Doubles& v,
                                                   const std::optional<Doubles>& w) {
  if (v.shape(0) != kernel.n() || (w && w->size() != kernel.n())) throw std::invalid_argument("a row for each point");
  const index_t count = v.shape(1);
  Doubles out(std::vector<py::ssize_t>{kernel.n(), count});
  std::optional<Doubles> squares;
  if (w) squares.emplace(kernel.n());
  const double *from = v.data(), *weights = w ? w->data() : nullptr;
  double *to = out.mutable_data(), *sums = w ? squares->mutable_data() : nullptr;
  bool finished;
  {
    MaybeReleaseGil released(kernel.n() * kernel.n());
    finished = kernel.product(from, count, to, weights, sums);
  }
  raise_if_interrupted(finished);
  return {out, squares};
}

Doubles dense(const cpu::PointKernel& kernel) {
  Doubles out(std::vector<py::ssize_t>{kernel.n(), kernel.n()});
  double* to = out.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(kernel.n() * kernel.n());
    finished = kernel.dense(to);
  }
  raise_if_interrupted(finished);
  return out;
}

}  // namespace

void register_spectral(py::module_& m) {
  py::class_<cpu::PointKernel>(m, "PointKernel")
      .def(py::init(&kernel_of), py::arg("x"), py::arg("rates"))
      .def_property_readonly("n", &cpu::PointKernel::n)
      .def("product", &product, py::arg("v"), py::arg("w") = py::none())
      .def("dense", &dense);
}

}  // namespace bind
}  // namespace entropic
