#include "dispatch.hpp"

#include <atomic>
#include <cstring>

namespace entropic {
namespace cpu {

#if defined(ENTROPIC_HAS_NEON)
extern const Kernels kernels_neon;
#else
extern const Kernels kernels_baseline;
#endif
#if defined(ENTROPIC_HAS_V3)
extern const Kernels kernels_v3;
#endif
#if defined(ENTROPIC_HAS_V4)
extern const Kernels kernels_v4;
#endif

namespace {

// These also ask whether the operating system saves the registers.
#if defined(ENTROPIC_HAS_V3)
bool machine_has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt");
}
#endif
#if defined(ENTROPIC_HAS_V4)
bool machine_has_v4() {
  return machine_has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

std::atomic<const Kernels*> chosen{nullptr};

const Kernels* best() {
  int count;
  const IsaInfo* isas = compiled_isas(count);
  const Kernels* found = isas[0].kernels;
  for (int i = 0; i < count; ++i)
    if (isas[i].runs_here) found = isas[i].kernels;
  return found;
}

}  // namespace

const IsaInfo* compiled_isas(int& count) {
  static const IsaInfo isas[] = {
#if defined(ENTROPIC_HAS_NEON)
      {&kernels_neon, true},
#else
      {&kernels_baseline, true},
#endif
#if defined(ENTROPIC_HAS_V3)
      {&kernels_v3, machine_has_v3()},
#endif
#if defined(ENTROPIC_HAS_V4)
      {&kernels_v4, machine_has_v4()},
#endif
  };
  count = static_cast<int>(sizeof(isas) / sizeof(isas[0]));
  return isas;
}

bool force_isa(const char* name) {
  int count;
  const IsaInfo* isas = compiled_isas(count);
  for (int i = 0; i < count; ++i) {
    if (isas[i].runs_here && std::strcmp(isas[i].kernels->name, name) == 0) {
      chosen = isas[i].kernels;
      return true;
    }
  }
  return false;
}

const Kernels& active() {
  const Kernels* kernels = chosen.load(std::memory_order_acquire);
  if (!kernels) {
    kernels = best();
    chosen = kernels;
  }
  return *kernels;
}

}  // namespace cpu
}  // namespace entropic
