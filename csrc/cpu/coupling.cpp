// Greedy couplings (Kocaoglu et al. 2017), the choice among heuristics, and batches.
#include "coupling.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "coupling_parts.hpp"
#include "pool.hpp"

namespace entropic {
namespace cpu {
namespace {

// Interruption is looked for once in so many cells.
constexpr std::size_t kPatience = 4096;

// The largest masses meet, and the smaller of them is a cell, until nothing is left: the totals are equal, so all
// queues empty at once. `emit` takes a cell and returns false to stop.
template <class Queue, class Emit>
bool greedy_pair(Queue& p, Queue& q, Emit&& emit) {
  while (!p.empty()) {
    const Atom a = p.top(), b = q.top();
    const std::uint64_t mass = std::min(a.mass, b.mass);
    if (!emit(a.index, b.index, mass)) return false;
    a.mass > mass ? p.reduce_top(a.mass - mass) : p.pop();
    b.mass > mass ? q.reduce_top(b.mass - mass) : q.pop();
  }
  return true;
}

template <class Queue, class Emit>
bool greedy_many(std::vector<Queue>& queues, Emit&& emit) {
  const std::size_t k = queues.size();
  std::vector<std::int32_t> index(k);
  while (!queues[0].empty()) {
    std::uint64_t mass = queues[0].top().mass;
    for (std::size_t i = 0; i < k; ++i) {
      const Atom top = queues[i].top();
      mass = std::min(mass, top.mass);
      index[i] = top.index;
    }
    if (!emit(index, mass)) return false;
    for (Queue& queue : queues) {
      const std::uint64_t own = queue.top().mass;
      own > mass ? queue.reduce_top(own - mass) : queue.pop();
    }
  }
  return true;
}

// A stack for few atoms, a heap where they can be packed, else buckets.
template <class F>
auto with_queues(const Sides& sides, std::uint64_t total, F&& f) {
  std::int32_t largest = 0;
  std::size_t longest = 0;
  for (const Sorted& side : sides) {
    longest = std::max(longest, side.size());
    for (const std::int32_t index : side.index) largest = std::max(largest, index);
  }
  const Packing packing(total, largest + 1);
  const auto solve = [&](auto&& queues, const auto&... packed) {
    queues.reserve(sides.size());
    for (const Sorted& side : sides) queues.emplace_back(side, packed...);
    return f(queues);
  };
  if (!packing.fits()) return solve(std::vector<MonotoneQueue>());
  if (longest > PackedStack::kLargest) return solve(std::vector<PackedHeap>(), packing);
  return solve(std::vector<PackedStack>(), packing);
}

bool greedy_of_many(const Sides& sides, std::uint64_t total, Cells& cells) {
  return with_queues(sides, total, [&](auto& queues) {
    return greedy_many(queues, [&](const std::vector<std::int32_t>& index, std::uint64_t mass) {
      cells.index.insert(cells.index.end(), index.begin(), index.end());
      cells.mass.push_back(mass);
      return cells.mass.size() % kPatience != 0 || !work_stopped();
    });
  });
}

double entropy_of(const Cells& cells, std::uint64_t total, const Functional& functional) {
  return cpu::entropy_of(cells.mass.data(), static_cast<index_t>(cells.mass.size()), total, functional);
}

// Largest first, as greedy has them.
void sort_cells(Cells& cells) {
  std::vector<std::size_t> order(cells.mass.size());
  std::iota(order.begin(), order.end(), std::size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return cells.mass[a] > cells.mass[b]; });
  Cells sorted;
  sorted.index.reserve(cells.index.size());
  sorted.mass.reserve(cells.mass.size());
  for (const std::size_t cell : order) {
    sorted.index.push_back(cells.index[2 * cell]);
    sorted.index.push_back(cells.index[2 * cell + 1]);
    sorted.mass.push_back(cells.mass[cell]);
  }
  cells = std::move(sorted);
}

// Greedy first: of equal ones the first is kept.
bool portfolio(const Sides& sides, std::uint64_t total, const Functional& functional, Cells& cells,
               Certificate& certificate) {
  const auto keep_better = [&](bool finished, Cells& found, Found name) {
    if (!finished) return false;
    const double entropy = entropy_of(found, total, functional);
    if (entropy < certificate.entropy) {
      certificate.entropy = entropy;
      certificate.found = name;
      std::swap(cells, found);
    }
    found.index.clear();
    found.mass.clear();
    return true;
  };
  Cells found;
  if (!greedy(sides, total, cells)) return false;
  certificate.entropy = entropy_of(cells, total, functional);
  certificate.found = Found::greedy;
  for (const double tolerance : {1e-3, 1e-2})
    if (!keep_better(prematch(sides, total, tolerance, found), found, Found::prematch)) return false;
  for (const double tolerance : {1e-3, 1e-2})
    if (!keep_better(best_fit(sides, tolerance, found), found, Found::best_fit)) return false;
  return keep_better(closest_ratio(sides, found), found, Found::ratio);
}

}  // namespace

void sort_sides(const Problem& problem, Sides& sides) {
  sides.resize(problem.marginals.size());
  for (std::size_t i = 0; i < sides.size(); ++i)
    sort_masses(problem.marginals[i].mass, problem.marginals[i].n, problem.total, sides[i]);
}

bool greedy(const Sides& sides, std::uint64_t total, Cells& cells) {
  if (sides.size() != 2) return greedy_of_many(sides, total, cells);
  const std::size_t most = sides[0].size() + sides[1].size() - 1;
  cells.index.reserve(2 * most);
  cells.mass.reserve(most);
  return with_queues(sides, total, [&](auto& queues) {
    return greedy_pair(queues[0], queues[1], [&](std::int32_t i, std::int32_t j, std::uint64_t mass) {
      cells.index.push_back(i);
      cells.index.push_back(j);
      cells.mass.push_back(mass);
      return cells.mass.size() % kPatience != 0 || !work_stopped();
    });
  });
}

double entropy_of(const std::uint64_t* mass, index_t n, std::uint64_t total, const Functional& functional) {
  EntropySum sum(functional, total);
  for (index_t i = 0; i < n; ++i)
    if (mass[i]) sum.add(mass[i]);
  return sum.value();
}

bool couple_sorted(const Sides& sides, std::uint64_t total, const Functional& functional, Method method, Cells& cells,
                   Certificate& certificate) {
  certificate.bound = BoundFinder().find(sides, total, functional, Bound::atom_split);
  if (sides.size() == 2 && method == Method::portfolio) {
    if (!portfolio(sides, total, functional, cells, certificate)) return false;
  } else {
    const bool search = method == Method::exact;
    certificate.found = search ? Found::exact : Found::greedy;
    if (!(search ? exact(sides, total, functional, cells) : greedy(sides, total, cells))) return false;
    certificate.entropy = entropy_of(cells, total, functional);
  }
  if (certificate.found != Found::greedy) sort_cells(cells);
  certificate.bound = method == Method::exact ? certificate.entropy : std::min(certificate.bound, certificate.entropy);
  return true;
}

bool couple(const Problem& problem, Method method, Cells& cells, Certificate& certificate) {
  Sides sides;
  sort_sides(problem, sides);
  bool finished = true;
  // The exact solver shares its own work, which a unit could not.
  const bool kept = for_units(1, method == Method::exact ? 0 : kWorthSharing, [&](index_t) {
    finished = couple_sorted(sides, problem.total, problem.functional, method, cells, certificate);
  });
  return kept && finished;
}

bool greedy_entropy(const Problem& problem, Certificate& certificate) {
  bool finished = true;
  const bool kept = for_units(1, kWorthSharing, [&](index_t) {
    Sides sides;
    sort_sides(problem, sides);
    EntropySum sum(problem.functional, problem.total);
    std::size_t cells = 0;
    finished = with_queues(sides, problem.total, [&](auto& queues) {
      return greedy_many(queues, [&](const std::vector<std::int32_t>&, std::uint64_t mass) {
        sum.add(mass);
        return ++cells % kPatience != 0 || !work_stopped();
      });
    });
    const double entropy = sum.value();
    const double bound = BoundFinder().find(sides, problem.total, problem.functional, Bound::atom_split);
    certificate = {entropy, std::min(bound, entropy), Found::greedy};
  });
  return kept && finished;
}

}  // namespace cpu
}  // namespace entropic
