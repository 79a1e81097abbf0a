#include "logits.hpp"

#include <cmath>
#include <numeric>

#include "sweep.hpp"

namespace entropic {
namespace cpu {
namespace {

// What takes a unit's states to their place among all rows'.
template <class State>
auto copy_to(State* out) {
  return [out](index_t first, index_t count, const State* states) { std::copy_n(states, count, out + first); };
}

template <class T>
bool reduce_values_as(const View& x, Value value, T* out) {
  const Kernels& kernels = active();
  const StoredScore<T> score(x);
  const double cols = static_cast<double>(x.cols());
  const LogSumReducer<T> reducer(kernels, value == Value::entropy);
  return reduce_rows(score, reducer, [&](index_t first, index_t count, const LogSum* states) {
    kernels.of<T>().finish(value, states, count, cols, out + first);
  });
}

template <class T>
bool reduce_states_as(const View& x, LogSum* out) {
  return reduce_rows(StoredScore<T>(x), LogSumReducer<T>(active(), true), copy_to(out));
}

// A stored array whose rows are never lanes: each is folded in its own order.
template <class T>
class WholeRows {
 public:
  explicit WholeRows(const View& view) : score_(view), rows_(view.rows()), cols_(view.cols()) {}
  Plan plan() const { return row_plan(rows_, cols_); }
  template <class Reducer>
  void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    for (index_t i = 0; i < count; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        if (const std::uint16_t* x = reducer.takes_bfloat() ? score_.bfloats(first + i, col, cols) : nullptr) {
          reducer.bfloat_row(i, x, cols);
          continue;
        }
      }
      score_.each_row_tile(first + i, col, cols, [&](index_t, index_t n, const T* x) { reducer.row(i, x, n); });
    }
  }
  index_t first_nan(index_t row) const {
    index_t found = -1;
    score_.each_row_tile(row, 0, cols_, [&](index_t col, index_t n, const T* x) {
      for (index_t j = 0; j < n && found < 0; ++j)
        if (std::isnan(x[j])) found = col + j;
    });
    return found;
  }

 private:
  StoredScore<T> score_;
  index_t rows_, cols_;
};

template <class T>
bool reduce_tokens_as(const View& x, const double* inverse, const T* values, const index_t* targets, TokenSum* out) {
  const WholeRows<T> score(x);
  return reduce_rows(score, TokenReducer<T>(active(), inverse, values),
                     [&](index_t first, index_t count, const TokenSum* states) {
                       for (index_t i = 0; i < count; ++i) {
                         const index_t row = first + i;
                         TokenSum& s = out[row] = states[i];
                         if (std::isnan(s.r)) s.argmax = static_cast<double>(score.first_nan(row));
                         if (!targets || targets[row] < 0) continue;
                         T target;
                         load_span(x, x.data + x.outer.offset(row), x.inner, targets[row], 1, &target);
                         s.target = static_cast<double>(target);
                       }
                     });
}

// m and the coefficients a, b of `Write` for one row.
struct Coefficients {
  double m, a, b;
};

class RowMapper {
 public:
  RowMapper(const Kernels& kernels, RowMap map, const double* cotangent, index_t rows)
      : kernels_(kernels), map_(map), cotangent_(cotangent), rows_(rows) {}

  // Also where r alone is what is wanted to its last place, as in the log-probability of a near-certain category.
  bool precise() const { return map_ == RowMap::entropy_vjp || map_ == RowMap::log_softmax; }
  Write what() const {
    if (map_ == RowMap::log_softmax) return Write::log_probability;
    const bool weighted = map_ == RowMap::entropy_vjp || map_ == RowMap::linear;
    return weighted ? Write::weighted_probability : Write::probability;
  }
  bool is_gradient() const { return map_ != RowMap::softmax && map_ != RowMap::log_softmax; }

