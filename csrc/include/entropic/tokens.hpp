// Statistics of softmax(x / T) for a row of scores x, from one read of it: see TokenSum in config.hpp.
//
// Rows are folded in blocks of 64 packs, as in reducers.hpp: each under the present maximum, and again with its maximal
// elements apart where its own is larger. Inside a block the moments are taken about a centre near their mean, so that
// the variance, which is all that is left of a second moment beside a large mean, keeps its digits in float32.
#pragma once

#include <type_traits>

#include "config.hpp"
#include "math.hpp"
#include "reducers.hpp"

namespace entropic {
namespace {

// What a block is folded under: the maximum m of the row so far, 1 / T in two parts, and the centre of its moments,
// which are of z - centre with z = (x - m) / T, or with z = x / T where scores are `near`.
template <class P>
struct TokenShift {
  P m, centre, inverse, inverse_low;
};

// How a block is summed: `apart` from its maximal elements, which are m; under m, `below` it; or `near` 0, whatever m
// is: where all |x / T| are below a bound, exp(x / T) needs no shift, and so loses nothing to the rounding of x - m.
enum class Fold { apart, below, near };

// One block's sums, of e, e z, e z^2, e^2 and e value, and its extremes, or if it was summed apart the number of
// elements that are m; a number in each lane.
template <class P>
struct TokenBlock {
  P r, t, q, s2, w, least, top, ties;
};

// Those sums over blocks, in float64, that of e with what it lost.
template <class P>
struct TokenBlocks {
  using D = typename P::Wide;
  static constexpr int kParts = P::wide_parts;
  D r[kParts], r_low[kParts], t[kParts], q[kParts], s2[kParts], w[kParts];

