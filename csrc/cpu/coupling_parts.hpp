// What the parts of the coupling family share: problems whose marginals are sorted.
#pragma once

#include <algorithm>
#include <vector>

#include "coupling.hpp"
#include "coupling_queue.hpp"
#include "dispatch.hpp"
#include "entropic/coupling.hpp"

namespace entropic {
namespace cpu {

namespace {

// The functional of masses that come one at a time.
class EntropySum {
 public:
  EntropySum(const Functional& functional, std::uint64_t total)
      : functional_(functional), total_(static_cast<double>(total)) {}
  void add(std::uint64_t mass) {
    x_[count_] = static_cast<double>(static_cast<std::int64_t>(mass)) / total_;
    if (++count_ == kBlock) fold();
  }
  double value() {
    fold();
    return entropy_from(functional_, sum_.value(), largest_);
  }

 private:
  static constexpr index_t kBlock = 256;

  void fold() {
    if (functional_.measure == Measure::shannon) {
      for (index_t i = count_; i < count_ + 8; ++i) x_[i] = 1;
      active().coupling->shannon_terms(x_, count_, x_);
    } else {
      for (index_t i = 0; i < count_; ++i) largest_ = std::max(largest_, x_[i]);
      for (index_t i = 0; i < count_; ++i) x_[i] = concave_term(functional_, x_[i]);
    }
    for (index_t i = 0; i < count_; ++i) sum_.add(x_[i]);
    count_ = 0;
  }

  Functional functional_;
  double total_;
  CompensatedSum sum_;
  double largest_ = 0;
  index_t count_ = 0;
  double x_[kBlock + 8];
};

}  // namespace

using Sides = std::vector<Sorted>;

void sort_sides(const Problem& problem, Sides& sides);

// Lower bounds; one that is kept needs no memory for the next problem.
class BoundFinder {
 public:
  double find(const Sides& sides, std::uint64_t total, const Functional& functional, Bound bound);

 private:
  using Masses = std::vector<std::uint64_t>;
  struct List {
    const Masses* masses;
    std::uint64_t prefix;
  };

  // The functional of what all lists majorize that is largest: differences of the least prefix sum.
  double meet(std::uint64_t total, const Functional& functional);
  void list_split(const Sides& sides, std::uint64_t total);

  std::vector<List> lists_;
  Masses profile_, rests_;
  std::vector<Masses> pieces_;
};

// False if interrupted.
bool couple_sorted(const Sides& sides, std::uint64_t total, const Functional& functional, Method method, Cells& cells,
                   Certificate& certificate);

// One heuristic each, for two marginals; false if interrupted.
bool greedy(const Sides& sides, std::uint64_t total, Cells& cells);
bool closest_ratio(const Sides& sides, Cells& cells);
// Couples neighbours that differ by at most `tolerance` of the larger, then greedily.
bool prematch(const Sides& sides, std::uint64_t total, double tolerance, Cells& cells);
// The largest mass goes to its like, or to two of the other side that make it up, within `tolerance` of it.
bool best_fit(const Sides& sides, double tolerance, Cells& cells);

// The least of sum functional.term over all couplings, by dynamic programming over sets of at most kExactAtoms masses.
bool exact(const Sides& sides, std::uint64_t total, const Functional& functional, Cells& cells);

}  // namespace cpu
}  // namespace entropic
