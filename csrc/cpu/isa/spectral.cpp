// The spectral kernels of one instruction set; the rules of isa/logits.cpp hold.
// clang-format off: the templates of spectral.hpp find the packs' functions only where simd.hpp came before
#include "../kernels.hpp"
#include "../simd.hpp"
#include "entropic/eigen.hpp"
#include "entropic/spectral.hpp"
#include "set.hpp"
// clang-format on

namespace entropic {
namespace {

void kernel_row_of(double* x, index_t n, double rate, const double* rates) {
  kernel_row<NativePack<double>>(x, n, rate, rates);
}

template <class T>
void add_product_of(const T* g, index_t across, index_t along, index_t rows, index_t depth, const T* v, index_t v_ld,
                    index_t columns, T* y, index_t y_ld) {
  add_product<NativePack<T>>(g, across, along, rows, depth, v, v_ld, columns, y, y_ld);
}

void factor_panel_of(double* columns, index_t ld, index_t rows, double* tau, double* r) {
  factor_panel<NativePack<double>>(columns, ld, rows, tau, r);
}

void chase_bulges_of(double* band, index_t n) { chase_bulges<NativePack<double>>(band, n); }

}  // namespace

namespace cpu {

const SpectralKernels ENTROPIC_OF_SET(spectral) = {kernel_row_of, add_product_of<double>, add_product_of<float>,
                                                   factor_panel_of, chase_bulges_of};

}  // namespace cpu
}  // namespace entropic
