// Sums over two rows of logits x and y of one set of categories, whose softmax are p and q: see PairSums in config.hpp.
//
// With l = log q - log p and h(l) = exp(l) - 1 - l, KL(p || q) = sum p h(l), whose terms are not negative: nothing
// cancels where p and q are nearly equal. Categories that only one of the two has (-inf in the other) are kept apart.
#pragma once

#include "config.hpp"
#include "math.hpp"
#include "reducers.hpp"

namespace entropic {
namespace {

// h(x) / x^2 for |x| <= 1, to 3.2e-17 (an interpolation in 60 digits, relative to the function).
template <class D>
ENTROPIC_INLINE D excess_over_square(D x) {
  D q(7.746178593018827e-13);
  q = fma(q, x, D(1.1639194124150522e-11));
  q = fma(q, x, D(1.6057679623801638e-10));
  q = fma(q, x, D(2.0874435575864273e-09));
  q = fma(q, x, D(2.5052117695907823e-08));
  q = fma(q, x, D(2.755733506893373e-07));
  q = fma(q, x, D(2.7557319191381816e-06));
  q = fma(q, x, D(2.4801587246096818e-05));
  q = fma(q, x, D(0.00019841269841324198));
  q = fma(q, x, D(0.0013888888888981404));
  q = fma(q, x, D(0.008333333333333299));
  q = fma(q, x, D(0.04166666666666609));
  q = fma(q, x, D(0.16666666666666666));
  return fma(q, x, D(0.5));
}

// What a category with ratio exp(z), z <= 0, of its smaller to its larger probability P adds to the Jensen-Shannon
// divergence is P j(z), j(z) = (z exp(z) - (1 + exp(z)) log((1 + exp(z)) / 2)) / 2. Here j(z) / z^2 for z >= -1, to
// 1.8e-17.
template <class D>
ENTROPIC_INLINE D middle_over_square(D z) {
  D q(-2.3347380822288293e-10);
  q = fma(q, z, D(-2.8984354879954772e-09));
  q = fma(q, z, D(-1.0794592440217474e-08));
  q = fma(q, z, D(2.6383683241730615e-09));
  q = fma(q, z, D(9.048468062575713e-08));
  q = fma(q, z, D(-2.824506567815206e-08));
  q = fma(q, z, D(-2.593169509713442e-07));
  q = fma(q, z, D(1.0850423243451357e-05));
  q = fma(q, z, D(8.680550380019875e-05));
  q = fma(q, z, D(0.0004340277713642839));
  q = fma(q, z, D(0.002604166666189589));
  q = fma(q, z, D(0.015624999999981445));
  q = fma(q, z, D(0.062499999999999716));
  return fma(q, z, D(0.125));
}

// f(x, y, mask) for the packs of two rows; what the last one lacks is -inf in both. `mask(v)` is v where both have a
// category, and 0 elsewhere, whatever v is.
template <class D, class F>
ENTROPIC_INLINE void each_pair(const double* x, const double* y, index_t n, F f) {
  const D none(-infinity<double>());
  for (index_t j = 0; j < n; j += D::width) {
    const bool whole = n - j >= D::width;
    const D a = whole ? D::load(x + j) : D::load_partial(x + j, n - j, -infinity<double>());
    const D b = whole ? D::load(y + j) : D::load_partial(y + j, n - j, -infinity<double>());
    const auto in_x = greater(a, none), in_y = greater(b, none);
    f(a, b, [&](D v) { return zero_unless(in_x, zero_unless(in_y, v)); });
  }
}

// The largest scores: of the categories that both have, and of the others. nan in either row is the largest of all.
template <class D>
ENTROPIC_INLINE void pair_tops(const double* x, const double* y, index_t n, PairSums& s) {
  if (block_has_nan<D>(x, n) || block_has_nan<D>(y, n)) s.top_x = s.top_y = std::numeric_limits<double>::quiet_NaN();
  const D none(-infinity<double>());
  D tops[4] = {none, none, none, none};
  each_pair<D>(x, y, n, [&](D a, D b, auto mask) {
    const auto common = greater(mask(D(1.0)), D(0.0));
    const D both_x = select(common, a, none), both_y = select(common, b, none);
    const D only_x = select(common, none, a), only_y = select(common, none, b);
    tops[0] = pick_max(both_x, tops[0]);
    tops[1] = pick_max(both_y, tops[1]);
    tops[2] = pick_max(only_x, tops[2]);
    tops[3] = pick_max(only_y, tops[3]);
  });
  double* out[4] = {&s.top_x, &s.top_y, &s.only_top_x, &s.only_top_y};
  for (int i = 0; i < 4; ++i) {
    const double top = tops[i].largest();
    if (top > *out[i]) *out[i] = top;
  }
}

template <class D>
ENTROPIC_INLINE void pair_sums(const double* x, const double* y, index_t n, PairSums& s) {
  const D inf(infinity<double>());
  const D top_x(s.top_x), top_y(s.top_y);
  D mass_x(0.0), mass_y(0.0), moment(0.0), least = inf, largest(-infinity<double>());
  each_pair<D>(x, y, n, [&](D a, D b, auto mask) {
    const auto common = greater(mask(D(1.0)), D(0.0));
    const D gap = mask(b - a), e = mask(exp(a - top_x));
    mass_x = mass_x + e;
    mass_y = mass_y + mask(exp(b - top_y));
    moment = fma(e, gap, moment);
    least = pick_min(select(common, gap, inf), least);
    largest = pick_max(select(common, gap, D(-infinity<double>())), largest);
  });
  s.mass_x += mass_x.sum();
  s.mass_y += mass_y.sum();
  s.moment += moment.sum();
  const double low = -(D(0.0) - least).largest(), high = largest.largest();
  if (low < s.least) s.least = low;
  if (high > s.largest) s.largest = high;
  if (!(s.only_top_x > -infinity<double>() || s.only_top_y > -infinity<double>())) return;
  const D only_top_x(s.only_top_x > -infinity<double>() ? s.only_top_x : 0.0),
      only_top_y(s.only_top_y > -infinity<double>() ? s.only_top_y : 0.0);
  D only_x(0.0), only_y(0.0);
  each_pair<D>(x, y, n, [&](D a, D b, auto mask) {
    const D alone = D(1.0) - mask(D(1.0));
    only_x = fma(alone, exp(select(equal(alone, D(0.0)), D(-infinity<double>()), a) - only_top_x), only_x);
    only_y = fma(alone, exp(select(equal(alone, D(0.0)), D(-infinity<double>()), b) - only_top_y), only_y);
  });
  s.only_x += only_x.sum();
  s.only_y += only_y.sum();
}

// y - x - shift, with what rounding y - x lost (Knuth's two-sum): all of it, where rows of large logits are nearly
// equal.
template <class D>
ENTROPIC_INLINE D log_ratio(D x, D y, D shift) {
  const D d = y - x, back = d - y;
  const D lost = (y - (d - back)) - (x + back);
  return (d - shift) + lost;
}

// `near`: all |y - x - centre| <= 1.
template <class D, bool near>
ENTROPIC_INLINE void pair_excess(const double* x, const double* y, index_t n, double top, double centre,
                                 PairExcess& sums) {
  const D m(top), c(centre), one(1.0), inf(infinity<double>());
  D excess(0.0), mean(0.0), least = inf;
  each_pair<D>(x, y, n, [&](D a, D b, auto mask) {
    const D e = mask(exp(a - m)), u = mask(log_ratio(a, b, c));
    const D close = e * u * u * excess_over_square(u);
    mean = fma(e, u, mean);
    least = pick_min(select(greater(mask(one), D(0.0)), u, inf), least);
    if (near) {
      excess = excess + close;
    } else {
      const D far = mask(exp((b - m) - c)) - e * (one + u);
      excess = excess + select(greater(absolute(u), one), far, close);
    }
  });
  sums.excess += excess.sum();
  sums.mean += mean.sum();
  const double low = -(D(0.0) - least).largest();
  if (low < sums.least) sums.least = low;
}

// sum P j(-|l|), with log p = x - log_x, log q = y - log_y and l = y - x - shift. `near`: all |l| <= 1.
template <class D, bool near>
ENTROPIC_INLINE double pair_middle(const double* x, const double* y, index_t n, double log_x, double log_y,
                                   double shift) {
  const D one(1.0), half(0.5), log_2(0.69314718055994530942);
  D sum(0.0);
  each_pair<D>(x, y, n, [&](D a, D b, auto mask) {
    const D l = log_ratio(a, b, D(shift));
    const D larger = mask(exp(select(greater(l, D(0.0)), b - D(log_y), a - D(log_x))));
    const D z = mask(D(0.0) - absolute(l));
    const D close = z * z * middle_over_square(z);
    if (near) {
      sum = fma(larger, close, sum);
    } else {
      const D ratio = exp(z);
      const D far = half * (ratio * z - (one + ratio) * (log1p(ratio) - log_2));
      sum = fma(larger, select(greater(D(-1.0), z), far, close), sum);
    }
  });
  return sum.sum();
}

// sum p (h(b l) - b h(l)), which is sum p^(1 - b) q^b - 1 where both have the same categories; as above. `near`: all
// |l| and |b l| are at most 1.
template <class D, bool near>
ENTROPIC_INLINE double pair_tilt(const double* x, const double* y, index_t n, double log_x, double log_y, double shift,
                                 double b) {
  const D one(1.0), power(b);
  D sum(0.0);
  each_pair<D>(x, y, n, [&](D v, D w, auto mask) {
    const D l = mask(log_ratio(v, w, D(shift))), bl = power * l, log_p = v - D(log_x);
    const D p = mask(exp(log_p));
    const D close = p * power * l * l * (power * excess_over_square(bl) - excess_over_square(l));
    if (near) {
      sum = sum + close;
    } else {
      // p (exp(b l) - 1), which is small if b is
      const D grown =
          select(greater(absolute(bl), one), mask(exp(log_p + bl)) - p, p * bl * fma(bl, excess_over_square(bl), one));
      const D far = grown - power * (mask(exp(w - D(log_y))) - p);
      sum = sum + select(greater(pick_max(absolute(l), absolute(bl)), one), far, close);
    }
  });
  return sum.sum();
}

}  // namespace
}  // namespace entropic
