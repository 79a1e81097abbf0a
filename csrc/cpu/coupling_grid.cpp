// Masses on the grid of 2^-53. On it every partial sum is exact in float64, so a coupling's marginals can be equal to
// its inputs to the last bit. Only plain IEEE operations: the same grid on every machine.
#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "coupling.hpp"
#include "dispatch.hpp"
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

// A mass of zero has no fraction.
constexpr double kNone = -1;
// Comparing so many fractions with each other is faster than a search.
constexpr index_t kFew = 32;
// Kernels take whole packs.
constexpr index_t kPadding = 7;

struct Scratch {
  struct Item {
    double fraction;
    index_t index;
  };
  std::vector<double> fractions;
  std::vector<Item> edge;
};

// A fraction becomes what its mass changes by.
void raise(double& fraction, std::uint64_t& mass, bool up) {
  mass += up;
  fraction = std::fabs(static_cast<double>(up) - std::max(fraction, 0.0));
}

// Few fractions: one goes up if fewer than `wanted` are larger. False, and nothing is done, where equal ones compete.
bool round_up_few(double* fractions, index_t n, index_t wanted, std::uint64_t* out) {
  double larger[kFew + kPadding];
  active().coupling->count_larger(fractions, n, larger);
  const double limit = static_cast<double>(wanted);
  index_t ups = 0;
  for (index_t i = 0; i < n; ++i)
    ups += static_cast<index_t>(larger[i] < limit) & static_cast<index_t>(fractions[i] != kNone);
  if (ups != wanted) return false;
  for (index_t i = 0; i < n; ++i) raise(fractions[i], out[i], larger[i] < limit);
  return true;
}

// Adds one to the masses with the `wanted` largest fractions, the first of equal ones; a mass of zero stays zero.
// Fractions are counted in bins first, so that only one bin has to be sorted.
void round_up(Scratch& scratch, index_t n, index_t wanted, std::uint64_t* out) {
  using Item = Scratch::Item;
  constexpr index_t fewest = 16, most = 1024;
  double* fractions = scratch.fractions.data();
  if (n <= kFew && round_up_few(fractions, n, wanted, out)) return;
  const int bins = static_cast<int>(std::min(std::max(n, fewest), most));
  std::array<index_t, most> counts;
  std::fill(counts.begin(), counts.begin() + bins, 0);
  for (index_t i = 0; i < n; ++i)
    if (fractions[i] != kNone) ++counts[static_cast<std::size_t>(fractions[i] * bins)];
  int bin = bins - 1;
  for (; bin > 0 && counts[static_cast<std::size_t>(bin)] < wanted; --bin)
    wanted -= counts[static_cast<std::size_t>(bin)];
  // Without branches: which masses go up is as good as random, so each item is written and the next may take its place.
  std::vector<Item>& edge = scratch.edge;
  edge.resize(static_cast<std::size_t>(counts[static_cast<std::size_t>(bin)] + 1));
  index_t at_edge = 0;
  for (index_t i = 0; i < n; ++i) {
    const double fraction = fractions[i];
    const int own = static_cast<int>(fraction * bins);
    edge[static_cast<std::size_t>(at_edge)] = {fraction, i};
    at_edge += own == bin && fraction != kNone;
    raise(fractions[i], out[i], own > bin);
  }
  // More than there are positive masses cannot be missing but by the rounding of the sum: then the largest takes it.
  const index_t many = std::min(wanted, at_edge);
  if (many < at_edge)
    std::nth_element(edge.begin(), edge.begin() + many, edge.begin() + at_edge, [](const Item& a, const Item& b) {
      return a.fraction != b.fraction ? a.fraction > b.fraction : a.index < b.index;
    });
  for (index_t k = 0; k < many; ++k) {
    const Item& item = edge[static_cast<std::size_t>(k)];
    raise(fractions[item.index], out[item.index], true);
  }
  if (wanted > many) *std::max_element(out, out + n) += static_cast<std::uint64_t>(wanted - many);
}

GridReport grid_row(const double* p, index_t n, std::uint64_t* out, Scratch& scratch) {
  double largest = 0;
  for (index_t i = 0; i < n; ++i) {
    if (!(p[i] >= 0 && p[i] < HUGE_VAL)) return {0, 0, i};
    largest = std::max(largest, p[i]);
  }
  if (largest == 0) return {0, 0, -1};
  const Scaling scaled(largest);
  const double sum = sum_of(p, n, scaled);
  scratch.fractions.resize(static_cast<std::size_t>(n + kPadding));
  double* fractions = scratch.fractions.data();
  std::uint64_t whole = 0;
  for (index_t i = 0; i < n; ++i) {
    const double units = scaled(p[i]) / sum * static_cast<double>(kTotal);
    const std::int64_t floor = static_cast<std::int64_t>(units);
    out[i] = static_cast<std::uint64_t>(floor);
    whole += out[i];
    fractions[i] = p[i] > 0 ? units - static_cast<double>(floor) : kNone;
  }
  if (whole < kTotal) round_up(scratch, n, static_cast<index_t>(kTotal - whole), out);
  // The rounded sum may be below the true one by half an ulp, and all quotients whole.
  if (whole > kTotal) *std::max_element(out, out + n) -= whole - kTotal;
  const double change = std::max(0.0, *std::max_element(fractions, fractions + n));
  return {sum / scaled.first / scaled.second, change, -1};
}

}  // namespace

bool grid_masses(const double* p, index_t rows, index_t n, std::uint64_t* out, GridReport* reports) {
  const index_t block = std::max<index_t>(1, 4096 / std::max<index_t>(1, n));
  return for_units((rows + block - 1) / block, rows * n, [&](index_t unit) {
    Scratch scratch;
    for (index_t row = unit * block; row < std::min(rows, (unit + 1) * block); ++row)
      reports[row] = grid_row(p + row * n, n, out + row * n, scratch);
  });
}

}  // namespace cpu
}  // namespace entropic
