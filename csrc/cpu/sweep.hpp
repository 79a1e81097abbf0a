// The one place where tiles are walked: scores x reducers.
//
// A *score* is a matrix of rows x cols numbers that need not be stored. It says how its rows are best grouped
// (`plan`) and hands the tiles of a unit of work to a reducer: `reducer.row(i, x, n)` for n adjacent scores of the
// unit's row i, or, where neighbouring rows are adjacent in memory, `reducer.lanes(x, ld, steps, n)` for the unit's n
// rows at `steps` columns. A *reducer* holds the states of one unit's rows, from
// `begin(first_row, count, first_col)` to `states()`.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "dispatch.hpp"
#include "pool.hpp"
#include "view.hpp"

namespace entropic {
namespace cpu {

constexpr index_t kLaneBytes = 4096;  // of adjacent rows in a unit: long enough for memory to stream
template <class T>
constexpr index_t kUnitRows = kLaneBytes / static_cast<index_t>(sizeof(T));
constexpr index_t kMaxUnitRows = kUnitRows<float>;
constexpr index_t kTile = 1024;     // adjacent scores that are converted or computed at a time
constexpr index_t kLaneSteps = 16;  // columns at a time when rows are lanes
constexpr index_t kPad = 16;        // lanes of the widest pack: kernels write whole packs

// Rows are cut in runs of `run` rows (the last dimension in memory), runs in units of `unit_rows`, columns in segments.
// The cut depends on the array alone, so results do not depend on the number of threads.
struct Plan {
  static constexpr index_t kManyUnits = 32;
  index_t rows, cols, run, unit_rows, segment;

  index_t units_per_run() const { return (run + unit_rows - 1) / unit_rows; }
  index_t row_units() const { return run ? rows / run * units_per_run() : 0; }
  index_t segments() const { return std::max<index_t>(1, (cols + segment - 1) / segment); }
  // With many units a thread folds all segments of its rows, which are then still in its cache.
  bool folds_in_units() const { return segments() == 1 || row_units() >= kManyUnits; }
  index_t first_row(index_t unit) const { return unit / units_per_run() * run + unit % units_per_run() * unit_rows; }
  index_t row_count(index_t unit) const { return std::min(unit_rows, run - unit % units_per_run() * unit_rows); }
  index_t first_col(index_t seg) const { return seg * segment; }
  index_t col_count(index_t seg) const { return std::min(segment, cols - seg * segment); }
};

// Long rows are folded in segments of this many scores, in order.
constexpr index_t kSegment = 65536;

constexpr index_t kMostWholeRows = 64;  // of a unit, where rows are not lanes

inline Plan row_plan(index_t rows, index_t cols) {
  const index_t unit_rows = std::clamp<index_t>(kSegment / std::max<index_t>(cols, 1), 1, kMostWholeRows);
  return Plan{rows, cols, rows, unit_rows, kSegment};
}

inline Plan lane_plan(index_t rows, index_t cols, index_t run, index_t unit_rows) {
  Plan plan{rows, cols, run, unit_rows, std::max<index_t>(cols, 1)};
  // Few wide units leave threads without work: cut the columns as well, into pieces that are worth a merge.
  constexpr index_t wanted_units = 32, worth_cutting = 1024;
  const index_t pieces = std::min(wanted_units / std::max<index_t>(plan.row_units(), 1), cols / worth_cutting);
  if (pieces > 1) plan.segment = (cols + pieces - 1) / pieces;
  return plan;
}

// Calls f(a, b) for every pair a <= b of blocks. Pairs that run at the same time have no block in common, and those of
// one block come in the same order for any number of threads: in a round a + b is the same, modulo the blocks.
template <class F>
bool each_block_pair(index_t blocks, index_t elements, F f) {
  for (index_t round = 0; round < blocks; ++round) {
    std::vector<index_t> lower;
    for (index_t a = 0; a < blocks; ++a)
      if (a <= (round + blocks - a) % blocks) lower.push_back(a);
    const bool finished = for_units(static_cast<index_t>(lower.size()), elements, [&](index_t unit) {
      const index_t a = lower[static_cast<std::size_t>(unit)];
      f(a, (round + blocks - a) % blocks);
    });
    if (!finished) return false;
  }
  return true;
}

// Reduces every row and passes the states on: finish(first_row, count, states). False if interrupted.
template <class Reducer, class Score, class Finish>
bool reduce_rows(const Score& score, const Reducer& prototype, Finish finish) {
  using State = typename Reducer::State;
  const Plan plan = score.plan();
  const index_t segments = plan.segments(), units = plan.row_units(), elements = plan.rows * plan.cols;
  const auto visit = [&](Reducer& reducer, index_t unit, index_t seg) {
    reducer.begin(plan.first_row(unit), plan.row_count(unit), plan.first_col(seg));
    score.visit(plan.first_row(unit), plan.row_count(unit), plan.first_col(seg), plan.col_count(seg), reducer);
    return reducer.states();
  };
  if (plan.folds_in_units()) {
    return for_units(units, elements, [&](index_t unit) {
      const index_t first = plan.first_row(unit), count = plan.row_count(unit);
      Reducer reducer(prototype);
      const State* states = visit(reducer, unit, 0);
      if (segments == 1) return finish(first, count, states);
      State total[kMaxUnitRows];
      std::copy_n(states, count, total);
      for (index_t seg = 1; seg < segments; ++seg) {
        states = visit(reducer, unit, seg);
        for (index_t i = 0; i < count; ++i) total[i] = prototype.merged(total[i], states[i]);
      }
      finish(first, count, total);
    });
  }
  std::vector<State> partial(static_cast<std::size_t>(segments * plan.rows));
  const bool finished = for_units(units * segments, elements, [&](index_t work) {
    const index_t unit = work / segments, seg = work % segments;
    Reducer reducer(prototype);
    std::copy_n(visit(reducer, unit, seg), plan.row_count(unit),
                partial.data() + seg * plan.rows + plan.first_row(unit));
  });
  return finished && for_units(units, plan.rows * segments * 16, [&](index_t unit) {
           const index_t first = plan.first_row(unit), count = plan.row_count(unit);
           State* total = partial.data() + first;
           for (index_t seg = 1; seg < segments; ++seg)
             for (index_t i = 0; i < count; ++i)
               total[i] = prototype.merged(total[i], partial[static_cast<std::size_t>(seg * plan.rows + first + i)]);
           finish(first, count, total);
         });
}

// The log-sum states of a unit's rows.
template <class T>
class LogSumReducer {
 public:
  using State = LogSum;
  LogSumReducer(const Kernels& kernels, bool with_t) : kernels_(kernels), with_t_(with_t) {}
  // Each unit makes its own from a prototype, whose states mean nothing and are not copied.
  LogSumReducer(const LogSumReducer& other) : kernels_(other.kernels_), with_t_(other.with_t_) {}

