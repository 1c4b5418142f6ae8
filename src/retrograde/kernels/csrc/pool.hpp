// A small team of threads that runs one region at a time, and the working memory of a call.
//
// The team is torch's own OpenMP team where possible, so that no other threads compete with it. Otherwise it is a team
// of ours, whose workers sleep between regions. After a fork the child process starts its own team.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

namespace retrograde {

// Every allocation of the engine calls may_fail first, so that tests can make it fail. None is made within a region,
// where an exception would end the process: the caller allocates a region's memory before the region starts.
class OutOfMemory : public std::bad_alloc {  // Python's MemoryError
 public:
  explicit OutOfMemory(std::size_t bytes) noexcept;
  const char* what() const noexcept override { return text_; }

 private:
  char text_[96];
};
void may_fail(std::size_t bytes);
// For tests: makes the n-th allocation from now on fail, and for -n all after it too; 0: none. Returns how many were
// left to succeed of the n set before, -1 once allocations keep failing.
std::int64_t fail_allocation(std::int64_t n) noexcept;

class Pool;

// A number that threads wait on: a short spin, then sleep.
class Signal {
 public:
  std::int32_t read() const { return value_.load(std::memory_order_acquire); }
  void add(std::int32_t n);                       // and wakes the threads that wait
  void wait_while(std::int32_t seen, int spins);  // returns once the number differs from `seen`

 private:
  std::atomic<std::int32_t> value_{0}, sleepers_{0};
};

// The thread team (as OpenMP calls it) that runs a region: how many threads it has, and a barrier at which they wait
// for each other.
class Team {
 public:
  explicit Team(int size) : size_(size) {}
  int size() const { return size_; }
  void barrier();

 private:
  const int size_;
  std::atomic<std::int32_t> arrived_{0};
  alignas(64) Signal generation_;
};

using Region = void (*)(void* context, Team& team, int thread);

// The right to run regions on up to `wanted` threads; one calling thread has it at a time. Another caller never waits:
// it gets size() == 1, its own thread.
class TeamLock {
 public:
  explicit TeamLock(int wanted);
  ~TeamLock();
  TeamLock(const TeamLock&) = delete;
  TeamLock& operator=(const TeamLock&) = delete;
  int size() const { return size_; }
  // Runs region(context, team, i) for i = 0 .. threads - 1 (at most size()); returns when all are done. If no team
  // is available, or the last ones came late (the machine is busy), it runs on the calling thread alone, with
  // team.size() == 1: a region must work with either size.
  void run(int threads, Region region, void* context);
  template <class F> void run(int threads, F& f) {
    run(threads, [](void* context, Team& team, int thread) { (*static_cast<F*>(context))(team, thread); }, &f);
  }

 private:
  bool run_on_team(int threads, Region region, void* context);

  Pool* pool_ = nullptr;  // null: alone
  int size_ = 1;
};

// Asks the system for large pages under memory that is about to be written: fewer page faults, each of which costs as
// much as writing the page.
void advise_huge_pages(void* memory, std::size_t bytes);

// The calling thread's working memory. It is kept between calls, and the next call overwrites it.
void* scratch_memory(std::size_t bytes);
constexpr std::size_t kScratchKept = std::size_t{64} << 20;
void release_scratch(std::size_t above = kScratchKept);  // frees a larger one

}  // namespace retrograde