  Coefficients of(index_t row, const LogSum& s) const {
    const double share = std::isinf(s.m) && s.m > 0 ? NAN : 1.0 / (1.0 + s.r);
    switch (map_) {
      case RowMap::softmax: return {s.m, share, 0};
      case RowMap::log_softmax: return {s.m, log1p_of(s.r), 0};
      case RowMap::logsumexp_vjp: return {s.m, cotangent_[row] * share, 0};
      case RowMap::entropy_vjp: {  // p (m - x - t/(1+r)): log1p(r) has cancelled by hand
        const double g = cotangent_[row] * share;
        return {s.m, -g * (s.t * share), g};
      }
      case RowMap::linear: return {s.m, cotangent_[row] * share, cotangent_[rows_ + row] * share};
    }
    return {};
  }

 private:
  double log1p_of(double r) const {
    double y;
    kernels_.f64.log1p(&r, 1, &y);
    return y;
  }
  const Kernels& kernels_;
  RowMap map_;
  const double* cotangent_;
  index_t rows_;
};

// Writes one unit: rows first .. first + count, columns col .. col + cols.
template <class T>
class UnitWriter {
 public:
  UnitWriter(const StoredScore<T>& score, const RowMapper& mapper, const View& out, bool stream)
      : score_(score), mapper_(mapper), out_(out), stream_(stream), native_(out.is_native(native_dtype<T>())) {}

  void write(index_t first, index_t count, index_t col, index_t cols, const LogSum* states) const {
    if (score_.rows_are_lanes()) return write_lanes(first, count, col, cols, states);
    for (index_t i = 0; i < count; ++i) write_row(first + i, col, cols, states[i]);
  }

 private:
  void write_row(index_t row, index_t col, index_t cols, const LogSum& state) const {
    const FamilyKernels<T>& kernels = active().of<T>();
    const Coefficients c = mapper_.of(row, state);
    // Softmax has no gradient where nothing has mass; a row without mass is nan in softmax itself.
    const bool zero = mapper_.is_gradient() && state.m == -HUGE_VAL && state.r == 0;
    char* base = out_.data + out_.outer.offset(row);
    T buffer[kTile];
    score_.each_row_tile(row, col, cols, [&](index_t j, index_t n, const T* x) {
      for (index_t done = 0; done < n;) {
        index_t some = n - done;
        const bool ready =
            native_ && (out_.inner.last_stride() == sizeof(T) || some == 1) && out_.inner.run(j + done) >= some;
        if (!ready) some = std::min(some, kTile);
        T* to = ready ? reinterpret_cast<T*>(base + out_.inner.offset(j + done)) : buffer;
        if (zero) std::fill_n(to, some, T(0));
        else kernels.write_row(mapper_.what(), x + done, some, c.m, c.a, c.b, ready && stream_, to);
        if (!ready) store_span(out_, base, out_.inner, j + done, some, buffer);
        done += some;
      }
    });
  }

  ENTROPIC_NOINLINE void write_lanes(index_t first, index_t count, index_t col, index_t cols,
                                     const LogSum* states) const {
    const FamilyKernels<T>& kernels = active().of<T>();
    T m[kUnitRows<T>], a[kUnitRows<T>], b[kUnitRows<T>];
    for (index_t i = 0; i < count; ++i) {
      Coefficients c = mapper_.of(first + i, states[i]);
      // A maximum of 0 and a coefficient of 0 give the gradient 0 of a row without mass.
      if (mapper_.is_gradient() && c.m == -HUGE_VAL && states[i].r == 0) c = {0, 0, 0};
      m[i] = static_cast<T>(c.m);
      a[i] = static_cast<T>(c.a);
      b[i] = static_cast<T>(c.b);
    }
    alignas(64) T buffer[kLaneBuffer<T>];
    const index_t buffer_ld = lane_stride(count);
    const bool rows_adjacent = native_ && out_.outer.last_stride() == sizeof(T) && out_.outer.run(first) >= count;
    score_.each_lane_tile(first, count, col, cols, kLaneSteps, [&](index_t j, index_t steps, const T* x, index_t ld) {
      const index_t out_ld = steps > 1 ? (out_.inner.offset(j + 1) - out_.inner.offset(j)) : index_t(sizeof(T));
      const bool ready = rows_adjacent && out_.inner.run(j) >= steps && out_ld % index_t(sizeof(T)) == 0;
      if (ready) {
        T* to = reinterpret_cast<T*>(out_.data + out_.outer.offset(first) + out_.inner.offset(j));
        kernels.write_lanes(mapper_.what(), x, ld, steps, count, m, a, b, to, out_ld / index_t(sizeof(T)));
        return;
      }
      kernels.write_lanes(mapper_.what(), x, ld, steps, count, m, a, b, buffer, buffer_ld);
      store_tile(first, count, j, steps, buffer, buffer_ld);
    });
  }

