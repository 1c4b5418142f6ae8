// Tests of the engine's parts that Python cannot reach alone. test_cpp.py compiles this file together with pool.cpp
// and runs it: exit code 0 if all passed, otherwise a line for each failure.
//
// The kernels as a whole are tested from Python, against naive.cpp (test_naive.py) and torch (test_native.py).
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "sweep.hpp"

using namespace retrograde;
using namespace retrograde::RETROGRADE_SET;

namespace {

int failures = 0;

void check(bool passed, const std::string& what) {
  if (passed) return;
  ++failures;
  std::printf("failed: %s\n", what.c_str());
}

template <class T> std::vector<T> numbers(Index n, int seed) {
  std::vector<T> v(static_cast<std::size_t>(n));
  std::uint32_t state = 12345u + static_cast<std::uint32_t>(seed);
  for (T& x : v) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<T>(state >> 8) / T(1 << 24) - T(0.5);
  }
  return v;
}

template <class T>
void check_close(const std::vector<T>& found, const std::vector<double>& expected, std::string what) {
  const double limit = sizeof(T) == 4 ? 2e-5 : 1e-13;
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (!(std::abs(static_cast<double>(found[i]) - expected[i]) <= limit * (1 + std::abs(expected[i]))))
      return check(false, what + ", number " + std::to_string(i));
}

std::string shape(const char* name, Index M, Index N, Index K) {
  return std::string(name) + " " + std::to_string(M) + " x " + std::to_string(N) + " x " + std::to_string(K);
}

// product_exact, with and without a workspace: C = start + A W or C += A W, and nothing outside C is written.
template <class T> void test_product(Index M, Index N, Index K, bool add) {
  const std::vector<T> a = numbers<T>(M * K + kPanel<T>, 1), w = numbers<T>(K * N, 2), start = numbers<T>(N + 64, 3);
  std::vector<T> packed(static_cast<std::size_t>(ceil_div(N, kPanel<T>) * kPanel<T> * K + kPanel<T>));
  pack_panels<T>(packed.data(), [&](Index k) { return w.data() + k * N; }, N, K, 0, 1);
  std::vector<T> c = numbers<T>(M * N + 1, 4), workspace(static_cast<std::size_t>(kBlockWorkspace<T>));
  std::vector<double> expected(static_cast<std::size_t>(M * N));
  for (Index m = 0; m < M; ++m)
    for (Index n = 0; n < N; ++n) {
      double sum = add ? c[m * N + n] : start[n];
      for (Index k = 0; k < K; ++k) sum += static_cast<double>(a[m * K + k]) * static_cast<double>(w[k * N + n]);
      expected[m * N + n] = sum;
    }
  const T after = c[M * N];
  std::vector<T> again = c;
  const T* const begin = add ? nullptr : start.data();
  product_exact<T>(c.data(), N, a.data(), K, M, packed.data(), N, K, add, begin, nullptr);
  product_exact<T>(again.data(), N, a.data(), K, M, packed.data(), N, K, add, begin, workspace.data());
  check_close(c, expected, shape("product", M, N, K));
  check(c == again, shape("product with a workspace has the same bits,", M, N, K));
  check(c[M * N] == after, shape("product writes within C,", M, N, K));
}

// C[m0:m1] = A^T rows
template <class T> void test_outer_product(Index M, Index N, Index K, bool add) {
  const std::vector<T> a = numbers<T>(K * M + kPanel<T>, 5), b = numbers<T>(K * N, 6);
  std::vector<T> c = numbers<T>(M * N + 1, 7), workspace(static_cast<std::size_t>(kOuterWorkspace<T>));
  const std::vector<T> before = c;
  const Index m0 = M / 3, m1 = M;
  std::vector<double> expected(before.begin(), before.end());
  for (Index m = m0; m < m1; ++m)
    for (Index n = 0; n < N; ++n) {
      double sum = add ? before[m * N + n] : 0.0;
      for (Index k = 0; k < K; ++k) sum += static_cast<double>(a[k * M + m]) * static_cast<double>(b[k * N + n]);
      expected[m * N + n] = sum;
    }
  outer_product<T>(
      c.data(), N, a.data(), M, [&](Index k) { return b.data() + k * N; }, m0, m1, N, K, add, workspace.data());
  check_close(c, expected, shape("outer product", M, N, K));
}

