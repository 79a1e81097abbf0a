#include "transport.hpp"

#include <atomic>
#include <cmath>
#include <memory>

#include "entropic/transport.hpp"
#include "sweep.hpp"

namespace entropic {
namespace cpu {
namespace {

constexpr index_t kRowsAtOnce = 4;  // as many as add_rows takes

// ---- costs as scores -----------------------------------------------------------------------------------------------

// Stored rows of adjacent elements of type S, handed out as T.
template <class S, class T>
class StoredCost {
 public:
  static constexpr bool kStored = true;
  StoredCost(const S* data, index_t rows, index_t cols, index_t stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {}
  Plan plan() const { return row_plan(rows_, cols_); }
  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }

  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    for (index_t i = 0; i < count; ++i) {
      const S* row = data_ + (first + i) * stride_ + col;
      if constexpr (std::is_same_v<S, T>) {
        reducer.row(i, row, cols);
      } else {
        T tile[kTile];
        for (index_t done = 0; done < cols; done += kTile) {
          const index_t n = std::min(kTile, cols - done);
          for (index_t j = 0; j < n; ++j) tile[j] = static_cast<T>(row[done + j]);
          reducer.row(i, tile, n);
        }
      }
    }
  }

 private:
  const S* data_;
  index_t rows_, cols_, stride_;
};

// The cost between a grid's points, axis by axis.
class GridCost {
 public:
  static constexpr bool kStored = false;
  explicit GridCost(const std::vector<GridAxis>& axes) : axes_(axes) {
    for (const GridAxis& axis : axes_) size_ *= axis.size;
  }
  index_t rows() const { return size_; }
  index_t cols() const { return size_; }
  Plan plan() const { return row_plan(size_, size_); }

  // Rows of the whole matrix, for what has no separable form.
  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    double tile[kTile];
    for (index_t i = 0; i < count; ++i)
      for (index_t done = 0; done < cols; done += kTile) {
        const index_t n = std::min(kTile, cols - done);
        for (index_t j = 0; j < n; ++j) tile[j] = 0;
        index_t inner = size_, row = first + i;
        for (const GridAxis& axis : axes_) {
          inner /= axis.size;
          const double* of_row = axis.cost + row / inner % axis.size * axis.size;
          for (index_t j = 0; j < n; ++j) tile[j] += of_row[(col + done + j) / inner % axis.size];
        }
        reducer.row(i, static_cast<const double*>(tile), n);
      }
  }

  // x_i <- log sum_j exp(x_j - C_ij / eps), one axis after the other: a sum over all points costs as many exps a point
  // as the axes have points together. The costs of axis `weighing`, if any, multiply the exps as well.
  bool log_sum(std::vector<double>& x, double inv_eps, int weighing) const {
    index_t inner = size_;
    for (std::size_t d = 0; d < axes_.size(); ++d) {
      const GridAxis& axis = axes_[d];
      inner /= axis.size;
      std::vector<double> weighed;
      if (static_cast<int>(d) == weighing) {
        for (index_t k = 0; k < axis.size * axis.size; ++k)
          weighed.push_back(axis.cost[k] * inv_eps - std::log(axis.cost[k]));
      }
      const double* cost = weighed.empty() ? axis.cost : weighed.data();
      if (!along(x, axis.size, inner, cost, weighed.empty() ? inv_eps : 1.0)) return false;
    }
    return true;
  }
  int axes() const { return static_cast<int>(axes_.size()); }

 private:
  bool along(std::vector<double>& x, index_t n, index_t inner, const double* cost, double inv_eps) const {
    const index_t fibres = size_ / n, at_once = std::max<index_t>(1, 4096 / (n * n));
    return for_units((fibres + at_once - 1) / at_once, size_ * n, [&](index_t unit) {
      const Kernels& kernels = active();
      std::vector<double> fibre(static_cast<std::size_t>(padded(n)), 0.0), scores(fibre);
      for (index_t f = unit * at_once; f < std::min(fibres, (unit + 1) * at_once); ++f) {
        double* from = x.data() + f / inner * n * inner + f % inner;
        for (index_t j = 0; j < n; ++j) fibre[static_cast<std::size_t>(j)] = from[j * inner];
        for (index_t i = 0; i < n; ++i) {
          kernels.gibbs<double>().softmin_scores(cost + i * n, fibre.data(), n, inv_eps, scores.data());
          LogSum s{-HUGE_VAL, 0, 0};
          kernels.of<double>().push_row(scores.data(), n, false, &s);
          from[i * inner] = s.m + std::log1p(s.r);
        }
      }
    });
  }

  std::vector<GridAxis> axes_;
  index_t size_ = 1;
};

// The scores h_j - C_ij / eps of a cost's rows, in float64.
template <class T, class Cost>
class SoftminScore {
 public:
  SoftminScore(const Cost& cost, const double* h, double inv_eps) : cost_(cost), h_(h), inv_eps_(inv_eps) {}
  Plan plan() const { return row_plan(cost_.rows(), cost_.cols()); }

  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    Adapter<Reducer> adapter{*this, reducer, {}};
    for (index_t i = 0; i < count; i += kRowsAtOnce) {
      const index_t some = std::min(kRowsAtOnce, count - i);
      adapter.begin(i, col);
      cost_.visit(first + i, some, col, cols, adapter);
    }
  }

 private:
  template <class Reducer>
  struct Adapter {
    const SoftminScore& self;
    Reducer& reducer;
    index_t at[kRowsAtOnce];
    index_t base = 0;

    void begin(index_t first, index_t col) {
      base = first;
      for (index_t& a : at) a = col;
    }
    ENTROPIC_NOINLINE void row(index_t i, const T* x, index_t n) {
      double scores[kTile];
      const GibbsKernels<T>& kernels = active().gibbs<T>();
      for (index_t done = 0; done < n; done += kTile) {
        const index_t some = std::min(kTile, n - done);
        kernels.softmin_scores(x + done, self.h_ + at[i], some, self.inv_eps_, scores);
        reducer.row(base + i, scores, some);
        at[i] += some;
      }
    }
  };
  const Cost& cost_;
  const double* h_;
  double inv_eps_;
};

// The same of the transposed cost, h_i - C_ij / eps with a row for each j: neighbouring rows are adjacent.
template <class T, class Cost>
class ColumnSoftminScore {
 public:
  ColumnSoftminScore(const Cost& cost, const double* h, double inv_eps) : cost_(cost), h_(h), inv_eps_(inv_eps) {}
  Plan plan() const { return lane_plan(cost_.cols(), cost_.rows(), cost_.cols(), kUnitRows<double>); }

  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    const index_t ld = lane_stride(count);
    std::vector<double> tile(static_cast<std::size_t>(kLaneSteps * ld)), level(static_cast<std::size_t>(ld));
    for (index_t done = 0; done < cols; done += kLaneSteps) {
      const index_t steps = std::min(kLaneSteps, cols - done);
      for (index_t s = 0; s < steps; ++s) {
        std::fill(level.begin(), level.end(), h_[col + done + s]);
        Filler filler{tile.data() + s * ld, level.data(), inv_eps_, 0};
        cost_.visit(col + done + s, 1, first, count, filler);
      }
      reducer.lanes(tile.data(), ld, steps, count);
    }
  }

 private:
  struct Filler {
    double* out;
    const double* level;
    double inv_eps;
    index_t at;
    void row(index_t, const T* x, index_t n) {
      active().gibbs<T>().softmin_scores(x, level, n, inv_eps, out + at);
      at += n;
    }
  };
  const Cost& cost_;
  const double* h_;
  double inv_eps_;
};

// ---- one problem ---------------------------------------------------------------------------------------------------

// Buffers that units of work hand on to one another, so that there are as many as there are threads at work.
template <class T>
class Buffers {
 public:
  using Buffer = std::unique_ptr<std::vector<T>>;
  explicit Buffers(index_t size) : size_(static_cast<std::size_t>(size)) {}
  ~Buffers() {
    for (auto& slot : slots_) delete slot.load();
  }
  Buffer take() {
    for (auto& slot : slots_)
      if (std::vector<T>* kept = slot.exchange(nullptr)) return Buffer(kept);
    return std::make_unique<std::vector<T>>(size_);
  }
  void give(Buffer buffer) {
    for (auto& slot : slots_) {
      std::vector<T>* empty = nullptr;
      if (slot.compare_exchange_strong(empty, buffer.get())) {
        buffer.release();
        return;
      }
    }
  }

