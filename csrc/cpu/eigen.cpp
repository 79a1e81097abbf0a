// All eigenvalues without vectors, in three steps: to a band by blocks of reflections, which is where the n^3 are and
// which are products of matrices; to tridiagonal by chasing bulges, in n^2 times the band's width (Bischof, Lang and
// Sun's successive band reduction); and by the root-free QL iteration of Pal, Walker and Kahan, in n^2.
#include "eigen.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "entropic/eigen.hpp"
#include "sweep.hpp"

namespace entropic {
namespace cpu {
namespace {

constexpr int kMostSweeps = 100;  // for an eigenvalue, which takes two
// Of squares beside a matrix of order 1: above it products of two are in range, and below it quotients are not.
constexpr double kSafe = 1e-100, kNothing = 1e-290;
constexpr index_t kStrip = 64;    // rows and columns of a tile that stays in the first cache
constexpr index_t kTerms = 2048;  // of a sum of float32
constexpr index_t kTile = 512;    // columns that a strip is updated in at a time

// Between rows of n elements: whole packs, and an odd number of cache lines, for lines that are a power of two of them
// apart have the same few places in a cache.
template <class T>
index_t stride_of(index_t n) {
  constexpr index_t line = 64 / sizeof(T);
  return ((padded(n) + line - 1) / line | 1) * line;
}

// One matrix on its way to a band.
class Band {
 public:
  explicit Band(index_t n)
      : n_(n),
        ld_(stride_of<double>(n)),
        a_(static_cast<std::size_t>(n * ld_)),
        band_(static_cast<std::size_t>((n + kBand + 1) * kBandStride + kPad), 0.0),
        v_(static_cast<std::size_t>(kBand * ld_)),
        by_row_(v_.size()),
        x_(v_.size()),
        left_(2 * v_.size()),
        right_(2 * v_.size()) {}

  // Reads the matrix, over `unit`. False if interrupted.
  bool reduce(const double* a, double unit) {
    const double inverse = 1 / unit;  // a power of two
    for (index_t i = 0; i < n_; ++i)
      for (index_t j = 0; j < n_; ++j) a_[at(i, j)] = a[i * n_ + j] * inverse;
    index_t first = 0;
    for (; first + kBand < n_; first += kBand) {
      keep_diagonal(first);
      if (!step(first)) return false;
    }
    keep_diagonal(first);
    return true;
  }

  // Column by column, with room in front of it.
  double* columns() { return band_.data() + kPad; }

 private:
  std::size_t at(index_t i, index_t j) const { return static_cast<std::size_t>(i * ld_ + j); }

  void keep_diagonal(index_t first) {
    for (index_t j = first; j < std::min(n_, first + kBand); ++j)
      for (index_t i = j; i < std::min(n_, first + kBand); ++i) columns()[j * kBandStride + i - j] = a_[at(i, j)];
  }

  // Columns first ... first + kBand - 1 get their final band: with Q R what is below their block, that becomes R and
  // the rest of the matrix A becomes Q' A Q = A - V W' - W V', where Q = 1 - V T V', X = A V T, W = X - V T' V' X / 2.
  bool step(index_t first) {
    const index_t start = first + kBand, m = n_ - start, ld = stride_of<double>(m);
    const auto& kernels = active();
    const auto multiply = kernels.spectral->add_product;
    double tau[kBand], r[kBand * kBand];
    double *v = v_.data(), *by_row = by_row_.data(), *x = x_.data();
    std::fill_n(v, kBand * ld, 0.0);
    kernels.of<double>().transpose(a_.data() + at(start, first), ld_, m, kBand, v, ld);
    kernels.spectral->factor_panel(v, ld, m, tau, r);
    for (index_t c = 0; c < kBand; ++c)
      for (index_t i = 0; i <= c && i < m; ++i) columns()[(first + c) * kBandStride + kBand + i - c] = r[i * kBand + c];

    kernels.of<double>().transpose(v, ld, kBand, m, by_row, kBand);
    double gram[kBand * kBand] = {}, t[kBand * kBand];
    multiply(v, ld, 1, kBand, m, by_row, kBand, kBand, gram, kBand);
    block_reflector(gram, tau, t);

    if (!times_rest(start, by_row, left_.data())) return false;
    std::fill_n(x, m * kBand, 0.0);
    multiply(left_.data(), kBand, 1, m, kBand, t, kBand, kBand, x, kBand);

    double inner[kBand * kBand] = {}, half[kBand * kBand] = {};
    multiply(v, ld, 1, kBand, m, x, kBand, kBand, inner, kBand);            // V' X
    multiply(t, 1, kBand, kBand, kBand, inner, kBand, kBand, half, kBand);  // T' V' X
    for (double& element : half) element *= -0.5;
    multiply(by_row, kBand, 1, m, kBand, half, kBand, kBand, x, kBand);  // X becomes W
    for (index_t i = 0; i < m; ++i)
      for (index_t c = 0; c < kBand; ++c) {
        left_[static_cast<std::size_t>(i * 2 * kBand + c)] = -by_row[i * kBand + c];
        left_[static_cast<std::size_t>(i * 2 * kBand + kBand + c)] = -x[i * kBand + c];
      }
    kernels.of<double>().transpose(x, kBand, m, kBand, right_.data(), ld);
    std::copy_n(v, kBand * ld, right_.data() + kBand * ld);
    return update_rest(start, ld);
  }

