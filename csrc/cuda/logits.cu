// The log-sum family over the rows of a matrix in device memory.
//
// How a matrix is cut into blocks and segments depends on its shape and strides alone, and states are merged in a fixed
// order: the same input gives the same bits on every run and every GPU of one architecture.
#include <atomic>
#include <limits>
#include <type_traits>

#include "common.cuh"
#include "entropic/thread_reduce.hpp"

namespace entropic {
namespace cuda {
namespace {

// ---- reading and merging on the device -----------------------------------------------------------------------------

template <class Element>
struct Source {
  const Element* data;
  index_t rows, cols, row_stride, col_stride;
  Cut cut;

  __host__ __device__ index_t jobs() const { return rows * cut.count; }
  __device__ index_t length(index_t segment) const {
    const index_t left = cols - segment * cut.length;
    return left < cut.length ? left : cut.length;
  }
  __device__ const Element* at(index_t row, index_t col) const { return data + row * row_stride + col * col_stride; }
};

// Every step-th element from `first` on, -inf in place of those past the end at n.
template <class Element, class T, int batch>
__device__ void read_strided(const Element* x, index_t stride, index_t first, index_t step, index_t n,
                             T (&out)[batch]) {
#pragma unroll
  for (int i = 0; i < batch; ++i) {
    const index_t j = first + i * step;
    out[i] = j < n ? widened(x[j * stride]) : -infinity<T>();
  }
}

// A thread's part of threads * batch adjacent elements, 16 bytes a load. Nothing is read twice, so nothing should push
// other data out of the cache.
template <int threads, class Element, class T, int batch>
__device__ void read_vectors(const Element* x, int thread, T (&out)[batch]) {
  constexpr int per_load = sizeof(uint4) / sizeof(Element), loads = batch / per_load;
  const uint4* from = reinterpret_cast<const uint4*>(x) + thread;
  uint4 raw[loads];
#pragma unroll
  for (int i = 0; i < loads; ++i) raw[i] = __ldcs(from + i * threads);
#pragma unroll
  for (int i = 0; i < loads; ++i) {
    Element some[per_load];
    memcpy(some, &raw[i], sizeof(uint4));
#pragma unroll
    for (int j = 0; j < per_load; ++j) out[i * per_load + j] = widened(some[j]);
  }
}

template <class T>
__device__ T warp_max(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2)
    x = pick_max(Scalar<T>(__shfl_xor_sync(kAllLanes, x, step)), Scalar<T>(x)).v;
  return x;
}

// Complete in lane 0.
__device__ double warp_sum(double x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_down_sync(kAllLanes, x, step);
  return x;
}

// States of neighbouring lanes merge until lane 0 has those of the first `lanes` lanes, in their order.
template <int lanes>
__device__ LogSum merge_lanes(LogSum s) {
  for (int step = 1; step < lanes; step *= 2) {
    const LogSum next{__shfl_down_sync(kAllLanes, s.m, step), __shfl_down_sync(kAllLanes, s.r, step),
                      __shfl_down_sync(kAllLanes, s.t, step)};
    s = merge(s, next);
  }
  return s;
}

// The next batch of every thread of a warp.
template <class T, int batch>
__device__ void push_warp(Share<T>& s, T (&x)[batch]) {
  const T mine = batch_max(x);
  if (__any_sync(kAllLanes, mine > s.m)) {
    const T top = warp_max(mine);
    const int first = __ffs(__ballot_sync(kAllLanes, mine == top)) - 1;
    raise(s, top, static_cast<int>(threadIdx.x % kWarp) == first, x);
  }
  add(s, x);
}

// Elements before the first that lies on 16 bytes.
template <class Element>
__device__ index_t unaligned_head(const Element* x) {
  const std::uintptr_t past = reinterpret_cast<std::uintptr_t>(x) % sizeof(uint4);
  return past == 0 ? 0 : static_cast<index_t>((sizeof(uint4) - past) / sizeof(Element));
}

// What one warp finds in a row that `threads` threads, its own among them, read together. Complete in its lane 0.
template <int threads, class Element>
__device__ LogSum read_row(const Element* x, index_t n, index_t stride, int thread) {
  using T = typename Load<Element>::Compute;
  constexpr int batch = Load<Element>::batch;
  constexpr index_t tile = batch * threads;
  Share<T> s;
  s.clear();
  T v[batch];
  index_t j = 0;
  const index_t head = unaligned_head(x);
  if (stride == 1 && head + tile <= n) {
    if (head > 0) {
      read_strided(x, 1, thread, threads, head, v);
      push_warp(s, v);
    }
    for (j = head; j + tile <= n; j += tile) {
      read_vectors<threads>(x + j, thread, v);
      push_warp(s, v);
    }
  }
  for (; j < n; j += tile) {
    read_strided(x, stride, j + thread, threads, n, v);
    push_warp(s, v);
  }
  s.carry();
  return state_of(s.m, warp_sum(s.r), warp_sum(s.t));
}

// What one thread finds in a row of its own.
template <class Element>
__device__ LogSum read_row_alone(const Element* x, index_t n, index_t stride) {
  using T = typename Load<Element>::Compute;
  constexpr int batch = 8;
  Share<T> s;
  s.clear();
  for (index_t j = 0; j < n; j += batch) {
    T v[batch];
    read_strided(x, stride, j, 1, n, v);
    push(s, v);
  }
  s.carry();
  return state_of(s.m, s.r, s.t);
}

// ---- where states go -----------------------------------------------------------------------------------------------

struct KeepState {
  LogSum* states;
  __device__ void operator()(index_t job, LogSum s) const { states[job] = s; }
};

template <class Out>
struct WriteValue {
  Value value;
  double cols;
  Out* target;
  __device__ void operator()(index_t row, LogSum s) const {
    using D = Scalar<double>;
    target[row] = static_cast<Out>(finished(value, D(s.m), D(s.r), D(s.t), D(cols)).v);
  }
};

template <class Element>
struct WriteLogProbability {
  Source<Element> source;
  const std::int64_t* targets;
  typename Load<Element>::Compute* target;
  __device__ void operator()(index_t row, LogSum s) const {
    using T = typename Load<Element>::Compute;
    const index_t col = targets[row];
    double y = std::numeric_limits<double>::quiet_NaN();
    if (col >= 0 && col < source.cols)
      y = -((s.m - static_cast<double>(widened(*source.at(row, col)))) + log1p_of(s.r));
    target[row] = static_cast<T>(y);
  }
};

// ---- kernels -------------------------------------------------------------------------------------------------------

// Short rows that lie one after another.
template <class Element, class Finish>
__global__ void __launch_bounds__(kThreads) rows_by_warp(Source<Element> x, Finish finish) {
  constexpr int warps = kThreads / kWarp;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (index_t row = index_t(blockIdx.x) * warps + warp; row < x.rows; row += index_t(gridDim.x) * warps) {
    const LogSum s = read_row<kWarp>(x.at(row, 0), x.cols, x.col_stride, lane);
    if (lane == 0) finish(row, s);
  }
}

// Long rows, or segments of very long ones.
template <class Element, class Finish>
__global__ void __launch_bounds__(kThreads) segments_by_block(Source<Element> x, Finish finish) {
  constexpr int warps = kThreads / kWarp;
  __shared__ LogSum states[warps];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (index_t job = blockIdx.x; job < x.jobs(); job += gridDim.x) {
    const index_t row = job / x.cut.count, segment = job % x.cut.count;
    const Element* from = x.at(row, segment * x.cut.length);
    const LogSum s = read_row<kThreads>(from, x.length(segment), x.col_stride, threadIdx.x);
    if (lane == 0) states[warp] = s;
    __syncthreads();
    if (warp == 0) {
      const LogSum all = merge_lanes<warps>(states[lane % warps]);
      if (lane == 0) finish(job, all);
    }
    __syncthreads();
  }
}

// Many rows that lie side by side, or are too short for a warp. Neighbouring threads take neighbouring rows.
template <class Element, class Finish>
__global__ void __launch_bounds__(kThreads) segments_by_thread(Source<Element> x, Finish finish) {
  const index_t threads = index_t(gridDim.x) * kThreads;
  for (index_t i = index_t(blockIdx.x) * kThreads + threadIdx.x; i < x.jobs(); i += threads) {
    const index_t row = i % x.rows, segment = i / x.rows;
    const Element* from = x.at(row, segment * x.cut.length);
    finish(row * x.cut.count + segment, read_row_alone(from, x.length(segment), x.col_stride));
  }
}

// A warp a row: each lane folds a run of segments, then neighbouring runs merge.
template <class Finish>
__global__ void __launch_bounds__(kThreads)
    merge_segments(const LogSum* states, index_t rows, index_t count, Finish finish) {
  constexpr int warps = kThreads / kWarp;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const index_t run = (count + kWarp - 1) / kWarp, first = lane * run;
  const index_t left = count - first, some = left < 0 ? 0 : left < run ? left : run;
  for (index_t row = index_t(blockIdx.x) * warps + warp; row < rows; row += index_t(gridDim.x) * warps) {
    const LogSum s = merge_lanes<kWarp>(merge_run(states + row * count + first, some));
    if (lane == 0) finish(row, s);
  }
}

// ---- the choice of a kernel ----------------------------------------------------------------------------------------

enum class Layout { thread, warp, block };

// For the shapes below, chosen to fill 132 multiprocessors several times over.
constexpr index_t kWarpCols = 1024;                         // longer rows get a block
constexpr index_t kThreadCols = 64, kThreadRows = 32768;    // shorter rows get a thread, if there are enough of them
constexpr index_t kFewRows = 2 * 132, kLongCols = 1 << 16;  // fewer and longer rows than these are cut
constexpr index_t kBlocks = 4 * 132, kBlockLeast = 8192, kBlockUnit = 4096;
constexpr index_t kSideBySide = 8;  // as many adjacent elements make a sector of 32 bytes
constexpr index_t kAllThreads = 131072, kMostPerRow = 2048, kThreadLeast = 128, kThreadUnit = 16;

Cut cut_for_blocks(index_t rows, index_t cols) {
  if (rows == 0 || rows >= kFewRows || cols <= kLongCols) return Cut{cols, 1};
  return cut_row(cols, (kBlocks + rows - 1) / rows, kBlockLeast, kBlockUnit);
}

Cut cut_for_threads(index_t rows, index_t cols) {
  if (rows < kSideBySide || rows >= kAllThreads) return Cut{cols, 1};
  const index_t most = (kAllThreads + rows - 1) / rows;
  return cut_row(cols, most < kMostPerRow ? most : kMostPerRow, kThreadLeast, kThreadUnit);
}

struct Plan {
  Layout layout;
  Cut cut;
};

Plan plan_for(const Matrix& x) {
  const bool side_by_side = (x.row_stride == 1 || x.row_stride == -1) && x.col_stride != 1 && x.rows >= kSideBySide;
  if (side_by_side) return Plan{Layout::thread, cut_for_threads(x.rows, x.cols)};
  if (x.cols <= kThreadCols && x.rows >= kThreadRows) return Plan{Layout::thread, Cut{x.cols, 1}};
  if (x.cols <= kWarpCols) return Plan{Layout::warp, Cut{x.cols, 1}};
  return Plan{Layout::block, cut_for_blocks(x.rows, x.cols)};
}

index_t blocks_for(index_t jobs, index_t jobs_per_block) { return (jobs + jobs_per_block - 1) / jobs_per_block; }

template <class Element, class Finish>
void run_layout(const Matrix& x, Layout layout, const Source<Element>& source, const Finish& finish) {
  constexpr index_t warps = kThreads / kWarp;
  if (layout == Layout::thread)
    launch(segments_by_thread<Element, Finish>, blocks_for(source.jobs(), kThreads), x.stream, source, finish);
  else if (layout == Layout::warp)
    launch(rows_by_warp<Element, Finish>, blocks_for(source.rows, warps), x.stream, source, finish);
  else launch(segments_by_block<Element, Finish>, source.jobs(), x.stream, source, finish);
}

template <class Element>
Source<Element> source_of(const Matrix& x, Cut cut) {
  return Source<Element>{static_cast<const Element*>(x.source), x.rows, x.cols, x.row_stride, x.col_stride, cut};
}

template <class Element, class Finish>
void run(const Matrix& x, const Finish& finish) {
  const Plan plan = plan_for(x);
  const Source<Element> source = source_of<Element>(x, plan.cut);
  if (plan.cut.count == 1) return run_layout(x, plan.layout, source, finish);
  LogSum* states = static_cast<LogSum*>(x.scratch);
  run_layout(x, plan.layout, source, KeepState{states});
  launch(merge_segments<Finish>, blocks_for(x.rows, kThreads / kWarp), x.stream, states, x.rows, plan.cut.count,
         finish);
}

}  // namespace

std::string problem() {
  static std::atomic<bool> works{false};
  if (works.load(std::memory_order_relaxed)) return "";
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver)
    return "the NVIDIA driver is missing or older than CUDA " + std::to_string(CUDART_VERSION / 1000) +
           " needs (cudaErrorInsufficientDriver)";
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    return "no CUDA device is visible (cudaErrorNoDevice)";
  if (error != cudaSuccess) return "CUDA does not start: " + described(error);
  works.store(true, std::memory_order_relaxed);
  return "";
}