 private:
  std::size_t size_;
  std::atomic<std::vector<T>*> slots_[64] = {};
};

// Sums of Gibbs factors by which potentials are trusted. Outside, what was left out below the cut may matter, and the
// soft minimum is computed by log-sum-exp.
template <class T>
constexpr double kLeastSum = sizeof(T) == 4 ? 1e-10 : 1e-20;
template <class T>
constexpr double kLargestSum = sizeof(T) == 4 ? 1e15 : 1e60;
inline bool is_zero(double x) { return x == 0; }

// Of a few rows of factors exp(shift + G_j - C_ij / eps): the shifts, the sums over b, and those of the costs.
struct GroupSums {
  double shift[kRowsAtOnce], sum[kRowsAtOnce], cost[kRowsAtOnce];
};

// The rows of Gibbs factors of a few rows of a cost, with their sums.
template <class T>
class GibbsRows : public GroupSums {
 public:
  GibbsRows(const double* g, const T* b, double inv_eps, T* k, index_t ld, bool with_cost)
      : kernels_(active().gibbs<T>()), g_(g), b_(b), inv_eps_(inv_eps), k_(k), ld_(ld), with_cost_(with_cost) {}

  void write_to(T* k) { k_ = k; }
  // Rows are counted from `base`, of which `count` begin anew under their shifts.
  void begin(index_t base, index_t count) {
    base_ = base;
    for (index_t i = base; i < base + count; ++i) {
      sum[i] = cost[i] = 0;
      at_[i] = 0;
    }
  }
  void row(index_t i, const T* x, index_t n) {
    i += base_;
    const index_t j = at_[i];
    T* k = k_ + i * ld_ + j;
    sum[i] += kernels_.gibbs_row(x, g_ + j, b_ + j, n, shift[i], inv_eps_, k);
    if (with_cost_) cost[i] += kernels_.gibbs_cost(k, b_ + j, x, n);
    at_[i] += n;
  }

 private:
  const GibbsKernels<T>& kernels_;
  const double* g_;
  const T* b_;
  double inv_eps_;
  T* k_;
  index_t ld_, base_ = 0;
  bool with_cost_;
  index_t at_[kRowsAtOnce];
};

struct Residual {
  double rows = 0, cols = 0;  // L1 distance of each marginal to what the side's own update would make of it
  double mass = 0;            // of the plan
};

// How far a side's marginal, `sum` times its mass, is from what the side's own update would make of it.
double gap(const Relaxation& side, double mass, double sum, double potential) {
  if (is_zero(mass)) return 0;
  if (side.kind == Relax::exact) return mass * std::abs(sum - 1);
  const double least = std::max(sum, 1e-300);  // an empty row's update has no finite size
  const double change = side(potential - std::log(least)) - potential;
  return mass * std::abs(least * std::exp(std::min(change, 600.0)) - sum);
}

// One transport problem over a cost, computed in T; potentials are in units of eps.
template <class T, class Cost>
class Problem {
 public:
  Problem(const Cost& cost, const double* a, const double* b)
      : cost_(cost),
        n_(cost.rows()),
        m_(cost.cols()),
        ld_(padded(m_)),
        a_(a),
        b_(b),
        b_t_(static_cast<std::size_t>(ld_), T(0)),
        g_(static_cast<std::size_t>(ld_), -HUGE_VAL),
        buffers_(kRowsAtOnce * ld_) {
    for (index_t j = 0; j < m_; ++j) b_t_[static_cast<std::size_t>(j)] = static_cast<T>(b[j]);
    // Blocks of rows have column sums of their own: enough for many threads, few enough to be cheap to fold.
    constexpr index_t worth_a_block = 65536, most = 64;
    const index_t wanted = std::clamp<index_t>(n_ * m_ / worth_a_block, 1, most);
    block_rows_ = padded_to_rows((n_ + wanted - 1) / wanted);
    blocks_ = (n_ + block_rows_ - 1) / block_rows_;
    acc_.resize(static_cast<std::size_t>(blocks_ * ld_));
    tally_.resize(static_cast<std::size_t>(blocks_));
  }

  index_t rows() const { return n_; }
  index_t cols() const { return m_; }

  // F <- update from G, then G <- update from the new F, in one pass over the cost with one exp a pair: the factors of
  // a row serve its own sum and, rescaled to the new F, the column sums. The residual's rows are those of the
  // potentials before, its columns those between the two updates.
  bool step(const Relaxation& row_side, const Relaxation& col_side, double inv_eps, double* F, double* G,
            Residual& residual) {
    bool in_range;
    return update_rows(row_side, inv_eps, F, G, residual, in_range) &&
           update_columns(col_side, inv_eps, in_range, F, G, residual);
  }

  // The first half of a step. The sums over i of a_i K_ij are then in `column_sums`, unless a factor was out of range.
  bool update_rows(const Relaxation& row_side, double inv_eps, double* F, const double* G, Residual& residual,
                   bool& in_range) {
    std::copy_n(G, m_, g_.data());
    std::atomic<bool> all_in_range{true};
    const auto update = [&](const GroupSums& rows, index_t i, index_t count, double* w, Tally& tally) {
      double logs[kRowsAtOnce], scale[kRowsAtOnce], before[kRowsAtOnce];
      for (index_t r = 0; r < count; ++r) {
        logs[r] = rows.sum[r];
        before[r] = std::min(F[i + r] - rows.shift[r], 600.0);
      }
      const FamilyKernels<double>& f64 = active().of<double>();
      f64.log(logs, count, logs);
      f64.exp(before, count, before);
      for (index_t r = 0; r < count; ++r) {
        // A row without an allowed pair has no potential that matters.
        F[i + r] = is_zero(rows.sum[r]) ? 0 : row_side(rows.shift[r] - logs[r]);
        scale[r] = F[i + r] - rows.shift[r];
      }
      f64.exp(scale, count, scale);
      for (index_t r = 0; r < count; ++r) {
        const double after = row_side.kind == Relax::exact ? 1.0 : rows.sum[r] * scale[r];
        tally.rows += a_[i + r] * std::abs(rows.sum[r] * before[r] - after);
        if (!(scale[r] < kLargestSum<T>)) all_in_range = false;
        w[r] = is_zero(rows.sum[r]) ? 0 : a_[i + r] * scale[r];
      }
    };
    if (!(kept_fit(inv_eps) ? each_kept_group(update) : each_fresh_group(inv_eps, update, F))) return false;
    residual = Residual();
    for (const Tally& tally : tally_) residual.rows += tally.rows;
    in_range = all_in_range;
    return true;
  }
  const double* column_sums() const { return acc_.data(); }

  // Marginals of the plan and its cost; the error as the residual of both sides.
  bool marginals(const Relaxation& row_side, const Relaxation& col_side, double inv_eps, const double* F,
                 const double* G, double* r_out, double* c_out, double& cost, Residual& residual) {
    std::copy_n(G, m_, g_.data());
    const FamilyKernels<double>& f64 = active().of<double>();
    const bool finished = each_row_group(
        inv_eps, true, false,
        [&](GibbsRows<T>& rows, index_t i, index_t count, double* w, Tally& tally) {
          double now[kRowsAtOnce];
          for (index_t r = 0; r < count; ++r) now[r] = std::min(F[i + r] - rows.shift[r], 600.0);
          f64.exp(now, count, now);
          for (index_t r = 0; r < count; ++r) {
            w[r] = a_[i + r] * now[r];
            r_out[i + r] = w[r] * rows.sum[r];
            tally.cost += w[r] * rows.cost[r];
            tally.rows += gap(row_side, a_[i + r], rows.sum[r] * now[r], F[i + r]);
          }
        },
        F);
    if (!finished) return false;
    fold_blocks();
    residual = Residual();
    cost = 0;
    for (const Tally& tally : tally_) {
      residual.rows += tally.rows;
      cost += tally.cost;
    }
    for (index_t j = 0; j < m_; ++j) {
      c_out[j] = b_[j] * acc_[static_cast<std::size_t>(j)];
      residual.cols += gap(col_side, b_[j], acc_[static_cast<std::size_t>(j)], G[j]);
      residual.mass += c_out[j];
    }
    return true;
  }