template <class T> void test_dot_product(Index M, Index N, Index K) {
  const std::vector<T> a = numbers<T>(M * K, 8), w = numbers<T>(N * K, 9), first = numbers<T>(N, 10);
  std::vector<T> c = numbers<T>(M * N, 11);
  std::vector<double> expected(c.begin(), c.end());
  const Index n0 = N / 4;
  for (Index m = 0; m < M; ++m)
    for (Index n = n0; n < N; ++n) {
      double sum = 2.0 * first[n];
      for (Index k = 0; k < K; ++k) sum += static_cast<double>(a[m * K + k]) * static_cast<double>(w[n * K + k]);
      expected[m * N + n] = sum;
    }
  dot_product<T>(c.data(), N, a.data(), K, M, w.data(), n0, N, K, first.data(), first.data());
  check_close(c, expected, shape("dot product", M, N, K));
}

template <class T> void test_packing(Index columns, Index K) {
  const std::vector<T> w = numbers<T>(columns * K, 12);
  std::vector<T> transposed(static_cast<std::size_t>(ceil_div(columns, kPanel<T>) * kPanel<T> * K)), rows = transposed;
  for (int thread = 0; thread < 3; ++thread)
    pack_panels_transposed<T>(transposed.data(), w.data(), columns, K, thread, 3);
  std::vector<T> turned(w.size());
  for (Index j = 0; j < columns; ++j)
    for (Index k = 0; k < K; ++k) turned[k * columns + j] = w[j * K + k];
  for (int thread = 0; thread < 2; ++thread)
    pack_panels<T>(rows.data(), [&](Index k) { return turned.data() + k * columns; }, columns, K, thread, 2);
  check(transposed == rows, shape("both ways of packing agree,", 0, columns, K));
  for (Index j = 0; j < columns; ++j)
    for (Index k = 0; k < K; ++k) {
      const Index panel = j / kPanel<T>, lane = j % kPanel<T>;
      if (rows[panel * kPanel<T> * K + k * kPanel<T> + lane] != w[j * K + k])
        return check(false, shape("packing", 0, columns, K));
    }
}

// Some rows of a matrix, depth after depth: each number once, and at most a panel is written after the last.
template <class T> void test_packed_depths(Index size, Index depth) {
  const Index lda = depth + 3, whole = size * depth;
  const std::vector<T> a = numbers<T>(size * lda, 13);
  std::vector<T> to(static_cast<std::size_t>(whole + 20 * kPanel<T> * kPanel<T>), T(7));
  pack_depths<T>(to.data(), a.data(), lda, size, depth);
  for (Index k = 0; k < depth; ++k)
    for (Index j = 0; j < size; ++j)
      if (to[k * size + j] != a[j * lda + k]) return check(false, shape("packed depths", size, 0, depth));
  for (std::size_t i = static_cast<std::size_t>(whole + kPanel<T>); i < to.size(); ++i)
    if (to[i] != T(7)) return check(false, shape("nothing is written after packed depths", size, 0, depth));
}

// Groups of units cover each unit once, and their panels follow each other.
template <class T> void test_groups(Index units, Index gates) {
  const Groups<T> groups{units, gates};
  Index next = 0, panels = 0;
  for (Index q = 0; q < groups.count(); ++q) {
    check(groups.first(q) == next && groups.panels_before(q) == panels, "groups follow each other");
    check(groups.panels_of(q) * kPanel<T> >= gates * groups.width(q), "a group's panels have space for all its gates");
    next += groups.width(q);
    panels += groups.panels_of(q);
  }
  check(next >= units && next - units < kWidth<T> && groups.panels() == panels, "groups cover all units");
}

// Packed sequences are divided so that every one belongs to one thread, and no thread is given far more than the
// others.
void test_divided_rows() {
  const std::vector<Index> sizes = {9, 9, 8, 5, 5, 2, 1, 1, 1};
  Layer l{};
  l.T = 9, l.B = 9, l.H = l.R = 4, l.batch_sizes = sizes.data();
  for (Index size : sizes) l.rows += size;
  for (int threads = 1; threads <= 4; ++threads) {
    Pass<float> pass(l);
    pass.partition.threads = threads;
    std::vector<Index> offsets(10), shards(static_cast<std::size_t>(threads) + 1);
    std::vector<float> zeros(64, 1.0f);
    pass.offsets = offsets.data(), pass.shards = shards.data(), pass.zeros = zeros.data();
    pass.initialize();
    check(shards.front() == 0 && shards.back() == l.B && zeros[0] == 0.0f, "all sequences are divided");
    for (int i = 0; i < threads; ++i) {
      Index steps = 0;
      for (Index size : sizes) steps += max(0, min(size, shards[i + 1]) - shards[i]);
      check(shards[i] <= shards[i + 1] && steps <= l.rows / threads + l.T, "threads get about as many steps");
    }
    check(offsets[9] == l.rows && pass.rows_in(0, 9) == l.rows && pass.max_rows(100) == l.rows, "rows are counted");
  }
}

