#include "pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace entropic {
namespace cpu {
namespace {

using Clock = std::chrono::steady_clock;

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

int available_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

int default_threads() {
  const int cpus = available_cpus();
  for (const char* name : {"ENTROPIC_NUM_THREADS", "OMP_NUM_THREADS"}) {
    const char* text = std::getenv(name);
    const int wanted = text ? std::atoi(text) : 0;
    if (wanted > 0) return std::min(wanted, cpus);
  }
  return cpus;
}

std::atomic<int> thread_limit{0};  // 0: not asked for yet
std::atomic<bool (*)()> interrupt_check{nullptr};

struct Job {
  Task task;
  void* context;
  index_t units;
  std::atomic<index_t> next{0};
  std::atomic<bool> cancelled{false};
  std::atomic<bool> out_of_memory{false};  // an exception must not leave a pool thread: the caller throws it

  void run_units(bool may_interrupt);
};

// What this thread is working on, if it is inside a region; `may_interrupt` on the thread that made the call.
struct Present {
  Job* job = nullptr;
  bool may_interrupt = false;
  Clock::time_point last_check;
};
thread_local Present present;

void Job::run_units(bool may_interrupt) {
  present = {this, may_interrupt, Clock::now()};
  for (index_t unit; !work_stopped() && (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;) {
    try {
      task(context, unit);
    } catch (const std::bad_alloc&) {
      out_of_memory = cancelled = true;
    }
  }
  present = {};
}

class Pool {
 public:
  // Never destroyed: at exit the threads are parked, and a fork leaves the child without them.
  static Pool& instance();

  void run(Job& job, int helpers) {
    helpers = grow(helpers);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      helpers_ = helpers;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.run_units(true);
    {
      // A helper that is not awake by now is not waited for: it will find no job.
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = nullptr;
    }
    for (int i = 0; i < kSpins && running_.load(std::memory_order_acquire); ++i) relax();
    if (running_.load(std::memory_order_acquire)) {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, [&] { return running_.load(std::memory_order_acquire) == 0; });
    }
  }

  std::atomic<bool> busy{false};

 private:
  static constexpr int kSpins = 2000;  // some 20 us, about what waking a parked thread costs
  // A helper stays awake for what Python does between two calls in a loop: waking it may cost more than a call.
  static constexpr int kIdleSpins = 10 * kSpins;

  // Threads that could not be started are done without.
  int grow(int wanted) {
    try {
      while (size_ < wanted) {
        const int index = size_;
        std::thread([this, index] { work(index); }).detach();
        ++size_;
      }
    } catch (const std::system_error&) {
    }
    return std::min(wanted, size_);
  }

  void work(int index) {
    unsigned seen = 0;
    for (;;) {
      for (int i = 0; i < kIdleSpins && generation_.load(std::memory_order_acquire) == seen; ++i) relax();
      Job* job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        job = index < helpers_ ? job_ : nullptr;
        if (!job) continue;
        running_.fetch_add(1, std::memory_order_relaxed);
      }
      job->run_units(false);
      if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<unsigned> generation_{0};
  std::atomic<int> running_{0};
  Job* job_ = nullptr;
  int helpers_ = 0;
  int size_ = 0;
};

std::atomic<Pool*> the_pool{nullptr};
std::mutex pool_creation;

// The child of a fork has none of the threads, and locks in whatever state they were: it starts anew.
void forget_pool() {
  the_pool = nullptr;
  new (&pool_creation) std::mutex();
  present = {};
}

Pool& Pool::instance() {
  Pool* pool = the_pool.load(std::memory_order_acquire);
  if (pool) return *pool;
  std::lock_guard<std::mutex> lock(pool_creation);
  if (!the_pool) {
#if defined(__unix__) || defined(__APPLE__)
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
    (void)registered;
#endif
    the_pool = new Pool;
  }
  return *the_pool;
}

}  // namespace

int num_threads() {
  int n = thread_limit.load(std::memory_order_relaxed);
  if (n == 0) {
    n = default_threads();
    thread_limit = n;
  }
  return n;
}

void set_num_threads(int n) { thread_limit = std::max(1, n); }

void set_interrupt_check(bool (*check)()) { interrupt_check = check; }

namespace {

bool outcome(const Job& job) {
  if (job.out_of_memory) throw std::bad_alloc();
  return !job.cancelled;
}

}  // namespace

bool work_stopped() {
  if (!present.job) return false;
  if (present.may_interrupt) {
    const Clock::time_point now = Clock::now();
    if (now - present.last_check >= std::chrono::milliseconds(100)) {
      present.last_check = now;
      const auto check = interrupt_check.load();
      if (check && check()) present.job->cancelled = true;
    }
  }
  return present.job->cancelled.load(std::memory_order_relaxed);
}

bool serial_for(index_t units, Task task, void* context) {
  if (present.job) {
    for (index_t unit = 0; unit < units; ++unit) task(context, unit);
    return true;
  }
  Job job{task, context, units};
  job.run_units(true);
  return outcome(job);
}

bool parallel_for(index_t units, Task task, void* context) {
  const int threads = static_cast<int>(std::min<index_t>(num_threads(), units));
  if (threads <= 1 || present.job) return serial_for(units, task, context);
  Pool& pool = Pool::instance();
  if (pool.busy.exchange(true, std::memory_order_acquire)) return serial_for(units, task, context);
  Job job{task, context, units};
  pool.run(job, threads - 1);
  pool.busy.store(false, std::memory_order_release);
  return outcome(job);
}

}  // namespace cpu
}  // namespace entropic

// For threadpoolctl, which finds a pool by these names.
#if defined(_WIN32)
#define ENTROPIC_EXPORT extern "C" __declspec(dllexport)
#else
#define ENTROPIC_EXPORT extern "C" __attribute__((visibility("default")))
#endif
ENTROPIC_EXPORT int entropic_get_num_threads() { return entropic::cpu::num_threads(); }
ENTROPIC_EXPORT void entropic_set_num_threads(int n) { entropic::cpu::set_num_threads(n); }
