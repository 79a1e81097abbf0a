// exp, log and log1p as straight-line polynomials over packs: the only place where one is computed.
//
// exp: x = n ln2 + f with |f| <= ln2/2 (Cody and Waite, ln2 in two parts, n * kLn2Hi exact), then
//   exp(f) = 1 + f + f^2 q(f), q minimax for the relative error of exp(f): 3.1e-9 in float32, 3.7e-18 in float64.
//   Packs that can look up 2^(j/16) in a register (AVX-512) take n in sixteenths, |f| <= ln2/32 and a shorter q:
//   1.6e-9 and 1.2e-17.
// log: x = 2^k m, f = m - 1, s = f / (2 + f), log m = 2 atanh(s) = f - (h - s (h + R)), h = f^2/2, R = s^2 P(s^2),
//   P minimax: 9.6e-12 and 2.5e-18. The form with h keeps the leading term f exact.
// The coefficients were computed for this file by weighted Lawson iterations in 80 digits.
#pragma once

#include <limits>

#include "config.hpp"
#include "scalar.hpp"

namespace entropic {
namespace {

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float log2e = 1.44269504f;
  static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
  static constexpr float ln2_16th_hi = 0.0433197021484375f, ln2_16th_lo = 1.99663656e-6f;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  // exp(x) is handed out times 2^scale_log2, so that terms down to exp(exp_floor) stay normal: what lies below is
  // beneath half of the smallest float32 even when summed a billion times.
  static constexpr float scale_log2 = 64.0f, scale = 18446744073709551616.0f, unscale = 5.421010862427522e-20f,
                         unscale_root = 2.3283064365386963e-10f;
  static constexpr float squarable = 40.0f;  // exp(x)^2 and exp(-x)^2 are normal, and a million times the former
  static constexpr float exp_floor = -131.0f, exp_ceiling = 100.0f;
  static constexpr float smallest_normal = 1.17549435e-38f, lift = 33554432.0f, lift_log2 = 25.0f;
};

template <>
struct MathConstants<double> {
  static constexpr double log2e = 1.4426950408889634074;
  static constexpr double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double ln2_16th_hi = 0.0433216987848936696536839, ln2_16th_lo = 1.029121848931067580e-13;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double scale_log2 = 256.0, scale = 1.157920892373162e+77, unscale = 8.636168555094445e-78,
                          unscale_root = 2.938735877055719e-39;
  static constexpr double squarable = 340.0;
  static constexpr double exp_floor = -884.0, exp_ceiling = 800.0;
  static constexpr double smallest_normal = 2.2250738585072014e-308, lift = 18014398509481984.0, lift_log2 = 54.0;
};

// (exp(f) - 1) / f, that is 1 + f q(f), for |f| <= ln2/2.
template <class P>
ENTROPIC_INLINE P expm1_over_f(P f, float) {
  P q = P(1.38144858e-3f);
  q = fma(q, f, P(8.36875001e-3f));
  q = fma(q, f, P(4.16683919e-2f));
  q = fma(q, f, P(1.66665203e-1f));
  q = fma(q, f, P(4.99999934e-1f));
  return fma(q, f, P(1.0f));
}

template <class P>
ENTROPIC_INLINE P expm1_over_f(P f, double) {
  P q = P(2.50001932606658282e-8);
  q = fma(q, f, P(2.76303196149853379e-7));
  q = fma(q, f, P(2.75575863143928602e-6));
  q = fma(q, f, P(2.48014929093612290e-5));
  q = fma(q, f, P(1.98412695062249695e-4));
  q = fma(q, f, P(1.38888889438020662e-3));
  q = fma(q, f, P(8.33333333349483520e-3));
  q = fma(q, f, P(4.16666666665295535e-2));
  q = fma(q, f, P(1.66666666666664116e-1));
  q = fma(q, f, P(5.00000000000001069e-1));
  return fma(q, f, P(1.0));
}

// f^2 q(f) + f, that is exp(f) - 1, for |f| <= ln2/32.
template <class P>
ENTROPIC_INLINE P expm1_of_32nd(P f, float) {
  const P q = fma(P(1.66668544e-1f), f, P(5.00016210e-1f));
  return fma(f * f, q, f);
}

template <class P>
ENTROPIC_INLINE P expm1_of_32nd(P f, double) {
  P q = P(1.38885936135473726e-3);
  q = fma(q, f, P(8.33347207765560180e-3));
  q = fma(q, f, P(4.16666666933161957e-2));
  q = fma(q, f, P(1.66666666644127009e-1));
  q = fma(q, f, P(4.99999999999996029e-1));
  return fma(f * f, q, f);
}

// exp(x) 2^shift, whose exponent must be that of a normal number; anything may come out elsewhere.
template <class P, bool table = P::has_table>
ENTROPIC_INLINE P exp_shifted(P x, P shift) {
  using T = typename P::Element;
  using C = MathConstants<T>;
  if constexpr (table) {
    const P magic = fma(shift, P(T(16)), P(C::round_magic));
    const P t = fma(x, P(C::log2e * T(16)), magic);
    const P n = t - magic;
    P f = fma(n, P(-C::ln2_16th_hi), x);
    f = fma(n, P(-C::ln2_16th_lo), f);
    const P power = P::exp2_of_16ths(t);
    return fma(power, expm1_of_32nd(f, T()), power);
  } else {
    const P magic = P(C::round_magic) + shift;
    const P t = fma(x, P(C::log2e), magic);
    const P n = t - magic;
    P f = fma(n, P(-C::ln2_hi), x);
    f = fma(n, P(-C::ln2_lo), f);
    // A product and not an addition to the exponent's bits, which would turn some nan into numbers.
    const P power = add_exponent(P(T(1)), t);
    return fma(power * f, expm1_over_f(f, T()), power);
  }
}

// exp(x) 2^scale_log2 for x <= 0, exactly 0 at exp_floor and below. What is 0 is 0 in x as well, so that x exp(x) is.
template <class P>
ENTROPIC_INLINE P exp_scaled(P& x) {
  using C = MathConstants<typename P::Element>;
  const auto counts = above_or_nan(x, P(C::exp_floor));
  const P e = zero_unless(counts, exp_shifted(x, P(C::scale_log2)));
  x = zero_unless(counts, x);
  return e;
}

// The same of x - m, with what rounding the difference lost (Knuth's two-sum) put back to first order: that loss is
// |x - m| units of the result's last place, all of a small probability's error. Leaves x - m in x. `table` may be false
// to spare the rounding of the table's entries.
template <bool table, class P>
ENTROPIC_INLINE P exp_scaled_difference(P& x, P m) {
  using C = MathConstants<typename P::Element>;
  const P d = x - m;
  const P back = d - x;
  const P lost = (x - (d - back)) - (m + back);
  const auto counts = above_or_nan(d, P(C::exp_floor));
  const P e = exp_shifted<P, table>(d, P(C::scale_log2));
  x = zero_unless(counts, d);
  return zero_unless(counts, fma(e, lost, e));
}

// The same of (x - m) (k + k_low): what rounding the product lost is put back as well.
template <class P>
ENTROPIC_INLINE P exp_scaled_multiple(P& x, P m, P k, P k_low) {
  using C = MathConstants<typename P::Element>;
  const P d = x - m;
  const P back = d - x;
  const P lost = (x - (d - back)) - (m + back);
  const P z = d * k;
  const P rest = fma(d, k, P(typename P::Element(0)) - z) + fma(d, k_low, lost * k);
  const auto counts = above_or_nan(z, P(C::exp_floor));
  const P e = exp_shifted<P, false>(z, P(C::scale_log2));
  x = zero_unless(counts, z);
  return zero_unless(counts, fma(e, rest, e));
}

// exp(x (k + k_low)), which must be a normal number: no digit is lost where |x k| is large, for the reduction is of the
// exact product.
template <bool multiplies, class P>
ENTROPIC_INLINE P exp_of_product(P x, P k, P k_low) {
  using T = typename P::Element;
  using C = MathConstants<T>;
  constexpr bool table = P::has_table;
  const P log2e(table ? C::log2e * T(16) : C::log2e), magic(C::round_magic);
  const P ln2_hi(table ? -C::ln2_16th_hi : -C::ln2_hi), ln2_lo(table ? -C::ln2_16th_lo : -C::ln2_lo);
  const P t = fma(x, multiplies ? log2e * k : log2e, magic);
  const P n = t - magic;
  P f = multiplies ? fma(x, k, n * ln2_hi) : fma(n, ln2_hi, x);
  if (multiplies) f = fma(x, k_low, f);
  f = fma(n, ln2_lo, f);
  if constexpr (table) {
    const P power = P::exp2_of_16ths(t);
    return fma(power, expm1_of_32nd(f, T()), power);
  } else {
    const P power = add_exponent(P(T(1)), t);
    return fma(power * f, expm1_over_f(f, T()), power);
  }
}

// exp of anything: subnormal results are rounded once, large ones become inf.
template <class P>
ENTROPIC_INLINE P exp(P x) {
  using C = MathConstants<typename P::Element>;
  const auto negative = greater(P(0), x);
  const P y = pick_min(P(C::exp_ceiling), pick_max(P(C::exp_floor), x));
  const P e = exp_shifted(y, select(negative, P(C::scale_log2), P(-C::scale_log2)));
  return e * select(negative, P(C::unscale), P(C::scale));
}

template <class P>
ENTROPIC_INLINE P log_polynomial(P z, float) {
  P p = P(2.35836353e-1f);
  p = fma(p, z, P(2.85372342e-1f));
  p = fma(p, z, P(4.00003363e-1f));
  return fma(p, z, P(6.66666656e-1f));
}

template <class P>
ENTROPIC_INLINE P log_polynomial(P z, double) {
  P p = P(1.47975403316870782e-1);
  p = fma(p, z, P(1.53138997111219206e-1));
  p = fma(p, z, P(1.81835698916730157e-1));
  p = fma(p, z, P(2.22221984727162032e-1));
  p = fma(p, z, P(2.85714287432992766e-1));
  p = fma(p, z, P(3.99999999994108957e-1));
  return fma(p, z, P(6.66666666666673493e-1));
}

// log(2^k x (1 + c)) for positive normal x and |c| below an ulp.
template <class P>
ENTROPIC_INLINE P log_normal(P x, P extra_exponent, P c) {
  using T = typename P::Element;
  using C = MathConstants<T>;
  P k;
  const P f = split_exponent(x, k) - P(T(1));
  k = k + extra_exponent;
  const P s = f / (f + P(T(2)));
  const P z = s * s;
  const P r = z * log_polynomial(z, T());
  const P h = P(T(0.5)) * f * f;
  const P tail = fma(s, h + r, fma(k, P(C::ln2_lo), c));
  return fma(k, P(C::ln2_hi), f - (h - tail));
}

// log of anything: -inf at 0, nan below, inf at inf.
template <class P>
ENTROPIC_INLINE P log(P x) {
  using T = typename P::Element;
  using C = MathConstants<T>;
  const P inf = P(std::numeric_limits<T>::infinity());
  const auto tiny = greater(P(C::smallest_normal), x);
  const P y = log_normal(select(tiny, x * P(C::lift), x), select(tiny, P(-C::lift_log2), P(T(0))), P(T(0)));
  P out = select(greater(x, P(T(0))), y, x - x);  // nan for nan, and for x <= 0 until the next line
  out = select(equal(x, inf), inf, out);
  out = select(equal(x, P(T(0))), P(T(0)) - inf, out);
  return select(greater(P(T(0)), x), P(std::numeric_limits<T>::quiet_NaN()), out);
}

// log(1 + r) for r > -1: what rounding 1 + r lost is carried as c (Knuth's two-sum).
template <class P>
ENTROPIC_INLINE P log1p(P r) {
  using T = typename P::Element;
  const P inf = P(std::numeric_limits<T>::infinity());
  const P u = r + P(T(1));
  const P r_part = u - P(T(1));
  const P c = ((P(T(1)) - (u - r_part)) + (r - r_part)) / u;
  const P y = log_normal(u, P(T(0)), c);
  return select(not_equal(r, r), r, select(equal(r, inf), inf, y));
}

}  // namespace
}  // namespace entropic
