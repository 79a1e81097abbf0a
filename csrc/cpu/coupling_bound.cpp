// Lower bounds. A coupling's masses, sorted, are majorized by each list below, so no concave symmetric function of them
// is less than that of the list.
//
//   majorization       differences of the least prefix sum over the marginals (Cicalese, Gargano, Vaccaro 2019)
//   profile            integral of h(g) / g over g, the least of the marginals' masses at each rank (Shkel and Yadav
//                      2023; Compton et al. 2023): not a list, but a bound for sums of terms h
//   majorize_profile   the largest masses, one after the other, that fit beneath g (Compton et al. 2023)
//   atom_split         the same, met with each marginal cut to the largest mass that the others have: no cell of a row
//                      is larger than that, and to cut is to be majorized
#include <algorithm>
#include <cmath>
#include <vector>

#include "coupling_parts.hpp"

namespace entropic {
namespace cpu {
namespace {

using Masses = std::vector<std::uint64_t>;

// g as a step function of the rank counted from the largest mass: value on (previous end, end], falling.
struct Step {
  std::uint64_t end, value;
};

// Two sorted marginals, walked together.
class PairProfile {
 public:
  PairProfile(const Masses& p, const Masses& q) : p_(p), q_(q), p_end_(p[0]), q_end_(q[0]) {}
  Step step() const { return {std::min(p_end_, q_end_), std::min(p_[i_], q_[j_])}; }
  // To the next step, of which there is one.
  void advance() {
    const std::uint64_t end = std::min(p_end_, q_end_);
    if (p_end_ == end) p_end_ += p_[++i_];
    if (q_end_ == end) q_end_ += q_[++j_];
  }

 private:
  const Masses& p_;
  const Masses& q_;
  std::uint64_t p_end_, q_end_;
  std::size_t i_ = 0, j_ = 0;
};

// Any number of them: a mass enters at its rank, and as each marginal's fall, g is the least that has entered.
class Profile {
 public:
  Profile(const Sides& sides, std::uint64_t total) {
    struct Entry {
      std::uint64_t start, value;
    };
    std::vector<Entry> entries;
    for (const Sorted& side : sides) {
      std::uint64_t start = 0;
      for (const std::uint64_t mass : side.mass) {
        entries.push_back({start, mass});
        start += mass;
      }
    }
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return a.start != b.start ? a.start < b.start : a.value < b.value;
    });
    for (const Entry& entry : entries) {
      if (!steps_.empty() && entry.value >= steps_.back().value) continue;
      if (!steps_.empty()) steps_.back().end = entry.start;
      steps_.push_back({total, entry.value});
    }
  }
  const Step& step() const { return steps_[at_]; }
  void advance() { ++at_; }

 private:
  std::vector<Step> steps_;
  std::size_t at_ = 0;
};

template <class F>
auto with_profile(const Sides& sides, std::uint64_t total, F&& f) {
  return sides.size() == 2 ? f(PairProfile(sides[0].mass, sides[1].mass)) : f(Profile(sides, total));
}

template <class P>
double profile_bound(P profile, std::uint64_t total, const Functional& functional) {
  CompensatedSum sum;
  double largest = 0;
  for (std::uint64_t start = 0;;) {
    const Step step = profile.step();
    const double x = static_cast<double>(step.value) / static_cast<double>(total);
    sum.add(static_cast<double>(step.end - start) / static_cast<double>(step.value) * concave_term(functional, x));
    largest = std::max(largest, x);
    if (step.end == total) return entropy_from(functional, sum.value(), largest);
    start = step.end;
    profile.advance();
  }
}

// From rank r the largest mass s with s <= g at r + s: g falls, so it is found by walking on while g reaches.
template <class P>
void majorize_profile(P profile, std::uint64_t total, Masses& masses) {
  masses.clear();
  for (std::uint64_t rank = 0; rank < total;) {
    std::uint64_t end = rank;
    while (end < total) {
      const Step step = profile.step();
      const std::uint64_t reach = rank + step.value;
      if (reach < step.end) {
        end = std::max(end, reach);
        break;
      }
      end = step.end;
      if (end < total) profile.advance();
    }
    masses.push_back(end - rank);
    rank = end;
  }
}

// Sorted masses cut into pieces of at most `largest`.
void split(const Masses& masses, std::uint64_t largest, Masses& rests, Masses& pieces) {
  rests.clear();
  pieces.clear();
  std::size_t i = 0;
  for (; i < masses.size() && masses[i] > largest; ++i) {
    pieces.insert(pieces.end(), static_cast<std::size_t>(masses[i] / largest), largest);
    if (masses[i] % largest) rests.push_back(masses[i] % largest);
  }
  std::sort(rests.begin(), rests.end(), std::greater<std::uint64_t>());
  std::merge(rests.begin(), rests.end(), masses.begin() + static_cast<std::ptrdiff_t>(i), masses.end(),
             std::back_inserter(pieces), std::greater<std::uint64_t>());
}

}  // namespace

double BoundFinder::meet(std::uint64_t total, const Functional& functional) {
  EntropySum sum(functional, total);
  std::uint64_t before = 0;
  for (std::size_t t = 0; before < total; ++t) {
    std::uint64_t least = total;
    for (List& list : lists_) {
      if (t < list.masses->size()) list.prefix += (*list.masses)[t];
      least = std::min(least, list.prefix);
    }
    sum.add(least - before);
    before = least;
  }
  return sum.value();
}

void BoundFinder::list_split(const Sides& sides, std::uint64_t total) {
  // The least and the second least of the largest masses.
  std::uint64_t least = total, second = total;
  for (const Sorted& side : sides) {
    second = std::min(second, std::max(least, side.mass[0]));
    least = std::min(least, side.mass[0]);
  }
  pieces_.resize(sides.size());
  for (std::size_t i = 0; i < sides.size(); ++i) {
    const Masses& masses = sides[i].mass;
    const std::uint64_t largest = masses[0] == least ? second : least;
    if (masses[0] <= largest) continue;
    split(masses, largest, rests_, pieces_[i]);
    lists_.push_back({&pieces_[i], 0});
  }
}

double BoundFinder::find(const Sides& sides, std::uint64_t total, const Functional& functional, Bound bound) {
  lists_.clear();
  double value = 0;
  if (bound == Bound::profile) {
    value = with_profile(sides, total, [&](auto walk) { return profile_bound(std::move(walk), total, functional); });
  } else {
    if (bound == Bound::majorization) {
      for (const Sorted& side : sides) lists_.push_back({&side.mass, 0});
    } else {
      with_profile(sides, total, [&](auto walk) { majorize_profile(std::move(walk), total, profile_); });
      lists_.push_back({&profile_, 0});
      if (bound == Bound::atom_split) list_split(sides, total);
    }
    value = meet(total, functional);
  }
  return std::max(0.0, value - rounding_of(functional, value));
}

double coupling_bound(const Problem& problem, Bound bound) {
  Sides sides;
  sort_sides(problem, sides);
  return BoundFinder().find(sides, problem.total, problem.functional, bound);
}

}  // namespace cpu
}  // namespace entropic
