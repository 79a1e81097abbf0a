// Batches of couplings: small problems side by side in the lanes of vectors, others one after the other.
#include <algorithm>
#include <vector>

#include "coupling_parts.hpp"
#include "pool.hpp"

namespace entropic {
namespace cpu {
namespace {

// Where the places of a problem lie in the outputs.
struct Answer {
  index_t most;
  std::int32_t* index;
  std::uint64_t* mass;
  index_t* counts;

  std::int32_t* index_of(index_t b) const { return index + b * most * 2; }
  std::uint64_t* mass_of(index_t b) const { return mass + b * most; }
  // To be called when that many cells have been written.
  void end(index_t b, index_t cells) const {
    counts[b] = cells;
    std::fill(index_of(b) + 2 * cells, index_of(b + 1), 0);
    std::fill(mass_of(b) + cells, mass_of(b + 1), 0);
  }
};

// Greedy couplings of kLanes problems at a time.
class LaneSolver {
 public:
  static constexpr index_t kLargest = 48;

  explicit LaneSolver(const Batch& batch)
      : batch_(batch),
        packing_(batch.total, std::max(batch.n, batch.m)),
        p_(slots(batch.n)),
        q_(slots(batch.m)),
        p_keys_(slots(batch.n + batch.m - 1)),
        q_keys_(p_keys_.size()),
        masses_(p_keys_.size()),
        sides_(2) {}

  // Problems first .. last - 1, at most kLanes.
  void solve(index_t first, index_t last, const Answer& answer, Certificate* certificates) {
    load(batch_.p, batch_.n, first, last, p_);
    load(batch_.q, batch_.m, first, last, q_);
    active().coupling->sort_lanes(p_.data(), batch_.n);
    active().coupling->sort_lanes(q_.data(), batch_.m);
    for (index_t b = first; b < last; ++b) {
      unload(p_, b - first, sides_[0]);
      unload(q_, b - first, sides_[1]);
      certificates[b].bound = bounds_.find(sides_, batch_.total, batch_.functional, Bound::atom_split);
    }
    const index_t steps = active().coupling->greedy_lanes(p_.data(), batch_.n, q_.data(), batch_.m, packing_.shift(),
                                                          p_keys_.data(), q_keys_.data(), masses_.data());
    for (index_t b = first; b < last; ++b) {
      std::int32_t* index = answer.index_of(b);
      std::uint64_t* mass = answer.mass_of(b);
      index_t cells = 0;
      for (index_t at = b - first; cells < steps && masses_[at]; ++cells, at += kLanes) {
        index[2 * cells] = packing_.index(p_keys_[at]);
        index[2 * cells + 1] = packing_.index(q_keys_[at]);
        mass[cells] = masses_[at];
      }
      answer.end(b, cells);
      const double entropy = entropy_of(mass, cells, batch_.total, batch_.functional);
      certificates[b] = {entropy, std::min(certificates[b].bound, entropy), Found::greedy};
    }
  }

 private:
  static std::size_t slots(index_t n) { return static_cast<std::size_t>(n * kLanes); }

  // Keys of a row in each lane; lanes without a problem have no mass.
  void load(const std::uint64_t* masses, index_t n, index_t first, index_t last, std::vector<double>& keys) const {
    for (index_t lane = 0; lane < kLanes; ++lane) {
      const bool any = first + lane < last;
      const std::uint64_t* row = masses + (any ? first + lane : first) * n;
      for (index_t i = 0; i < n; ++i)
        keys[i * kLanes + lane] =
            bit_cast<double>(kKeyBias | packing_.pack(any ? row[i] : 0, static_cast<std::int32_t>(i)));
    }
  }
  void unload(const std::vector<double>& keys, index_t lane, Sorted& side) const {
    side.mass.clear();
    for (std::size_t at = lane; at < keys.size(); at += kLanes) {
      const std::uint64_t mass = packing_.mass(bit_cast<std::uint64_t>(keys[at]) ^ kKeyBias);
      if (!mass) break;
      side.mass.push_back(mass);
    }
  }

  const Batch& batch_;
  Packing packing_;
  std::vector<double> p_, q_;
  std::vector<std::uint64_t> p_keys_, q_keys_, masses_;
  Sides sides_;
  BoundFinder bounds_;
};

void solve_each(const Batch& batch, Method method, index_t first, index_t last, const Answer& answer,
                Certificate* certificates) {
  Problem problem{{{nullptr, batch.n}, {nullptr, batch.m}}, batch.total, batch.functional};
  Sides sides;
  Cells cells;
  for (index_t b = first; b < last; ++b) {
    problem.marginals[0].mass = batch.p + b * batch.n;
    problem.marginals[1].mass = batch.q + b * batch.m;
    cells.index.clear();
    cells.mass.clear();
    sort_sides(problem, sides);
    if (!couple_sorted(sides, batch.total, batch.functional, method, cells, certificates[b])) return;
    std::copy(cells.index.begin(), cells.index.end(), answer.index_of(b));
    std::copy(cells.mass.begin(), cells.mass.end(), answer.mass_of(b));
    answer.end(b, static_cast<index_t>(cells.mass.size()));
  }
}

}  // namespace

bool couple_batch(const Batch& batch, Method method, std::int32_t* index, std::uint64_t* mass, index_t* counts,
                  Certificate* certificates) {
  const Answer answer{batch.n + batch.m - 1, index, mass, counts};
  const bool lanes = method == Method::greedy && std::max(batch.n, batch.m) <= LaneSolver::kLargest;
  const index_t unit_size = std::max(kLanes, 2048 / answer.most / kLanes * kLanes);
  return for_units((batch.batch + unit_size - 1) / unit_size, batch.batch * answer.most, [&](index_t unit) {
    const index_t first = unit * unit_size, last = std::min(batch.batch, first + unit_size);
    if (!lanes) return solve_each(batch, method, first, last, answer, certificates);
    LaneSolver solver(batch);
    for (index_t b = first; b < last; b += kLanes) solver.solve(b, std::min(last, b + kLanes), answer, certificates);
  });
}

}  // namespace cpu
}  // namespace entropic
