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

// One block: independent sums enough to keep the arithmetic busy while each waits for its last term.
template <Metric metric, class P, int rows, int packs>
ENTROPIC_INLINE void metric_block(const typename P::Element* x, index_t x_stride, const typename P::Element* yt,
                                  index_t ld, index_t depth, typename P::Element scale, typename P::Element* out,
                                  index_t out_ld) {
  using T = typename P::Element;
  P sum[rows][packs];
  for (int i = 0; i < rows; ++i)
    for (int p = 0; p < packs; ++p) sum[i][p] = P(T(0));
  for (index_t k = 0; k < depth; ++k) {
    P y[packs];
    for (int p = 0; p < packs; ++p) y[p] = P::load(yt + k * ld + p * P::width);
    for (int i = 0; i < rows; ++i) {
      const P of_row(x[i * x_stride + k]);
      for (int p = 0; p < packs; ++p) sum[i][p] = metric_term<metric>(of_row, y[p], sum[i][p]);
    }
  }
  for (int i = 0; i < rows; ++i)
    for (int p = 0; p < packs; ++p) {
      const P total = metric == Metric::euclidean ? sqrt(sum[i][p]) : sum[i][p];
      (total * P(scale)).store(out + i * out_ld + p * P::width);
    }
}

template <Metric metric, class P, int packs>
ENTROPIC_INLINE void metric_columns(const typename P::Element* x, index_t x_stride, const typename P::Element* yt,
                                    index_t ld, index_t rows, index_t depth, typename P::Element scale,
                                    typename P::Element* out, index_t out_ld) {
  index_t i = 0;
  for (; i + 4 <= rows; i += 4)
    metric_block<metric, P, 4, packs>(x + i * x_stride, x_stride, yt, ld, depth, scale, out + i * out_ld, out_ld);
  for (; i < rows; ++i)
    metric_block<metric, P, 1, packs>(x + i * x_stride, x_stride, yt, ld, depth, scale, out + i * out_ld, out_ld);
}

// out[r * out_ld + j] = scale metric(x_r, y_j), with y given transposed: yt[k * ld + j]. Whole packs are read and
// written.
template <Metric metric, class P>
ENTROPIC_INLINE void metric_tile(const typename P::Element* x, index_t x_stride, const typename P::Element* yt,
                                 index_t ld, index_t rows, index_t cols, index_t depth, typename P::Element scale,
                                 typename P::Element* out, index_t out_ld) {
  index_t j = 0;
  for (; j + P::width < cols; j += 2 * P::width)
    metric_columns<metric, P, 2>(x, x_stride, yt + j, ld, rows, depth, scale, out + j, out_ld);
  if (j < cols) metric_columns<metric, P, 1>(x, x_stride, yt + j, ld, rows, depth, scale, out + j, out_ld);
}

}  // namespace
}  // namespace entropic
