// Cutting points into leaves that are close together.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "neighbors.hpp"
#include "pool.hpp"

namespace entropic {
namespace cpu {
namespace {

// Leaves first .. first + leaves - 1 take points of the same places.
struct Part {
  index_t first, leaves;
};

class Splitter {
 public:
  Splitter(const double* x, index_t n, index_t d, std::int32_t* order) : x_(x), n_(n), d_(d), order_(order), keys_(n) {}

  // Splits until a part has at most `most` leaves, and hands it to `end`.
  template <class F>
  void split(const Part& part, index_t most, F&& end) {
    if (part.leaves <= most) return end(part);
    index_t half = 1;  // the left one is a full subtree, so that groups of kFan leaves are parts
    while (2 * half < part.leaves) half *= 2;
    const index_t begin = part.first * kLeafPoints, middle = begin + half * kLeafPoints;
    cut(begin, middle, std::min(n_, (part.first + part.leaves) * kLeafPoints));
    split(Part{part.first, half}, most, end);
    split(Part{part.first + half, part.leaves - half}, most, end);
  }

 private:
  // Brings the least middle - begin points along the widest coordinate to the front; equals by their number, so that
  // the outcome does not depend on the way there.
  void cut(index_t begin, index_t middle, index_t end) {
    const index_t c = widest(begin, end);
    const auto keys = keys_.begin();
    for (index_t i = begin; i < end; ++i) keys[i] = {x_[static_cast<index_t>(order_[i]) * d_ + c], order_[i]};
    std::nth_element(keys + begin, keys + middle, keys + end);
    for (index_t i = begin; i < end; ++i) order_[i] = keys[i].second;
  }

  index_t widest(index_t begin, index_t end) const {
    index_t best = 0;
    double width = -1;
    for (index_t c = 0; c < d_; ++c) {
      double low = HUGE_VAL, high = -HUGE_VAL;
      for (index_t i = begin; i < end; ++i) {
        const double v = x_[static_cast<index_t>(order_[i]) * d_ + c];
        low = std::min(low, v);
        high = std::max(high, v);
      }
      if (high - low > width) {
        width = high - low;
        best = c;
      }
    }
    return best;
  }

  const double* x_;
  index_t n_, d_;
  std::int32_t* order_;
  std::vector<std::pair<double, std::int32_t>> keys_;
};

}  // namespace

std::vector<std::int32_t> spatial_order(const double* x, index_t n, index_t d) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  Splitter splitter(x, n, d, order.data());
  const Part all{0, (n + kLeafPoints - 1) / kLeafPoints};
  std::vector<Part> parts;
  splitter.split(all, std::max<index_t>(1, all.leaves / 32), [&](const Part& part) { parts.push_back(part); });
  for_units(static_cast<index_t>(parts.size()), n * 8,
            [&](index_t unit) { splitter.split(parts[static_cast<std::size_t>(unit)], 1, [](const Part&) {}); });
  return order;
}

}  // namespace cpu
}  // namespace entropic
