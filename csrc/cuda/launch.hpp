// What the bindings know of the CUDA kernels: plain integers and pointers, no CUDA types.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "entropic/config.hpp"

namespace entropic {
namespace cuda {

// A CUDA call failed; what() says which error, in words.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The module holds no code for the GPU in use, whose compute capability is major * 10 + minor.
class MissingKernels : public std::runtime_error {
 public:
  explicit MissingKernels(int capability_) : std::runtime_error("no kernels for this GPU"), capability(capability_) {}
  int capability;
};

// Why no device can be used, as a part of a sentence; empty if one can.
std::string problem();
// The visible devices' names and compute capabilities.
std::vector<std::string> devices();

enum class DType : int { f32, f64, f16, bf16 };

// A matrix in a device's memory, with strides in elements, the stream to work on, and scratch_bytes(rows, cols) bytes
// on the same device. Nothing below waits for the stream.
struct Matrix {
  DType dtype;
  const void* source;
  index_t rows, cols, row_stride, col_stride;
  void* scratch;
  int device;
  std::uintptr_t stream;
};

index_t scratch_bytes(index_t rows, index_t cols);

// Writes one number a row to `target`, float64 where the matrix is and float32 elsewhere.
void reduce_rows(const Matrix& x, Value value, void* target);

// Writes log softmax(row)[targets[row]] likewise; nan where the target is no column.
void log_probabilities(const Matrix& x, const std::int64_t* targets, void* target);

}  // namespace cuda
}  // namespace entropic
