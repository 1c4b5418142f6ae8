#include "pool.hpp"

#include <pthread.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <deque>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#endif

namespace retrograde {
namespace {

// A barrier inside a region is met within microseconds, unless somebody else has the processor: then sleep.
constexpr int kBarrierSpins = 1000;
constexpr int kIdleSpins = 40;  // about 2 microseconds: the next call may follow at once

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
  std::mutex mutex;  // held by a lease

  // Starts what threads are missing; returns how many there are, the caller included.
  int grow(int threads) {
    while (static_cast<int>(workers_.size()) < threads - 1) {
      Signal& start = workers_.emplace_back();
      try {
        std::thread(&Pool::work, this, static_cast<int>(workers_.size()), &start).detach();
      } catch (const std::system_error&) {  // no more threads to be had: do with those there are
        workers_.pop_back();
        return static_cast<int>(workers_.size()) + 1;
      }
    }
    return threads;
  }

  void run(int threads, Region region, void* context) {
    Team team(threads);
    region_ = region;
    context_ = context;
    team_ = &team;
    pending_.add(threads - 1);
    for (int i = 0; i < threads - 1; ++i) workers_[static_cast<std::size_t>(i)].add(1);
    region(context, team, 0);
    for (std::int32_t left; (left = pending_.read()) != 0;) pending_.wait_while(left, kBarrierSpins);
  }

 private:
  // A worker is told to start through a signal of its own; what it then reads stays until it has reported back.
  void work(int thread, Signal* start) {
    for (std::int32_t seen = 0;; ++seen) {
      start->wait_while(seen, kIdleSpins);
      region_(context_, *team_, thread);
      pending_.add(-1);
    }
  }

  std::deque<Signal> workers_;
  Signal pending_;
  Region region_ = nullptr;
  void* context_ = nullptr;
  Team* team_ = nullptr;
};

namespace {

// Never destroyed, since workers may outlive static destructors. The child of a fork has the memory of its
// parent's team but not its threads: it leaves them and starts anew.
std::atomic<Pool*> current{nullptr};

Pool& pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    current.store(new Pool);
    pthread_atfork(nullptr, nullptr, [] { current.store(new Pool); });
  });
  return *current.load();
}

// What the kernels write to and nobody else sees, kept from call to call: fresh pages cost more than the sums in them.
struct Scratch {
  void* memory = nullptr;
  std::size_t size = 0;
  ~Scratch() { free(memory); }
};
thread_local Scratch scratch;
constexpr std::size_t kHugePage = std::size_t{1} << 21;

}  // namespace

void* scratch_memory(std::size_t bytes) {
  if (bytes <= scratch.size) return scratch.memory;
  release_scratch(0);
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : 4096;
  const std::size_t size = (bytes + alignment - 1) / alignment * alignment;
  if (posix_memalign(&scratch.memory, alignment, size) != 0) {
    scratch.memory = nullptr;
    throw std::bad_alloc();
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
  // Either the sleeper-to-be is counted here, or it sees the new number before it sleeps.
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

Lease::Lease(int wanted) {
  if (wanted < 2) return;
  Pool& p = pool();
  if (!p.mutex.try_lock()) return;
  pool_ = &p;
  size_ = p.grow(wanted);
}

Lease::~Lease() {
  if (pool_) pool_->mutex.unlock();
}

void Lease::run(int threads, Region region, void* context) {
  if (pool_ && threads > 1) {
    pool_->run(threads < size_ ? threads : size_, region, context);
  } else {
    Team alone(1);
    region(context, alone, 0);
  }
}

}  // namespace retrograde
