// Chooses the instruction set: the best that the machine has, or the one that ENTROPIC_ISA names.
#pragma once

#include "kernels.hpp"

namespace entropic {
namespace cpu {

const Kernels& active();
// The `count` sets that were compiled, the best last; `runs_here` says if the machine has it.
struct IsaInfo {
  const Kernels* kernels;
  bool runs_here;
};
const IsaInfo* compiled_isas(int& count);
// False if the set is unknown or the machine lacks it.
bool force_isa(const char* name);

}  // namespace cpu
}  // namespace entropic