  ENTROPIC_INLINE void clear() {
    for (int i = 0; i < kParts; ++i) r[i] = r_low[i] = t[i] = q[i] = s2[i] = w[i] = D(0.0);
  }
  static ENTROPIC_INLINE void add_to(D* sum, P block) {
    D part[kParts];
    block.widen(part);
    for (int i = 0; i < kParts; ++i) sum[i] = sum[i] + part[i];
  }
  static ENTROPIC_INLINE double total(const D* sum) {
    D all = sum[0];
    for (int i = 1; i < kParts; ++i) all = all + sum[i];
    return all.sum();
  }
  ENTROPIC_INLINE void add(const TokenBlock<P>& block) {
    D part[kParts];
    block.r.widen(part);
    for (int i = 0; i < kParts; ++i) add_exact(part[i], r[i], r_low[i]);
    add_to(t, block.t);
    add_to(q, block.q);
    add_to(s2, block.s2);
    add_to(w, block.w);
  }
  // Moves what was gathered, times a unit (of e^2: another), into the state, whose moments are about 0 of d = -z.
  ENTROPIC_INLINE void flush(double unit, double unit_of_squares, double centre, TokenSum& s) {
    const double mass = (total(r) + total(r_low)) * unit, first = total(t) * unit, second = total(q) * unit;
    s.r += mass;
    s.t -= first + centre * mass;
    s.q += second + centre * (2 * first + centre * mass);
    s.s2 += total(s2) * unit_of_squares;
    s.w += total(w) * unit;
    clear();
  }
};

// One pack: exp of its z, scaled unless it is near, with z - centre left in x.
template <Fold how, bool multiplies, class P>
ENTROPIC_INLINE P token_term(P& x, const TokenShift<P>& shift) {
  if (how == Fold::near) {
    const P e = exp_of_product<multiplies>(x, shift.inverse, shift.inverse_low);
    x = multiplies ? fma(x, shift.inverse, P(typename P::Element(0)) - shift.centre) : x - shift.centre;
    return e;
  }
  const P e = multiplies ? exp_scaled_multiple(x, shift.m, shift.inverse, shift.inverse_low)
                         : exp_scaled_difference<false>(x, shift.m);
  x = x - shift.centre;
  return e;
}

template <class P>
ENTROPIC_INLINE void load_two(const typename P::Element* x, P& a, P& b) {
  a = P::load(x);
  b = P::load(x + P::width);
}
template <class P>
ENTROPIC_INLINE void load_two(const BFloat* x, P& a, P& b) {
  P::load_two(x, a, b);
}

// Scores are fetched this far ahead: the processor's own prefetching stops where a page ends.
constexpr index_t kAhead = 1024;

// Of bfloat16 scores there must be whole pairs of packs, and no values.
template <class P, bool multiplies, bool expects, Fold how, class Stored>
ENTROPIC_INLINE TokenBlock<P> token_block(const Stored* x, const typename P::Element* values, index_t n,
                                          const TokenShift<P>& shift) {
  using T = typename P::Element;
  const T inf = infinity<T>();
  // Scaled terms are squared times the root of the scale, so that the sum of squares has the scale as well.
  const P root(MathConstants<T>::unscale_root);
  P least(inf), top(-inf), ties(T(0)), r(T(0)), t = r, q = r, s2 = r, w = r;
  const auto step = [&](P v, P value, P& e, P& z) {
    const P raw = v;
    e = token_term<how, multiplies>(v, shift);
    z = v;
    if (how == Fold::apart) {
      const auto rest = not_equal(raw, shift.m);
      e = zero_unless(rest, e);
      ties = ties + (P(T(1)) - zero_unless(rest, P(T(1))));
    } else {
      top = pick_max(raw, top);
    }
    if (how == Fold::near) least = pick_min(raw, least);
    if (expects) w = fma(e, value, w);
  };
  const auto squarable = [&](P e) { return how == Fold::near ? e : e * root; };
  const auto load_value = [&](index_t j) { return expects ? P::load(values + j) : P(T(0)); };
  struct Pair {
    P r, t, q, s2;
  };
  const auto pair = [&](index_t j) {
    P v0, v1, e0, e1, z0, z1;
    for (index_t line = 0; line < 2 * P::width; line += 64 / index_t(sizeof(Stored)))
      ENTROPIC_PREFETCH(x + j + kAhead + line);
    load_two(x + j, v0, v1);
    step(v0, load_value(j), e0, z0);
    step(v1, load_value(j + P::width), e1, z1);
    const P u0 = e0 * z0, u1 = e1 * z1, h0 = squarable(e0), h1 = squarable(e1);
    return Pair{e0 + e1, u0 + u1, fma(u0, z0, u1 * z1), fma(h0, h0, h1 * h1)};
  };
  index_t j = 0;
  // Trees of four keep float32 chains short: equal terms are rounded alike, and their errors add up.
  for (; j + 4 * P::width <= n; j += 4 * P::width) {
    const Pair a = pair(j), b = pair(j + 2 * P::width);
    r = r + (a.r + b.r);
    t = t + (a.t + b.t);
    q = q + (a.q + b.q);
    s2 = s2 + (a.s2 + b.s2);
  }
  for (; j + 2 * P::width <= n; j += 2 * P::width) {
    const Pair a = pair(j);
    r = r + a.r;
    t = t + a.t;
    q = q + a.q;
    s2 = s2 + a.s2;
  }
  if constexpr (std::is_same_v<Stored, T>) {
    for (; j < n; j += P::width) {
      const index_t left = n - j;
      const bool whole = left >= P::width;
      P e, z;
      step(whole ? P::load(x + j) : P::load_partial(x + j, left, -inf),
           expects ? (whole ? P::load(values + j) : P::load_partial(values + j, left, T(0))) : P(T(0)), e, z);
      r = r + e;
      const P u = e * z, h = squarable(e);
      t = t + u;
      q = fma(u, z, q);
      s2 = fma(h, h, s2);
    }
  }
  return {r, t, q, s2, w, least, top, ties};
}

// What a state becomes as seen from a maximum that is d = (larger - m) / T above its own, which joins the sums.
ENTROPIC_INLINE void seen_from(double d, TokenSum& s) {
  d = d < 1000 ? d : 1000;  // an infinite d would make 0 * inf of what exp(-d) = 0 takes away
  const double k = exp_of(-d), mass = 1 + s.r;
  s.q = (s.q + d * (2 * s.t + d * mass)) * k;
  s.t = (s.t + d * mass) * k;
  s.r = mass * k;
  s.s2 = (1 + s.s2) * k * k;
  s.w = (s.w + s.v) * k;
}

template <class T>
ENTROPIC_INLINE index_t find_equal(const T* x, index_t n, T wanted) {
  for (index_t j = 0; j < n; ++j)
    if (x[j] == wanted) return j;
  return n;
}

// Folds the scores of one row one after another.
template <class P, bool multiplies, bool expects>
class TokenFold {
 public:
  using T = typename P::Element;
  static constexpr index_t kBlock = kPacksPerBlock * P::width, kHead = 8 * kBlock;

  ENTROPIC_INLINE explicit TokenFold(TokenSum& s) : s_(s), bound_(MathConstants<T>::squarable / s.inverse) {
    const T inverse = static_cast<T>(s.inverse);
    shift_.inverse = P(inverse);
    shift_.inverse_low = P(static_cast<T>(s.inverse - static_cast<double>(inverse)));
    sum_.clear();
  }

