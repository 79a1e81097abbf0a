// One transport problem: the passes over its cost that every solver is made of.
#pragma once

#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

#include "entropic/transport.hpp"
#include "transport_costs.hpp"

namespace entropic {
namespace cpu {

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
inline double gap(const Relaxation& side, double mass, double sum, double potential) {
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
            // A row beyond the range of numbers is not that of any plan.
            if (F[i + r] - rows.shift[r] > 600.0 && a_[i + r] > 0) tally.rows = HUGE_VAL;
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
    reducer.begin(0, 1, 0);
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
        const double exponent = F[i] + sums[static_cast<std::size_t>(i)], sum = std::exp(std::min(exponent, 690.0));
        if (exponent > 690.0 && a_[i] > 0) residual.rows = HUGE_VAL;
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

}  // namespace cpu
}  // namespace entropic