  void begin(index_t, index_t count, index_t) {
    count_ = count;
    started_ = lanes_used_ = false;
  }
  void row(index_t i, const T* x, index_t n) {
    if (!started_) start();
    kernels_.of<T>().push_row(x, n, with_t_, &states_[i]);
  }
  void lanes(const T* x, index_t ld, index_t steps, index_t n) {
    if (!lanes_used_) {
      for (index_t i = 0; i < n + kPad; ++i) {
        m_[i] = -static_cast<T>(HUGE_VAL);
        r_[i] = low_[i] = t_[i] = 0;
      }
      lanes_used_ = true;
    }
    kernels_.of<T>().push_lanes(x, ld, steps, n, with_t_, m_, r_, low_, t_);
  }
  const LogSum* states() {
    if (!started_ && !lanes_used_) start();  // rows without elements
    if (lanes_used_)
      for (index_t i = 0; i < count_; ++i) states_[i] = LogSum{static_cast<double>(m_[i]), r_[i] + low_[i], t_[i]};
    return states_;
  }
  LogSum merged(LogSum a, LogSum b) const { return kernels_.merge(a, b); }

 private:
  void start() {
    for (index_t i = 0; i < count_; ++i) states_[i] = LogSum{-HUGE_VAL, 0, 0};
    started_ = true;
  }

  const Kernels& kernels_;
  bool with_t_, started_ = false, lanes_used_ = false;
  index_t count_ = 0;
  LogSum states_[kUnitRows<T>];
  T m_[kUnitRows<T> + kPad];
  double r_[kUnitRows<T> + kPad], low_[kUnitRows<T> + kPad], t_[kUnitRows<T> + kPad];
};

// The token statistics of a unit's rows, whose columns are folded in order.
template <class T>
class TokenReducer {
 public:
  using State = TokenSum;
  // One inverse temperature a row, and one value a column or null.
  TokenReducer(const Kernels& kernels, const double* inverse, const T* values)
      : kernels_(kernels), inverse_(inverse), values_(values) {}
  TokenReducer(const TokenReducer& other) : TokenReducer(other.kernels_, other.inverse_, other.values_) {}

