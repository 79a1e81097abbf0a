// What an instruction set's objects export: plain structs of plain function pointers. Kernels work on adjacent
// elements in cache; walking an array, threads and memory are the drivers' business.
#pragma once

#include "entropic/config.hpp"

namespace entropic {
namespace cpu {

// What `written` in reducers.hpp makes, by its `kind`: a probability with b = 0, with b, a log-probability.
enum class Write : int { probability, weighted_probability, log_probability };

template <class T>
struct FamilyKernels {
  // Folds n scores into a state.
  void (*push_row)(const T* x, index_t n, bool with_t, LogSum* s);
  // Folds `rows` x `lanes` scores, rows `ld` apart, into one state a lane; at most lanes of 4096 bytes, and m, r, r_low
  // and t have room for 16 lanes more. The sums are r + r_low.
  void (*push_lanes)(const T* x, index_t ld, index_t rows, index_t lanes, bool with_t, T* m, double* r, double* r_low,
                     double* t);
  // Folds n scores, the first of which is number `first` of its row; `values` are theirs, or null.
  void (*push_tokens)(const T* x, const T* values, index_t n, index_t first, TokenSum* s);
  // out[i] = value of state i.
  void (*finish)(Value value, const LogSum* s, index_t count, double n, T* out);
  // Writes n scores of one row, under its state's m and the coefficients a, b; `stream` bypasses the cache.
  void (*write_row)(Write what, const T* x, index_t n, double m, double a, double b, bool stream, T* out);
  // Writes rows x lanes scores, with m, a, b for each lane.
  void (*write_lanes)(Write what, const T* x, index_t ld, index_t rows, index_t lanes, const T* m, const T* a,
                      const T* b, T* out, index_t out_ld);
  // Adds sum w c (top - x) and sum w c to sums; w or c may be null, which is 1. A weight of 0 makes nothing of an
  // infinite gap.
  void (*weigh_gaps)(const T* x, const T* w, const double* c, index_t n, double top, double* sums);
  // total[j] += a exp(x[j] - m)
  void (*add_exps)(const T* x, index_t n, double m, double a, double* total);
  // out[c * ld + r] = x[r * stride + c]
  void (*transpose)(const T* x, index_t stride, index_t rows, index_t cols, T* out, index_t ld);
  // out[r * out_ld + j] = scale metric(x_r, y_j), with y given transposed: yt[k * ld + j]. `ld` and `out_ld` are
  // multiples of every pack's width, and what lies past `cols` is padding.
  void (*metric_tile)(Metric metric, const T* x, index_t x_stride, const T* yt, index_t ld, index_t rows, index_t cols,
                      index_t depth, T scale, T* out, index_t out_ld);
  void (*exp)(const T* x, index_t n, T* out);
  void (*log)(const T* x, index_t n, T* out);
  void (*log1p)(const T* x, index_t n, T* out);
};

// See entropic/transport.hpp. Arrays but `cost` have room for whole packs.
template <class T>
struct GibbsKernels {
  double (*gibbs_row)(const T* cost, const double* g, const T* b, index_t n, double shift, double inv_eps, T* k);
  void (*add_rows)(const T* k, index_t ld, index_t rows, const double* w, index_t n, double* acc);
  double (*gibbs_cost)(const T* k, const T* b, const T* cost, index_t n);
  double (*gibbs_dot)(const T* k, const double* v, index_t n);
  double (*weighted_sum)(const T* k, const T* w, index_t n);
  void (*softmin_scores)(const T* cost, const double* h, index_t n, double inv_eps, double* out);
  void (*widen_range)(const T* cost, index_t n, CostRange* range);
};

struct TransportKernels {
  GibbsKernels<float> f32;
  GibbsKernels<double> f64;
};

// See entropic/coupling.hpp.
struct CouplingKernels {
  void (*shannon_terms)(const double* x, index_t n, double* out);
  void (*count_larger)(const double* x, index_t n, double* larger);
  void (*sort_lanes)(double* keys, index_t n);
  index_t (*greedy_lanes)(double* p, index_t n, double* q, index_t m, int shift, std::uint64_t* p_keys,
                          std::uint64_t* q_keys, std::uint64_t* masses);
};

// Points that searches are for, adjacent: their coordinates, those as the leaves have them (or null) with their norms,
// their numbers (or null), and their places.
struct QueryBlock {
  index_t count;
  const double* q;
  const float* rounded;
  const double* norm;
  const index_t* self;
  const index_t* place;
  index_t exclude;
};

// See entropic/neighbors.hpp. Distances and radii of the Euclidean metric are squares.
struct NeighborKernels {
  // The k nearest of each query in ascending order, k to a query; where there are fewer, infinity and -1.
  void (*nearest)(const PointTree& tree, Metric metric, const QueryBlock& queries, index_t k, double* distance,
                  std::int64_t* index);
  // How many points lie nearer than each query's radius.
  void (*count)(const PointTree& tree, Metric metric, const QueryBlock& queries, const double* radius, index_t* count);
  // For all points among themselves without boxes: heaps of k are begun and ended one by one, and every pair of blocks
  // of at most kBlockPoints points, in leaves of their own, is looked at in between (a block with itself too); heaps
  // are found by the points' places.
  void (*begin_nearest)(index_t k, double* distance, std::int64_t* index);
  void (*block_pair)(const PointTree& tree, Metric metric, const QueryBlock& a, const QueryBlock& b, index_t k,
                     double* distance, std::int64_t* index);
  void (*end_nearest)(index_t k, double* distance, std::int64_t* index);
  // The k <= kMostLaneNeighbors least distances from each point of a leaf of 2 or 3 coordinates to the others, out[i *
  // kLeafPoints + lane]; there is room for kMostLaneNeighbors of them.
  void (*leaf_distances)(const PointTree& tree, Metric metric, index_t leaf, index_t k, double* out);
};

// See entropic/spectral.hpp. Arrays have room for whole packs, and for 16 columns at a time.
struct SpectralKernels {
  void (*kernel_row)(double* x, index_t n, double rate, const double* rates);
  void (*add_product)(const double* g, index_t across, index_t along, index_t rows, index_t depth, const double* v,
                      index_t v_ld, index_t columns, double* y, index_t y_ld);
  void (*add_single_product)(const float* g, index_t across, index_t along, index_t rows, index_t depth, const float* v,
                             index_t v_ld, index_t columns, float* y, index_t y_ld);
  // See entropic/eigen.hpp.
  void (*factor_panel)(double* columns, index_t ld, index_t rows, double* tau, double* r);
  void (*chase_bulges)(double* band, index_t n);
};

// See entropic/pairs.hpp.
struct PairKernels {
  void (*tops)(const double* x, const double* y, index_t n, PairSums* s);
  void (*sums)(const double* x, const double* y, index_t n, PairSums* s);
  void (*excess)(const double* x, const double* y, index_t n, double top, double centre, bool near, PairExcess* sums);
  double (*middle)(const double* x, const double* y, index_t n, double log_x, double log_y, double shift, bool near);
  double (*tilt)(const double* x, const double* y, index_t n, double log_x, double log_y, double shift, double b,
                 bool near);
};

struct Kernels {
  const char* name;
  int float_lanes;
  FamilyKernels<float> f32;
  FamilyKernels<double> f64;
  // push_tokens for adjacent bfloat16 numbers.
  void (*push_bfloat_tokens)(const std::uint16_t* x, index_t n, index_t first, TokenSum* s);
  // Adjacent bfloat16 or float16 numbers as float32.
  void (*widen_half)(const std::uint16_t* x, index_t n, bool bfloat, float* out);
  LogSum (*merge)(LogSum, LogSum);
  TokenSum (*merge_tokens)(TokenSum, TokenSum);
  // The kTokenValues values of a state.
  void (*finish_tokens)(const TokenSum* s, double* values);
  double (*prepare_signed)(double* a, const double* b, index_t n);
  void (*push_signed)(double* a, const double* b, index_t n, SignedSum* s);
  SignedSum (*merge_signed)(SignedSum, SignedSum);
  double (*log_abs)(double hi, double lo);
  SignedSum (*to_signed)(LogSum);
  LogSum (*to_log_sum)(SignedSum);
  // x holds `rows` steps of `lanes` running sums, rows `ld` apart, and becomes the running values; the sums are r +
  // low.
  void (*scan)(double* x, index_t ld, index_t rows, index_t lanes, double* m, double* r, double* low);
  PairKernels pairs;
  const TransportKernels* transport;
  const CouplingKernels* coupling;
  const NeighborKernels* neighbors;
  const SpectralKernels* spectral;

  template <class T>
  const FamilyKernels<T>& of() const;
  template <class T>
  const GibbsKernels<T>& gibbs() const;
};

template <>
inline const FamilyKernels<float>& Kernels::of<float>() const {
  return f32;
}
template <>
inline const FamilyKernels<double>& Kernels::of<double>() const {
  return f64;
}
template <>
inline const GibbsKernels<float>& Kernels::gibbs<float>() const {
  return transport->f32;
}
template <>
inline const GibbsKernels<double>& Kernels::gibbs<double>() const {
  return transport->f64;
}

}  // namespace cpu
}  // namespace entropic
