// Eigenvalues of symmetric matrices: what the bindings call.
#pragma once

#include "entropic/config.hpp"

namespace entropic {
namespace cpu {

// Those of `count` matrices (n, n), finite and symmetric, in ascending order: out[k * n + i]. False if interrupted.
bool symmetric_eigenvalues(const double* a, index_t count, index_t n, double* out);

}  // namespace cpu
}  // namespace entropic