  void store_tile(index_t first, index_t count, index_t col, index_t steps, const T* buffer, index_t ld) const {
    const bool adjacent = native_ && out_.inner.last_stride() == sizeof(T) && out_.inner.run(col) >= steps;
    T row[kLaneSteps];
    for (index_t i = 0; i < count; ++i) {
      char* base = out_.data + out_.outer.offset(first + i);
      T* to = adjacent ? reinterpret_cast<T*>(base + out_.inner.offset(col)) : row;
      for (index_t s = 0; s < steps; ++s) to[s] = buffer[s * ld + i];
      if (!adjacent) store_span(out_, base, out_.inner, col, steps, row);
    }
  }

  const StoredScore<T>& score_;
  const RowMapper& mapper_;
  const View& out_;
  bool stream_, native_;
};

template <class T>
bool map_rows_as(const View& x, RowMap map, const double* cotangent, const View& out) {
  const Kernels& kernels = active();
  const StoredScore<T> score(x);
  const Plan plan = score.plan();
  const RowMapper mapper(kernels, map, cotangent, plan.rows);
  const LogSumReducer<T> reducer(kernels, mapper.precise());
  // An output larger than the caches is written past them: its old contents need not be read.
  const bool stream = x.data != out.data && plan.rows * plan.cols * index_t(sizeof(T)) > (index_t(8) << 20);
  const UnitWriter<T> writer(score, mapper, out, stream);
  if (plan.folds_in_units())
    return reduce_rows(score, reducer, [&](index_t first, index_t count, const LogSum* states) {
      writer.write(first, count, 0, plan.cols, states);
    });
  std::vector<LogSum> states(static_cast<std::size_t>(plan.rows));
  const bool reduced = reduce_rows(score, reducer, copy_to(states.data()));
  const index_t segments = plan.segments();
  return reduced && for_units(plan.row_units() * segments, plan.rows * plan.cols, [&](index_t work) {
           const index_t unit = work / segments, seg = work % segments, first = plan.first_row(unit);
           writer.write(first, plan.row_count(unit), plan.first_col(seg), plan.col_count(seg), states.data() + first);
         });
}

// ---- signed sums -------------------------------------------------------------------------------------------------

// exp's argument and weight of each element, as float64 tiles.
class WeightedScore {
 public:
  enum class Part { plain, real, imaginary };
  WeightedScore(const View& x, const View* b, Part part) : x_(x), b_(b), part_(part) {}

  Plan plan() const { return row_plan(x_.rows(), x_.cols()); }

  template <class Reducer>
  void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    double a[kTile], w[kTile];
    for (index_t i = 0; i < count; ++i) {
      for (index_t done = 0; done < cols; done += kTile) {
        const index_t n = std::min(kTile, cols - done);
        load(first + i, col + done, n, a, w);
        reducer.row(i, a, w, n);
      }
    }
  }

 private:
  void load(index_t row, index_t col, index_t n, double* a, double* w) const {
    const char* base = x_.data + x_.outer.offset(row);
    load_span(x_, base, x_.inner, col, n, a);
    const char* weights = b_ ? b_->data + b_->outer.offset(row) : nullptr;
    if (b_) load_span(*b_, weights, b_->inner, col, n, w);
    else std::fill_n(w, n, 1.0);
    if (part_ == Part::plain) return;
    // b exp(a) = (b_re + i b_im) exp(a_re) (cos a_im + i sin a_im)
    double phase[kTile], b_imaginary[kTile];
    load_imaginary(x_, base, x_.inner, col, n, phase);
    if (b_) load_imaginary(*b_, weights, b_->inner, col, n, b_imaginary);
    else std::fill_n(b_imaginary, n, 0.0);
    for (index_t j = 0; j < n; ++j) {
      // exp(-inf + i y) is 0 for every y, and a phase of 0 turns nothing: no 0 * nan from either.
      const bool turns = phase[j] != 0 && a[j] != -HUGE_VAL;
      const double c = turns ? std::cos(phase[j]) : 1.0, s = turns ? std::sin(phase[j]) : 0.0;
      w[j] = part_ == Part::real ? w[j] * c - b_imaginary[j] * s : w[j] * s + b_imaginary[j] * c;
    }
  }

