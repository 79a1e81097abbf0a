// Entropic transport in units of eps: F = f/eps, G = g/eps, and the Gibbs factor K_ij = exp(F_i + G_j - C_ij/eps), so
// that the plan is P_ij = a_i b_j K_ij.
//
// Masses stay outside the exponent: a point of mass zero then has a potential like any other, and the sums
// s_i = sum_j b_j K_ij and sum_i a_i K_ij are 1 where the plan has its marginals.
//
// Factors below exp(gibbs_cut) are left out, from both sums alike: beside sums near 1 they are nothing, and drivers
// recompute what is not near 1 by log-sum-exp. A whole pack of them costs no exp, which is most of a plan at small eps.
// The argument is formed in float64, because f, g and C are hundreds of eps where their sum is a few; only that sum is
// rounded to the element type.
#pragma once

#include "config.hpp"
#include "math.hpp"
#include "reducers.hpp"

namespace entropic {
namespace {

template <class T>
struct GibbsConstants;
template <>
struct GibbsConstants<float> {
  // cap: what exp can hold with room for sums; drivers see such a row as out of range.
  static constexpr float cut = -46.0f, cap = 60.0f;
};
template <>
struct GibbsConstants<double> {
  static constexpr double cut = -80.0, cap = 600.0;
};

// exp(g + shift - cost / eps) of one pack.
template <class P>
ENTROPIC_INLINE P gibbs(P cost, const double* g, typename P::Wide shift, typename P::Wide minus_inv_eps) {
  using T = typename P::Element;
  using D = typename P::Wide;
  using C = GibbsConstants<T>;
  D d[P::wide_parts];
  cost.widen(d);
  for (int p = 0; p < P::wide_parts; ++p) d[p] = fma(d[p], minus_inv_eps, D::load(g + p * D::width) + shift);
  const P x = pick_min(P::narrow(d), P(C::cap));
  const auto counts = greater(x, P(C::cut));
  if (!any(counts)) return P(T(0));
  return zero_unless(counts, exp_shifted(x, P(T(0))));
}

// Sums of packs, in trees of four in the element type and in float64 beyond.
template <class P>
struct WideSum {
  using D = typename P::Wide;
  D total[P::wide_parts];

