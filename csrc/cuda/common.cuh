// What every family's kernels share: errors, the current device, element types, launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <new>
#include <string>

#include "launch.hpp"

namespace entropic {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

int current_capability() {
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return major * 10 + minor;
}

std::string described(cudaError_t error) {
  return std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")";
}

// Errors that a kernel left behind: every later call returns them, whatever it does.
bool is_left_behind(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure: return true;
    default: return false;
  }
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report it again
  if (error == cudaErrorMemoryAllocation) throw std::bad_alloc();
  if (error == cudaErrorNoKernelImageForDevice) throw MissingKernels(current_capability());
  if (is_left_behind(error))
    throw Failure("a previous CUDA operation failed; set CUDA_LAUNCH_BLOCKING=1 to find which: " + described(error));
  throw Failure("CUDA failed: " + described(error));
}

// Makes a device current and gives the caller's back.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_));
    changed_ = device != before_;
    if (changed_) check(cudaSetDevice(device));
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// Starts a kernel on blocks of kThreads threads. Kernels walk their work in strides of the grid, so that a grid may be
// smaller than its work.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), index_t blocks, std::uintptr_t stream, const Arguments&... arguments) {
  constexpr index_t most = index_t(1) << 24;
  const auto grid = static_cast<unsigned>(blocks < most ? blocks : most);
  kernel<<<grid, kThreads, 0, reinterpret_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError());
}

// An element as it is computed with, and how many a thread reads at a time: 32 bytes of them, at least 8.
__device__ inline float widened(float x) { return x; }
__device__ inline double widened(double x) { return x; }
__device__ inline float widened(__half x) { return __half2float(x); }
__device__ inline float widened(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class Element>
struct Load {
  using Compute = float;
  static constexpr int batch = 32 / sizeof(Element);
};
template <>
struct Load<double> {
  using Compute = double;
  static constexpr int batch = 8;
};

// Calls f with a null pointer to the element type.
template <class F>
void with_element(DType dtype, F f) {
  switch (dtype) {
    case DType::f32: return f(static_cast<const float*>(nullptr));
    case DType::f64: return f(static_cast<const double*>(nullptr));
    case DType::f16: return f(static_cast<const __half*>(nullptr));
    case DType::bf16: return f(static_cast<const __nv_bfloat16*>(nullptr));
  }
}

}  // namespace
}  // namespace cuda
}  // namespace entropic