  const View& x_;
  const View* b_;
  Part part_;
};

// The largest exponent of each row's terms.
class TopReducer {
 public:
  using State = double;
  explicit TopReducer(const Kernels& kernels) : kernels_(kernels) {}
  void begin(index_t, index_t count, index_t) { std::fill_n(tops_, count, -HUGE_VAL); }
  void row(index_t i, double* a, const double* b, index_t n) {
    tops_[i] = std::max(tops_[i], kernels_.prepare_signed(a, b, n));
  }
  const double* states() const { return tops_; }
  double merged(double a, double b) const { return std::max(a, b); }

 private:
  const Kernels& kernels_;
  double tops_[kMostWholeRows];
};

// Sums under maxima that are known: were they raised on the way, equal terms of opposite sign on either side of the
// raise would be rounded differently and not cancel.
class SignedReducer {
 public:
  using State = SignedSum;
  SignedReducer(const Kernels& kernels, const double* tops) : kernels_(kernels), tops_(tops) {}
  SignedReducer(const SignedReducer& other) : SignedReducer(other.kernels_, other.tops_) {}
  void begin(index_t first, index_t count, index_t) {
    for (index_t i = 0; i < count; ++i) states_[i] = SignedSum{tops_[first + i], 0, 0};
  }
  void row(index_t i, double* a, const double* b, index_t n) { kernels_.push_signed(a, b, n, &states_[i]); }
  const SignedSum* states() const { return states_; }
  SignedSum merged(SignedSum a, SignedSum b) const { return kernels_.merge_signed(a, b); }

 private:
  const Kernels& kernels_;
  const double* tops_;
  SignedSum states_[kMostWholeRows];
};

bool reduce_weighted(const View& x, const View* b, WeightedScore::Part part, SignedSum* out) {
  const WeightedScore score(x, b, part);
  std::vector<double> tops(static_cast<std::size_t>(x.rows()));
  return reduce_rows(score, TopReducer(active()), copy_to(tops.data())) &&
         reduce_rows(score, SignedReducer(active(), tops.data()), copy_to(out));
}

// ---- running sums ------------------------------------------------------------------------------------------------

// A row is cut in pieces of this length; the pieces are the lanes of a vector, each starting from the state of all
// that precedes it in its row.
constexpr index_t kPiece = 224;  // no power of two: pieces side by side must not share the cache's sets

class Scan {
 public:
  Scan(const View& x, const View& out)
      : x_(x), out_(out), rows_(x.rows()), cols_(x.cols()), pieces_((cols_ + kPiece - 1) / kPiece) {}

  bool run() {
    std::vector<LogSum> start(static_cast<std::size_t>(rows_ * pieces_), LogSum{-HUGE_VAL, 0, 0});
    if (pieces_ > 1 && !find_starts(start.data())) return false;
    return for_units((rows_ * pieces_ + kLanes - 1) / kLanes, rows_ * cols_, [&](index_t unit) {
      const index_t first = unit * kLanes;
      write_lanes(first, std::min(kLanes, rows_ * pieces_ - first), start.data() + first);
    });
  }

 private:
  static constexpr index_t kLanes = 16, kSteps = 32;