  // `first` numbers x[0] in the row. `buffer` has room for kHead scores where they are not stored as T.
  template <class Stored>
  ENTROPIC_INLINE void push(const Stored* x, const T* values, index_t n, index_t first, T* buffer = nullptr) {
    constexpr index_t step = std::is_same_v<Stored, T> ? P::width : 2 * P::width;
    index_t j = 0;
    for (; j < n && !is_finite(s_.m); j += kHead) {
      const index_t count = n - j < kHead ? n - j : kHead;
      push_head(scores(x + j, count, buffer), expects ? values + j : nullptr, count, first + j);
    }
    if (!is_finite(s_.m)) return;
    bool near = s_.m < bound_ && s_.m > -bound_;
    look(near ? Fold::near : Fold::below);
    for (; j < n; j += kBlock) {
      const index_t count = n - j < kBlock ? n - j : kBlock;
      const T* block_values = expects ? values + j : nullptr;
      // a part of a pack is filled with -inf, which is not near
      const bool whole = count % step == 0;
      const TokenBlock<P> found = near && whole ? block<Fold::near>(x + j, block_values, count)
                                                : block<Fold::below>(scores(x + j, count, buffer), block_values, count);
      const bool raised = any(greater(found.top, P(static_cast<T>(s_.m))));
      const bool escaped = near && (!whole || any(greater(P(static_cast<T>(-bound_)), found.least)));
      if (!raised && !escaped) {
        sum_.add(found);
        continue;
      }
      flush();
      const T largest = found.top.largest();
      const T* again = scores(x + j, count, buffer);
      if (largest == infinity<T>()) {
        for (; j < n; j += kBlock) {
          const index_t left = n - j < kBlock ? n - j : kBlock;
          look_past_infinity(scores(x + j, left, buffer), left, first + j);
        }
        return;
      }
      near = near && !escaped && largest < bound_;
      if (raised) {
        raise(again, block_values, count, first + j, largest);
      } else {
        look(Fold::below);
        sum_.add(block<Fold::below>(again, block_values, count));
        flush();
      }
      look(near ? Fold::near : Fold::below);
    }
    flush();
  }

 private:
  static ENTROPIC_INLINE const T* scores(const T* x, index_t, T*) { return x; }
  static ENTROPIC_INLINE const T* scores(const BFloat* x, index_t n, T* buffer) {
    for (index_t j = 0; j < n; ++j) buffer[j] = bfloat_to_float(x[j].bits);
    return buffer;
  }

  template <Fold how, class Stored>
  ENTROPIC_INLINE TokenBlock<P> block(const Stored* x, const T* values, index_t n) {
    return token_block<P, multiplies, expects, how>(x, values, n, shift_);
  }

