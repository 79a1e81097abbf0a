// Bindings of the spectral family: kernel matrices of points. Python has checked the values.
#include "../cpu/spectral.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../cpu/eigen.hpp"
#include "array.hpp"
#include "register.hpp"

namespace entropic {
namespace bind {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Singles = py::array_t<float, py::array::c_style>;

std::unique_ptr<cpu::PointKernel> kernel_of(const Doubles& x, const Doubles& rates) {
  if (rates.size() != x.shape(0)) throw std::invalid_argument("a rate for each point");
  return std::make_unique<cpu::PointKernel>(x.data(), rates.data(), x.shape(0), x.shape(1));
}

// A product with v (n, count), and with `w` the sums of squared elements times it: f(v, count, y, w, squares).
template <class F>
std::pair<Doubles, std::optional<Doubles>> product_of(index_t n, const Doubles& v, const std::optional<Doubles>& w,
                                                      F&& f) {
  if (v.shape(0) != n || (w && w->size() != n)) throw std::invalid_argument("a row for each point");
  const index_t count = v.shape(1);
  Doubles out(std::vector<py::ssize_t>{n, count});
  std::optional<Doubles> squares;
  if (w) squares.emplace(n);
  const double *from = v.data(), *weights = w ? w->data() : nullptr;
  double *to = out.mutable_data(), *sums = w ? squares->mutable_data() : nullptr;
  bool finished;
  {
    MaybeReleaseGil released(n * n);
    finished = f(from, count, to, weights, sums);
  }
  raise_if_interrupted(finished);
  return {out, squares};
}

std::pair<Doubles, std::optional<Doubles>> product(const cpu::PointKernel& kernel, const Doubles& v,
                                                   const std::optional<Doubles>& w) {
  return product_of(kernel.n(), v, w,
                    [&](const double* from, index_t count, double* to, const double* weights, double* sums) {
                      return kernel.product(from, count, to, weights, sums);
                    });
}

std::pair<Doubles, std::optional<Doubles>> single_product(const Singles& g, const Doubles& v,
                                                          const std::optional<Doubles>& w) {
  const index_t n = g.shape(0);
  if (g.shape(1) != n) throw std::invalid_argument("a square matrix");
  const float* elements = g.data();
  return product_of(n, v, w, [&](const double* from, index_t count, double* to, const double* weights, double* sums) {
    return cpu::single_product(elements, n, from, count, to, weights, sums);
  });
}

template <class T>
py::array dense_of(const cpu::PointKernel& kernel) {
  py::array_t<T> out(std::vector<py::ssize_t>{kernel.n(), kernel.n()});
  T* to = out.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(kernel.n() * kernel.n());
    finished = kernel.dense(to);
  }
  raise_if_interrupted(finished);
  return out;
}

py::array dense(const cpu::PointKernel& kernel, bool single) {
  return single ? dense_of<float>(kernel) : dense_of<double>(kernel);
}

Doubles symmetric_eigenvalues(const Doubles& a) {
  if (a.ndim() != 3 || a.shape(1) != a.shape(2)) throw std::invalid_argument("a batch of square matrices");
  const index_t count = a.shape(0), n = a.shape(1);
  Doubles out(std::vector<py::ssize_t>{count, n});
  const double* from = a.data();
  double* to = out.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(count * n * n * 64);
    finished = cpu::symmetric_eigenvalues(from, count, n, to);
  }
  raise_if_interrupted(finished);
  return out;
}

// The smaller of z' z and z z' for a batch of rows.
template <class T>
Doubles gram_matrices(const py::array_t<T, py::array::c_style>& z) {
  if (z.ndim() != 3) throw std::invalid_argument("a batch of rows");
  const index_t count = z.shape(0), n = z.shape(1), d = z.shape(2), m = std::min(n, d);
  Doubles out(std::vector<py::ssize_t>{count, m, m});
  const T* from = z.data();
  double* to = out.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(count * m * n * d);
    finished = cpu::gram_matrices(from, count, n, d, d <= n, to);
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
      .def("dense", &dense, py::arg("single") = false);
  m.def("symmetric_eigenvalues", &symmetric_eigenvalues, py::arg("a"));
  m.def("gram_matrices", &gram_matrices<float>, py::arg("z").noconvert());
  m.def("gram_matrices", &gram_matrices<double>, py::arg("z").noconvert());
  m.def("single_product", &single_product, py::arg("g"), py::arg("v"), py::arg("w") = py::none());
}

}  // namespace bind
}  // namespace entropic
