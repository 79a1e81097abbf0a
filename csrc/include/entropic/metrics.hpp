// Scores between points, a tile at a time: dot products, and the costs |x-y|^2, |x-y| and sum |x_k-y_k|.
//
// Squares are sums of squared differences and not |x|^2 + |y|^2 - 2 <x, y>, which cancels where two points are close
// beside their distance from the origin: there transport plans live.
#pragma once

#include "config.hpp"

namespace entropic {
namespace {

template <Metric metric, class P>
ENTROPIC_INLINE P metric_term(P x, P y, P sum) {
  if (metric == Metric::dot) return fma(x, y, sum);
  const P d = x - y;
  if (metric == Metric::manhattan) return sum + pick_max(d, P(typename P::Element(0)) - d);
  return fma(d, d, sum);
}

template <Metric metric, class P, int rows_at_once>
ENTROPIC_INLINE void metric_rows(const typename P::Element* x, index_t x_stride, const typename P::Element* yt,
                                 index_t ld, index_t cols, index_t depth, typename P::Element scale,
                                 typename P::Element* out, index_t out_ld) {
  using T = typename P::Element;
  for (index_t j = 0; j < cols; j += P::width) {
    P sum[rows_at_once];
    for (int i = 0; i < rows_at_once; ++i) sum[i] = P(T(0));
    for (index_t k = 0; k < depth; ++k) {
      const P y = P::load(yt + k * ld + j);
      for (int i = 0; i < rows_at_once; ++i) sum[i] = metric_term<metric>(P(x[i * x_stride + k]), y, sum[i]);
    }
    for (int i = 0; i < rows_at_once; ++i) {
      const P total = metric == Metric::euclidean ? sqrt(sum[i]) : sum[i];
      (total * P(scale)).store(out + i * out_ld + j);
    }
  }
}

// out[r * out_ld + j] = scale metric(x_r, y_j), with y given transposed: yt[k * ld + j]. Whole packs are read and
// written.
template <Metric metric, class P>
ENTROPIC_INLINE void metric_tile(const typename P::Element* x, index_t x_stride, const typename P::Element* yt,
                                 index_t ld, index_t rows, index_t cols, index_t depth, typename P::Element scale,
                                 typename P::Element* out, index_t out_ld) {
  index_t i = 0;
  for (; i + 4 <= rows; i += 4)
    metric_rows<metric, P, 4>(x + i * x_stride, x_stride, yt, ld, cols, depth, scale, out + i * out_ld, out_ld);
  for (; i < rows; ++i)
    metric_rows<metric, P, 1>(x + i * x_stride, x_stride, yt, ld, cols, depth, scale, out + i * out_ld, out_ld);
}

}  // namespace
}  // namespace entropic
