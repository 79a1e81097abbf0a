// The coupling kernels of one instruction set; the rules of isa/logits.cpp hold.
// clang-format off: the templates of coupling.hpp find the packs' functions only where simd.hpp came before
#include "../kernels.hpp"
#include "../simd.hpp"
#include "entropic/coupling.hpp"
#include "set.hpp"
// clang-format on

namespace entropic {
namespace {

void shannon_terms_of(const double* x, index_t n, double* out) { shannon_terms<NativePack<double>>(x, n, out); }

}  // namespace

namespace cpu {

const CouplingKernels ENTROPIC_OF_SET(coupling) = {shannon_terms_of};

}  // namespace cpu
}  // namespace entropic
