// The reductions of a row of scores, over packs: the log-sum state, its signed form, and what is written from them.
//
// A run of scores is folded in blocks of 64 packs. Each block is summed under the present maximum m while its own
// maximum is found (one read); only where that is larger than m is the block summed again, with its maximal elements
// kept out of the sum and counted, so that "all but one maximal element" holds exactly. Inside a block the sums are in
// the element type, at most 64 terms a lane by trees of four; between blocks they are float64.
#pragma once

#include <limits>

#include "config.hpp"
#include "math.hpp"

namespace entropic {
namespace {

constexpr int kPacksPerBlock = 64;

template <class T>
constexpr T infinity() {
  return std::numeric_limits<T>::infinity();
}

ENTROPIC_INLINE bool is_finite(double x) { return x - x == 0; }
ENTROPIC_INLINE bool is_nan(double x) { return x != x; }

ENTROPIC_INLINE double exp_of(double x) { return exp(Scalar<double>(x)).v; }
ENTROPIC_INLINE double log1p_of(double x) { return log1p(Scalar<double>(x)).v; }

// Mass and moment of a state as seen from a larger maximum, d = larger - m >= 0 and k = exp(-d): the element that was
// kept out of r joins it. Works on packs and on scalars.
template <class D>
ENTROPIC_INLINE void seen_from(D d, D k, D& r, D& t) {
  const D mass = r + D(1.0);
  // beyond 1000 k is 0; an infinite d, of maxima at either end of the range, would make 0 * inf of it
  t = fma(mass, pick_min(d, D(1000.0)), t) * k;
  r = mass * k;
}

// The state of the union. Any nan stays in r; +inf wins over everything else.
ENTROPIC_INLINE LogSum merge(LogSum a, LogSum b) {
  if (b.m > a.m) {
    const LogSum swap = a;
    a = b;
    b = swap;
  }
  if (b.m == -infinity<double>() || a.m == infinity<double>()) {
    a.r += b.r * 0;  // nan, and only nan, comes through
    return a;
  }
  const double d = a.m - b.m;
  Scalar<double> r(b.r), t(b.t);
  seen_from(Scalar<double>(d), Scalar<double>(exp_of(-d)), r, t);
  a.r += r.v;
  a.t += t.v;
  return a;
}

// hi + lo + x, exactly rounded into the pair (Knuth's two-sum, then the small parts).
template <class D>
ENTROPIC_INLINE void add_exact(D x, D& hi, D& lo) {
  const D s = hi + x;
  const D part = s - hi;
  lo = lo + ((hi - (s - part)) + (x - part));
  hi = s;
}

// Sums of blocks, in float64 and with a second float64 for what the first loses: a row has many blocks.
template <class P, bool with_t>
struct BlockSum {
  using D = typename P::Wide;
  D r[P::wide_parts], r_low[P::wide_parts], t[P::wide_parts];