  // y (m, kBand) = A v for the rows and columns from `start` on: for a strip of rows by what is stored of them, and
  // below their diagonal block by what is stored of the columns.
  bool times_rest(index_t start, const double* v, double* y) const {
    const index_t m = n_ - start, least = start / kStrip, strips = (n_ + kStrip - 1) / kStrip - least;
    std::fill_n(y, m * kBand, 0.0);
    return for_units(strips, m * m, [&](index_t unit) {
      const index_t row = std::max(start, (least + unit) * kStrip), end = next_strip(row, n_);
      for (index_t k = start, next; k < n_; k = next) {
        next = next_strip(k, n_);
        const bool own = k < end;
        active().spectral->add_product(a_.data() + (own ? at(row, k) : at(k, row)), own ? ld_ : 1, own ? 1 : ld_,
                                       end - row, next - k, v + (k - start) * kBand, kBand, kBand,
                                       y + (row - start) * kBand, kBand);
      }
    });
  }

  // A += left right, for what is stored of it: rows up to their diagonal blocks' ends.
  bool update_rest(index_t start, index_t ld) {
    const index_t m = n_ - start, least = start / kStrip, strips = (n_ + kStrip - 1) / kStrip - least;
    return for_units(strips, m * m, [&](index_t unit) {
      const index_t row = std::max(start, (least + unit) * kStrip), end = next_strip(row, n_);
      for (index_t column = start; column < end; column += kTile)
        active().spectral->add_product(left_.data() + (row - start) * 2 * kBand, 2 * kBand, 1, end - row, 2 * kBand,
                                       right_.data() + column - start, ld, std::min(kTile, end - column),
                                       a_.data() + at(row, column), ld_);
    });
  }

  static index_t next_strip(index_t row, index_t end) { return std::min(end, (row / kStrip + 1) * kStrip); }

  // T of 1 - V T V' = H_0 H_1 ..., upper triangular, from V' V.
  static void block_reflector(const double* gram, const double* tau, double* t) {
    std::fill_n(t, kBand * kBand, 0.0);
    for (index_t c = 0; c < kBand; ++c) {
      t[c * kBand + c] = tau[c];
      for (index_t i = 0; i < c; ++i) {
        double sum = 0;
        for (index_t k = i; k < c; ++k) sum += t[i * kBand + k] * gram[k * kBand + c];
        t[i * kBand + c] = -tau[c] * sum;
      }
    }
  }

