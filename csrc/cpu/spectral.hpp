// Gaussian kernel matrices of points, stored or as operators: what the bindings call.
#pragma once

#include <vector>

#include "entropic/config.hpp"

namespace entropic {
namespace cpu {

// exp(-|x_i - x_j|^2 r_i r_j) for n points of d coordinates and a rate r for each.
class PointKernel {
 public:
  PointKernel(const double* x, const double* rates, index_t n, index_t d);

  index_t n() const { return n_; }

  // y (n, count) = the matrix times v (n, count), each element once for itself and its mirror image, and, where `w` (n)
  // is not null, squares (n) = the matrix of squared elements times w. False if interrupted.
  bool product(const double* v, index_t count, double* y, const double* w, double* squares) const;
  // The whole matrix (n, n).
  template <class T>
  bool dense(T* out) const;

 private:
  template <class F>
  bool each_tile(index_t work, F&& f) const;

  index_t n_, d_, block_, ld_;  // block_: points to a block, whose coordinates and tiles have rows ld_ apart
  std::vector<double> x_, columns_, rates_;
};

// y (n, count) = g v for a float32 matrix g (n, n), in partial sums of float32, and, where `w` (n) is not null, squares
// (n) = the matrix of squared elements times w. False if interrupted.
bool single_product(const float* g, index_t n, const double* v, index_t count, double* y, const double* w,
                    double* squares);

}  // namespace cpu
}  // namespace entropic