  ENTROPIC_INLINE void clear() {
    for (int i = 0; i < P::wide_parts; ++i) r[i] = r_low[i] = t[i] = D(0.0);
  }
  ENTROPIC_INLINE void add(P block_r, P block_t) {
    D part[P::wide_parts];
    block_r.widen(part);
    for (int i = 0; i < P::wide_parts; ++i) add_exact(part[i], r[i], r_low[i]);
    if (!with_t) return;
    block_t.widen(part);
    for (int i = 0; i < P::wide_parts; ++i) t[i] = t[i] + part[i];
  }
  // Moves what was gathered into the state. The sums were of e (x - m) 2^scale, hence the sign and the scale.
  ENTROPIC_INLINE void flush(LogSum& s) {
    constexpr double unscale = MathConstants<typename P::Element>::unscale;
    D total_r = r[0] + r_low[0], total_t = t[0];
    for (int i = 1; i < P::wide_parts; ++i) {
      total_r = total_r + (r[i] + r_low[i]);
      total_t = total_t + t[i];
    }
    s.r += total_r.sum() * unscale;
    if (with_t) s.t -= total_t.sum() * unscale;
    clear();
  }
};

// One pack of a block: adds to the running maximum and returns exp(x - m), scaled; with `apart`, elements equal to m
// are left out and counted. `precise` is for sums that matter by themselves, as in an entropy, not beside the maximum.
template <bool apart, bool precise, class P>
ENTROPIC_INLINE P block_term(P x, P m, P& top, P& ties, P& d) {
  d = precise ? x : x - m;
  P e = precise ? exp_scaled_difference<false>(d, m) : exp_scaled(d);
  if (apart) {
    const auto rest = not_equal(x, m);
    e = zero_unless(rest, e);
    ties = ties + (P(typename P::Element(1)) - zero_unless(rest, P(typename P::Element(1))));
  } else {
    top = pick_max(x, top);
  }
  return e;
}

// Sums one block of at most kPacksPerBlock packs under m. Returns the block's maximum, or with `apart` the number of
// elements equal to m. What lies `ahead` elements further on is fetched meanwhile.
template <class P, bool with_t, bool apart, bool fetches = false>
ENTROPIC_INLINE double sum_block(const typename P::Element* x, index_t n, typename P::Element m,
                                 BlockSum<P, with_t>& sum, index_t ahead = 0) {
  using T = typename P::Element;
  constexpr index_t w = P::width;
  const P pm(m);
  P top0(-infinity<T>()), top1 = top0;
  P ties0(T(0)), ties1 = ties0;
  P r0(T(0)), r1 = r0, t0 = r0, t1 = r0;
  index_t j = 0;
  for (; j + 4 * w <= n; j += 4 * w) {
    if (fetches)
      for (index_t line = 0; line < 4 * w; line += 64 / sizeof(T)) ENTROPIC_PREFETCH(x + j + ahead + line);
    P d0, d1, d2, d3;
    const P e0 = block_term<apart, with_t>(P::load(x + j), pm, top0, ties0, d0);
    const P e1 = block_term<apart, with_t>(P::load(x + j + w), pm, top1, ties1, d1);
    const P e2 = block_term<apart, with_t>(P::load(x + j + 2 * w), pm, top0, ties0, d2);
    const P e3 = block_term<apart, with_t>(P::load(x + j + 3 * w), pm, top1, ties1, d3);
    r0 = r0 + (e0 + e1);
    r1 = r1 + (e2 + e3);
    if (with_t) {
      t0 = t0 + fma(e0, d0, e1 * d1);
      t1 = t1 + fma(e2, d2, e3 * d3);
    }
  }
  for (; j < n; j += w) {
    P d;
    const P v = j + w <= n ? P::load(x + j) : P::load_partial(x + j, n - j, -infinity<T>());
    const P e = block_term<apart, with_t>(v, pm, top0, ties0, d);
    r0 = r0 + e;
    if (with_t) t0 = fma(e, d, t0);
  }
  sum.add(r0 + r1, t0 + t1);
  return apart ? (ties0 + ties1).sum() : static_cast<double>(pick_max(top0, top1).largest());
}

template <class P>
ENTROPIC_INLINE typename P::Element block_max(const typename P::Element* x, index_t n) {
  using T = typename P::Element;
  constexpr index_t w = P::width;
  P top0(-infinity<T>()), top1 = top0, top2 = top0, top3 = top0;
  index_t j = 0;
  for (; j + 4 * w <= n; j += 4 * w) {
    top0 = pick_max(P::load(x + j), top0);
    top1 = pick_max(P::load(x + j + w), top1);
    top2 = pick_max(P::load(x + j + 2 * w), top2);
    top3 = pick_max(P::load(x + j + 3 * w), top3);
  }
  for (; j + w <= n; j += w) top0 = pick_max(P::load(x + j), top0);
  if (j < n) top1 = pick_max(P::load_partial(x + j, n - j, -infinity<T>()), top1);
  return pick_max(pick_max(top0, top1), pick_max(top2, top3)).largest();
}

template <class P>
ENTROPIC_INLINE bool block_has_nan(const typename P::Element* x, index_t n) {
  using T = typename P::Element;
  bool found = false;
  for (index_t j = 0; j < n; j += P::width) {
    const P v = j + P::width <= n ? P::load(x + j) : P::load_partial(x + j, n - j, T(0));
    found |= any(not_equal(v, v));
  }
  return found;
}

// nothing but -inf and nan so far, or an infinite maximum: only nan can still change the outcome.
template <class P>
ENTROPIC_INLINE void push_degenerate(const typename P::Element* x, index_t n, double top, LogSum& s) {
  if (top == infinity<double>()) s.m = top;
  if (block_has_nan<P>(x, n)) s.r = std::numeric_limits<double>::quiet_NaN();
  else s.r *= 0;
}

// Moves a state to a larger finite maximum, which is kept out of r.
ENTROPIC_INLINE void raise(LogSum& s, double top) {
  if (s.m != -infinity<double>()) {
    Scalar<double> r(s.r), t(s.t);
    const double d = top - s.m;
    seen_from(Scalar<double>(d), Scalar<double>(exp_of(-d)), r, t);
    s.r = r.v;
    s.t = t.v;
  }
  s.m = top;
}

// The first blocks of a row: here most maxima would be overtaken, so the maximum of all of them is found first. That
// pass waits for memory, unless the sums of the blocks before have fetched what it reads.
template <class P, bool with_t>
ENTROPIC_INLINE void push_head(const typename P::Element* x, index_t n, LogSum& s) {
  using T = typename P::Element;
  constexpr index_t block = kPacksPerBlock * P::width;
  T top = -infinity<T>();
  index_t top_at = 0;
  for (index_t j = 0; j < n; j += block) {
    const T here = block_max<P>(x + j, n - j < block ? n - j : block);
    if (here > top) {
      top = here;
      top_at = j;
    }
  }
  if (!is_finite(top)) return push_degenerate<P>(x, n, top, s);
  raise(s, top);
  BlockSum<P, with_t> sum;
  sum.clear();
  for (index_t j = 0; j < n; j += block) {
    const index_t count = n - j < block ? n - j : block;
    if (j == top_at) s.r += sum_block<P, with_t, true, true>(x + j, count, top, sum, n) - 1.0;
    else sum_block<P, with_t, false, true>(x + j, count, top, sum, n);
  }
  sum.flush(s);
}

// Folds n adjacent scores into a state.
template <class P, bool with_t>
ENTROPIC_INLINE void push_row(const typename P::Element* x, index_t n, LogSum& s) {
  using T = typename P::Element;
  constexpr index_t block = kPacksPerBlock * P::width, head = 4 * block;
  index_t j = 0;
  for (; j < n && !is_finite(s.m); j += head) {
    const index_t count = n - j < head ? n - j : head;
    if (s.m == infinity<double>()) push_degenerate<P>(x + j, count, s.m, s);
    else push_head<P, with_t>(x + j, count, s);
  }
  BlockSum<P, with_t> sum;
  sum.clear();
  for (; j < n; j += block) {
    const index_t count = n - j < block ? n - j : block;
    const BlockSum<P, with_t> before = sum;
    const T top = static_cast<T>(sum_block<P, with_t, false>(x + j, count, static_cast<T>(s.m), sum));
    if (!(top > static_cast<T>(s.m))) continue;
    sum = before;
    sum.flush(s);
    if (top == infinity<T>()) {
      push_degenerate<P>(x + j, n - j, top, s);
      return;
    }
    raise(s, top);
    s.r += sum_block<P, with_t, true>(x + j, count, top, sum) - 1.0;
    sum.flush(s);
  }
  sum.flush(s);
}

// Where the next tile lies in memory, and where it goes.
template <class T>
struct NextTile {
  const T* x;
  index_t ld, rows;
  T* copy;
  index_t copy_ld;
};

// Folds one pack of lanes of a tile, `rows` rows that are `ld` apart, into one state a lane. `tops` holds the larger of
// the lanes' old maxima m and the tile's. Between the sums the next tile's pack is read: into its copy, and its maxima
// into tops.
template <class P, bool with_t>
ENTROPIC_INLINE void push_lane_pack(const typename P::Element* x, index_t ld, index_t rows, index_t lanes,
                                    const NextTile<typename P::Element>& next, typename P::Element* tops,
                                    typename P::Element* m, double* r, double* r_low, double* t) {
  using T = typename P::Element;
  using D = typename P::Wide;
  constexpr double unscale = MathConstants<T>::unscale;
  const T ninf = -infinity<T>();
  const bool full = lanes >= P::width;
  auto load = [&](const T* p) { return full ? P::load(p) : P::load_partial(p, lanes, ninf); };
  P next_top = load(tops);
  auto row = [&](index_t i) {
    if (i < next.rows) {
      const P v = load(next.x + i * next.ld);
      next_top = pick_max(v, next_top);
      v.store(next.copy + i * next.copy_ld);
    }
    return load(x + i * ld);
  };
  const P m_old = load(m), top = load(tops);

  P sum_r(T(0)), sum_t(T(0)), ties(T(0)), ignored;
  const auto raised = greater(top, m_old);
  const P spread = top - top;  // nan where the maximum is infinite
  if (any(raised) || any(not_equal(spread, spread))) {
    // A lane that holds only -inf subtracts 0 in place of its maximum: exp(-inf) is 0 and nan stays nan.
    const P shift = select(equal(top, P(ninf)), P(T(0)), top);
    for (index_t i = 0; i < rows; ++i) {
      const P v = row(i);
      const auto rest = not_equal(v, top);
      P d = with_t ? v : v - shift;
      const P e = zero_unless(rest, with_t ? exp_scaled_difference<false>(d, shift) : exp_scaled(d));
      ties = ties + (P(T(1)) - zero_unless(rest, P(T(1))));
      sum_r = sum_r + e;
      if (with_t) sum_t = fma(e, zero_unless(rest, d), sum_t);
    }
    ties = zero_unless(not_equal(top, P(ninf)), ties - zero_unless(raised, P(T(1))));
  } else {
    // Trees of four keep float32 chains short.
    index_t i = 0;
    for (; i + 4 <= rows; i += 4) {
      P d0, d1, d2, d3;
      const P e0 = block_term<false, with_t>(row(i), top, ignored, ties, d0);
      const P e1 = block_term<false, with_t>(row(i + 1), top, ignored, ties, d1);
      const P e2 = block_term<false, with_t>(row(i + 2), top, ignored, ties, d2);
      const P e3 = block_term<false, with_t>(row(i + 3), top, ignored, ties, d3);
      sum_r = sum_r + ((e0 + e1) + (e2 + e3));
      if (with_t) sum_t = sum_t + (fma(e0, d0, e1 * d1) + fma(e2, d2, e3 * d3));
    }
    for (; i < rows; ++i) {
      P d;
      const P e = block_term<false, with_t>(row(i), top, ignored, ties, d);
      sum_r = sum_r + e;
      if (with_t) sum_t = fma(e, d, sum_t);
    }
  }

  // The states are float64 whatever the element type; they are padded to whole packs.
  D wide_old[P::wide_parts], wide_top[P::wide_parts], wide_r[P::wide_parts], wide_t[P::wide_parts],
      wide_ties[P::wide_parts];
  m_old.widen(wide_old);
  top.widen(wide_top);
  sum_r.widen(wide_r);
  sum_t.widen(wide_t);
  ties.widen(wide_ties);
  for (int part = 0; part < P::wide_parts; ++part) {
    double* to_r = r + part * D::width;
    double* to_low = r_low + part * D::width;
    double* to_t = t + part * D::width;
    D state_r = D::load(to_r), state_low = D::load(to_low), state_t = D::load(to_t);
    const auto moved = greater(wide_top[part], wide_old[part]);
    if (any(moved)) {
      const auto was_empty = equal(wide_old[part], D(-infinity<double>()));
      const D d = wide_top[part] - wide_old[part];
      const D k = exp(D(0.0) - d);
      D moved_r = state_r, moved_t = state_t;
      seen_from(d, k, moved_r, moved_t);
      moved_r = select(was_empty, state_r * D(0.0), moved_r);
      moved_t = select(was_empty, D(0.0), moved_t);
      state_r = select(moved, moved_r, state_r);
      state_low = select(moved, state_low * k, state_low);
      state_t = select(moved, moved_t, state_t);
    }
    add_exact(wide_ties[part], state_r, state_low);
    add_exact(wide_r[part] * D(unscale), state_r, state_low);
    state_r.store(to_r);
    state_low.store(to_low);
    if (with_t) fma(wide_t[part], D(-unscale), state_t).store(to_t);
  }
  top.store(m);
  next_top.store(tops);
}

// The largest of the lanes' maxima and a tile's rows, row by row, which is how memory likes to be read; with a copy of
// the tile if there is room for one.
template <class P>
ENTROPIC_INLINE void read_lane_tile(const typename P::Element* x, index_t ld, index_t rows, index_t lanes,
                                    typename P::Element* tops, typename P::Element* copy, index_t copy_ld) {
  using T = typename P::Element;
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < lanes; j += P::width) {
      const T* from = x + i * ld + j;
      const P v = j + P::width <= lanes ? P::load(from) : P::load_partial(from, lanes - j, -infinity<T>());
      pick_max(v, P::load(tops + j)).store(tops + j);
      if (copy) v.store(copy + i * copy_ld + j);
    }
  }
}