  void begin(index_t first, index_t count, index_t first_col) {
    for (index_t i = 0; i < count; ++i) {
      states_[i] = TokenSum{-HUGE_VAL, 0, 0, 0, 0, 0, 0, -1, inverse_[first + i], NAN};
      at_[i] = first_col;
    }
  }
  void row(index_t i, const T* x, index_t n) {
    kernels_.of<T>().push_tokens(x, values_ ? values_ + at_[i] : nullptr, n, at_[i], &states_[i]);
    at_[i] += n;
  }
  bool takes_bfloat() const { return !values_; }
  void bfloat_row(index_t i, const std::uint16_t* x, index_t n) {
    kernels_.push_bfloat_tokens(x, n, at_[i], &states_[i]);
    at_[i] += n;
  }
  const TokenSum* states() const { return states_; }
  TokenSum merged(TokenSum a, TokenSum b) const { return kernels_.merge_tokens(a, b); }

 private:
  const Kernels& kernels_;
  const double* inverse_;
  const T* values_;
  TokenSum states_[kMostWholeRows];
  index_t at_[kMostWholeRows];
};

// ---- scores ------------------------------------------------------------------------------------------------------

template <class T>
constexpr DType native_dtype() {
  return sizeof(T) == 4 ? DType::f32 : DType::f64;
}

// Rows of a tile that was gathered: whole packs, and never a power of two apart, which would put a column's elements in
// one set of the cache.
inline index_t padded(index_t n) { return (n + kPad - 1) / kPad * kPad; }
inline index_t lane_stride(index_t lanes) { return padded(lanes) + kPad; }
template <class T>
constexpr index_t kLaneBuffer = kLaneSteps * (kUnitRows<T> + 32);

// A stored array, read as T. Rows are lanes where neighbouring rows are adjacent in memory and the elements of a row
// are not, and where rows are too short to fill packs by themselves.
template <class T>
class StoredScore {
 public:
  explicit StoredScore(const View& view) : view_(view), native_(view.is_native(native_dtype<T>())) {
    const index_t size = itemsize(view.dtype), rows = view.rows(), cols = view.cols();
    const index_t run = view.outer.n ? view.outer.shape[view.outer.n - 1] : 1;
    const bool adjacent_rows = view.outer.last_stride() == size && view.inner.last_stride() != size;
    if (adjacent_rows && run >= 16) walk_ = Walk::lanes;
    else if (rows >= 16 && cols <= kShortRow) walk_ = Walk::transposed;
    else walk_ = Walk::rows;
    run_ = walk_ == Walk::lanes ? run : rows;
  }

  Plan plan() const {
    const index_t rows = view_.rows(), cols = view_.cols();
    if (walk_ == Walk::rows) return row_plan(rows, cols);
    const index_t unit = walk_ == Walk::lanes ? kUnitRows<T> : kShortRows;
    return lane_plan(rows, cols, run_, unit);
  }
  bool rows_are_lanes() const { return walk_ != Walk::rows; }

  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    if (walk_ != Walk::rows) {
      each_lane_tile(first, count, col, cols, cols,
                     [&](index_t, index_t steps, const T* x, index_t ld) { reducer.lanes(x, ld, steps, count); });
      return;
    }
    for (index_t i = 0; i < count; ++i)
      each_row_tile(first + i, col, cols, [&](index_t, index_t n, const T* x) { reducer.row(i, x, n); });
  }

  // A span of a row's bfloat16 numbers where they lie adjacent in memory, else null.
  const std::uint16_t* bfloats(index_t row, index_t col, index_t cols) const {
    return halves(view_.data + view_.outer.offset(row), col, cols, DType::bf16);
  }

  // f(column, n, scores): all of a span at once where it lies ready in memory, else tiles of kTile.
  template <class F>
  void each_row_tile(index_t row, index_t col, index_t cols, F f) const {
    const char* base = view_.data + view_.outer.offset(row);
    T buffer[kTile];
    for (index_t done = 0; done < cols;) {
      const index_t j = col + done;
      index_t n = std::min(view_.inner.run(j), cols - done);
      if (native_ && (view_.inner.last_stride() == sizeof(T) || n == 1) && (n >= kTile || n == cols - done)) {
        f(j, n, reinterpret_cast<const T*>(base + view_.inner.offset(j)));
      } else {
        n = std::min(kTile, cols - done);
        load_tile(base, j, n, buffer);
        f(j, n, static_cast<const T*>(buffer));
      }
      done += n;
    }
  }

  // f(column, steps, scores, ld): scores[s * ld + i] is row first + i at column + s; at most `limit` steps.
  template <class F>
  void each_lane_tile(index_t first, index_t count, index_t col, index_t cols, index_t limit, F f) const {
    alignas(64) T buffer[kLaneBuffer<T>];
    const index_t buffer_ld = lane_stride(count);
    const char* base = view_.data;
    if (walk_ == Walk::lanes) base += view_.outer.offset(first);
    const index_t ld = view_.inner.last_stride() / static_cast<index_t>(sizeof(T));
    const bool ready =
        native_ && walk_ == Walk::lanes && ld * static_cast<index_t>(sizeof(T)) == view_.inner.last_stride();
    const index_t most = ready ? limit : std::min(kLaneSteps, limit);
    for (index_t done = 0; done < cols;) {
      const index_t j = col + done;
      index_t steps = std::min(most, cols - done);
      if (ready) {
        steps = std::min(steps, view_.inner.run(j));
        f(j, steps, reinterpret_cast<const T*>(base + view_.inner.offset(j)), ld);
      } else {
        gather_lanes(first, count, j, steps, buffer, buffer_ld);
        f(j, steps, static_cast<const T*>(buffer), buffer_ld);
      }
      done += steps;
    }
  }

