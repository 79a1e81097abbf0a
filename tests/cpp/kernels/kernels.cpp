// The kernels of one instruction set against long double: for sets that this machine cannot run under Python, such as
// NEON under an emulator. Linked with csrc/cpu/isa/*.cpp; ENTROPIC_TEST_KERNELS names the table.
#include "../../../csrc/cpu/kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

using namespace entropic;
using namespace entropic::cpu;

namespace entropic {
namespace cpu {
extern const Kernels ENTROPIC_TEST_KERNELS;
}
}  // namespace entropic

static int failures = 0;

static void check(bool good, const char* what, double got, double want) {
  if (good) return;
  ++failures;
  std::printf("%s: got %.17g, want %.17g\n", what, got, want);
}

static void check_near(const char* what, double got, double want, double tolerance) {
  const bool same = got == want || (std::isnan(got) && std::isnan(want));
  check(same || std::fabs(got - want) <= tolerance * std::fmax(1.0, std::fabs(want)), what, got, want);
}

struct Exact {
  long double lse, entropy;
};

template <class T>
Exact exact(const std::vector<T>& x) {
  long double top = -INFINITY, sum = 0, moment = 0;
  for (T v : x) top = std::fmax(top, static_cast<long double>(v));
  for (T v : x) {
    const long double d = top - v, e = std::exp(-d);
    sum += e;
    if (e > 0) moment += e * d;
  }
  return {top + std::log(sum), std::log(sum) + moment / sum};
}

template <class T>
double finish(const FamilyKernels<T>& k, Value value, LogSum s) {
  T out;
  k.finish(value, &s, 1, 1.0, &out);
  return out;
}

template <class T>
void test_rows(const FamilyKernels<T>& k) {
  const double eps = std::numeric_limits<T>::epsilon();
  std::mt19937 generator(7);
  std::normal_distribution<double> normal(0, 4);
  for (int n : {1, 2, 3, 5, 15, 16, 17, 63, 255, 1000, 5000}) {
    for (int kind = 0; kind < 5; ++kind) {
      std::vector<T> x(n);
      for (T& v : x) v = static_cast<T>(normal(generator));
      if (kind == 1) x[n / 2] += 40;
      if (kind == 2)
        for (int i = 0; i < n; ++i) x[i] = static_cast<T>(i * 0.01);
      if (kind == 3)
        for (int i = 0; i < n; i += 3) x[i] = -std::numeric_limits<T>::infinity();
      if (kind == 3 && n < 2) continue;
      if (kind == 4)
        for (T& v : x) v = T(1.5);
      LogSum s{-HUGE_VAL, 0, 0};
      k.push_row(x.data(), n, true, &s);
      const Exact want = exact(x);
      check_near("row logsumexp", finish(k, Value::logsumexp, s), static_cast<double>(want.lse), 4 * eps);
      check_near("row entropy", finish(k, Value::entropy, s), static_cast<double>(want.entropy), 8 * eps);

      std::vector<T> p(n), log_p(n);
      k.write_row(Write::probability, x.data(), n, s.m, 1 / (1 + s.r), 0, false, p.data());
      k.write_row(Write::log_probability, x.data(), n, s.m, std::log1p(s.r), 0, false, log_p.data());
      for (int i = 0; i < n; ++i) {
        const long double exact_log = x[i] - want.lse;
        check_near("probability", p[i], static_cast<double>(std::exp(exact_log)), 16 * eps);
        check_near("log probability", log_p[i], static_cast<double>(exact_log), 4 * eps);
      }
    }
  }
  for (double special : {HUGE_VAL, -HUGE_VAL, std::nan("")}) {
    for (int at : {0, 7, 99}) {
      std::vector<T> x(100, T(0.5));
      x[at] = static_cast<T>(special);
      LogSum s{-HUGE_VAL, 0, 0};
      k.push_row(x.data(), 100, true, &s);
      const double want = special == -HUGE_VAL ? 0.5 + std::log(99.0) : special;
      check_near("special", finish(k, Value::logsumexp, s), want, 4 * eps);
    }
  }
}

