// Kraskov's first estimate for many pairs of columns, a pair to a unit of work.
#include <algorithm>
#include <memory>
#include <vector>

#include "neighbors.hpp"
#include "pool.hpp"

namespace entropic {
namespace cpu {
namespace {

// psi(k) + psi(n) - mean(psi(n_x + 1) + psi(n_y + 1)), for a space (x, y) whose coordinates are indexed by themselves.
PairInformation information(const PointIndex& x, const PointIndex& y, const double* z, index_t n, index_t k,
                            const double* digamma) {
  const PointIndex joint(z, n, 2);
  const index_t most = std::min(k + 1, n - 1);
  std::vector<double> distance(static_cast<std::size_t>(n * most)), radius(static_cast<std::size_t>(n));
  joint.distances(Metric::chebyshev, most, distance.data());
  PairInformation result{0, 0, 0};
  for (index_t i = 0; i < n; ++i) {
    const double* own = distance.data() + i * most;
    radius[static_cast<std::size_t>(i)] = own[k - 1];
    result.atoms += own[k - 1] == 0;
    result.tied += own[k - 1] == 0 || (most > k && own[k - 1] == own[k]);
  }
  double sum = 0;
  std::vector<std::int64_t> count(static_cast<std::size_t>(n));
  for (const PointIndex* line : {&x, &y}) {
    line->count(Metric::chebyshev, {nullptr, n, 0}, radius.data(), true, count.data());
    for (const std::int64_t c : count) sum += digamma[c + 1];
  }
  result.value = digamma[k] + digamma[n] - sum / static_cast<double>(n);
  return result;
}

}  // namespace

bool pair_informations(const double* columns, index_t count, index_t n, const Pair* pairs, index_t pair_count,
                       index_t k, const double* digamma, PairInformation* out) {
  std::vector<std::unique_ptr<PointIndex>> lines(static_cast<std::size_t>(count));
  const bool sorted = for_units(count, count * n * 16, [&](index_t c) {
    lines[static_cast<std::size_t>(c)] = std::make_unique<PointIndex>(columns + c * n, n, 1);
  });
  return sorted && for_units(pair_count, pair_count * n * 512, [&](index_t unit) {
           const Pair& pair = pairs[unit];
           std::vector<double> z(static_cast<std::size_t>(2 * n));
           for (index_t i = 0; i < n; ++i) {
             z[static_cast<std::size_t>(2 * i)] = columns[pair.x * n + i];
             z[static_cast<std::size_t>(2 * i + 1)] = columns[pair.y * n + i];
           }
           out[unit] = information(*lines[static_cast<std::size_t>(pair.x)], *lines[static_cast<std::size_t>(pair.y)],
                                   z.data(), n, k, digamma);
         });
}

}  // namespace cpu
}  // namespace entropic