  // Calls f(first row, count, factors k, ld, rows) for groups of rows, k_rj = exp(shift + G_j - C / eps).
  template <class F>
  bool each_plan_rows(double inv_eps, const double* F_in, const double* G, index_t first, index_t count, F f) {
    std::copy_n(G, m_, g_.data());
    const index_t groups = (count + kRowsAtOnce - 1) / kRowsAtOnce;
    return for_units(groups, count * m_, [&](index_t group) {
      auto buffer = buffers_.take();
      const index_t i = first + group * kRowsAtOnce, some = std::min(kRowsAtOnce, first + count - i);
      GibbsRows<T> rows(g_.data(), b_t_.data(), inv_eps, buffer->data(), ld_, false);
      visit_rows(rows, i, some, inv_eps, F_in);
      f(i, some, buffer->data(), ld_, rows);
      buffers_.give(std::move(buffer));
    });
  }

  // acc (ld) <- sum over rows of w k; w(rows, i, count, w) sets the weights of a group.
  template <class Weigh>
  bool weighted_column_sums(double inv_eps, const double* F, const double* G, Weigh weigh, double* out) {
    std::copy_n(G, m_, g_.data());
    if (!each_row_group(
            inv_eps, false, false,
            [&](GibbsRows<T>& rows, index_t i, index_t count, double* w, Tally&) { weigh(rows, i, count, w); }, F))
      return false;
    fold_blocks();
    std::copy_n(acc_.data(), m_, out);
    return true;
  }

 private:
  struct Tally {
    double rows, cost;
  };

  static index_t padded_to_rows(index_t n) { return (n + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce; }

  // Factors of rows i to i + count, under shifts that keep their sums in range.
  void visit_rows(GibbsRows<T>& rows, index_t i, index_t count, double inv_eps, const double* F) {
    for (index_t r = 0; r < count; ++r) rows.shift[r] = F[i + r];
    rows.begin(0, count);
    cost_.visit(i, count, 0, m_, rows);
    for (index_t r = 0; r < count; ++r) {
      if (rows.sum[r] > kLeastSum<T> && rows.sum[r] < kLargestSum<T>) continue;
      const double soft = row_softmin(i + r, inv_eps);
      rows.shift[r] = soft < HUGE_VAL ? soft : 0;
      rows.begin(r, 1);
      cost_.visit(i + r, 1, 0, m_, rows);
    }
  }

  // -log sum_j b_j exp(G_j - C_ij / eps), inf where nothing is allowed.
  ENTROPIC_NOINLINE double row_softmin(index_t i, double inv_eps) {
    std::vector<double> h(static_cast<std::size_t>(ld_), -HUGE_VAL);
    for (index_t j = 0; j < m_; ++j) h[static_cast<std::size_t>(j)] = g_[static_cast<std::size_t>(j)] + std::log(b_[j]);
    LogSumReducer<double> reducer(active(), false);
    reducer.begin(0, 1);
    SoftminScore<T, Cost>(cost_, h.data(), inv_eps).visit(i, 1, 0, m_, reducer);
    const LogSum s = reducer.states()[0];
    return -(s.m + std::log1p(s.r));
  }

  // From the second pass at an eps on, the factors of a stored cost are kept where they take no more than this: while
  // the potentials have not moved far the next passes only reweigh them, without an exp.
  static constexpr index_t kMostKept = index_t(1) << 27;  // bytes
  // What the cut left out was nothing beside factors that have not grown by more than this since.
  static constexpr double kReach = sizeof(T) == 4 ? 8 : 20;

  bool kept_fit(double inv_eps) {
    if (kept_.empty() || kept_inv_eps_ != inv_eps) return false;
    for (index_t j = 0; j < m_; ++j) {
      const std::size_t at = static_cast<std::size_t>(j);
      if (!(std::abs(g_[at] - kept_g_[at]) <= kReach)) return false;
    }
    return true;
  }

  template <class F>
  bool each_fresh_group(double inv_eps, F f, const double* potential) {
    const bool keep =
        Cost::kStored && last_inv_eps_ == inv_eps && n_ * ld_ * static_cast<index_t>(sizeof(T)) <= kMostKept;
    if (keep) {
      kept_.resize(static_cast<std::size_t>(n_ * ld_));
      kept_f_.resize(static_cast<std::size_t>(n_));
      kept_g_ = g_;
    } else {
      kept_.clear();
    }
    kept_inv_eps_ = last_inv_eps_ = inv_eps;
    if (!each_row_group(inv_eps, false, keep, f, potential)) return false;
    fold_blocks();
    return true;
  }

  template <class F>
  bool each_kept_group(F f) {
    std::vector<double> change(static_cast<std::size_t>(ld_), 0.0);
    for (index_t j = 0; j < m_; ++j) {
      const std::size_t at = static_cast<std::size_t>(j);
      change[at] = g_[at] - kept_g_[at];
    }
    active().of<double>().exp(change.data(), m_, change.data());
    std::vector<T> weights(static_cast<std::size_t>(ld_), T(0));
    for (index_t j = 0; j < m_; ++j) {
      const std::size_t at = static_cast<std::size_t>(j);
      weights[at] = static_cast<T>(b_[j] * change[at]);
    }
    const bool finished = for_units(blocks_, n_ * m_, [&](index_t block) {
      const GibbsKernels<T>& kernels = active().gibbs<T>();
      double* acc = acc_.data() + block * ld_;
      std::fill_n(acc, ld_, 0.0);
      Tally tally{0, 0};
      GroupSums rows;
      const index_t first = block * block_rows_, last = std::min(n_, first + block_rows_);
      for (index_t i = first; i < last; i += kRowsAtOnce) {
        const index_t count = std::min(kRowsAtOnce, last - i);
        const T* k = kept_.data() + i * ld_;
        for (index_t r = 0; r < count; ++r) {
          rows.shift[r] = kept_f_[static_cast<std::size_t>(i + r)];
          rows.sum[r] = kernels.weighted_sum(k + r * ld_, weights.data(), ld_);
        }
        double w[kRowsAtOnce];
        f(rows, i, count, w, tally);
        kernels.add_rows(k, ld_, count, w, ld_, acc);
      }
      tally_[static_cast<std::size_t>(block)] = tally;
    });
    if (!finished) return false;
    fold_blocks();
    for (index_t j = 0; j < m_; ++j) acc_[static_cast<std::size_t>(j)] *= change[static_cast<std::size_t>(j)];
    return true;
  }

  // f sees each group of rows with its factors and sets the weights under which they join the column sums.
  template <class F>
  bool each_row_group(double inv_eps, bool with_cost, bool keep, F f, const double* potential) {
    return for_units(blocks_, n_ * m_, [&](index_t block) {
      auto buffer = buffers_.take();
      double* acc = acc_.data() + block * ld_;
      std::fill_n(acc, ld_, 0.0);
      Tally tally{0, 0};
      GibbsRows<T> rows(g_.data(), b_t_.data(), inv_eps, buffer->data(), ld_, with_cost);
      const index_t first = block * block_rows_, last = std::min(n_, first + block_rows_);
      for (index_t i = first; i < last; i += kRowsAtOnce) {
        const index_t count = std::min(kRowsAtOnce, last - i);
        T* k = buffer->data();
        if (keep) rows.write_to(k = kept_.data() + i * ld_);
        visit_rows(rows, i, count, inv_eps, potential);
        if (keep) std::copy_n(rows.shift, count, kept_f_.data() + i);
        double w[kRowsAtOnce];
        f(rows, i, count, w, tally);
        active().gibbs<T>().add_rows(k, ld_, count, w, ld_, acc);
      }
      tally_[static_cast<std::size_t>(block)] = tally;
      buffers_.give(std::move(buffer));
    });
  }

  // The first block's column sums become those of all blocks, in their order.
  void fold_blocks() {
    if (blocks_ == 1) return;
    constexpr index_t chunk = 512;
    for_units((ld_ + chunk - 1) / chunk, blocks_ * ld_, [&](index_t unit) {
      const index_t j = unit * chunk, n = std::min(chunk, ld_ - j);
      double* total = acc_.data() + j;
      for (index_t block = 1; block < blocks_; ++block) {
        const double* part = acc_.data() + block * ld_ + j;
        for (index_t c = 0; c < n; ++c) total[c] += part[c];
      }
    });
  }

  bool update_columns(const Relaxation& side, double inv_eps, bool in_range, const double* F, double* G,
                      Residual& residual) {
    constexpr index_t chunk = 256;
    const FamilyKernels<double>& f64 = active().of<double>();
    double* sums = acc_.data();
    for (index_t j = 0; j < m_ && in_range; ++j) in_range = sums[j] > kLeastSum<T> && sums[j] < kLargestSum<T>;
    std::vector<double> softmin;
    if (!in_range) {
      softmin.resize(static_cast<std::size_t>(m_));
      if (!column_softmin(F, inv_eps, softmin.data())) return false;
      for (index_t j = 0; j < m_; ++j)
        sums[j] = std::exp(std::clamp(G[j] - softmin[static_cast<std::size_t>(j)], -690.0, 690.0));
    }
    for (index_t j = 0; j < m_; j += chunk) {
      const index_t n = std::min(chunk, m_ - j);
      double updated[chunk], change[chunk];
      if (!in_range) {
        for (index_t c = 0; c < n; ++c) updated[c] = softmin[static_cast<std::size_t>(j + c)];
      } else {
        f64.log(sums + j, n, updated);
        for (index_t c = 0; c < n; ++c) updated[c] = G[j + c] - updated[c];
      }
      for (index_t c = 0; c < n; ++c) {
        updated[c] = updated[c] == HUGE_VAL ? 0 : side(updated[c]);
        change[c] = std::min(updated[c] - G[j + c], 690.0);
      }
      f64.exp(change, n, change);
      for (index_t c = 0; c < n; ++c) {
        const double then = side.kind == Relax::exact ? 1.0 : sums[j + c] * change[c];
        residual.cols += b_[j + c] * std::abs(sums[j + c] - then);
        residual.mass += b_[j + c] * then;
        G[j + c] = updated[c];
      }
    }
    return true;
  }

  // -log sum_i a_i exp(F_i - C_ij / eps) for every j.
  bool column_softmin(const double* F, double inv_eps, double* out) {
    std::vector<double> h(static_cast<std::size_t>(n_));
    for (index_t i = 0; i < n_; ++i) h[static_cast<std::size_t>(i)] = F[i] + std::log(a_[i]);
    return reduce_rows(ColumnSoftminScore<T, Cost>(cost_, h.data(), inv_eps), LogSumReducer<double>(active(), false),
                       [out](index_t first, index_t count, const LogSum* states) {
                         for (index_t i = 0; i < count; ++i) out[first + i] = -(states[i].m + std::log1p(states[i].r));
                       });
  }

  const Cost& cost_;
  index_t n_, m_, ld_, block_rows_ = 0, blocks_ = 0;
  const double* a_;
  const double* b_;
  std::vector<T> b_t_;
  std::vector<double> g_, acc_;
  std::vector<T> kept_;  // factors of an earlier pass, under these potentials
  std::vector<double> kept_f_, kept_g_;
  double kept_inv_eps_ = 0, last_inv_eps_ = 0;
  std::vector<Tally> tally_;
  Buffers<T> buffers_;
};

// The same on a grid: both sums by log-sum-exp along the axes, and so always in range.
template <>
class Problem<double, GridCost> {
 public:
  Problem(const GridCost& cost, const double* a, const double* b)
      : cost_(cost), n_(cost.rows()), a_(a), b_(b), acc_(static_cast<std::size_t>(n_)) {}

