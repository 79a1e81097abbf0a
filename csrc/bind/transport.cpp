// Bindings of the transport family: adjacent arrays of a batch in, arrays out. Python has checked shapes and types.
#include "../cpu/transport.hpp"

#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "array.hpp"
#include "register.hpp"

namespace entropic {
namespace bind {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;

// Keeps the arrays of a batch of costs alive and says where they are: stored (batch, n, m), or points (batch, n, d)
// and (batch, m, d). The last axis is adjacent, points throughout; a batch stride may be 0.
class Cost {
 public:
  Cost(py::array x, std::optional<py::array> y, int metric, double scale)
      : x_(std::move(x)), y_(y ? std::move(*y) : py::array()) {
    const bool points = y.has_value();
    const index_t size = x_.itemsize();
    view = cpu::CostView{points,
                         size == 4,
                         static_cast<Metric>(metric),
                         scale,
                         x_.data(),
                         points ? y_.data() : nullptr,
                         x_.shape(0),
                         x_.shape(1),
                         points ? y_.shape(1) : x_.shape(2),
                         x_.shape(2),
                         x_.strides(0) / size,
                         points ? y_.strides(0) / size : 0,
                         x_.strides(1) / size,
                         {}};
  }
  // A grid's axes, each with its matrix of costs; the same for all problems.
  Cost(std::vector<Doubles> axes, index_t batch) : axes_(std::move(axes)) {
    index_t size = 1;
    for (const Doubles& axis : axes_) size *= axis.shape(0);
    view = cpu::CostView{false, false, Metric::dot, 1.0, nullptr, nullptr, batch, size, size, 0, 0, 0, 0, {}};
    for (const Doubles& axis : axes_) view.axes.push_back({axis.shape(0), axis.data()});
  }
  Cost repeated(index_t batch) const { return Cost(axes_, batch); }
  py::array empty(index_t rows) const {
    const std::vector<py::ssize_t> shape{view.batch, rows, view.m};
    return view.single ? py::array(py::array_t<float>(shape)) : py::array(py::array_t<double>(shape));
  }
  index_t size() const { return view.batch * view.n * view.m; }

  cpu::CostView view;

