#include "neighbors.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "dispatch.hpp"
#include "entropic/neighbors.hpp"
#include "sweep.hpp"

namespace entropic {
namespace cpu {
namespace {

// Above this dimension a box around 32 points keeps hardly any query from looking into it.
constexpr index_t kLargestTreeDimension = 12;
constexpr index_t kQueriesAUnit = 60;

index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }

// The least number t such that a distance is within the radius exactly if it, or its square, is less than t.
double threshold(Metric metric, double radius, bool strict) {
  if (std::isnan(radius) || radius < 0) return 0;
  if (metric != Metric::euclidean) return strict ? radius : std::nextafter(radius, HUGE_VAL);
  const auto within = [&](double square) { return strict ? std::sqrt(square) < radius : std::sqrt(square) <= radius; };
  double t = radius * radius;
  while (within(t) && t < HUGE_VAL) t = std::nextafter(t, HUGE_VAL);
  while (t > 0 && !within(std::nextafter(t, 0.0))) t = std::nextafter(t, 0.0);
  return t;
}

double distance_to(const PointTree& tree, Metric metric, const double* q, index_t place) {
  switch (metric) {
    case Metric::chebyshev: return distance_to_place<Metric::chebyshev>(tree, q, place);
    case Metric::manhattan: return distance_to_place<Metric::manhattan>(tree, q, place);
    default: return distance_to_place<Metric::euclidean>(tree, q, place);
  }
}

// ---- the line: every metric is |x - q|, whose rounding keeps the order ----

struct Line {
  const double* x;
  const std::int32_t* order;
  index_t n;

  // The first place that is not left of the query, or its own.
  index_t place_of(const QueryBlock& block, index_t i) const {
    return block.self ? block.place[i] : std::lower_bound(x, x + n, block.q[i]) - x;
  }

  // The nearest on either side in turn.
  void nearest(const QueryBlock& block, index_t i, index_t k, double* distance, std::int64_t* index) const {
    const double q = block.q[i];
    const Query query{nullptr, nullptr, 0, block.self ? block.self[i] : 0, 0, block.self ? block.exclude : -1};
    index_t right = place_of(block, i), left = right - 1, found = 0;
    while (found < k && (left >= 0 || right < n)) {
      const double below = left >= 0 ? q - x[left] : HUGE_VAL, above = right < n ? x[right] - q : HUGE_VAL;
      const index_t at = below <= above && left >= 0 ? left-- : right++;
      if (is_excluded(query, order[at])) continue;
      distance[found] = std::min(below, above);
      index[found++] = order[at];
    }
    std::fill(distance + found, distance + k, HUGE_VAL);
    std::fill(index + found, index + k, std::int64_t{-1});
  }

  index_t count(const QueryBlock& block, index_t i, double radius) const {
    const index_t place = place_of(block, i);
    return run(block.q[i], place, 1, radius) + run(block.q[i], place, -1, radius);
  }

