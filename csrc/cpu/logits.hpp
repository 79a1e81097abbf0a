// Drivers of the log-sum family: what the bindings call. All return false if the work was interrupted.
#pragma once

#include "kernels.hpp"
#include "view.hpp"

namespace entropic {
namespace cpu {

// The element type in which an array is computed: float32 for floats of up to 32 bits, else float64.
bool computes_in_f32(DType dtype);

// One value a row; `out` holds rows elements of the compute type.
bool reduce_values(const View& x, Value value, void* out);
bool reduce_states(const View& x, LogSum* out);
// Token statistics at one inverse temperature a row. `values` holds one value a column, in the compute type, or is
// null; `targets` one column a row, -1 for none, or is null. The order of the columns counts.
bool reduce_tokens(const View& x, const double* inverse, const void* values, const index_t* targets, TokenSum* out);
// sum b exp(x), with b (same rows and columns) or without; the second form also fills the imaginary part's states
// where x or b is complex.
bool reduce_signed(const View& x, const View* b, SignedSum* out);
bool reduce_complex(const View& x, const View* b, SignedSum* real, SignedSum* imaginary);

// What is written of each row: softmax p, its logarithm, the gradient of logsumexp or entropy times a cotangent, or p
// (a + b (m - x)), as all gradients of the log-sum state are.
enum class RowMap : int { softmax, log_softmax, logsumexp_vjp, entropy_vjp, linear };
// `cotangent` holds one double a row for the gradients, all a and then all b for the linear map, and is not read for
// the others.
bool map_rows(const View& x, RowMap map, const double* cotangent, const View& out);

// Of p = softmax of a row of x from q = softmax of that of y, which have one shape: sum p log(p / q), half the sum of
// the two to (p + q) / 2, log sum p^(1 - power) q^power, and the largest log(p / q).
enum class Divergence : int { kl, js, log_overlap, max_log_ratio };
// One value a row, and behind them all one shift: log q - log p = y - x - shift, where both are positive.
bool divergences(const View& x, const View& y, Divergence kind, double power, double* out);

// Of each row sum w c (top - x), and behind those sum w c; w has the shape of x and c one value a column, or they are
// null.
bool weigh_gaps(const View& x, const double* tops, const View* w, const double* c, double* out);

// sum over rows of factor softmax(row), whose states are given: one value a column, and behind those the factors of
// rows without mass, which count as zeros.
bool sum_softmax(const View& x, const double* factor, const LogSum* states, double* out);

// Running log-sum-exp along each row.
bool scan_rows(const View& x, const View& out);

// State of segment ids[i] takes row i of x (n, cols): states (segments, cols).
bool reduce_segments(const View& x, const index_t* ids, index_t segments, LogSum* out);

// Values of the rows of scale x y^T, never stored; arrays are adjacent.
template <class T>
bool reduce_dot_values(const T* x, index_t rows, const T* y, index_t cols, index_t depth, T scale, Value value, T* out);

}  // namespace cpu
}  // namespace entropic