// Folds `rows` rows of `lanes` adjacent scores, `ld` apart, into one state a lane, in tiles of kLaneRows rows of at
// most kLaneBytes. m, r, r_low and t have room for whole packs.
//
// A tile is needed twice, for its maxima and for its sums. It is read from memory once, into a copy (rows far apart
// tend to fall into one set of the cache), and while a tile is summed the next one is read.
constexpr index_t kLaneRows = 16, kLaneBytes = 4096;

template <class P, bool with_t>
ENTROPIC_INLINE void push_lane_rows(const typename P::Element* x, index_t ld, index_t rows, index_t lanes,
                                    typename P::Element* m, double* r, double* r_low, double* t) {
  using T = typename P::Element;
  constexpr index_t most = kLaneBytes / sizeof(T), copy_ld = most + 16;
  alignas(64) T copy[2][kLaneRows * copy_ld];
  alignas(64) T tops[copy_ld];
  for (index_t j = 0; j < lanes; j += P::width)
    (j + P::width <= lanes ? P::load(m + j) : P::load_partial(m + j, lanes - j, -infinity<T>())).store(tops + j);
  const bool copies = rows > kLaneRows || ld > copy_ld;
  index_t count = rows < kLaneRows ? rows : kLaneRows;
  read_lane_tile<P>(x, ld, count, lanes, tops, copies ? copy[0] : nullptr, copy_ld);
  int now = 0;
  for (index_t done = 0; done < rows; now = 1 - now) {
    const T* tile = copies ? copy[now] : x;
    const index_t left = rows - done - count, following = left < kLaneRows ? left : kLaneRows;
    for (index_t j = 0; j < lanes; j += P::width) {
      const NextTile<T> next{x + (done + count) * ld + j, ld, following, copy[1 - now] + j, copy_ld};
      push_lane_pack<P, with_t>(tile + j, copies ? copy_ld : ld, count, lanes - j, next, tops + j, m + j, r + j,
                                r_low + j, t + j);
    }
    done += count;
    count = following;
  }
}