  index_t n_, ld_;
  std::vector<double> a_, band_;
  std::vector<double> v_, by_row_, x_, left_, right_;  // of a step: [column][row], [row][column], X, [row][-V, -W]
};

// d becomes the eigenvalues of the tridiagonal matrix with diagonal d and squares e of what is beside it. Squares that
// are nothing beside the largest element are 0: the error is absolute, as that of the steps before, and below it shifts
// would be lost in d's last place.
void tridiagonal_eigenvalues(double* d, double* e, index_t n) {
  double largest = 0;
  for (index_t i = 0; i < n; ++i) largest = std::max({largest, std::abs(d[i]), i + 1 < n ? std::sqrt(e[i]) : 0.0});
  const double unit = std::numeric_limits<double>::epsilon() * largest, nothing = unit * unit;
  for (index_t l = 0; l < n; ++l) {
    for (int sweep = 0;; ++sweep) {
      if (sweep == kMostSweeps) throw std::runtime_error("eigenvalues did not converge");
      // where two or three sweeps do not do, it is rounding that is left
      const double limit = std::ldexp(nothing, sweep / 10);
      index_t m = l;
      while (m + 1 < n && e[m] > limit) ++m;
      if (m == l) break;
      // Wilkinson's shift
      const double root = std::sqrt(e[l]), apart = (d[l + 1] - d[l]) / (2 * root);
      const double shift = d[l] - root / (apart + std::copysign(std::sqrt(apart * apart + 1), apart));
      // With c = p / r and s = e / r the usual recurrence is gamma = c (d - shift) - s gamma and p = gamma^2 / c; over
      // r as a whole it waits for one division at a time.
      double c = 1, s = 0, gamma = d[m] - shift, p = gamma * gamma;
      for (index_t i = m - 1; i >= l; --i) {
        const double square = e[i], r = p + square, old_gamma = gamma, over_r = p * (d[i] - shift) - square * gamma;
        if (i + 1 < m) e[i + 1] = s * r;
        s = square / r;
        gamma = over_r / r;
        d[i + 1] = old_gamma + (d[i] - gamma);
        double next = c * square;  // the limit for p = 0
        if (p > kSafe) next = over_r * over_r / (r * p);
        else if (p > kNothing) next = gamma * gamma * (r / p);
        c = p / r;
        p = next;
      }
      e[l] = s * p;
      d[l] = shift + gamma;
    }
  }
  std::sort(d, d + n);
}

double largest_magnitude(const double* a, index_t count) {
  constexpr index_t lanes = 8;  // independent ones, so that compilers use vectors
  double top[lanes] = {};
  for (index_t i = 0; i < count; i += lanes)
    for (index_t j = 0; j < std::min(lanes, count - i); ++j) top[j] = std::max(top[j], std::abs(a[i + j]));
  return *std::max_element(top, top + lanes);
}

bool eigenvalues_of(const double* a, index_t n, double* out) {
  const double largest = largest_magnitude(a, n * n);
  if (largest == 0) {
    std::fill_n(out, n, 0.0);
    return true;
  }
  int exponent;
  std::frexp(largest, &exponent);
  const double unit = std::ldexp(1.0, exponent - 1);
  Band band(n);
  if (!band.reduce(a, unit)) return false;
  active().spectral->chase_bulges(band.columns(), n);
  std::vector<double> squares(static_cast<std::size_t>(n), 0.0);
  for (index_t i = 0; i < n; ++i) {
    out[i] = band.columns()[i * kBandStride];
    const double beside = band.columns()[i * kBandStride + 1];
    if (i + 1 < n) squares[static_cast<std::size_t>(i)] = beside * beside;
  }
  tridiagonal_eigenvalues(out, squares.data(), n);
  for (index_t i = 0; i < n; ++i) out[i] *= unit;
  return true;
}

void add_product(const double* g, index_t ld, index_t rows, index_t depth, const double* v, index_t columns,
                 double* y) {
  active().spectral->add_product(g, 1, ld, rows, depth, v, ld, columns, y, ld);
}
void add_product(const float* g, index_t ld, index_t rows, index_t depth, const float* v, index_t columns, float* y) {
  active().spectral->add_single_product(g, 1, ld, rows, depth, v, ld, columns, y, ld);
}

// The lower half of Z' Z (m, m) for Z (depth, m), of which some rows are read at a time: what float32 sums lose is
// bounded by their number. Strips of the product are shared among threads.
template <class T>
bool gram_matrix(const T* z, index_t n, index_t d, bool tall, double* out) {
  const index_t m = tall ? d : n, depth = tall ? n : d, ld = stride_of<T>(m);
  std::vector<T> rows(static_cast<std::size_t>(std::min(depth, kTerms) * ld), T(0));
  std::fill_n(out, m * m, 0.0);
  for (index_t first = 0; first < depth; first += kTerms) {
    const index_t terms = std::min(kTerms, depth - first);
    if (tall)
      for (index_t i = 0; i < terms; ++i) std::copy_n(z + (first + i) * d, d, rows.data() + i * ld);
    else active().of<T>().transpose(z + first, d, n, terms, rows.data(), ld);
    const bool finished = for_units((m + kStrip - 1) / kStrip, m * m * terms, [&](index_t strip) {
      const index_t row = strip * kStrip, count = std::min(kStrip, m - row), columns = row + count;
      std::vector<T> part(static_cast<std::size_t>(count * ld), T(0));
      for (index_t k = 0; k < terms; k += kStrip)
        add_product(rows.data() + k * ld + row, ld, count, std::min(kStrip, terms - k), rows.data() + k * ld, columns,
                    part.data());
      for (index_t i = 0; i < count; ++i)
        for (index_t j = 0; j < columns; ++j) out[(row + i) * m + j] += part[static_cast<std::size_t>(i * ld + j)];
    });
    if (!finished) return false;
  }
  for (index_t i = 0; i < m; ++i)
    for (index_t j = 0; j < i; ++j) out[j * m + i] = out[i * m + j];
  return true;
}

}  // namespace

template <class T>
bool gram_matrices(const T* z, index_t count, index_t n, index_t d, bool tall, double* out) {
  const index_t m = tall ? d : n;
  if (count == 1) return gram_matrix(z, n, d, tall, out);
  return for_units(count, count * m * n * d,
                   [&](index_t k) { gram_matrix(z + k * n * d, n, d, tall, out + k * m * m); });
}

template bool gram_matrices(const float*, index_t, index_t, index_t, bool, double*);
template bool gram_matrices(const double*, index_t, index_t, index_t, bool, double*);

bool symmetric_eigenvalues(const double* a, index_t count, index_t n, double* out) {
  if (count == 1) return eigenvalues_of(a, n, out);
  // what a unit leaves that was stopped is not looked at
  return for_units(count, count * n * n * 64, [&](index_t k) { eigenvalues_of(a + k * n * n, n, out + k * n); });
}

}  // namespace cpu
}  // namespace entropic
