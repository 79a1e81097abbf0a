// The pack of width one: plain arithmetic. CUDA threads use it, and so do processors without a vector unit that we
// know. It also states what a pack must offer; csrc/cpu/simd.hpp has the vector ones.
#pragma once

#include <cmath>
#include <cstring>

#include "config.hpp"

namespace entropic {
namespace {

template <class T>
struct ScalarBits;
template <>
struct ScalarBits<float> {
  using type = std::uint32_t;
  static constexpr int mantissa = 23;
  static constexpr type sqrt_half = 0x3f3504f3u, one = 0x3f800000u, fraction = 0x007fffffu;
  static constexpr int bias = 127;
};
template <>
struct ScalarBits<double> {
  using type = std::uint64_t;
  static constexpr int mantissa = 52;
  static constexpr type sqrt_half = 0x3fe6a09e667f3bcdull, one = 0x3ff0000000000000ull,
                        fraction = 0x000fffffffffffffull;
  static constexpr int bias = 1023;
};

template <class To, class From>
ENTROPIC_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

ENTROPIC_INLINE float half_to_float(std::uint16_t h) {
  // The exponent is moved by a multiplication, which also gets subnormals right; inf and nan are put back.
  const float moved = bit_cast<float>(static_cast<std::uint32_t>(h & 0x7fffu) << 13) * 5.192296858534828e33f;  // 2^112
  std::uint32_t bits = bit_cast<std::uint32_t>(moved);
  if ((h & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
  return bit_cast<float>(bits | static_cast<std::uint32_t>(h & 0x8000u) << 16);
}

// A bfloat16 number, as stored.
struct BFloat {
  std::uint16_t bits;
};
ENTROPIC_INLINE float bfloat_to_float(std::uint16_t b) { return bit_cast<float>(static_cast<std::uint32_t>(b) << 16); }

template <class T>
struct Scalar {
  using Element = T;
  using Wide = Scalar<double>;
  static constexpr int width = 1;
  static constexpr int wide_parts = 1;
  static constexpr bool has_table = false;  // no exp2_of_16ths

  T v;
  Scalar() = default;
  ENTROPIC_INLINE Scalar(T value) : v(value) {}

  static ENTROPIC_INLINE Scalar load(const T* p) { return *p; }
  static ENTROPIC_INLINE Scalar load_partial(const T* p, index_t, T) { return *p; }
  static ENTROPIC_INLINE Scalar load_half(const std::uint16_t* p) { return half_to_float(*p); }
  // Two packs of them, in any order.
  static ENTROPIC_INLINE void load_two(const BFloat* p, Scalar& a, Scalar& b) {
    a = bfloat_to_float(p[0].bits);
    b = bfloat_to_float(p[1].bits);
  }
  static ENTROPIC_INLINE Scalar load_bfloat(const std::uint16_t* p) { return bfloat_to_float(*p); }
  ENTROPIC_INLINE void store(T* p) const { *p = v; }
  ENTROPIC_INLINE void stream(T* p) const { *p = v; }
  ENTROPIC_INLINE void widen(Wide* out) const { out[0] = Wide(static_cast<double>(v)); }
  static ENTROPIC_INLINE Scalar narrow(const Wide* in) { return static_cast<T>(in[0].v); }
  ENTROPIC_INLINE double sum() const { return static_cast<double>(v); }
  ENTROPIC_INLINE T largest() const { return v; }
};

template <class T>
ENTROPIC_INLINE Scalar<T> operator+(Scalar<T> a, Scalar<T> b) {
  return a.v + b.v;
}
template <class T>
ENTROPIC_INLINE Scalar<T> operator-(Scalar<T> a, Scalar<T> b) {
  return a.v - b.v;
}
template <class T>
ENTROPIC_INLINE Scalar<T> operator*(Scalar<T> a, Scalar<T> b) {
  return a.v * b.v;
}
template <class T>
ENTROPIC_INLINE Scalar<T> operator/(Scalar<T> a, Scalar<T> b) {
  return a.v / b.v;
}
ENTROPIC_INLINE Scalar<float> fma(Scalar<float> a, Scalar<float> b, Scalar<float> c) { return ::fmaf(a.v, b.v, c.v); }
ENTROPIC_INLINE Scalar<double> fma(Scalar<double> a, Scalar<double> b, Scalar<double> c) {
  return ::fma(a.v, b.v, c.v);
}

ENTROPIC_INLINE Scalar<float> sqrt(Scalar<float> a) { return ::sqrtf(a.v); }
ENTROPIC_INLINE Scalar<double> sqrt(Scalar<double> a) { return ::sqrt(a.v); }

// a where a > b, else b: pick_max(x, running) drops a nan in x, pick_max(limit, x) keeps it.
template <class T>
ENTROPIC_INLINE Scalar<T> pick_max(Scalar<T> a, Scalar<T> b) {
  return a.v > b.v ? a.v : b.v;
}
// a where a < b, else b.
template <class T>
ENTROPIC_INLINE Scalar<T> pick_min(Scalar<T> a, Scalar<T> b) {
  return a.v < b.v ? a.v : b.v;
}
template <class T>
ENTROPIC_INLINE Scalar<T> absolute(Scalar<T> a) {
  return a.v < 0 ? -a.v : a.v;
}
template <class T>
ENTROPIC_INLINE bool greater(Scalar<T> a, Scalar<T> b) {
  return a.v > b.v;
}
template <class T>
ENTROPIC_INLINE bool equal(Scalar<T> a, Scalar<T> b) {
  return a.v == b.v;
}
// True for nan as well.
template <class T>
ENTROPIC_INLINE bool not_equal(Scalar<T> a, Scalar<T> b) {
  return a.v != b.v;
}
// Not a <= b: true for nan as well.
template <class T>
ENTROPIC_INLINE bool above_or_nan(Scalar<T> a, Scalar<T> b) {
  return !(a.v <= b.v);
}
ENTROPIC_INLINE bool any(bool mask) { return mask; }
// Bit i is set where the mask holds for lane i.
ENTROPIC_INLINE unsigned lane_bits(bool mask) { return mask ? 1u : 0u; }
template <class T>
ENTROPIC_INLINE Scalar<T> select(bool mask, Scalar<T> a, Scalar<T> b) {
  return mask ? a.v : b.v;
}
template <class T>
ENTROPIC_INLINE Scalar<T> zero_unless(bool mask, Scalar<T> a) {
  return mask ? a.v : T(0);
}

// p * 2^n where the low bits of t, seen as an integer, hold n; p * 2^n must be a normal number.
template <class T>
ENTROPIC_INLINE Scalar<T> add_exponent(Scalar<T> p, Scalar<T> t) {
  using B = ScalarBits<T>;
  using U = typename B::type;
  return bit_cast<T>(static_cast<U>(bit_cast<U>(p.v) + (bit_cast<U>(t.v) << B::mantissa)));
}

// x = 2^k m with m in [sqrt(1/2), sqrt(2)), for positive normal x. Returns m.
template <class T>
ENTROPIC_INLINE Scalar<T> split_exponent(Scalar<T> x, Scalar<T>& k) {
  using B = ScalarBits<T>;
  using U = typename B::type;
  const U shifted = bit_cast<U>(x.v) + (B::one - B::sqrt_half);
  k = static_cast<T>(static_cast<int>(shifted >> B::mantissa) - B::bias);
  return bit_cast<T>(static_cast<U>((shifted & B::fraction) + B::sqrt_half));
}

}  // namespace
}  // namespace entropic