std::vector<std::string> devices() {
  std::vector<std::string> names;
  if (!problem().empty()) return names;
  int count = 0;
  check(cudaGetDeviceCount(&count));
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, i));
    names.push_back(std::string(properties.name) + " (compute capability " + std::to_string(properties.major) + "." +
                    std::to_string(properties.minor) + ")");
  }
  return names;
}

index_t scratch_bytes(index_t rows, index_t cols) {
  const index_t by_block = cut_for_blocks(rows, cols).count, by_thread = cut_for_threads(rows, cols).count;
  const index_t most = by_block > by_thread ? by_block : by_thread;
  return most == 1 ? 0 : rows * most * static_cast<index_t>(sizeof(LogSum));
}

void reduce_rows(const Matrix& x, Value value, void* target) {
  if (x.rows == 0) return;
  const DeviceGuard guard(x.device);
  with_element(x.dtype, [&](auto* element) {
    using Element = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    using Out = typename Load<Element>::Compute;
    run<Element>(x, WriteValue<Out>{value, static_cast<double>(x.cols), static_cast<Out*>(target)});
  });
}

void log_probabilities(const Matrix& x, const std::int64_t* targets, void* target) {
  if (x.rows == 0) return;
  const DeviceGuard guard(x.device);
  with_element(x.dtype, [&](auto* element) {
    using Element = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    using Out = typename Load<Element>::Compute;
    const Source<Element> source = source_of<Element>(x, Cut{x.cols, 1});
    run<Element>(x, WriteLogProbability<Element>{source, targets, static_cast<Out*>(target)});
  });
}

}  // namespace cuda
}  // namespace entropic
