#include "pool.hpp"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#if defined(__linux__)
#include <dlfcn.h>
#include <sys/mman.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#endif

namespace retrograde {

OutOfMemory::OutOfMemory(std::size_t bytes) noexcept {
  std::snprintf(text_, sizeof text_, "retrograde's engine could not allocate %zu bytes of working memory", bytes);
}

namespace {
std::atomic<std::int64_t> allocations_left{0};  // 0: no failure requested
}  // namespace

std::int64_t fail_allocation(std::int64_t n) noexcept { return allocations_left.exchange(n); }

void may_fail(std::size_t bytes) {
  std::int64_t left = allocations_left.load(std::memory_order_relaxed);
  if (left == 0) return;
  const auto next = [&] { return left > 0 ? left - 1 : left < -1 ? left + 1 : left; };
  while (left != 0 && !allocations_left.compare_exchange_weak(left, next())) {
  }
  if (left == 1 || left == -1) throw OutOfMemory(bytes);
}

namespace {

// All threads reach a barrier inside a region within microseconds, unless another process has a processor: then sleep.
constexpr int kBarrierSpins = 1000;
constexpr int kIdleSpins = 40;  // about 2 microseconds: the next call may follow at once

double seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// A region whose first part, that of the calling thread, is timed.
struct Timed {
  Region region;
  void* context;
  double first_part_ended = 0;  // in processor time of the calling thread

  static void run(void* p, Team& team, int thread) {
    Timed& timed = *static_cast<Timed*>(p);
    timed.region(timed.context, team, thread);
    if (thread == 0) timed.first_part_ended = seconds(CLOCK_THREAD_CPUTIME_ID);
  }
};

// On a busy machine a thread of the team may get a processor many milliseconds late, and a region that is less work
// than that waits for it. Then the calling thread does without the team, for longer each time that it finds it late.
class Lateness {
 public:
  bool skips() { return left_ > 0 && left_-- > 0; }

  // A region took `wall` seconds on so many threads, of which the calling thread computed for `own`.
  void judge(int threads, double wall, double own) {
    if (wall - own < kLate || wall < kLoss * threads * own) {
      next_ = kFirst;
    } else {
      left_ = next_;
      next_ = next_ < kMost ? 2 * next_ : kMost;
    }
  }

 private:
  static constexpr double kLate = 2e-3;  // seconds
  static constexpr double kLoss = 3;     // times what the calling thread would compute for alone
  static constexpr int kFirst = 8, kMost = 256;
  int left_ = 0, next_ = kFirst;  // regions
};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

class Pool {
 public:
  std::mutex mutex;   // locked by a TeamLock
  Lateness lateness;  // of torch's team, or of this one

  // Starts the threads that are missing; returns how many there are, the caller included. If the system has no memory
  // or no thread left, these are fewer than requested: the results are the same with any number of threads.
  int grow(int threads) noexcept {
    while (static_cast<int>(workers_.size()) < threads - 1) {
      const std::size_t before = workers_.size();
      try {
        may_fail(sizeof(Signal));
        Signal& start = workers_.emplace_back();
        may_fail(0);  // the thread and its stack
        std::thread(&Pool::work, this, static_cast<int>(workers_.size()), &start).detach();
      } catch (const std::exception&) {
        if (workers_.size() > before) workers_.pop_back();  // no thread waits on this signal
        return static_cast<int>(before) + 1;
      }
    }
    return threads;
  }

  void run(int threads, Region region, void* context) {
    Team team(threads);
    region_ = region;
    context_ = context;
    team_ = &team;
    processor_ = processor();
    pending_.add(threads - 1);
    for (int i = 0; i < threads - 1; ++i) workers_[static_cast<std::size_t>(i)].add(1);
    region(context, team, 0);
    for (std::int32_t left; (left = pending_.read()) != 0;) pending_.wait_while(left, kBarrierSpins);
  }

