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
void count_larger_of(const double* x, index_t n, double* larger) { count_larger<NativePack<double>>(x, n, larger); }
void sort_lanes_of(double* keys, index_t n) { sort_lanes<NativePack<double>>(keys, n); }
index_t greedy_lanes_of(double* p, index_t n, double* q, index_t m, int shift, std::uint64_t* p_keys,
                        std::uint64_t* q_keys, std::uint64_t* masses) {
  return greedy_lanes<NativePack<double>>(p, n, q, m, shift, p_keys, q_keys, masses);
}

}  // namespace

namespace cpu {

const CouplingKernels ENTROPIC_OF_SET(coupling) = {shannon_terms_of, count_larger_of, sort_lanes_of, greedy_lanes_of};

}  // namespace cpu
}  // namespace entropic