// What is written of a score x under its row's maximum m and coefficients a, b:
//   probability: exp(x - m) (a + b (m - x)) is softmax with a = 1/(1+r), and the gradients of logsumexp and entropy
//   log-probability: (x - m) - a with a = log1p(r).

template <class P, bool with_b>
ENTROPIC_INLINE P probability(P x, P m, P a, P b) {
  using C = MathConstants<typename P::Element>;
  P d = x;
  const P e = exp_scaled_difference<P::has_table>(d, m) * P(C::unscale);
  return with_b ? e * fma(P(typename P::Element(0)) - d, b, a) : e * a;
}

// exp(x - m) (a + b (m - x)) rounds differently from (x - m) - log1p(r), which keeps the relative accuracy of large
// negative values; hence two forms.
template <class P, int kind>
ENTROPIC_INLINE P written(P x, P m, P a, P b) {
  if (kind == 2) return (x - m) - a;
  return probability<P, kind == 1>(x, m, a, b);
}

template <class D>
ENTROPIC_INLINE D finished(Value value, D m, D r, D t, D n) {
  const D one(1.0), zero(0.0);
  if (value == Value::entropy) {
    const D h = log1p(r) + t / (r + one);
    return fma(m - m, zero, h);  // an infinite maximum leaves no distribution: nan
  }
  if (value == Value::logsumexp) return m + log1p(r);
  // log((1 + r) / n): near 1 through log1p of the excess, which cancels only what the inputs cancel.
  const D excess = (r - (n - one)) / n;
  const auto near = greater(excess, D(-0.5));
  const D mean = select(near, log1p(select(near, excess, zero)), log((r + one) / n));
  // All -inf: -inf or nan, as r has it; of no elements at all there is no mean, which 0 / 0 says.
  return m + select(equal(m, D(-infinity<double>())), r * n / n, mean);
}

