// The least cost over all couplings of two small marginals. An optimal one is a forest whose edges are its cells, and
// an edge's mass is what the masses on one side of it have too much: |D(S)|, D(S) = sum of p in S less sum of q in S,
// for the subtree S below it. With f(S) the least cost of a subtree with the edge above it, and K(S) of subtrees that
// hang from one root,
//   f(S) = h(|D(S)|) + min over roots r in S of K(S without r),    K(S) = min over T with the first of S, f(T) + K(S -
//   T).
// A subtree with a root in p has D >= 0, and one with a root in q has D <= 0; where D = 0 there is no edge.
#include <algorithm>
#include <cmath>
#include <vector>

#include "coupling_parts.hpp"
#include "pool.hpp"

namespace entropic {
namespace cpu {
namespace {

using Set = std::uint32_t;

class SubsetProgram {
 public:
  SubsetProgram(const Sides& sides, std::uint64_t total, const Functional& functional)
      : sides_(sides),
        total_(total),
        functional_(functional),
        n_(sides[0].size()),
        atoms_(n_ + sides[1].size()),
        all_((Set(1) << atoms_) - 1),
        rows_((Set(1) << n_) - 1),
        excess_(std::size_t(all_) + 1, 0) {
    for (auto& values : tree_) values.assign(std::size_t(all_) + 1, HUGE_VAL);
    for (auto& values : forest_) values.assign(std::size_t(all_) + 1, HUGE_VAL);
    for (Set s = 1; s <= all_; ++s) excess_[s] = excess_[s & (s - 1)] + signed_mass(lowest(s));
    for (auto& values : forest_) values[0] = 0;
  }

  bool solve() {
    std::vector<std::vector<Set>> by_size(atoms_ + 1);
    for (Set s = 1; s <= all_; ++s) by_size[size(s)].push_back(s);
    // Sets of one size need smaller ones only.
    for (std::size_t own = 1; own <= atoms_; ++own) {
      const std::vector<Set>& sets = by_size[own];
      constexpr std::size_t block = 64;
      const index_t units = static_cast<index_t>((sets.size() + block - 1) / block);
      const bool finished = for_units(units, static_cast<index_t>(sets.size()) << own, [&](index_t unit) {
        const std::size_t from = static_cast<std::size_t>(unit) * block;
        for (std::size_t k = from; k < std::min(from + block, sets.size()); ++k) fill(sets[k]);
      });
      if (!finished || work_stopped()) return false;
    }
    return true;
  }

  void write(Cells& cells) const { write_forest(all_, 0, -1, cells); }

 private:
  static std::size_t size(Set s) {
    std::size_t count = 0;
    for (; s; s &= s - 1) ++count;
    return count;
  }
  static int lowest(Set s) {
    int bit = 0;
    for (; !(s & 1); s >>= 1) ++bit;
    return bit;
  }
  std::int64_t signed_mass(int atom) const {
    const std::size_t i = static_cast<std::size_t>(atom);
    return i < n_ ? static_cast<std::int64_t>(sides_[0].mass[i]) : -static_cast<std::int64_t>(sides_[1].mass[i - n_]);
  }
  double edge(Set s) const {
    if (excess_[s] == 0) return 0;
    return concave_term(functional_, static_cast<double>(std::llabs(excess_[s])) / static_cast<double>(total_));
  }
  Set roots(Set s, int side) const { return side == 0 ? s & rows_ : s & ~rows_; }

  // The least of the forests below a root of this side.
  double below_roots(Set s, int side) const {
    double least = HUGE_VAL;
    for (Set rest = roots(s, side); rest; rest &= rest - 1)
      least = std::min(least, forest_[1 - side][s & ~(rest & (~rest + 1))]);
    return least;
  }
  double partition(Set s, int side) const {
    const Set first = s & (~s + 1), others = s & ~first;
    const double* tree = tree_[side].data();
    const double* forest = forest_[side].data();
    double least = HUGE_VAL;
    for (Set rest = others;; rest = (rest - 1) & others) {  // what the first tree leaves
      const double cost = tree[s & ~rest] + forest[rest];
      least = cost < least ? cost : least;
      if (rest == 0) return least;
    }
  }
  void fill(Set s) {
    const std::int64_t excess = excess_[s];
    if (excess == 0) {
      tree_[0][s] = tree_[1][s] = std::min(below_roots(s, 0), below_roots(s, 1));
      forest_[0][s] = forest_[1][s] = partition(s, 0);
    } else {
      const int side = excess > 0 ? 0 : 1;
      tree_[side][s] = edge(s) + below_roots(s, side);
      forest_[side][s] = partition(s, side);
    }
  }

  // Finds the choices again, and writes the edges; `parent` is an atom of the other side, or -1.
  void write_forest(Set s, int side, int parent, Cells& cells) const {
    while (s) {
      const Set first = s & (~s + 1), others = s & ~first;
      Set rest = others;
      while (tree_[side][s & ~rest] + forest_[side][rest] != forest_[side][s]) rest = (rest - 1) & others;
      write_tree(s & ~rest, side, parent, cells);
      s = rest;
    }
  }
  void write_tree(Set s, int side, int parent, Cells& cells) const {
    if (excess_[s] == 0 && below_roots(s, side) != tree_[side][s]) side = 1 - side;
    const double wanted = below_roots(s, side);
    Set rest = roots(s, side);
    while (forest_[1 - side][s & ~(rest & (~rest + 1))] != wanted) rest &= rest - 1;
    const int root = lowest(rest);
    if (excess_[s] != 0) {
      const std::size_t row = static_cast<std::size_t>(side == 0 ? root : parent);
      const std::size_t col = static_cast<std::size_t>(side == 0 ? parent : root) - n_;
      cells.index.push_back(sides_[0].index[row]);
      cells.index.push_back(sides_[1].index[col]);
      cells.mass.push_back(static_cast<std::uint64_t>(std::llabs(excess_[s])));
    }
    write_forest(s & ~(Set(1) << root), 1 - side, root, cells);
  }

  const Sides& sides_;
  std::uint64_t total_;
  const Functional& functional_;
  std::size_t n_, atoms_;
  Set all_, rows_;
  std::vector<std::int64_t> excess_;
  std::vector<double> tree_[2], forest_[2];
};

}  // namespace

bool exact(const Sides& sides, std::uint64_t total, const Functional& functional, Cells& cells) {
  SubsetProgram program(sides, total, functional);
  if (!program.solve()) return false;
  program.write(cells);
  return true;
}

}  // namespace cpu
}  // namespace entropic
