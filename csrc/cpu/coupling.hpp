// Minimum-entropy couplings: what the bindings call. Masses are integers that add up to `total` in every marginal.
// Nothing here depends on the instruction set, and only batches and the exact solver use threads.
#pragma once

#include <cstdint>
#include <vector>

#include "entropic/config.hpp"

namespace entropic {
namespace cpu {

// Of a row of masses: their sum, the largest change of a mass by the grid in units of the grid, and the first element
// that is negative, infinite or nan, or -1.
struct GridReport {
  double sum, change;
  index_t bad;
};
// Rows of n masses, scaled to integers that add up to 2^53 (largest remainders go up). False if interrupted.
bool grid_masses(const double* p, index_t rows, index_t n, std::uint64_t* out, GridReport* reports);

struct Marginal {
  const std::uint64_t* mass;
  index_t n;
};
struct Problem {
  std::vector<Marginal> marginals;
  std::uint64_t total;
  Functional functional;
};

// The cells of a coupling: as many indices a cell as there are marginals, and its mass.
struct Cells {
  std::vector<std::int32_t> index;
  std::vector<std::uint64_t> mass;
};

enum class Bound : int { majorization, profile, majorize_profile, atom_split };
// No coupling has less, rounding included.
double coupling_bound(const Problem& problem, Bound bound);
double entropy_of(const std::uint64_t* mass, index_t n, std::uint64_t total, const Functional& functional);

enum class Method : int { greedy, portfolio, exact };
// The heuristic that found a coupling; the portfolio returns the best one's.
enum class Found : int { greedy, ratio, prematch, best_fit, exact };
struct Certificate {
  double entropy, bound;
  Found found;
};
// Portfolio and exact are for two marginals. False if interrupted.
bool couple(const Problem& problem, Method method, Cells& cells, Certificate& certificate);
// The greedy coupling's entropy without its cells.
bool greedy_entropy(const Problem& problem, Certificate& certificate);

// Pairs of rows of p (batch, n) and q (batch, m), zeros left out; each problem's cells take n + m - 1 places of the
// outputs, filled with zeros. False if interrupted.
struct Batch {
  const std::uint64_t* p;
  const std::uint64_t* q;
  index_t batch, n, m;
  std::uint64_t total;
  Functional functional;
};
bool couple_batch(const Batch& batch, Method method, std::int32_t* index, std::uint64_t* mass, index_t* counts,
                  Certificate* certificates);

// Atoms that the exact solver takes: it needs 40 bytes, and 3^N / 2 steps in all, for each of 2^N sets of them.
constexpr index_t kExactAtoms = 22;

// A map from n masses to labels, one mass of which may be split over two: X to T with H(T) <= rate bits, and I(X;T)
// large.
struct Encoder {
  std::vector<std::int32_t> label;  // of each mass; -1 where it is zero
  index_t split = -1;               // the mass that is split
  std::int32_t other = -1;          // its other label,
  std::uint64_t moved = 0;          // and how much of it goes there
  index_t labels = 0;
  double information = 0, code_entropy = 0;
};
enum class Search : int { greedy, pairs, moves };
Encoder bottleneck_encode(const std::uint64_t* mass, index_t n, std::uint64_t total, double rate, Search search);

}  // namespace cpu
}  // namespace entropic
