// Products with a kernel matrix that is never stored: a tile of squared distances becomes values of the kernel, and is
// multiplied by blocks of vectors while it is in cache.
#pragma once

#include "config.hpp"
#include "math.hpp"

namespace entropic {
namespace {

// Below exp of this a value is 0, which beside the 1 of a point with itself it is.
constexpr double kKernelCut = -700.0;

// x_j <- exp(-x_j rate rates_j); whole packs.
template <class P>
ENTROPIC_INLINE void kernel_row(double* x, index_t n, double rate, const double* rates) {
  const P minus(-rate);
  for (index_t j = 0; j < n; j += P::width) {
    const P exponent = P::load(x + j) * (minus * P::load(rates + j));
    const auto counts = greater(exponent, P(kKernelCut));
    const P value = any(counts) ? zero_unless(counts, exp_shifted(exponent, P(0.0))) : P(0.0);
    value.store(x + j);
  }
}

// y_ic += sum_k g_ik v_kc for `rows` rows and `packs` packs of columns, with g_ik at g[i * across + k * along]; across
// is 1 where `adjacent` says so, and then one address does for all rows.
template <class P, int rows, int packs, bool adjacent, class T = typename P::Element>
ENTROPIC_INLINE void add_block(const T* g, index_t across, index_t along, index_t depth, const T* v, index_t v_ld, T* y,
                               index_t y_ld) {
  const index_t step = adjacent ? 1 : across;
  P sum[rows][packs];
  for (int i = 0; i < rows; ++i)
    for (int p = 0; p < packs; ++p) sum[i][p] = P::load(y + i * y_ld + p * P::width);
  for (index_t k = 0; k < depth; ++k) {
    P from[packs];
    for (int p = 0; p < packs; ++p) from[p] = P::load(v + k * v_ld + p * P::width);
    for (int i = 0; i < rows; ++i) {
      const P factor(g[i * step + k * along]);
      for (int p = 0; p < packs; ++p) sum[i][p] = fma(factor, from[p], sum[i][p]);
    }
  }
  for (int i = 0; i < rows; ++i)
    for (int p = 0; p < packs; ++p) sum[i][p].store(y + i * y_ld + p * P::width);
}

// The same for any number of rows and columns; whole blocks of 16 columns are read and written.
template <class P, bool adjacent, class T = typename P::Element>
ENTROPIC_INLINE void add_blocks(const T* g, index_t across, index_t along, index_t rows, index_t depth, const T* v,
                                index_t v_ld, index_t columns, T* y, index_t y_ld) {
  // as many sums as registers hold beside what they are made of
  constexpr int packs = P::width < 16 ? 2 : 1, sums = sizeof(T) * P::width == 64 ? 16 : 8, most = sums / packs;
  for (index_t c = 0; c < columns; c += packs * P::width) {
    index_t i = 0;
    for (; i + most <= rows; i += most)
      add_block<P, most, packs, adjacent>(g + i * across, across, along, depth, v + c, v_ld, y + i * y_ld + c, y_ld);
    for (; i < rows; ++i)
      add_block<P, 1, packs, adjacent>(g + i * across, across, along, depth, v + c, v_ld, y + i * y_ld + c, y_ld);
  }
}

template <class P, class T = typename P::Element>
ENTROPIC_INLINE void add_product(const T* g, index_t across, index_t along, index_t rows, index_t depth, const T* v,
                                 index_t v_ld, index_t columns, T* y, index_t y_ld) {
  if (across == 1) add_blocks<P, true>(g, across, along, rows, depth, v, v_ld, columns, y, y_ld);
  else add_blocks<P, false>(g, across, along, rows, depth, v, v_ld, columns, y, y_ld);
}

}  // namespace
}  // namespace entropic
