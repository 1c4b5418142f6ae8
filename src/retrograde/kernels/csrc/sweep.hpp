// What the forward and the backward sweep through time have in common: who computes what, and where it lies.
//
// A chunk of steps is as much as stays in the cache between the step that writes it and the product that reads it:
//
//                  time
//                  t=0 ................................. t=T-1
//                  +----------+----------+----------+-------+
//         sequence | chunk 0  | chunk 1  | chunk 2  |  3    |
//   shard 0    b=0 |          |          |          |       |  thread 0
//                1 |          |          |          |       |
//                  +----------+----------+----------+-------+
//   shard 1      2 |          |          |          |       |  thread 1
//                3 |          |          |          |       |
//                  +----------+----------+----------+-------+
//
//   forward  (forward.hpp):  chunks left to right. X = x W_ih^T + b for all rows of the chunk as one product, then
//                            step by step h_t = cell(X_t, h_{t-1} W_hh^T).
//   backward (backward.hpp): chunks right to left. Step by step d_t, the gradient of the sums before the activations,
//                            then dE/dW_ih += d^T x, dE/dW_hh += d^T h_{t-1} and dE/dx = d W_ih, one product each.
//
// Threads divide a sweep in one of two ways (choose_partition picks the cheaper one):
//
//   by rows    each thread takes a shard of the sequences through all steps; they meet at the end of each chunk.
//   by units   where sequences are few or weights large, each thread takes some units of all sequences; they meet
//              after every step, since h_t of all units enters the next one.
//
// `reverse` sweeps run the same way over mirrored time: step s is time T - 1 - s. In packed sequences (batch_sizes)
// the rows of step t are sequences 0 to batch_sizes[t] - 1, and step t begins at row offsets[t].
#pragma once
#include <algorithm>

#include "cells.hpp"
#include "pool.hpp"