  // start[row, p] = state of pieces 0 .. p-1
  bool find_starts(LogSum* start) const {
    const Kernels& kernels = active();
    return for_units(rows_, rows_ * cols_, [&](index_t row) {
      double buffer[kPiece];
      SignedSum total{-HUGE_VAL, 0, 0};  // as many pieces as there are, in a chain
      for (index_t p = 0; p < pieces_; ++p) {
        if (p % 1024 == 0 && work_stopped()) return;
        start[row * pieces_ + p] = kernels.to_log_sum(total);
        if (p + 1 == pieces_) break;
        LogSum piece{-HUGE_VAL, 0, 0};
        load_span(x_, x_.data + x_.outer.offset(row), x_.inner, p * kPiece, kPiece, buffer);
        kernels.f64.push_row(buffer, kPiece, false, &piece);
        total = kernels.merge_signed(total, kernels.to_signed(piece));
      }
    });
  }

  void write_lanes(index_t first, index_t count, const LogSum* start) const {
    alignas(64) double tile[kSteps * kLanes] = {};
    double m[kLanes], r[kLanes], low[kLanes] = {};
    for (index_t i = 0; i < kLanes; ++i) {
      m[i] = i < count ? start[i].m : -HUGE_VAL;
      r[i] = i < count ? start[i].r : 0.0;
    }
    for (index_t step = 0; step < std::min(kPiece, cols_); step += kSteps) {
      load(first, count, step, tile);
      active().scan(tile, kLanes, kSteps, kLanes, m, r, low);
      store(first, count, step, tile);
    }
  }

  void load(index_t first, index_t count, index_t step, double* tile) const {
    if (const char* from = whole_tile(x_, first, count, step)) {
      active().f64.transpose(reinterpret_cast<const double*>(from), kPiece, kLanes, kSteps, tile, kLanes);
      return;
    }
    double lane[kSteps];
    for (index_t i = 0; i < count; ++i) {
      const Span s = span(first + i, step);
      load_span(x_, x_.data + x_.outer.offset(s.row), x_.inner, s.col, s.n, lane);
      for (index_t k = 0; k < s.n; ++k) tile[k * kLanes + i] = lane[k];
    }
  }

  void store(index_t first, index_t count, index_t step, const double* tile) const {
    if (char* to = whole_tile(out_, first, count, step)) {
      active().f64.transpose(tile, kLanes, kSteps, kLanes, reinterpret_cast<double*>(to), kPiece);
      return;
    }
    double lane[kSteps];
    for (index_t i = 0; i < count; ++i) {
      const Span s = span(first + i, step);
      for (index_t k = 0; k < s.n; ++k) lane[k] = tile[k * kLanes + i];
      store_span(out_, out_.data + out_.outer.offset(s.row), out_.inner, s.col, s.n, lane);
    }
  }

  // Where a tile begins whose lanes are whole pieces of one row of adjacent float64; null for any other.
  char* whole_tile(const View& view, index_t first, index_t count, index_t step) const {
    const Span from = span(first, step), last = span(first + count - 1, step);
    const bool whole = count == kLanes && from.row == last.row && last.n == kSteps;
    if (!whole || !view.is_native(DType::f64) || view.inner.n != 1 || view.inner.last_stride() != sizeof(double))
      return nullptr;
    return view.data + view.outer.offset(from.row) + view.inner.offset(from.col);
  }

  struct Span {
    index_t row, col, n;
  };
  Span span(index_t unit, index_t step) const {
    const index_t col = unit % pieces_ * kPiece + step;
    return {unit / pieces_, col, std::clamp<index_t>(cols_ - col, 0, kSteps)};
  }

  const View& x_;
  const View& out_;
  index_t rows_, cols_, pieces_;
};

// ---- segments ----------------------------------------------------------------------------------------------------