  index_t rows() const { return n_; }
  index_t cols() const { return n_; }
  const double* column_sums() const { return acc_.data(); }

  bool update_rows(const Relaxation& side, double inv_eps, double* F, const double* G, Residual& residual,
                   bool& in_range) {
    in_range = true;
    residual = Residual();
    std::vector<double> sums = with_masses(G, b_);
    if (!cost_.log_sum(sums, inv_eps, kNone)) return false;
    for (index_t i = 0; i < n_; ++i) {
      const double soft = -sums[static_cast<std::size_t>(i)];
      const double after = side(soft);
      const double wanted = side.kind == Relax::exact ? 1.0 : std::exp(after - soft);
      residual.rows += a_[i] * std::abs(std::exp(std::min(F[i] - soft, 600.0)) - wanted);
      F[i] = after;
    }
    sums = with_masses(F, a_);
    if (!cost_.log_sum(sums, inv_eps, kNone)) return false;
    for (index_t j = 0; j < n_; ++j) {
      const std::size_t at = static_cast<std::size_t>(j);
      acc_[at] = std::exp(std::clamp(sums[at] + G[j], -690.0, 690.0));
    }
    return true;
  }

  bool step(const Relaxation& row_side, const Relaxation& col_side, double inv_eps, double* F, double* G,
            Residual& residual) {
    bool in_range;
    if (!update_rows(row_side, inv_eps, F, G, residual, in_range)) return false;
    std::vector<double> sums = with_masses(F, a_);
    if (!cost_.log_sum(sums, inv_eps, kNone)) return false;
    for (index_t j = 0; j < n_; ++j) {
      const double soft = -sums[static_cast<std::size_t>(j)], after = col_side(soft);
      const double then = col_side.kind == Relax::exact ? 1.0 : std::exp(after - soft);
      residual.cols += b_[j] * std::abs(acc_[static_cast<std::size_t>(j)] - then);
      residual.mass += b_[j] * then;
      G[j] = after;
    }
    return true;
  }

  bool marginals(const Relaxation& row_side, const Relaxation& col_side, double inv_eps, const double* F,
                 const double* G, double* r_out, double* c_out, double& cost, Residual& residual) {
    residual = Residual();
    cost = 0;
    const std::vector<double> of_cols = with_masses(G, b_);
    for (int axis = kNone; axis < cost_.axes(); ++axis) {
      std::vector<double> sums = of_cols;
      if (!cost_.log_sum(sums, inv_eps, axis)) return false;
      for (index_t i = 0; i < n_; ++i) {
        const double sum = std::exp(std::min(F[i] + sums[static_cast<std::size_t>(i)], 690.0));
        if (axis != kNone) {
          cost += a_[i] * sum;
          continue;
        }
        r_out[i] = a_[i] * sum;
        residual.rows += gap(row_side, a_[i], sum, F[i]);
      }
    }
    std::vector<double> sums = with_masses(F, a_);
    if (!cost_.log_sum(sums, inv_eps, kNone)) return false;
    for (index_t j = 0; j < n_; ++j) {
      const double sum = std::exp(std::min(G[j] + sums[static_cast<std::size_t>(j)], 690.0));
      c_out[j] = b_[j] * sum;
      residual.cols += gap(col_side, b_[j], sum, G[j]);
      residual.mass += c_out[j];
    }
    return true;
  }

 private:
  static constexpr int kNone = -1;
  std::vector<double> with_masses(const double* potential, const double* mass) const {
    std::vector<double> x(static_cast<std::size_t>(n_));
    for (index_t i = 0; i < n_; ++i) x[static_cast<std::size_t>(i)] = potential[i] + std::log(mass[i]);
    return x;
  }