template <class T>
void test_lanes(const FamilyKernels<T>& k) {
  const double eps = std::numeric_limits<T>::epsilon();
  std::mt19937 generator(9);
  std::normal_distribution<double> normal(0, 4);
  for (int lanes : {1, 3, 16, 21, 64}) {
    const int ld = lanes + 5, rows = 37, tiles = 3;  // more than a tile, and not a multiple of one
    std::vector<T> x(ld * rows * tiles), m(lanes + 16, -std::numeric_limits<T>::infinity());
    std::vector<double> r(lanes + 16, 0.0), low(r), t(r);
    for (T& v : x) v = static_cast<T>(normal(generator));
    for (int tile = 0; tile < tiles; ++tile)
      k.push_lanes(x.data() + tile * rows * ld, ld, rows, lanes, true, m.data(), r.data(), low.data(), t.data());
    for (int j = 0; j < lanes; ++j) {
      std::vector<T> column(rows * tiles);
      for (int i = 0; i < rows * tiles; ++i) column[i] = x[i * ld + j];
      const Exact want = exact(column);
      const LogSum s{static_cast<double>(m[j]), r[j] + low[j], t[j]};
      check_near("lane logsumexp", finish(k, Value::logsumexp, s), static_cast<double>(want.lse), 4 * eps);
      check_near("lane entropy", finish(k, Value::entropy, s), static_cast<double>(want.entropy), 8 * eps);
    }
    std::vector<T> turned(ld * rows);
    k.transpose(x.data(), ld, rows, lanes, turned.data(), rows);
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < lanes; ++j) check(turned[j * rows + i] == x[i * ld + j], "transpose", i, j);
  }
}

template <class T>
void test_functions(const FamilyKernels<T>& k) {
  const double eps = std::numeric_limits<T>::epsilon();
  for (double v = -80; v < 80; v += 0.173) {
    const T x = static_cast<T>(v), y = static_cast<T>(std::exp(v));
    T got;
    k.exp(&x, 1, &got);
    check(std::fabs(got / std::exp(static_cast<double>(x)) - 1) <= 1.3 * eps, "exp", got, std::exp(x));
    k.log(&y, 1, &got);
    check_near("log", got, std::log(static_cast<double>(y)), 1.3 * eps);
    k.log1p(&y, 1, &got);
    check(std::fabs(got / std::log1p(static_cast<double>(y)) - 1) <= 1.3 * eps, "log1p", got, std::log1p(y));
  }
}

// The values of a state as sums over all scores, the target being the first.
template <class T>
std::vector<long double> exact_values(const std::vector<T>& x, const std::vector<T>& values, double inverse) {
  long double top = -INFINITY, sum = 0, first = 0, second = 0, squares = 0, expected = 0;
  for (T v : x) top = std::fmax(top, static_cast<long double>(v) * inverse);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const long double d = top - static_cast<long double>(x[i]) * inverse, e = std::exp(-d);
    if (e == 0) continue;
    sum += e;
    first += e * d;
    second += e * d * d;
    squares += e * e;
    expected += e * values[i];
  }
  const long double mean = first / sum, x_top = *std::max_element(x.begin(), x.end());
  return {top + std::log(sum),
          std::log(sum) + mean,
          x[0] * static_cast<long double>(inverse) - top - std::log(sum),
          1 / sum,
          squares / sum / sum,
          second / sum - mean * mean,
          expected / sum,
          x_top};
}

template <class T>
void check_state(const Kernels& k, const char* what, const TokenSum& s, const std::vector<long double>& want) {
  double got[kTokenValues];
  k.finish_tokens(&s, got);
  for (int i = 0; i < kTokenValues; ++i)
    check_near(what, got[i], static_cast<double>(want[i]), 16 * std::numeric_limits<T>::epsilon());
}

template <class T>
TokenSum empty_state(double inverse, T target) {
  return {-HUGE_VAL, 0, 0, 0, 0, 0, 0, -1, inverse, static_cast<double>(target)};
}

