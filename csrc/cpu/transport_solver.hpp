// The stages of one solution: the descent in eps, Sinkhorn's iterations, the quasi-Newton climb of the semi-dual.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "transport_problem.hpp"

namespace entropic {
namespace cpu {

inline Relaxation scaled(const Side& side, double eps) {
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
inline double log_penalty_sum(const double* a, const double* F, index_t n, double eps_over_rho) {
  double top = -HUGE_VAL, sum = 0;
  for (index_t i = 0; i < n; ++i)
    if (a[i] > 0) top = std::max(top, -F[i] * eps_over_rho);
  for (index_t i = 0; i < n; ++i)
    if (a[i] > 0) sum += a[i] * std::exp(-F[i] * eps_over_rho - top);
  return top + std::log(sum);
}

// Where both sides answer to a KL penalty, or one does, f + t and g - t have the best dual value at this t: without it
// the mass of the plan converges at the slow rate of rho / (rho + eps).
inline double best_translation(const Side& rows, const Side& cols, const double* a, const double* b, const double* F,
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

// One side's part of the dual value, sum m phi(F), in units of eps. Bounds on F, of TV and capped sides, are kept by
// those who move it.
inline double dual_part(const Side& side, const double* mass, const double* F, index_t n, double eps) {
  double sum = 0;
  if (side.kind == Relax::kl) {
    const double rho = side.p / eps;
    for (index_t i = 0; i < n; ++i) sum -= mass[i] * rho * std::expm1(-F[i] / rho);
  } else if (side.kind == Relax::range) {
    for (index_t i = 0; i < n; ++i) sum += mass[i] * (F[i] > 0 ? side.p : side.q) * F[i];
  } else {
    for (index_t i = 0; i < n; ++i) sum += mass[i] * F[i];
  }
  return sum;
}

inline bool is_free(const Side& side) { return side.kind == Relax::kl && is_zero(side.p); }

// The smooth piece of one column's part of the dual on which G lies: the marginal that it asks for, over the column's
// mass, and how far it goes. At a kink it is the piece that the column's marginal, over its mass, pulls to, if any.
struct Piece {
  double target, low, high;
};
inline Piece piece_at(const Relaxation& side, double G, double marginal) {
  const double lowest = std::exp(side.p), highest = std::exp(side.q);
  switch (side.kind) {
    case Relax::exact: return {1, -HUGE_VAL, HUGE_VAL};
    case Relax::kl: return {std::exp(-G * (1 / side.p - 1)), -HUGE_VAL, HUGE_VAL};
    case Relax::tv: return {1, -side.p, side.p};
    case Relax::capped: return {1, -HUGE_VAL, side.p};
    case Relax::range:
      if (G > 0 || (is_zero(G) && marginal < lowest)) return {lowest, 0, HUGE_VAL};
      if (G < 0 || marginal > highest) return {highest, -HUGE_VAL, 0};
      return {marginal, 0, 0};
  }
  return {1, -HUGE_VAL, HUGE_VAL};
}

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
    if (report.iterations % kLookEvery == 0 && (out_of_reach(F) || out_of_reach(G))) {
      report.outcome = Outcome::diverged;
      return true;
    }
    return report.iterations >= settings.max_iter;
  }
  static constexpr index_t kLookEvery = 32;
  bool out_of_reach(const std::vector<double>& potential) const {
    if (!(settings.reach < HUGE_VAL)) return false;
    const double most = settings.reach / level;
    return std::any_of(potential.begin(), potential.end(), [most](double x) { return std::abs(x) > most; });
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
    // The plain iteration with a tolerance of 0 runs to its limit, even at a fixed point.
    const bool reached = error <= tol && (tol > 0 || run.settings.accelerate);
    if (reached) run.report.outcome = Outcome::converged;
    if (last || reached) return true;
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

// The semi-dual, the dual as a function of G alone, at one G. Of capped rows the potential of the total mass is one
// more variable, behind G.
struct SemiDualPoint {
  explicit SemiDualPoint(std::size_t size)
      : G(size), gradient(size), bent(size), scaling(size), low(size), high(size) {}

  std::vector<double> G;
  std::vector<double> gradient;  // what each column's piece asks for, less its marginal; 0 where a bound holds it
  std::vector<double> bent;      // the part of the gradient that is not constant on a piece
  std::vector<double> scaling;   // of the gradient, to Sinkhorn's step
  std::vector<double> low, high;
  double value = 0;
  double size = 0;  // of the terms of `value`
  double error = 0;

  void put(std::size_t j, double target, double marginal, double damping, const Piece& piece) {
    double gap = target - marginal;
    low[j] = piece.low;
    high[j] = piece.high;
    if ((gap > 0 && G[j] >= high[j]) || (gap < 0 && G[j] <= low[j])) {
      low[j] = high[j] = G[j];
      gap = 0;
    }
    gradient[j] = gap;
    bent[j] = (damping > 0 ? target : 0) - marginal;
    // The inverse of the logarithmic mean of target and marginal, by its series where they are close.
    const bool close = std::abs(gap) <= 1e-3 * target || !(marginal > 0);
    const double inverse_mean = close ? 2 / (target + marginal) : std::log(target / marginal) / gap;
    scaling[j] = target > 0 ? inverse_mean / (1 + damping) : 0;
    error += std::abs(gap);
  }
};

// One pass: run.F and all else that belongs to point.G. False if interrupted.
template <class T, class Cost>
bool evaluate(Problem<T, Cost>& problem, Run& run, SemiDualPoint& point) {
  const SolveSettings& settings = run.settings;
  const index_t n = problem.rows(), m = problem.cols();
  const bool capped = settings.rows.kind == Relax::capped;
  Relaxation row_side = scaled(settings.rows, run.eps);
  const Relaxation col_side = scaled(settings.cols, run.eps);
  if (capped) row_side.p = point.G.back();
  Residual residual;
  bool in_range;
  if (!problem.update_rows(row_side, 1 / run.eps, run.F.data(), point.G.data(), residual, in_range) || work_stopped())
    return false;
  const double damping = settings.cols.kind == Relax::kl ? run.eps / settings.cols.p : 0;
  const double* sums = problem.column_sums();
  double mass = 0;
  point.error = 0;
  for (index_t j = 0; j < m; ++j) {
    const std::size_t at = static_cast<std::size_t>(j);
    const double b = run.b[j], marginal = b * sums[j];
    const Piece piece = piece_at(col_side, point.G[at], sums[j]);
    point.put(at, b * piece.target, marginal, damping, piece);
    mass += marginal;
  }
  double of_rows = dual_part(settings.rows, run.a, run.F.data(), n, run.eps);
  const double of_cols = dual_part(settings.cols, run.b, point.G.data(), m, run.eps);
  if (capped) {
    for (index_t i = 0; i < n; ++i) of_rows -= run.a[i] * row_side.p;
    of_rows += settings.mass * row_side.p;
    point.put(static_cast<std::size_t>(m), settings.mass, mass, 0, {1, -HUGE_VAL, HUGE_VAL});
  }
  point.value = of_rows + of_cols - mass;
  point.size = std::abs(of_rows) + std::abs(of_cols) + mass;
  point.error /= run.total;
  if (!in_range || !std::isfinite(point.value)) point.value = -HUGE_VAL;
  return true;
}

// Maximises the semi-dual by a limited-memory quasi-Newton method, whose first direction is Sinkhorn's step: the same
// gradient, scaled, for the same one pass. A step ends where a variable's piece does (as in Andrew and Gao's method for
// kinks at 0). False if interrupted.
template <class T, class Cost>
bool climb(Problem<T, Cost>& problem, Run& run, double tol, QuasiNewton& memory) {
  const SolveSettings& settings = run.settings;
  const bool capped = settings.rows.kind == Relax::capped;
  const std::size_t cols = run.G.size(), size = cols + (capped ? 1 : 0);
  SemiDualPoint here(size), there(size);
  std::vector<double> direction(size), step(size), fall(size);
  const auto leave = [&] {
    std::copy_n(here.G.data(), cols, run.G.data());
    if (capped) run.cap = here.G.back() * run.eps;
    return true;
  };
  std::copy_n(run.G.data(), cols, here.G.data());
  if (capped) here.G.back() = run.cap / run.eps;
  if (!evaluate(problem, run, here)) return false;
  Forecast forecast(30);
  Stall stall;
  for (;;) {
    const bool last = run.ended(here.error), reached = here.error <= tol;
    if (reached) run.report.outcome = Outcome::converged;
    if (last || reached) return leave();
    if (stall.reached(here.error)) {
      run.report.outcome = Outcome::stalled;
      return leave();
    }
    // Far from the answer Newton's steps are cut short, and no better than these, unless these hardly move.
    constexpr double kNearEnough = 1e-2;
    constexpr int kLong = 200;
    if (forecast.iterations_to(tol, here.error) > settings.patience &&
        (here.error < kNearEnough || forecast.iterations() > kLong)) {
      run.report.outcome = Outcome::handed_over;
      return leave();
    }
    memory.direction(here.gradient, here.scaling, direction);
    // Where no step along it is seen to gain, past steps have spoilt the direction, or rounding hides the gain.
    // Sinkhorn's own step always gains.
    constexpr double kLeastStep = 0.1;
    for (double t = 1;; t *= 0.5) {
      const bool own = t < kLeastStep;
      if (own) {
        memory.forget();
        memory.direction(here.gradient, here.scaling, direction);
        t = 1;
      }
      for (std::size_t j = 0; j < size; ++j) {
        there.G[j] = std::clamp(here.G[j] + t * direction[j], here.low[j], here.high[j]);
        step[j] = there.G[j] - here.G[j];
      }
      const double slope = QuasiNewton::dot(here.gradient, step);
      if (!(slope > 0 && !run.out_of_reach(there.G)) && !own) {
        t = 0;
        continue;
      }
      if (!evaluate(problem, run, there)) return false;
      // Where the value's rounding hides the gain, the slope's fall decides.
      constexpr double kGain = 1e-4, kOvershoot = 0.9, kRounding = 1e-10;
      if (own || there.value >= here.value + kGain * slope) break;
      const double slope_there = QuasiNewton::dot(there.gradient, step);
      if (slope_there >= -kOvershoot * slope && there.value >= here.value - kRounding * here.size) break;
      // F again is that of the G that is left
      if (run.ended(here.error)) return evaluate(problem, run, here) && leave();
    }
    for (std::size_t j = 0; j < size; ++j) fall[j] = here.bent[j] - there.bent[j];
    memory.observe(step, fall);
    std::swap(here, there);
  }
}

// All stages at one precision.
// The potential of the total mass of capped rows, from the other potentials: nothing is known of its size before.
template <class T, class Cost>
bool find_cap(Problem<T, Cost>& problem, Run& run) {
  if (run.settings.rows.kind != Relax::capped) return true;
  const auto zero = [](double f) { return is_zero(f); };
  Residual residual;
  bool in_range;
  if (std::all_of(run.F.begin(), run.F.end(), zero) &&
      !problem.update_rows({Relax::exact, 0, 0}, 1 / run.level, run.F.data(), run.G.data(), residual, in_range))
    return false;
  double largest = -HUGE_VAL;
  for (std::size_t i = 0; i < run.F.size(); ++i)
    if (run.a[i] > 0) largest = std::max(largest, run.F[i]);
  run.cap = std::isfinite(largest) ? largest * run.level : 0;
  return true;
}

// The answer of work that ended on the way down in eps: rows that are right for the columns' potentials.
template <class Cost>
bool land(Problem<double, Cost>& problem, Run& run) {
  run.move_to_level(run.eps);
  const bool capped = run.settings.rows.kind == Relax::capped;
  const Relaxation rows = capped ? Relaxation{Relax::exact, 0, 0} : scaled(run.settings.rows, run.eps);
  Residual residual;
  bool in_range;
  if (!problem.update_rows(rows, 1 / run.eps, run.F.data(), run.G.data(), residual, in_range)) return false;
  if (!capped) return true;
  double total = 0, largest = -HUGE_VAL;
  for (std::size_t i = 0; i < run.F.size(); ++i) total += run.a[i];
  for (std::size_t i = 0; i < run.F.size(); ++i) {
    run.F[i] += std::log(run.settings.mass / total);
    if (run.a[i] > 0) largest = std::max(largest, run.F[i]);
  }
  run.cap = largest * run.eps;
  return true;
}

template <class T, class Cost>
bool advance(Problem<T, Cost>& problem, Run& run, double tol, QuasiNewton& memory) {
  if (run.report.iterations >= run.settings.max_iter) return true;
  if (run.report.iterations == 0 && !find_cap(problem, run)) return false;
  if (run.level > run.eps && (!anneal(problem, run) || run.level > run.eps)) return !work_stopped();
  if (run.report.outcome == Outcome::stopped || run.report.outcome == Outcome::diverged ||
      run.report.iterations >= run.settings.max_iter)
    return true;
  if (!run.settings.accelerate || is_free(run.settings.rows) || is_free(run.settings.cols))
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

}  // namespace cpu
}  // namespace entropic
