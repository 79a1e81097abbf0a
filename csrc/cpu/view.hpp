// A strided array of any numeric type, its dimensions split in two: the outer ones number the rows, the inner ones the
// elements of a row. Spans of it are read into, or written from, adjacent float32 or float64.
#pragma once

#include "entropic/config.hpp"

namespace entropic {
namespace cpu {

enum class DType : int {
  f32,
  f64,
  f16,
  bf16,
  i8,
  i16,
  i32,
  i64,
  u8,
  u16,
  u32,
  u64,
  boolean,
  c64,
  c128,
};

constexpr int kMaxDims = 64;

struct Dims {
  int n = 0;
  index_t shape[kMaxDims];
  index_t stride[kMaxDims];  // in bytes

  index_t total() const;
  // Of element i in row-major order.
  index_t offset(index_t i) const;
  // Elements that follow i at the last dimension's stride, i included.
  index_t run(index_t i) const;
  index_t last_stride() const { return n ? stride[n - 1] : 0; }
};

struct View {
  char* data = nullptr;
  DType dtype = DType::f64;
  bool swapped = false;  // bytes in the other order
  bool aligned = true;
  Dims outer, inner;

  index_t rows() const { return outer.total(); }
  index_t cols() const { return inner.total(); }
  bool is_native(DType wanted) const { return dtype == wanted && !swapped && aligned; }
};

// Drops dimensions of length one and joins neighbours that are one dimension in memory.
void collapse(Dims& dims);
// The same for two arrays of one shape, which are walked together.
void collapse(Dims& a, Dims& b);
// Largest stride first, all strides positive: for reductions, where the order of elements is free.
void sort_for_reduction(View& view);
// Largest stride first by a's strides, b alike.
void sort_together(Dims& a, Dims& b);

index_t itemsize(DType dtype);

// out[k] = element (first + k) along `dims` from `base`. Complex types: their real part.
template <class T>
void load_span(const View& view, const char* base, const Dims& dims, index_t first, index_t n, T* out);
// The imaginary part; zero for real types.
void load_imaginary(const View& view, const char* base, const Dims& dims, index_t first, index_t n, double* out);
template <class T>
void store_span(const View& view, char* base, const Dims& dims, index_t first, index_t n, const T* in);

}  // namespace cpu
}  // namespace entropic