 private:
  py::array x_, y_;
  std::vector<Doubles> axes_;
};

cpu::Masses masses_of(const py::array& a, const py::array& b) {
  return {static_cast<const double*>(a.data()), static_cast<const double*>(b.data()), a.strides(0) / 8,
          b.strides(0) / 8};
}

using SideTuple = std::tuple<int, double, double>;
cpu::Side side_of(const SideTuple& side) {
  return {static_cast<Relax>(std::get<0>(side)), std::get<1>(side), std::get<2>(side)};
}

Doubles doubles(index_t batch, index_t n) { return Doubles(std::vector<py::ssize_t>{batch, n}); }
Doubles doubles(index_t batch, index_t k, index_t n) { return Doubles(std::vector<py::ssize_t>{batch, k, n}); }

// Both marginals, iterations, errors, costs, outcomes.
using Answer =
    std::tuple<Doubles, Doubles, py::array_t<std::int64_t>, py::array_t<double>, py::array_t<double>, py::array_t<int>>;

Answer answer_of(const Doubles& rows, const Doubles& cols, const std::vector<cpu::SolveReport>& reports) {
  const py::ssize_t n = static_cast<py::ssize_t>(reports.size());
  py::array_t<std::int64_t> iterations(n);
  py::array_t<double> error(n), cost(n);
  py::array_t<int> outcome(n);
  for (py::ssize_t k = 0; k < n; ++k) {
    const cpu::SolveReport& report = reports[static_cast<std::size_t>(k)];
    iterations.mutable_at(k) = report.iterations;
    error.mutable_at(k) = report.error;
    cost.mutable_at(k) = report.cost;
    outcome.mutable_at(k) = static_cast<int>(report.outcome);
  }
  return {rows, cols, iterations, error, cost, outcome};
}

Answer solve(const Cost& cost, const py::array& a, const py::array& b, Doubles f, Doubles g, const Doubles& eps,
             const Doubles& start, const Doubles& total, const SideTuple& rows, const SideTuple& cols, double mass,
             double tol, std::int64_t max_iter, bool accelerate, bool single, double patience, double reach,
             const std::optional<std::function<bool(std::int64_t, double)>>& callback) {
  const index_t batch = cost.view.batch;
  Doubles row_marginal = doubles(batch, cost.view.n), col_marginal = doubles(batch, cost.view.m);
  std::vector<cpu::SolveReport> reports(static_cast<std::size_t>(batch));
  cpu::SolveSettings settings{side_of(rows), side_of(cols), mass,     tol,   max_iter,
                              accelerate,    single,        patience, reach, {}};
  if (callback)
    settings.callback = [&](index_t iteration, double error) {
      py::gil_scoped_acquire gil;
      return (*callback)(iteration, error);
    };
  double* to_f = f.mutable_data();
  double* to_g = g.mutable_data();
  double* to_rows = row_marginal.mutable_data();
  double* to_cols = col_marginal.mutable_data();
  bool finished;
  {
    py::gil_scoped_release released;
    finished = cpu::solve_transport(cost.view, masses_of(a, b), eps.data(), start.data(), total.data(), settings, to_f,
                                    to_g, to_rows, to_cols, reports.data());
  }
  raise_if_interrupted(finished);
  return answer_of(row_marginal, col_marginal, reports);
}

Answer marginals(const Cost& cost, const py::array& a, const py::array& b, const Doubles& f, const Doubles& g,
                 const Doubles& eps, const Doubles& total, const SideTuple& rows, const SideTuple& cols, double mass) {
  const index_t batch = cost.view.batch;
  Doubles row_marginal = doubles(batch, cost.view.n), col_marginal = doubles(batch, cost.view.m);
  std::vector<cpu::SolveReport> reports(static_cast<std::size_t>(batch));
  const cpu::Side row_side = side_of(rows), col_side = side_of(cols);
  double* to_rows = row_marginal.mutable_data();
  double* to_cols = col_marginal.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(cost.size());
    finished = cpu::transport_marginals(cost.view, masses_of(a, b), eps.data(), total.data(), row_side, col_side, mass,
                                        f.data(), g.data(), to_rows, to_cols, reports.data());
  }
  raise_if_interrupted(finished);
  return answer_of(row_marginal, col_marginal, reports);
}

std::pair<Doubles, Doubles> semidual(const Cost& cost, const py::array& a, const py::array& b, Doubles f,
                                     const Doubles& g, const Doubles& eps, const SideTuple& rows) {
  Doubles col_marginal = doubles(cost.view.batch, cost.view.m);
  const cpu::Side row_side = side_of(rows);
  double* to_f = f.mutable_data();
  double* to_cols = col_marginal.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(cost.size());
    finished = cpu::transport_semidual(cost.view, masses_of(a, b), eps.data(), row_side, g.data(), to_f, to_cols);
  }
  raise_if_interrupted(finished);
  return {f, col_marginal};
}

Doubles softmin(const Cost& cost, const Doubles& h, const Doubles& eps, bool over_rows) {
  Doubles out = doubles(cost.view.batch, over_rows ? cost.view.m : cost.view.n);
  double* to = out.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(cost.size());
    finished = cpu::transport_softmin(cost.view, h.data(), eps.data(), over_rows, to);
  }
  raise_if_interrupted(finished);
  return out;
}

py::array plan(const Cost& cost, const py::array& a, const py::array& b, const Doubles& f, const Doubles& g,
               const Doubles& eps, index_t first, index_t count) {
  py::array out = cost.empty(count);
  void* to = out.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(cost.size());
    finished = cpu::transport_plan(cost.view, masses_of(a, b), eps.data(), f.data(), g.data(), first, count, to);
  }
  raise_if_interrupted(finished);
  return out;
}

Doubles apply(const Cost& cost, const py::array& a, const py::array& b, const Doubles& f, const Doubles& g,
              const Doubles& eps, const Doubles& v, bool transpose) {
  const index_t k = v.shape(1);
  Doubles out = doubles(cost.view.batch, k, transpose ? cost.view.m : cost.view.n);
  double* to = out.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(cost.size());
    finished =
        cpu::transport_apply(cost.view, masses_of(a, b), eps.data(), f.data(), g.data(), v.data(), k, transpose, to);
  }
  raise_if_interrupted(finished);
  return out;
}