// Rows of many elements: the rows of a segment are the steps of a tile whose lanes are the columns.
template <class T>
bool reduce_wide_segments(const View& x, const index_t* ids, index_t segments, LogSum* out) {
  constexpr index_t width = 2048 / sizeof(T);
  const index_t rows = x.rows(), cols = x.cols(), blocks = (cols + width - 1) / width;
  // The rows of each segment, by counting.
  std::vector<index_t> end(static_cast<std::size_t>(segments + 1)), order(static_cast<std::size_t>(rows));
  for (index_t i = 0; i < rows; ++i) ++end[static_cast<std::size_t>(ids[i] + 1)];
  std::partial_sum(end.begin(), end.end(), end.begin());
  std::vector<index_t> next(end);
  for (index_t i = 0; i < rows; ++i) order[static_cast<std::size_t>(next[static_cast<std::size_t>(ids[i])]++)] = i;

  return for_units(segments * blocks, rows * cols, [&](index_t unit) {
    const index_t segment = unit / blocks, col = unit % blocks * width, count = std::min(width, cols - col);
    alignas(64) T tile[kLaneSteps * (width + 16)];
    const index_t ld = lane_stride(count), last = end[static_cast<std::size_t>(segment + 1)];
    LogSumReducer<T> reducer(active(), false);
    reducer.begin(0, count, 0);
    for (index_t k = end[static_cast<std::size_t>(segment)]; k < last; k += kLaneSteps) {
      if (work_stopped()) return;
      const index_t steps = std::min(kLaneSteps, last - k);
      for (index_t s = 0; s < steps; ++s) {
        const char* base = x.data + x.outer.offset(order[static_cast<std::size_t>(k + s)]);
        load_span(x, base, x.inner, col, count, tile + s * ld);
      }
      reducer.lanes(tile, ld, steps, count);
    }
    std::copy_n(reducer.states(), count, out + segment * cols + col);
  });
}

// Rows of few elements, which are scattered over the states one by one.
class SegmentSum {
 public:
  SegmentSum(const View& x, const index_t* ids, index_t segments)
      : x_(x), ids_(ids), cols_(x.cols()), states_(segments * cols_), all_(x.outer) {
    for (int d = 0; d < x.inner.n; ++d, ++all_.n) {
      all_.shape[all_.n] = x.inner.shape[d];
      all_.stride[all_.n] = x.inner.stride[d];
    }
    collapse(all_);
  }

  // The states of rows first .. first + rows: maxima first, then the sums under them.
  void run(index_t first, index_t rows, LogSum* out) const {
    std::fill_n(out, states_, LogSum{-HUGE_VAL, 0, 0});
    each_tile(first, rows, [&](const double* a, const index_t* key, index_t n) {
      for (index_t j = 0; j < n; ++j) out[key[j]].m = std::max(out[key[j]].m, a[j]);  // nan is never larger
    });
    const FamilyKernels<double>& kernels = active().f64;
    std::vector<double> low(static_cast<std::size_t>(states_));  // what the sums lose
    each_tile(first, rows, [&](const double* a, const index_t* key, index_t n) {
      double e[kTile];
      for (index_t j = 0; j < n; ++j) e[j] = a[j] - out[key[j]].m;
      kernels.exp(e, n, e);
      for (index_t j = 0; j < n; ++j) add(a[j], e[j], out[key[j]], low[static_cast<std::size_t>(key[j])]);
    });
    for (index_t k = 0; k < states_; ++k) {
      out[k].r += low[static_cast<std::size_t>(k)];
      out[k].t = 0;
    }
  }

 private:
  // t marks that the state's one maximal element has been left out.
  static void add(double a, double e, LogSum& s, double& low) {
    if (std::isinf(s.m)) {
      if (std::isnan(a)) s.r = a;
    } else if (a == s.m && s.t == 0) {
      s.t = 1;
    } else {
      const double sum = s.r + e;
      low += s.r >= e ? (s.r - sum) + e : (e - sum) + s.r;
      s.r = sum;
    }
  }

  template <class F>
  void each_tile(index_t first, index_t rows, F f) const {
    double a[kTile];
    index_t key[kTile];
    const index_t end = (first + rows) * cols_;
    for (index_t i = first * cols_; i < end; i += kTile) {
      if (i / kTile % 256 == 0 && work_stopped()) return;
      const index_t n = std::min(kTile, end - i);
      load_span(x_, x_.data, all_, i, n, a);
      index_t row = i / cols_, col = i % cols_;
      for (index_t j = 0; j < n; ++j) {
        key[j] = ids_[row] * cols_ + col;
        if (++col == cols_) {
          col = 0;
          ++row;
        }
      }
      f(a, key, n);
    }
  }

