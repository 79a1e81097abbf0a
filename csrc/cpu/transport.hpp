// Entropic transport: the solver and what is computed from its potentials, for batches of problems of one size.
#pragma once

#include <functional>
#include <vector>

#include "entropic/config.hpp"

namespace entropic {
namespace cpu {

// The cost between the points of a grid, as the sum of one matrix (size, size) an axis; points in row-major order.
struct GridAxis {
  index_t size;
  const double* cost;
};

// A batch of costs between n and m points: stored rows of adjacent elements, points and a metric, or a grid's points.
struct CostView {
  bool points, single;  // single: float32, else float64
  Metric metric;
  double scale;  // of the metric
  const void* x;
  const void* y;  // points only
  index_t batch, n, m, depth;
  index_t x_batch, y_batch, row;  // strides in elements; `row` of stored costs
  std::vector<GridAxis> axes;     // of a grid, which is the same in all problems
};

// Potentials and masses of a batch, each (batch, n) or (batch, m) and adjacent; strides in elements, 0 where shared.
struct Masses {
  const double* a;
  const double* b;
  index_t a_batch, b_batch;
};

// One side's constraint, in the units of the cost: `p` is rho, or the lower factor of a range and `q` the upper.
struct Side {
  Relax kind;
  double p, q;
};

enum class Outcome : int { converged, limit, stalled, stopped, handed_over, diverged };

struct SolveSettings {
  Side rows, cols;
  double mass;  // of a partial plan; its potential is that of capped rows
  double tol;
  index_t max_iter;
  bool accelerate;  // not only Sinkhorn's iteration, and stop where rounding keeps the error from falling
  bool single;      // the first digits in float32, where the cost is
  double patience;  // hand over when more iterations than this seem needed
  double reach;     // potentials beyond this, in the units of the cost, say that there is no plan
  std::function<bool(index_t iteration, double error)> callback;
};

// What became of one problem. The error is that of the potentials returned, in float64.
struct SolveReport {
  index_t iterations;
  double error, cost;
  Outcome outcome;
};

// f and g are the start and the answer; rows and cols take the marginals; `start` is the eps that annealing comes down
// from, if larger than eps; errors are relative to `total`. False if interrupted.
bool solve_transport(const CostView& cost, const Masses& masses, const double* eps, const double* start,
                     const double* total, const SolveSettings& settings, double* f, double* g, double* rows,
                     double* cols, SolveReport* reports);
// Marginals of the plan, its cost, and the error as `solve_transport` has it.
bool transport_marginals(const CostView& cost, const Masses& masses, const double* eps, const double* total,
                         const Side& row_side, const Side& col_side, double mass, const double* f, const double* g,
                         double* rows, double* cols, SolveReport* reports);
// The best f for g, and the marginals of the columns: the gradient of the semi-dual is what they lack.
bool transport_semidual(const CostView& cost, const Masses& masses, const double* eps, const Side& row_side,
                        const double* g, double* f, double* cols);
// -eps log sum_j exp(h_j - C_ij / eps), h (batch, m); `over_rows` sums over i instead, h (batch, n).
bool transport_softmin(const CostView& cost, const double* h, const double* eps, bool over_rows, double* out);
// Rows first to first + count of the plan, in the cost's type.
bool transport_plan(const CostView& cost, const Masses& masses, const double* eps, const double* f, const double* g,
                    index_t first, index_t count, void* out);
// The plan times v (batch, k, m) as out (batch, k, n), or its transpose times v (batch, k, n) as out (batch, k, m).
bool transport_apply(const CostView& cost, const Masses& masses, const double* eps, const double* f, const double* g,
                     const double* v, index_t k, bool transpose, double* out);
// Rows first to first + count of the cost, in its type.
bool transport_cost_rows(const CostView& cost, index_t first, index_t count, void* out);

// What a cost holds, and for each row and column whether some pair is allowed.
bool transport_cost_range(const CostView& cost, CostRange* ranges, bool* row_allowed, bool* col_allowed);

}  // namespace cpu
}  // namespace entropic
