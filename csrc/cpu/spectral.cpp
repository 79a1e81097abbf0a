#include "spectral.hpp"

#include <algorithm>

#include "sweep.hpp"

namespace entropic {
namespace cpu {
namespace {

constexpr index_t kStrip = 64;   // rows of a tile
constexpr index_t kDepth = 256;  // terms of a partial sum of float32

// Points to a block: few enough that their coordinates stay in cache while strips of rows pass by.
index_t block_size(index_t d) { return std::clamp<index_t>(32768 / d / kPad * kPad, kStrip, 256); }

}  // namespace

PointKernel::PointKernel(const double* x, const double* rates, index_t n, index_t d)
    : n_(n),
      d_(d),
      block_(block_size(d)),
      ld_(lane_stride(block_)),
      x_(x, x + n * d),
      columns_(static_cast<std::size_t>((n + block_ - 1) / block_ * ld_ * d), 0.0),
      rates_(rates, rates + n) {
  rates_.resize(static_cast<std::size_t>(padded(n)), 0.0);
  for (index_t first = 0; first < n; first += block_)
    active().of<double>().transpose(x_.data() + first * d, d, std::min(block_, n - first), d,
                                    columns_.data() + first / block_ * ld_ * d, ld_);
}

// Calls f(row, rows, column, columns, tile) for tiles of the kernel that cover it once, on and above the diagonal's
// blocks: tile[i * ld_ + j]. Calls for tiles that share rows or columns are never at the same time and always in the
// same order.
template <class F>
bool PointKernel::each_tile(index_t work, F&& f) const {
  const index_t blocks = (n_ + block_ - 1) / block_;
  return each_block_pair(blocks, n_ * block_ * work, [&](index_t a, index_t b) {
    std::vector<double> tile(static_cast<std::size_t>(kStrip * ld_));
    const index_t column = b * block_, columns = std::min(block_, n_ - column);
    const index_t end = std::min(n_, (a + 1) * block_);
    for (index_t row = a * block_; row < end; row += kStrip) {
      const index_t rows = std::min(kStrip, end - row);
      active().of<double>().metric_tile(Metric::sqeuclidean, x_.data() + row * d_, d_, columns_.data() + b * ld_ * d_,
                                        ld_, rows, columns, d_, 1.0, tile.data(), ld_);
      for (index_t i = 0; i < rows; ++i)
        active().spectral->kernel_row(tile.data() + i * ld_, columns, rates_[static_cast<std::size_t>(row + i)],
                                      rates_.data() + column);
      f(row, rows, column, columns, tile.data());
    }
  });
}

bool PointKernel::product(const double* v, index_t count, double* y, const double* w, double* squares) const {
  // Whole blocks of columns are read and written: others go through padded copies.
  const index_t ld = padded(count);
  std::vector<double> padded_v, padded_y;
  const double* from = v;
  double* to = y;
  if (ld != count) {
    padded_v.assign(static_cast<std::size_t>(n_ * ld), 0.0);
    padded_y = padded_v;
    for (index_t i = 0; i < n_; ++i) std::copy_n(v + i * count, count, padded_v.data() + i * ld);
    from = padded_v.data();
    to = padded_y.data();
  } else {
    std::fill_n(y, n_ * count, 0.0);
  }
  std::vector<double> weights, sums;
  if (w) {
    weights.assign(w, w + n_);
    weights.resize(static_cast<std::size_t>(padded(n_)), 0.0);
    sums.assign(weights.size(), 0.0);
  }
  const auto add = active().spectral->add_product;
  const GibbsKernels<double>& rows_of = active().gibbs<double>();
  const bool finished =
      each_tile(d_ + count, [&](index_t row, index_t rows, index_t column, index_t columns, double* tile) {
        const bool mirrored = row / block_ != column / block_;
        add(tile, ld_, 1, rows, columns, from + column * ld, ld, count, to + row * ld, ld);
        if (mirrored) add(tile, 1, ld_, columns, rows, from + row * ld, ld, count, to + column * ld, ld);
        if (!w) return;
        for (index_t k = 0; k < rows * ld_; ++k) tile[k] *= tile[k];
        for (index_t i = 0; i < rows; ++i)
          sums[static_cast<std::size_t>(row + i)] +=
              rows_of.gibbs_dot(tile + i * ld_, weights.data() + column, columns);
        for (index_t i = 0; mirrored && i < rows; i += 4)
          rows_of.add_rows(tile + i * ld_, ld_, std::min<index_t>(4, rows - i), weights.data() + row + i, columns,
                           sums.data() + column);
      });
  if (ld != count)
    for (index_t i = 0; i < n_; ++i) std::copy_n(to + i * ld, count, y + i * count);
  if (w) std::copy_n(sums.data(), n_, squares);
  return finished;
}

template <class T>
bool PointKernel::dense(T* out) const {
  return each_tile(d_, [&](index_t row, index_t rows, index_t column, index_t columns, double* tile) {
    for (index_t i = 0; i < rows; ++i) std::copy_n(tile + i * ld_, columns, out + (row + i) * n_ + column);
    if (row / block_ == column / block_) return;
    active().of<T>().transpose(out + row * n_ + column, n_, rows, columns, out + column * n_ + row, n_);
  });
}

template bool PointKernel::dense(float* out) const;
template bool PointKernel::dense(double* out) const;

bool single_product(const float* g, index_t n, const double* v, index_t count, double* y, const double* w,
                    double* squares) {
  const index_t ld = padded(count);
  std::vector<float> rounded(static_cast<std::size_t>(n * ld), 0.0f);
  for (index_t i = 0; i < n; ++i) std::copy_n(v + i * count, count, rounded.data() + i * ld);
  std::vector<double> weights;  // whole packs
  if (w) {
    weights.assign(w, w + n);
    weights.resize(static_cast<std::size_t>(padded(n)), 0.0);
  }
  return for_units((n + kStrip - 1) / kStrip, n * n, [&](index_t strip) {
    const index_t first = strip * kStrip, rows = std::min(kStrip, n - first);
    std::vector<float> part(static_cast<std::size_t>(rows * ld));
    double* to = y + first * count;
    std::fill_n(to, rows * count, 0.0);
    for (index_t k = 0; k < n; k += kDepth) {
      std::fill(part.begin(), part.end(), 0.0f);
      active().spectral->add_single_product(g + first * n + k, n, 1, rows, std::min(kDepth, n - k),
                                            rounded.data() + k * ld, ld, count, part.data(), ld);
      for (index_t i = 0; i < rows; ++i)
        for (index_t c = 0; c < count; ++c) to[i * count + c] += part[static_cast<std::size_t>(i * ld + c)];
    }
    if (!w) return;
    std::vector<float> row(weights.size(), 0.0f);
    for (index_t i = first; i < first + rows; ++i) {
      for (index_t j = 0; j < n; ++j) row[static_cast<std::size_t>(j)] = g[i * n + j] * g[i * n + j];
      squares[i] = active().gibbs<float>().gibbs_dot(row.data(), weights.data(), n);
    }
  });
}

}  // namespace cpu
}  // namespace entropic
