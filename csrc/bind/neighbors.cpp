// Bindings of the nearest-neighbour family: an index of points, and searches in it. Python has checked the values.
#include "../cpu/neighbors.hpp"

#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "array.hpp"
#include "register.hpp"

namespace entropic {
namespace bind {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Numbers = py::array_t<std::int64_t, py::array::c_style>;

std::unique_ptr<cpu::PointIndex> index_of(const Doubles& x) {
  const double* data = x.data();
  const index_t n = x.shape(0), d = x.shape(1);
  if (n < 1 || d < 1) throw std::invalid_argument("points and coordinates");
  MaybeReleaseGil released(n * d * 32);
  return std::make_unique<cpu::PointIndex>(data, n, d);
}

// Of given points, or of the indexed ones.
cpu::Queries queries_of(const cpu::PointIndex& index, const std::optional<Doubles>& q, index_t exclude) {
  if (q) return {q->data(), q->shape(0), -1};
  return {nullptr, index.n(), exclude};
}

std::pair<Doubles, Numbers> nearest(const cpu::PointIndex& index, const std::optional<Doubles>& q, index_t k,
                                    int metric, index_t exclude) {
  const cpu::Queries queries = queries_of(index, q, exclude);
  Doubles distance(std::vector<py::ssize_t>{queries.count, k});
  Numbers number(std::vector<py::ssize_t>{queries.count, k});
  double* to_distance = distance.mutable_data();
  std::int64_t* to_number = number.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(queries.count * 256);
    finished = index.nearest(static_cast<Metric>(metric), queries, k, to_distance, to_number);
  }
  raise_if_interrupted(finished);
  return {distance, number};
}

Doubles distances(const cpu::PointIndex& index, index_t k, int metric) {
  Doubles distance(std::vector<py::ssize_t>{index.n(), k});
  double* to = distance.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(index.n() * 256);
    finished = index.distances(static_cast<Metric>(metric), k, to);
  }
  raise_if_interrupted(finished);
  return distance;
}

Numbers count(const cpu::PointIndex& index, const std::optional<Doubles>& q, const Doubles& radii, int metric,
              bool strict, index_t exclude) {
  const cpu::Queries queries = queries_of(index, q, exclude);
  if (radii.size() != queries.count) throw std::invalid_argument("a radius for each query");
  Numbers counts(queries.count);
  const double* radius = radii.data();
  std::int64_t* to = counts.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(queries.count * 128);
    finished = index.count(static_cast<Metric>(metric), queries, radius, strict, to);
  }
  raise_if_interrupted(finished);
  return counts;
}

// Values, numbers of tied samples, and how many of those are at atoms, for pairs (p, 2) of columns (count, n).
std::tuple<Doubles, Numbers, Numbers> pairs(const Doubles& columns, const Numbers& which, index_t k,
                                            const Doubles& digamma) {
  const index_t count = columns.shape(0), n = columns.shape(1), pair_count = which.shape(0);
  if (digamma.size() < n + 1) throw std::invalid_argument("digamma up to n");
  std::vector<cpu::Pair> listed;
  for (index_t p = 0; p < pair_count; ++p) listed.push_back({which.at(p, 0), which.at(p, 1)});
  std::vector<cpu::PairInformation> found(listed.size());
  const double *data = columns.data(), *psi = digamma.data();
  bool finished;
  {
    MaybeReleaseGil released(pair_count * n * 512);
    finished = cpu::pair_informations(data, count, n, listed.data(), pair_count, k, psi, found.data());
  }
  raise_if_interrupted(finished);
  Doubles value(pair_count);
  Numbers tied(pair_count), atoms(pair_count);
  for (index_t p = 0; p < pair_count; ++p) {
    const cpu::PairInformation& of_pair = found[static_cast<std::size_t>(p)];
    value.mutable_at(p) = of_pair.value;
    tied.mutable_at(p) = of_pair.tied;
    atoms.mutable_at(p) = of_pair.atoms;
  }
  return {value, tied, atoms};
}

}  // namespace

void register_neighbors(py::module_& m) {
  py::class_<cpu::PointIndex>(m, "PointIndex")
      .def(py::init(&index_of), py::arg("x"))
      .def_property_readonly("n", &cpu::PointIndex::n)
      .def_property_readonly("d", &cpu::PointIndex::d)
      .def("nearest", &nearest, py::arg("q"), py::arg("k"), py::arg("metric"), py::arg("exclude"))
      .def("distances", &distances, py::arg("k"), py::arg("metric"))
      .def("count", &count, py::arg("q"), py::arg("radii"), py::arg("metric"), py::arg("strict"), py::arg("exclude"));
  m.def("neighbor_pairs", &pairs, py::arg("columns"), py::arg("pairs"), py::arg("k"), py::arg("digamma"));
}

}  // namespace bind
}  // namespace entropic
