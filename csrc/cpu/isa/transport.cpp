// The transport kernels of one instruction set; the rules of isa/logits.cpp hold.
// clang-format off: the templates of transport.hpp find the packs' functions only where simd.hpp came before
#include "../kernels.hpp"
#include "../simd.hpp"
#include "entropic/transport.hpp"
#include "set.hpp"
// clang-format on

namespace entropic {
namespace {

template <class T>
double gibbs_row_of(const T* cost, const double* g, const T* b, index_t n, double shift, double inv_eps, T* k) {
  return gibbs_row<NativePack<T>>(cost, g, b, n, shift, inv_eps, k);
}

template <class T>
void add_rows_of(const T* k, index_t ld, index_t rows, const double* w, index_t n, double* acc) {
  using P = NativePack<T>;
  if (rows == 4) return add_rows<P, 4>(k, ld, w, n, acc);
  for (index_t r = 0; r < rows; ++r) add_rows<P, 1>(k + r * ld, ld, w + r, n, acc);
}

template <class T>
double gibbs_cost_of(const T* k, const T* b, const T* cost, index_t n) {
  return gibbs_cost<NativePack<T>>(k, b, cost, n);
}

template <class T>
double gibbs_dot_of(const T* k, const double* v, index_t n) {
  return gibbs_dot<NativePack<T>>(k, v, n);
}

template <class T>
double weighted_sum_of(const T* k, const T* w, index_t n) {
  return weighted_sum<NativePack<T>>(k, w, n);
}

template <class T>
void softmin_scores_of(const T* cost, const double* h, index_t n, double inv_eps, double* out) {
  softmin_scores<NativePack<T>>(cost, h, n, inv_eps, out);
}

template <class T>
void widen_range_of(const T* cost, index_t n, CostRange* range) {
  widen_range<NativePack<T>>(cost, n, *range);
}

}  // namespace

namespace cpu {

#define ENTROPIC_GIBBS(T)                                                       \
  {gibbs_row_of<T>,    add_rows_of<T>,       gibbs_cost_of<T>, gibbs_dot_of<T>, \
   weighted_sum_of<T>, softmin_scores_of<T>, widen_range_of<T>}
const TransportKernels ENTROPIC_OF_SET(transport) = {ENTROPIC_GIBBS(float), ENTROPIC_GIBBS(double)};

}  // namespace cpu
}  // namespace entropic
