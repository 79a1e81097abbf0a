// The log-sum kernels of one instruction set. Everything but the exported table is in an unnamed namespace, and nothing
// here may have vague linkage; see config.hpp.
#include "../kernels.hpp"
#include "../simd.hpp"
#include "entropic/metrics.hpp"
#include "entropic/pairs.hpp"
#include "entropic/reducers.hpp"
#include "entropic/tokens.hpp"
#include "set.hpp"

namespace entropic {
namespace {

using cpu::Write;

template <class T>
void push_row_of(const T* x, index_t n, bool with_t, LogSum* s) {
  if (with_t) push_row<NativePack<T>, true>(x, n, *s);
  else push_row<NativePack<T>, false>(x, n, *s);
}

template <class T>
void push_lanes_of(const T* x, index_t ld, index_t rows, index_t lanes, bool with_t, T* m, double* r, double* r_low,
                   double* t) {
  if (with_t) push_lane_rows<NativePack<T>, true>(x, ld, rows, lanes, m, r, r_low, t);
  else push_lane_rows<NativePack<T>, false>(x, ld, rows, lanes, m, r, r_low, t);
}

template <class T>
void push_tokens_of(const T* x, const T* values, index_t n, index_t first, TokenSum* s) {
  using P = NativePack<T>;
  if (s->inverse == 1) {
    if (values) TokenFold<P, false, true>(*s).push(x, values, n, first);
    else TokenFold<P, false, false>(*s).push(x, values, n, first);
  } else {
    if (values) TokenFold<P, true, true>(*s).push(x, values, n, first);
    else TokenFold<P, true, false>(*s).push(x, values, n, first);
  }
}

template <class T>
void finish_of(Value value, const LogSum* s, index_t count, double n, T* out) {
  using D = NativePack<double>;
  double m[D::width], r[D::width], t[D::width];
  for (index_t i = 0; i < count; i += D::width) {
    const index_t some = count - i < D::width ? count - i : D::width;
    for (index_t j = 0; j < D::width; ++j) {
      const LogSum& state = s[i + (j < some ? j : 0)];
      m[j] = state.m;
      r[j] = state.r;
      t[j] = state.t;
    }
    double y[D::width];
    finished(value, D::load(m), D::load(r), D::load(t), D(n)).store(y);
    for (index_t j = 0; j < some; ++j) out[i + j] = static_cast<T>(y[j]);
  }
}

// Applies f to n adjacent elements, pack by pack.
template <class P, class F>
ENTROPIC_INLINE void each_pack(const typename P::Element* x, index_t n, typename P::Element* out, F f) {
  using T = typename P::Element;
  index_t j = 0;
  for (; j + P::width <= n; j += P::width) f(P::load(x + j)).store(out + j);
  if (j < n) {
    T buffer[P::width];
    f(P::load_partial(x + j, n - j, T(1))).store(buffer);
    for (index_t i = j; i < n; ++i) out[i] = buffer[i - j];
  }
}

template <class P, int kind>
ENTROPIC_INLINE void write_row_as(const typename P::Element* x, index_t n, P m, P a, P b, bool stream,
                                  typename P::Element* out) {
  using T = typename P::Element;
  const auto f = [&](P v) { return written<P, kind>(v, m, a, b); };
  if (!stream) return each_pack<P>(x, n, out, f);
  // Streaming stores want aligned addresses.
  constexpr index_t bytes = P::width * sizeof(T);
  index_t head = static_cast<index_t>((bytes - reinterpret_cast<std::uintptr_t>(out) % bytes) % bytes / sizeof(T));
  head = head < n ? head : n;
  each_pack<P>(x, head, out, f);
  index_t j = head;
  for (; j + P::width <= n; j += P::width) f(P::load(x + j)).stream(out + j);
  each_pack<P>(x + j, n - j, out + j, f);
}

template <class T>
void write_row_of(Write what, const T* x, index_t n, double m, double a, double b, bool stream, T* out) {
  using P = NativePack<T>;
  const P pm(static_cast<T>(m)), pa(static_cast<T>(a)), pb(static_cast<T>(b));
  switch (what) {
    case Write::probability: return write_row_as<P, 0>(x, n, pm, pa, pb, stream, out);
    case Write::weighted_probability: return write_row_as<P, 1>(x, n, pm, pa, pb, stream, out);
    case Write::log_probability: return write_row_as<P, 2>(x, n, pm, pa, pb, stream, out);
  }
}

template <class P, int kind>
ENTROPIC_INLINE void write_lanes_as(const typename P::Element* x, index_t ld, index_t rows, index_t lanes,
                                    const typename P::Element* m, const typename P::Element* a,
                                    const typename P::Element* b, typename P::Element* out, index_t out_ld) {
  using T = typename P::Element;
  for (index_t i = 0; i < rows; ++i) {
    const T* row = x + i * ld;
    T* to = out + i * out_ld;
    index_t j = 0;
    for (; j + P::width <= lanes; j += P::width)
      written<P, kind>(P::load(row + j), P::load(m + j), P::load(a + j), P::load(b + j)).store(to + j);
    if (j < lanes) {
      const index_t n = lanes - j;
      T buffer[P::width];
      written<P, kind>(P::load_partial(row + j, n, T(0)), P::load_partial(m + j, n, T(0)),
                       P::load_partial(a + j, n, T(0)), P::load_partial(b + j, n, T(0)))
          .store(buffer);
      for (index_t c = 0; c < n; ++c) to[j + c] = buffer[c];
    }
  }
}

template <class T>
void write_lanes_of(Write what, const T* x, index_t ld, index_t rows, index_t lanes, const T* m, const T* a, const T* b,
                    T* out, index_t out_ld) {
  using P = NativePack<T>;
  switch (what) {
    case Write::probability: return write_lanes_as<P, 0>(x, ld, rows, lanes, m, a, b, out, out_ld);
    case Write::weighted_probability: return write_lanes_as<P, 1>(x, ld, rows, lanes, m, a, b, out, out_ld);
    case Write::log_probability: return write_lanes_as<P, 2>(x, ld, rows, lanes, m, a, b, out, out_ld);
  }
}

template <class T>
void weigh_gaps_of(const T* x, const T* w, const double* c, index_t n, double top, double* sums) {
  using P = NativePack<T>;
  using D = typename P::Wide;
  T ones[P::width];
  P(T(1)).store(ones);
  D gaps(0.0), weights(0.0);
  for (index_t j = 0; j < n; j += P::width) {
    const index_t left = n - j;
    const bool whole = left >= P::width;
    D score[P::wide_parts], weight[P::wide_parts];
    (whole ? P::load(x + j) : P::load_partial(x + j, left, T(0))).widen(score);
    if (w) (whole ? P::load(w + j) : P::load_partial(w + j, left, T(0))).widen(weight);
    else (whole ? P(T(1)) : P::load_partial(ones, left, T(0))).widen(weight);
    for (int i = 0; i < P::wide_parts; ++i) {
      const index_t at = i * D::width;
      if (c) {
        if (left >= at + D::width) weight[i] = weight[i] * D::load(c + j + at);
        else if (left > at) weight[i] = weight[i] * D::load_partial(c + j + at, left - at, 0.0);
      }
      weights = weights + weight[i];
      gaps = gaps + zero_unless(not_equal(weight[i], D(0.0)), weight[i] * (D(top) - score[i]));
    }
  }
  sums[0] += gaps.sum();
  sums[1] += weights.sum();
}

template <class T>
void add_exps_of(const T* x, index_t n, double m, double a, double* total) {
  using P = NativePack<T>;
  using D = typename P::Wide;
  const P top(static_cast<T>(m)), factor(static_cast<T>(a)), none(T(0));
  for (index_t j = 0; j < n; j += P::width) {
    const index_t left = n - j;
    const bool whole = left >= P::width;
    D part[P::wide_parts];
    probability<P, false>(whole ? P::load(x + j) : P::load_partial(x + j, left, T(0)), top, factor, none).widen(part);
    if (whole) {
      for (int i = 0; i < P::wide_parts; ++i)
        (D::load(total + j + i * D::width) + part[i]).store(total + j + i * D::width);
    } else {
      double buffer[P::width];
      for (int i = 0; i < P::wide_parts; ++i) part[i].store(buffer + i * D::width);
      for (index_t i = 0; i < left; ++i) total[j + i] += buffer[i];
    }
  }
}

template <class T>
void transpose_of(const T* x, index_t stride, index_t rows, index_t cols, T* out, index_t ld) {
  constexpr index_t side = Square<T>::side, line = 64 / index_t(sizeof(T));
  const index_t whole_rows = rows / side * side, whole_cols = cols / side * side;
  for (index_t r = 0; r < whole_rows; r += side) {
    // Short rows lie close together: memory is fetched some of them ahead.
    for (index_t i = r + 32; i < r + 32 + side && i < rows; ++i)
      for (index_t c = 0; c < cols; c += line) ENTROPIC_PREFETCH(x + i * stride + c);
    for (index_t c = 0; c < whole_cols; c += side)
      Square<T>::transpose(x + r * stride + c, stride, out + c * ld + r, ld);
    for (index_t c = whole_cols; c < cols; ++c)
      for (index_t i = r; i < r + side; ++i) out[c * ld + i] = x[i * stride + c];
  }
  for (index_t r = whole_rows; r < rows; ++r)
    for (index_t c = 0; c < cols; ++c) out[c * ld + r] = x[r * stride + c];
}

template <class T>
void metric_tile_of(Metric metric, const T* x, index_t x_stride, const T* yt, index_t ld, index_t rows, index_t cols,
                    index_t depth, T scale, T* out, index_t out_ld) {
  using P = NativePack<T>;
  switch (metric) {
    case Metric::dot: return metric_tile<Metric::dot, P>(x, x_stride, yt, ld, rows, cols, depth, scale, out, out_ld);
    case Metric::sqeuclidean:
      return metric_tile<Metric::sqeuclidean, P>(x, x_stride, yt, ld, rows, cols, depth, scale, out, out_ld);
    case Metric::euclidean:
      return metric_tile<Metric::euclidean, P>(x, x_stride, yt, ld, rows, cols, depth, scale, out, out_ld);
    case Metric::manhattan:
      return metric_tile<Metric::manhattan, P>(x, x_stride, yt, ld, rows, cols, depth, scale, out, out_ld);
    case Metric::chebyshev: return;  // no tile's user asks for it; see neighbors.hpp
  }
}

template <class T>
void exp_array(const T* x, index_t n, T* out) {
  each_pack<NativePack<T>>(x, n, out, [](NativePack<T> v) { return exp(v); });
}
template <class T>
void log_array(const T* x, index_t n, T* out) {
  each_pack<NativePack<T>>(x, n, out, [](NativePack<T> v) { return log(v); });
}
template <class T>
void log1p_array(const T* x, index_t n, T* out) {
  each_pack<NativePack<T>>(x, n, out, [](NativePack<T> v) { return log1p(v); });
}

void widen_half(const std::uint16_t* x, index_t n, bool bfloat, float* out) {
  using P = NativePack<float>;
  index_t j = 0;
  if (bfloat) {
    for (; j + P::width <= n; j += P::width) P::load_bfloat(x + j).store(out + j);
    for (; j < n; ++j) out[j] = bfloat_to_float(x[j]);
  } else {
    for (; j + P::width <= n; j += P::width) P::load_half(x + j).store(out + j);
    for (; j < n; ++j) out[j] = half_to_float(x[j]);
  }
}

void push_bfloat_tokens(const std::uint16_t* x, index_t n, index_t first, TokenSum* s) {
  using P = NativePack<float>;
  const auto* scores = reinterpret_cast<const BFloat*>(x);
  float buffer[TokenFold<P, false, false>::kHead];
  if (s->inverse == 1) TokenFold<P, false, false>(*s).push(scores, nullptr, n, first, buffer);
  else TokenFold<P, true, false>(*s).push(scores, nullptr, n, first, buffer);
}

LogSum merge_states(LogSum a, LogSum b) { return merge(a, b); }
TokenSum merge_token_states(TokenSum a, TokenSum b) { return merge(a, b); }
void finish_token_state(const TokenSum* s, double* values) { finish(*s, values); }
SignedSum merge_signed_states(SignedSum a, SignedSum b) { return merge(a, b); }
double log_abs_of(double hi, double lo) { return log_abs(hi, lo); }
SignedSum to_signed_of(LogSum s) { return to_signed(s); }
LogSum to_log_sum_of(SignedSum s) { return to_log_sum(s); }
double prepare_signed_of(double* a, const double* b, index_t n) { return prepare_signed<NativePack<double>>(a, b, n); }
void push_signed_of(double* a, const double* b, index_t n, SignedSum* s) {
  push_signed<NativePack<double>>(a, b, n, *s);
}

void scan_lanes(double* x, index_t ld, index_t rows, index_t lanes, double* m, double* r, double* low) {
  using D = NativePack<double>;
  for (index_t j = 0; j + D::width <= lanes; j += D::width) {
    D top = D::load(m + j), rest = D::load(r + j), rest_low = D::load(low + j);
    for (index_t i = 0; i < rows; ++i) scan_step(D::load(x + i * ld + j), top, rest, rest_low).store(x + i * ld + j);
    top.store(m + j);
    rest.store(r + j);
    rest_low.store(low + j);
  }
}

using Wide = NativePack<double>;
void pair_tops_of(const double* x, const double* y, index_t n, PairSums* s) { pair_tops<Wide>(x, y, n, *s); }
void pair_sums_of(const double* x, const double* y, index_t n, PairSums* s) { pair_sums<Wide>(x, y, n, *s); }
void pair_excess_of(const double* x, const double* y, index_t n, double top, double centre, bool near,
                    PairExcess* sums) {
  if (near) pair_excess<Wide, true>(x, y, n, top, centre, *sums);
  else pair_excess<Wide, false>(x, y, n, top, centre, *sums);
}
double pair_middle_of(const double* x, const double* y, index_t n, double log_x, double log_y, double shift,
                      bool near) {
  return near ? pair_middle<Wide, true>(x, y, n, log_x, log_y, shift)
              : pair_middle<Wide, false>(x, y, n, log_x, log_y, shift);
}
double pair_tilt_of(const double* x, const double* y, index_t n, double log_x, double log_y, double shift, double b,
                    bool near) {
  return near ? pair_tilt<Wide, true>(x, y, n, log_x, log_y, shift, b)
              : pair_tilt<Wide, false>(x, y, n, log_x, log_y, shift, b);
}

// A macro and not a constexpr template: the address of a template's variable would be a weak symbol.
#define ENTROPIC_FAMILY(T)                                                                     \
  {push_row_of<T>,    push_lanes_of<T>, push_tokens_of<T>, finish_of<T>,    write_row_of<T>,   \
   write_lanes_of<T>, weigh_gaps_of<T>, add_exps_of<T>,    transpose_of<T>, metric_tile_of<T>, \
   exp_array<T>,      log_array<T>,     log1p_array<T>}

}  // namespace

namespace cpu {
extern const Kernels ENTROPIC_OF_SET(kernels);
const Kernels ENTROPIC_OF_SET(kernels) = {
    ENTROPIC_SET_NAME,
    NativePack<float>::width,
    ENTROPIC_FAMILY(float),
    ENTROPIC_FAMILY(double),
    push_bfloat_tokens,
    widen_half,
    merge_states,
    merge_token_states,
    finish_token_state,
    prepare_signed_of,
    push_signed_of,
    merge_signed_states,
    log_abs_of,
    to_signed_of,
    to_log_sum_of,
    scan_lanes,
    {pair_tops_of, pair_sums_of, pair_excess_of, pair_middle_of, pair_tilt_of},
    &ENTROPIC_OF_SET(transport),
    &ENTROPIC_OF_SET(coupling),
    &ENTROPIC_OF_SET(neighbors),
    &ENTROPIC_OF_SET(spectral),
};
}  // namespace cpu
}  // namespace entropic
