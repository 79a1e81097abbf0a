// The one place that uses threads: a process-wide pool that runs numbered units of work.
//
// Results never depend on the number of threads, because a unit is a fixed part of the input; threads only pick units.
#pragma once

#include "entropic/config.hpp"

namespace entropic {
namespace cpu {

// The limit in force: at first min(CPU affinity, ENTROPIC_NUM_THREADS or else OMP_NUM_THREADS).
int num_threads();
void set_num_threads(int n);

// Called on the calling thread about ten times a second during long work; true stops it.
void set_interrupt_check(bool (*check)());

using Task = void (*)(void* context, index_t unit);
// Runs task(context, 0 .. units-1). Runs on the caller alone when the pool is busy or the caller is already one of its
// threads. Returns false if the work was interrupted; throws std::bad_alloc if a unit did.
bool parallel_for(index_t units, Task task, void* context);
// The same on the caller's thread: for work that is too small to share.
bool serial_for(index_t units, Task task, void* context);

// Below this many elements waking a thread costs more than it saves.
constexpr index_t kWorthSharing = 65536;

// For units that may take long: has the work been interrupted? Then what they leave is not looked at.
bool work_stopped();

template <class F>
bool for_units(index_t units, index_t elements, F&& f) {
  if (elements < kWorthSharing) {
    for (index_t unit = 0; unit < units; ++unit) f(unit);
    return true;
  }
  const Task task = [](void* context, index_t unit) { (*static_cast<F*>(context))(unit); };
  return (units > 1 ? parallel_for : serial_for)(units, task, &f);
}

}  // namespace cpu
}  // namespace entropic