  const GridCost& cost_;
  index_t n_;
  const double* a_;
  const double* b_;
  std::vector<double> acc_;
};

// ---- the solver ----------------------------------------------------------------------------------------------------

Relaxation scaled(const Side& side, double eps) {
  switch (side.kind) {
    case Relax::exact: return {side.kind, 0, 0};
    case Relax::kl: return {side.kind, side.p / (side.p + eps), 0};
    case Relax::tv: return {side.kind, side.p / eps, 0};
    case Relax::range: return {side.kind, std::log(side.p), std::log(side.q)};
    case Relax::capped: return {side.kind, side.p / eps, 0};
  }
  return {side.kind, 0, 0};
}

// log sum a_i exp(-f_i / rho) with F = f / eps.
double log_penalty_sum(const double* a, const double* F, index_t n, double eps_over_rho) {
  double top = -HUGE_VAL, sum = 0;
  for (index_t i = 0; i < n; ++i)
    if (a[i] > 0) top = std::max(top, -F[i] * eps_over_rho);
  for (index_t i = 0; i < n; ++i)
    if (a[i] > 0) sum += a[i] * std::exp(-F[i] * eps_over_rho - top);
  return top + std::log(sum);
}

// Where both sides answer to a KL penalty, or one does, f + t and g - t have the best dual value at this t: without it
// the mass of the plan converges at the slow rate of rho / (rho + eps).
double best_translation(const Side& rows, const Side& cols, const double* a, const double* b, const double* F,
                        const double* G, index_t n, index_t m, double eps) {
  const bool row_kl = rows.kind == Relax::kl, col_kl = cols.kind == Relax::kl;
  const bool row_exact = rows.kind == Relax::exact, col_exact = cols.kind == Relax::exact;
  if (!((row_kl && (col_kl || col_exact)) || (col_kl && row_exact))) return 0;
  if ((row_kl && is_zero(rows.p)) || (col_kl && is_zero(cols.p))) return 0;
  const double of_rows = log_penalty_sum(a, F, n, row_kl ? eps / rows.p : 0);
  const double of_cols = log_penalty_sum(b, G, m, col_kl ? eps / cols.p : 0);
  const double rho = row_kl && col_kl ? rows.p * cols.p / (rows.p + cols.p) : (row_kl ? rows.p : cols.p);
  const double t = rho * (of_rows - of_cols) / eps;
  return std::isfinite(t) ? t : 0;  // no mass on a side: nothing to move
}

// The limited-memory quasi-Newton direction (Nocedal's two loops) for a concave function with diagonal scaling h.
class QuasiNewton {
 public:
  explicit QuasiNewton(index_t m) : m_(m), memory_(std::clamp<index_t>(m / 16, 5, 30)) {}

  void forget() { count_ = 0; }
  // Step taken and by how much the gradient fell; kept where the curvature is sure.
  void observe(const std::vector<double>& step, const std::vector<double>& fall) {
    const double curvature = dot(step, fall);
    if (!(curvature > 1e-12 * std::sqrt(dot(step, step) * dot(fall, fall)))) return;
    const std::size_t at = static_cast<std::size_t>(count_++ % memory_);
    if (pairs_.size() <= at) pairs_.resize(at + 1);
    pairs_[at] = {step, fall, 1 / curvature, 0};
  }
  void direction(const std::vector<double>& gradient, const std::vector<double>& h, std::vector<double>& d) {
    d = gradient;
    const index_t kept = std::min(count_, memory_);
    for (index_t k = 1; k <= kept; ++k) {
      Pair& pair = pairs_[static_cast<std::size_t>((count_ - k) % memory_)];
      pair.weight = pair.inverse * dot(pair.step, d);
      add(d, -pair.weight, pair.fall);
    }
    double scale = 1;
    if (kept) {
      const Pair& last = pairs_[static_cast<std::size_t>((count_ - 1) % memory_)];
      double scaled = 0;
      for (std::size_t j = 0; j < d.size(); ++j) scaled += last.fall[j] * last.fall[j] * h[j];
      scale = 1 / (last.inverse * scaled);
    }
    for (std::size_t j = 0; j < d.size(); ++j) d[j] *= scale * h[j];
    for (index_t k = kept; k >= 1; --k) {
      const Pair& pair = pairs_[static_cast<std::size_t>((count_ - k) % memory_)];
      add(d, pair.weight - pair.inverse * dot(pair.fall, d), pair.step);
    }
  }

  static double dot(const std::vector<double>& x, const std::vector<double>& y) {
    double lane[8] = {};
    std::size_t j = 0;
    for (; j + 8 <= x.size(); j += 8)
      for (std::size_t c = 0; c < 8; ++c) lane[c] += x[j + c] * y[j + c];
    double sum = 0;
    for (; j < x.size(); ++j) sum += x[j] * y[j];
    for (const double part : lane) sum += part;
    return sum;
  }
  static void add(std::vector<double>& x, double w, const std::vector<double>& y) {
    for (std::size_t j = 0; j < x.size(); ++j) x[j] += w * y[j];
  }

 private:
  struct Pair {
    std::vector<double> step, fall;
    double inverse, weight;
  };
  index_t m_, memory_, count_ = 0;
  std::vector<Pair> pairs_;
};

// One side's part of the dual value, sum m phi(F), and its derivative, in units of eps. For exact and KL sides.
double dual_part(const Side& side, const double* mass, const double* F, index_t n, double eps) {
  double sum = 0;
  if (side.kind == Relax::exact) {
    for (index_t i = 0; i < n; ++i) sum += mass[i] * F[i];
    return sum;
  }
  const double rho = side.p / eps;
  for (index_t i = 0; i < n; ++i) sum -= mass[i] * rho * std::expm1(-F[i] / rho);
  return sum;
}

bool smooth(const Side& side) { return side.kind == Relax::exact || (side.kind == Relax::kl && side.p > 0); }

// How many more iterations a tolerance takes, by the rate of the last `window`; 0 while too few are known. After very
// many such promises are not believed.
class Forecast {
 public:
  explicit Forecast(int window) : errors_(static_cast<std::size_t>(window)) {}

  int iterations() const { return count_; }
  double iterations_to(double tol, double error) {
    const int window = static_cast<int>(errors_.size());
    double& slot = errors_[static_cast<std::size_t>(count_++ % window)];
    const double before = slot;
    slot = error;
    if (count_ <= window) return 0;
    const double gain = std::log(before / error);
    if (count_ > kCrawl) return HUGE_VAL;
    return gain > 0 ? window * std::log(error / tol) / gain : HUGE_VAL;
  }

 private:
  static constexpr int kCrawl = 1500;
  std::vector<double> errors_;
  int count_ = 0;
};

// Has an error that may be all rounding not fallen for long?
class Stall {
 public:
  bool reached(double error) {
    ++since_;
    if (error < 0.99 * best_) {
      best_ = error;
      since_ = 0;
    }
    return best_ < kMayBeRounding && since_ > kPatience;
  }

 private:
  static constexpr double kMayBeRounding = 1e-7;
  static constexpr int kPatience = 500;
  double best_ = HUGE_VAL;
  int since_ = 0;
};

// What the stages of one solution share.
struct Run {
  const SolveSettings& settings;
  const double* a;
  const double* b;
  double eps, total;
  std::vector<double> F, G;
  double cap;    // of capped rows: the potential of the total mass
  double level;  // of the annealing: the eps that F and G are in units of
  SolveReport& report;

  void move_to_level(double next) {
    for (double& f : F) f *= level / next;
    for (double& g : G) g *= level / next;
    level = next;
  }
  // Counts an iteration; true if it was the last.
  bool ended(double error) {
    ++report.iterations;
    report.error = error;
    if (settings.callback && settings.callback(report.iterations, error)) {
      report.outcome = Outcome::stopped;
      return true;
    }
    report.outcome = Outcome::limit;
    return report.iterations >= settings.max_iter;
  }
};

// One Sinkhorn iteration at the present level, and the error that it saw: that of the potentials before it.
template <class T, class Cost>
bool sinkhorn_step(Problem<T, Cost>& problem, Run& run, double& error) {
  const SolveSettings& settings = run.settings;
  Side rows = settings.rows;
  if (rows.kind == Relax::capped) rows.p = run.cap;
  Residual residual;
  if (!problem.step(scaled(rows, run.level), scaled(settings.cols, run.level), 1 / run.level, run.F.data(),
                    run.G.data(), residual))
    return false;
  error = residual.rows;
  // Unless both updates are plain, the columns of the potentials before were not those of their update.
  if (settings.rows.kind != Relax::exact || settings.cols.kind != Relax::exact) error += residual.cols;
  double rows_up = 0, cols_down = 0;
  if (settings.rows.kind == Relax::capped) {
    rows_up = std::log(settings.mass / residual.mass);  // the potential of the total mass, exactly
    run.cap += rows_up * run.level;
    error += std::abs(residual.mass - settings.mass);
  } else if (settings.accelerate) {
    rows_up = cols_down = best_translation(settings.rows, settings.cols, run.a, run.b, run.F.data(), run.G.data(),
                                           problem.rows(), problem.cols(), run.level);
  }
  if (rows_up != 0)
    for (double& f : run.F) f += rows_up;
  if (cols_down != 0)
    for (double& g : run.G) g -= cols_down;
  error /= run.total;
  return true;
}

// Comes down to the eps that is wanted, a few iterations at each level. False if interrupted.
template <class T, class Cost>
bool anneal(Problem<T, Cost>& problem, Run& run) {
  constexpr double kRatio = 0.5, kGoodEnough = 0.05;
  constexpr int kIterations = 10;
  int at_level = 0;
  while (run.level > run.eps) {
    double error;
    if (!sinkhorn_step(problem, run, error) || work_stopped()) return false;
    if (run.ended(error)) return true;
    if (error > kGoodEnough && ++at_level < kIterations) continue;
    run.move_to_level(std::max(run.eps, run.level * kRatio));
    at_level = 0;
  }
  return true;
}

// Sinkhorn iterations until the error seen is at most `tol`, or more than `patience` of them are to come. False if
// interrupted.
template <class T, class Cost>
bool iterate(Problem<T, Cost>& problem, Run& run, double tol, double patience) {
  Forecast forecast(3);
  Stall stall;
  for (;;) {
    double error;
    if (!sinkhorn_step(problem, run, error) || work_stopped()) return false;
    const bool last = run.ended(error);
    if (error <= tol) run.report.outcome = Outcome::converged;
    if (last || error <= tol) return true;
    if (forecast.iterations_to(tol, error) > patience) {
      run.report.outcome = Outcome::handed_over;
      return true;
    }
    if (run.settings.accelerate && stall.reached(error)) {
      run.report.outcome = Outcome::stalled;
      return true;
    }
  }
}

// The semi-dual, the dual as a function of G alone, at one G.
struct SemiDualPoint {
  explicit SemiDualPoint(index_t m)
      : G(static_cast<std::size_t>(m)), gradient(static_cast<std::size_t>(m)), scaling(static_cast<std::size_t>(m)) {}