 private:
  // Each worker waits for its own start signal; what it then reads does not change until it has counted pending_ down.
  void work(int thread, Signal* start) {
    for (std::int32_t seen = 0;; ++seen) {
      start->wait_while(seen, kIdleSpins);
      if (processor() == processor_) leave(processor_);
      region_(context_, *team_, thread);
      pending_.add(-1);
    }
  }

  // The system often puts a woken thread on the processor of the thread that woke it, and on a busy machine leaves it
  // there. leave() moves it to another one.
  static int processor() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
  }
  static void leave(int processor) {
#if defined(__linux__)
    cpu_set_t allowed;
    if (processor < 0 || sched_getaffinity(getpid(), sizeof allowed, &allowed) != 0) return;
    CPU_CLR(processor, &allowed);
    if (CPU_COUNT(&allowed) > 0) sched_setaffinity(0, sizeof allowed, &allowed);
#else
    (void)processor;
#endif
  }

  std::deque<Signal> workers_;
  int processor_ = -1;
  Signal pending_;
  Region region_ = nullptr;
  void* context_ = nullptr;
  Team* team_ = nullptr;
};

namespace {

// torch's own team of threads, if its OpenMP runtime has GNU's interface: a region of ours on it starts within a
// microsecond, and there is no second team to compete for the processors with OpenMP's threads, which spin for
// milliseconds after each of torch's regions. The functions are looked up in the loaded library; nothing is linked.
struct OpenMP {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*thread_num)() = nullptr;
  int (*num_threads)() = nullptr;
};

struct Borrowed {
  Region region;
  void* context;
  Team* team;
  int wanted;
  OpenMP openmp;
  std::atomic<bool> refused{false};
};

void enter(void* p) {
  Borrowed& job = *static_cast<Borrowed*>(p);
  if (job.openmp.num_threads() != job.wanted) {  // e.g. within another parallel region
    job.refused.store(true, std::memory_order_relaxed);
    return;
  }
  const int thread = job.openmp.thread_num();
  if (thread < job.team->size()) job.region(job.context, *job.team, thread);
}

std::atomic<bool> forked{false};  // a forked child has none of OpenMP's threads, and OpenMP does not notice

OpenMP torchs_team() {
  OpenMP found;
#if defined(__linux__)
  const char* pool = std::getenv("RETROGRADE_POOL");
  if (pool && std::strcmp(pool, "own") == 0) return found;
  if (void* torch = dlopen("libtorch_cpu.so", RTLD_NOLOAD | RTLD_LAZY)) {
    found.thread_num = reinterpret_cast<int (*)()>(dlsym(torch, "omp_get_thread_num"));
    found.num_threads = reinterpret_cast<int (*)()>(dlsym(torch, "omp_get_num_threads"));
    if (found.thread_num && found.num_threads)
      found.parallel =
          reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(dlsym(torch, "GOMP_parallel"));
  }
#endif
  return found;
}

const OpenMP& openmp() {
  static const OpenMP found = torchs_team();
  return found;
}

// Never destroyed, since workers may outlive static destructors. A forked child has the memory of its parent's pool but
// not its threads: it abandons that pool and creates another.
std::atomic<Pool*> current{nullptr};

Pool* new_pool() noexcept {
  try {
    may_fail(sizeof(Pool));
    return new Pool;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// Null if there is no memory for it: the caller then computes alone, and the next call tries again.
Pool* pool() noexcept {
  static std::mutex making;
  static bool watched = false;
  if (Pool* const found = current.load(std::memory_order_acquire)) return found;
  const std::lock_guard<std::mutex> one_at_a_time(making);
  if (!watched)
    watched = pthread_atfork(nullptr, nullptr, [] {
                forked.store(true);
                current.store(new_pool());
              }) == 0;
  if (!current.load() && watched) current.store(new_pool());
  return current.load();
}

// Working memory of the kernels, kept from call to call: faulting in new pages costs more than the sums in them.
struct Scratch {
  void* memory = nullptr;
  std::size_t size = 0;
  ~Scratch() { free(memory); }
};
thread_local Scratch scratch;
constexpr std::size_t kHugePage = std::size_t{1} << 21;

}  // namespace

void advise_huge_pages(void* memory, std::size_t bytes) {
#if defined(__linux__)
  if (!memory || bytes < 2 * kHugePage) return;
  const std::uintptr_t first = (reinterpret_cast<std::uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t last = (reinterpret_cast<std::uintptr_t>(memory) + bytes) / kHugePage * kHugePage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

void* scratch_memory(std::size_t bytes) {
  if (bytes <= scratch.size) return scratch.memory;
  release_scratch(0);
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : 4096;
  const std::size_t size = (bytes + alignment - 1) / alignment * alignment;
  may_fail(size);
  if (size < bytes || posix_memalign(&scratch.memory, alignment, size) != 0) {
    scratch.memory = nullptr;
    throw OutOfMemory(bytes);
  }
  scratch.size = size;
#if defined(__linux__)
  if (alignment == kHugePage) madvise(scratch.memory, size, MADV_HUGEPAGE);
#endif
  return scratch.memory;
}

void release_scratch(std::size_t above) {
  if (scratch.size <= above) return;
  free(scratch.memory);
  scratch.memory = nullptr;
  scratch.size = 0;
}

void Signal::add(std::int32_t n) {
  value_.fetch_add(n, std::memory_order_seq_cst);
#if defined(__linux__)
  // A thread about to sleep either is counted in sleepers_ by now, or will see the new value and not sleep.
  if (sleepers_.load(std::memory_order_seq_cst) != 0)
    syscall(SYS_futex, reinterpret_cast<std::int32_t*>(&value_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
}

void Signal::wait_while(std::int32_t seen, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (read() != seen) return;
    relax();
  }
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (value_.load(std::memory_order_seq_cst) == seen) {
#if defined(__linux__)
    syscall(SYS_futex, reinterpret_cast<std::int32_t*>(&value_), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
    std::this_thread::yield();
#endif
  }
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

void Team::barrier() {
  if (size_ == 1) return;
  const std::int32_t now = generation_.read();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.add(1);
  } else {
    generation_.wait_while(now, kBarrierSpins);
  }
}

TeamLock::TeamLock(int wanted) {
  if (wanted < 2) return;
  Pool* const p = pool();
  if (!p || !p->mutex.try_lock()) return;
  pool_ = p;
  size_ = openmp().parallel && !forked.load() ? wanted : p->grow(wanted);
}

TeamLock::~TeamLock() {
  if (pool_) pool_->mutex.unlock();
}

void TeamLock::run(int threads, Region region, void* context) {
  threads = threads < size_ ? threads : size_;
  if (!pool_ || threads < 2 || pool_->lateness.skips() || !run_on_team(threads, region, context)) {
    Team alone(1);
    region(context, alone, 0);
  }
}

bool TeamLock::run_on_team(int threads, Region region, void* context) {
  Timed timed{region, context};
  const double wall = seconds(CLOCK_MONOTONIC), own = seconds(CLOCK_THREAD_CPUTIME_ID);
  bool done = false;
  if (openmp().parallel && !forked.load()) {
    // Always the whole team, since OpenMP would end the threads that a smaller one leaves out.
    Team team(threads);
    Borrowed job{Timed::run, &timed, &team, size_, openmp()};
    openmp().parallel(enter, &job, static_cast<unsigned>(size_), 0);
    done = !job.refused.load();
  }
  if (!done && pool_->grow(threads) == threads) {
    pool_->run(threads, Timed::run, &timed);
    done = true;
  }
  if (done) pool_->lateness.judge(threads, seconds(CLOCK_MONOTONIC) - wall, timed.first_part_ended - own);
  return done;
}

}  // namespace retrograde
