// Symmetric matrices and their eigenvalues: what the bindings call.
#pragma once

#include "entropic/config.hpp"

namespace entropic {
namespace cpu {

// Those of `count` matrices (n, n), finite and symmetric, in ascending order: out[k * n + i]. False if interrupted.
bool symmetric_eigenvalues(const double* a, index_t count, index_t n, double* out);

// Z' Z (d, d) of `count` matrices Z (n, d), or Z Z' (n, n) with `tall` false, one after the other. False if
// interrupted.
template <class T>
bool gram_matrices(const T* z, index_t count, index_t n, index_t d, bool tall, double* out);

}  // namespace cpu
}  // namespace entropic
