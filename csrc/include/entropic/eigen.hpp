// Orthogonal similarities that make a symmetric matrix a band and the band tridiagonal, by Householder's reflections
// H = 1 - tau v v'.
#pragma once

#include <cmath>

#include "config.hpp"

namespace entropic {
namespace {

constexpr int kBand = 32;  // elements below the diagonal

// A reflection that leaves of x only its first element, `first`; x becomes v, whose first element is 1. `squares` is
// the sum of squares of the others. tau = 0 is the identity.
struct Reflection {
  double tau, first, scale;
};
ENTROPIC_INLINE Reflection reflection_of(double x, double squares) {
  // Beside a matrix of order 1 they are nothing long before squares lose digits to underflow: what is left of columns
  // that depend on each other, rounding of rounding, comes there in a few steps, and H would not be orthogonal.
  if (!(squares > 1e-200)) return {0.0, x, 0.0};
  const double norm = ::sqrt(x * x + squares), first = x > 0 ? -norm : norm;
  return {(first - x) / first, first, 1.0 / (x - first)};
}

template <class P>
ENTROPIC_INLINE double dot_of(const double* x, const double* y, index_t n) {
  P sum(0.0);
  for (index_t i = 0; i < n; i += P::width) sum = fma(P::load(x + i), P::load(y + i), sum);
  return sum.sum();
}

// Columns -= tau v (v' column) for `count` of them, `ld` apart; whole packs.
template <class P, int count>
ENTROPIC_INLINE void reflect_columns(const double* v, double tau, double* columns, index_t ld, index_t n) {
  P sum[count];
  for (int c = 0; c < count; ++c) sum[c] = P(0.0);
  for (index_t i = 0; i < n; i += P::width) {
    const P of_v = P::load(v + i);
    for (int c = 0; c < count; ++c) sum[c] = fma(of_v, P::load(columns + c * ld + i), sum[c]);
  }
  P factor[count];
  for (int c = 0; c < count; ++c) factor[c] = P(-tau * sum[c].sum());
  for (index_t i = 0; i < n; i += P::width) {
    const P of_v = P::load(v + i);
    for (int c = 0; c < count; ++c) fma(of_v, factor[c], P::load(columns + c * ld + i)).store(columns + c * ld + i);
  }
}

// Q R = columns (kBand of them, `ld` apart, with whole packs of zeros behind their `rows`): the columns become v of
// Q = H_0 H_1 ..., zeros above a 1, and r[i * kBand + c] is R.
template <class P>
ENTROPIC_INLINE void factor_panel(double* columns, index_t ld, index_t rows, double* tau, double* r) {
  const index_t padded = (rows + P::width - 1) / P::width * P::width;
  for (index_t c = 0; c < kBand; ++c) {
    double* x = columns + c * ld;
    for (index_t i = 0; i < kBand; ++i) r[i * kBand + c] = i < c && i < rows ? x[i] : 0.0;
    for (index_t i = 0; i < c && i < rows; ++i) x[i] = 0.0;
    tau[c] = 0.0;
    if (c >= rows) continue;
    const double top = x[c];
    x[c] = 0.0;
    const index_t from = c / P::width * P::width;
    const Reflection h = reflection_of(top, dot_of<P>(x + from, x + from, padded - from));
    for (index_t i = from; i < padded; i += P::width) (P::load(x + i) * P(h.scale)).store(x + i);
    r[c * kBand + c] = h.first;
    x[c] = 1.0;
    tau[c] = h.tau;
    if (h.tau == 0) continue;
    index_t next = c + 1;
    for (; next + 4 <= kBand; next += 4)
      reflect_columns<P, 4>(x + from, h.tau, columns + next * ld + from, ld, padded - from);
    for (; next < kBand; ++next) reflect_columns<P, 1>(x + from, h.tau, columns + next * ld + from, ld, padded - from);
  }
}

// The band's element (row, column), row >= column, is band[column * kBandStride + row - column]: with room for what
// chasing puts below the band, at most 2 kBand - 1 rows from the diagonal.
constexpr index_t kBandStride = 2 * kBand;

template <class P>
struct Reflector {
  static constexpr int packs = kBand / P::width;
  P v[packs];
  double lanes[kBand];
  double tau;
};

// The reflection of a column's kBand elements, which become (first, 0, ...).
template <class P>
ENTROPIC_INLINE void reflect_column(double* x, Reflector<P>& h) {
  constexpr int packs = Reflector<P>::packs;
  const double top = x[0];
  x[0] = 0.0;
  P sum(0.0);
  for (int p = 0; p < packs; ++p) {
    h.v[p] = P::load(x + p * P::width);
    sum = fma(h.v[p], h.v[p], sum);
  }
  const Reflection r = reflection_of(top, sum.sum());
  for (int p = 0; p < packs; ++p) {
    (h.v[p] * P(r.scale)).store(h.lanes + p * P::width);
    P(0.0).store(x + p * P::width);
  }
  x[0] = r.first;
  h.lanes[0] = 1.0;
  for (int p = 0; p < packs; ++p) h.v[p] = P::load(h.lanes + p * P::width);
  h.tau = r.tau;
}

// D <- H D H for the symmetric block of `count` columns whose first element is at `d`. Of a column the packs that hold
// the diagonal and what is below are read and written; `from[j]` is 1 from lane j on, so that what they hold above the
// diagonal, of other columns, stays as it is.
template <class P>
ENTROPIC_INLINE void reflect_both_sides(double* d, index_t count, const Reflector<P>& h, const double* from) {
  constexpr int packs = Reflector<P>::packs, width = P::width;
  double along[kBand];  // D v: sums over columns, to which those along each column's rows are added
  P sum[packs];
  for (int p = 0; p < packs; ++p) sum[p] = P(0.0);
  for (index_t j = 0; j < kBand; ++j) along[j] = 0.0;
  for (index_t j = 0; j < count; ++j) {
    const double* column = d + j * kBandStride - j;
    const int first = static_cast<int>(j) / width;
    const P factor(h.lanes[j]);
    const P top = P::load(column + first * width) * P::load(from + (j % width) * width);
    sum[first] = fma(top, factor, sum[first]);
    P dots = top * h.v[first];
    for (int p = first + 1; p < packs; ++p) {
      const P x = P::load(column + p * width);
      sum[p] = fma(x, factor, sum[p]);
      dots = fma(x, h.v[p], dots);
    }
    along[j] = dots.sum() - column[j] * h.lanes[j];
  }
  P w[packs];
  P product(0.0);
  for (int p = 0; p < packs; ++p) {
    w[p] = (sum[p] + P::load(along + p * width)) * P(h.tau);
    product = fma(w[p], h.v[p], product);
  }
  const P half(-0.5 * h.tau * product.sum());
  double lanes[kBand];
  for (int p = 0; p < packs; ++p) {
    w[p] = fma(half, h.v[p], w[p]);
    w[p].store(lanes + p * width);
  }
  for (index_t j = 0; j < count; ++j) {
    double* column = d + j * kBandStride - j;
    const int first = static_cast<int>(j) / width;
    const P of_w(-lanes[j]), of_v(-h.lanes[j]), mask = P::load(from + (j % width) * width);
    fma(w[first] * mask, of_v, fma(h.v[first] * mask, of_w, P::load(column + first * width)))
        .store(column + first * width);
    for (int p = first + 1; p < packs; ++p)
      fma(w[p], of_v, fma(h.v[p], of_w, P::load(column + p * width))).store(column + p * width);
  }
}

// B <- G B H for the block below, of `count` columns, where G is the reflection of B H's first column.
template <class P>
ENTROPIC_INLINE void pass_on(double* b, index_t count, const Reflector<P>& h, Reflector<P>& g) {
  constexpr int packs = Reflector<P>::packs, width = P::width;
  P w[packs];
  for (int p = 0; p < packs; ++p) w[p] = P(0.0);
  for (index_t j = 0; j < count; ++j) {
    const double* column = b + j * (kBandStride - 1);
    const P factor(h.lanes[j]);
    for (int p = 0; p < packs; ++p) w[p] = fma(P::load(column + p * width), factor, w[p]);
  }
  const P minus(-h.tau);
  for (int p = 0; p < packs; ++p) {
    w[p] = w[p] * minus;
    (P::load(b + p * width) + w[p]).store(b + p * width);  // v begins with 1
  }
  reflect_column<P>(b, g);
  for (index_t j = 1; j < count; ++j) {
    double* column = b + j * (kBandStride - 1);
    const P factor(h.lanes[j]);
    P x[packs];
    P sum(0.0);
    for (int p = 0; p < packs; ++p) {
      x[p] = fma(w[p], factor, P::load(column + p * width));
      sum = fma(x[p], g.v[p], sum);
    }
    const P times(-g.tau * sum.sum());
    for (int p = 0; p < packs; ++p) fma(g.v[p], times, x[p]).store(column + p * width);
  }
}

// Makes a band of n columns tridiagonal: a reflection that leaves one element below the diagonal of a column makes a
// bulge below the band, which is chased down and out. There are kBand more columns of zeros behind, and a pack before.
template <class P>
ENTROPIC_INLINE void chase_bulges(double* band, index_t n) {
  double from[P::width * P::width];
  for (int j = 0; j < P::width; ++j)
    for (int i = 0; i < P::width; ++i) from[j * P::width + i] = i >= j ? 1.0 : 0.0;
  Reflector<P> h, g;
  for (index_t c = 0; c + 2 < n; ++c) {
    reflect_column<P>(band + c * kBandStride + 1, h);
    for (index_t row = c + 1;; row += kBand) {
      const index_t count = n - row < kBand ? n - row : kBand;
      reflect_both_sides<P>(band + row * kBandStride, count, h, from);
      if (row + kBand >= n) break;
      pass_on<P>(band + row * kBandStride + kBand, count, h, g);
      h = g;
    }
  }
}

}  // namespace
}  // namespace entropic