  std::vector<double> G;
  std::vector<double> gradient;  // the target of each column less its marginal
  std::vector<double> scaling;   // of the gradient, to Sinkhorn's step
  double value = 0;
  double size = 0;  // of the terms of `value`
  double error = 0;
};

// One pass: run.F and all else that belongs to point.G. False if interrupted.
template <class T, class Cost>
bool evaluate(Problem<T, Cost>& problem, Run& run, SemiDualPoint& point) {
  const SolveSettings& settings = run.settings;
  const index_t n = problem.rows(), m = problem.cols();
  const double eps_over_rho = settings.cols.kind == Relax::kl ? run.eps / settings.cols.p : 0;
  Residual residual;
  bool in_range;
  if (!problem.update_rows(scaled(settings.rows, run.eps), 1 / run.eps, run.F.data(), point.G.data(), residual,
                           in_range) ||
      work_stopped())
    return false;
  const double* sums = problem.column_sums();
  double mass = 0, error = 0;
  for (index_t j = 0; j < m; ++j) {
    const std::size_t at = static_cast<std::size_t>(j);
    const double target = run.b[j] * (eps_over_rho > 0 ? std::exp(-point.G[at] * eps_over_rho) : 1.0);
    const double marginal = run.b[j] * sums[j];
    const double gap = target - marginal;
    point.gradient[at] = gap;
    // The inverse of the logarithmic mean of target and marginal, by its series where they are close.
    const bool close = std::abs(gap) <= 1e-3 * target || !(marginal > 0);
    const double inverse_mean = close ? 2 / (target + marginal) : std::log(target / marginal) / gap;
    point.scaling[at] = target > 0 ? inverse_mean / (1 + eps_over_rho) : 0;
    error += std::abs(gap);
    mass += marginal;
  }
  const double of_rows = dual_part(settings.rows, run.a, run.F.data(), n, run.eps),
               of_cols = dual_part(settings.cols, run.b, point.G.data(), m, run.eps);
  point.value = of_rows + of_cols - mass;
  point.size = std::abs(of_rows) + std::abs(of_cols) + mass;
  point.error = error / run.total;
  if (!in_range || !std::isfinite(point.value)) point.value = -HUGE_VAL;
  return true;
}

// Maximises the semi-dual by a limited-memory quasi-Newton method, whose first direction is Sinkhorn's step: the same
// gradient, scaled, for the same one pass. False if interrupted.
template <class T, class Cost>
bool climb(Problem<T, Cost>& problem, Run& run, double tol, QuasiNewton& memory) {
  const SolveSettings& settings = run.settings;
  const std::size_t size = static_cast<std::size_t>(problem.cols());
  SemiDualPoint here(problem.cols()), there(problem.cols());
  std::vector<double> direction(size), step(size), fall(size);
  here.G = run.G;
  if (!evaluate(problem, run, here)) return false;
  Forecast forecast(30);
  Stall stall;
  for (;;) {
    const bool last = run.ended(here.error), reached = here.error <= tol;
    if (reached) run.report.outcome = Outcome::converged;
    if (last || reached) break;
    if (stall.reached(here.error)) {
      run.report.outcome = Outcome::stalled;
      break;
    }
    // Far from the answer Newton's steps are cut short, and no better than these, unless these hardly move.
    constexpr double kNearEnough = 1e-2;
    constexpr int kLong = 200;
    if (forecast.iterations_to(tol, here.error) > settings.patience &&
        (here.error < kNearEnough || forecast.iterations() > kLong)) {
      run.report.outcome = Outcome::handed_over;
      break;
    }
    memory.direction(here.gradient, here.scaling, direction);
    const double slope = QuasiNewton::dot(here.gradient, direction);
    // Where no step along it is seen to gain, past steps have spoilt the direction, or rounding hides the gain.
    // Sinkhorn's own step always gains.
    constexpr double kLeastStep = 0.1;
    for (double t = slope > 0 ? 1 : 0;; t *= 0.5) {
      const bool own = t < kLeastStep;
      if (own) {
        memory.forget();
        memory.direction(here.gradient, here.scaling, direction);
        t = 1;
      }
      for (std::size_t j = 0; j < size; ++j) there.G[j] = here.G[j] + t * direction[j];
      if (!evaluate(problem, run, there)) return false;
      // Where the value's rounding hides the gain, the slope's fall decides.
      constexpr double kGain = 1e-4, kOvershoot = 0.9, kRounding = 1e-10;
      if (own || there.value >= here.value + kGain * t * slope) break;
      const double slope_there = QuasiNewton::dot(there.gradient, direction);
      if (slope_there >= -kOvershoot * slope && there.value >= here.value - kRounding * here.size) break;
      if (run.ended(here.error)) {
        run.G = here.G;
        return evaluate(problem, run, here);  // F again is that of G
      }
    }
    for (std::size_t j = 0; j < size; ++j) {
      step[j] = there.G[j] - here.G[j];
      fall[j] = here.gradient[j] - there.gradient[j];
    }
    memory.observe(step, fall);
    std::swap(here, there);
  }
  run.G = here.G;
  return true;
}

// All stages at one precision.
template <class T, class Cost>
bool advance(Problem<T, Cost>& problem, Run& run, double tol, QuasiNewton& memory) {
  if (run.report.iterations >= run.settings.max_iter) return true;
  if (run.level > run.eps && (!anneal(problem, run) || run.level > run.eps)) return !work_stopped();
  if (run.report.outcome == Outcome::stopped || run.report.iterations >= run.settings.max_iter) return true;
  if (!run.settings.accelerate || !smooth(run.settings.rows) || !smooth(run.settings.cols))
    return iterate(problem, run, tol, HUGE_VAL);
  constexpr double kFew = 10;
  if (!iterate(problem, run, tol, kFew)) return false;
  return run.report.outcome != Outcome::handed_over || climb(problem, run, tol, memory);
}

template <class Cost>
bool verify(Problem<double, Cost>& problem, const Side& row_side, const Side& col_side, double mass, double eps,
            double total, const double* F, const double* G, double* r, double* c, SolveReport& report) {
  Residual residual;
  if (!problem.marginals(scaled(row_side, eps), scaled(col_side, eps), 1 / eps, F, G, r, c, report.cost, residual))
    return false;
  double error = residual.rows + residual.cols;
  if (row_side.kind == Relax::capped) error += std::abs(residual.mass - mass);
  report.error = error / total;
  return true;
}

template <class Cost>
bool verify(Problem<double, Cost>& problem, const Run& run, double* r, double* c) {
  Side rows = run.settings.rows;
  if (rows.kind == Relax::capped) rows.p = run.cap;
  return verify(problem, rows, run.settings.cols, run.settings.mass, run.eps, run.total, run.F.data(), run.G.data(), r,
                c, run.report);
}

// ---- batches -------------------------------------------------------------------------------------------------------

// Calls f(cost) with the cost of problem k, read as T.
template <class T, class F>
bool with_cost(const CostView& view, index_t k, F f) {
  if constexpr (std::is_same_v<T, double>)
    if (!view.axes.empty()) return f(GridCost(view.axes));
  if (view.points) {
    if constexpr (std::is_same_v<T, float>) {
      const PointScore<float> cost(static_cast<const float*>(view.x) + k * view.x_batch, view.n,
                                   static_cast<const float*>(view.y) + k * view.y_batch, view.m, view.depth,
                                   view.metric, static_cast<float>(view.scale));
      return f(cost);
    } else if (!view.single) {
      const PointScore<double> cost(static_cast<const double*>(view.x) + k * view.x_batch, view.n,
                                    static_cast<const double*>(view.y) + k * view.y_batch, view.m, view.depth,
                                    view.metric, view.scale);
      return f(cost);
    } else {
      const auto widened = [&](const void* points, index_t batch, index_t count) {
        const float* from = static_cast<const float*>(points) + k * batch;
        return std::vector<double>(from, from + count * view.depth);
      };
      const std::vector<double> x = widened(view.x, view.x_batch, view.n), y = widened(view.y, view.y_batch, view.m);
      const PointScore<double> cost(x.data(), view.n, y.data(), view.m, view.depth, view.metric, view.scale);
      return f(cost);
    }
  }
  if (view.single) {
    const StoredCost<float, T> cost(static_cast<const float*>(view.x) + k * view.x_batch, view.n, view.m, view.row);
    return f(cost);
  }
  if constexpr (std::is_same_v<T, double>) {
    const StoredCost<double, double> cost(static_cast<const double*>(view.x) + k * view.x_batch, view.n, view.m,
                                          view.row);
    return f(cost);
  }
  return false;  // float64 costs are never read as float32
}

// Problems are shared among threads where each is small, and else their rows are.
template <class F>
bool each_problem(const CostView& cost, index_t weight, F f) {
  const index_t size = cost.n * cost.m;
  std::atomic<bool> finished{true};
  if (size < kWorthSharing) {
    const bool done = for_units(cost.batch, std::max(kWorthSharing, cost.batch * size * weight), [&](index_t k) {
      if (!f(k)) finished = false;
    });
    return done && finished;
  }
  for (index_t k = 0; k < cost.batch; ++k)
    if (!f(k)) return false;
  return true;
}

// The ranges of a few rows.
struct RangeReducer {
  CostRange rows[kRowsAtOnce];
  RangeReducer() { std::fill_n(rows, kRowsAtOnce, CostRange{HUGE_VAL, -HUGE_VAL, false, false, false}); }
  template <class T>
  void row(index_t i, const T* x, index_t n) {
    active().gibbs<T>().widen_range(x, n, &rows[i]);
  }
};

// For each column whether some pair is allowed.
struct AllowedColumns {
  bool* allowed;
  index_t at = 0;
  template <class T>
  void row(index_t, const T* x, index_t n) {
    for (index_t j = 0; j < n; ++j) allowed[at + j] |= x[j] < static_cast<T>(HUGE_VAL);
    at += n;
  }
};

struct Copier {
  void* out;
  index_t cols;
  index_t at[kRowsAtOnce] = {};
  template <class T>
  void row(index_t i, const T* x, index_t n) {
    std::copy_n(x, n, static_cast<T*>(out) + i * cols + at[i]);
    at[i] += n;
  }
};

// What has no separable form treats a grid like any other cost.
struct AnyGrid : GridCost {
  explicit AnyGrid(const GridCost& grid) : GridCost(grid) {}
};
AnyGrid general(const GridCost& grid) { return AnyGrid(grid); }
template <class Cost>
const Cost& general(const Cost& cost) {
  return cost;
}

template <class F>
bool in_storage_type(const CostView& cost, index_t k, F f) {
  return cost.single ? with_cost<float>(cost, k, [&](const auto& c) { return f(c, float()); })
                     : with_cost<double>(cost, k, [&](const auto& c) { return f(c, double()); });
}

std::vector<double> in_units(const double* f, index_t n, double eps) {
  std::vector<double> F(f, f + n);
  for (double& x : F) x /= eps;
  return F;
}

}  // namespace

