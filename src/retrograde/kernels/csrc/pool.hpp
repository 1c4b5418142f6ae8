// A small team of threads that runs one region at a time.
//
// Torch's own team is borrowed where that can be done, so that nothing competes with it. Otherwise there is a team
// of ours, whose workers sleep between regions. After a fork the child starts a team of its own.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

namespace retrograde {

// Every allocation of the engine announces itself with may_fail. None is made within a region, where an exception
// would end the process: a region's memory is taken by the caller before the region starts.
class OutOfMemory : public std::bad_alloc {  // Python's MemoryError
 public:
  explicit OutOfMemory(std::size_t bytes) noexcept;
  const char* what() const noexcept override { return text_; }

 private:
  char text_[96];
};
void may_fail(std::size_t bytes);
// For tests: makes the n-th allocation from now on fail, and for -n all after it too; 0: none. Returns what was left of
// the n before, -1 once allocations keep failing.
std::int64_t fail_allocation(std::int64_t n) noexcept;

class Pool;

// A number that threads wait on: a short spin, then sleep.
class Signal {
 public:
  std::int32_t read() const { return value_.load(std::memory_order_acquire); }
  void add(std::int32_t n);                             // and wakes who sleeps
  void wait_while(std::int32_t seen, int spins);        // returns once the number differs from `seen`

 private:
  std::atomic<std::int32_t> value_{0}, sleepers_{0};
};

// What a thread of a region knows: of how many it is one, and where to wait for the others.
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

// The right to run regions on up to `wanted` threads, held by one calling thread at a time. Another caller gets
// one thread, its own: it is never made to wait.
class Lease {
 public:
  explicit Lease(int wanted);
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  int size() const { return size_; }
  // Runs region(context, team, i) for i = 0 .. threads - 1 (at most size()); returns when all are done. Where no team
  // can be had it runs on the calling thread alone, with team.size() == 1: a region may rely on no other size.
  void run(int threads, Region region, void* context);
  template <class F> void run(int threads, F& f) {
    run(threads, [](void* context, Team& team, int thread) { (*static_cast<F*>(context))(team, thread); }, &f);
  }

 private:
  Pool* pool_ = nullptr;  // null: alone
  int size_ = 1;
};

// Fresh memory that is about to be written whole: the system may then hand it out in large pages,
// which is many times cheaper than small ones one by one.
void expect_writes(void* memory, std::size_t bytes);

// Memory of the calling thread's own, kept between calls and handed out anew by the next one.
void* scratch_memory(std::size_t bytes);
constexpr std::size_t kScratchKept = std::size_t{64} << 20;
void release_scratch(std::size_t above = kScratchKept);  // gives back what is larger than that

}  // namespace retrograde
