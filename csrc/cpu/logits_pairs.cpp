// Divergences between rows of two arrays of logits.
#include <cmath>
#include <vector>

#include "logits.hpp"
#include "sweep.hpp"

namespace entropic {
namespace cpu {
namespace {

constexpr double kInf = HUGE_VAL;

// log of the share that `mass` under `top` has of all, the rest being `only` under `only_top`.
double log_share(double top, double mass, double only_top, double only) {
  if (!(only > 0)) return 0;
  const double d = only_top - top + std::log(only) - std::log(mass);
  return d > 0 ? -(d + std::log1p(std::exp(-d))) : -std::log1p(std::exp(d));
}

// Two rows, and what every divergence of p from q is made of. Over the categories that both have, p and q are shares
// exp(log_p_common) and exp(log_q_common) of their masses.
class Pair {
 public:
  Pair(const Kernels& kernels, const double* x, const double* y, index_t n)
      : kernels_(kernels), x_(x), y_(y), n_(n), s_{-kInf, -kInf, 0, 0, 0, kInf, -kInf, -kInf, -kInf, 0, 0} {
    const PairKernels& k = kernels.pairs;
    each_tile([&](index_t j, index_t count) { k.tops(x + j, y + j, count, &s_); });
    const double top_x = std::isnan(s_.top_x) ? NAN : std::max(s_.top_x, s_.only_top_x),
                 top_y = std::isnan(s_.top_y) ? NAN : std::max(s_.top_y, s_.only_top_y);
    defined_ = std::isfinite(top_x) && std::isfinite(top_y);
    if (!defined_) return;
    each_tile([&](index_t j, index_t count) { k.sums(x + j, y + j, count, &s_); });
    common_ = s_.top_x > -kInf;
    if (!common_) {
      log_p_common_ = log_q_common_ = -kInf;
      return;
    }
    log_p_common_ = log_share(s_.top_x, s_.mass_x, s_.only_top_x, s_.only_x);
    log_q_common_ = log_share(s_.top_y, s_.mass_y, s_.only_top_y, s_.only_y);
    log_x_ = s_.top_x + std::log(s_.mass_x);
    log_y_ = s_.top_y + std::log(s_.mass_y);
    // With u = y - x - centre, log(sum exp(y) / sum exp(x)) = centre + log(1 + E u + E h(u)): centre is E (y - x) but
    // for rounding, and the terms of E h(u) do not cancel. Where it leaves the range, the difference says it.
    const double centre = s_.moment / s_.mass_x;
    const bool near = within(centre, 1);
    PairExcess sums{0, 0, kInf};
    each_tile([&](index_t j, index_t count) { k.excess(x + j, y + j, count, s_.top_x, centre, near, &sums); });
    const double mean = sums.mean / s_.mass_x, growth = std::log1p(mean + sums.excess / s_.mass_x);
    const double beyond =
        std::isfinite(growth) ? growth : s_.top_y - s_.top_x + (std::log(s_.mass_y) - std::log(s_.mass_x)) - centre;
    common_kl_ = beyond - mean;
    common_shift_ = centre + beyond;
    common_max_ = beyond - sums.least;
  }

  bool defined() const { return defined_; }
  // log q - log p = y - x - shift, where both are.
  double shift() const { return common_shift_ + (log_p_common_ - log_q_common_); }

  double kl() const { return s_.only_x > 0 || !common_ ? kInf : common_kl_ - log_q_common_; }

  double js() const {
    constexpr double log_2 = 0.69314718055994530942;
    if (!common_) return log_2;
    const double apart = -std::expm1(log_p_common_) - std::expm1(log_q_common_);
    const double log_x = log_x_ - log_p_common_, log_y = log_y_ - log_q_common_, l = shift();
    const bool near = within(l, 1);
    return log_2 / 2 * apart + sum([&](index_t j, index_t count) {
             return kernels_.pairs.middle(x_ + j, y_ + j, count, log_x, log_y, l, near);
           });
  }

  // log sum p^(1 - b) q^b
  double log_overlap(double b) const {
    const double a = 1 - b;
    if ((b < 0 && s_.only_x > 0) || (a < 0 && s_.only_y > 0)) return kInf;
    if (!common_) return -kInf;
    const bool near = within(common_shift_, 1 / std::max(1.0, std::fabs(b)));
    const double excess = sum([&](index_t j, index_t count) {
      return kernels_.pairs.tilt(x_ + j, y_ + j, count, log_x_, log_y_, common_shift_, b, near);
    });
    const double shares = a * log_p_common_ + b * log_q_common_;
    return shares + (excess > -0.5 && excess < 1 ? std::log1p(excess) : log_sum_of_powers(a, b));
  }

  // The largest log(p / q).
  double max_log_ratio() const { return s_.only_x > 0 || !common_ ? kInf : common_max_ - log_q_common_; }

 private:
  template <class F>
  void each_tile(F f) const {
    for (index_t j = 0; j < n_; j += kTile) f(j, std::min(kTile, n_ - j));
  }
  template <class F>
  double sum(F f) const {
    double total = 0;
    each_tile([&](index_t j, index_t count) { total += f(j, count); });
    return total;
  }
  bool within(double centre, double bound) const { return s_.largest - centre <= bound && centre - s_.least <= bound; }

  double log_sum_of_powers(double a, double b) const {
    LogSum state{-kInf, 0, 0};
    double scores[kTile];
    each_tile([&](index_t j, index_t count) {
      for (index_t i = 0; i < count; ++i) {
        const double x = x_[j + i], y = y_[j + i];
        scores[i] = x > -kInf && y > -kInf ? a * (x - log_x_) + b * (y - log_y_) : -kInf;
      }
      kernels_.f64.push_row(scores, count, false, &state);
    });
    return state.m + std::log1p(state.r);
  }