bool solve_transport(const CostView& cost, const Masses& masses, const double* eps, const double* start,
                     const double* total, const SolveSettings& settings, double* f, double* g, double* rows,
                     double* cols, SolveReport* reports) {
  const index_t n = cost.n, m = cost.m;
  const auto solve = [&](index_t k) {
    const double* a = masses.a + k * masses.a_batch;
    const double* b = masses.b + k * masses.b_batch;
    SolveReport& report = reports[k];
    report = SolveReport{0, HUGE_VAL, 0, Outcome::limit};
    const double level = std::max(eps[k], start[k]);
    Run run{settings, a,     b,     eps[k], total[k], in_units(f + k * n, n, level), in_units(g + k * m, m, level),
            0,        level, report};
    QuasiNewton memory(m);
    if (settings.single) {
      // float32 factors see errors of 1e-6 and more: the last digits are found in float64.
      constexpr double kSingleError = 1e-5;
      const bool finished = with_cost<float>(cost, k, [&](const auto& read) {
        Problem<float, std::decay_t<decltype(read)>> problem(read, a, b);
        return advance(problem, run, std::max(settings.tol, kSingleError), memory);
      });
      if (!finished) return false;
    }
    return with_cost<double>(cost, k, [&](const auto& read) {
      Problem<double, std::decay_t<decltype(read)>> problem(read, a, b);
      double tol = settings.tol;
      for (bool solved = settings.single;; solved = false) {
        // What float32 has solved is verified first.
        if (!(solved && report.outcome == Outcome::converged) && report.outcome != Outcome::stopped &&
            !advance(problem, run, tol, memory))
          return false;
        if (run.level > eps[k]) run.move_to_level(eps[k]);  // stopped on the way down
        if (!verify(problem, run, rows + k * n, cols + k * m)) return false;
        if (report.error <= settings.tol) {
          if (report.outcome != Outcome::stopped) report.outcome = Outcome::converged;
          break;
        }
        if (report.outcome != Outcome::converged) break;
        if (report.iterations >= settings.max_iter) {
          report.outcome = Outcome::limit;
          break;
        }
        // The iteration saw one side's error, or float32's: ask it for a smaller one.
        if (!solved) tol *= 0.25;
      }
      for (index_t i = 0; i < n; ++i) f[k * n + i] = run.F[static_cast<std::size_t>(i)] * eps[k];
      for (index_t j = 0; j < m; ++j) g[k * m + j] = run.G[static_cast<std::size_t>(j)] * eps[k];
      return true;
    });
  };
  // With a callback problems take turns on the calling thread.
  if (settings.callback) {
    for (index_t k = 0; k < cost.batch; ++k)
      if (!solve(k)) return false;
    return true;
  }
  return each_problem(cost, 64, solve);
}

bool transport_marginals(const CostView& cost, const Masses& masses, const double* eps, const double* total,
                         const Side& row_side, const Side& col_side, double mass, const double* f, const double* g,
                         double* rows, double* cols, SolveReport* reports) {
  return each_problem(cost, 1, [&](index_t k) {
    const std::vector<double> F = in_units(f + k * cost.n, cost.n, eps[k]),
                              G = in_units(g + k * cost.m, cost.m, eps[k]);
    return with_cost<double>(cost, k, [&](const auto& read) {
      Problem<double, std::decay_t<decltype(read)>> problem(read, masses.a + k * masses.a_batch,
                                                            masses.b + k * masses.b_batch);
      return verify(problem, row_side, col_side, mass, eps[k], total[k], F.data(), G.data(), rows + k * cost.n,
                    cols + k * cost.m, reports[k]);
    });
  });
}

