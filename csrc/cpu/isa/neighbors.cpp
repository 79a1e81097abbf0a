// The nearest-neighbour kernels of one instruction set; the rules of isa/logits.cpp hold.
// clang-format off: the templates of neighbors.hpp find the packs' functions only where simd.hpp came before
#include "../kernels.hpp"
#include "../simd.hpp"
#include "entropic/neighbors.hpp"
#include "set.hpp"
// clang-format on

namespace entropic {
namespace {

using cpu::QueryBlock;
using D = NativePack<double>;
using F = NativePack<float>;
// A group of boxes is one or more whole packs, and so is a leaf.
static_assert(kFan % D::width == 0 && kLeafPoints % F::width == 0, "packs must divide leaves and groups");

// Queries in a block, queries that look at a leaf together, and how many bytes of leaves they all look at before they
// go on to the next: those stay in the cache.
constexpr index_t kMostQueries = 60;
constexpr int kAtOnce = 6;
constexpr index_t kBytesInCache = 1 << 17;

// Calls body(first leaf, last leaf, first query, how many) until each query has seen each leaf.
template <class Body>
ENTROPIC_INLINE void for_leaves(const PointTree& tree, index_t queries, Body body) {
  const index_t bytes = tree.d * kLeafPoints * static_cast<index_t>(sizeof(float));
  const index_t step = bytes < kBytesInCache ? kBytesInCache / bytes : 1;
  for (index_t first = 0; first < tree.leaves; first += step) {
    const index_t last = first + step < tree.leaves ? first + step : tree.leaves;
    index_t i = 0;
    for (; i + kAtOnce <= queries; i += kAtOnce) body(first, last, i, kAtOnce);
    for (; i < queries; ++i) body(first, last, i, 1);
  }
}

template <Metric metric, int dimension>
ENTROPIC_NOINLINE void nearest_as(const PointTree& tree, const Query* query, index_t queries, const Nearest* best) {
  if (tree.levels) {
    for (index_t i = 0; i < queries; ++i) nearest_in_tree<metric, dimension, D, F>(tree, query[i], best[i]);
    return;
  }
  for_leaves(tree, queries, [&](index_t first, index_t last, index_t i, int some) {
    if (some == kAtOnce) nearest_in_leaves<metric, kAtOnce, F>(tree, first, last, query + i, best + i);
    else nearest_in_leaves<metric, 1, F>(tree, first, last, query + i, best + i);
  });
}

template <Metric metric, int dimension>
ENTROPIC_NOINLINE void count_as(const PointTree& tree, const Query* query, index_t queries, const double* radius,
                                index_t* count) {
  for (index_t i = 0; i < queries; ++i)
    count[i] = tree.levels ? count_in_tree<metric, dimension, D, F>(tree, query[i], radius[i]) : 0;
  if (tree.levels) return;
  for_leaves(tree, queries, [&](index_t first, index_t last, index_t i, int some) {
    if (some == kAtOnce) count_in_leaves<metric, kAtOnce, F>(tree, first, last, query + i, radius + i, count + i);
    else count_in_leaves<metric, 1, F>(tree, first, last, query + i, radius + i, count + i);
  });
}

// Calls `function<metric, dimension>`, with loops of a known length in the plane and in space.
#define ENTROPIC_BY_DIMENSION(function, metric, ...)  \
  switch (tree.d) {                                   \
    case 2: return function<metric, 2>(__VA_ARGS__);  \
    case 3: return function<metric, 3>(__VA_ARGS__);  \
    default: return function<metric, 0>(__VA_ARGS__); \
  }
#define ENTROPIC_BY_METRIC(function, ...)                                                   \
  switch (metric) {                                                                         \
    case Metric::chebyshev: ENTROPIC_BY_DIMENSION(function, Metric::chebyshev, __VA_ARGS__) \
    case Metric::manhattan: ENTROPIC_BY_DIMENSION(function, Metric::manhattan, __VA_ARGS__) \
    default: ENTROPIC_BY_DIMENSION(function, Metric::euclidean, __VA_ARGS__)                \
  }
static_assert(kLargestExactLeaf == 3, "dimensions with exact leaves are those of the cases above");

void nearest_some(const PointTree& tree, Metric metric, const Query* query, index_t queries, const Nearest* best) {
  ENTROPIC_BY_METRIC(nearest_as, tree, query, queries, best)
}

void count_some(const PointTree& tree, Metric metric, const Query* query, index_t queries, const double* radius,
                index_t* count){ENTROPIC_BY_METRIC(count_as, tree, query, queries, radius, count)}

Query query_at(const PointTree& tree, const QueryBlock& queries, index_t i) {
  const float* rounded = queries.rounded ? queries.rounded + i * tree.d : nullptr;
  return {queries.q + i * tree.d,
          rounded,
          rounded ? queries.norm[i] : 0.0,
          queries.self ? queries.self[i] : 0,
          queries.place ? queries.place[i] : 0,
          queries.self ? queries.exclude : -1};
}

void nearest_of(const PointTree& tree, Metric metric, const QueryBlock& queries, index_t k, double* distance,
                std::int64_t* index) {
  Query query[kMostQueries];
  Nearest best[kMostQueries];
  for (index_t first = 0; first < queries.count; first += kMostQueries) {
    const index_t some = queries.count - first < kMostQueries ? queries.count - first : kMostQueries;
    for (index_t i = 0; i < some; ++i) {
      query[i] = query_at(tree, queries, first + i);
      best[i] = {distance + (first + i) * k, index + (first + i) * k, k};
      clear_nearest(best[i]);
    }
    nearest_some(tree, metric, query, some, best);
    for (index_t i = 0; i < some; ++i) sort_nearest(best[i]);
  }
}

void count_of(const PointTree& tree, Metric metric, const QueryBlock& queries, const double* radius, index_t* count) {
  Query query[kMostQueries];
  for (index_t first = 0; first < queries.count; first += kMostQueries) {
    const index_t some = queries.count - first < kMostQueries ? queries.count - first : kMostQueries;
    for (index_t i = 0; i < some; ++i) query[i] = query_at(tree, queries, first + i);
    count_some(tree, metric, query, some, radius + first, count + first);
  }
}

// Blocks of at most kBlockPoints points each: heaps that nearest_of has begun, or that start here.
template <Metric metric>
ENTROPIC_NOINLINE void block_pair_as(const PointTree& tree, const QueryBlock& a, const QueryBlock& b, index_t k,
                                     double* distance, std::int64_t* index) {
  Query query[kBlockPoints], point[kBlockPoints];
  Nearest best[kBlockPoints], best_of_point[kBlockPoints];
  float limits[kBlockPoints];
  double norm = 0;
  for (index_t i = 0; i < a.count; ++i) {
    query[i] = query_at(tree, a, i);
    best[i] = {distance + a.place[i] * k, index + a.place[i] * k, k};
    if (a.norm[i] > norm) norm = a.norm[i];
  }
  const index_t first = b.place[0] / kLeafPoints, last = (b.place[0] + b.count + kLeafPoints - 1) / kLeafPoints;
  if (a.place[0] == b.place[0]) {
    index_t i = 0;
    for (; i + kAtOnce <= a.count; i += kAtOnce)
      nearest_in_leaves<metric, kAtOnce, F>(tree, first, last, query + i, best + i);
    for (; i < a.count; ++i) nearest_in_leaves<metric, 1, F>(tree, first, last, query + i, best + i);
    return;
  }
  for (index_t j = 0; j < kBlockPoints; ++j) limits[j] = 0;
  for (index_t j = 0; j < b.count; ++j) {
    point[j] = query_at(tree, b, j);
    best_of_point[j] = {distance + b.place[j] * k, index + b.place[j] * k, k};
    limits[j] = column_limit<metric>(tree, point[j], best_of_point[j].distance[0], norm);
  }
  index_t i = 0;
  for (; i + kAtOnce <= a.count; i += kAtOnce)
    nearest_in_block<metric, kAtOnce, F>(tree, first, last, query + i, best + i, point, best_of_point, limits, norm);
  for (; i < a.count; ++i)
    nearest_in_block<metric, 1, F>(tree, first, last, query + i, best + i, point, best_of_point, limits, norm);
}

void block_pair_of(const PointTree& tree, Metric metric, const QueryBlock& a, const QueryBlock& b, index_t k,
                   double* distance, std::int64_t* index) {
  switch (metric) {
    case Metric::chebyshev: return block_pair_as<Metric::chebyshev>(tree, a, b, k, distance, index);
    case Metric::manhattan: return block_pair_as<Metric::manhattan>(tree, a, b, k, distance, index);
    default: return block_pair_as<Metric::euclidean>(tree, a, b, k, distance, index);
  }
}

void begin_nearest(index_t k, double* distance, std::int64_t* index) { clear_nearest({distance, index, k}); }
void end_nearest(index_t k, double* distance, std::int64_t* index) { sort_nearest({distance, index, k}); }

template <Metric metric, int K>
void distances_as(const PointTree& tree, index_t leaf, double* out) {
  if (tree.d == 2) nearest_of_leaf<metric, 2, K, D>(tree, leaf, out);
  else nearest_of_leaf<metric, 3, K, D>(tree, leaf, out);
}

template <Metric metric>
void distances_to(const PointTree& tree, index_t leaf, index_t k, double* out) {
  if (k <= 2) distances_as<metric, 2>(tree, leaf, out);
  else if (k <= 4) distances_as<metric, 4>(tree, leaf, out);
  else distances_as<metric, kMostLaneNeighbors>(tree, leaf, out);
}

void leaf_distances_of(const PointTree& tree, Metric metric, index_t leaf, index_t k, double* out) {
  switch (metric) {
    case Metric::chebyshev: return distances_to<Metric::chebyshev>(tree, leaf, k, out);
    case Metric::manhattan: return distances_to<Metric::manhattan>(tree, leaf, k, out);
    default: return distances_to<Metric::euclidean>(tree, leaf, k, out);
  }
}

}  // namespace

namespace cpu {

const NeighborKernels ENTROPIC_OF_SET(neighbors) = {nearest_of,    count_of,    begin_nearest,
                                                    block_pair_of, end_nearest, leaf_distances_of};

}  // namespace cpu
}  // namespace entropic