namespace retrograde {
namespace RETROGRADE_SET {

constexpr Index kRowBatch = 8 * kRows;  // rows whose sums are kept between a product and its activations

// ---- division of the work among threads ------------------------------------------------------------------

struct Partition {
  int threads = 1;
  bool by_units = false;
};

// Estimated processor cycles of one step's product of `rows` rows by `panels` panels over K, from measured throughputs:
// multiply-adds, loads from the first cache, and moving the weights from the cache level they fit in.
template <class T> double step_cycles(double rows, double panels, double K) {
  const double bytes = panels * K * kPanel<T> * sizeof(T), panel_bytes = kPanel<T> * sizeof(T);
  const double stream = panel_bytes / (bytes < 40e3 ? 100.0 : bytes < 1.6e6 ? 40.0 : 5.5);
  const double per_k = std::max({rows * 1.15, (2 + rows) * 0.55, stream});
  return panels * (K * per_k + 60);
}

template <class T>
Partition choose_partition(int threads, Index T_, Index B, Index panels, Index units, Index K, Index gates) {
  if (threads < 2 || T_ == 0 || B == 0) return {};
  const double activation = 30.0 * static_cast<double>(gates) * static_cast<double>(units) / kWidth<T>;
  const double rows = static_cast<double>(B), p = static_cast<double>(panels), k = static_cast<double>(K);
  // a barrier, and reading the other threads' numbers from their caches
  const double barrier = 900 + 1.2 * static_cast<double>(B * gates * units);
  const double alone = step_cycles<T>(rows, p, k) + activation * rows;
  const int by_rows = static_cast<int>(min(threads, B));
  const int by_units = static_cast<int>(min(threads, ceil_div(units, kPanel<T>)));
  const double shard = static_cast<double>(ceil_div(B, by_rows));
  const double rows_cost = by_rows > 1 ? step_cycles<T>(shard, p, k) + activation * shard : 1e300;
  const double units_cost = by_units > 1 ? step_cycles<T>(rows, static_cast<double>(ceil_div(panels, by_units)), k) +
                                               activation * rows / by_units + barrier
                                         : 1e300;
  Partition best;
  double cost = alone * 0.9;
  if (rows_cost < cost) best = {by_rows, false}, cost = rows_cost;
  if (units_cost < cost) best = {by_units, true}, cost = units_cost;
  const double saved = (alone - cost) * static_cast<double>(T_);
  return saved > 30e3 ? best : Partition{};  // waking the other threads takes 10 microseconds
}

// Sequences [r0, r1) and groups of units [q0, q1): what one thread computes.
struct Shard {
  Index r0, r1;
  Index q0, q1;
};

// ---- scratch memory --------------------------------------------------------------------------------------

// Hands out pieces of one block of memory. Without a block it only counts, to find out how large the block must be.
class Arena {
 public:
  explicit Arena(char* base) : base_(base) {}
  template <class T> T* allocate(Index n) {
    const std::size_t at = used_;
    used_ += (static_cast<std::size_t>(n) * sizeof(T) + 127) / 128 * 128;
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

// Runs lay_out(arena) twice: to measure, then on the thread's scratch memory.
template <class LayOut> void allocate_scratch(LayOut lay_out) {
  Arena measure(nullptr);
  lay_out(measure);
  Arena arena(static_cast<char*>(scratch_memory(measure.used())));
  lay_out(arena);
}

// A row length that is not a multiple of the cache's period, so that rows do not compete for the same cache sets.
template <class T> Index padded(Index n) {
  const Index line = 64 / sizeof(T);
  n = ceil_div(n, kWidth<T>) * kWidth<T>;
  return ceil_div(n, line) % 2 ? n + 2 * line : n + line;
}

// ---- the layer as both passes see it ---------------------------------------------------------------------

template <class T> struct Pass {
  const Layer& l;
  Index G, D;                // gates; numbers kept per unit
  Index* offsets = nullptr;  // packed: the first row of each step
  Index* shards = nullptr;   // by rows: thread i computes sequences [shards[i], shards[i + 1])
  T* zeros = nullptr;        // the initial state where none is given
  Partition partition;

  explicit Pass(const Layer& layer) : l(layer), G(gates_of(layer.cell)), D(kept_of(layer.cell)) {}

  void allocate(Arena& arena) {
    if (l.batch_sizes) offsets = arena.allocate<Index>(l.T + 1);
    shards = arena.allocate<Index>(partition.threads + 1);
    zeros = arena.allocate<T>(max(l.H, l.R) + kWidth<T>);
  }
  void initialize() {
    if (l.batch_sizes) {
      offsets[0] = 0;
      for (Index t = 0; t < l.T; ++t) offsets[t + 1] = offsets[t] + l.batch_sizes[t];
    }
    std::memset(zeros, 0, static_cast<std::size_t>(max(l.H, l.R) + kWidth<T>) * sizeof(T));
    divide_rows(partition.by_units ? 1 : partition.threads);
  }
  bool projected() const { return l.w_hr != nullptr; }
  Index batch(Index t) const { return l.batch_sizes ? l.batch_sizes[t] : l.B; }
  Index offset(Index t) const { return l.batch_sizes ? offsets[t] : t * l.B; }
  // The time of step s of the sweep, and the times of steps [s0, s1) as an interval.
  Index time(Index s) const { return l.reverse ? l.T - 1 - s : s; }
  Index first_time(Index s0, Index s1) const { return l.reverse ? l.T - s1 : s0; }
  Index first_row(Index s0, Index s1) const { return offset(first_time(s0, s1)); }
  Index rows_in(Index s0, Index s1) const {
    const Index t = first_time(s0, s1);
    return (l.batch_sizes ? offsets[t + (s1 - s0)] : (t + s1 - s0) * l.B) - offset(t);
  }
  Index max_rows(Index steps) const { return min(steps * l.B, l.rows); }

  // Assigns sequences to n threads; packed sequences so that each thread gets about as many steps.
  void divide_rows(int n) {
    Index b = 0, done = 0, t = l.T;
    for (int i = 0; i <= n; ++i) {
      if (!l.batch_sizes) {
        shards[i] = l.B * i / n;
        continue;
      }
      while (b < l.B && done < l.rows * i / n) {
        while (t > 0 && l.batch_sizes[t - 1] <= b) --t;  // t: the length of sequence b
        done += t;
        ++b;
      }
      shards[i] = i == n ? l.B : b;
    }
  }
  Shard shard(const Groups<T>& groups, const Team& team, int thread) const {
    const int n = team.size();
    const Index count = groups.count();
    if (n == 1) return {0, l.B, 0, count};  // alone, whatever the partition was made for
    if (partition.by_units) return {0, l.B, count * thread / n, count * (thread + 1) / n};
    return {shards[thread], shards[thread + 1], 0, count};
  }
  static const T* at(const void* p) { return static_cast<const T*>(p); }
  static T* at(void* p) { return static_cast<T*>(p); }
};

// Copies rows of `width` numbers, or zeros where there is nothing to copy from.
template <class T>
void copy_rows(T* to, Index to_stride, const T* from, Index from_stride, Index width, Index b0, Index b1) {
  const std::size_t bytes = static_cast<std::size_t>(width) * sizeof(T);
  for (Index b = b0; b < b1; ++b) {
    if (from) std::memcpy(to + b * to_stride, from + b * from_stride, bytes);
    else std::memset(to + b * to_stride, 0, bytes);
  }
}

// Packs this thread's part of the panels of W (K x columns) whose row k is row(k).
template <class T, class Row> void pack_panels(T* to, Row row, Index columns, Index K, int thread, int n) {
  const Index panels = ceil_div(columns, kPanel<T>);
  for (Index p = panels * thread / n; p < panels * (thread + 1) / n; ++p)
    pack_rows<T>(
        to + p * kPanel<T> * K, [&](Index k) { return row(k) + p * kPanel<T>; }, K,
        min(kPanel<T>, columns - p * kPanel<T>));
}

// Packs this thread's part of the panels of W^T, W (columns x K) as it lies.
template <class T> void pack_panels_transposed(T* to, const T* w, Index columns, Index K, int thread, int n) {
  const T* source[kPanel<T>];
  const Index panels = ceil_div(columns, kPanel<T>);
  for (Index p = panels * thread / n; p < panels * (thread + 1) / n; ++p) {
    for (Index j = 0; j < kPanel<T>; ++j)
      source[j] = p * kPanel<T> + j < columns ? w + (p * kPanel<T> + j) * K : nullptr;
    pack_transposed<T>(to + p * kPanel<T> * K, source, K);
  }
}

// ---- products of one step --------------------------------------------------------------------------------

template <class T> Index groups_at_once(Index rows) { return rows <= 2 ? 4 : rows <= 4 ? 2 : 1; }

// The sums of groups [q0, q1) for rows [b0, b1) of A, a batch of rows at a time; each batch goes to
// after(b0, b1, group, sums, stride) while it is in the cache.
template <class T, class After> RG_INLINE void grouped_product(const Groups<T>& groups, Index q0, Index q1, const T* a,
                                                               Index lda, Index b0, Index b1, const T* w, Index K,
                                                               T* sums, After after) {
  const Index at_once = groups_at_once<T>(b1 - b0);
  for (Index q = q0; q < q1; q += at_once) {
    const Index end = min(q + at_once, q1);
    const Index p0 = groups.panels_before(q), panels = groups.panels_before(end) - p0, stride = panels * kPanel<T>;
    const Index batch = ceil_div(b1 - b0, ceil_div(b1 - b0, kRowBatch));
    for (Index b = b0; b < b1; b += batch) {
      const Index rows = min(batch, b1 - b);
      product<T>(sums, stride, a + b * lda, lda, rows, w + p0 * K * kPanel<T>, panels, K, false);
      for (Index i = q; i < end; ++i) after(b, b + rows, i, sums + (groups.panels_before(i) - p0) * kPanel<T>, stride);
    }
  }
}
template <class T> Index sums_size_for(Index B, Index gates) {
  const Index rows = min(B, kRowBatch);
  return max(rows * gates, min(rows, 4) * 4 * gates) * kPanel<T>;
}

// Calls run(first row, rows, distance between them) so that all rows of sequences [r0, r1) in steps [s0, s1) are
// covered, in as few and as large blocks as their layout allows.
template <class T, class Run>
RG_INLINE void rows_of_chunk(const Pass<T>& p, Index s0, Index s1, Index r0, Index r1, Run run) {
  const Layer& l = p.l;
  if (r0 == 0 && r1 == l.B) {  // all of them
    run(p.first_row(s0, s1), p.rows_in(s0, s1), Index{1});
  } else if (!l.batch_sizes && s1 - s0 >= kRows) {  // sequence by sequence, its steps B rows apart: full tiles
    for (Index b = r0; b < r1; ++b) run(p.first_row(s0, s1) + b, s1 - s0, l.B);
  } else {
    const Index t0 = p.first_time(s0, s1);
    for (Index t = t0; t < t0 + (s1 - s0); ++t) {
      const Index last = min(r1, p.batch(t));
      if (last > r0) run(p.offset(t) + r0, last - r0, Index{1});
    }
  }
}

}  // namespace RETROGRADE_SET
}  // namespace retrograde