// Rows near 0, far from it, with one high score, of equal scores and with gaps; whole, and of two parts.
template <class T>
void test_tokens(const Kernels& k) {
  std::mt19937 generator(11);
  std::normal_distribution<double> normal;
  for (const double inverse : {1.0, 1 / 0.7})
    for (const int n : {1, 2, 15, 16, 17, 200, 5003})
      for (const int kind : {0, 1, 2, 3, 4}) {
        std::vector<T> x(n), values(n);
        for (int i = 0; i < n; ++i) {
          x[i] = static_cast<T>(kind == 3 ? 1.5 : normal(generator) * 2 + (kind == 1 ? 512 : 0));
          values[i] = static_cast<T>(normal(generator));
          if (kind == 4 && i % 3 == 2) x[i] = -std::numeric_limits<T>::infinity();
        }
        if (kind == 2) x[n / 2] = 30;
        const auto want = exact_values(x, values, inverse);
        TokenSum whole = empty_state(inverse, x[0]);
        k.of<T>().push_tokens(x.data(), values.data(), n, 0, &whole);
        check_state<T>(k, "tokens", whole, want);
        check(whole.argmax == std::max_element(x.begin(), x.end()) - x.begin(), "argmax", whole.argmax, n);
        TokenSum left = empty_state(inverse, x[0]), right = empty_state<T>(inverse, std::nan(""));
        k.of<T>().push_tokens(x.data(), values.data(), n / 2, 0, &left);
        k.of<T>().push_tokens(x.data() + n / 2, values.data() + n / 2, n - n / 2, n / 2, &right);
        const TokenSum merged = k.merge_tokens(right, left);
        check_state<T>(k, "merged tokens", merged, want);
        check(merged.argmax == whole.argmax, "merged argmax", merged.argmax, whole.argmax);
      }
}

// Gaps and probabilities of a row, with and without weights.
template <class T>
void test_weighted_rows(const FamilyKernels<T>& k) {
  const double eps = std::numeric_limits<T>::epsilon();
  std::mt19937 generator(15);
  std::normal_distribution<double> normal;
  for (const int n : {1, 7, 8, 17, 300}) {
    std::vector<T> x(n), w(n);
    std::vector<double> c(n), total(n, 1.0);
    for (int i = 0; i < n; ++i) {
      x[i] = static_cast<T>(normal(generator));
      w[i] = i % 3 ? static_cast<T>(std::fabs(normal(generator))) : T(0);
      c[i] = std::fabs(normal(generator));
    }
    if (n > 1) x[0] = -std::numeric_limits<T>::infinity();  // its weight is 0
    long double gaps = 0, weights = 0, plain = 0, factors = 0;
    for (int i = 0; i < n; ++i) {
      const long double weight = static_cast<long double>(w[i]) * c[i];
      if (w[i] != 0) gaps += weight * (5.0L - x[i]);
      weights += weight;
      factors += c[i];
      plain += 5.0L - x[i];
    }
    double sums[2] = {0, 0};
    k.weigh_gaps(x.data(), w.data(), c.data(), n, 5.0, sums);
    check_near("weighted gaps", sums[0], static_cast<double>(gaps), 1e-14);
    check_near("weights", sums[1], static_cast<double>(weights), 1e-14);
    k.weigh_gaps(x.data() + n - 1, nullptr, nullptr, 1, 5.0, sums);
    check_near("a gap", sums[0], static_cast<double>(gaps + 5 - x[n - 1]), 1e-14);
    check_near("a weight", sums[1], static_cast<double>(weights + 1), 1e-14);
    double all[2] = {0, 0};
    k.weigh_gaps(x.data(), nullptr, nullptr, n, 5.0, all);
    check_near("gaps", all[0], static_cast<double>(plain), 1e-14);
    check_near("number", all[1], n, 0);
    k.add_exps(x.data(), n, 1.0, 0.25, total.data());
    for (int i = 0; i < n; ++i)
      check_near("add_exps", total[i], static_cast<double>(1 + std::exp(x[i] - 1.0L) / 4), 4 * eps);
  }
}

