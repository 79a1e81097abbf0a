// Costs as scores for the sweep: stored, of grids, and the scores (potential - cost) / eps made of either.
#pragma once

#include <cmath>
#include <vector>

#include "sweep.hpp"
#include "transport.hpp"

namespace entropic {
namespace cpu {

constexpr index_t kRowsAtOnce = 4;  // as many as add_rows takes

// Stored rows of adjacent elements of type S, handed out as T.
template <class S, class T>
class StoredCost {
 public:
  static constexpr bool kStored = true;
  StoredCost(const S* data, index_t rows, index_t cols, index_t stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {}
  Plan plan() const { return row_plan(rows_, cols_); }
  index_t rows() const { return rows_; }
  index_t cols() const { return cols_; }

  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    for (index_t i = 0; i < count; ++i) {
      const S* row = data_ + (first + i) * stride_ + col;
      if constexpr (std::is_same_v<S, T>) {
        reducer.row(i, row, cols);
      } else {
        T tile[kTile];
        for (index_t done = 0; done < cols; done += kTile) {
          const index_t n = std::min(kTile, cols - done);
          for (index_t j = 0; j < n; ++j) tile[j] = static_cast<T>(row[done + j]);
          reducer.row(i, tile, n);
        }
      }
    }
  }

 private:
  const S* data_;
  index_t rows_, cols_, stride_;
};

// The cost between a grid's points, axis by axis.
class GridCost {
 public:
  static constexpr bool kStored = false;
  explicit GridCost(const std::vector<GridAxis>& axes) : axes_(axes) {
    for (const GridAxis& axis : axes_) size_ *= axis.size;
  }
  index_t rows() const { return size_; }
  index_t cols() const { return size_; }
  Plan plan() const { return row_plan(size_, size_); }

  // Rows of the whole matrix, for what has no separable form.
  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    double tile[kTile];
    for (index_t i = 0; i < count; ++i)
      for (index_t done = 0; done < cols; done += kTile) {
        const index_t n = std::min(kTile, cols - done);
        for (index_t j = 0; j < n; ++j) tile[j] = 0;
        index_t inner = size_, row = first + i;
        for (const GridAxis& axis : axes_) {
          inner /= axis.size;
          const double* of_row = axis.cost + row / inner % axis.size * axis.size;
          for (index_t j = 0; j < n; ++j) tile[j] += of_row[(col + done + j) / inner % axis.size];
        }
        reducer.row(i, static_cast<const double*>(tile), n);
      }
  }

  // x_i <- log sum_j exp(x_j - C_ij / eps), one axis after the other: a sum over all points costs as many exps a point
  // as the axes have points together. The costs of axis `weighing`, if any, multiply the exps as well.
  bool log_sum(std::vector<double>& x, double inv_eps, int weighing) const {
    index_t inner = size_;
    for (std::size_t d = 0; d < axes_.size(); ++d) {
      const GridAxis& axis = axes_[d];
      inner /= axis.size;
      std::vector<double> weighed;
      if (static_cast<int>(d) == weighing) {
        for (index_t k = 0; k < axis.size * axis.size; ++k)
          weighed.push_back(axis.cost[k] * inv_eps - std::log(axis.cost[k]));
      }
      const double* cost = weighed.empty() ? axis.cost : weighed.data();
      if (!along(x, axis.size, inner, cost, weighed.empty() ? inv_eps : 1.0)) return false;
    }
    return true;
  }
  int axes() const { return static_cast<int>(axes_.size()); }