// ---- signed sums -------------------------------------------------------------------------------------------------

ENTROPIC_INLINE void renormalise(SignedSum& s) {
  if (!is_finite(s.hi)) {
    s.lo = 0;
    return;
  }
  const double hi = s.hi + s.lo;
  s.lo = is_finite(hi) ? s.lo - (hi - s.hi) : 0;
  s.hi = hi;
}

ENTROPIC_INLINE void rescale(SignedSum& s, double larger) {
  const double k = s.m == -infinity<double>() ? 1.0 : exp_of(s.m - larger);
  // hi k as hi' + its rounding error, so that a sum that cancelled to its low part keeps it
  const double hi = s.hi * k;
  s.lo = fma(Scalar<double>(s.hi), Scalar<double>(k), Scalar<double>(-hi)).v + s.lo * k;
  s.hi = hi;
  s.m = larger;
  renormalise(s);
}

ENTROPIC_INLINE SignedSum merge(SignedSum a, SignedSum b) {
  const double top = b.m > a.m ? b.m : a.m;
  if (top == infinity<double>()) {
    // Sums at +inf hold only what is infinite or nan; finite terms beside them are nothing.
    double total = 0;
    total += a.m == top || !is_finite(a.hi) ? a.hi : 0;
    total += b.m == top || !is_finite(b.hi) ? b.hi : 0;
    return SignedSum{top, total, 0};
  }
  if (top != -infinity<double>()) {
    rescale(a, top);
    rescale(b, top);
  }
  const Scalar<double> x(b.hi);
  Scalar<double> hi(a.hi), lo(a.lo);
  add_exact(x, hi, lo);
  SignedSum out{top, hi.v, lo.v + b.lo};
  renormalise(out);
  return out;
}