  ENTROPIC_INLINE WideSum() {
    for (int p = 0; p < P::wide_parts; ++p) total[p] = D(0.0);
  }
  ENTROPIC_INLINE void add(P x) {
    D part[P::wide_parts];
    x.widen(part);
    for (int p = 0; p < P::wide_parts; ++p) total[p] = total[p] + part[p];
  }
  ENTROPIC_INLINE double sum() const {
    D all = total[0];
    for (int p = 1; p < P::wide_parts; ++p) all = all + total[p];
    return all.sum();
  }
};

// k_j = exp(g_j + shift - cost_j / eps); returns sum b_j k_j. g, b and k have room for whole packs: g is -inf and b is
// 0 there.
template <class P>
ENTROPIC_INLINE double gibbs_row(const typename P::Element* cost, const double* g, const typename P::Element* b,
                                 index_t n, double shift, double inv_eps, typename P::Element* k) {
  using T = typename P::Element;
  using D = typename P::Wide;
  const D wide_shift(shift), minus(-inv_eps);
  WideSum<P> sum;
  index_t j = 0;
  for (; j + 4 * P::width <= n; j += 4 * P::width) {
    P part(T(0));
    for (int u = 0; u < 4; ++u) {
      const index_t at = j + u * P::width;
      const P factor = gibbs(P::load(cost + at), g + at, wide_shift, minus);
      factor.store(k + at);
      part = fma(P::load(b + at), factor, part);
    }
    sum.add(part);
  }
  for (; j < n; j += P::width) {
    const P c = n - j < P::width ? P::load_partial(cost + j, n - j, T(0)) : P::load(cost + j);
    const P factor = gibbs(c, g + j, wide_shift, minus);
    factor.store(k + j);
    sum.add(P::load(b + j) * factor);
  }
  return sum.sum();
}

// acc_j += sum_r w_r k_rj over `rows` rows, each `ld` after the one before; whole packs.
template <class P, int rows>
ENTROPIC_INLINE void add_rows(const typename P::Element* k, index_t ld, const double* w, index_t n, double* acc) {
  using T = typename P::Element;
  using D = typename P::Wide;
  P weight[rows];
  for (int r = 0; r < rows; ++r) weight[r] = P(static_cast<T>(w[r]));
  for (index_t j = 0; j < n; j += P::width) {
    P part = weight[0] * P::load(k + j);
    for (int r = 1; r < rows; ++r) part = fma(weight[r], P::load(k + r * ld + j), part);
    D wide[P::wide_parts];
    part.widen(wide);
    for (int p = 0; p < P::wide_parts; ++p) {
      double* to = acc + j + p * D::width;
      (D::load(to) + wide[p]).store(to);
    }
  }
}

// sum b_j k_j cost_j; where k is 0 the cost may be infinite.
template <class P>
ENTROPIC_INLINE double gibbs_cost(const typename P::Element* k, const typename P::Element* b,
                                  const typename P::Element* cost, index_t n) {
  using T = typename P::Element;
  WideSum<P> sum;
  for (index_t j = 0; j < n; j += P::width) {
    const P c = n - j < P::width ? P::load_partial(cost + j, n - j, T(0)) : P::load(cost + j);
    const P factor = P::load(k + j);
    sum.add(P::load(b + j) * factor * zero_unless(greater(factor, P(T(0))), c));
  }
  return sum.sum();
}

// sum k_j w_j; whole packs.
template <class P>
ENTROPIC_INLINE double weighted_sum(const typename P::Element* k, const typename P::Element* w, index_t n) {
  using T = typename P::Element;
  WideSum<P> sum;
  index_t j = 0;
  for (; j + 4 * P::width <= n; j += 4 * P::width) {
    P part(T(0));
    for (int u = 0; u < 4; ++u) part = fma(P::load(k + j + u * P::width), P::load(w + j + u * P::width), part);
    sum.add(part);
  }
  for (; j < n; j += P::width) sum.add(P::load(k + j) * P::load(w + j));
  return sum.sum();
}

// The same with weights in float64.
template <class P>
ENTROPIC_INLINE double gibbs_dot(const typename P::Element* k, const double* v, index_t n) {
  using D = typename P::Wide;
  D sum[P::wide_parts];
  for (int p = 0; p < P::wide_parts; ++p) sum[p] = D(0.0);
  for (index_t j = 0; j < n; j += P::width) {
    D wide[P::wide_parts];
    P::load(k + j).widen(wide);
    for (int p = 0; p < P::wide_parts; ++p) sum[p] = fma(wide[p], D::load(v + j + p * D::width), sum[p]);
  }
  D all = sum[0];
  for (int p = 1; p < P::wide_parts; ++p) all = all + sum[p];
  return all.sum();
}

// out_j = h_j - cost_j / eps, in float64 whatever the cost is. `out` has room for whole packs.
template <class P>
ENTROPIC_INLINE void softmin_scores(const typename P::Element* cost, const double* h, index_t n, double inv_eps,
                                    double* out) {
  using T = typename P::Element;
  using D = typename P::Wide;
  for (index_t j = 0; j < n; j += P::width) {
    const P c = n - j < P::width ? P::load_partial(cost + j, n - j, T(0)) : P::load(cost + j);
    D d[P::wide_parts];
    c.widen(d);
    for (int p = 0; p < P::wide_parts; ++p) {
      const index_t at = j + p * D::width;
      fma(d[p], D(-inv_eps), D::load(h + at)).store(out + at);
    }
  }
}

// Takes n costs into a range. Infinite costs, which forbid a pair, are not part of it; -inf is its least.
template <class P>
ENTROPIC_INLINE void widen_range(const typename P::Element* cost, index_t n, CostRange& range) {
  using T = typename P::Element;
  const P inf(infinity<T>()), minus_inf(-infinity<T>());
  P least = inf, largest = minus_inf, nan(T(0));
  for (index_t j = 0; j < n; j += P::width) {
    const P c = n - j < P::width ? P::load_partial(cost + j, n - j, cost[j]) : P::load(cost + j);
    least = pick_min(c, least);
    largest = pick_max(select(equal(c, inf), minus_inf, c), largest);
    nan = nan + (c - c);  // nan for nan and for infinite costs: looked at again below
  }
  const double low = -(P(T(0)) - least).largest(), high = largest.largest();
  range.least = low < range.least ? low : range.least;
  range.largest = high > range.largest ? high : range.largest;
  if (nan.sum() == 0) {
    range.allowed = n > 0 || range.allowed;
    return;
  }
  for (index_t j = 0; j < n; ++j) {
    range.nan |= cost[j] != cost[j];
    range.forbidden |= cost[j] == infinity<T>();
    range.allowed |= cost[j] < infinity<T>();
  }
}

// What one side's marginal may be, and so what its potential becomes: the proximal step of the penalty's conjugate,
// applied to the soft minimum s that would give the marginal exactly, all in units of eps.
//   exact: s            kl: s rho / (rho + eps)            tv: s within [-rho, rho]
//   range, lo a <= marginal <= hi a: s + (-s within [log lo, log hi])
//   capped, marginal <= a: s, at most the potential of the total mass
struct Relaxation {
  Relax kind;
  double p, q;

  ENTROPIC_INLINE double operator()(double s) const {
    switch (kind) {
      case Relax::exact: return s;
      case Relax::kl: return p * s;
      case Relax::tv: return s < -p ? -p : (s > p ? p : s);
      case Relax::range: return s + (-s < p ? p : (-s > q ? q : -s));
      case Relax::capped: return s < p ? s : p;
    }
    return s;
  }
};

}  // namespace
}  // namespace entropic