 private:
  enum class Walk { rows, lanes, transposed };
  static constexpr index_t kShortRow = 32, kShortRows = 256;  // rows this short are lanes, so many to a unit

  // Elements j to j + n of a row. Half types have a kernel, for they are as common as float32.
  void load_tile(const char* base, index_t j, index_t n, T* out) const {
    if constexpr (std::is_same_v<T, float>) {
      const bool bfloat = view_.dtype == DType::bf16;
      if (const std::uint16_t* from = halves(base, j, n, bfloat ? DType::bf16 : DType::f16))
        return active().widen_half(from, n, bfloat, out);
    }
    load_span(view_, base, view_.inner, j, n, out);
  }
  // The same where they lie adjacent in a half type, else null.
  const std::uint16_t* halves(const char* base, index_t j, index_t n, DType dtype) const {
    const bool adjacent = view_.is_native(dtype) && view_.inner.last_stride() == 2 && view_.inner.run(j) >= n;
    return adjacent ? reinterpret_cast<const std::uint16_t*>(base + view_.inner.offset(j)) : nullptr;
  }

  void gather_lanes(index_t first, index_t count, index_t col, index_t steps, T* buffer, index_t ld) const {
    if (walk_ == Walk::lanes) {
      for (index_t s = 0; s < steps; ++s)
        load_span(view_, view_.data + view_.inner.offset(col + s), view_.outer, first, count, buffer + s * ld);
      return;
    }
    const index_t stride = view_.outer.last_stride() / static_cast<index_t>(sizeof(T));
    const bool simple = native_ && view_.outer.n == 1 && view_.inner.last_stride() == sizeof(T) &&
                        view_.inner.run(col) >= steps &&
                        stride * static_cast<index_t>(sizeof(T)) == view_.outer.last_stride();
    if (simple) {
      const char* from = view_.data + view_.outer.offset(first) + view_.inner.offset(col);
      active().of<T>().transpose(reinterpret_cast<const T*>(from), stride, count, steps, buffer, ld);
      return;
    }
    T row[kLaneSteps];
    for (index_t i = 0; i < count; ++i) {
      load_span(view_, view_.data + view_.outer.offset(first + i), view_.inner, col, steps, row);
      for (index_t s = 0; s < steps; ++s) buffer[s * ld + i] = row[s];
    }
  }

  View view_;
  bool native_;
  Walk walk_;
  index_t run_;
};

// scale metric(x_i, y_j) for points x (rows, depth) and y (cols, depth), computed tile by tile and never stored.
template <class T>
class PointScore {
 public:
  static constexpr bool kStored = false;
  PointScore(const T* x, index_t rows, const T* y, index_t cols, index_t depth, Metric metric, T scale)
      : x_(x),
        rows_(rows),
        cols_(cols),
        depth_(depth),
        ld_(lane_stride(cols)),
        metric_(metric),
        scale_(scale),
        yt_(static_cast<std::size_t>(depth * ld_)) {
    active().of<T>().transpose(y, depth, cols, depth, yt_.data(), ld_);
  }

  Plan plan() const { return Plan{rows_, cols_, rows_, kRows, kSegment}; }
  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }

  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    alignas(64) T tile[kRows * kCols];
    const FamilyKernels<T>& kernels = active().of<T>();
    for (index_t done = 0; done < cols; done += kCols) {
      const index_t n = std::min(kCols, cols - done);
      for (index_t row = 0; row < count; row += kRows) {
        const index_t rows = std::min(kRows, count - row);
        kernels.metric_tile(metric_, x_ + (first + row) * depth_, depth_, yt_.data() + col + done, ld_, rows, n, depth_,
                            scale_, tile, kCols);
        for (index_t i = 0; i < rows; ++i) reducer.row(row + i, tile + i * kCols, n);
      }
    }
  }

 private:
  static constexpr index_t kRows = 64, kCols = 256;  // a tile of 64 KiB (float32)
  const T* x_;
  index_t rows_, cols_, depth_, ld_;
  Metric metric_;
  T scale_;
  std::vector<T> yt_;
};

}  // namespace cpu
}  // namespace entropic