// The largest a whose term counts: one with b = 0 is nothing, whatever its a, which becomes -inf.
template <class D>
ENTROPIC_INLINE double prepare_signed(double* a, const double* b, index_t n) {
  for (index_t j = 0; j < n; ++j) a[j] = b[j] == 0 ? -infinity<double>() : a[j];
  return block_max<D>(a, n);
}

// Folds n pairs (a, b) into the state.
template <class D>
ENTROPIC_INLINE void push_signed(double* a, const double* b, index_t n, SignedSum& s) {
  const double ninf = -infinity<double>();
  const double top = prepare_signed<D>(a, b, n);
  if (top == infinity<double>() || s.m == infinity<double>()) {
    SignedSum infinite{infinity<double>(), 0, 0};
    for (index_t j = 0; j < n; ++j) {
      if (b[j] == 0) continue;
      const bool counts = a[j] == infinity<double>() || is_nan(a[j]) || !is_finite(b[j]);
      if (counts) infinite.hi += b[j] * (a[j] == ninf ? 0.0 : infinity<double>()) + (is_nan(a[j]) ? a[j] : 0.0);
    }
    s = merge(s, infinite);
    return;
  }
  if (top > s.m) rescale(s, top);
  const D m(s.m == ninf ? 0.0 : s.m);
  constexpr double unscale = MathConstants<double>::unscale;
  D hi(0.0), lo(0.0);
  for (index_t j = 0; j < n; j += D::width) {
    const bool whole = j + D::width <= n;
    const D va = whole ? D::load(a + j) : D::load_partial(a + j, n - j, ninf);
    const D vb = whole ? D::load(b + j) : D::load_partial(b + j, n - j, 0.0);
    D d = va - m;
    add_exact(vb * (exp_scaled(d) * D(unscale)), hi, lo);
  }
  double lane_hi[D::width], lane_lo[D::width];
  hi.store(lane_hi);
  lo.store(lane_lo);
  for (int i = 0; i < D::width; ++i) s = merge(s, SignedSum{s.m, lane_hi[i], is_finite(lane_hi[i]) ? lane_lo[i] : 0});
}