// Two rows, near each other and not, with gaps.
static void test_pairs(const PairKernels& k) {
  std::mt19937 generator(17);
  std::normal_distribution<double> normal;
  for (const int n : {1, 2, 7, 16, 100})
    for (const bool near : {true, false})
      for (const bool gaps : {false, true}) {
        std::vector<double> x(n), y(n);
        for (int i = 0; i < n; ++i) {
          x[i] = normal(generator);
          y[i] = x[i] + 3 + std::sin(i) * (near ? 0.1 : 8);
          if (gaps && i % 4 == 1) x[i] = -HUGE_VAL;
          if (gaps && i % 3 == 1) y[i] = -HUGE_VAL;
        }
        const double b = -0.7, log_x = 0.3, log_y = 3.5, shift = 3.1, top = 2.0, centre = 2.9;
        long double mass = 0, only = 0, moment = 0, excess = 0, mean = 0, middle = 0, tilt = 0;
        double least = HUGE_VAL, top_x = -HUGE_VAL, only_top = -HUGE_VAL;
        for (int i = 0; i < n; ++i) {
          if (x[i] > -HUGE_VAL && y[i] > -HUGE_VAL) top_x = std::max(top_x, x[i]);
          else only_top = std::max(only_top, x[i]);
        }
        for (int i = 0; i < n; ++i) {
          const long double v = x[i], w = y[i];
          if (!(x[i] > -HUGE_VAL && y[i] > -HUGE_VAL)) {
            if (x[i] > -HUGE_VAL) only += std::exp(v - only_top);
            continue;
          }
          const long double u = w - v - centre, l = w - v - shift, p = std::exp(v - log_x);
          mass += std::exp(v - top_x);
          moment += std::exp(v - top_x) * (w - v);
          excess += std::exp(v - top) * (std::expm1(u) - u);
          mean += std::exp(v - top) * u;
          least = std::min(least, static_cast<double>(u));
          const long double larger = l > 0 ? std::exp(w - log_y) : p, z = -std::fabs(l);
          middle += larger * (std::exp(z) * z - (1 + std::exp(z)) * (std::log1p(std::exp(z)) - std::log(2.0L))) / 2;
          const auto h = [](long double t) { return std::expm1(t) - t; };
          const long double q = near ? p * std::exp(l) : std::exp(w - log_y);
          const bool close = std::fabs(l) <= 1 && std::fabs(b * l) <= 1;
          tilt += close ? p * (h(b * l) - b * h(l)) : p * std::exp(b * l) - p - b * (q - p);
        }
        PairSums s{-HUGE_VAL, -HUGE_VAL, 0, 0, 0, HUGE_VAL, -HUGE_VAL, -HUGE_VAL, -HUGE_VAL, 0, 0};
        k.tops(x.data(), y.data(), n, &s);
        check(s.top_x == top_x && s.only_top_x == only_top, "tops", s.top_x, top_x);
        k.sums(x.data(), y.data(), n, &s);
        check_near("mass", s.mass_x, static_cast<double>(mass), 1e-14);
        check_near("only", s.only_x, static_cast<double>(only), 1e-14);
        check_near("moment", s.moment, static_cast<double>(moment), 1e-14);
        PairExcess sums{0, 0, HUGE_VAL};
        k.excess(x.data(), y.data(), n, top, centre, near, &sums);
        check_near("excess", sums.excess, static_cast<double>(excess), 1e-14);
        check_near("mean", sums.mean, static_cast<double>(mean), 1e-14);
        check(std::fabs(sums.least - least) < 1e-13 || least == sums.least, "least", sums.least, least);
        check_near("middle", k.middle(x.data(), y.data(), n, log_x, log_y, shift, near), static_cast<double>(middle),
                   1e-14);
        check_near("tilt", k.tilt(x.data(), y.data(), n, log_x, log_y, shift, b, near), static_cast<double>(tilt),
                   1e-13);
      }
  PairSums s{-HUGE_VAL, -HUGE_VAL, 0, 0, 0, HUGE_VAL, -HUGE_VAL, -HUGE_VAL, -HUGE_VAL, 0, 0};
  const double x[] = {0, 1, 2, 3, std::nan("")}, y[] = {0, 0, 0, 0, 0};
  k.tops(x, y, 5, &s);
  check(std::isnan(s.top_x), "nan", s.top_x, x[4]);
}

static void test_halves(const Kernels& k) {
  std::mt19937 generator(13);
  std::normal_distribution<float> normal(0, 3);
  for (const int n : {1, 33, 3000}) {
    std::vector<std::uint16_t> stored(n);
    std::vector<float> exact(n), wide(n), zeros(n, 0.0f);
    for (int i = 0; i < n; ++i) {
      std::uint32_t bits;
      const float v = normal(generator);
      std::memcpy(&bits, &v, sizeof(bits));
      stored[i] = static_cast<std::uint16_t>(bits >> 16);
      bits &= 0xffff0000u;
      std::memcpy(&exact[i], &bits, sizeof(bits));
    }
    k.widen_half(stored.data(), n, true, wide.data());
    check(wide == exact, "bfloat16", n, 0);
    TokenSum s = empty_state(1.0, exact[0]);
    k.push_bfloat_tokens(stored.data(), n, 0, &s);
    check_state<float>(k, "bfloat16 tokens", s, exact_values(exact, zeros, 1.0));
  }
  // float16: zero, the least number, a subnormal one, the least normal one, 1, the largest, infinity
  const std::vector<std::uint16_t> stored{0x8000, 0x0001, 0x03ff, 0x0400, 0x3c00, 0x7bff, 0xfc00};
  const std::vector<float> exact{-0.0f, 0x1p-24f, 0x1.ff8p-15f, 0x1p-14f, 1.0f, 65504.0f, -HUGE_VALF};
  std::vector<float> wide(stored.size());
  k.widen_half(stored.data(), static_cast<index_t>(stored.size()), false, wide.data());
  check(std::memcmp(wide.data(), exact.data(), exact.size() * sizeof(float)) == 0, "float16", wide[1], exact[1]);
}

