// What every header of the mathematics shares.
//
// The headers below this folder hold formulas only: no Python, no threads, no allocation, no CUDA runtime.
// They are compiled once per instruction set and once more for CUDA, so everything in them sits in an unnamed
// namespace: a function with external linkage would be a weak symbol in several objects, and the linker may keep
// the copy that was compiled for AVX-512 and call it on a machine that has none.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define ENTROPIC_HD __host__ __device__
#else
#define ENTROPIC_HD
#endif

#if defined(_MSC_VER) && !defined(__CUDACC__)
#define ENTROPIC_INLINE ENTROPIC_HD __forceinline
#else
#define ENTROPIC_INLINE ENTROPIC_HD inline __attribute__((always_inline))
#endif

// For functions with large buffers: inlined twice they would take the stack of a small thread.
#if defined(_MSC_VER)
#define ENTROPIC_NOINLINE __declspec(noinline)
#else
#define ENTROPIC_NOINLINE __attribute__((noinline))
#endif

#if defined(__GNUC__) && !defined(__CUDA_ARCH__)
#define ENTROPIC_PREFETCH(address) __builtin_prefetch(address, 0, 3)
#else
#define ENTROPIC_PREFETCH(address) static_cast<void>(address)
#endif

namespace entropic {

using index_t = std::int64_t;

// The log-sum state of a set of numbers x: their maximum m, and over all of them but one maximal element
//   r = sum exp(x - m),   t = sum exp(x - m) (m - x).
// Then logsumexp = m + log1p(r) and the entropy of softmax(x) = log1p(r) + t / (1 + r): sums of non-negative
// terms, so nothing cancels. m ignores nan, which lives on in r. The empty set is (-inf, 0, 0).
struct LogSum {
  double m, r, t;
};

// The state of sum b exp(a) with weights b of any sign: exp(m) (hi + lo), an unevaluated sum of two doubles, so that
// equal terms of opposite sign cancel exactly and a term of 1e-40 beside 1 is kept.
struct SignedSum {
  double m, hi, lo;
};

// The state of a row of categories' scores x at temperature T = 1 / inverse, d = (m - x) / T. Over all of them but one
// maximal one, which is number `argmax` (-1: there is none):
//   r = sum exp(-d),  t = sum exp(-d) d,  q = sum exp(-d) d^2,  s2 = sum exp(-2 d),  w = sum exp(-d) value,
// and v is the value of that one. `target` is the score of the category that is asked for, or nan. The empty set has m
// = -inf and zeros.
struct TokenSum {
  double m, r, t, q, s2, w, v, argmax, inverse, target;
};
constexpr int kTokenFields = 10;

// What `finish` makes of it, in this order: logsumexp, entropy, log-probability of the target, the largest
// probability, the sum of squared probabilities, the variance of the log-probability, the mean of the values, the
// largest score.
constexpr int kTokenValues = 8;

// Two rows of scores x and y. Of the categories that both have (neither is -inf): the largest scores, the masses sum
// exp(x - top_x) and sum exp(y - top_y), the moment sum exp(x - top_x) (y - x), and the extremes of y - x. Of those
// that only one has: its largest score and its mass under that.
struct PairSums {
  double top_x, top_y, mass_x, mass_y, moment, least, largest, only_top_x, only_top_y, only_x, only_y;
};

// Sums over the categories that both have, with u = y - x - centre: of exp(x - top_x) (exp(u) - 1 - u) and exp(x -
// top_x) u, and the least u.
struct PairExcess {
  double excess, mean, least;
};

// What `finish` makes of a log-sum state.
enum class Value : int { logsumexp, logmeanexp, entropy };

// Scores between two points: their product, and distances; `sqeuclidean` is the full squared distance.
enum class Metric : int { dot, sqeuclidean, euclidean, manhattan, chebyshev };

// Points in an order that keeps neighbours together, cut into leaves of kLeafPoints, and boxes around leaves, around
// groups of kFan leaves, and so on. In the plane and in space the leaves hold the coordinates, and infinity behind the
// last point; otherwise (x - center) * scale rounded to float, and a last row of -|.|^2 / 2.
constexpr int kLeafPoints = 32, kFan = 8, kMaxLevels = 10;
constexpr index_t kLargestExactLeaf = 3, kMostLaneNeighbors = 8, kBlockPoints = 256;
struct PointTree {
  index_t n, d, leaves;
  int levels;                       // of boxes; 0 where all leaves are looked at
  const double* rows;               // [place][coordinate]
  const std::int32_t* order;        // the point in each place
  const double* exact;              // [leaf][coordinate][kLeafPoints], or
  const float* rounded;             // [leaf][coordinate, and one more][kLeafPoints]
  const double* norms;              // of each leaf: the largest Euclidean norm of (x - center) * scale
  double scale;                     // a power of two
  const double* boxes[kMaxLevels];  // [group][coordinate][least, largest][kFan], the leaves' first
};

// The finite costs' range, and what else there is among them.
struct CostRange {
  double least, largest;
  bool nan, forbidden, allowed;
};

// Whether a marginal of a transport plan is prescribed, and if not, by what it is held.
enum class Relax : int { exact, kl, tv, range, capped };

// A concave cost of a distribution, a sum of terms: Shannon's entropy in bits, or -+ sum x^order, from which Renyi's
// (in bits) and Tsallis's entropies follow. Renyi's of order infinity is no sum: it has the largest mass instead.
enum class Measure : int { shannon, renyi, tsallis };
struct Functional {
  Measure measure;
  double order;
};

}  // namespace entropic
