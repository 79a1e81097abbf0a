// Masses on the grid of 2^-53. On it every partial sum is exact in float64, so a coupling's marginals can be equal to
// its inputs to the last bit. Only plain IEEE operations: the same grid on every machine.
#include <algorithm>
#include <cmath>
#include <vector>

#include "coupling.hpp"
#include "pool.hpp"

namespace entropic {
namespace cpu {
namespace {

constexpr std::uint64_t kTotal = std::uint64_t(1) << 53;

// Powers of two that bring x below 2^32: one factor alone may overflow.
struct Scaling {
  double first, second;
  explicit Scaling(double largest) {
    int exponent;
    std::frexp(largest, &exponent);
    first = std::ldexp(1.0, (32 - exponent) / 2);
    second = std::ldexp(1.0, 32 - exponent - (32 - exponent) / 2);
  }
  double operator()(double x) const { return x * first * second; }
};

// The sum of scaled masses in three limbs of 32 bits: exact, so free of the order, for all that is above 2^-96 of the
// largest.
double sum_of(const double* p, index_t n, const Scaling& scaled) {
  constexpr double limb = 4294967296.0;
  std::int64_t high = 0, middle = 0, low = 0;
  for (index_t i = 0; i < n; ++i) {
    double x = scaled(p[i]);
    const std::int64_t a = static_cast<std::int64_t>(x);
    x = (x - static_cast<double>(a)) * limb;
    const std::int64_t b = static_cast<std::int64_t>(x);
    x = (x - static_cast<double>(b)) * limb;
    high += a;
    middle += b;
    low += static_cast<std::int64_t>(x);
  }
  middle += low >> 32;
  high += middle >> 32;
  const double rest = static_cast<double>(middle & 0xffffffffu) + static_cast<double>(low & 0xffffffffu) / limb;
  return static_cast<double>(high) + rest / limb;
}

// Adds one to the masses with the `wanted` largest fractions, the first of equal ones. Fractions are counted in bins
// first, so that only one bin has to be sorted; a fraction below 0 marks a mass of zero, which stays zero. Fractions
// become what their masses change by.
void round_up(std::vector<double>& fractions, index_t wanted, std::uint64_t* out) {
  struct Item {
    double fraction;
    std::size_t index;
  };
  constexpr int most = 1024, few = 64;
  const std::size_t n = fractions.size();
  const int bins = n < few ? few : most;
  index_t counts[most];
  std::fill(counts, counts + bins, 0);
  for (const double fraction : fractions)
    if (fraction >= 0) ++counts[static_cast<int>(fraction * bins)];
  int bin = bins - 1;
  for (; bin > 0 && counts[bin] < wanted; --bin) wanted -= counts[bin];
  const auto raise = [&](std::size_t i) {
    ++out[i];
    fractions[i] = 1 - fractions[i];
  };
  std::vector<Item> edge;
  edge.reserve(static_cast<std::size_t>(counts[bin]));
  for (std::size_t i = 0; i < n; ++i) {
    if (fractions[i] < 0) continue;
    const int own = static_cast<int>(fractions[i] * bins);
    if (own == bin) edge.push_back({fractions[i], i});
    if (own > bin) raise(i);
  }
  // More than there are positive masses cannot be missing but by the rounding of the sum: then the largest takes it.
  const index_t many = std::min(wanted, static_cast<index_t>(edge.size()));
  if (many < static_cast<index_t>(edge.size()))
    std::nth_element(edge.begin(), edge.begin() + many, edge.end(), [](const Item& a, const Item& b) {
      return a.fraction != b.fraction ? a.fraction > b.fraction : a.index < b.index;
    });
  for (index_t k = 0; k < many; ++k) raise(edge[static_cast<std::size_t>(k)].index);
  if (wanted > many) *std::max_element(out, out + n) += static_cast<std::uint64_t>(wanted - many);
}

GridReport grid_row(const double* p, index_t n, std::uint64_t* out, std::vector<double>& fractions) {
  double largest = 0;
  for (index_t i = 0; i < n; ++i) {
    if (!(p[i] >= 0 && p[i] < HUGE_VAL)) return {0, 0, i};
    largest = std::max(largest, p[i]);
  }
  if (largest == 0) return {0, 0, -1};
  const Scaling scaled(largest);
  const double sum = sum_of(p, n, scaled);
  fractions.resize(static_cast<std::size_t>(n));
  std::uint64_t whole = 0;
  for (index_t i = 0; i < n; ++i) {
    const double units = scaled(p[i]) / sum * static_cast<double>(kTotal);
    const std::int64_t floor = static_cast<std::int64_t>(units);
    out[i] = static_cast<std::uint64_t>(floor);
    whole += out[i];
    fractions[static_cast<std::size_t>(i)] = p[i] > 0 ? units - static_cast<double>(floor) : -1.0;
  }
  if (whole < kTotal) round_up(fractions, static_cast<index_t>(kTotal - whole), out);
  // The rounded sum may be below the true one by half an ulp, and all quotients whole.
  if (whole > kTotal) *std::max_element(out, out + n) -= whole - kTotal;
  const double change = std::max(0.0, *std::max_element(fractions.begin(), fractions.end()));
  return {sum / scaled.first / scaled.second, change, -1};
}

}  // namespace

bool grid_masses(const double* p, index_t rows, index_t n, std::uint64_t* out, GridReport* reports) {
  const index_t block = std::max<index_t>(1, 4096 / std::max<index_t>(1, n));
  return for_units((rows + block - 1) / block, rows * n, [&](index_t unit) {
    std::vector<double> fractions;
    for (index_t row = unit * block; row < std::min(rows, (unit + 1) * block); ++row)
      reports[row] = grid_row(p + row * n, n, out + row * n, fractions);
  });
}

}  // namespace cpu
}  // namespace entropic
