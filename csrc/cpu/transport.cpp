#include "transport.hpp"

#include <atomic>
#include <cmath>

#include "transport_solver.hpp"

namespace entropic {
namespace cpu {
namespace {

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
            report.outcome != Outcome::diverged && !advance(problem, run, tol, memory))
          return false;
        if (run.level > eps[k] && !land(problem, run)) return false;
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