  const Kernels& kernels_;
  const double *x_, *y_;
  index_t n_;
  PairSums s_;
  bool defined_ = false, common_ = false;
  double log_p_common_ = 0, log_q_common_ = 0, log_x_ = 0, log_y_ = 0, common_kl_ = 0, common_shift_ = 0,
         common_max_ = 0;
};

double value_of(const Pair& pair, Divergence kind, double power) {
  switch (kind) {
    case Divergence::kl: return pair.kl();
    case Divergence::js: return pair.js();
    case Divergence::log_overlap: return pair.log_overlap(power);
    case Divergence::max_log_ratio: return pair.max_log_ratio();
  }
  return NAN;
}

// A row as adjacent float64 numbers: as it lies in memory, or in `buffer`.
const double* wide_row(const View& x, index_t row, std::vector<double>& buffer) {
  const char* base = x.data + x.outer.offset(row);
  const index_t n = x.cols();
  if (x.is_native(DType::f64) && x.inner.n <= 1 && (n == 1 || x.inner.last_stride() == sizeof(double)))
    return reinterpret_cast<const double*>(base);
  buffer.resize(static_cast<std::size_t>(n));
  load_span(x, base, x.inner, 0, n, buffer.data());
  return buffer.data();
}

template <class T>
bool weigh_gaps_as(const View& x, const double* tops, const View* w, const double* c, double* out) {
  const Kernels& kernels = active();
  const StoredScore<T> score(x), weights(w ? *w : x);
  const index_t rows = x.rows(), cols = x.cols();
  const Plan plan = row_plan(rows, cols);
  return for_units(plan.row_units(), rows * cols, [&](index_t unit) {
    for (index_t i = 0; i < plan.row_count(unit); ++i) {
      const index_t row = plan.first_row(unit) + i;
      double sums[2] = {0, 0};
      score.each_row_tile(row, 0, cols, [&](index_t col, index_t n, const T* tile) {
        const auto weigh = [&](index_t first, index_t count, const T* weight) {
          for (index_t j = 0; j < count; j += kTile)
            kernels.of<T>().weigh_gaps(tile + (first - col) + j, weight ? weight + j : nullptr,
                                       c ? c + first + j : nullptr, std::min(kTile, count - j), tops[row], sums);
        };
        if (w) weights.each_row_tile(row, col, n, weigh);
        else weigh(col, n, nullptr);
      });
      out[row] = sums[0];
      out[rows + row] = sums[1];
    }
  });
}

bool without_mass(const LogSum& s) { return s.m == -HUGE_VAL && s.r == 0; }

template <class T>
bool sum_softmax_as(const View& x, const double* factor, const LogSum* states, double* out) {
  const Kernels& kernels = active();
  const StoredScore<T> score(x);
  const index_t rows = x.rows(), cols = x.cols(), tiles = (cols + kTile - 1) / kTile;
  // Narrow arrays are cut along their rows as well, into pieces that are summed apart.
  const index_t pieces = std::clamp<index_t>(32 / std::max<index_t>(tiles, 1), 1, std::max<index_t>(rows / 1024, 1));
  const index_t length = (rows + pieces - 1) / pieces;
  std::vector<double> partial(static_cast<std::size_t>(pieces * cols), 0.0);
  const bool finished = for_units(tiles * pieces, rows * cols, [&](index_t unit) {
    const index_t piece = unit / tiles, col = unit % tiles * kTile;
    double* total = partial.data() + piece * cols;
    for (index_t row = piece * length; row < std::min(rows, (piece + 1) * length); ++row) {
      const LogSum& s = states[row];
      if (without_mass(s)) continue;
      const double share = std::isfinite(s.m) ? factor[row] / (1 + s.r) : NAN;
      score.each_row_tile(row, col, std::min(kTile, cols - col), [&](index_t j, index_t n, const T* tile) {
        kernels.of<T>().add_exps(tile, n, s.m, share, total + j);
      });
    }
  });
  for (index_t col = 0; col < cols; ++col) {
    out[col] = 0;
    for (index_t piece = 0; piece < pieces; ++piece) out[col] += partial[static_cast<std::size_t>(piece * cols + col)];
  }
  out[cols] = 0;
  for (index_t row = 0; row < rows; ++row)
    if (without_mass(states[row])) out[cols] += factor[row];
  return finished;
}

}  // namespace

bool divergences(const View& x, const View& y, Divergence kind, double power, double* out) {
  const Kernels& kernels = active();
  const index_t rows = x.rows(), cols = x.cols();
  const Plan plan = row_plan(rows, cols);
  return for_units(plan.row_units(), rows * cols, [&](index_t unit) {
    std::vector<double> x_buffer, y_buffer;
    for (index_t i = 0; i < plan.row_count(unit); ++i) {
      const index_t row = plan.first_row(unit) + i;
      const Pair pair(kernels, wide_row(x, row, x_buffer), wide_row(y, row, y_buffer), cols);
      out[row] = pair.defined() ? value_of(pair, kind, power) : NAN;
      out[rows + row] = pair.defined() ? pair.shift() : NAN;
    }
  });
}

bool weigh_gaps(const View& x, const double* tops, const View* w, const double* c, double* out) {
  return (computes_in_f32(x.dtype) ? weigh_gaps_as<float> : weigh_gaps_as<double>)(x, tops, w, c, out);
}

bool sum_softmax(const View& x, const double* factor, const LogSum* states, double* out) {
  return (computes_in_f32(x.dtype) ? sum_softmax_as<float> : sum_softmax_as<double>)(x, factor, states, out);
}

}  // namespace cpu
}  // namespace entropic