// The largest keys meet, one lane at a time.
static void test_couplings(const CouplingKernels& k) {
  constexpr int lanes = 8, shift = 6;
  constexpr std::uint64_t bias = std::uint64_t(1) << 62;
  std::mt19937_64 random(5);
  const auto bits = [](double key) {
    std::uint64_t out;
    std::memcpy(&out, &key, sizeof(out));
    return out;
  };
  for (const int n : {1, 2, 7, 16}) {
    const int m = n + 3;
    std::vector<double> p(n * lanes), q(m * lanes);
    std::vector<std::uint64_t> sides[lanes][2];
    for (int lane = 0; lane < lanes - 1; ++lane) {
      for (int side = 0; side < 2; ++side) {
        const int size = side ? m : n;
        std::uint64_t rest = std::uint64_t(1) << (lane ? 53 : 5);
        for (int i = 0; i < size; ++i) {
          const std::uint64_t mass = i + 1 < size ? random() % (rest / size + 1) : rest;
          sides[lane][side].push_back(bias | mass << shift | static_cast<std::uint64_t>(i));
          rest -= mass;
        }
      }
    }
    for (int side = 0; side < 2; ++side) {
      std::vector<double>& keys = side ? q : p;
      for (int i = 0; i < (side ? m : n); ++i)
        for (int lane = 0; lane < lanes; ++lane) {
          const std::uint64_t key = lane == lanes - 1 ? bias | static_cast<std::uint64_t>(i) : sides[lane][side][i];
          std::memcpy(&keys[i * lanes + lane], &key, sizeof(key));
        }
    }
    k.sort_lanes(p.data(), n);
    k.sort_lanes(q.data(), m);
    for (int lane = 0; lane < lanes; ++lane)
      for (int i = 1; i < m; ++i)
        check(bits(q[i * lanes + lane]) < bits(q[(i - 1) * lanes + lane]), "sort_lanes", i, lane);
    std::vector<std::uint64_t> p_keys((n + m) * lanes), q_keys(p_keys.size()), masses(p_keys.size());
    const index_t steps = k.greedy_lanes(p.data(), n, q.data(), m, shift, p_keys.data(), q_keys.data(), masses.data());
    for (int lane = 0; lane < lanes; ++lane)
      for (index_t step = 0; step < steps; ++step) {
        const index_t at = step * lanes + lane;
        std::uint64_t mass = 0;
        if (lane < lanes - 1) {
          const auto a = std::max_element(sides[lane][0].begin(), sides[lane][0].end()),
                     b = std::max_element(sides[lane][1].begin(), sides[lane][1].end());
          mass = (std::min(*a, *b) - bias) >> shift;
          if (mass) check(p_keys[at] == *a && q_keys[at] == *b, "greedy_lanes", double(step), lane);
          *a -= mass << shift;
          *b -= mass << shift;
        }
        check(masses[at] == mass, "greedy_lanes", double(masses[at]), double(mass));
      }
    for (int lane = 0; lane < lanes - 1; ++lane)
      for (const std::uint64_t key : sides[lane][1]) check((key - bias) >> shift == 0, "rest", double(key), lane);
  }
}

