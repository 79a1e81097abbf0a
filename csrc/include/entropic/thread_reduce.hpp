// The log-sum state of a row that many threads read together: the part of one thread, and the order of the merges.
//
// A group is a warp, or a thread on its own. Each of its threads takes a batch of scores, and all look at theirs from
// one maximum m, so that the group's r and t are plain sums over its threads and a larger maximum moves all of them at
// once. That is rare: a warp sees hundreds of scores in one batch. Exactly one maximal element of the group is taken
// out of its batch before that is summed; nothing is subtracted afterwards. Sums of up to 64 terms are in the element
// type, by trees of four; what follows is float64.
#pragma once

#include <limits>

#include "config.hpp"
#include "math.hpp"
#include "reducers.hpp"

namespace entropic {
namespace {

constexpr int kTermsPerCarry = 64;

template <class T>
struct Share {
  T m;             // the largest score that the group has seen: the same in all its threads
  double r, t;     // this thread's terms of the group's r and t; t is nan where a score was
  T sum_r, sum_t;  // terms not yet carried into r and t: times 2^scale_log2, and of (x - m) instead of (m - x)
  int terms;
  bool left_out;  // the element that the group keeps out of r came from this thread

  ENTROPIC_INLINE void clear() {
    m = -infinity<T>();
    r = t = 0;
    sum_r = sum_t = 0;
    terms = 0;
    left_out = false;
  }

  ENTROPIC_INLINE void carry() {
    constexpr double unscale = MathConstants<T>::unscale;
    r += static_cast<double>(sum_r) * unscale;
    t -= static_cast<double>(sum_t) * unscale;
    sum_r = sum_t = 0;
    terms = 0;
  }
};

// Largest score of a batch, -inf where all are nan.
template <class T, int n>
ENTROPIC_INLINE T batch_max(const T (&x)[n]) {
  Scalar<T> top(-infinity<T>());
  for (int i = 0; i < n; ++i) top = pick_max(Scalar<T>(x[i]), top);
  return top.v;
}

template <class T, int n>
ENTROPIC_INLINE void take_out_first(T (&x)[n], T value) {
  bool found = false;
  for (int i = 0; i < n; ++i) {
    const bool here = !found && x[i] == value;
    if (here) x[i] = -infinity<T>();
    found |= here;
  }
}

// Moves a share to the larger maximum `top` of the group's next batches. `leaves_out` in just one thread of the group,
// one whose batch x holds that maximum.
template <class T, int n>
ENTROPIC_INLINE void raise(Share<T>& s, T top, bool leaves_out, T (&x)[n]) {
  s.carry();
  if (s.m != -infinity<T>()) {
    if (s.left_out) s.r += 1.0;
    // From 1000 above nothing but nan is seen of it; the difference of two finite numbers may be infinite.
    const Scalar<double> d = pick_min(Scalar<double>(static_cast<double>(top) - s.m), Scalar<double>(1000.0));
    const double k = exp_of(-d.v);
    s.t = fma(Scalar<double>(s.r), d, Scalar<double>(s.t)).v * k;
    s.r *= k;
  }
  s.m = top;
  s.left_out = leaves_out;
  if (leaves_out) take_out_first(x, top);
}

// Adds a batch none of whose scores is larger than s.m.
template <class T, int n>
ENTROPIC_INLINE void add(Share<T>& s, const T (&x)[n]) {
  static_assert(n % 4 == 0 && n <= kTermsPerCarry, "batches are whole trees of four");
  using P = Scalar<T>;
  if (!(s.m - s.m == 0)) {
    // Nothing but -inf so far, or +inf: of these, only nan changes anything.
    for (int i = 0; i < n; ++i)
      if (x[i] != x[i]) s.r = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  if (s.terms + n > kTermsPerCarry) s.carry();
  const P m(s.m);
  P sum_r(s.sum_r), sum_t(s.sum_t);
  for (int i = 0; i < n; i += 4) {
    P d0 = P(x[i]) - m, d1 = P(x[i + 1]) - m, d2 = P(x[i + 2]) - m, d3 = P(x[i + 3]) - m;
    const P e0 = exp_scaled(d0), e1 = exp_scaled(d1), e2 = exp_scaled(d2), e3 = exp_scaled(d3);
    sum_r = sum_r + ((e0 + e1) + (e2 + e3));
    sum_t = sum_t + (fma(e0, d0, e1 * d1) + fma(e2, d2, e3 * d3));
  }
  s.sum_r = sum_r.v;
  s.sum_t = sum_t.v;
  s.terms += n;
}

// The next batch of a thread on its own.
template <class T, int n>
ENTROPIC_INLINE void push(Share<T>& s, T (&x)[n]) {
  const T top = batch_max(x);
  if (top > s.m) raise(s, top, true, x);
  add(s, x);
}

// The group's state from its maximum and the sums of r and t over its threads, which have carried. exp_scaled makes
// anything of nan (its integer arithmetic may turn one into a number), but x - m stays nan, and with it t.
template <class T>
ENTROPIC_INLINE LogSum state_of(T m, double r, double t) {
  return LogSum{static_cast<double>(m), r + t * 0, t};
}

ENTROPIC_INLINE LogSum empty_state() { return LogSum{-infinity<double>(), 0, 0}; }

// The state of `count` states, in their order.
ENTROPIC_INLINE LogSum merge_run(const LogSum* states, index_t count) {
  LogSum s = empty_state();
  for (index_t i = 0; i < count; ++i) s = merge(s, states[i]);
  return s;
}

// A row of n elements in `count` segments of `length`, the last one shorter.
struct Cut {
  index_t length, count;
};

// At most `most` segments, of at least `least` elements and whole multiples of `unit`.
ENTROPIC_INLINE Cut cut_row(index_t n, index_t most, index_t least, index_t unit) {
  const auto ceil_div = [](index_t a, index_t b) { return (a + b - 1) / b; };
  if (n <= least || most <= 1) return Cut{n, 1};
  const index_t wanted = ceil_div(n, most);
  const index_t length = ceil_div(wanted < least ? least : wanted, unit) * unit;
  return Cut{length, ceil_div(n, length)};
}

}  // namespace
}  // namespace entropic
