// Bindings of the coupling family: integer masses in, cells out. Python has checked sizes, totals and types.
#include "../cpu/coupling.hpp"

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "array.hpp"
#include "register.hpp"

namespace entropic {
namespace bind {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Masses = py::array_t<std::uint64_t, py::array::c_style>;

// The vector's memory as an array of this shape, without a copy.
template <class T>
py::array_t<T> array_of(std::vector<T>&& values, std::vector<py::ssize_t> shape) {
  auto kept = std::make_unique<std::vector<T>>(std::move(values));
  T* const data = kept->data();
  py::capsule owner(kept.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(std::move(shape), data, owner);
}

Functional functional_of(int measure, double order) { return {static_cast<Measure>(measure), order}; }

cpu::Problem problem_of(const std::vector<Masses>& marginals, std::uint64_t total, int measure, double order) {
  cpu::Problem problem{{}, total, functional_of(measure, order)};
  for (const Masses& m : marginals) problem.marginals.push_back({m.data(), m.shape(0)});
  return problem;
}

index_t atoms_of(const cpu::Problem& problem) {
  index_t atoms = 0;
  for (const cpu::Marginal& m : problem.marginals) atoms += m.n;
  return atoms;
}

// Integer masses (rows, n), and for each row its sum, the largest change, and the first bad element or -1.
std::tuple<Masses, Doubles, Doubles, py::array_t<index_t>> grid(const Doubles& p) {
  const index_t rows = p.shape(0), n = p.shape(1);
  Masses out(std::vector<py::ssize_t>{rows, n});
  Doubles sum(rows), change(rows);
  py::array_t<index_t> bad(rows);
  std::vector<cpu::GridReport> reports(static_cast<std::size_t>(rows));
  std::uint64_t* to = out.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(rows * n);
    finished = cpu::grid_masses(p.data(), rows, n, to, reports.data());
  }
  raise_if_interrupted(finished);
  for (index_t row = 0; row < rows; ++row) {
    const cpu::GridReport& report = reports[static_cast<std::size_t>(row)];
    sum.mutable_at(row) = report.sum;
    change.mutable_at(row) = report.change;
    bad.mutable_at(row) = report.bad;
  }
  return {out, sum, change, bad};
}

// Indices (cells, k), masses (cells,), entropy, lower bound, which heuristic.
using Answer = std::tuple<py::array_t<std::int32_t>, Masses, double, double, int>;
Answer couple(const std::vector<Masses>& marginals, std::uint64_t total, int method, int measure, double order) {
  const cpu::Problem problem = problem_of(marginals, total, measure, order);
  cpu::Cells cells;
  cpu::Certificate certificate{};
  bool finished;
  {
    MaybeReleaseGil released(atoms_of(problem) * (method == 0 ? 32 : 1024));
    finished = cpu::couple(problem, static_cast<cpu::Method>(method), cells, certificate);
  }
  raise_if_interrupted(finished);
  const py::ssize_t count = static_cast<py::ssize_t>(cells.mass.size());
  const py::ssize_t k = static_cast<py::ssize_t>(marginals.size());
  return {array_of(std::move(cells.index), {count, k}), array_of(std::move(cells.mass), {count}), certificate.entropy,
          certificate.bound, static_cast<int>(certificate.found)};
}

std::pair<double, double> greedy_entropy(const std::vector<Masses>& marginals, std::uint64_t total, int measure,
                                         double order) {
  const cpu::Problem problem = problem_of(marginals, total, measure, order);
  cpu::Certificate certificate{};
  bool finished;
  {
    MaybeReleaseGil released(atoms_of(problem) * 32);
    finished = cpu::greedy_entropy(problem, certificate);
  }
  raise_if_interrupted(finished);
  return {certificate.entropy, certificate.bound};
}

double bound(const std::vector<Masses>& marginals, std::uint64_t total, int which, int measure, double order) {
  const cpu::Problem problem = problem_of(marginals, total, measure, order);
  MaybeReleaseGil released(atoms_of(problem) * 32);
  return cpu::coupling_bound(problem, static_cast<cpu::Bound>(which));
}

double entropy(const Masses& mass, std::uint64_t total, int measure, double order) {
  return cpu::entropy_of(mass.data(), mass.size(), total, functional_of(measure, order));
}

// Indices (batch, n + m - 1, 2), masses (batch, n + m - 1), numbers of cells, entropies, bounds, heuristics.
using BatchAnswer =
    std::tuple<py::array_t<std::int32_t>, Masses, py::array_t<index_t>, Doubles, Doubles, py::array_t<int>>;
BatchAnswer couple_batch(const Masses& p, const Masses& q, std::uint64_t total, int method, int measure, double order) {
  const cpu::Batch batch{p.data(), q.data(), p.shape(0), p.shape(1), q.shape(1), total, functional_of(measure, order)};
  const index_t most = batch.n + batch.m - 1;
  py::array_t<std::int32_t> index(std::vector<py::ssize_t>{batch.batch, most, 2});
  Masses mass(std::vector<py::ssize_t>{batch.batch, most});
  py::array_t<index_t> counts(batch.batch);
  Doubles entropies(batch.batch), bounds(batch.batch);
  py::array_t<int> heuristics(batch.batch);
  std::vector<cpu::Certificate> certificates(static_cast<std::size_t>(batch.batch));
  std::int32_t* to_index = index.mutable_data();
  std::uint64_t* to_mass = mass.mutable_data();
  index_t* to_counts = counts.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(batch.batch * most * 32);
    finished =
        cpu::couple_batch(batch, static_cast<cpu::Method>(method), to_index, to_mass, to_counts, certificates.data());
  }
  raise_if_interrupted(finished);
  for (index_t b = 0; b < batch.batch; ++b) {
    const cpu::Certificate& certificate = certificates[static_cast<std::size_t>(b)];
    entropies.mutable_at(b) = certificate.entropy;
    bounds.mutable_at(b) = certificate.bound;
    heuristics.mutable_at(b) = static_cast<int>(certificate.found);
  }
  return {index, mass, counts, entropies, bounds, heuristics};
}

// Labels, the mass that is split or -1, its other label, how much goes there, how many labels, I(X;T), H(T).
using Code = std::tuple<py::array_t<std::int32_t>, index_t, std::int32_t, std::uint64_t, index_t, double, double>;
Code encode(const Masses& mass, std::uint64_t total, double rate, int search) {
  cpu::Encoder encoder;
  {
    MaybeReleaseGil released(mass.size() * 32);
    encoder = cpu::bottleneck_encode(mass.data(), mass.size(), total, rate, static_cast<cpu::Search>(search));
  }
  const py::ssize_t n = mass.size();
  return {array_of(std::move(encoder.label), {n}),
          encoder.split,
          encoder.other,
          encoder.moved,
          encoder.labels,
          encoder.information,
          encoder.code_entropy};
}

}  // namespace

void register_coupling(py::module_& m) {
  m.attr("coupling_exact_atoms") = cpu::kExactAtoms;
  m.def("coupling_grid", &grid, py::arg("p"));
  m.def("coupling_solve", &couple, py::arg("marginals"), py::arg("total"), py::arg("method"), py::arg("measure"),
        py::arg("order"));
  m.def("coupling_greedy_entropy", &greedy_entropy, py::arg("marginals"), py::arg("total"), py::arg("measure"),
        py::arg("order"));
  m.def("coupling_bound", &bound, py::arg("marginals"), py::arg("total"), py::arg("which"), py::arg("measure"),
        py::arg("order"));
  m.def("coupling_entropy", &entropy, py::arg("mass"), py::arg("total"), py::arg("measure"), py::arg("order"));
  m.def("coupling_solve_batch", &couple_batch, py::arg("p"), py::arg("q"), py::arg("total"), py::arg("method"),
        py::arg("measure"), py::arg("order"));
  m.def("coupling_encode", &encode, py::arg("mass"), py::arg("total"), py::arg("rate"), py::arg("search"));
}

}  // namespace bind
}  // namespace entropic