  // Before there is a finite maximum: the largest of some blocks first, most of which would be overtaken.
  ENTROPIC_NOINLINE void push_head(const T* x, const T* values, index_t n, index_t first) {
    T top = -infinity<T>();
    index_t at = 0;
    for (index_t j = 0; j < n; j += kBlock) {
      const T here = block_max<P>(x + j, n - j < kBlock ? n - j : kBlock);
      if (here > top) {
        top = here;
        at = j;
      }
    }
    if (!is_finite(top) || s_.m == infinity<double>()) {
      if (top == infinity<T>() || s_.m == infinity<double>()) return look_past_infinity(x, n, first);
      if (block_has_nan<P>(x, n)) s_.r = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    const index_t at_count = n - at < kBlock ? n - at : kBlock;
    const T* at_values = expects ? values + at : nullptr;
    // Twice: where the centre lies is known after the first.
    const TokenSum empty = s_;
    raise(x + at, at_values, at_count, first + at, top);
    const double mean = mean_of_z();
    s_ = empty;
    raise(x + at, at_values, at_count, first + at, top, mean);
    look(Fold::below);
    for (index_t j = 0; j < n; j += kBlock)
      if (j != at) sum_.add(block<Fold::below>(x + j, expects ? values + j : nullptr, n - j < kBlock ? n - j : kBlock));
    flush();
  }

  // A block whose maximum is larger than all before it; `mean` is where z is expected if nothing came before.
  ENTROPIC_NOINLINE void raise(const T* x, const T* values, index_t n, index_t first, T top, double mean = 0) {
    if (s_.m != -infinity<double>()) {
      seen_from((static_cast<double>(top) - s_.m) * s_.inverse, s_);
      mean = mean_of_z();
    }
    const index_t at = find_equal(x, n, top);
    s_.m = static_cast<double>(top);
    s_.argmax = static_cast<double>(first + at);
    s_.v = expects ? static_cast<double>(values[at]) : 0;
    look(Fold::below, mean);
    const TokenBlock<P> found = block<Fold::apart>(x, values, n);
    sum_.add(found);
    const double ties = found.ties.sum() - 1;
    s_.r += ties;
    s_.s2 += ties;
    if (expects && ties > 0)
      for (index_t j = at + 1; j < n; ++j) s_.w += x[j] == top ? static_cast<double>(values[j]) : 0;
    flush();
  }

  // The first +inf is the maximum; of the others only nan can change what follows.
  ENTROPIC_INLINE void look_past_infinity(const T* x, index_t n, index_t first) {
    if (s_.m < infinity<double>()) s_.argmax = static_cast<double>(first + find_equal(x, n, infinity<T>()));
    s_.m = infinity<double>();
    s_.r = block_has_nan<P>(x, n) ? std::numeric_limits<double>::quiet_NaN() : s_.r * 0;
  }

  ENTROPIC_INLINE double mean_of_z() const {
    const double mean = -s_.t / (1 + s_.r);
    return is_finite(mean) ? mean : 0;
  }
  ENTROPIC_INLINE void look(Fold how) { look(how, mean_of_z()); }
  ENTROPIC_INLINE void look(Fold how, double mean) {
    const double top = s_.m * s_.inverse;
    const T centre = static_cast<T>(how == Fold::near ? top + mean : mean);
    shift_.m = P(static_cast<T>(s_.m));
    shift_.centre = P(centre);
    centre_ = how == Fold::near ? static_cast<double>(centre) - top : static_cast<double>(centre);
    unit_ = how == Fold::near ? exp_of(-top) : MathConstants<T>::unscale;
    unit_of_squares_ = how == Fold::near ? unit_ * unit_ : MathConstants<T>::unscale;
  }
  ENTROPIC_INLINE void flush() { sum_.flush(unit_, unit_of_squares_, centre_, s_); }

  TokenSum& s_;
  double bound_;  // scores of less are near
  TokenShift<P> shift_;
  TokenBlocks<P> sum_;
  double centre_ = 0, unit_ = 0, unit_of_squares_ = 0;
};

// The state of the union of two parts of a row, at one temperature. nan stays in r, with the place of the first.
ENTROPIC_INLINE TokenSum merge(TokenSum a, TokenSum b) {
  const bool a_first = a.argmax < b.argmax || b.argmax < 0;
  if (b.m > a.m || (b.m == a.m && !a_first)) {
    const TokenSum swap = a;
    a = b;
    b = swap;
  }
  if (is_nan(b.r) && (!is_nan(a.r) || b.argmax < a.argmax)) a.argmax = b.argmax;
  if (is_nan(a.target)) a.target = b.target;
  if (b.m == -infinity<double>() || a.m == infinity<double>()) {
    a.r += b.r * 0;  // nan, and only nan, comes through
    return a;
  }
  seen_from((a.m - b.m) * a.inverse, b);
  a.r += b.r;
  a.t += b.t;
  a.q += b.q;
  a.s2 += b.s2;
  a.w += b.w;
  return a;
}

// The values of a state, in the order of kTokenValues. A row without mass has probabilities of 0.
ENTROPIC_INLINE void finish(const TokenSum& s, double* value) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double log_mass = log1p_of(s.r), share = 1 / (1 + s.r);
  const bool nothing = s.m == -infinity<double>(), undefined = !is_finite(s.m) || is_nan(s.r);
  value[0] = s.m * s.inverse + log_mass;
  value[7] = is_nan(s.r) ? nan : s.m;
  if (nothing && !is_nan(s.r)) {
    value[1] = value[3] = value[4] = value[5] = value[6] = 0;
    value[2] = is_nan(s.target) ? nan : s.m;
    return;
  }
  const double mean = s.t * share, variance = s.q * share - mean * mean;
  value[1] = undefined ? nan : log_mass + mean;
  value[2] = (s.target - s.m) * s.inverse - log_mass;
  value[3] = undefined ? nan : share;
  value[4] = undefined ? nan : (1 + s.s2) * share * share;
  value[5] = undefined ? nan : variance > 0 ? variance : 0;
  value[6] = undefined ? nan : (s.w + s.v) * share;
}

}  // namespace
}  // namespace entropic