// Trees and leaves of every layout against all pairs.
template <Metric metric>
static void test_neighbors(const NeighborKernels& k, index_t n, index_t d, bool lattice) {
  std::mt19937_64 random(n * 100 + d);
  std::normal_distribution<double> normal;
  const index_t leaves = (n + kLeafPoints - 1) / kLeafPoints;
  std::vector<double> rows(n * d), exact(leaves * d * kLeafPoints, HUGE_VAL), norms(leaves, 0.0);
  std::vector<float> rounded(leaves * (d + 1) * kLeafPoints, 0.0f);
  std::vector<std::int32_t> order(n);
  for (double& x : rows) x = lattice ? double(random() % 3) : normal(random);
  for (index_t i = 0; i < n; ++i) {
    order[i] = static_cast<std::int32_t>(i);
    const index_t leaf = i / kLeafPoints, lane = i % kLeafPoints;
    double square = 0;
    for (index_t c = 0; c < d; ++c) {
      const double x = rows[i * d + c];
      exact[(leaf * d + c) * kLeafPoints + lane] = x;
      rounded[(leaf * (d + 1) + c) * kLeafPoints + lane] = static_cast<float>(x);
      square += x * x;
    }
    rounded[(leaf * (d + 1) + d) * kLeafPoints + lane] = static_cast<float>(-square / 2);
    norms[leaf] = std::max(norms[leaf], std::sqrt(square));
  }
  std::vector<std::vector<double>> boxes;
  for (index_t nodes = leaves, size = kLeafPoints; d <= 4; size *= kFan) {
    const index_t groups = (nodes + kFan - 1) / kFan;
    std::vector<double> level(groups * d * 2 * kFan);
    for (index_t node = 0; node < groups * kFan; ++node)
      for (index_t c = 0; c < d; ++c) {
        double low = HUGE_VAL, high = -HUGE_VAL;
        for (index_t i = node * size; i < std::min(n, (node + 1) * size); ++i) {
          low = std::min(low, rows[i * d + c]);
          high = std::max(high, rows[i * d + c]);
        }
        level[(node / kFan * d + c) * 2 * kFan + node % kFan] = low;
        level[((node / kFan * d + c) * 2 + 1) * kFan + node % kFan] = high;
      }
    boxes.push_back(level);
    nodes = groups;
    if (nodes == 1) break;
  }
  PointTree tree{n,
                 d,
                 leaves,
                 static_cast<int>(boxes.size()),
                 rows.data(),
                 order.data(),
                 exact.data(),
                 rounded.data(),
                 norms.data(),
                 1.0,
                 {}};
  for (std::size_t h = 0; h < boxes.size(); ++h) tree.boxes[h] = boxes[h].data();
  const auto distance = [&](index_t i, index_t j) {
    double sum = 0;
    for (index_t c = 0; c < d; ++c) {
      const double apart = std::fabs(rows[i * d + c] - rows[j * d + c]);
      sum = metric == Metric::chebyshev ? std::max(sum, apart)
                                        : sum + (metric == Metric::manhattan ? apart : apart * apart);
    }
    return sum;
  };
  std::vector<float> own(n * d);
  std::vector<double> norm(n), radius(n);
  std::vector<index_t> self(n), count(n);
  for (index_t i = 0; i < n; ++i) {
    self[i] = i;
    double square = 0;
    for (index_t c = 0; c < d; ++c) {
      own[i * d + c] = static_cast<float>(rows[i * d + c]);
      square += rows[i * d + c] * rows[i * d + c];
    }
    norm[i] = std::sqrt(square);
  }
  const index_t nearest = 5;
  std::vector<double> found(n * nearest), wanted(n * nearest);
  std::vector<std::int64_t> who(n * nearest);
  const QueryBlock block{n, rows.data(), own.data(), norm.data(), self.data(), self.data(), 0};
  k.nearest(tree, metric, block, nearest, found.data(), who.data());
  for (index_t i = 0; i < n; ++i) {
    std::vector<double> all;
    for (index_t j = 0; j < n; ++j)
      if (j != i) all.push_back(distance(i, j));
    std::sort(all.begin(), all.end());
    for (index_t j = 0; j < nearest; ++j) {
      check(found[i * nearest + j] == all[j], "nearest", found[i * nearest + j], all[j]);
      check(distance(i, who[i * nearest + j]) == all[j], "who", double(who[i * nearest + j]), all[j]);
    }
    radius[i] = i % 2 ? all[nearest] : all[n / 3];
  }
  k.count(tree, metric, block, radius.data(), count.data());
  for (index_t i = 0; i < n; ++i) {
    index_t all = 0;
    for (index_t j = 0; j < n; ++j) all += distance(i, j) < radius[i];
    check(count[i] == all, "count", double(count[i]), double(all));
  }
  for (index_t leaf = 0; d <= 3 && leaf < leaves; ++leaf) {
    double out[kMostLaneNeighbors * kLeafPoints];
    k.leaf_distances(tree, metric, leaf, nearest, out);
    for (index_t i = leaf * kLeafPoints; i < std::min(n, (leaf + 1) * kLeafPoints); ++i)
      for (index_t j = 0; j < nearest; ++j)
        check(out[j * kLeafPoints + i % kLeafPoints] == found[i * nearest + j], "leaf_distances", double(i), double(j));
  }
}

