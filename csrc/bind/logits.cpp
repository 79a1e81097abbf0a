// Bindings of the log-sum family: views in, arrays out.
#include "../cpu/logits.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "../cpu/dispatch.hpp"
#include "array.hpp"
#include "register.hpp"

namespace entropic {
namespace bind {
namespace {

template <class T>
using Dense = py::array_t<T, py::array::c_style>;

std::vector<py::ssize_t> kept_shape(const py::array& a, std::uint64_t axes, bool keepdims) {
  std::vector<py::ssize_t> shape;
  for (int d = 0; d < a.ndim(); ++d) {
    const bool reduced = axes >> d & 1;
    if (!reduced || keepdims) shape.push_back(reduced ? 1 : a.shape(d));
  }
  return shape;
}

cpu::View reduction_view(const py::array& a, std::uint64_t axes) {
  cpu::View view = view_of(a, axes);
  cpu::collapse(view.outer);
  cpu::sort_for_reduction(view);
  return view;
}

std::uint64_t all_axes(const py::array& a) { return (std::uint64_t(1) << a.ndim()) - 1; }

py::array reduce(const py::array& a, std::uint64_t axes, bool keepdims, int value) {
  const cpu::View view = reduction_view(a, axes);
  const bool single = cpu::computes_in_f32(view.dtype);
  const std::vector<py::ssize_t> shape = kept_shape(a, axes, keepdims);
  py::array out = single ? py::array(py::array_t<float>(shape)) : py::array(py::array_t<double>(shape));
  bool finished;
  {
    MaybeReleaseGil released(a.size());
    finished = cpu::reduce_values(view, static_cast<Value>(value), out.mutable_data());
  }
  raise_if_interrupted(finished);
  return out;
}

// A Python int that numbers a dimension of `a`; -1 for anything else, which the long way words.
int quick_axis(const py::array& a, const py::object& axis) {
  if (!PyLong_CheckExact(axis.ptr()) || a.ndim() > 63) return -1;
  const long wanted = PyLong_AsLong(axis.ptr());
  if (wanted == -1 && PyErr_Occurred()) {
    PyErr_Clear();  // beyond a long
    return -1;
  }
  const long ndim = static_cast<long>(a.ndim());
  if (wanted < -ndim || wanted >= ndim) return -1;
  return static_cast<int>(wanted < 0 ? wanted + ndim : wanted);
}

// The call that must be quick: a plain float array, and no axis or one. None where the long way is needed.
py::object logsumexp_quick(const py::array& a, const py::object& axis, bool keepdims) {
  const auto dtype = dtype_of(a);
  if (!dtype || (*dtype != cpu::DType::f32 && *dtype != cpu::DType::f64) || a.ndim() > 63) return py::none();
  std::uint64_t axes = all_axes(a);
  if (!axis.is_none()) {
    const int wanted = quick_axis(a, axis);
    if (wanted < 0) return py::none();
    axes = std::uint64_t(1) << wanted;
  }
  py::array out = reduce(a, axes, keepdims, static_cast<int>(Value::logsumexp));
  return out.ndim() ? py::object(out) : py::object(out[py::tuple()]);
}

// Fields of the states as one array (fields, ...): a structure of arrays is what NumPy can work on.
template <class State>
constexpr int kFieldsOf = sizeof(State) / sizeof(double);

template <class State>
void put_state(const State& state, Dense<double>& fields, index_t i) {
  constexpr int count = kFieldsOf<State>;
  const index_t n = fields.size() / count;
  double field[count];
  std::memcpy(field, &state, sizeof(field));
  for (int f = 0; f < count; ++f) fields.mutable_data()[f * n + i] = field[f];
}

template <class State>
State state_at(const Dense<double>& fields, index_t i) {
  constexpr int count = kFieldsOf<State>;
  const index_t n = fields.size() / count;
  double field[count];
  for (int f = 0; f < count; ++f) field[f] = fields.data()[f * n + i];
  State state;
  std::memcpy(&state, field, sizeof(field));
  return state;
}

template <class State>
Dense<double> unpack(const std::vector<State>& states, std::vector<py::ssize_t> shape) {
  shape.insert(shape.begin(), kFieldsOf<State>);
  Dense<double> out(shape);
  for (std::size_t i = 0; i < states.size(); ++i) put_state(states[i], out, static_cast<index_t>(i));
  return out;
}

Dense<double> reduce_states(const py::array& a, std::uint64_t axes) {
  const cpu::View view = reduction_view(a, axes);
  std::vector<LogSum> states(static_cast<std::size_t>(view.rows()));
  bool finished;
  {
    MaybeReleaseGil released(a.size());
    finished = cpu::reduce_states(view, states.data());
  }
  raise_if_interrupted(finished);
  return unpack(states, kept_shape(a, axes, false));
}

// States of the rows along `axis`, in order: one inverse temperature a row, and if wanted a value a column, in the type
// that the array is computed in, and a column a row (-1: none).
std::vector<TokenSum> token_sums(const py::array& a, int axis, const Dense<double>& inverse,
                                 const std::optional<Dense<index_t>>& targets, const std::optional<py::array>& values) {
  const std::uint64_t axes = std::uint64_t(1) << axis;
  cpu::View view = view_of(a, axes);
  cpu::collapse(view.outer);
  cpu::collapse(view.inner);
  const index_t rows = view.rows(), cols = view.cols();
  if (inverse.size() != rows || (targets && targets->size() != rows))
    throw std::invalid_argument("one inverse temperature and target a row");
  if (targets)
    for (index_t i = 0; i < rows; ++i)
      if (targets->data()[i] >= cols) throw std::invalid_argument("target out of range");
  const cpu::DType wanted = cpu::computes_in_f32(view.dtype) ? cpu::DType::f32 : cpu::DType::f64;
  if (values && (values->size() != cols || dtype_of(*values) != wanted || !(values->flags() & py::array::c_style)))
    throw std::invalid_argument("one value a column, adjacent, in the type of the sums");
  std::vector<TokenSum> states(static_cast<std::size_t>(rows));
  bool finished;
  {
    MaybeReleaseGil released(a.size());
    finished = cpu::reduce_tokens(view, inverse.data(), values ? values->data() : nullptr,
                                  targets ? targets->data() : nullptr, states.data());
  }
  raise_if_interrupted(finished);
  return states;
}

Dense<double> token_states(const py::array& a, int axis, const Dense<double>& inverse,
                           const std::optional<Dense<index_t>>& targets, const std::optional<py::array>& values) {
  return unpack(token_sums(a, axis, inverse, targets, values), kept_shape(a, std::uint64_t(1) << axis, false));
}

template <class T>
py::array finished(const std::vector<TokenSum>& states, std::vector<py::ssize_t> shape) {
  shape.insert(shape.begin(), kTokenValues);
  Dense<T> out(shape);
  T* to = out.mutable_data();
  const std::size_t n = states.size();
  for (std::size_t i = 0; i < n; ++i) {
    double value[kTokenValues];
    cpu::active().finish_tokens(&states[i], value);
    for (std::size_t v = 0; v < kTokenValues; ++v) to[v * n + i] = static_cast<T>(value[v]);
  }
  return out;
}

// The values of states, (kTokenValues, ...), as float32 or float64.
py::array finished(const std::vector<TokenSum>& states, const std::vector<py::ssize_t>& shape, bool single) {
  return single ? finished<float>(states, shape) : finished<double>(states, shape);
}

// The call that must be quick, as one row in a decoding loop: plain floats at temperature 1, and targets that are in
// range. The states and their values; None where the long way is needed.
py::object token_states_quick(const py::array& a, const py::object& targets, const py::object& axis) {
  const auto dtype = dtype_of(a);
  const int wanted = quick_axis(a, axis);
  const bool floats = dtype && (cpu::computes_in_f32(*dtype) || *dtype == cpu::DType::f64);
  if (!floats || wanted < 0) return py::none();
  const std::vector<py::ssize_t> shape = kept_shape(a, std::uint64_t(1) << wanted, false);
  std::optional<Dense<index_t>> places;
  if (!targets.is_none()) {
    if (!py::isinstance<Dense<index_t>>(targets)) return py::none();
    places = py::reinterpret_borrow<Dense<index_t>>(targets);
    if (!std::equal(shape.begin(), shape.end(), places->shape(), places->shape() + places->ndim())) return py::none();
    for (index_t i = 0; i < places->size(); ++i)
      if (places->data()[i] < 0 || places->data()[i] >= a.shape(wanted)) return py::none();
  }
  Dense<double> inverse(shape);
  std::fill_n(inverse.mutable_data(), inverse.size(), 1.0);
  const std::vector<TokenSum> states = token_sums(a, wanted, inverse, places, std::nullopt);
  return py::make_tuple(unpack(states, shape), finished(states, shape, cpu::computes_in_f32(*dtype)));
}

py::array finish_tokens(const Dense<double>& fields, bool single) {
  std::vector<TokenSum> states;
  for (index_t i = 0; i < fields.size() / kTokenFields; ++i) states.push_back(state_at<TokenSum>(fields, i));
  return finished(states, {fields.shape() + 1, fields.shape() + fields.ndim()}, single);
}

// a and b have one shape. Returns the fields of the real sums, and for complex input those of the imaginary ones.
std::vector<Dense<double>> reduce_signed(const py::array& a, const std::optional<py::array>& b, std::uint64_t axes,
                                         bool is_complex) {
  cpu::View x = view_of(a, axes), weights;
  if (b) {
    weights = view_of(*b, axes);
    cpu::sort_together(x.inner, weights.inner);
    cpu::collapse(x.inner, weights.inner);
    cpu::collapse(x.outer, weights.outer);
  }
  const cpu::View* w = b ? &weights : nullptr;
  std::vector<SignedSum> real(static_cast<std::size_t>(x.rows())), imaginary(is_complex ? real.size() : 0);
  bool finished;
  {
    MaybeReleaseGil released(a.size());
    finished =
        is_complex ? cpu::reduce_complex(x, w, real.data(), imaginary.data()) : cpu::reduce_signed(x, w, real.data());
  }
  raise_if_interrupted(finished);
  const auto shape = kept_shape(a, axes, false);
  std::vector<Dense<double>> parts{unpack(real, shape)};
  if (is_complex) parts.push_back(unpack(imaginary, shape));
  return parts;
}

// Merges states elementwise, in place.
template <class State, class Merge>
void merge_fields(Dense<double>& a, const Dense<double>& b, Merge merge) {
  if (a.size() != b.size()) throw std::invalid_argument("states differ in size");
  for (index_t i = 0; i < a.size() / kFieldsOf<State>; ++i)
    put_state(merge(state_at<State>(a, i), state_at<State>(b, i)), a, i);
}

void merge_states(Dense<double> a, const Dense<double>& b) { merge_fields<LogSum>(a, b, cpu::active().merge); }

void merge_tokens(Dense<double> a, const Dense<double>& b) { merge_fields<TokenSum>(a, b, cpu::active().merge_tokens); }

void merge_signed(Dense<double> a, const Dense<double>& b) {
  merge_fields<SignedSum>(a, b, cpu::active().merge_signed);
}

Dense<double> finish_states(const Dense<double>& fields, int value) {
  const index_t n = fields.size() / 3;
  Dense<double> out(std::vector<py::ssize_t>(fields.shape() + 1, fields.shape() + fields.ndim()));
  double* to = out.mutable_data();
  for (index_t i = 0; i < n; ++i) {
    const LogSum s = state_at<LogSum>(fields, i);
    cpu::active().f64.finish(static_cast<Value>(value), &s, 1, 1.0, to + i);
  }
  return out;
}

// log|hi + lo| of each signed state; its maximum is added by the caller.
Dense<double> log_abs_states(const Dense<double>& fields) {
  const index_t n = fields.size() / 3;
  Dense<double> out(std::vector<py::ssize_t>(fields.shape() + 1, fields.shape() + fields.ndim()));
  double* to = out.mutable_data();
  for (index_t i = 0; i < n; ++i) {
    const SignedSum s = state_at<SignedSum>(fields, i);
    to[i] = cpu::active().log_abs(s.hi, s.lo);
  }
  return out;
}

// Walks x and out together, so that both lose the same dimensions.
void together(cpu::View& x, cpu::View& out) {
  cpu::sort_together(x.inner, out.inner);
  cpu::collapse(x.inner, out.inner);
  cpu::collapse(x.outer, out.outer);
}

void require_one_shape(const py::array& a, const py::array& b) {
  if (a.ndim() != b.ndim() || !std::equal(a.shape(), a.shape() + a.ndim(), b.shape()))
    throw std::invalid_argument("shapes differ");
}

void require_floating_out(const py::array& out) {
  if (!out.writeable() || out.dtype().kind() == 'c') throw std::invalid_argument("out cannot be written");
}

void map_rows(const py::array& a, std::uint64_t axes, int map, const std::optional<Dense<double>>& cotangent,
              py::array out) {
  cpu::View x = view_of(a, axes), to = view_of(out, axes);
  require_floating_out(out);
  require_one_shape(a, out);
  const auto kind = static_cast<cpu::RowMap>(map);
  const bool gradient = kind != cpu::RowMap::softmax && kind != cpu::RowMap::log_softmax;
  const index_t wanted = x.rows() * (kind == cpu::RowMap::linear ? 2 : 1);
  if (gradient && (!cotangent || cotangent->size() != wanted)) throw std::invalid_argument("one cotangent a row");
  if (a.size() == 0) return;
  together(x, to);
  bool finished;
  {
    MaybeReleaseGil released(a.size());
    finished = cpu::map_rows(x, kind, gradient ? cotangent->data() : nullptr, to);
  }
  raise_if_interrupted(finished);
}

// A (rows, columns) array.
cpu::View matrix_view(const py::array& a) {
  if (a.ndim() != 2) throw std::invalid_argument("two dimensions");
  cpu::View view = view_of(a, 2);
  cpu::collapse(view.outer);
  cpu::collapse(view.inner);
  return view;
}

// Values and shifts of rows, (2, rows).
Dense<double> divergences(const py::array& x, const py::array& y, int kind, double power) {
  require_one_shape(x, y);
  const cpu::View a = matrix_view(x), b = matrix_view(y);
  Dense<double> out({py::ssize_t(2), x.shape(0)});
  bool finished;
  {
    MaybeReleaseGil released(x.size());
    finished = cpu::divergences(a, b, static_cast<cpu::Divergence>(kind), power, out.mutable_data());
  }
  raise_if_interrupted(finished);
  return out;
}

// Weighted gaps and weights of rows, (2, rows).
Dense<double> weigh_gaps(const py::array& x, const Dense<double>& tops, const std::optional<py::array>& w,
                         const std::optional<Dense<double>>& c) {
  const cpu::View scores = matrix_view(x);
  if (w) require_one_shape(x, *w);
  if (tops.size() != x.shape(0) || (c && c->size() != x.shape(1)))
    throw std::invalid_argument("one maximum a row, one factor a column");
  const cpu::View weights = w ? matrix_view(*w) : scores;
  Dense<double> out({py::ssize_t(2), x.shape(0)});
  bool finished;
  {
    MaybeReleaseGil released(x.size());
    finished =
        cpu::weigh_gaps(scores, tops.data(), w ? &weights : nullptr, c ? c->data() : nullptr, out.mutable_data());
  }
  raise_if_interrupted(finished);
  return out;
}

// sum over rows of factor softmax(row), and the sum of the factors of rows without mass: (columns + 1,).
Dense<double> sum_softmax(const py::array& x, const Dense<double>& factor) {
  const cpu::View scores = matrix_view(x);
  if (factor.size() != x.shape(0)) throw std::invalid_argument("one factor a row");
  const cpu::View reduced = reduction_view(x, 2);
  std::vector<LogSum> states(static_cast<std::size_t>(x.shape(0)));
  Dense<double> out(x.shape(1) + 1);
  bool finished;
  {
    MaybeReleaseGil released(x.size());
    finished = cpu::reduce_states(reduced, states.data()) &&
               cpu::sum_softmax(scores, factor.data(), states.data(), out.mutable_data());
  }
  raise_if_interrupted(finished);
  return out;
}

// Running sums along one axis.
void scan(const py::array& a, int axis, py::array out) {
  const std::uint64_t axes = std::uint64_t(1) << axis;
  cpu::View x = view_of(a, axes), to = view_of(out, axes);
  require_floating_out(out);
  require_one_shape(a, out);
  if (a.size() == 0) return;
  cpu::collapse(x.outer, to.outer);
  bool finished;
  {
    MaybeReleaseGil released(a.size());
    finished = cpu::scan_rows(x, to);
  }
  raise_if_interrupted(finished);
}

// Axis 0 of `a` is numbered by `ids`; the fields of the states, (3, segments, rest of the shape).
Dense<double> reduce_segments(const py::array& a, const Dense<index_t>& ids, index_t segments) {
  cpu::View view = view_of(a, a.ndim() ? all_axes(a) & ~std::uint64_t(1) : 0);
  cpu::collapse(view.inner);
  if (a.ndim() == 0 || ids.size() != a.shape(0)) throw std::invalid_argument("one id a row");
  for (index_t i = 0; i < ids.size(); ++i)
    if (ids.data()[i] < 0 || ids.data()[i] >= segments) throw std::invalid_argument("id out of range");
  std::vector<py::ssize_t> shape(a.shape(), a.shape() + a.ndim());
  shape[0] = segments;
  std::vector<LogSum> states(static_cast<std::size_t>(segments * view.cols()));
  bool finished;
  {
    MaybeReleaseGil released(a.size());
    finished = cpu::reduce_segments(view, ids.data(), segments, states.data());
  }
  raise_if_interrupted(finished);
  return unpack(states, shape);
}

template <class T>
py::array reduce_dot_as(const Dense<T>& x, const Dense<T>& y, double scale, int value) {
  if (x.ndim() != 2 || y.ndim() != 2 || x.shape(1) != y.shape(1)) throw std::invalid_argument("shapes do not match");
  Dense<T> out(x.shape(0));
  bool finished;
  {
    MaybeReleaseGil released(x.shape(0) * y.shape(0));
    finished = cpu::reduce_dot_values(x.data(), x.shape(0), y.data(), y.shape(0), x.shape(1), static_cast<T>(scale),
                                      static_cast<Value>(value), out.mutable_data());
  }
  raise_if_interrupted(finished);
  return out;
}

// One value for each row of scale x y^T, which is not stored.
py::array reduce_dot(const py::array& x, const py::array& y, double scale, int value) {
  if (dtype_of(x) == cpu::DType::f32) return reduce_dot_as<float>(x, y, scale, value);
  return reduce_dot_as<double>(x, y, scale, value);
}

template <class T>
py::array elementwise_as(const std::string& name, const Dense<T>& x) {
  const auto& kernels = cpu::active().of<T>();
  Dense<T> out(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  const auto f = name == "exp" ? kernels.exp : name == "log" ? kernels.log : kernels.log1p;
  f(x.data(), x.size(), out.mutable_data());
  return out;
}

// The kernels' own exp, log and log1p, for the tests.
py::array elementwise(const std::string& name, const py::array& x) {
  return dtype_of(x) == cpu::DType::f32 ? elementwise_as<float>(name, x) : elementwise_as<double>(name, x);
}

}  // namespace

void register_logits(py::module_& m) {
  using namespace py::literals;
  m.def("logsumexp_quick", &logsumexp_quick, "a"_a, "axis"_a, "keepdims"_a);
  m.def("reduce", &reduce, "a"_a, "axes"_a, "keepdims"_a, "value"_a);
  m.def("reduce_states", &reduce_states, "a"_a, "axes"_a);
  m.def("reduce_signed", &reduce_signed, "a"_a, "b"_a, "axes"_a, "is_complex"_a);
  m.def("token_states", &token_states, "a"_a, "axis"_a, py::arg("inverse").noconvert(), py::arg("targets").noconvert(),
        py::arg("values").noconvert());
  m.def("token_states_quick", &token_states_quick, "a"_a, "targets"_a, "axis"_a);
  m.def("finish_tokens", &finish_tokens, py::arg("fields").noconvert(), "single"_a);
  m.def("merge_tokens", &merge_tokens, py::arg("a").noconvert(), py::arg("b").noconvert());
  m.def("merge_states", &merge_states, py::arg("a").noconvert(), py::arg("b").noconvert());
  m.def("merge_signed", &merge_signed, py::arg("a").noconvert(), py::arg("b").noconvert());
  m.def("finish_states", &finish_states, py::arg("fields").noconvert(), "value"_a);
  m.def("log_abs_states", &log_abs_states, py::arg("fields").noconvert());
  m.def("map_rows", &map_rows, "a"_a, "axes"_a, "map"_a, "cotangent"_a, "out"_a);
  m.def("divergences", &divergences, "x"_a, "y"_a, "kind"_a, "power"_a);
  m.def("weigh_gaps", &weigh_gaps, "x"_a, py::arg("tops").noconvert(), "w"_a, py::arg("c").noconvert());
  m.def("sum_softmax", &sum_softmax, "x"_a, py::arg("factor").noconvert());
  m.def("scan", &scan, "a"_a, "axis"_a, "out"_a);
  m.def("reduce_segments", &reduce_segments, "a"_a, "ids"_a, "segments"_a);
  m.def("reduce_dot", &reduce_dot, "x"_a, "y"_a, "scale"_a, "value"_a);
  m.def("elementwise", &elementwise, "name"_a, "x"_a);
}

}  // namespace bind
}  // namespace entropic
