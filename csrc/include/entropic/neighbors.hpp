// The k nearest of a set of points, and how many lie nearer than a radius: exact, in every metric.
//
// A distance is folded over the coordinates in their order and never fused, so that it has the same bits wherever it
// is computed. What a box bounds is folded in the same way from differences that are rounded monotonically, and is
// therefore a bound of the computed distances too: nothing needs a margin. Euclidean distances are squares in here.
#pragma once

#include "config.hpp"
#include "scalar.hpp"

namespace entropic {
namespace {

template <Metric metric, class P>
ENTROPIC_INLINE P add_difference(P sum, P difference) {
  if (metric == Metric::chebyshev) return pick_max(absolute(difference), sum);
  if (metric == Metric::manhattan) return sum + absolute(difference);
  return sum + difference * difference;
}

// What a search is for: a point q, and (q - center) * scale, rounded, with its Euclidean norm. `self` is
// its number among the points, and those whose numbers are at most `exclude` away from it are left out; exclude = -1
// leaves out none.
struct Query {
  const double* q;
  const float* rounded;
  double norm;
  index_t self, place, exclude;
};

ENTROPIC_INLINE bool is_excluded(const Query& query, index_t point) {
  const index_t apart = point < query.self ? query.self - point : point - query.self;
  return apart <= query.exclude;
}

// The k nearest so far, a heap whose first is the farthest.
struct Nearest {
  double* distance;
  std::int64_t* index;
  index_t k;
};

ENTROPIC_INLINE bool is_farther(const Nearest& best, index_t a, index_t b) {
  return best.distance[a] > best.distance[b] || (best.distance[a] == best.distance[b] && best.index[a] > best.index[b]);
}

ENTROPIC_INLINE void swap_places(const Nearest& best, index_t a, index_t b) {
  const double distance = best.distance[a];
  const std::int64_t index = best.index[a];
  best.distance[a] = best.distance[b];
  best.index[a] = best.index[b];
  best.distance[b] = distance;
  best.index[b] = index;
}

// Moves what stands at `place` down to where it belongs in a heap of `size`.
ENTROPIC_INLINE void sift_down(const Nearest& best, index_t place, index_t size) {
  for (;;) {
    index_t child = 2 * place + 1;
    if (child >= size) return;
    if (child + 1 < size && is_farther(best, child + 1, child)) ++child;
    if (!is_farther(best, child, place)) return;
    swap_places(best, child, place);
    place = child;
  }
}

ENTROPIC_INLINE void offer(const Nearest& best, double distance, index_t point) {
  best.distance[0] = distance;
  best.index[0] = point;
  sift_down(best, 0, best.k);
}

ENTROPIC_INLINE void clear_nearest(const Nearest& best) {
  for (index_t i = 0; i < best.k; ++i) {
    best.distance[i] = HUGE_VAL;
    best.index[i] = -1;
  }
}

// From a heap to ascending order.
ENTROPIC_INLINE void sort_nearest(const Nearest& best) {
  for (index_t size = best.k; size > 1; --size) {
    swap_places(best, 0, size - 1);
    sift_down(best, 0, size - 1);
  }
}

ENTROPIC_INLINE int first_bit(unsigned bits) {
#if defined(__GNUC__)
  return __builtin_ctz(bits);
#else
  int i = 0;
  for (; !(bits & 1); bits >>= 1) ++i;
  return i;
#endif
}

ENTROPIC_INLINE int count_bits(unsigned bits) {
#if defined(__GNUC__)
  return __builtin_popcount(bits);
#else
  int count = 0;
  for (; bits; bits &= bits - 1) ++count;
  return count;
#endif
}

// The distance from q to the point at a place of the tree.
template <Metric metric>
ENTROPIC_INLINE double distance_to_place(const PointTree& tree, const double* q, index_t place) {
  const double* point = tree.rows + place * tree.d;
  Scalar<double> sum(0.0);
  for (index_t c = 0; c < tree.d; ++c) sum = add_difference<metric>(sum, Scalar<double>(q[c] - point[c]));
  return sum.v;
}

// ---- leaves that hold the coordinates ----

template <Metric metric, int D, class P>
ENTROPIC_INLINE void leaf_distances(const double* q, const double* leaf, double* out) {
  for (int j = 0; j < kLeafPoints; j += P::width) {
    P sum(0.0);
    for (int c = 0; c < D; ++c) sum = add_difference<metric>(sum, P(q[c]) - P::load(leaf + c * kLeafPoints + j));
    sum.store(out + j);
  }
}

// ---- leaves of rounded coordinates: a filter, behind which the distances are computed ----
//
// With u = 2^-24, rounding moves each of two points by at most u times its norm, and a sum over d coordinates is off by
// a factor of at most 1 + (d + 2) u. What is above the upper of the limits is outside a radius, and what is below the
// lower is within. The factors leave room for the limits' own rounding.
struct Limits {
  float low, high;
};

constexpr double kFloatUnit = 5.9604644775390625e-08;

ENTROPIC_INLINE const float* rounded_leaf(const PointTree& tree, index_t leaf) {
  return tree.rounded + leaf * (tree.d + 1) * kLeafPoints;
}

// The places of a leaf where there is a point, as bits.
ENTROPIC_INLINE unsigned places_of(const PointTree& tree, index_t leaf) {
  const index_t points = tree.n - leaf * kLeafPoints;
  return points < kLeafPoints ? (1u << points) - 1 : ~0u;
}
static_assert(kLeafPoints == 32, "a leaf's places are the bits of an unsigned");

// What the limits of a query have in common until its radius changes: rounded_distances' bound r, or
// product_distances'.
struct Reach {
  double r, own;
};

template <Metric metric, bool products>
ENTROPIC_INLINE Reach reach_of(const PointTree& tree, const Query& query, double radius) {
  const double d = static_cast<double>(tree.d);
  if (products) return {radius * tree.scale * tree.scale, query.norm};
  return {(metric == Metric::euclidean ? ::sqrt(radius) : radius) * tree.scale,
          query.norm * (metric == Metric::manhattan ? ::sqrt(d) : 1.0)};
}

template <Metric metric, bool products>
ENTROPIC_INLINE Limits limits_of(const PointTree& tree, const Reach& reach, index_t leaf) {
  const double d = static_cast<double>(tree.d), factor = (d + 8) * kFloatUnit;
  if (products) {
    // |y|^2 / 2 - <q, y> is (|q - y|^2 - |q|^2) / 2; every step is off by at most u of a partial sum, and those are at
    // most |y|^2 / 2 + |q| |y|.
    const double other = tree.norms[leaf], square = reach.own * reach.own;
    const double middle = (reach.r - square) / 2;
    const double off = 1.01 * (factor * other * (other / 2 + reach.own) + kFloatUnit * (reach.r + square)) + 1e-37;
    return {static_cast<float>(middle - off), static_cast<float>(middle + off)};
  }
  const double other = tree.norms[leaf] * (metric == Metric::manhattan ? ::sqrt(d) : 1.0);
  const double moved = 1.001 * kFloatUnit * (reach.own + other) + 1e-37;
  const double high = reach.r + moved, low = reach.r > moved ? reach.r - moved : 0.0;
  const double top = (metric == Metric::euclidean ? high * high : high) * (1 + factor);
  const double bottom = (metric == Metric::euclidean ? low * low : low) * (factor < 1 ? 1 - factor : 0.0);
  return {static_cast<float>(bottom), static_cast<float>(top)};
}

template <Metric metric, class P>
ENTROPIC_INLINE P add_rounded(P sum, P difference) {
  if (metric == Metric::euclidean) return fma(difference, difference, sum);
  return add_difference<metric>(sum, difference);
}

template <Metric metric, class P>
ENTROPIC_INLINE P join_rounded(P a, P b) {
  return metric == Metric::chebyshev ? pick_max(a, b) : a + b;
}

// Distances from `queries` points, `stride` apart, to the points of a leaf. One query's sums are cut in two, which
// keeps more of them under way at a time.
template <Metric metric, int queries, class P>
ENTROPIC_INLINE void rounded_distances(const float* q, index_t stride, const float* leaf, index_t d,
                                       float (*out)[kLeafPoints]) {
  constexpr int packs = kLeafPoints / P::width < 2 ? kLeafPoints / P::width : 2;
  constexpr int parts = queries > 1 ? 1 : 2;
  for (int j = 0; j < kLeafPoints; j += packs * P::width) {
    P sum[parts][queries][packs];
    for (int s = 0; s < parts; ++s)
      for (int i = 0; i < queries; ++i)
        for (int p = 0; p < packs; ++p) sum[s][i][p] = P(0.0f);
    index_t c = 0;
    for (; c + parts <= d; c += parts)
      for (int s = 0; s < parts; ++s)
        for (int p = 0; p < packs; ++p) {
          const P y = P::load(leaf + (c + s) * kLeafPoints + j + p * P::width);
          for (int i = 0; i < queries; ++i)
            sum[s][i][p] = add_rounded<metric>(sum[s][i][p], P(q[i * stride + c + s]) - y);
        }
    for (; c < d; ++c)
      for (int p = 0; p < packs; ++p) {
        const P y = P::load(leaf + c * kLeafPoints + j + p * P::width);
        for (int i = 0; i < queries; ++i) sum[0][i][p] = add_rounded<metric>(sum[0][i][p], P(q[i * stride + c]) - y);
      }
    for (int i = 0; i < queries; ++i)
      for (int p = 0; p < packs; ++p)
        (parts > 1 ? join_rounded<metric>(sum[0][i][p], sum[parts - 1][i][p]) : sum[0][i][p])
            .store(out[i] + j + p * P::width);
  }
}

// Half the squared distances less half the query's squared norm: one operation a coordinate instead of two, but what is
// off grows with the norms, so that it is for searches that look at every leaf.
template <int queries, class P>
ENTROPIC_INLINE void product_distances(const float* q, index_t stride, const float* leaf, index_t d,
                                       float (*out)[kLeafPoints]) {
  constexpr int packs = kLeafPoints / P::width < 2 ? kLeafPoints / P::width : 2;
  for (int j = 0; j < kLeafPoints; j += packs * P::width) {
    P sum[queries][packs];
    for (int i = 0; i < queries; ++i)
      for (int p = 0; p < packs; ++p) sum[i][p] = P::load(leaf + d * kLeafPoints + j + p * P::width);
    for (index_t c = 0; c < d; ++c) {
      P y[packs];
      for (int p = 0; p < packs; ++p) y[p] = P::load(leaf + c * kLeafPoints + j + p * P::width);
      for (int i = 0; i < queries; ++i) {
        const P x(q[i * stride + c]);
        for (int p = 0; p < packs; ++p) sum[i][p] = fma(x, y[p], sum[i][p]);
      }
    }
    for (int i = 0; i < queries; ++i)
      for (int p = 0; p < packs; ++p) (P(0.0f) - sum[i][p]).store(out[i] + j + p * P::width);
  }
}

// Where rounded distances are above a limit, or below it, as bits; nan is neither.
template <class P>
ENTROPIC_INLINE unsigned above(const float* distance, float limit) {
  unsigned bits = 0;
  for (int j = 0; j < kLeafPoints; j += P::width) bits |= lane_bits(greater(P::load(distance + j), P(limit))) << j;
  return bits;
}
template <class P>
ENTROPIC_INLINE unsigned below(const float* distance, float limit) {
  unsigned bits = 0;
  for (int j = 0; j < kLeafPoints; j += P::width) bits |= lane_bits(greater(P(limit), P::load(distance + j))) << j;
  return bits;
}

// ---- boxes ----

// Lower bounds of the distances from q to the points in each of a group's boxes, and upper bounds where asked for.
template <Metric metric, int D, bool with_far, class P>
ENTROPIC_INLINE void box_distances(const double* q, const double* boxes, index_t depth, double* near, double* far) {
  const index_t d = D ? D : depth;
  for (int j = 0; j < kFan; j += P::width) {
    P low(0.0), high(0.0);
    for (index_t c = 0; c < d; ++c) {
      const P below = P::load(boxes + c * 2 * kFan + j) - P(q[c]);
      const P above = P(q[c]) - P::load(boxes + (c * 2 + 1) * kFan + j);
      low = add_difference<metric>(low, pick_max(pick_max(below, above), P(0.0)));
      // The farther side's difference has the larger of -below and -above.
      if (with_far) high = add_difference<metric>(high, pick_min(below, above));
    }
    low.store(near + j);
    if (with_far) high.store(far + j);
  }
}

// ---- the k nearest ----

ENTROPIC_INLINE void offer_place(const PointTree& tree, index_t place, double distance, const Query& query,
                                 const Nearest& best) {
  if (!(distance < best.distance[0])) return;
  const index_t point = tree.order[place];
  if (!is_excluded(query, point)) offer(best, distance, point);
}

template <Metric metric, int D, class P>
ENTROPIC_INLINE void offer_exact_leaf(const PointTree& tree, index_t leaf, const Query& query, const Nearest& best) {
  double distance[kLeafPoints];
  leaf_distances<metric, D, P>(query.q, tree.exact + leaf * D * kLeafPoints, distance);
  for (int j = 0; j < kLeafPoints; j += P::width)
    for (unsigned nearer = lane_bits(greater(P(best.distance[0]), P::load(distance + j))); nearer;
         nearer &= nearer - 1) {
      const int lane = j + first_bit(nearer);
      offer_place(tree, leaf * kLeafPoints + lane, distance[lane], query, best);
    }
}

template <Metric metric>
ENTROPIC_INLINE void offer_places(const PointTree& tree, index_t leaf, unsigned places, const Query& query,
                                  const Nearest& best) {
  for (places &= places_of(tree, leaf); places; places &= places - 1) {
    const index_t place = leaf * kLeafPoints + first_bit(places);
    offer_place(tree, place, distance_to_place<metric>(tree, query.q, place), query, best);
  }
}

template <Metric metric, int D, class P, class F>
ENTROPIC_INLINE void offer_leaf(const PointTree& tree, index_t leaf, const Query& query, const Nearest& best) {
  if constexpr (D != 0) {
    offer_exact_leaf<metric, D, P>(tree, leaf, query, best);
  } else {
    float distance[1][kLeafPoints];
    rounded_distances<metric, 1, F>(query.rounded, 0, rounded_leaf(tree, leaf), tree.d, distance);
    const Limits limits = limits_of<metric, false>(tree, reach_of<metric, false>(tree, query, best.distance[0]), leaf);
    offer_places<metric>(tree, leaf, ~above<F>(distance[0], limits.high), query, best);
  }
}

// From the leaf of the query's place (any, where it has none) up: at each box the nearest child first, down to the
// leaves. P is a pack of doubles, F of floats.
template <Metric metric, int D, class P, class F>
ENTROPIC_INLINE void nearest_in_tree(const PointTree& tree, const Query& query, const Nearest& best) {
  double gap[kMaxLevels][kFan];
  unsigned open[kMaxLevels];
  index_t group[kMaxLevels];
  const index_t d = D ? D : tree.d;
  const auto enter = [&](int level, index_t node) {
    group[level] = node;
    open[level] = (1u << kFan) - 1;
    box_distances<metric, D, false, P>(query.q, tree.boxes[level] + node * d * 2 * kFan, d, gap[level], nullptr);
  };
  index_t node = query.place / kLeafPoints;
  offer_leaf<metric, D, P, F>(tree, node, query, best);
  for (int level = 0; level < tree.levels; ++level) {
    const int child = static_cast<int>(node % kFan);
    node /= kFan;
    enter(level, node);
    open[level] &= ~(1u << child);
  }
  int level = 0;
  for (;;) {
    double least = best.distance[0];
    int child = -1;
    for (unsigned left = open[level]; left; left &= left - 1) {
      const int c = first_bit(left);
      if (gap[level][c] < least) {
        least = gap[level][c];
        child = c;
      }
    }
    if (child < 0) {
      if (++level == tree.levels) return;
      continue;
    }
    open[level] &= ~(1u << child);
    node = group[level] * kFan + child;
    if (level == 0) offer_leaf<metric, D, P, F>(tree, node, query, best);
    else enter(--level, node);
  }
}

// Adjacent queries against one leaf, where all leaves are looked at.
template <Metric metric, int queries, class F>
ENTROPIC_INLINE void filter_distances(const PointTree& tree, index_t leaf, const Query* query,
                                      float (*distance)[kLeafPoints]) {
  if (metric == Metric::euclidean)
    product_distances<queries, F>(query[0].rounded, tree.d, rounded_leaf(tree, leaf), tree.d, distance);
  else rounded_distances<metric, queries, F>(query[0].rounded, tree.d, rounded_leaf(tree, leaf), tree.d, distance);
}

// For points of which a query needs most leaves: some queries at a time, and the leaves first .. last - 1 in turn.
template <Metric metric, int queries, class F>
ENTROPIC_INLINE void nearest_in_leaves(const PointTree& tree, index_t first, index_t last, const Query* query,
                                       const Nearest* best) {
  constexpr bool products = metric == Metric::euclidean;
  float distance[queries][kLeafPoints];
  Reach reach[queries];
  for (int i = 0; i < queries; ++i) reach[i] = reach_of<metric, products>(tree, query[i], best[i].distance[0]);
  for (index_t leaf = first; leaf < last; ++leaf) {
    filter_distances<metric, queries, F>(tree, leaf, query, distance);
    for (int i = 0; i < queries; ++i) {
      const unsigned places = ~above<F>(distance[i], limits_of<metric, products>(tree, reach[i], leaf).high);
      if (!places) continue;
      offer_places<metric>(tree, leaf, places, query[i], best[i]);
      reach[i] = reach_of<metric, products>(tree, query[i], best[i].distance[0]);
    }
  }
}

// Above which a query's rounded distance to the lane's point keeps the query from the point's k nearest, less `own`.
template <Metric metric>
ENTROPIC_INLINE float column_limit(const PointTree& tree, const Query& point, double radius, double norm) {
  const double d = static_cast<double>(tree.d), factor = (d + 8) * kFloatUnit;
  if (metric == Metric::euclidean) {
    // |y|^2 / 2 - <q, y> is |q - y|^2 / 2 less |q|^2 / 2, which is subtracted for each query.
    const double square = radius * tree.scale * tree.scale, half = square / 2;
    return static_cast<float>(
        half + 1.01 * (factor * point.norm * (point.norm / 2 + norm) + 3 * kFloatUnit * (half + norm * norm)) + 1e-37);
  }
  const double root = metric == Metric::manhattan ? ::sqrt(d) : 1.0;
  const double high = radius * tree.scale + 1.001 * kFloatUnit * root * (point.norm + norm) + 1e-37;
  return static_cast<float>(high * (1 + factor));
}

// Queries of one block of leaves against the leaves first .. last - 1 of another, for the benefit of both: a distance
// is offered to the query, and to the point. `limits` are the points' column_limits, and `norm` the largest of a query.
template <Metric metric, int queries, class F>
ENTROPIC_INLINE void nearest_in_block(const PointTree& tree, index_t first, index_t last, const Query* query,
                                      const Nearest* best, const Query* point, const Nearest* best_of_point,
                                      float* limits, double norm) {
  constexpr bool products = metric == Metric::euclidean;
  float distance[queries][kLeafPoints];
  Reach reach[queries];
  for (int i = 0; i < queries; ++i) reach[i] = reach_of<metric, products>(tree, query[i], best[i].distance[0]);
  for (index_t leaf = first; leaf < last; ++leaf) {
    const index_t offset = (leaf - first) * kLeafPoints;
    filter_distances<metric, queries, F>(tree, leaf, query, distance);
    for (int i = 0; i < queries; ++i) {
      const float own = products ? static_cast<float>(query[i].norm * query[i].norm / 2) : 0.0f;
      const unsigned row = ~above<F>(distance[i], limits_of<metric, products>(tree, reach[i], leaf).high);
      unsigned column = 0;
      for (int j = 0; j < kLeafPoints; j += F::width)
        column |= lane_bits(greater(F::load(distance[i] + j), F::load(limits + offset + j) - F(own))) << j;
      unsigned places = (row | ~column) & places_of(tree, leaf);
      if (!places) continue;
      for (; places; places &= places - 1) {
        const index_t lane = first_bit(places), place = leaf * kLeafPoints + lane;
        const double exact = distance_to_place<metric>(tree, query[i].q, place);
        offer_place(tree, place, exact, query[i], best[i]);
        const Nearest& other = best_of_point[offset + lane];
        if (exact < other.distance[0] && !is_excluded(query[i], tree.order[place])) {
          offer(other, exact, query[i].self);
          limits[offset + lane] = column_limit<metric>(tree, point[offset + lane], other.distance[0], norm);
        }
      }
      reach[i] = reach_of<metric, products>(tree, query[i], best[i].distance[0]);
    }
  }
}

// ---- the k least distances of all points of a leaf, in lanes: for exact leaves and few neighbours ----

template <int K, class P>
ENTROPIC_INLINE void insert_sorted(P (&best)[K], P distance) {
  for (int i = 0; i < K; ++i) {
    const P less = pick_min(best[i], distance);
    distance = pick_max(best[i], distance);
    best[i] = less;
  }
}

// Looks from P::width queries of a leaf, which start at `lane`, into one leaf. `self` is whether it is their own.
template <Metric metric, int D, int K, class P>
ENTROPIC_INLINE void lanes_into_leaf(const P (&q)[D], const double* leaf, bool self, int lane, P (&best)[K]) {
  for (int j = 0; j < kLeafPoints; ++j) {
    P distance(0.0);
    for (int c = 0; c < D; ++c) distance = add_difference<metric>(distance, q[c] - P(leaf[c * kLeafPoints + j]));
    if (self && j >= lane && j < lane + P::width) {
      double some[P::width];
      distance.store(some);
      some[j - lane] = HUGE_VAL;
      distance = P::load(some);
    }
    if (any(greater(best[K - 1], distance))) insert_sorted<K>(best, distance);
  }
}

// A leaf's own box, and whether it is nearer to another one than `radius` somewhere.
template <int D>
struct Box {
  double low[D], high[D];
};

template <int D>
ENTROPIC_INLINE Box<D> box_of_leaf(const PointTree& tree, index_t leaf) {
  Box<D> box;
  const double* group = tree.boxes[0] + leaf / kFan * D * 2 * kFan + leaf % kFan;
  for (int c = 0; c < D; ++c) {
    box.low[c] = group[c * 2 * kFan];
    box.high[c] = group[(c * 2 + 1) * kFan];
  }
  return box;
}

template <Metric metric, int D, class P>
ENTROPIC_INLINE unsigned boxes_within(const double* boxes, const Box<D>& from, double radius) {
  unsigned within = 0;
  for (int j = 0; j < kFan; j += P::width) {
    P gap(0.0);
    for (int c = 0; c < D; ++c) {
      const P right = P::load(boxes + c * 2 * kFan + j) - P(from.high[c]);
      const P left = P(from.low[c]) - P::load(boxes + (c * 2 + 1) * kFan + j);
      gap = add_difference<metric>(gap, pick_max(pick_max(right, left), P(0.0)));
    }
    within |= lane_bits(greater(P(radius), gap)) << j;
  }
  return within;
}

template <Metric metric, int D, int K, class P>
ENTROPIC_INLINE bool lanes_need_box(const P (&q)[D], const Box<D>& box, const P& radius) {
  P gap(0.0);
  for (int c = 0; c < D; ++c)
    gap = add_difference<metric>(gap, pick_max(pick_max(P(box.low[c]) - q[c], q[c] - P(box.high[c])), P(0.0)));
  return any(greater(radius, gap));
}

// out[i * kLeafPoints + lane] = the i-th least distance, i < K, from the leaf's points to the others.
template <Metric metric, int D, int K, class P>
ENTROPIC_INLINE void nearest_of_leaf(const PointTree& tree, index_t leaf, double* out) {
  constexpr int packs = kLeafPoints / P::width;
  P q[packs][D], best[packs][K];
  const double* own = tree.exact + leaf * D * kLeafPoints;
  double radius = 0;
  const index_t points = tree.n - leaf * kLeafPoints;
  for (int p = 0; p < packs && p * P::width < points; ++p) {
    for (int c = 0; c < D; ++c) q[p][c] = P::load(own + c * kLeafPoints + p * P::width);
    for (int i = 0; i < K; ++i) best[p][i] = P(HUGE_VAL);
    lanes_into_leaf<metric, D, K>(q[p], own, true, p * P::width, best[p]);
    const double farthest = best[p][K - 1].largest();
    if (farthest > radius) radius = farthest;
  }
  const Box<D> box = box_of_leaf<D>(tree, leaf);
  unsigned open[kMaxLevels];
  index_t group[kMaxLevels];
  int level = tree.levels - 1;
  group[level] = 0;
  open[level] = boxes_within<metric, D, P>(tree.boxes[level], box, radius);
  for (;;) {
    if (!open[level]) {
      if (++level == tree.levels) break;
      continue;
    }
    const index_t node = group[level] * kFan + first_bit(open[level]);
    open[level] &= open[level] - 1;
    if (level > 0) {
      --level;
      group[level] = node;
      open[level] = boxes_within<metric, D, P>(tree.boxes[level] + node * D * 2 * kFan, box, radius);
      continue;
    }
    if (node == leaf) continue;
    const Box<D> other = box_of_leaf<D>(tree, node);
    for (int p = 0; p < packs && p * P::width < points; ++p)
      if (lanes_need_box<metric, D, K>(q[p], other, best[p][K - 1]))
        lanes_into_leaf<metric, D, K>(q[p], tree.exact + node * D * kLeafPoints, false, 0, best[p]);
  }
  for (int p = 0; p < packs && p * P::width < points; ++p)
    for (int i = 0; i < K; ++i) best[p][i].store(out + i * kLeafPoints + p * P::width);
}

// ---- how many lie nearer than a radius; excluded points are the caller's to subtract ----

template <Metric metric, int D, class P>
ENTROPIC_INLINE index_t count_exact_leaf(const PointTree& tree, index_t leaf, const double* q, double radius) {
  double distance[kLeafPoints];
  leaf_distances<metric, D, P>(q, tree.exact + leaf * D * kLeafPoints, distance);
  P count(0.0);
  for (int j = 0; j < kLeafPoints; j += P::width)
    count = count + zero_unless(greater(P(radius), P::load(distance + j)), P(1.0));
  return static_cast<index_t>(count.sum());
}

template <Metric metric, class F>
ENTROPIC_INLINE index_t count_places(const PointTree& tree, index_t leaf, const float* distance, const Limits& limits,
                                     const Query& query, double radius) {
  const unsigned places = places_of(tree, leaf), within = below<F>(distance, limits.low) & places;
  index_t count = count_bits(within);
  for (unsigned open = ~above<F>(distance, limits.high) & ~within & places; open; open &= open - 1)
    count += distance_to_place<metric>(tree, query.q, leaf * kLeafPoints + first_bit(open)) < radius;
  return count;
}

template <Metric metric, int D, class P, class F>
ENTROPIC_INLINE index_t count_leaf(const PointTree& tree, index_t leaf, const Query& query, double radius) {
  if constexpr (D != 0) {
    return count_exact_leaf<metric, D, P>(tree, leaf, query.q, radius);
  } else {
    float distance[1][kLeafPoints];
    rounded_distances<metric, 1, F>(query.rounded, 0, rounded_leaf(tree, leaf), tree.d, distance);
    const Limits limits = limits_of<metric, false>(tree, reach_of<metric, false>(tree, query, radius), leaf);
    return count_places<metric, F>(tree, leaf, distance[0], limits, query, radius);
  }
}

template <Metric metric, int D, class P, class F>
ENTROPIC_INLINE index_t count_in_tree(const PointTree& tree, const Query& query, double radius) {
  double near[kFan], far[kFan];
  unsigned crossed[kMaxLevels];
  index_t group[kMaxLevels];
  const index_t d = D ? D : tree.d;
  int level = tree.levels;
  index_t count = 0, node = 0;
  for (;;) {
    // Enter the box `node` of `level`: its children are within, outside or crossed.
    --level;
    group[level] = node;
    crossed[level] = 0;
    box_distances<metric, D, true, P>(query.q, tree.boxes[level] + node * d * 2 * kFan, d, near, far);
    index_t size = kLeafPoints;
    for (int h = 0; h < level; ++h) size *= kFan;
    for (int c = 0; c < kFan; ++c) {
      const index_t first = (node * kFan + c) * size;
      if (first >= tree.n) break;
      if (far[c] < radius) count += tree.n - first < size ? tree.n - first : size;
      else if (near[c] < radius) crossed[level] |= 1u << c;
    }
    for (;;) {
      if (level == 0)
        for (; crossed[0]; crossed[0] &= crossed[0] - 1)
          count += count_leaf<metric, D, P, F>(tree, group[0] * kFan + first_bit(crossed[0]), query, radius);
      if (crossed[level]) break;
      if (++level == tree.levels) return count;
    }
    node = group[level] * kFan + first_bit(crossed[level]);
    crossed[level] &= crossed[level] - 1;
  }
}

template <Metric metric, int queries, class F>
ENTROPIC_INLINE void count_in_leaves(const PointTree& tree, index_t first, index_t last, const Query* query,
                                     const double* radius, index_t* count) {
  constexpr bool products = metric == Metric::euclidean;
  float distance[queries][kLeafPoints];
  Reach reach[queries];
  for (int i = 0; i < queries; ++i) reach[i] = reach_of<metric, products>(tree, query[i], radius[i]);
  for (index_t leaf = first; leaf < last; ++leaf) {
    filter_distances<metric, queries, F>(tree, leaf, query, distance);
    for (int i = 0; i < queries; ++i) {
      const Limits limits = limits_of<metric, products>(tree, reach[i], leaf);
      count[i] += count_places<metric, F>(tree, leaf, distance[i], limits, query[i], radius[i]);
    }
  }
}

}  // namespace
}  // namespace entropic