static void test_neighbors(const NeighborKernels& k) {
  for (const index_t n : {33, 300})
    for (const index_t d : {2, 3, 4, 9})
      for (const bool lattice : {false, true}) {
        test_neighbors<Metric::euclidean>(k, n, d, lattice);
        test_neighbors<Metric::manhattan>(k, n, d, lattice);
        test_neighbors<Metric::chebyshev>(k, n, d, lattice);
      }
}

static void test_spectral(const SpectralKernels& k) {
  std::mt19937_64 generator(5);
  std::normal_distribution<double> normal;
  for (const index_t n : {1, 7, 16, 33}) {
    std::vector<double> x(64, 0.0), rates(64, 0.5), exact(64);
    for (index_t j = 0; j < n; ++j) {
      x[j] = j == 5 ? 1e4 : normal(generator) * normal(generator);
      x[j] *= x[j];
      exact[j] = double(std::exp(-0.5L * x[j] * 0.25L));
    }
    k.kernel_row(x.data(), n, 0.25, rates.data());
    for (index_t j = 0; j < n; ++j) check_near("kernel_row", x[j], exact[j] < 1e-300 ? 0 : exact[j], 1e-15);
  }
  for (const index_t rows : {1, 4, 7})
    for (const index_t depth : {1, 5, 40}) {
      const index_t columns = 16, ld = 40;
      std::vector<double> g(static_cast<std::size_t>(8 * ld)), v(static_cast<std::size_t>(ld * columns));
      for (double& e : g) e = normal(generator);
      for (double& e : v) e = normal(generator);
      for (const bool along_rows : {true, false}) {
        const index_t across = along_rows ? ld : 1, along = along_rows ? 1 : 8;
        std::vector<double> y(static_cast<std::size_t>(8 * columns), 1.0);
        k.add_product(g.data(), across, along, rows, depth, v.data(), columns, columns, y.data(), columns);
        for (index_t i = 0; i < 8; ++i)
          for (index_t c = 0; c < columns; ++c) {
            long double want = 1;
            for (index_t j = 0; i < rows && j < depth; ++j)
              want += static_cast<long double>(g[i * across + j * along]) * v[j * columns + c];
            check_near("add_product", y[i * columns + c], double(want), 1e-13);
          }
      }
    }
}

static void test_single_products(const SpectralKernels& k) {
  std::mt19937_64 generator(6);
  std::normal_distribution<float> normal;
  const index_t rows = 19, depth = 37, columns = 32;
  std::vector<float> g(rows * depth), v(depth * columns), y(rows * columns, 1.0f);
  for (float& value : g) value = normal(generator);
  for (float& value : v) value = normal(generator);
  k.add_single_product(g.data(), depth, 1, rows, depth, v.data(), columns, columns, y.data(), columns);
  for (index_t i = 0; i < rows; ++i)
    for (index_t c = 0; c < columns; ++c) {
      double want = 1, size = 1;
      for (index_t j = 0; j < depth; ++j) {
        want += double(g[i * depth + j]) * v[j * columns + c];
        size += std::abs(double(g[i * depth + j]) * v[j * columns + c]);
      }
      check_near("add_single_product", (y[i * columns + c] - want) / size, 0, 1e-6);
    }
}

