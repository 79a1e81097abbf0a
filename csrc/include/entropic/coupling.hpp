// Entropies of couplings. Masses are integers that add up to `total`, so that sums of them are exact in any order;
// here is what is computed of them in floating point, with the same bits on every machine.
#pragma once

#include "config.hpp"
#include "math.hpp"
#include "scalar.hpp"

namespace entropic {
namespace {

// A pack whose fma rounds twice: processors without a fused one then agree with those that have it, to the last bit.
template <class P>
struct Unfused {
  using Element = typename P::Element;
  static constexpr bool has_table = false;

  P v;
  ENTROPIC_INLINE Unfused() : v(Element(0)) {}
  ENTROPIC_INLINE Unfused(P pack) : v(pack) {}
  ENTROPIC_INLINE Unfused(Element value) : v(value) {}
};
template <class P>
ENTROPIC_INLINE Unfused<P> operator+(Unfused<P> a, Unfused<P> b) {
  return a.v + b.v;
}
template <class P>
ENTROPIC_INLINE Unfused<P> operator-(Unfused<P> a, Unfused<P> b) {
  return a.v - b.v;
}
template <class P>
ENTROPIC_INLINE Unfused<P> operator*(Unfused<P> a, Unfused<P> b) {
  return a.v * b.v;
}
template <class P>
ENTROPIC_INLINE Unfused<P> operator/(Unfused<P> a, Unfused<P> b) {
  return a.v / b.v;
}
template <class P>
ENTROPIC_INLINE Unfused<P> fma(Unfused<P> a, Unfused<P> b, Unfused<P> c) {
  return a.v * b.v + c.v;
}
template <class P>
ENTROPIC_INLINE Unfused<P> split_exponent(Unfused<P> x, Unfused<P>& k) {
  return split_exponent(x.v, k.v);
}
template <class P>
ENTROPIC_INLINE Unfused<P> add_exponent(Unfused<P> p, Unfused<P> t) {
  return add_exponent(p.v, t.v);
}

// log2 of positive normal numbers: exact at powers of two.
template <class P>
ENTROPIC_INLINE Unfused<P> log2_unfused(Unfused<P> x) {
  using U = Unfused<P>;
  U k;
  const U m = split_exponent(x, k);
  return k + log_normal(m, U(0), U(0)) * U(MathConstants<double>::log2e);
}

// out_i = -x_i log2 x_i for n positive numbers, in whole packs: both have room for 7 more.
template <class P>
ENTROPIC_INLINE void shannon_terms(const double* x, index_t n, double* out) {
  using U = Unfused<P>;
  for (index_t i = 0; i < n; i += P::width) {
    const U pack = P::load(x + i);
    const U term = U(0) - pack * log2_unfused(pack);
    term.v.store(out + i);
  }
}

// Problems side by side, one a lane: atoms are keys of mass and index, whose bits are positive normal doubles that
// compare as the integers do, in slots of kLanes.
constexpr index_t kLanes = 8;
constexpr std::uint64_t kKeyBias = std::uint64_t(1) << 62;

// Moves the keys of the first slot to their places among the others, which are in order, largest first. The place k
// takes the larger of what follows and min(what was there, the moved): no slot waits for the one before.
template <class P>
ENTROPIC_INLINE void insert_first(double* keys, index_t n) {
  for (index_t lane = 0; lane < kLanes; lane += P::width) {
    double* slot = keys + lane;
    const P moved = P::load(slot);
    P last = moved;
    for (index_t k = 1; k < n; ++k, slot += kLanes) {
      const P next = P::load(slot + kLanes);
      pick_max(next, pick_min(last, moved)).store(slot);
      last = next;
    }
    pick_min(last, moved).store(slot);
  }
}

template <class P>
ENTROPIC_INLINE void sort_lanes(double* keys, index_t n) {
  for (index_t first = n - 1; first-- > 0;) insert_first<P>(keys + first * kLanes, n - first);
}

// Whether no lane has mass in a slot.
ENTROPIC_INLINE bool is_empty(const double* slot, int shift) {
  std::uint64_t any_mass = 0;
  for (index_t lane = 0; lane < kLanes; ++lane) any_mass |= (bit_cast<std::uint64_t>(slot[lane]) ^ kKeyBias) >> shift;
  return any_mass == 0;
}

// The greedy couplings of sorted lanes of equal totals: at each step the keys of the largest atoms, and the smaller of
// their masses, 0 in a lane that has ended. At most n + m - 1 steps; how many there were.
template <class P>
ENTROPIC_INLINE index_t greedy_lanes(double* p, index_t n, double* q, index_t m, int shift, std::uint64_t* p_keys,
                                     std::uint64_t* q_keys, std::uint64_t* masses) {
  index_t steps = 0;
  for (; !is_empty(p, shift); ++steps) {
    for (index_t lane = 0; lane < kLanes; ++lane) {
      const std::uint64_t a = bit_cast<std::uint64_t>(p[lane]), b = bit_cast<std::uint64_t>(q[lane]);
      const std::uint64_t mass = ((p[lane] < q[lane] ? a : b) ^ kKeyBias) >> shift;
      p_keys[steps * kLanes + lane] = a;
      q_keys[steps * kLanes + lane] = b;
      masses[steps * kLanes + lane] = mass;
      p[lane] = bit_cast<double>(a - (mass << shift));
      q[lane] = bit_cast<double>(b - (mass << shift));
    }
    while (n > 1 && is_empty(p + (n - 1) * kLanes, shift)) --n;
    while (m > 1 && is_empty(q + (m - 1) * kLanes, shift)) --m;
    insert_first<P>(p, n);
    insert_first<P>(q, m);
  }
  return steps;
}

// larger_i = how many of n numbers are larger than x_i, in whole packs: both have room for 7 more.
template <class P>
ENTROPIC_INLINE void count_larger(const double* x, index_t n, double* larger) {
  for (index_t i = 0; i < n; i += P::width) {
    const P own = P::load(x + i);
    P count(0.0);
    for (index_t j = 0; j < n; ++j) count = count + zero_unless(greater(P(x[j]), own), P(1.0));
    count.store(larger + i);
  }
}

using UnfusedScalar = Unfused<Scalar<double>>;

ENTROPIC_INLINE double log2_of(double x) { return log2_unfused(UnfusedScalar(x)).v.v; }

// x^order for x in (0, 1] and order >= 0; 0 where that is beneath 1e-304.
ENTROPIC_INLINE double power_of(double x, double order) {
  using U = UnfusedScalar;
  const double y = order * log_normal(U(x), U(0), U(0)).v.v;
  return y < -700 ? 0.0 : exp_shifted<U, false>(U(y), U(0)).v.v;
}

// A sum of doubles of one sign or of any, within an ulp or so (Neumaier).
struct CompensatedSum {
  double high = 0, low = 0;
  ENTROPIC_INLINE void add(double x) {
    const double sum = high + x;
    const double part = sum - high;
    low += (high - (sum - part)) + (x - part);
    high = sum;
  }
  ENTROPIC_INLINE double value() const { return high + low; }
};

ENTROPIC_INLINE bool is_min_entropy(const Functional& f) { return f.order > 1e300; }

ENTROPIC_INLINE double concave_term(const Functional& f, double x) {
  if (f.measure == Measure::shannon) return 0 - x * log2_of(x);
  if (is_min_entropy(f)) return 0.0;
  return f.order > 1 ? -power_of(x, f.order) : power_of(x, f.order);
}

// The entropy from the sum of its terms and the largest mass.
ENTROPIC_INLINE double entropy_from(const Functional& f, double sum, double largest) {
  if (f.measure == Measure::shannon) return sum;
  if (is_min_entropy(f)) return 0.0 - log2_of(largest);
  const double powers = f.order > 1 ? -sum : sum;
  const double value = f.measure == Measure::renyi ? log2_of(powers) / (1 - f.order) : (powers - 1) / (1 - f.order);
  return value > 0 ? value : 0.0;
}

// How far rounding may have lifted an entropy: a few ulp a term, and what the division by 1 - order makes of them.
ENTROPIC_INLINE double rounding_of(const Functional& f, double entropy) {
  constexpr double ulp = 2.220446049250313e-16;
  if (f.measure == Measure::shannon || is_min_entropy(f)) return 8 * ulp * entropy;
  const double slope = 1 / (f.order > 1 ? f.order - 1 : 1 - f.order);
  return 64 * ulp * (entropy + slope * (1 + f.order) * (f.measure == Measure::renyi ? 1 : entropy + 1));
}

}  // namespace
}  // namespace entropic
