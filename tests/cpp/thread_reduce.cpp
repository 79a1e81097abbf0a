// The arithmetic of the CUDA threads, run on the host: a row is shared by 256 threads in 8 warps, whose states merge as
// in csrc/cuda/logits.cu. Prints "ok", or what went wrong.
#include "entropic/thread_reduce.hpp"

#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace entropic;

namespace {

constexpr int kThreads = 256, kWarp = 32, kWarps = kThreads / kWarp, kBatch = 8;

int failures = 0;

template <class T>
using Row = std::vector<T>;

// One warp's step: what push_warp does with votes and shuffles.
template <class T>
void push_warp(Share<T>* s, T (*x)[kBatch]) {
  T mine[kWarp], top = -infinity<T>();
  for (int i = 0; i < kWarp; ++i) {
    mine[i] = batch_max(x[i]);
    top = mine[i] > top ? mine[i] : top;
  }
  if (top > s[0].m) {
    int first = 0;
    while (mine[first] != top) ++first;
    for (int i = 0; i < kWarp; ++i) raise(s[i], top, i == first, x[i]);
  }
  for (int i = 0; i < kWarp; ++i) add(s[i], x[i]);
}

double tree_sum(double* x) {
  for (int step = kWarp / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) x[i] += x[i + step];
  return x[0];
}

LogSum merge_tree(LogSum* s, int count) {
  for (int step = 1; step < count; step *= 2)
    for (int i = 0; i + step < count; i += 2 * step) s[i] = merge(s[i], s[i + step]);
  return s[0];
}

template <class T>
LogSum by_block(const T* row, index_t n) {
  LogSum states[kWarps];
  for (int warp = 0; warp < kWarps; ++warp) {
    Share<T> s[kWarp];
    for (auto& share : s) share.clear();
    for (index_t j = 0; j < n; j += kThreads * kBatch) {
      T x[kWarp][kBatch];
      for (int i = 0; i < kWarp; ++i)
        for (int k = 0; k < kBatch; ++k) {
          const index_t at = j + warp * kWarp + i + index_t(k) * kThreads;
          x[i][k] = at < n ? row[at] : -infinity<T>();
        }
      push_warp(s, x);
    }
    double r[kWarp], t[kWarp];
    for (int i = 0; i < kWarp; ++i) {
      s[i].carry();
      r[i] = s[i].r;
      t[i] = s[i].t;
    }
    states[warp] = state_of(s[0].m, tree_sum(r), tree_sum(t));
  }
  return merge_tree(states, kWarps);
}

template <class T>
LogSum by_thread(const T* row, index_t n) {
  Share<T> s;
  s.clear();
  for (index_t j = 0; j < n; j += kBatch) {
    T x[kBatch];
    for (int k = 0; k < kBatch; ++k) x[k] = j + k < n ? row[j + k] : -infinity<T>();
    push(s, x);
  }
  s.carry();
  return state_of(s.m, s.r, s.t);
}

template <class T>
LogSum by_segments(const T* row, index_t n) {
  const Cut cut = cut_row(n, 7, 100, 16);
  std::vector<LogSum> states;
  for (index_t i = 0; i < cut.count; ++i) {
    const index_t first = i * cut.length, left = n - first;
    states.push_back(by_block(row + first, left < cut.length ? left : cut.length));
  }
  return merge_run(states.data(), static_cast<index_t>(states.size()));
}

struct Truth {
  long double log_sum, rest, entropy;  // rest: logsumexp - max
};

// All in long double, the maximal element apart.
template <class T>
Truth truth_of(const Row<T>& row) {
  std::size_t top = 0;
  for (std::size_t i = 1; i < row.size(); ++i)
    if (row[i] > row[top]) top = i;
  const long double m = row[top];
  long double r = 0, t = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (i == top || row[i] == -infinity<T>()) continue;
    const long double d = m - row[i], e = std::exp(-d);
    r += e;
    t += e * d;
  }
  return Truth{m + std::log1p(r), std::log1p(r), std::log1p(r) + t / (1 + r)};
}

