#include "view.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "entropic/scalar.hpp"

namespace entropic {
namespace cpu {
namespace {

std::uint16_t float_to_half(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (bits >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65520 and above round to inf
  if (bits < 0x38800000u) {  // below 2^-14: adding 0.5 leaves multiples of 2^-24 in the low bits, rounded to even
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, 4);
    return static_cast<std::uint16_t>(sign | (bits - 0x3f000000u));
  }
  const std::uint32_t odd = (bits >> 13) & 1u;
  return static_cast<std::uint16_t>(sign | ((bits - 0x38000000u + 0xfffu + odd) >> 13));
}

std::uint16_t float_to_bfloat(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Storage types that need a conversion of their own.
struct Half {
  std::uint16_t bits;
};

template <class T, class S>
T decode(S s) {
  return static_cast<T>(s);
}
template <>
float decode(Half s) {
  return half_to_float(s.bits);
}
template <>
double decode(Half s) {
  return half_to_float(s.bits);
}
template <>
float decode(BFloat s) {
  return bfloat_to_float(s.bits);
}
template <>
double decode(BFloat s) {
  return bfloat_to_float(s.bits);
}

template <class S, class T>
S encode(T x) {
  return static_cast<S>(x);
}
template <>
Half encode(float x) {
  return Half{float_to_half(x)};
}
template <>
BFloat encode(float x) {
  return BFloat{float_to_bfloat(x)};
}

template <class S>
S read(const char* p, bool swapped) {
  char bytes[sizeof(S)];
  std::memcpy(bytes, p, sizeof(S));
  if (swapped) std::reverse(bytes, bytes + sizeof(S));
  S s;
  std::memcpy(&s, bytes, sizeof(S));
  return s;
}

template <class S>
void write(S s, bool swapped, char* p) {
  char bytes[sizeof(S)];
  std::memcpy(bytes, &s, sizeof(S));
  if (swapped) std::reverse(bytes, bytes + sizeof(S));
  std::memcpy(p, bytes, sizeof(S));
}

// Adjacent elements get a loop of their own, which compilers vectorise.
template <class S, class T>
void read_run(const char* p, index_t stride, bool swapped, index_t n, T* out) {
  if (swapped) {
    for (index_t i = 0; i < n; ++i) out[i] = decode<T>(read<S>(p + i * stride, true));
  } else if (stride == static_cast<index_t>(sizeof(S))) {
    for (index_t i = 0; i < n; ++i) out[i] = decode<T>(read<S>(p + i * static_cast<index_t>(sizeof(S)), false));
  } else {
    for (index_t i = 0; i < n; ++i) out[i] = decode<T>(read<S>(p + i * stride, false));
  }
}

template <class S, class T>
void write_run(const T* in, index_t n, char* p, index_t stride, bool swapped) {
  for (index_t i = 0; i < n; ++i) write(encode<S>(in[i]), swapped, p + i * stride);
}

template <class F>
void each_run(const Dims& dims, index_t first, index_t n, F f) {
  for (index_t done = 0; done < n;) {
    const index_t count = std::min(dims.run(first + done), n - done);
    f(dims.offset(first + done), count, done);
    done += count;
  }
}

}  // namespace

index_t Dims::total() const {
  index_t product = 1;
  for (int i = 0; i < n; ++i) product *= shape[i];
  return product;
}

index_t Dims::offset(index_t i) const {
  index_t bytes = 0;
  for (int d = n - 1; d > 0; --d) {
    bytes += i % shape[d] * stride[d];
    i /= shape[d];
  }
  return n ? bytes + i * stride[0] : 0;
}

index_t Dims::run(index_t i) const { return n ? shape[n - 1] - i % shape[n - 1] : 1; }

index_t itemsize(DType dtype) {
  switch (dtype) {
    case DType::i8:
    case DType::u8:
    case DType::boolean: return 1;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
    case DType::u16: return 2;
    case DType::f32:
    case DType::i32:
    case DType::u32: return 4;
    case DType::f64:
    case DType::i64:
    case DType::u64:
    case DType::c64: return 8;
    case DType::c128: return 16;
  }
  return 0;
}

void collapse(Dims& a, Dims& b) {
  int kept = 0;
  for (int d = 0; d < a.n; ++d) {
    if (a.shape[d] == 1) continue;
    const bool joins =
        kept && a.stride[kept - 1] == a.shape[d] * a.stride[d] && b.stride[kept - 1] == b.shape[d] * b.stride[d];
    const int to = joins ? kept - 1 : kept++;
    a.shape[to] = b.shape[to] = joins ? a.shape[to] * a.shape[d] : a.shape[d];
    a.stride[to] = a.stride[d];
    b.stride[to] = b.stride[d];
  }
  a.n = b.n = kept;
}

void collapse(Dims& dims) {
  Dims same = dims;
  collapse(dims, same);
}

void sort_together(Dims& a, Dims& b) {
  int order[kMaxDims];
  std::iota(order, order + a.n, 0);
  std::stable_sort(order, order + a.n, [&](int i, int j) { return std::abs(a.stride[i]) > std::abs(a.stride[j]); });
  const Dims old_a = a, old_b = b;
  for (int d = 0; d < a.n; ++d) {
    a.shape[d] = b.shape[d] = old_a.shape[order[d]];
    a.stride[d] = old_a.stride[order[d]];
    b.stride[d] = old_b.stride[order[d]];
  }
}

void sort_for_reduction(View& view) {
  Dims& dims = view.inner;
  for (int d = 0; d < dims.n; ++d) {
    if (dims.stride[d] >= 0) continue;
    view.data += (dims.shape[d] - 1) * dims.stride[d];
    dims.stride[d] = -dims.stride[d];
  }
  Dims same = dims;
  sort_together(dims, same);
  collapse(dims);
}

template <class T>
void load_span(const View& view, const char* base, const Dims& dims, index_t first, index_t n, T* out) {
  each_run(dims, first, n, [&](index_t offset, index_t count, index_t done) {
    const char* p = base + offset;
    const index_t stride = dims.last_stride();
    const bool s = view.swapped;
    T* to = out + done;
    switch (view.dtype) {
      case DType::f32: return read_run<float>(p, stride, s, count, to);
      case DType::f64: return read_run<double>(p, stride, s, count, to);
      case DType::f16: return read_run<Half>(p, stride, s, count, to);
      case DType::bf16: return read_run<BFloat>(p, stride, s, count, to);
      case DType::i8: return read_run<std::int8_t>(p, stride, s, count, to);
      case DType::i16: return read_run<std::int16_t>(p, stride, s, count, to);
      case DType::i32: return read_run<std::int32_t>(p, stride, s, count, to);
      case DType::i64: return read_run<std::int64_t>(p, stride, s, count, to);
      case DType::u8:
      case DType::boolean: return read_run<std::uint8_t>(p, stride, s, count, to);
      case DType::u16: return read_run<std::uint16_t>(p, stride, s, count, to);
      case DType::u32: return read_run<std::uint32_t>(p, stride, s, count, to);
      case DType::u64: return read_run<std::uint64_t>(p, stride, s, count, to);
      case DType::c64: return read_run<float>(p, stride, s, count, to);
      case DType::c128: return read_run<double>(p, stride, s, count, to);
    }
  });
}

void load_imaginary(const View& view, const char* base, const Dims& dims, index_t first, index_t n, double* out) {
  if (view.dtype != DType::c64 && view.dtype != DType::c128) {
    std::fill(out, out + n, 0.0);
    return;
  }
  // A byte-swapped complex number swaps its two parts each in place, so the imaginary part stays behind the real one.
  View imaginary = view;
  imaginary.dtype = view.dtype == DType::c64 ? DType::f32 : DType::f64;
  load_span(imaginary, base + itemsize(imaginary.dtype), dims, first, n, out);
}

template <class T>
void store_span(const View& view, char* base, const Dims& dims, index_t first, index_t n, const T* in) {
  each_run(dims, first, n, [&](index_t offset, index_t count, index_t done) {
    char* p = base + offset;
    const index_t stride = dims.last_stride();
    const T* from = in + done;
    switch (view.dtype) {
      case DType::f32: return write_run<float>(from, count, p, stride, view.swapped);
      case DType::f64: return write_run<double>(from, count, p, stride, view.swapped);
      case DType::f16:
        for (index_t i = 0; i < count; ++i)
          write(encode<Half>(static_cast<float>(from[i])), view.swapped, p + i * stride);
        return;
      case DType::bf16:
        for (index_t i = 0; i < count; ++i)
          write(encode<BFloat>(static_cast<float>(from[i])), view.swapped, p + i * stride);
        return;
      default: return;  // outputs are floating: the bindings see to it
    }
  });
}

template void load_span(const View&, const char*, const Dims&, index_t, index_t, float*);
template void load_span(const View&, const char*, const Dims&, index_t, index_t, double*);
template void store_span(const View&, char*, const Dims&, index_t, index_t, const float*);
template void store_span(const View&, char*, const Dims&, index_t, index_t, const double*);

}  // namespace cpu
}  // namespace entropic