  const View& x_;
  const index_t* ids_;
  index_t cols_, states_;
  Dims all_;
};

}  // namespace

bool computes_in_f32(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

bool reduce_values(const View& x, Value value, void* out) {
  if (computes_in_f32(x.dtype)) return reduce_values_as(x, value, static_cast<float*>(out));
  return reduce_values_as(x, value, static_cast<double*>(out));
}

bool reduce_states(const View& x, LogSum* out) {
  return computes_in_f32(x.dtype) ? reduce_states_as<float>(x, out) : reduce_states_as<double>(x, out);
}

bool reduce_tokens(const View& x, const double* inverse, const void* values, const index_t* targets, TokenSum* out) {
  if (computes_in_f32(x.dtype)) return reduce_tokens_as(x, inverse, static_cast<const float*>(values), targets, out);
  return reduce_tokens_as(x, inverse, static_cast<const double*>(values), targets, out);
}

bool reduce_signed(const View& x, const View* b, SignedSum* out) {
  return reduce_weighted(x, b, WeightedScore::Part::plain, out);
}

bool reduce_complex(const View& x, const View* b, SignedSum* real, SignedSum* imaginary) {
  return reduce_weighted(x, b, WeightedScore::Part::real, real) &&
         reduce_weighted(x, b, WeightedScore::Part::imaginary, imaginary);
}

bool map_rows(const View& x, RowMap map, const double* cotangent, const View& out) {
  if (computes_in_f32(x.dtype)) return map_rows_as<float>(x, map, cotangent, out);
  return map_rows_as<double>(x, map, cotangent, out);
}

bool scan_rows(const View& x, const View& out) { return Scan(x, out).run(); }

bool reduce_segments(const View& x, const index_t* ids, index_t segments, LogSum* out) {
  constexpr index_t wide = 16;
  if (x.cols() >= wide)
    return (computes_in_f32(x.dtype) ? reduce_wide_segments<float> : reduce_wide_segments<double>)(x, ids, segments,
                                                                                                   out);
  const SegmentSum sum(x, ids, segments);
  const index_t rows = x.rows(), states = segments * x.cols(), elements = rows * x.cols();
  // Pieces of the rows are summed apart and merged in order where their states are few beside their elements.
  constexpr index_t worth_cutting = 131072, most = 16;
  index_t pieces = std::clamp<index_t>(elements / worth_cutting, 1, most);
  if (pieces * states > elements / 8) pieces = 1;
  if (pieces == 1) return for_units(1, elements, [&](index_t) { sum.run(0, rows, out); });
  std::vector<LogSum> partial(static_cast<std::size_t>(pieces * states));
  const index_t length = (rows + pieces - 1) / pieces;
  const bool finished = for_units(pieces, elements, [&](index_t piece) {
    const index_t first = std::min(rows, piece * length);
    sum.run(first, std::min(length, rows - first), partial.data() + piece * states);
  });
  const Kernels& kernels = active();
  for (index_t k = 0; finished && k < states; ++k) {
    out[k] = partial[static_cast<std::size_t>(k)];
    for (index_t piece = 1; piece < pieces; ++piece)
      out[k] = kernels.merge(out[k], partial[static_cast<std::size_t>(piece * states + k)]);
  }
  return finished;
}

template <class T>
bool reduce_dot_values(const T* x, index_t rows, const T* y, index_t cols, index_t depth, T scale, Value value,
                       T* out) {
  const Kernels& kernels = active();
  return reduce_rows(PointScore<T>(x, rows, y, cols, depth, Metric::dot, scale),
                     LogSumReducer<T>(kernels, value == Value::entropy),
                     [&](index_t first, index_t count, const LogSum* states) {
                       kernels.of<T>().finish(value, states, count, static_cast<double>(cols), out + first);
                     });
}

template bool reduce_dot_values(const float*, index_t, const float*, index_t, index_t, float, Value, float*);
template bool reduce_dot_values(const double*, index_t, const double*, index_t, index_t, double, Value, double*);

}  // namespace cpu
}  // namespace entropic