// 1 + r of a log-sum state as a signed sum, and back: where many states are folded in a chain.
ENTROPIC_INLINE SignedSum to_signed(LogSum s) {
  if (s.m == -infinity<double>()) return {s.m, s.r, 0};
  if (s.m == infinity<double>()) return {s.m, is_nan(s.r) ? s.r : s.m, 0};
  Scalar<double> hi(1.0), lo(0.0);
  add_exact(Scalar<double>(s.r), hi, lo);
  return {s.m, hi.v, is_nan(s.r) ? 0 : lo.v};
}

ENTROPIC_INLINE LogSum to_log_sum(SignedSum s) {
  if (!is_finite(s.m)) return {s.m, is_nan(s.hi) ? s.hi : 0, 0};
  return {s.m, (s.hi - 1.0) + s.lo, 0};
}

// log|hi + lo|, by log1p where the sum is near 1 so that its low part counts.
ENTROPIC_INLINE double log_abs(double hi, double lo) {
  if (hi < 0) {
    hi = -hi;
    lo = -lo;
  }
  if (hi > 0.5 && hi < 2) return log1p_of((hi - 1) + lo);
  return log(Scalar<double>(hi)).v + (is_finite(hi) && hi > 0 ? lo / hi : 0.0);
}

// ---- running sums ------------------------------------------------------------------------------------------------

// One step of a running log-sum in every lane: (m, r + low) takes x and the log-sum so far is returned. +inf stays, and
// nan.
template <class D>
ENTROPIC_INLINE D scan_step(D x, D& m, D& r, D& low) {
  const auto above = greater(x, m);
  const D top = select(above, x, m);
  const D below = select(above, m, x);
  const auto level = equal(below, top);  // also inf beside inf, whose difference is nan
  const D k = select(level, D(1.0), exp(below - top));
  // x = -inf adds nothing, and so does an empty state; what remains of r is 0 or nan.
  const auto nothing = equal(below, D(-infinity<double>()));
  D grown = r, grown_low = low;
  add_exact(k, grown, grown_low);
  r = select(nothing, select(above, r * D(0.0), r), select(above, (r + D(1.0)) * k, grown));
  low = select(nothing, select(above, D(0.0), low), select(above, low * k, grown_low));
  m = top;
  return m + log1p(r + low);
}

}  // namespace
}  // namespace entropic