  // Of the places from `place` on (or before it, if `step` is -1), how many in a row are nearer than the radius: by
  // steps of growing length, then by halves without branches, of which half would be mispredicted.
  index_t run(double q, index_t place, int step, double radius) const {
    const index_t most = step > 0 ? n - place : place;
    const double* from = step > 0 ? x + place : x + place - 1;
    const auto within = [&](index_t i) { return (from[i * step] - q) * step < radius; };
    index_t reach = 1, known = 0;
    while (reach <= most && within(reach - 1)) {
      known = reach;
      reach *= 4;
    }
    for (index_t left = std::min(reach, most + 1) - known - 1; left > 0;) {
      const index_t half = (left + 1) / 2;
      known += half * static_cast<index_t>(within(known + half - 1));
      left -= half;
    }
    return known;
  }
};

std::vector<std::int32_t> identity_order(index_t n) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::vector<std::int32_t> sorted_order(const double* x, index_t n) {
  std::vector<std::pair<double, std::int32_t>> keys(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) keys[static_cast<std::size_t>(i)] = {x[i], static_cast<std::int32_t>(i)};
  std::sort(keys.begin(), keys.end());
  std::vector<std::int32_t> order;
  order.reserve(keys.size());
  for (const auto& key : keys) order.push_back(key.second);
  return order;
}

}  // namespace

PointIndex::PointIndex(const double* x, index_t n, index_t d)
    : n_(n), d_(d), place_(static_cast<std::size_t>(n)), rows_(static_cast<std::size_t>(n * d)) {
  const bool with_boxes = d > 1 && d <= kLargestTreeDimension;
  order_ = on_line() ? sorted_order(x, n) : with_boxes ? spatial_order(x, n, d) : identity_order(n);
  for (index_t place = 0; place < n; ++place) {
    const std::int32_t point = order_[static_cast<std::size_t>(place)];
    place_[static_cast<std::size_t>(point)] = static_cast<std::int32_t>(place);
    std::copy_n(x + point * d, d, rows_.data() + place * d);
  }
  if (!on_line()) fill_leaves();
  if (with_boxes) fill_boxes();
}

// (x - center) * scale as floats, `stride` apart; returns its Euclidean norm.
double PointIndex::round_point(const double* x, float* rounded, index_t stride) const {
  double square = 0;
  for (index_t c = 0; c < d_; ++c) {
    const double moved = (x[c] - center_[static_cast<std::size_t>(c)]) * scale_;
    rounded[c * stride] = static_cast<float>(moved);
    square += moved * moved;
  }
  return std::sqrt(square);
}

void PointIndex::fill_leaves() {
  const index_t leaves = ceil_div(n_, kLeafPoints);
  const std::size_t size = static_cast<std::size_t>(leaves * d_ * kLeafPoints);
  if (d_ <= kLargestExactLeaf) {
    exact_.assign(size, HUGE_VAL);
    for (index_t place = 0; place < n_; ++place)
      for (index_t c = 0; c < d_; ++c)
        exact_[static_cast<std::size_t>((place / kLeafPoints * d_ + c) * kLeafPoints + place % kLeafPoints)] =
            rows_[static_cast<std::size_t>(place * d_ + c)];
    return;
  }
  // The middle of the range, and a power of two that brings it to -1 .. 1: floats then neither overflow nor lose more
  // than their last digit.
  center_.assign(static_cast<std::size_t>(d_), 0.0);
  double widest = 0;
  std::vector<double> low(rows_.begin(), rows_.begin() + d_), high(low);
  for (index_t place = 1; place < n_; ++place)
    for (std::size_t c = 0; c < low.size(); ++c) {
      const double v = rows_[static_cast<std::size_t>(place * d_) + c];
      low[c] = std::min(low[c], v);
      high[c] = std::max(high[c], v);
    }
  for (std::size_t c = 0; c < low.size(); ++c) {
    center_[c] = low[c] / 2 + high[c] / 2;
    widest = std::max(widest, high[c] / 2 - low[c] / 2);
  }
  scale_ = widest > 0 ? std::ldexp(1.0, std::max(-1022, std::min(1022, -std::ilogb(widest)))) : 1.0;
  rounded_.assign(size + static_cast<std::size_t>(leaves * kLeafPoints), 0.0F);
  norms_.assign(static_cast<std::size_t>(leaves), 0.0);
  for_units(leaves, n_ * d_, [&](index_t leaf) {
    float* to = rounded_.data() + leaf * (d_ + 1) * kLeafPoints;
    double& largest = norms_[static_cast<std::size_t>(leaf)];
    const index_t first = leaf * kLeafPoints, some = std::min<index_t>(kLeafPoints, n_ - first);
    for (index_t lane = 0; lane < some; ++lane) {
      const double norm = round_point(rows_.data() + (first + lane) * d_, to + lane, kLeafPoints);
      to[d_ * kLeafPoints + lane] = static_cast<float>(-norm * norm / 2);
      largest = std::max(largest, norm);
    }
  });
}

// Boxes from the leaves up. A box that stands for nothing is from infinity to -infinity, and far from everything.
void PointIndex::fill_boxes() {
  index_t nodes = ceil_div(n_, kLeafPoints);
  do {
    const index_t groups = ceil_div(nodes, kFan);
    std::vector<double> level(static_cast<std::size_t>(groups * d_ * 2 * kFan));
    const double* below = boxes_.empty() ? nullptr : boxes_.back().data();
    for (index_t node = 0; node < groups * kFan; ++node) {
      for (index_t c = 0; c < d_; ++c) {
        double low = HUGE_VAL, high = -HUGE_VAL;
        if (node < nodes && below) {
          const double* child = below + (node * d_ + c) * 2 * kFan;
          low = *std::min_element(child, child + kFan);
          high = *std::max_element(child + kFan, child + 2 * kFan);
        } else if (node < nodes) {
          for (index_t place = node * kLeafPoints; place < std::min(n_, (node + 1) * kLeafPoints); ++place) {
            low = std::min(low, rows_[static_cast<std::size_t>(place * d_ + c)]);
            high = std::max(high, rows_[static_cast<std::size_t>(place * d_ + c)]);
          }
        }
        double* box = level.data() + (node / kFan * d_ + c) * 2 * kFan + node % kFan;
        box[0] = low;
        box[kFan] = high;
      }
    }
    boxes_.push_back(std::move(level));
    nodes = groups;
  } while (nodes > 1);
}

PointTree PointIndex::tree() const {
  PointTree tree{n_,
                 d_,
                 ceil_div(n_, kLeafPoints),
                 static_cast<int>(boxes_.size()),
                 rows_.data(),
                 order_.data(),
                 exact_.data(),
                 rounded_.data(),
                 norms_.data(),
                 scale_,
                 {}};
  for (std::size_t h = 0; h < boxes_.size(); ++h) tree.boxes[h] = boxes_[h].data();
  return tree;
}

// Calls search(block, numbers) for the queries, some at a time, neighbours together.
template <class F>
bool PointIndex::for_queries(const Queries& queries, index_t cost, F&& search) const {
  const bool own = !queries.q;
  std::vector<std::int32_t> sorted;
  if (!own && !boxes_.empty()) sorted = spatial_order(queries.q, queries.count, d_);
  const index_t units = ceil_div(queries.count, kQueriesAUnit);
  return for_units(units, queries.count * cost, [&](index_t unit) {
    const index_t first = unit * kQueriesAUnit, some = std::min(kQueriesAUnit, queries.count - first);
    index_t number[kQueriesAUnit], place[kQueriesAUnit];
    double norm[kQueriesAUnit];
    std::vector<double> gathered;
    std::vector<float> rounded;
    for (index_t i = 0; i < some; ++i) {
      const std::size_t at = static_cast<std::size_t>(first + i);
      number[i] = own ? order_[at] : sorted.empty() ? first + i : sorted[at];
      place[i] = own ? first + i : 0;
    }
    const double* q = own ? rows_.data() + first * d_ : queries.q + first * d_;
    if (!sorted.empty()) {
      gathered.resize(static_cast<std::size_t>(some * d_));
      for (index_t i = 0; i < some; ++i) std::copy_n(queries.q + number[i] * d_, d_, gathered.data() + i * d_);
      q = gathered.data();
    }
    if (!rounded_.empty()) {
      rounded.resize(static_cast<std::size_t>(some * d_));
      for (index_t i = 0; i < some; ++i) norm[i] = round_point(q + i * d_, rounded.data() + i * d_, 1);
    }
    search(QueryBlock{some, q, rounded_.empty() ? nullptr : rounded.data(), norm, own ? number : nullptr, place,
                      queries.exclude},
           number);
  });
}

namespace {

// The points of a block of leaves as queries; in an index without boxes a point's place is its number.
struct BlockQueries {
  std::vector<double> norm;
  std::vector<float> rounded;
  std::vector<index_t> place;
};

}  // namespace

// Every distance between two points is filtered once, for both of them.
bool PointIndex::nearest_by_blocks(Metric metric, index_t k, index_t exclude, double* distance,
                                   std::int64_t* index) const {
  const PointTree points = tree();
  const NeighborKernels& kernels = *active().neighbors;
  for (index_t i = 0; i < n_; ++i) kernels.begin_nearest(k, distance + i * k, index + i * k);
  const index_t bytes = d_ * kLeafPoints * static_cast<index_t>(sizeof(float));
  const index_t leaves = std::max<index_t>(1, std::min<index_t>(kBlockPoints / kLeafPoints, (1 << 17) / bytes));
  const index_t size = leaves * kLeafPoints, blocks = ceil_div(n_, size);
  const auto queries_of = [&](index_t block, BlockQueries& kept) {
    const index_t first = block * size, some = std::min(size, n_ - first);
    kept.norm.resize(static_cast<std::size_t>(some));
    kept.place.resize(static_cast<std::size_t>(some));
    kept.rounded.resize(static_cast<std::size_t>(some * d_));
    std::iota(kept.place.begin(), kept.place.end(), first);
    for (index_t i = 0; i < some; ++i)
      kept.norm[static_cast<std::size_t>(i)] =
          round_point(rows_.data() + (first + i) * d_, kept.rounded.data() + i * d_, 1);
    return QueryBlock{
        some,   rows_.data() + first * d_, kept.rounded.data(), kept.norm.data(), kept.place.data(), kept.place.data(),
        exclude};
  };
  const bool finished = each_block_pair(blocks, n_ * size, [&](index_t i, index_t j) {
    BlockQueries kept_a, kept_b;
    const QueryBlock a = queries_of(i, kept_a), b = queries_of(j, kept_b);
    kernels.block_pair(points, metric, a, b, k, distance, index);
  });
  if (!finished) return false;
  return for_units(ceil_div(n_, kBlockPoints), n_ * k, [&](index_t unit) {
    for (index_t i = unit * kBlockPoints; i < std::min(n_, (unit + 1) * kBlockPoints); ++i) {
      kernels.end_nearest(k, distance + i * k, index + i * k);
      if (metric == Metric::euclidean)
        for (index_t c = i * k; c < (i + 1) * k; ++c) distance[c] = std::sqrt(distance[c]);
    }
  });
}

bool PointIndex::nearest(Metric metric, const Queries& queries, index_t k, double* distance,
                         std::int64_t* index) const {
  if (!queries.q && !on_line() && boxes_.empty()) return nearest_by_blocks(metric, k, queries.exclude, distance, index);
  const PointTree points = tree();
  return for_queries(queries, 256, [&](const QueryBlock& block, const index_t* number) {
    std::vector<double> found(static_cast<std::size_t>(block.count * k));
    std::vector<std::int64_t> who(found.size());
    if (on_line()) {
      const Line line{rows_.data(), order_.data(), n_};
      for (index_t i = 0; i < block.count; ++i) line.nearest(block, i, k, found.data() + i * k, who.data() + i * k);
    } else {
      active().neighbors->nearest(points, metric, block, k, found.data(), who.data());
      if (metric == Metric::euclidean)
        for (double& x : found) x = std::sqrt(x);
    }
    for (index_t i = 0; i < block.count; ++i) {
      std::copy_n(found.data() + i * k, k, distance + number[i] * k);
      std::copy_n(who.data() + i * k, k, index + number[i] * k);
    }
  });
}

bool PointIndex::distances(Metric metric, index_t k, double* distance) const {
  if (exact_.empty() || k > kMostLaneNeighbors) {
    std::vector<std::int64_t> index(static_cast<std::size_t>(n_ * k));
    return nearest(metric, {nullptr, n_, 0}, k, distance, index.data());
  }
  const PointTree points = tree();
  return for_units(points.leaves, n_ * 256, [&](index_t leaf) {
    double found[kMostLaneNeighbors * kLeafPoints];
    active().neighbors->leaf_distances(points, metric, leaf, k, found);
    for (index_t lane = 0; lane < std::min<index_t>(kLeafPoints, n_ - leaf * kLeafPoints); ++lane) {
      double* to = distance + order_[static_cast<std::size_t>(leaf * kLeafPoints + lane)] * k;
      for (index_t i = 0; i < k; ++i) {
        const double x = found[i * kLeafPoints + lane];
        to[i] = metric == Metric::euclidean ? std::sqrt(x) : x;
      }
    }
  });
}

index_t PointIndex::count_excluded(Metric metric, const double* q, index_t self, index_t exclude, double radius) const {
  const PointTree points = tree();
  index_t count = 0;
  for (index_t i = std::max<index_t>(0, self - exclude); i <= std::min(n_ - 1, self + exclude); ++i)
    count += distance_to(points, metric, q, place_[static_cast<std::size_t>(i)]) < radius;
  return count;
}

bool PointIndex::count(Metric metric, const Queries& queries, const double* radius, bool strict,
                       std::int64_t* count) const {
  if (on_line()) metric = Metric::chebyshev;  // the same, without squares
  const PointTree points = tree();
  return for_queries(queries, 128, [&](const QueryBlock& block, const index_t* number) {
    double within[kQueriesAUnit];
    index_t found[kQueriesAUnit];
    for (index_t i = 0; i < block.count; ++i) within[i] = threshold(metric, radius[number[i]], strict);
    if (on_line()) {
      const Line line{rows_.data(), order_.data(), n_};
      for (index_t i = 0; i < block.count; ++i) found[i] = line.count(block, i, within[i]);
    } else {
      active().neighbors->count(points, metric, block, within, found);
    }
    for (index_t i = 0; i < block.count; ++i) {
      if (block.self) found[i] -= count_excluded(metric, block.q + i * d_, number[i], queries.exclude, within[i]);
      count[number[i]] = found[i];
    }
  });
}

}  // namespace cpu
}  // namespace entropic
