// Vector packs over intrinsics, one class template for each instruction set; see scalar.hpp for what a pack offers.
// ENTROPIC_ISA_<name> is defined by the build for each object; without one, packs are scalars.
#pragma once

#include "entropic/scalar.hpp"

#if defined(ENTROPIC_ISA_BASELINE) && (defined(__SSE2__) || defined(_M_X64))
#define ENTROPIC_SSE2 1
#include <emmintrin.h>
#include <xmmintrin.h>
#elif defined(ENTROPIC_ISA_V3) || defined(ENTROPIC_ISA_V4)
#include <immintrin.h>
#elif defined(ENTROPIC_ISA_NEON)
#include <arm_neon.h>
#endif

namespace entropic {
namespace {

template <class T>
struct Pack;

// Loads n < width elements and fills the other lanes, through memory: for sets without masked loads.
template <class P>
ENTROPIC_INLINE P load_partial_by_copy(const typename P::Element* p, index_t n, typename P::Element fill) {
  typename P::Element buffer[P::width];
  for (int i = 0; i < P::width; ++i) buffer[i] = i < n ? p[i] : fill;
  return P::load(buffer);
}

// The same for half-precision numbers.
template <class P>
ENTROPIC_INLINE P load_half_by_copy(const std::uint16_t* p) {
  float buffer[P::width];
  for (int i = 0; i < P::width; ++i) buffer[i] = half_to_float(p[i]);
  return P::load(buffer);
}

template <class P>
ENTROPIC_INLINE double sum_of(const P& pack) {
  typename P::Element lane[P::width];
  pack.store(lane);
  double total = 0;
  for (int i = 0; i < P::width; ++i) total += lane[i];
  return total;
}

template <class P>
ENTROPIC_INLINE typename P::Element largest_of(const P& pack) {
  typename P::Element lane[P::width];
  pack.store(lane);
  typename P::Element top = lane[0];
  for (int i = 1; i < P::width; ++i) top = lane[i] > top ? lane[i] : top;
  return top;
}

#if defined(ENTROPIC_SSE2)

template <>
struct Pack<double> {
  using Element = double;
  using Wide = Pack<double>;
  static constexpr int width = 2, wide_parts = 1;
  static constexpr bool has_table = false;
  __m128d v;
  Pack() = default;
  ENTROPIC_INLINE Pack(__m128d x) : v(x) {}
  ENTROPIC_INLINE Pack(double x) : v(_mm_set1_pd(x)) {}
  static ENTROPIC_INLINE Pack load(const double* p) { return _mm_loadu_pd(p); }
  static ENTROPIC_INLINE Pack load_partial(const double* p, index_t n, double fill) {
    return load_partial_by_copy<Pack>(p, n, fill);
  }
  ENTROPIC_INLINE void store(double* p) const { _mm_storeu_pd(p, v); }
  ENTROPIC_INLINE void stream(double* p) const { _mm_stream_pd(p, v); }
  ENTROPIC_INLINE void widen(Wide* out) const { out[0] = v; }
  static ENTROPIC_INLINE Pack narrow(const Wide* in) { return in[0]; }
  ENTROPIC_INLINE double sum() const { return sum_of(*this); }
  ENTROPIC_INLINE double largest() const { return largest_of(*this); }
};

template <>
struct Pack<float> {
  using Element = float;
  using Wide = Pack<double>;
  static constexpr int width = 4, wide_parts = 2;
  static constexpr bool has_table = false;
  __m128 v;
  Pack() = default;
  ENTROPIC_INLINE Pack(__m128 x) : v(x) {}
  ENTROPIC_INLINE Pack(float x) : v(_mm_set1_ps(x)) {}
  static ENTROPIC_INLINE Pack load(const float* p) { return _mm_loadu_ps(p); }
  static ENTROPIC_INLINE Pack load_partial(const float* p, index_t n, float fill) {
    return load_partial_by_copy<Pack>(p, n, fill);
  }
  static ENTROPIC_INLINE Pack load_half(const std::uint16_t* p) { return load_half_by_copy<Pack>(p); }
  static ENTROPIC_INLINE Pack load_bfloat(const std::uint16_t* p) {
    const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), bits));
  }
  static ENTROPIC_INLINE void load_two(const BFloat* p, Pack& a, Pack& b) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    a = _mm_castsi128_ps(_mm_slli_epi32(bits, 16));
    b = _mm_castsi128_ps(_mm_and_si128(bits, _mm_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  ENTROPIC_INLINE void store(float* p) const { _mm_storeu_ps(p, v); }
  ENTROPIC_INLINE void stream(float* p) const { _mm_stream_ps(p, v); }
  ENTROPIC_INLINE void widen(Wide* out) const {
    out[0] = _mm_cvtps_pd(v);
    out[1] = _mm_cvtps_pd(_mm_movehl_ps(v, v));
  }
  static ENTROPIC_INLINE Pack narrow(const Wide* in) {
    return _mm_movelh_ps(_mm_cvtpd_ps(in[0].v), _mm_cvtpd_ps(in[1].v));
  }
  ENTROPIC_INLINE double sum() const { return sum_of(*this); }
  ENTROPIC_INLINE float largest() const { return largest_of(*this); }
};

#define ENTROPIC_SSE2_ARITHMETIC(T, suffix, isuffix, Vector, shift)                                              \
  ENTROPIC_INLINE Pack<T> operator+(Pack<T> a, Pack<T> b) { return _mm_add_##suffix(a.v, b.v); }                 \
  ENTROPIC_INLINE Pack<T> operator-(Pack<T> a, Pack<T> b) { return _mm_sub_##suffix(a.v, b.v); }                 \
  ENTROPIC_INLINE Pack<T> operator*(Pack<T> a, Pack<T> b) { return _mm_mul_##suffix(a.v, b.v); }                 \
  ENTROPIC_INLINE Pack<T> operator/(Pack<T> a, Pack<T> b) { return _mm_div_##suffix(a.v, b.v); }                 \
  ENTROPIC_INLINE Pack<T> sqrt(Pack<T> a) { return _mm_sqrt_##suffix(a.v); }                                     \
  ENTROPIC_INLINE Pack<T> fma(Pack<T> a, Pack<T> b, Pack<T> c) { return a * b + c; }                             \
  ENTROPIC_INLINE Pack<T> pick_max(Pack<T> a, Pack<T> b) { return _mm_max_##suffix(a.v, b.v); }                  \
  ENTROPIC_INLINE Pack<T> pick_min(Pack<T> a, Pack<T> b) { return _mm_min_##suffix(a.v, b.v); }                  \
  ENTROPIC_INLINE Vector greater(Pack<T> a, Pack<T> b) { return _mm_cmpgt_##suffix(a.v, b.v); }                  \
  ENTROPIC_INLINE Vector equal(Pack<T> a, Pack<T> b) { return _mm_cmpeq_##suffix(a.v, b.v); }                    \
  ENTROPIC_INLINE Vector not_equal(Pack<T> a, Pack<T> b) { return _mm_cmpneq_##suffix(a.v, b.v); }               \
  ENTROPIC_INLINE Vector above_or_nan(Pack<T> a, Pack<T> b) { return _mm_cmpnle_##suffix(a.v, b.v); }            \
  ENTROPIC_INLINE Pack<T> absolute(Pack<T> a) { return _mm_andnot_##suffix(Pack<T>(T(-0.0)).v, a.v); }           \
  ENTROPIC_INLINE bool any(Vector mask) { return _mm_movemask_##suffix(mask) != 0; }                             \
  ENTROPIC_INLINE unsigned lane_bits(Vector mask) { return static_cast<unsigned>(_mm_movemask_##suffix(mask)); } \
  ENTROPIC_INLINE Pack<T> zero_unless(Vector mask, Pack<T> a) { return _mm_and_##suffix(mask, a.v); }            \
  ENTROPIC_INLINE Pack<T> select(Vector mask, Pack<T> a, Pack<T> b) {                                            \
    return _mm_or_##suffix(_mm_and_##suffix(mask, a.v), _mm_andnot_##suffix(mask, b.v));                         \
  }                                                                                                              \
  ENTROPIC_INLINE Pack<T> add_exponent(Pack<T> p, Pack<T> t) {                                                   \
    const __m128i n = _mm_slli_##isuffix(_mm_cast##suffix##_si128(t.v), shift);                                  \
    return _mm_castsi128_##suffix(_mm_add_##isuffix(_mm_cast##suffix##_si128(p.v), n));                          \
  }

ENTROPIC_SSE2_ARITHMETIC(float, ps, epi32, __m128, 23)
ENTROPIC_SSE2_ARITHMETIC(double, pd, epi64, __m128d, 52)

ENTROPIC_INLINE Pack<float> split_exponent(Pack<float> x, Pack<float>& k) {
  using B = ScalarBits<float>;
  const __m128i shifted = _mm_add_epi32(_mm_castps_si128(x.v), _mm_set1_epi32(B::one - B::sqrt_half));
  k = _mm_cvtepi32_ps(_mm_sub_epi32(_mm_srli_epi32(shifted, 23), _mm_set1_epi32(B::bias)));
  return _mm_castsi128_ps(
      _mm_add_epi32(_mm_and_si128(shifted, _mm_set1_epi32(B::fraction)), _mm_set1_epi32(B::sqrt_half)));
}

// There is no conversion from 64-bit integers before AVX-512: the exponent is or-ed into the mantissa of 2^52.
ENTROPIC_INLINE Pack<double> split_exponent(Pack<double> x, Pack<double>& k) {
  using B = ScalarBits<double>;
  const double two52 = 4503599627370496.0;
  const __m128i shifted = _mm_add_epi64(_mm_castpd_si128(x.v), _mm_set1_epi64x(B::one - B::sqrt_half));
  const __m128i biased = _mm_or_si128(_mm_srli_epi64(shifted, 52), _mm_castpd_si128(_mm_set1_pd(two52)));
  k = _mm_sub_pd(_mm_castsi128_pd(biased), _mm_set1_pd(two52 + B::bias));
  return _mm_castsi128_pd(
      _mm_add_epi64(_mm_and_si128(shifted, _mm_set1_epi64x(B::fraction)), _mm_set1_epi64x(B::sqrt_half)));
}

#elif defined(ENTROPIC_ISA_V3)

template <>
struct Pack<double> {
  using Element = double;
  using Wide = Pack<double>;
  static constexpr int width = 4, wide_parts = 1;
  static constexpr bool has_table = false;
  __m256d v;
  Pack() = default;
  ENTROPIC_INLINE Pack(__m256d x) : v(x) {}
  ENTROPIC_INLINE Pack(double x) : v(_mm256_set1_pd(x)) {}
  static ENTROPIC_INLINE Pack load(const double* p) { return _mm256_loadu_pd(p); }
  static ENTROPIC_INLINE Pack load_partial(const double* p, index_t n, double fill) {
    const __m256i lane = _mm256_set_epi64x(3, 2, 1, 0);
    const __m256i mask = _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane);
    return _mm256_blendv_pd(_mm256_set1_pd(fill), _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask));
  }
  ENTROPIC_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  ENTROPIC_INLINE void stream(double* p) const { _mm256_stream_pd(p, v); }
  ENTROPIC_INLINE void widen(Wide* out) const { out[0] = v; }
  static ENTROPIC_INLINE Pack narrow(const Wide* in) { return in[0]; }
  ENTROPIC_INLINE double sum() const { return sum_of(*this); }
  ENTROPIC_INLINE double largest() const { return largest_of(*this); }
};

template <>
struct Pack<float> {
  using Element = float;
  using Wide = Pack<double>;
  static constexpr int width = 8, wide_parts = 2;
  static constexpr bool has_table = false;
  __m256 v;
  Pack() = default;
  ENTROPIC_INLINE Pack(__m256 x) : v(x) {}
  ENTROPIC_INLINE Pack(float x) : v(_mm256_set1_ps(x)) {}
  static ENTROPIC_INLINE Pack load(const float* p) { return _mm256_loadu_ps(p); }
  static ENTROPIC_INLINE Pack load_partial(const float* p, index_t n, float fill) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
    return _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
  }
  static ENTROPIC_INLINE Pack load_half(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static ENTROPIC_INLINE Pack load_bfloat(const std::uint16_t* p) {
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
  }
  static ENTROPIC_INLINE void load_two(const BFloat* p, Pack& a, Pack& b) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    a = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
    b = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  ENTROPIC_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  ENTROPIC_INLINE void stream(float* p) const { _mm256_stream_ps(p, v); }
  ENTROPIC_INLINE void widen(Wide* out) const {
    out[0] = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    out[1] = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
  }
  static ENTROPIC_INLINE Pack narrow(const Wide* in) {
    return _mm256_set_m128(_mm256_cvtpd_ps(in[1].v), _mm256_cvtpd_ps(in[0].v));
  }
  ENTROPIC_INLINE double sum() const { return sum_of(*this); }
  ENTROPIC_INLINE float largest() const { return largest_of(*this); }
};

#define ENTROPIC_AVX2_ARITHMETIC(T, suffix, isuffix, Vector, shift)                                                    \
  ENTROPIC_INLINE Pack<T> operator+(Pack<T> a, Pack<T> b) { return _mm256_add_##suffix(a.v, b.v); }                    \
  ENTROPIC_INLINE Pack<T> operator-(Pack<T> a, Pack<T> b) { return _mm256_sub_##suffix(a.v, b.v); }                    \
  ENTROPIC_INLINE Pack<T> operator*(Pack<T> a, Pack<T> b) { return _mm256_mul_##suffix(a.v, b.v); }                    \
  ENTROPIC_INLINE Pack<T> operator/(Pack<T> a, Pack<T> b) { return _mm256_div_##suffix(a.v, b.v); }                    \
  ENTROPIC_INLINE Pack<T> sqrt(Pack<T> a) { return _mm256_sqrt_##suffix(a.v); }                                        \
  ENTROPIC_INLINE Pack<T> fma(Pack<T> a, Pack<T> b, Pack<T> c) { return _mm256_fmadd_##suffix(a.v, b.v, c.v); }        \
  ENTROPIC_INLINE Pack<T> pick_max(Pack<T> a, Pack<T> b) { return _mm256_max_##suffix(a.v, b.v); }                     \
  ENTROPIC_INLINE Pack<T> pick_min(Pack<T> a, Pack<T> b) { return _mm256_min_##suffix(a.v, b.v); }                     \
  ENTROPIC_INLINE Vector greater(Pack<T> a, Pack<T> b) { return _mm256_cmp_##suffix(a.v, b.v, _CMP_GT_OQ); }           \
  ENTROPIC_INLINE Vector equal(Pack<T> a, Pack<T> b) { return _mm256_cmp_##suffix(a.v, b.v, _CMP_EQ_OQ); }             \
  ENTROPIC_INLINE Vector not_equal(Pack<T> a, Pack<T> b) { return _mm256_cmp_##suffix(a.v, b.v, _CMP_NEQ_UQ); }        \
  ENTROPIC_INLINE Vector above_or_nan(Pack<T> a, Pack<T> b) { return _mm256_cmp_##suffix(a.v, b.v, _CMP_NLE_UQ); }     \
  ENTROPIC_INLINE Pack<T> absolute(Pack<T> a) { return _mm256_andnot_##suffix(Pack<T>(T(-0.0)).v, a.v); }              \
  ENTROPIC_INLINE bool any(Vector mask) { return _mm256_movemask_##suffix(mask) != 0; }                                \
  ENTROPIC_INLINE unsigned lane_bits(Vector mask) { return static_cast<unsigned>(_mm256_movemask_##suffix(mask)); }    \
  ENTROPIC_INLINE Pack<T> zero_unless(Vector mask, Pack<T> a) { return _mm256_and_##suffix(mask, a.v); }               \
  ENTROPIC_INLINE Pack<T> select(Vector mask, Pack<T> a, Pack<T> b) { return _mm256_blendv_##suffix(b.v, a.v, mask); } \
  ENTROPIC_INLINE Pack<T> add_exponent(Pack<T> p, Pack<T> t) {                                                         \
    const __m256i n = _mm256_slli_##isuffix(_mm256_cast##suffix##_si256(t.v), shift);                                  \
    return _mm256_castsi256_##suffix(_mm256_add_##isuffix(_mm256_cast##suffix##_si256(p.v), n));                       \
  }

ENTROPIC_AVX2_ARITHMETIC(float, ps, epi32, __m256, 23)
ENTROPIC_AVX2_ARITHMETIC(double, pd, epi64, __m256d, 52)

ENTROPIC_INLINE Pack<float> split_exponent(Pack<float> x, Pack<float>& k) {
  using B = ScalarBits<float>;
  const __m256i shifted = _mm256_add_epi32(_mm256_castps_si256(x.v), _mm256_set1_epi32(B::one - B::sqrt_half));
  k = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(shifted, 23), _mm256_set1_epi32(B::bias)));
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_and_si256(shifted, _mm256_set1_epi32(B::fraction)), _mm256_set1_epi32(B::sqrt_half)));
}

// There is no conversion from 64-bit integers before AVX-512: the exponent is or-ed into the mantissa of 2^52.
ENTROPIC_INLINE Pack<double> split_exponent(Pack<double> x, Pack<double>& k) {
  using B = ScalarBits<double>;
  const double two52 = 4503599627370496.0;
  const __m256i shifted = _mm256_add_epi64(_mm256_castpd_si256(x.v), _mm256_set1_epi64x(B::one - B::sqrt_half));
  const __m256i biased = _mm256_or_si256(_mm256_srli_epi64(shifted, 52), _mm256_castpd_si256(_mm256_set1_pd(two52)));
  k = _mm256_sub_pd(_mm256_castsi256_pd(biased), _mm256_set1_pd(two52 + B::bias));
  return _mm256_castsi256_pd(
      _mm256_add_epi64(_mm256_and_si256(shifted, _mm256_set1_epi64x(B::fraction)), _mm256_set1_epi64x(B::sqrt_half)));
}

#elif defined(ENTROPIC_ISA_V4)

template <>
struct Pack<double> {
  using Element = double;
  using Wide = Pack<double>;
  static constexpr int width = 8, wide_parts = 1;
  static constexpr bool has_table = true;
  __m512d v;
  Pack() = default;
  ENTROPIC_INLINE Pack(__m512d x) : v(x) {}
  ENTROPIC_INLINE Pack(double x) : v(_mm512_set1_pd(x)) {}
  static ENTROPIC_INLINE Pack load(const double* p) { return _mm512_loadu_pd(p); }
  static ENTROPIC_INLINE Pack load_partial(const double* p, index_t n, double fill) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), static_cast<__mmask8>((1u << n) - 1), p);
  }
  ENTROPIC_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
  ENTROPIC_INLINE void stream(double* p) const { _mm512_stream_pd(p, v); }
  ENTROPIC_INLINE void widen(Wide* out) const { out[0] = v; }
  static ENTROPIC_INLINE Pack narrow(const Wide* in) { return in[0]; }
  ENTROPIC_INLINE double sum() const { return _mm512_reduce_add_pd(v); }
  // 2^(n/16) where the low bits of t, seen as an integer, hold n. The entries are the bits of 2^(j/16) less j shifted
  // to where n's last four bits will be added.
  static ENTROPIC_INLINE Pack exp2_of_16ths(Pack t) {
    const __m512i first =
        _mm512_setr_epi64(0x3ff0000000000000, 0x3fefb5586cf9890f, 0x3fef72b83c7d517b, 0x3fef387a6e756238,
                          0x3fef06fe0a31b715, 0x3feedea64c123422, 0x3feebfdad5362a27, 0x3feeab07dd485429);
    const __m512i second =
        _mm512_setr_epi64(0x3feea09e667f3bcd, 0x3feea11473eb0187, 0x3feeace5422aa0db, 0x3feec49182a3f090,
                          0x3feee89f995ad3ad, 0x3fef199bdd85529c, 0x3fef5818dcfba487, 0x3fefa4afa2a490da);
    const __m512i n = _mm512_castpd_si512(t.v);
    return _mm512_castsi512_pd(_mm512_add_epi64(_mm512_permutex2var_epi64(first, n, second), _mm512_slli_epi64(n, 48)));
  }
  ENTROPIC_INLINE double largest() const { return _mm512_reduce_max_pd(v); }
};

template <>
struct Pack<float> {
  using Element = float;
  using Wide = Pack<double>;
  static constexpr int width = 16, wide_parts = 2;
  static constexpr bool has_table = true;
  __m512 v;
  Pack() = default;
  ENTROPIC_INLINE Pack(__m512 x) : v(x) {}
  ENTROPIC_INLINE Pack(float x) : v(_mm512_set1_ps(x)) {}
  static ENTROPIC_INLINE Pack load(const float* p) { return _mm512_loadu_ps(p); }
  static ENTROPIC_INLINE Pack load_partial(const float* p, index_t n, float fill) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1u << n) - 1), p);
  }
  static ENTROPIC_INLINE Pack load_half(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static ENTROPIC_INLINE Pack load_bfloat(const std::uint16_t* p) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  }
  static ENTROPIC_INLINE void load_two(const BFloat* p, Pack& a, Pack& b) {
    const __m512i bits = _mm512_loadu_si512(p);
    a = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    b = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  ENTROPIC_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  ENTROPIC_INLINE void stream(float* p) const { _mm512_stream_ps(p, v); }
  ENTROPIC_INLINE void widen(Wide* out) const {
    out[0] = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    out[1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
  }
  static ENTROPIC_INLINE Pack narrow(const Wide* in) {
    const __m512 low = _mm512_castps256_ps512(_mm512_cvtpd_ps(in[0].v));
    return _mm512_insertf32x8(low, _mm512_cvtpd_ps(in[1].v), 1);
  }
  ENTROPIC_INLINE double sum() const {
    Wide part[2];
    widen(part);
    return _mm512_reduce_add_pd(_mm512_add_pd(part[0].v, part[1].v));
  }
  ENTROPIC_INLINE float largest() const { return _mm512_reduce_max_ps(v); }
  static ENTROPIC_INLINE Pack exp2_of_16ths(Pack t) {
    const __m512i table = _mm512_setr_epi32(0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532,
                                            0x3f75fed7, 0x3f75583f, 0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c,
                                            0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d);
    const __m512i n = _mm512_castps_si512(t.v);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_permutexvar_epi32(n, table), _mm512_slli_epi32(n, 19)));
  }
};

#define ENTROPIC_AVX512_ARITHMETIC(T, suffix, isuffix, MaskType, shift)                                               \
  ENTROPIC_INLINE Pack<T> operator+(Pack<T> a, Pack<T> b) { return _mm512_add_##suffix(a.v, b.v); }                   \
  ENTROPIC_INLINE Pack<T> operator-(Pack<T> a, Pack<T> b) { return _mm512_sub_##suffix(a.v, b.v); }                   \
  ENTROPIC_INLINE Pack<T> operator*(Pack<T> a, Pack<T> b) { return _mm512_mul_##suffix(a.v, b.v); }                   \
  ENTROPIC_INLINE Pack<T> operator/(Pack<T> a, Pack<T> b) { return _mm512_div_##suffix(a.v, b.v); }                   \
  ENTROPIC_INLINE Pack<T> sqrt(Pack<T> a) { return _mm512_sqrt_##suffix(a.v); }                                       \
  ENTROPIC_INLINE Pack<T> fma(Pack<T> a, Pack<T> b, Pack<T> c) { return _mm512_fmadd_##suffix(a.v, b.v, c.v); }       \
  ENTROPIC_INLINE Pack<T> pick_max(Pack<T> a, Pack<T> b) { return _mm512_max_##suffix(a.v, b.v); }                    \
  ENTROPIC_INLINE Pack<T> pick_min(Pack<T> a, Pack<T> b) { return _mm512_min_##suffix(a.v, b.v); }                    \
  ENTROPIC_INLINE MaskType greater(Pack<T> a, Pack<T> b) { return _mm512_cmp_##suffix##_mask(a.v, b.v, _CMP_GT_OQ); } \
  ENTROPIC_INLINE MaskType equal(Pack<T> a, Pack<T> b) { return _mm512_cmp_##suffix##_mask(a.v, b.v, _CMP_EQ_OQ); }   \
  ENTROPIC_INLINE MaskType not_equal(Pack<T> a, Pack<T> b) {                                                          \
    return _mm512_cmp_##suffix##_mask(a.v, b.v, _CMP_NEQ_UQ);                                                         \
  }                                                                                                                   \
  ENTROPIC_INLINE MaskType above_or_nan(Pack<T> a, Pack<T> b) {                                                       \
    return _mm512_cmp_##suffix##_mask(a.v, b.v, _CMP_NLE_UQ);                                                         \
  }                                                                                                                   \
  ENTROPIC_INLINE Pack<T> absolute(Pack<T> a) { return _mm512_abs_##suffix(a.v); }                                    \
  ENTROPIC_INLINE bool any(MaskType mask) { return mask != 0; }                                                       \
  ENTROPIC_INLINE unsigned lane_bits(MaskType mask) { return mask; }                                                  \
  ENTROPIC_INLINE Pack<T> zero_unless(MaskType mask, Pack<T> a) { return _mm512_maskz_mov_##suffix(mask, a.v); }      \
  ENTROPIC_INLINE Pack<T> select(MaskType mask, Pack<T> a, Pack<T> b) {                                               \
    return _mm512_mask_blend_##suffix(mask, b.v, a.v);                                                                \
  }                                                                                                                   \
  ENTROPIC_INLINE Pack<T> add_exponent(Pack<T> p, Pack<T> t) {                                                        \
    const __m512i n = _mm512_slli_##isuffix(_mm512_cast##suffix##_si512(t.v), shift);                                 \
    return _mm512_castsi512_##suffix(_mm512_add_##isuffix(_mm512_cast##suffix##_si512(p.v), n));                      \
  }

ENTROPIC_AVX512_ARITHMETIC(float, ps, epi32, __mmask16, 23)
ENTROPIC_AVX512_ARITHMETIC(double, pd, epi64, __mmask8, 52)

ENTROPIC_INLINE Pack<float> split_exponent(Pack<float> x, Pack<float>& k) {
  using B = ScalarBits<float>;
  const __m512i shifted = _mm512_add_epi32(_mm512_castps_si512(x.v), _mm512_set1_epi32(B::one - B::sqrt_half));
  k = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(shifted, 23), _mm512_set1_epi32(B::bias)));
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_and_si512(shifted, _mm512_set1_epi32(B::fraction)), _mm512_set1_epi32(B::sqrt_half)));
}

ENTROPIC_INLINE Pack<double> split_exponent(Pack<double> x, Pack<double>& k) {
  using B = ScalarBits<double>;
  const __m512i shifted = _mm512_add_epi64(_mm512_castpd_si512(x.v), _mm512_set1_epi64(B::one - B::sqrt_half));
  k = _mm512_cvtepi64_pd(_mm512_sub_epi64(_mm512_srli_epi64(shifted, 52), _mm512_set1_epi64(B::bias)));
  return _mm512_castsi512_pd(
      _mm512_add_epi64(_mm512_and_si512(shifted, _mm512_set1_epi64(B::fraction)), _mm512_set1_epi64(B::sqrt_half)));
}

#elif defined(ENTROPIC_ISA_NEON)

template <>
struct Pack<double> {
  using Element = double;
  using Wide = Pack<double>;
  static constexpr int width = 2, wide_parts = 1;
  static constexpr bool has_table = false;
  float64x2_t v;
  Pack() = default;
  ENTROPIC_INLINE Pack(float64x2_t x) : v(x) {}
  ENTROPIC_INLINE Pack(double x) : v(vdupq_n_f64(x)) {}
  static ENTROPIC_INLINE Pack load(const double* p) { return vld1q_f64(p); }
  static ENTROPIC_INLINE Pack load_partial(const double* p, index_t n, double fill) {
    return load_partial_by_copy<Pack>(p, n, fill);
  }
  ENTROPIC_INLINE void store(double* p) const { vst1q_f64(p, v); }
  ENTROPIC_INLINE void stream(double* p) const { vst1q_f64(p, v); }
  ENTROPIC_INLINE void widen(Wide* out) const { out[0] = v; }
  static ENTROPIC_INLINE Pack narrow(const Wide* in) { return in[0]; }
  ENTROPIC_INLINE double sum() const { return sum_of(*this); }
  ENTROPIC_INLINE double largest() const { return largest_of(*this); }
};

template <>
struct Pack<float> {
  using Element = float;
  using Wide = Pack<double>;
  static constexpr int width = 4, wide_parts = 2;
  static constexpr bool has_table = false;
  float32x4_t v;
  Pack() = default;
  ENTROPIC_INLINE Pack(float32x4_t x) : v(x) {}
  ENTROPIC_INLINE Pack(float x) : v(vdupq_n_f32(x)) {}
  static ENTROPIC_INLINE Pack load(const float* p) { return vld1q_f32(p); }
  static ENTROPIC_INLINE Pack load_partial(const float* p, index_t n, float fill) {
    return load_partial_by_copy<Pack>(p, n, fill);
  }
  static ENTROPIC_INLINE Pack load_half(const std::uint16_t* p) { return load_half_by_copy<Pack>(p); }
  static ENTROPIC_INLINE Pack load_bfloat(const std::uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
  }
  static ENTROPIC_INLINE void load_two(const BFloat* p, Pack& a, Pack& b) {
    const uint32x4_t bits = vreinterpretq_u32_u16(vld1q_u16(reinterpret_cast<const std::uint16_t*>(p)));
    a = vreinterpretq_f32_u32(vshlq_n_u32(bits, 16));
    b = vreinterpretq_f32_u32(vandq_u32(bits, vdupq_n_u32(0xffff0000u)));
  }
  ENTROPIC_INLINE void store(float* p) const { vst1q_f32(p, v); }
  ENTROPIC_INLINE void stream(float* p) const { vst1q_f32(p, v); }
  ENTROPIC_INLINE void widen(Wide* out) const {
    out[0] = vcvt_f64_f32(vget_low_f32(v));
    out[1] = vcvt_high_f64_f32(v);
  }
  static ENTROPIC_INLINE Pack narrow(const Wide* in) {
    return vcombine_f32(vcvt_f32_f64(in[0].v), vcvt_f32_f64(in[1].v));
  }
  ENTROPIC_INLINE double sum() const { return sum_of(*this); }
  ENTROPIC_INLINE float largest() const { return largest_of(*this); }
};

#define ENTROPIC_NEON_ARITHMETIC(T, bits, Vector)                                                             \
  ENTROPIC_INLINE Pack<T> operator+(Pack<T> a, Pack<T> b) { return vaddq_f##bits(a.v, b.v); }                 \
  ENTROPIC_INLINE Pack<T> operator-(Pack<T> a, Pack<T> b) { return vsubq_f##bits(a.v, b.v); }                 \
  ENTROPIC_INLINE Pack<T> operator*(Pack<T> a, Pack<T> b) { return vmulq_f##bits(a.v, b.v); }                 \
  ENTROPIC_INLINE Pack<T> operator/(Pack<T> a, Pack<T> b) { return vdivq_f##bits(a.v, b.v); }                 \
  ENTROPIC_INLINE Pack<T> sqrt(Pack<T> a) { return vsqrtq_f##bits(a.v); }                                     \
  ENTROPIC_INLINE Pack<T> fma(Pack<T> a, Pack<T> b, Pack<T> c) { return vfmaq_f##bits(c.v, a.v, b.v); }       \
  ENTROPIC_INLINE Vector greater(Pack<T> a, Pack<T> b) { return vcgtq_f##bits(a.v, b.v); }                    \
  ENTROPIC_INLINE Vector equal(Pack<T> a, Pack<T> b) { return vceqq_f##bits(a.v, b.v); }                      \
  ENTROPIC_INLINE Pack<T> select(Vector mask, Pack<T> a, Pack<T> b) { return vbslq_f##bits(mask, a.v, b.v); } \
  ENTROPIC_INLINE Pack<T> absolute(Pack<T> a) { return vabsq_f##bits(a.v); }                                  \
  /* vmaxq and vminq return nan if either is: not what pick_max and pick_min mean. */                         \
  ENTROPIC_INLINE Pack<T> pick_max(Pack<T> a, Pack<T> b) { return select(greater(a, b), a, b); }              \
  ENTROPIC_INLINE Pack<T> pick_min(Pack<T> a, Pack<T> b) { return select(greater(b, a), a, b); }              \
  ENTROPIC_INLINE Pack<T> zero_unless(Vector mask, Pack<T> a) {                                               \
    return vreinterpretq_f##bits##_u##bits(vandq_u##bits(mask, vreinterpretq_u##bits##_f##bits(a.v)));        \
  }

ENTROPIC_NEON_ARITHMETIC(float, 32, uint32x4_t)
ENTROPIC_NEON_ARITHMETIC(double, 64, uint64x2_t)

ENTROPIC_INLINE uint64x2_t invert(uint64x2_t mask) {
  return vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(mask)));
}
ENTROPIC_INLINE uint32x4_t not_equal(Pack<float> a, Pack<float> b) { return vmvnq_u32(equal(a, b)); }
ENTROPIC_INLINE uint64x2_t not_equal(Pack<double> a, Pack<double> b) { return invert(equal(a, b)); }
ENTROPIC_INLINE uint32x4_t above_or_nan(Pack<float> a, Pack<float> b) { return vmvnq_u32(vcleq_f32(a.v, b.v)); }
ENTROPIC_INLINE uint64x2_t above_or_nan(Pack<double> a, Pack<double> b) { return invert(vcleq_f64(a.v, b.v)); }
ENTROPIC_INLINE bool any(uint32x4_t mask) { return vmaxvq_u32(mask) != 0; }
ENTROPIC_INLINE bool any(uint64x2_t mask) { return vmaxvq_u32(vreinterpretq_u32_u64(mask)) != 0; }
ENTROPIC_INLINE unsigned lane_bits(uint32x4_t mask) {
  const std::uint32_t bit[4] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(mask, vld1q_u32(bit)));
}
ENTROPIC_INLINE unsigned lane_bits(uint64x2_t mask) {
  return static_cast<unsigned>((vgetq_lane_u64(mask, 0) & 1) | (vgetq_lane_u64(mask, 1) & 2));
}
ENTROPIC_INLINE Pack<float> add_exponent(Pack<float> p, Pack<float> t) {
  const uint32x4_t n = vshlq_n_u32(vreinterpretq_u32_f32(t.v), 23);
  return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(p.v), n));
}
ENTROPIC_INLINE Pack<double> add_exponent(Pack<double> p, Pack<double> t) {
  const uint64x2_t n = vshlq_n_u64(vreinterpretq_u64_f64(t.v), 52);
  return vreinterpretq_f64_u64(vaddq_u64(vreinterpretq_u64_f64(p.v), n));
}
ENTROPIC_INLINE Pack<float> split_exponent(Pack<float> x, Pack<float>& k) {
  using B = ScalarBits<float>;
  const uint32x4_t shifted = vaddq_u32(vreinterpretq_u32_f32(x.v), vdupq_n_u32(B::one - B::sqrt_half));
  k = vcvtq_f32_s32(vsubq_s32(vreinterpretq_s32_u32(vshrq_n_u32(shifted, 23)), vdupq_n_s32(B::bias)));
  return vreinterpretq_f32_u32(vaddq_u32(vandq_u32(shifted, vdupq_n_u32(B::fraction)), vdupq_n_u32(B::sqrt_half)));
}
ENTROPIC_INLINE Pack<double> split_exponent(Pack<double> x, Pack<double>& k) {
  using B = ScalarBits<double>;
  const uint64x2_t shifted = vaddq_u64(vreinterpretq_u64_f64(x.v), vdupq_n_u64(B::one - B::sqrt_half));
  k = vcvtq_f64_s64(vsubq_s64(vreinterpretq_s64_u64(vshrq_n_u64(shifted, 52)), vdupq_n_s64(B::bias)));
  return vreinterpretq_f64_u64(vaddq_u64(vandq_u64(shifted, vdupq_n_u64(B::fraction)), vdupq_n_u64(B::sqrt_half)));
}

#endif

// Transposes a square of `side` x `side` elements in registers: out[c * ld + r] = x[r * stride + c].
template <class T>
struct Square {
  static constexpr int side = 1;
  static ENTROPIC_INLINE void transpose(const T* x, index_t, T* out, index_t) { *out = *x; }
};

#if defined(ENTROPIC_SSE2)

template <>
struct Square<float> {
  static constexpr int side = 4;
  static ENTROPIC_INLINE void transpose(const float* x, index_t stride, float* out, index_t ld) {
    __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + stride), c = _mm_loadu_ps(x + 2 * stride),
           d = _mm_loadu_ps(x + 3 * stride);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(out, a);
    _mm_storeu_ps(out + ld, b);
    _mm_storeu_ps(out + 2 * ld, c);
    _mm_storeu_ps(out + 3 * ld, d);
  }
};

template <>
struct Square<double> {
  static constexpr int side = 2;
  static ENTROPIC_INLINE void transpose(const double* x, index_t stride, double* out, index_t ld) {
    const __m128d a = _mm_loadu_pd(x), b = _mm_loadu_pd(x + stride);
    _mm_storeu_pd(out, _mm_unpacklo_pd(a, b));
    _mm_storeu_pd(out + ld, _mm_unpackhi_pd(a, b));
  }
};

#elif defined(ENTROPIC_ISA_V3) || defined(ENTROPIC_ISA_V4)

template <>
struct Square<float> {
  static constexpr int side = 8;
  static ENTROPIC_INLINE void transpose(const float* x, index_t stride, float* out, index_t ld) {
    __m256 row[8], pair[8];
    for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(x + i * stride);
    for (int i = 0; i < 8; i += 2) {
      pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
      pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      row[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
      row[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
      row[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
      row[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      _mm256_storeu_ps(out + i * ld, _mm256_permute2f128_ps(row[i], row[i + 4], 0x20));
      _mm256_storeu_ps(out + (i + 4) * ld, _mm256_permute2f128_ps(row[i], row[i + 4], 0x31));
    }
  }
};

template <>
struct Square<double> {
  static constexpr int side = 4;
  static ENTROPIC_INLINE void transpose(const double* x, index_t stride, double* out, index_t ld) {
    const __m256d a = _mm256_loadu_pd(x), b = _mm256_loadu_pd(x + stride), c = _mm256_loadu_pd(x + 2 * stride),
                  d = _mm256_loadu_pd(x + 3 * stride);
    const __m256d ab_low = _mm256_unpacklo_pd(a, b), ab_high = _mm256_unpackhi_pd(a, b),
                  cd_low = _mm256_unpacklo_pd(c, d), cd_high = _mm256_unpackhi_pd(c, d);
    _mm256_storeu_pd(out, _mm256_permute2f128_pd(ab_low, cd_low, 0x20));
    _mm256_storeu_pd(out + ld, _mm256_permute2f128_pd(ab_high, cd_high, 0x20));
    _mm256_storeu_pd(out + 2 * ld, _mm256_permute2f128_pd(ab_low, cd_low, 0x31));
    _mm256_storeu_pd(out + 3 * ld, _mm256_permute2f128_pd(ab_high, cd_high, 0x31));
  }
};

#endif

#if defined(ENTROPIC_SSE2) || defined(ENTROPIC_ISA_V3) || defined(ENTROPIC_ISA_V4) || defined(ENTROPIC_ISA_NEON)
template <class T>
using NativePack = Pack<T>;
#else
template <class T>
using NativePack = Scalar<T>;
#endif

}  // namespace
}  // namespace entropic