double value_of(Value value, LogSum s, double n) {
  using D = Scalar<double>;
  return finished(value, D(s.m), D(s.r), D(s.t), D(n)).v;
}

void fail(const std::string& name, const char* what, double got, double wanted) {
  std::printf("%s: %s is %.17g, not %.17g\n", name.c_str(), what, got, wanted);
  ++failures;
}

void close(const std::string& name, const char* what, double got, long double wanted, double tolerance) {
  if (!(std::fabs(got - wanted) <= tolerance * std::fabs(wanted))) fail(name, what, got, static_cast<double>(wanted));
}

void same(const std::string& name, const char* what, double got, double wanted) {
  if (!(got == wanted || (std::isnan(got) && std::isnan(wanted)))) fail(name, what, got, wanted);
}

template <class F>
void each_way(const std::string& name, F f) {
  f(name + ", block", [](const auto* row, index_t n) { return by_block(row, n); });
  f(name + ", thread", [](const auto* row, index_t n) { return by_thread(row, n); });
  f(name + ", segments", [](const auto* row, index_t n) { return by_segments(row, n); });
}

// Relative errors of logsumexp, log1p(r) and the entropy, in ulps: x - m is rounded once, by at most half an ulp of
// itself, which exp makes relative to its term (terms that count have |x - m| below 16); then up to 12 roundings of
// float sums that mostly cancel. 7 is the worst seen.
template <class T>
void holds(const std::string& name, const Row<T>& row, double ulps) {
  const Truth truth = truth_of(row);
  const double tolerance = ulps * static_cast<double>(std::numeric_limits<T>::epsilon());
  const index_t n = static_cast<index_t>(row.size());
  each_way(name, [&](const std::string& way, auto reduce) {
    const LogSum s = reduce(row.data(), n);
    close(way, "logsumexp", value_of(Value::logsumexp, s, double(n)), truth.log_sum, tolerance);
    close(way, "logsumexp - max", log1p_of(s.r), truth.rest, tolerance);
    close(way, "entropy", value_of(Value::entropy, s, double(n)), truth.entropy, tolerance);
  });
}

template <class T>
void gives(const std::string& name, const Row<T>& row, double log_sum, double mean, double entropy) {
  const double n = static_cast<double>(row.size());
  each_way(name, [&](const std::string& way, auto reduce) {
    const LogSum s = reduce(row.data(), static_cast<index_t>(row.size()));
    same(way, "logsumexp", value_of(Value::logsumexp, s, n), log_sum);
    same(way, "logmeanexp", value_of(Value::logmeanexp, s, n), mean);
    same(way, "entropy", value_of(Value::entropy, s, n), entropy);
  });
}

template <class T>
Row<T> normal_row(std::size_t n, T scale, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<double> normal;
  Row<T> row(n);
  for (T& x : row) x = static_cast<T>(scale * normal(rng));
  return row;
}

template <class T>
void finite_rows(const std::string& type) {
  for (std::size_t n : {2, 7, 8, 31, 255, 256, 257, 2048, 2049, 5000, 100003})
    for (double scale : {0.01, 1.0, 12.0})
      holds(type + " normal * " + std::to_string(scale) + ", n = " + std::to_string(n),
            normal_row<T>(n, static_cast<T>(scale), static_cast<unsigned>(n)), 12);

  for (std::size_t at : {0, 1, 300, 4999}) {
    Row<T> row = normal_row<T>(5000, T(1), 3);
    row[at] = 40;
    holds(type + " one logit at 40", row, 12);
  }

  Row<T> rising(6000), falling(6000);
  for (std::size_t i = 0; i < rising.size(); ++i) {
    rising[i] = static_cast<T>(i) / 64;
    falling[rising.size() - 1 - i] = rising[i];
  }
  holds(type + " rising", rising, 12);
  holds(type + " falling", falling, 12);

  Row<T> ties = normal_row<T>(9000, T(1), 5);
  for (std::size_t i : {5, 6, 40, 700, 701, 2500, 8999}) ties[i] = 9;
  holds(type + " ties of the maximum", ties, 12);

  Row<T> gaps(3000, -infinity<T>());
  gaps[17] = 3;
  gaps[2900] = T(2.5);
  gaps[2901] = 3;
  holds(type + " mostly -inf", gaps, 12);

  holds(type + " a million equal values", Row<T>(1000000, T(0.75)), 4);
  Row<T> biased(1000000, T(0.1));  // a long sum of equal terms rounds the same way every time
  biased[77] = 1;
  holds(type + " a million equal values and a larger one", biased, 100);
  holds(type + " far apart", Row<T>{T(-1e30), T(5), T(-1e30), T(4)}, 12);
}

