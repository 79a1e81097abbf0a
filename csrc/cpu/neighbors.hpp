// Nearest neighbours and range counts: what the bindings call.
#pragma once

#include <cstdint>
#include <vector>

#include "entropic/config.hpp"

namespace entropic {
namespace cpu {

// Which points a search is for: others, or the indexed ones themselves (`q` is null), each of which then leaves out
// those whose numbers differ from its own by at most `exclude`; -1 leaves out none.
struct Queries {
  const double* q;
  index_t count;
  index_t exclude;
};

// n points of d finite coordinates, arranged for searches: sorted on a line, in a tree of boxes, or, where boxes would
// hardly keep a search from any of them, in leaves alone. At most 2^31 - 1 points.
class PointIndex {
 public:
  PointIndex(const double* x, index_t n, index_t d);

  index_t n() const { return n_; }
  index_t d() const { return d_; }

  // Distances and numbers of the k nearest of each query, in ascending order; infinity and -1 where there are fewer.
  // False if interrupted.
  bool nearest(Metric metric, const Queries& queries, index_t k, double* distance, std::int64_t* index) const;
  // The distances alone, of the indexed points to each other.
  bool distances(Metric metric, index_t k, double* distance) const;
  // How many lie nearer than each query's radius, or not farther. False if interrupted.
  bool count(Metric metric, const Queries& queries, const double* radius, bool strict, std::int64_t* count) const;

 private:
  bool on_line() const { return d_ == 1; }
  void fill_leaves();
  void fill_boxes();
  PointTree tree() const;
  double round_point(const double* x, float* rounded, index_t stride) const;
  bool nearest_by_blocks(Metric metric, index_t k, index_t exclude, double* distance, std::int64_t* index) const;
  template <class F>
  bool for_queries(const Queries& queries, index_t cost, F&& search) const;
  index_t count_excluded(Metric metric, const double* q, index_t self, index_t exclude, double radius) const;

  index_t n_, d_;
  std::vector<std::int32_t> order_;  // the point in each place
  std::vector<std::int32_t> place_;  // of each point
  std::vector<double> rows_;         // [place][coordinate]; on a line, ascending
  std::vector<double> center_;
  double scale_ = 1;
  // As in PointTree.
  std::vector<double> exact_, norms_;
  std::vector<float> rounded_;
  std::vector<std::vector<double>> boxes_;
};

// Kraskov's first estimate of the mutual information of two columns of n samples; how many samples have their k-th
// neighbour at distance 0 or as far as the next; and whether any has it at 0, where the estimate means nothing.
struct Pair {
  index_t x, y;
};
struct PairInformation {
  double value;
  index_t tied;
  index_t atoms;
};
// Columns are contiguous; digamma holds psi(0 .. n). False if interrupted.
bool pair_informations(const double* columns, index_t count, index_t n, const Pair* pairs, index_t pair_count,
                       index_t k, const double* digamma, PairInformation* out);

// The order in which a tree has its points: halves of the range that is widest, down to single leaves.
std::vector<std::int32_t> spatial_order(const double* x, index_t n, index_t d);

}  // namespace cpu
}  // namespace entropic