// Q R = the columns, with Q = H_0 H_1 ... from the vectors that are left.
static void test_panels(const SpectralKernels& k) {
  std::mt19937_64 generator(7);
  std::normal_distribution<double> normal;
  const index_t band = 32, ld = 112;
  for (const index_t rows : {1, 20, 32, 33, 100}) {
    std::vector<double> columns(band * ld, 0.0), tau(band), r(band * band);
    for (index_t c = 0; c < band; ++c)
      for (index_t i = 0; i < rows; ++i) columns[c * ld + i] = c % 5 == 4 ? columns[i] : normal(generator);
    const std::vector<double> given = columns;
    k.factor_panel(columns.data(), ld, rows, tau.data(), r.data());
    for (index_t c = 0; c < band; ++c) {
      std::vector<long double> x(rows, 0);
      for (index_t i = 0; i < std::min(rows, band); ++i) x[i] = r[i * band + c];
      for (index_t h = std::min(rows, band); h-- > 0;) {
        long double along = 0;
        for (index_t i = 0; i < rows; ++i) along += columns[h * ld + i] * x[i];
        for (index_t i = 0; i < rows; ++i) x[i] -= tau[h] * along * columns[h * ld + i];
      }
      for (index_t i = 0; i < rows; ++i) check_near("factor_panel", 10 + given[c * ld + i], 10 + double(x[i]), 1e-14);
    }
  }
}

// The traces of a band matrix and of its square, cube and fourth power are those of the tridiagonal one.
static void test_bulges(const SpectralKernels& k) {
  std::mt19937_64 generator(8);
  std::normal_distribution<double> normal;
  const index_t width = 32, stride = 64;
  for (const index_t n : {1, 2, 31, 33, 34, 66, 130}) {
    std::vector<double> memory((n + width + 1) * stride + 16, 0.0), full(n * n, 0.0), made(n * n, 0.0);
    double* band = memory.data() + 16;
    for (index_t j = 0; j < n; ++j)
      for (index_t i = j; i < std::min(n, j + width + 1); ++i)
        full[i * n + j] = full[j * n + i] = band[j * stride + i - j] = normal(generator) / std::sqrt(double(n));
    k.chase_bulges(band, n);
    for (index_t j = 0; j < n; ++j) {
      made[j * n + j] = band[j * stride];
      if (j + 1 < n) made[j * n + j + 1] = made[(j + 1) * n + j] = band[j * stride + 1];
      for (index_t i = j + 2; i < std::min(n, j + width + 1); ++i)
        check_near("chased", 1 + band[j * stride + i - j], 1, 0);
    }
    const auto traces = [n](const std::vector<double>& a) {
      std::vector<long double> square(n * n, 0), sums(4, 0);
      for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < n; ++j)
          for (index_t l = 0; l < n; ++l) square[i * n + j] += static_cast<long double>(a[i * n + l]) * a[l * n + j];
      for (index_t i = 0; i < n * n; ++i) {
        if (i % (n + 1) == 0) sums[0] += a[i];
        sums[1] += static_cast<long double>(a[i]) * a[i];
        sums[2] += square[i] * a[i];
        sums[3] += square[i] * square[i];
      }
      return sums;
    };
    const auto before = traces(full), after = traces(made);
    for (int power = 0; power < 4; ++power)
      check_near("chase_bulges", 10.0 * n + double(after[power]), 10.0 * n + double(before[power]), 1e-13);
  }
}

int main() {
  const Kernels& k = ENTROPIC_TEST_KERNELS;
  test_functions(k.f32);
  test_functions(k.f64);
  test_rows(k.f32);
  test_rows(k.f64);
  test_lanes(k.f32);
  test_lanes(k.f64);
  test_tokens<float>(k);
  test_tokens<double>(k);
  test_halves(k);
  test_weighted_rows(k.f32);
  test_weighted_rows(k.f64);
  test_pairs(k.pairs);
  test_couplings(*k.coupling);
  test_neighbors(*k.neighbors);
  test_spectral(*k.spectral);
  test_single_products(*k.spectral);
  test_panels(*k.spectral);
  test_bulges(*k.spectral);

  double a[] = {50, 3, 50, 1}, b[] = {1, 2, -1, 0};
  SignedSum s{-HUGE_VAL, 0, 0};
  k.push_signed(a, b, 4, &s);
  check_near("signed", s.m + k.log_abs(s.hi, s.lo), 3 + std::log(2.0), 1e-14);

  double run[2 * 16], m[16], r[16], low[16];
  for (int i = 0; i < 16; ++i) {
    m[i] = -HUGE_VAL;
    r[i] = low[i] = 0;
    run[i] = i;
    run[16 + i] = 2;
  }
  k.scan(run, 16, 2, 16, m, r, low);
  for (int i = 0; i < 16; ++i) check_near("scan", run[16 + i], std::log(std::exp(double(i)) + std::exp(2.0)), 1e-15);

  std::printf(failures ? "%s: %d failures\n" : "%s ok\n", k.name, failures);
  return failures != 0;
}