 private:
  bool along(std::vector<double>& x, index_t n, index_t inner, const double* cost, double inv_eps) const {
    const index_t fibres = size_ / n, at_once = std::max<index_t>(1, 4096 / (n * n));
    return for_units((fibres + at_once - 1) / at_once, size_ * n, [&](index_t unit) {
      const Kernels& kernels = active();
      std::vector<double> fibre(static_cast<std::size_t>(padded(n)), 0.0), scores(fibre);
      for (index_t f = unit * at_once; f < std::min(fibres, (unit + 1) * at_once); ++f) {
        double* from = x.data() + f / inner * n * inner + f % inner;
        for (index_t j = 0; j < n; ++j) fibre[static_cast<std::size_t>(j)] = from[j * inner];
        for (index_t i = 0; i < n; ++i) {
          kernels.gibbs<double>().softmin_scores(cost + i * n, fibre.data(), n, inv_eps, scores.data());
          LogSum s{-HUGE_VAL, 0, 0};
          kernels.of<double>().push_row(scores.data(), n, false, &s);
          from[i * inner] = s.m + std::log1p(s.r);
        }
      }
    });
  }

  std::vector<GridAxis> axes_;
  index_t size_ = 1;
};

// The scores h_j - C_ij / eps of a cost's rows, in float64.
template <class T, class Cost>
class SoftminScore {
 public:
  SoftminScore(const Cost& cost, const double* h, double inv_eps) : cost_(cost), h_(h), inv_eps_(inv_eps) {}
  Plan plan() const { return row_plan(cost_.rows(), cost_.cols()); }

  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    Adapter<Reducer> adapter{*this, reducer, {}};
    for (index_t i = 0; i < count; i += kRowsAtOnce) {
      const index_t some = std::min(kRowsAtOnce, count - i);
      adapter.begin(i, col);
      cost_.visit(first + i, some, col, cols, adapter);
    }
  }

 private:
  template <class Reducer>
  struct Adapter {
    const SoftminScore& self;
    Reducer& reducer;
    index_t at[kRowsAtOnce];
    index_t base = 0;

    void begin(index_t first, index_t col) {
      base = first;
      for (index_t& a : at) a = col;
    }
    ENTROPIC_NOINLINE void row(index_t i, const T* x, index_t n) {
      double scores[kTile];
      const GibbsKernels<T>& kernels = active().gibbs<T>();
      for (index_t done = 0; done < n; done += kTile) {
        const index_t some = std::min(kTile, n - done);
        kernels.softmin_scores(x + done, self.h_ + at[i], some, self.inv_eps_, scores);
        reducer.row(base + i, scores, some);
        at[i] += some;
      }
    }
  };
  const Cost& cost_;
  const double* h_;
  double inv_eps_;
};

// The same of the transposed cost, h_i - C_ij / eps with a row for each j: neighbouring rows are adjacent.
template <class T, class Cost>
class ColumnSoftminScore {
 public:
  ColumnSoftminScore(const Cost& cost, const double* h, double inv_eps) : cost_(cost), h_(h), inv_eps_(inv_eps) {}
  Plan plan() const { return lane_plan(cost_.cols(), cost_.rows(), cost_.cols(), kUnitRows<double>); }

  template <class Reducer>
  ENTROPIC_NOINLINE void visit(index_t first, index_t count, index_t col, index_t cols, Reducer& reducer) const {
    const index_t ld = lane_stride(count);
    std::vector<double> tile(static_cast<std::size_t>(kLaneSteps * ld)), level(static_cast<std::size_t>(ld));
    for (index_t done = 0; done < cols; done += kLaneSteps) {
      const index_t steps = std::min(kLaneSteps, cols - done);
      for (index_t s = 0; s < steps; ++s) {
        std::fill(level.begin(), level.end(), h_[col + done + s]);
        Filler filler{tile.data() + s * ld, level.data(), inv_eps_, 0};
        cost_.visit(col + done + s, 1, first, count, filler);
      }
      reducer.lanes(tile.data(), ld, steps, count);
    }
  }

 private:
  struct Filler {
    double* out;
    const double* level;
    double inv_eps;
    index_t at;
    void row(index_t, const T* x, index_t n) {
      active().gibbs<T>().softmin_scores(x, level, n, inv_eps, out + at);
      at += n;
    }
  };
  const Cost& cost_;
  const double* h_;
  double inv_eps_;
};

}  // namespace cpu
}  // namespace entropic