template <class T>
void edges(const std::string& type) {
  const double inf = infinity<double>(), nan = std::numeric_limits<double>::quiet_NaN();
  const T t_inf = infinity<T>(), t_nan = std::numeric_limits<T>::quiet_NaN(), most = std::numeric_limits<T>::max();
  gives(type + " empty", Row<T>{}, -inf, nan, nan);
  gives(type + " single", Row<T>{T(2.5)}, 2.5, 2.5, 0);
  gives(type + " single -inf", Row<T>{-t_inf}, -inf, -inf, nan);
  gives(type + " all -inf", Row<T>(3000, -t_inf), -inf, -inf, nan);
  gives(type + " one finite", Row<T>{-t_inf, T(1), -t_inf}, 1, 1 - std::log(3.0), 0);
  // The difference of the two is infinite.
  gives(type + " extremes", Row<T>{-most, most}, most, most, 0);
  Row<T> same_thread(3000, -t_inf);
  same_thread[0] = -most;
  same_thread[2048] = most;
  for (LogSum s : {by_block(same_thread.data(), 3000), by_thread(same_thread.data(), 3000)})
    same(type + " extremes in two batches", "log1p(r) + t", log1p_of(s.r) + s.t, 0);
  const Row<T> row = normal_row<T>(5000, T(1), 9);
  for (std::size_t at : {0, 33, 2047, 2048, 4999}) {
    Row<T> one = row;
    one[at] = t_inf;
    gives(type + " one +inf", one, inf, inf, nan);
    one[(at + 77) % one.size()] = t_inf;
    gives(type + " two +inf", one, inf, inf, nan);
    one[(at + 1500) % one.size()] = t_nan;
    gives(type + " +inf and nan", one, nan, nan, nan);
    one = row;
    one[at] = t_nan;
    gives(type + " one nan", one, nan, nan, nan);
    one.assign(one.size(), -t_inf);
    one[at] = t_nan;
    gives(type + " -inf and nan", one, nan, nan, nan);
  }
  gives(type + " only nan", Row<T>(300, t_nan), nan, nan, nan);
  gives(type + " +inf and -inf", Row<T>{-t_inf, t_inf}, inf, inf, nan);

  // nan with every bit set, as GPUs make it: exp_scaled turns it into a number.
  using Bits = typename ScalarBits<T>::type;
  Row<T> odd = row;
  odd[1234] = bit_cast<T>(static_cast<Bits>(~Bits(0) >> 1));
  gives(type + " nan with every bit set", odd, nan, nan, nan);
}

void cuts() {
  for (index_t n : {0, 1, 99, 100, 101, 1000, 65537, 1000000})
    for (index_t most : {1, 2, 7, 528}) {
      const Cut cut = cut_row(n, most, 100, 16);
      const bool covers =
          cut.count == 1 ? cut.length >= n : (cut.count - 1) * cut.length < n && cut.count * cut.length >= n;
      if (!covers || cut.count > most || (cut.count > 1 && (cut.length < 100 || cut.length % 16 != 0)))
        fail("cut of " + std::to_string(n), "count", double(cut.count), double(most));
    }
}

}  // namespace

int main() {
  finite_rows<float>("float32");
  finite_rows<double>("float64");
  edges<float>("float32");
  edges<double>("float64");
  cuts();
  if (failures > 0) return 1;
  std::puts("ok");
  return 0;
}