bool transport_semidual(const CostView& cost, const Masses& masses, const double* eps, const Side& row_side,
                        const double* g, double* f, double* cols) {
  const index_t n = cost.n, m = cost.m;
  return each_problem(cost, 1, [&](index_t k) {
    const double* b = masses.b + k * masses.b_batch;
    std::vector<double> F = in_units(f + k * n, n, eps[k]), G = in_units(g + k * m, m, eps[k]);
    return with_cost<double>(cost, k, [&](const auto& read) {
      Problem<double, std::decay_t<decltype(read)>> problem(read, masses.a + k * masses.a_batch, b);
      Residual residual;
      bool in_range;
      if (!problem.update_rows(scaled(row_side, eps[k]), 1 / eps[k], F.data(), G.data(), residual, in_range))
        return false;
      for (index_t i = 0; i < n; ++i) f[k * n + i] = F[static_cast<std::size_t>(i)] * eps[k];
      for (index_t j = 0; j < m; ++j) cols[k * m + j] = b[j] * problem.column_sums()[j];
      return true;
    });
  });
}

bool transport_softmin(const CostView& cost, const double* h, const double* eps, bool over_rows, double* out) {
  const index_t from = over_rows ? cost.n : cost.m, to = over_rows ? cost.m : cost.n;
  return each_problem(cost, 1, [&](index_t k) {
    const double inv_eps = 1 / eps[k], scale = eps[k];
    double* target = out + k * to;
    const double* start = h + k * from;
    std::vector<double> padded_h(start, start + from);
    padded_h.resize(static_cast<std::size_t>(padded(from)), -HUGE_VAL);
    const auto finish = [&](index_t first, index_t count, const LogSum* states) {
      for (index_t i = 0; i < count; ++i) target[first + i] = -scale * (states[i].m + std::log1p(states[i].r));
    };
    return with_cost<double>(cost, k, [&](const auto& read) {
      using Cost = std::decay_t<decltype(read)>;
      if constexpr (std::is_same_v<Cost, GridCost>) {
        std::vector<double> sums(start, start + from);
        if (!read.log_sum(sums, inv_eps, -1)) return false;
        for (index_t i = 0; i < to; ++i) target[i] = -scale * sums[static_cast<std::size_t>(i)];
        return true;
      }
      const LogSumReducer<double> reducer(active(), false);
      if (over_rows)
        return reduce_rows(ColumnSoftminScore<double, Cost>(read, padded_h.data(), inv_eps), reducer, finish);
      return reduce_rows(SoftminScore<double, Cost>(read, padded_h.data(), inv_eps), reducer, finish);
    });
  });
}

bool transport_plan(const CostView& cost, const Masses& masses, const double* eps, const double* f, const double* g,
                    index_t first, index_t count, void* out) {
  return each_problem(cost, 1, [&](index_t k) {
    const std::vector<double> F = in_units(f + k * cost.n, cost.n, eps[k]),
                              G = in_units(g + k * cost.m, cost.m, eps[k]);
    const double* a = masses.a + k * masses.a_batch;
    const double* b = masses.b + k * masses.b_batch;
    return with_cost<double>(cost, k, [&](const auto& read) {
      const auto& whole = general(read);
      Problem<double, std::decay_t<decltype(whole)>> problem(whole, a, b);
      return problem.each_plan_rows(
          1 / eps[k], F.data(), G.data(), first, count,
          [&](index_t i, index_t some, const double* factors, index_t ld, const auto& group) {
            for (index_t r = 0; r < some; ++r) {
              const double w =
                  a[i + r] * std::exp(std::min(F[static_cast<std::size_t>(i + r)] - group.shift[r], 600.0));
              const index_t to = (k * count + i - first + r) * cost.m;
              for (index_t j = 0; j < cost.m; ++j) {
                const double p = w * b[j] * factors[r * ld + j];
                if (cost.single) static_cast<float*>(out)[to + j] = static_cast<float>(p);
                else static_cast<double*>(out)[to + j] = p;
              }
            }
          });
    });
  });
}

bool transport_apply(const CostView& cost, const Masses& masses, const double* eps, const double* f, const double* g,
                     const double* v, index_t count, bool transpose, double* out) {
  const index_t n = cost.n, m = cost.m;
  return each_problem(cost, count, [&](index_t k) {
    const std::vector<double> F = in_units(f + k * n, n, eps[k]), G = in_units(g + k * m, m, eps[k]);
    const double* a = masses.a + k * masses.a_batch;
    const double* b = masses.b + k * masses.b_batch;
    const auto weight = [&](const auto& group, index_t i, index_t r) {
      return a[i + r] * std::exp(std::min(F[static_cast<std::size_t>(i + r)] - group.shift[r], 600.0));
    };
    return with_cost<double>(cost, k, [&](const auto& read) {
      const auto& whole = general(read);
      Problem<double, std::decay_t<decltype(whole)>> problem(whole, a, b);
      const double inv_eps = 1 / eps[k];
      if (transpose) {
        for (index_t c = 0; c < count; ++c) {
          const double* from = v + (k * count + c) * n;
          double* to = out + (k * count + c) * m;
          const auto weigh = [&](const auto& group, index_t i, index_t some, double* w) {
            for (index_t r = 0; r < some; ++r) w[r] = weight(group, i, r) * from[i + r];
          };
          if (!problem.weighted_column_sums(inv_eps, F.data(), G.data(), weigh, to)) return false;
          for (index_t j = 0; j < m; ++j) to[j] *= b[j];
        }
        return true;
      }
      const index_t ld = padded(m);
      std::vector<double> weighted(static_cast<std::size_t>(count * ld), 0.0);
      for (index_t c = 0; c < count; ++c)
        for (index_t j = 0; j < m; ++j)
          weighted[static_cast<std::size_t>(c * ld + j)] = b[j] * v[(k * count + c) * m + j];
      return problem.each_plan_rows(
          inv_eps, F.data(), G.data(), 0, n,
          [&](index_t i, index_t some, const double* factors, index_t row, const auto& group) {
            for (index_t r = 0; r < some; ++r) {
              const double w = weight(group, i, r);
              for (index_t c = 0; c < count; ++c)
                out[(k * count + c) * n + i + r] =
                    w * active().gibbs<double>().gibbs_dot(factors + r * row, weighted.data() + c * ld, ld);
            }
          });
    });
  });
}

bool transport_cost_rows(const CostView& cost, index_t first, index_t count, void* out) {
  const index_t size = cost.single ? 4 : 8, groups = (count + kRowsAtOnce - 1) / kRowsAtOnce;
  for (index_t k = 0; k < cost.batch; ++k) {
    const bool finished = in_storage_type(cost, k, [&](const auto& read, auto) {
      return for_units(groups, count * cost.m, [&](index_t group) {
        const index_t i = first + group * kRowsAtOnce, some = std::min(kRowsAtOnce, first + count - i);
        Copier copier{static_cast<char*>(out) + (k * count + i - first) * cost.m * size, cost.m};
        read.visit(i, some, 0, cost.m, copier);
      });
    });
    if (!finished) return false;
  }
  return true;
}

bool transport_cost_range(const CostView& cost, CostRange* ranges, bool* row_allowed, bool* col_allowed) {
  const index_t groups = (cost.n + kRowsAtOnce - 1) / kRowsAtOnce;
  return each_problem(cost, 1, [&](index_t k) {
    CostRange& range = ranges[k];
    range = CostRange{HUGE_VAL, -HUGE_VAL, false, false, false};
    bool* cols = col_allowed + k * cost.m;
    return in_storage_type(cost, k, [&](const auto& read, auto) {
      std::vector<RangeReducer> parts(static_cast<std::size_t>(groups));
      const bool finished = for_units(groups, cost.n * cost.m, [&](index_t group) {
        const index_t i = group * kRowsAtOnce, some = std::min(kRowsAtOnce, cost.n - i);
        RangeReducer& part = parts[static_cast<std::size_t>(group)];
        read.visit(i, some, 0, cost.m, part);
        for (index_t r = 0; r < some; ++r) row_allowed[k * cost.n + i + r] = part.rows[r].allowed;
      });
      if (!finished) return false;
      for (const RangeReducer& part : parts)
        for (const CostRange& row : part.rows) {
          range.least = std::min(range.least, row.least);
          range.largest = std::max(range.largest, row.largest);
          range.nan |= row.nan;
          range.forbidden |= row.forbidden;
          range.allowed |= row.allowed;
        }
      std::fill_n(cols, cost.m, !range.forbidden);
      for (index_t i = 0; range.forbidden && i < cost.n; ++i) {
        AllowedColumns row{cols};
        read.visit(i, 1, 0, cost.m, row);
      }
      return true;
    });
  });
}

}  // namespace cpu
}  // namespace entropic
