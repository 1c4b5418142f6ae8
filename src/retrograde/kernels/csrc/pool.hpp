// A small team of threads that runs one region at a time.
//
// Workers sleep between regions, so nothing spins beside torch's own threads. After a fork the child starts a
// team of its own.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace retrograde {

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
  // Runs region(context, team, i) for i = 0 .. threads - 1 (at most size()); returns when all are done.
  void run(int threads, Region region, void* context);
  template <class F> void run(int threads, F& f) {
    run(threads, [](void* context, Team& team, int thread) { (*static_cast<F*>(context))(team, thread); }, &f);
  }

 private:
  Pool* pool_ = nullptr;  // null: alone
  int size_ = 1;
};

// Memory of the calling thread's own, kept between calls and handed out anew by the next one.
void* scratch_memory(std::size_t bytes);
constexpr std::size_t kScratchKept = std::size_t{64} << 20;
void release_scratch(std::size_t above = kScratchKept);  // gives back what is larger than that

}  // namespace retrograde