// Which way threads share a sweep: many sequences by rows, few with large weights by units, tiny ones not at all.
void test_partition() {
  const Partition many = choose_partition<float>(4, 100, 64, 32, 128, 128, 4);
  check(many.threads == 4 && !many.by_units, "many sequences are divided by rows");
  const Partition large = choose_partition<float>(4, 100, 1, 256, 1024, 1024, 4);
  check(large.threads == 4 && large.by_units, "one sequence of a large layer is divided by units");
  check(choose_partition<float>(4, 3, 1, 4, 8, 8, 1).threads == 1, "a tiny layer stays on one thread");
  check(choose_partition<float>(4, 0, 64, 32, 128, 128, 4).threads == 1, "no steps need no team");
}

// Every thread of a team runs the region once, and nobody leaves a barrier before all have reached it.
void test_team() {
  for (int wanted : {1, 2, 4}) {
    TeamLock lock(wanted);
    check(lock.size() >= 1 && lock.size() <= wanted, "a team is not larger than requested");
    TeamLock second(wanted);
    check(second.size() == 1, "a second caller computes alone");
    std::vector<int> ran(4, 0);
    std::atomic<int> arrived{0};
    std::atomic<bool> early{false};
    auto region = [&](Team& team, int thread) {
      ++ran[static_cast<std::size_t>(thread)];
      for (int round = 1; round <= 50; ++round) {
        arrived.fetch_add(1);
        team.barrier();
        if (arrived.load() < round * team.size()) early = true;
        team.barrier();
      }
    };
    lock.run(lock.size(), region);
    int total = 0;
    for (int n : ran) total += n;
    check(ran[0] == 1 && total == arrived.load() / 50 && !early, "a region runs once on each thread, with barriers");
  }
}

// Where a thread of the team comes late (it sleeps here), the caller computes the next regions alone, then asks again.
void test_late_team() {
  TeamLock lock(2);
  if (lock.size() < 2) return check(false, "there is a team of two");
  bool late = true;
  int size = 0;
  auto region = [&](Team& team, int thread) {
    if (thread == 0) size = team.size();
    if (thread == 1 && late) std::this_thread::sleep_for(std::chrono::milliseconds(30));
  };
  const auto alone = [&] {  // how many regions are computed alone before the next on the team
    for (int n = 0; n < 1000; ++n) {
      lock.run(2, region);
      if (size == 2) return n;
    }
    return 1000;
  };
  alone();  // the team may have been late before
  const int first = alone(), second = alone();
  check(first >= 8 && second == (first < 256 ? 2 * first : 256),
        "the caller does without a late team, longer each time");
  late = false;
  check(alone() <= 256, "it asks the team again");
}

void test_memory() {
  char* const first = static_cast<char*>(scratch_memory(1000));
  check(first != nullptr && scratch_memory(500) == first, "working memory is kept for the next call");
  release_scratch(1 << 20);
  check(scratch_memory(500) == first, "a small block is not released");
  release_scratch(0);
  fail_allocation(1);
  bool refused = false;
  try {
    scratch_memory(std::size_t{1} << 20);
  } catch (const OutOfMemory&) {
    refused = true;
  }
  check(refused && fail_allocation(0) == 0, "an allocation fails when a test asks for it");
  Arena counts(nullptr);
  check(counts.allocate<float>(1) == nullptr && counts.allocate<double>(17) == nullptr && counts.used() == 384,
        "an arena without memory counts whole cache lines");
}

template <class T> void test_products() {
  for (Index M : {1, 2, 3, 5, 7, 15, 29, 100})
    for (Index N : {1, 4, 5, 8, 9, 16, 31, 67, 200})
      for (Index K : {0, 1, 3, 9, 255, 256, 257, 600})
        if (M * N * K < 400000)
          for (bool add : {false, true}) {
            test_product<T>(M, N, K, add);
            test_outer_product<T>(M, N, K, add);
            if (M <= kDotRows && K > 0) test_dot_product<T>(M, N, K);
          }
  for (Index columns : {1, 3, 4, 5, 8, 9, 17, 40})
    for (Index K : {1, 2, 3, 4, 7, 16, 33}) test_packing<T>(columns, K);
  for (Index size = 1; size <= kRows; ++size)
    for (Index depth : {1, 3, 4, 7, 8, 9, 16, 19, 40}) test_packed_depths<T>(size, depth);
  for (Index units = 1; units < 70; ++units)
    for (Index gates : {1, 3, 4}) test_groups<T>(units, gates);
}

}  // namespace

int main() {
  test_products<float>();
  test_products<double>();
  test_divided_rows();
  test_partition();
  test_team();
  test_late_team();
  test_memory();
  if (failures == 0) std::printf("all passed\n");
  return failures != 0;
}