py::array cost_rows(const Cost& cost, index_t first, index_t count) {
  py::array out = cost.empty(count);
  void* to = out.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(cost.size());
    finished = cpu::transport_cost_rows(cost.view, first, count, to);
  }
  raise_if_interrupted(finished);
  return out;
}

// (least, largest, nan, -inf, +inf) for each problem, and which rows and columns have an allowed pair.
using Range = std::tuple<py::array_t<double>, py::array_t<double>, py::array_t<bool>, py::array_t<bool>,
                         py::array_t<bool>, py::array_t<bool>, py::array_t<bool>>;
Range cost_range(const Cost& cost) {
  const index_t batch = cost.view.batch;
  std::vector<CostRange> ranges(static_cast<std::size_t>(batch));
  py::array_t<bool> rows(std::vector<py::ssize_t>{batch, cost.view.n}),
      cols(std::vector<py::ssize_t>{batch, cost.view.m});
  bool* to_rows = rows.mutable_data();
  bool* to_cols = cols.mutable_data();
  bool finished;
  {
    MaybeReleaseGil released(cost.size());
    finished = cpu::transport_cost_range(cost.view, ranges.data(), to_rows, to_cols);
  }
  raise_if_interrupted(finished);
  py::array_t<double> least(batch), largest(batch);
  py::array_t<bool> nan(batch), minus_inf(batch), forbidden(batch);
  for (index_t k = 0; k < batch; ++k) {
    const CostRange& range = ranges[static_cast<std::size_t>(k)];
    least.mutable_at(k) = range.least;
    largest.mutable_at(k) = range.largest;
    nan.mutable_at(k) = range.nan;
    minus_inf.mutable_at(k) = range.least == -HUGE_VAL;
    forbidden.mutable_at(k) = range.forbidden;
  }
  return {least, largest, nan, minus_inf, forbidden, rows, cols};
}

}  // namespace

void register_transport(py::module_& m) {
  py::class_<Cost>(m, "TransportCost")
      .def(py::init<py::array, std::optional<py::array>, int, double>(), py::arg("x"), py::arg("y"), py::arg("metric"),
           py::arg("scale"))
      .def(py::init<std::vector<Doubles>, index_t>(), py::arg("axes"), py::arg("batch"))
      .def("repeated", &Cost::repeated, py::arg("batch"), "A grid's costs for so many problems.");
  m.def("transport_solve", &solve, py::arg("cost"), py::arg("a"), py::arg("b"), py::arg("f").noconvert(),
        py::arg("g").noconvert(), py::arg("eps"), py::arg("start"), py::arg("total"), py::arg("rows"), py::arg("cols"),
        py::arg("mass"), py::arg("tol"), py::arg("max_iter"), py::arg("accelerate"), py::arg("single"),
        py::arg("patience"), py::arg("reach"), py::arg("callback"));
  m.def("transport_marginals", &marginals, py::arg("cost"), py::arg("a"), py::arg("b"), py::arg("f"), py::arg("g"),
        py::arg("eps"), py::arg("total"), py::arg("rows"), py::arg("cols"), py::arg("mass"));
  m.def("transport_semidual", &semidual, py::arg("cost"), py::arg("a"), py::arg("b"), py::arg("f").noconvert(),
        py::arg("g"), py::arg("eps"), py::arg("rows"));
  m.def("transport_softmin", &softmin, py::arg("cost"), py::arg("h"), py::arg("eps"), py::arg("over_rows"));
  m.def("transport_plan", &plan, py::arg("cost"), py::arg("a"), py::arg("b"), py::arg("f"), py::arg("g"),
        py::arg("eps"), py::arg("first"), py::arg("count"));
  m.def("transport_apply", &apply, py::arg("cost"), py::arg("a"), py::arg("b"), py::arg("f"), py::arg("g"),
        py::arg("eps"), py::arg("v"), py::arg("transpose"));
  m.def("transport_cost_rows", &cost_rows, py::arg("cost"), py::arg("first"), py::arg("count"));
  m.def("transport_cost_range", &cost_range, py::arg("cost"));
}

}  // namespace bind
}  // namespace entropic
