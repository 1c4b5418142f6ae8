// One layer in one direction, forward and backward through time.
//
// Forward, for a chunk of steps: X = x W_ih^T + b for all its rows as one product, then step by step
// h_t = cell(X_t, W_hh h_{t-1}). Backward, for a chunk of steps from the last: step by step the gradients d_t of
// the sums before the activations, then dE/dW_ih += d^T x, dE/dW_hh += d^T h_{t-1} and dE/dx = d W_ih as one product
// each. A chunk is what stays in the cache between the step that writes it and the product that reads it.
//
// Threads share a sweep in one of two ways: each takes some rows of the batch through all steps and meets the others
// only at the end of a chunk; or, where rows are few or the weights large, each takes some units of all rows and
// meets the others after every step.
#pragma once
#include "cells.hpp"
#include "pool.hpp"

namespace retrograde {
namespace RETROGRADE_SET {

constexpr Index kRowBatch = 8 * kRows;  // rows whose sums are held between a product and its activations

// ---- the division of labour ------------------------------------------------------------------------------

struct Division {
  int threads = 1;
  bool by_units = false;
};

// Processor cycles of one step's product of `rows` rows by `panels` panels over K, from measured throughputs:
// multiply-adds, loads from the first cache, and the weights' way from the cache they fit in.
template <class T> double step_cycles(double rows, double panels, double K) {
  const double bytes = panels * K * kPanel<T> * sizeof(T), panel_bytes = kPanel<T> * sizeof(T);
  const double stream = panel_bytes / (bytes < 40e3 ? 100.0 : bytes < 1.6e6 ? 40.0 : 5.5);
  double per_k = rows * 1.15;
  per_k = per_k > (2 + rows) * 0.55 ? per_k : (2 + rows) * 0.55;
  per_k = per_k > stream ? per_k : stream;
  return panels * (K * per_k + 60);
}

template <class T> Division divide(int threads, Index T_, Index B, Index panels, Index units, Index K, Index gates) {
  if (threads < 2 || T_ == 0 || B == 0) return {};
  const double activation = 30.0 * static_cast<double>(gates) * static_cast<double>(units) / kWidth<T>;
  const double rows = static_cast<double>(B), p = static_cast<double>(panels), k = static_cast<double>(K);
  // a barrier, and the others' numbers fetched from their caches
  const double meet = 900 + 1.2 * static_cast<double>(B * gates * units);
  const double alone = step_cycles<T>(rows, p, k) + activation * rows;
  const int by_rows = static_cast<int>(smaller(threads, B)), by_units = static_cast<int>(smaller(threads, parts(units, kPanel<T>)));
  const double share = static_cast<double>(parts(B, by_rows));
  const double rows_cost = by_rows > 1 ? step_cycles<T>(share, p, k) + activation * share : 1e300;
  const double units_cost = by_units > 1 ? step_cycles<T>(rows, static_cast<double>(parts(panels, by_units)), k) +
                                               activation * rows / by_units + meet
                                         : 1e300;
  Division best;
  double cost = alone * 0.9;
  if (rows_cost < cost) best = {by_rows, false}, cost = rows_cost;
  if (units_cost < cost) best = {by_units, true}, cost = units_cost;
  const double saved = (alone - cost) * static_cast<double>(T_);
  return saved > 30e3 ? best : Division{};  // waking the others takes 10 microseconds
}

// Where things lie in the scratch memory: laid out once to know the size, once more with the memory.
class Room {
 public:
  explicit Room(char* base) : base_(base) {}
  template <class T> T* take(Index n) {
    const std::size_t at = used_;
    used_ += (static_cast<std::size_t>(n) * sizeof(T) + 127) / 128 * 128;
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }
  std::size_t used() const { return used_; }

 private:
  char* base_;
  std::size_t used_ = 0;
};

// A row length that is no multiple of the cache's period, so that rows do not crowd the same sets.
template <class T> Index padded(Index n) {
  const Index line = 64 / sizeof(T);
  n = parts(n, kWidth<T>) * kWidth<T>;
  return parts(n, line) % 2 ? n + 2 * line : n + line;
}

// The units of a layer in groups of a panel's width (the last may be half as wide), so that all gates of a group
// are computed together: a group's columns are its units for the first gate, then for the second, ...
template <class T> struct Groups {
  Index units, gates;
  Index count() const { return parts(units, kPanel<T>); }
  Index first(Index q) const { return q * kPanel<T>; }
  Index width(Index q) const { return units - first(q) > kWidth<T> ? kPanel<T> : kWidth<T>; }
  Index panels_of(Index q) const { return parts(gates * width(q), kPanel<T>); }
  Index panels_before(Index q) const { return q < count() ? q * gates : panels(); }
  Index panels() const { return count() ? (count() - 1) * gates + panels_of(count() - 1) : 0; }
};

// What both passes know of the layer.
template <class T> struct Pass {
  const Layer& l;
  Index G, D;  // gates; numbers kept per unit
  Index* offsets = nullptr;  // packed: the first row of each step
  Index* shard = nullptr;    // by rows: thread i has the sequences [shard[i], shard[i + 1])
  T* zeros = nullptr;        // the initial state where none is given
  Division division;

  explicit Pass(const Layer& layer) : l(layer), G(gates_of(layer.cell)), D(kept_of(layer.cell)) {}

  void take(Room& room) {
    if (l.batch_sizes) offsets = room.take<Index>(l.T + 1);
    shard = room.take<Index>(division.threads + 1);
    zeros = room.take<T>(larger(l.H, l.R) + kWidth<T>);
  }
  void begin() {
    if (l.batch_sizes) {
      offsets[0] = 0;
      for (Index t = 0; t < l.T; ++t) offsets[t + 1] = offsets[t] + l.batch_sizes[t];
    }
    std::memset(zeros, 0, static_cast<std::size_t>(larger(l.H, l.R) + kWidth<T>) * sizeof(T));
    divide_rows(division.by_units ? 1 : division.threads);
  }
  Index batch(Index t) const { return l.batch_sizes ? l.batch_sizes[t] : l.B; }
  Index offset(Index t) const { return l.batch_sizes ? offsets[t] : t * l.B; }
  // The time of the s-th step taken, and the times of the steps [s0, s1) as an interval.
  Index time(Index s) const { return l.reverse ? l.T - 1 - s : s; }
  Index first_time(Index s0, Index s1) const { return l.reverse ? l.T - s1 : s0; }
  Index first_row(Index s0, Index s1) const { return offset(first_time(s0, s1)); }
  Index rows_in(Index s0, Index s1) const {
    const Index t = first_time(s0, s1);
    return (l.batch_sizes ? offsets[t + (s1 - s0)] : (t + s1 - s0) * l.B) - offset(t);
  }
  Index most_rows(Index steps) const { return smaller(steps * l.B, l.rows); }

  // Sequences to threads, as even in steps as their lengths allow.
  void divide_rows(int n) {
    Index b = 0, done = 0, t = l.T;
    for (int i = 0; i <= n; ++i) {
      if (!l.batch_sizes) {
        shard[i] = l.B * i / n;
        continue;
      }
      while (b < l.B && done < l.rows * i / n) {
        while (t > 0 && l.batch_sizes[t - 1] <= b) --t;  // t: the length of sequence b
        done += t;
        ++b;
      }
      shard[i] = i == n ? l.B : b;
    }
  }
  static const T* at(const void* p) { return static_cast<const T*>(p); }
  static T* at(void* p) { return static_cast<T*>(p); }
};

struct Share {
  Index r0, r1;  // sequences
  Index q0, q1;  // groups of units
};

template <class T> Index groups_at_once(Index rows) { return rows <= 2 ? 4 : rows <= 4 ? 2 : 1; }

// sums of groups [q0, q1) for rows [b0, b1) of A, and what is done with them, a batch of rows at a time
template <class T, class After>
RG_INLINE void grouped_product(const Groups<T>& groups, Index q0, Index q1, const T* a, Index lda, Index b0, Index b1,
                               const T* w, Index K, T* sums, After after) {
  const Index together = groups_at_once<T>(b1 - b0);
  for (Index q = q0; q < q1; q += together) {
    const Index end = smaller(q + together, q1);
    const Index p0 = groups.panels_before(q), panels = groups.panels_before(end) - p0, stride = panels * kPanel<T>;
    const Index batch = parts(b1 - b0, parts(b1 - b0, kRowBatch));
    for (Index b = b0; b < b1; b += batch) {
      const Index rows = smaller(batch, b1 - b);
      product<T>(sums, stride, a + b * lda, lda, rows, w + p0 * K * kPanel<T>, panels, K, false);
      for (Index i = q; i < end; ++i)
        after(b, b + rows, i, sums + (groups.panels_before(i) - p0) * kPanel<T>, stride);
    }
  }
}
template <class T> Index sums_room(Index B, Index gates) {
  const Index rows = smaller(B, kRowBatch);
  return larger(rows * gates, smaller(rows, 4) * 4 * gates) * kPanel<T>;
}

// Rows to product where the rows of one thread are a few of every step.
template <class T, class Run> RG_INLINE void rows_of_chunk(const Pass<T>& p, Index s0, Index s1, Index r0, Index r1, Run run) {
  const Layer& l = p.l;
  if (r0 == 0 && r1 == l.B) {  // all of them
    run(p.first_row(s0, s1), p.rows_in(s0, s1), Index{1});
  } else if (!l.batch_sizes && s1 - s0 >= kRows) {  // sequence by sequence, its steps B rows apart: full tiles
    for (Index b = r0; b < r1; ++b) run(p.first_row(s0, s1) + b, s1 - s0, l.B);
  } else {
    const Index t0 = p.first_time(s0, s1);
    for (Index t = t0; t < t0 + (s1 - s0); ++t) {
      const Index last = smaller(r1, p.batch(t));
      if (last > r0) run(p.offset(t) + r0, last - r0, Index{1});
    }
  }
}

// ---- forward ---------------------------------------------------------------------------------------------

template <class T, Cell C> struct Forward : Pass<T> {
  using P = Pass<T>;
  using P::D;
  using P::G;
  using P::l;
  static constexpr bool kLstm = C == Cell::kLstm;
  Groups<T> groups, out_groups;
  Index ldh, ldc, ldr, steps, x_stride;
  T *w_ih, *w_hh, *w_hr, *bias, *h[2], *c, *raw, *x_chunk, *sums, *blocks;
  Index sums_size;

  explicit Forward(const Layer& layer) : P(layer), groups{layer.H, gates_of(C)}, out_groups{layer.R, 1} {
    ldh = padded<T>(l.R);
    ldc = padded<T>(l.H);
    ldr = padded<T>(l.H);
    steps = chunk_steps(l);
    x_stride = (l.gates ? D : G) * l.H;
  }
  bool projected() const { return l.w_hr != nullptr; }

  void take(Room& room, bool own_chunk = true) {
    P::take(room);
    w_ih = room.take<T>(parts(G * l.H, kPanel<T>) * kPanel<T> * l.I);
    w_hh = room.take<T>(groups.panels() * kPanel<T> * l.R);
    w_hr = projected() ? room.take<T>(out_groups.panels() * kPanel<T> * l.H) : nullptr;
    bias = room.take<T>(parts(G * l.H, kPanel<T>) * kPanel<T>);
    for (T*& state : h) state = room.take<T>(l.B * ldh + kPanel<T>);
    c = kLstm ? room.take<T>(l.B * ldc + kPanel<T>) : nullptr;
    raw = projected() ? room.take<T>(l.B * ldr + kPanel<T>) : nullptr;
    x_chunk = own_chunk && !l.gates ? room.take<T>(P::most_rows(steps) * G * l.H + kPanel<T>) : nullptr;
    sums_size = larger(sums_room<T>(l.B, G), sums_room<T>(l.B, 1)) + 16;
    sums = room.take<T>(sums_size * P::division.threads);
    blocks = room.take<T>(kBlockRoom<T> * P::division.threads);
  }
  T* block_room(int thread) const { return blocks + thread * kBlockRoom<T>; }

  // The share of packing that falls to one thread of n.
  void pack(int thread, int n) {
    const T* source[kPanel<T>];
    const Index columns = G * l.H, panels = parts(columns, kPanel<T>);
    for (Index p = panels * thread / n; p < panels * (thread + 1) / n; ++p) {
      for (Index j = 0; j < kPanel<T>; ++j) {
        const Index column = p * kPanel<T> + j;
        source[j] = column < columns ? P::at(l.w_ih) + column * l.I : nullptr;
      }
      pack_transposed<T>(w_ih + p * kPanel<T> * l.I, source, l.I);
    }
    for (Index q = groups.count() * thread / n; q < groups.count() * (thread + 1) / n; ++q) {
      const Index width = groups.width(q), u0 = groups.first(q);
      for (Index p = 0; p < groups.panels_of(q); ++p) {
        for (Index j = 0; j < kPanel<T>; ++j) {
          const Index column = p * kPanel<T> + j, g = column / width, u = u0 + column % width;
          source[j] = g < G && u < l.H ? P::at(l.w_hh) + (g * l.H + u) * l.R : nullptr;
        }
        pack_transposed<T>(w_hh + (groups.panels_before(q) + p) * kPanel<T> * l.R, source, l.R);
      }
    }
    if (projected())
      for (Index p = out_groups.panels() * thread / n; p < out_groups.panels() * (thread + 1) / n; ++p) {
        for (Index j = 0; j < kPanel<T>; ++j) {
          const Index column = p * kPanel<T> + j;
          source[j] = column < l.R ? P::at(l.w_hr) + column * l.H : nullptr;
        }
        pack_transposed<T>(w_hr + p * kPanel<T> * l.H, source, l.H);
      }
    if (thread == 0)
      for (Index i = 0; i < panels * kPanel<T>; ++i) {
        const bool hidden = C != Cell::kGru || i < 2 * l.H;  // the GRU's b_hn lies inside r * (...)
        bias[i] = i >= columns ? T(0)
                               : (l.b_ih ? P::at(l.b_ih)[i] : T(0)) + (hidden && l.b_hh ? P::at(l.b_hh)[i] : T(0));
      }
  }

  // The state before step s of sequences [r0, r1): the initial one, or what an earlier pass has left.
  void set_state(Index s, Index r0, Index r1, const T* kept_cells) {
    const Index before = s > 0 ? smaller(P::batch(P::time(s - 1)), P::batch(P::time(s))) : 0;
    for (Index b = r0; b < r1; ++b) {
      const T* from = b < before ? P::at(l.out) + (P::offset(P::time(s - 1)) + b) * l.out_stride
                      : l.h_0    ? P::at(l.h_0) + b * l.R
                                 : P::zeros;
      for (T* state : h) std::memcpy(state + b * ldh, from, static_cast<std::size_t>(l.R) * sizeof(T));
      if (kLstm) {
        const T* cell = b < before && kept_cells ? kept_cells + b * l.H : l.c_0 ? P::at(l.c_0) + b * l.H : P::zeros;
        std::memcpy(c + b * ldc, cell, static_cast<std::size_t>(l.H) * sizeof(T));
      }
    }
  }

  // X for the rows of a thread, into x, whose first row is the chunk's.
  void input_product(int thread, Index s0, Index s1, Index r0, Index r1, T* x) {
    const Index first = P::first_row(s0, s1);
    rows_of_chunk(*this, s0, s1, r0, r1, [&](Index row, Index rows, Index apart) {
      product_exact<T>(x + (row - first) * x_stride, x_stride * apart, P::at(l.x) + row * l.x_stride, l.x_stride * apart,
                       rows, w_ih, G * l.H, l.I, false, bias, block_room(thread));
    });
  }

  // Steps [s0, s1) for a thread's share; x and cells begin with the chunk's first row.
  void sweep(Team& team, int thread, const Share& mine, Index s0, Index s1, T* x, bool keep, T* cells, bool write_out) {
    T* const own = sums + thread * sums_size;
    const Index first = P::first_row(s0, s1);
    const bool together = P::division.by_units;
    for (Index s = s0; s < s1; ++s) {
      const Index t = P::time(s), row = P::offset(t), r1 = smaller(mine.r1, P::batch(t));
      ForwardStep<T> step{};
      step.H = l.H;
      step.x = x + (row - first) * x_stride;
      step.x_stride = x_stride;
      step.keep = keep;
      step.h_prev = h[s % 2];
      step.h_next = projected() ? raw : h[1 - s % 2];
      step.h_stride = projected() ? ldr : ldh;
      step.out = projected() || !write_out ? nullptr : P::at(l.out) + row * l.out_stride;
      step.out_stride = l.out_stride;
      step.c = c;
      step.c_stride = ldc;
      step.c_keep = cells ? cells + (row - first) * l.H : nullptr;
      step.b_hn = C == Cell::kGru && l.b_hh ? P::at(l.b_hh) + 2 * l.H : nullptr;
      if (r1 > mine.r0)
        grouped_product<T>(groups, mine.q0, mine.q1, h[s % 2], ldh, mine.r0, r1, w_hh, l.R, own,
                           [&](Index b0, Index b1, Index q, const T* sum, Index stride) {
                             forward_units<T, C>(step, b0, b1, groups.first(q), groups.width(q), sum, stride,
                                                 groups.width(q));
                           });
      if (together) team.barrier();
      if (projected()) {  // h_t = W_hr (o * tanh(c))
        const Index n = out_groups.count();
        const Index q0 = together ? n * thread / team.size() : 0, q1 = together ? n * (thread + 1) / team.size() : n;
        T* const next = h[1 - s % 2];
        T* const out = write_out ? P::at(l.out) + row * l.out_stride : nullptr;
        if (r1 > mine.r0)
          grouped_product<T>(out_groups, q0, q1, raw, ldr, mine.r0, r1, w_hr, l.H, own,
                             [&](Index b0, Index b1, Index q, const T* sum, Index stride) {
                               const Index u = out_groups.first(q), n_ = smaller(kPanel<T>, l.R - u);
                               const std::size_t bytes = static_cast<std::size_t>(n_) * sizeof(T);
                               for (Index b = b0; b < b1; ++b, sum += stride) {
                                 std::memcpy(next + b * ldh + u, sum, bytes);
                                 if (out) std::memcpy(out + b * l.out_stride + u, sum, bytes);
                               }
                             });
        if (together) team.barrier();
      }
    }
  }

  Share share(Team& team, int thread) const {
    const int n = team.size();
    if (n == 1) return {0, l.B, 0, groups.count()};  // alone, whatever the division was made for
    if (P::division.by_units)
      return {0, l.B, groups.count() * thread / n, groups.count() * (thread + 1) / n};
    return {P::shard[thread], P::shard[thread + 1], 0, groups.count()};
  }

  void run(Team& team, int thread) {
    const FlushSubnormals flush;
    const int n = team.size();
    const Share mine = share(team, thread);
    pack(thread, n);
    set_state(0, l.B * thread / n, l.B * (thread + 1) / n, nullptr);
    team.barrier();
    const bool everything = l.gates != nullptr;
    for (Index s0 = 0; s0 < l.T; s0 += steps) {
      const Index s1 = smaller(l.T, s0 + steps), first = P::first_row(s0, s1);
      T* x = everything ? P::at(l.gates) + first * x_stride : x_chunk;
      // packed sequences lie elsewhere in every chunk: others may still read what this thread is about to overwrite
      if (l.batch_sizes && !everything && s0 > 0) team.barrier();
      if (P::division.by_units) {
        const Index rows = P::rows_in(s0, s1), b0 = rows * thread / n, b1 = rows * (thread + 1) / n;
        product_exact<T>(x + b0 * x_stride, x_stride, P::at(l.x) + (first + b0) * l.x_stride, l.x_stride, b1 - b0, w_ih,
                         G * l.H, l.I, false, bias, block_room(thread));
      } else {
        input_product(thread, s0, s1, mine.r0, mine.r1, x);
      }
      if (kLstm && l.segment && s0 > 0 && s0 % l.segment == 0) keep_cells(s0 / l.segment, mine);
      if (P::division.by_units) team.barrier();
      T* cells = kLstm && everything ? P::at(l.cells) + first * l.H : nullptr;
      sweep(team, thread, mine, s0, s1, x, everything && D > 1, cells, true);
    }
    team.barrier();
    finish(l.B * thread / n, l.B * (thread + 1) / n);
  }

  // c before the first step of a segment
  void keep_cells(Index segment, const Share& mine) {
    const Index u0 = groups.first(mine.q0), u1 = smaller(l.H, groups.first(mine.q1));
    for (Index b = mine.r0; b < mine.r1 && u1 > u0; ++b)
      std::memcpy(P::at(l.cells) + (segment * l.B + b) * l.H + u0, c + b * ldc + u0,
                  static_cast<std::size_t>(u1 - u0) * sizeof(T));
  }

  // The last state of each sequence is its output at the last step it took part in.
  void finish(Index r0, Index r1) {
    Index t = l.T;
    for (Index b = r0; b < r1; ++b) {
      while (t > 0 && P::batch(t - 1) <= b) --t;  // t: the length of sequence b
      const T* from = t == 0 ? h[0] + b * ldh : P::at(l.out) + (P::offset(l.reverse ? 0 : t - 1) + b) * l.out_stride;
      std::memcpy(P::at(l.h_n) + b * l.R, from, static_cast<std::size_t>(l.R) * sizeof(T));
      if (kLstm) std::memcpy(P::at(l.c_n) + b * l.H, c + b * ldc, static_cast<std::size_t>(l.H) * sizeof(T));
    }
  }
};

// ---- backward --------------------------------------------------------------------------------------------

template <class T, Cell C> struct Backward : Pass<T> {
  using P = Pass<T>;
  using P::D;
  using P::G;
  using P::l;
  static constexpr bool kLstm = C == Cell::kLstm, kGru = C == Cell::kGru;
  Groups<T> groups, out_groups;
  Index steps, segment, ldd, ldp, ldk, hidden_from;
  T *w_ih, *w_hh, *w_hr, *carry, *d[2], *dp, *raw, *sums, *outer, *partial;
  const T** h_rows[2];
  Index sums_size;
  Forward<T, C>* again = nullptr;  // recomputes a segment
  T *gates_again = nullptr, *cells_again = nullptr;

  explicit Backward(const Layer& layer) : P(layer), groups{layer.H, 1}, out_groups{layer.R, 1} {
    steps = chunk_steps(l);
    segment = l.segment ? l.segment : l.T;
    ldd = padded<T>(D * l.H);
    ldp = padded<T>(l.R);
    ldk = padded<T>(l.H);
    // GRU rows of d are [n r z h_n]: W_hh meets the last three, W_ih the first three
    hidden_from = kGru ? l.H : 0;
  }
  bool projected() const { return l.w_hr != nullptr; }
  bool recomputes() const { return l.segment != 0 && (kLstm || kGru); }

  void take(Room& room) {
    P::take(room);
    w_hh = room.take<T>(out_groups.panels() * kPanel<T> * G * l.H);
    w_ih = l.grad_x ? room.take<T>(parts(l.I, kPanel<T>) * kPanel<T> * G * l.H) : nullptr;
    w_hr = projected() ? room.take<T>(groups.panels() * kPanel<T> * l.R) : nullptr;
    carry = kLstm || kGru ? room.take<T>(l.B * ldk + kPanel<T>) : nullptr;
    const Index rows = P::most_rows(steps);
    for (T*& buffer : d) buffer = room.take<T>(rows * ldd + kPanel<T>);
    dp = projected() ? room.take<T>(rows * ldp + kPanel<T>) : nullptr;
    raw = projected() ? room.take<T>(rows * ldk + kPanel<T>) : nullptr;
    for (const T**& list : h_rows) list = room.take<const T*>(rows);
    sums_size = sums_room<T>(l.B, 1) + 16;
    sums = room.take<T>(sums_size * P::division.threads);
    outer = room.take<T>(kOuterRoom<T> * P::division.threads);
    partial = room.take<T>(D * l.H + kPanel<T>);
    if (recomputes()) {
      gates_again = room.take<T>(P::most_rows(segment) * D * l.H + kPanel<T>);
      if (kLstm) cells_again = room.take<T>(P::most_rows(segment) * l.H + kPanel<T>);
    }
  }

  void pack(int thread, int n) {
    const auto panels_packed = [&](T* to, Index columns, Index K, auto row) {
      const Index panels = parts(columns, kPanel<T>);
      for (Index p = panels * thread / n; p < panels * (thread + 1) / n; ++p)
        pack_rows<T>(to + p * kPanel<T> * K, [&](Index k) { return row(k) + p * kPanel<T>; }, K,
                     smaller(kPanel<T>, columns - p * kPanel<T>));
    };
    panels_packed(w_hh, l.R, G * l.H, [&](Index k) { return P::at(l.w_hh) + k * l.R; });
    if (l.grad_x)
      panels_packed(w_ih, l.I, G * l.H, [&](Index k) {
        if (kGru) k = k < l.H ? 2 * l.H + k : k - l.H;  // n, r, z
        return P::at(l.w_ih) + k * l.I;
      });
    if (projected()) panels_packed(w_hr, l.H, l.R, [&](Index k) { return P::at(l.w_hr) + k * l.H; });
  }

  // sums = grad_h_n for rows whose last step this is
  void last_state(Index b0, Index b1, Index u, Index width, T* sum, Index stride) const {
    const Index n = smaller(width, l.R - u);
    for (Index b = b0; b < b1; ++b, sum += stride)
      for (Index j = 0; j < width; ++j)
        sum[j] = l.grad_h_n && j < n ? P::at(l.grad_h_n)[b * l.R + u + j] : T(0);
  }

  // dE/dh_t of rows [b0, b1) as far as it comes from later steps, then after(b0, b1, group, sums, stride)
  template <class After>
  RG_INLINE void recurrent(Index q0, Index q1, Index b0, Index b1, Index rows_next, const T* d_next, T* own, After after) {
    const Index middle = larger(b0, smaller(b1, rows_next));
    if (middle > b0)
      grouped_product<T>(out_groups, q0, q1, d_next + hidden_from, ldd, b0, middle, w_hh, G * l.H, own, after);
    for (Index b = middle; b < b1; b += kRowBatch)
      for (Index q = q0; q < q1; ++q) {
        const Index end = smaller(b1, b + kRowBatch);
        last_state(b, end, out_groups.first(q), out_groups.width(q), own, kPanel<T>);
        after(b, end, q, own, kPanel<T>);
      }
  }

  // dE/dh_0 of sequences [b0, b1), whose first step was the one that left d_next
  void first_state(Index q0, Index q1, Index b0, Index b1, const T* d_next, T* own) {
    if (!l.grad_h_0 || b1 <= b0) return;
    grouped_product<T>(out_groups, q0, q1, d_next + hidden_from, ldd, b0, b1, w_hh, G * l.H, own,
                       [&](Index c0, Index c1, Index q, const T* sum, Index stride) {
                         const Index u = out_groups.first(q), n = smaller(out_groups.width(q), l.R - u);
                         for (Index b = c0; b < c1; ++b, sum += stride)
                           for (Index j = 0; j < n; ++j)
                             P::at(l.grad_h_0)[b * l.R + u + j] = sum[j] + (kGru ? carry[b * ldk + u + j] : T(0));
                       });
  }

  struct Kept {  // the gates and cells of a run of steps
    const T *gates, *cells;
    Index first;        // the row they begin with
    const T* cells_before;  // c before the first step; null: c_0
    Index first_step;
  };

  void sweep(Team& team, int thread, const Share& mine, const Share& mine_out, Index s0, Index s1, T* chunk,
             const T** met, const T* d_next, const Kept& kept) {
    T* const own = sums + thread * sums_size;
    const Index first = P::first_row(s0, s1);
    const bool together = P::division.by_units;
    for (Index s = s1 - 1; s >= s0; --s) {
      const Index t = P::time(s), row = P::offset(t), rows = P::batch(t), r1 = smaller(mine.r1, rows);
      const Index rows_next = s + 1 < l.T ? P::batch(P::time(s + 1)) : 0;
      const Index rows_before = s > 0 ? smaller(rows, P::batch(P::time(s - 1))) : 0;
      const Index row_before = s > 0 ? P::offset(P::time(s - 1)) : 0;
      first_state(mine_out.q0, mine_out.q1, larger(mine.r0, rows), smaller(mine.r1, rows_next), d_next, own);
      BackwardStep<T> step{};
      step.H = l.H;
      step.gates = kept.gates ? kept.gates + (row - kept.first) * D * l.H : nullptr;
      step.gates_stride = D * l.H;
      step.grad_out = l.grad_out ? P::at(l.grad_out) + row * l.grad_out_stride : nullptr;
      step.grad_out_stride = l.grad_out_stride;
      step.h = P::at(l.out) + row * l.out_stride;
      step.h_stride = l.out_stride;
      step.rows_before = rows_before;
      step.h_before = P::at(l.out) + row_before * l.out_stride;
      step.h_before_stride = l.out_stride;
      step.h_0 = l.h_0 ? P::at(l.h_0) : P::zeros;
      step.h_0_stride = l.h_0 ? l.R : 0;
      if (kLstm) {
        step.c = kept.cells + (row - kept.first) * l.H;
        step.c_before = s > kept.first_step ? kept.cells + (row_before - kept.first) * l.H : kept.cells_before;
        step.c_stride = l.H;
        step.c_0 = l.c_0 ? P::at(l.c_0) : P::zeros;
        step.c_0_stride = l.c_0 ? l.H : 0;
      }
      step.d = chunk + (row - first) * ldd;
      step.d_stride = ldd;
      step.carry = carry;
      step.carry_stride = ldk;
      step.h_raw = projected() ? raw + (row - first) * ldk : nullptr;
      step.h_raw_stride = ldk;
      // the rows that W_hh met, for its gradient
      const Index f0 = together ? l.B * thread / team.size() : mine.r0, f1 = together ? l.B * (thread + 1) / team.size() : mine.r1;
      for (Index b = f0; b < smaller(f1, rows); ++b)
        met[row - first + b] =
            b < rows_before ? step.h_before + b * l.out_stride : step.h_0 + b * step.h_0_stride;
      if (!projected()) {
        if (r1 > mine.r0)
          recurrent(mine.q0, mine.q1, mine.r0, r1, rows_next, d_next, own,
                    [&](Index b0, Index b1, Index q, const T* sum, Index stride) {
                      backward_units<T, C>(step, b0, b1, groups.first(q), groups.width(q), sum, stride);
                    });
      } else if constexpr (kLstm) {
        T* const dh = dp + (row - first) * ldp;
        if (r1 > mine.r0)
          recurrent(mine_out.q0, mine_out.q1, mine.r0, r1, rows_next, d_next, own,
                    [&](Index b0, Index b1, Index q, const T* sum, Index stride) {
                      const Index u = out_groups.first(q), n = smaller(out_groups.width(q), l.R - u);
                      for (Index b = b0; b < b1; ++b, sum += stride)
                        for (Index j = 0; j < n; ++j)
                          dh[b * ldp + u + j] =
                              sum[j] + (step.grad_out ? step.grad_out[b * step.grad_out_stride + u + j] : T(0));
                    });
        if (together) team.barrier();
        step.grad_out = nullptr;
        if (r1 > mine.r0)
          grouped_product<T>(groups, mine.q0, mine.q1, dh, ldp, mine.r0, r1, w_hr, l.R, own,
                             [&](Index b0, Index b1, Index q, const T* sum, Index stride) {
                               backward_units<T, C>(step, b0, b1, groups.first(q), groups.width(q), sum, stride);
                             });
      }
      if (together) team.barrier();
      d_next = step.d;
    }
  }

  void input_gradient(int thread, Index row, Index rows, Index apart, Index first, const T* chunk) {
    product_exact<T>(P::at(l.grad_x) + row * l.grad_x_stride, l.grad_x_stride * apart,
                     chunk + (row - first) * ldd, ldd * apart, rows, w_ih, l.I, G * l.H, l.grad_x_add,
                     nullptr, outer + thread * kOuterRoom<T>);
  }

  // The weights' gradients over one chunk's rows; this thread's part of each.
  void weight_gradients(int thread, int n, Index first, Index rows, const T* chunk, const T* const* met, bool add) {
    T* const room = outer + thread * kOuterRoom<T>;
    const auto part = [&](void* gradient, Index ld, Index rows_of_it, Index N, const T* a, Index lda, auto row) {
      if (!gradient) return;
      outer_product<T>(P::at(gradient), ld, a, lda, row, rows_of_it * thread / n, rows_of_it * (thread + 1) / n, N, rows,
                       add, room);
    };
    const auto input_row = [&](Index k) { return P::at(l.x) + (first + k) * l.x_stride; };
    const auto state_row = [&](Index k) { return met[k]; };
    const Index H = l.H;
    if (kGru) {
      part(l.grad_w_ih, l.I, 2 * H, l.I, chunk + H, ldd, input_row);
      part(l.grad_w_ih ? P::at(l.grad_w_ih) + 2 * H * l.I : nullptr, l.I, H, l.I, chunk, ldd, input_row);
    } else {
      part(l.grad_w_ih, l.I, G * H, l.I, chunk, ldd, input_row);
    }
    part(l.grad_w_hh, l.R, G * H, l.R, chunk + hidden_from, ldd, state_row);
    if (projected()) part(l.grad_w_hr, H, l.R, H, dp, ldp, [&](Index k) { return static_cast<const T*>(raw + k * ldk); });
    if (l.grad_b || l.grad_b_hh) {
      const Index columns = D * H;
      bias_gradient(columns * thread / n, columns * (thread + 1) / n, rows, chunk, add);
    }
  }

  // Sums of the columns [j0, j1) of d, a few hundred rows at a time.
  void bias_gradient(Index j0, Index j1, Index rows, const T* chunk, bool add) {
    const Index H = l.H;
    for (Index k0 = 0; k0 < larger(rows, 1); k0 += kDepth) {
      const Index k1 = smaller(rows, k0 + kDepth);
      for (Index j = j0; j < j1; ++j) partial[j] = T(0);
      for (Index k = k0; k < k1; ++k) {
        const T* from = chunk + k * ldd;
#pragma GCC ivdep
        for (Index j = j0; j < j1; ++j) partial[j] += from[j];
      }
      const bool more = add || k0 > 0;
      for (Index j = j0; j < j1; ++j) {
        const auto give = [&](void* to, Index i) {
          if (to) P::at(to)[i] = more ? P::at(to)[i] + partial[j] : partial[j];
        };
        if (!kGru) {
          give(l.grad_b, j);
        } else {
          if (j < H) give(l.grad_b, 2 * H + j);
          else if (j < 3 * H) give(l.grad_b, j - H);
          if (j >= H) give(l.grad_b_hh, j - H);
        }
      }
    }
  }

  Share share(const Groups<T>& of, Team& team, int thread) const {
    const int n = team.size();
    if (n == 1) return {0, l.B, 0, of.count()};
    if (P::division.by_units) return {0, l.B, of.count() * thread / n, of.count() * (thread + 1) / n};
    return {P::shard[thread], P::shard[thread + 1], 0, of.count()};
  }

  void run(Team& team, int thread) {
    const FlushSubnormals flush;
    const int n = team.size();
    const bool together = P::division.by_units;
    const Share mine = share(groups, team, thread), mine_out = share(out_groups, team, thread);
    pack(thread, n);
    if (again) again->pack(thread, n);
    for (Index b = l.B * thread / n; carry && b < l.B * (thread + 1) / n; ++b)
      for (Index u = 0; u < ldk; ++u)
        carry[b * ldk + u] = kLstm && l.grad_c_n && u < l.H ? P::at(l.grad_c_n)[b * l.H + u] : T(0);
    team.barrier();
    int which = 0;
    bool add = false;
    const T* d_next = nullptr;
    for (Index g1 = l.T; g1 > 0;) {
      const Index g0 = (g1 - 1) / segment * segment;
      Kept kept{P::at(l.gates), P::at(l.cells), 0, nullptr, 0};
      if (recomputes()) {
        kept = {gates_again, cells_again, P::first_row(g0, g1),
                kLstm && g0 > 0 ? P::at(l.cells) + g0 / segment * l.B * l.H : nullptr, g0};
        if (together) team.barrier();  // the others may still read the segment before
        recompute(team, thread, g0, g1, kept.cells_before);
      }
      for (Index s1 = g1; s1 > g0;) {
        const Index s0 = larger(g0, (s1 - 1) / steps * steps), first = P::first_row(s0, s1), rows = P::rows_in(s0, s1);
        T* const chunk = d[which];
        sweep(team, thread, mine, mine_out, s0, s1, chunk, h_rows[which], d_next, kept);
        if (l.grad_x && !together)
          rows_of_chunk(*this, s0, s1, mine.r0, mine.r1,
                        [&](Index row, Index count, Index apart) { input_gradient(thread, row, count, apart, first, chunk); });
        team.barrier();
        if (l.grad_x && together)
          input_gradient(thread, first + rows * thread / n, rows * (thread + 1) / n - rows * thread / n, 1, first, chunk);
        weight_gradients(thread, n, first, rows, chunk, h_rows[which], add);
        if (projected()) team.barrier();  // dp and raw are single
        add = true;
        d_next = chunk + (P::offset(P::time(s0)) - first) * ldd;
        which = 1 - which;
        s1 = s0;
      }
      g1 = g0;
    }
    const Index started = l.T > 0 ? P::batch(P::time(0)) : 0;
    T* const own = sums + thread * sums_size;
    first_state(mine_out.q0, mine_out.q1, mine.r0, smaller(mine.r1, started), d_next, own);
    team.barrier();
    if (l.T == 0) nothing(thread, n);
    if (kLstm && l.grad_c_0)
      for (Index b = l.B * thread / n; b < l.B * (thread + 1) / n; ++b)
        std::memcpy(P::at(l.grad_c_0) + b * l.H, carry + b * ldk, static_cast<std::size_t>(l.H) * sizeof(T));
  }

  void recompute(Team& team, int thread, Index g0, Index g1, const T* cells_before) {
    const int n = team.size();
    const Share mine = again->share(team, thread);
    again->set_state(g0, l.B * thread / n, l.B * (thread + 1) / n, cells_before);
    team.barrier();
    for (Index s0 = g0; s0 < g1; s0 += steps) {
      const Index s1 = smaller(g1, s0 + steps), first = P::first_row(s0, s1) - P::first_row(g0, g1);
      T* const x = gates_again + first * D * l.H;
      if (P::division.by_units) {
        const Index rows = P::rows_in(s0, s1), b0 = rows * thread / n, b1 = rows * (thread + 1) / n;
        product_exact<T>(x + b0 * again->x_stride, again->x_stride,
                         P::at(l.x) + (P::first_row(s0, s1) + b0) * l.x_stride, l.x_stride, b1 - b0, again->w_ih, G * l.H,
                         l.I, false, again->bias, again->block_room(thread));
        team.barrier();
      } else {
        again->input_product(thread, s0, s1, mine.r0, mine.r1, x);
      }
      again->sweep(team, thread, mine, s0, s1, x, true, kLstm ? cells_again + first * l.H : nullptr, false);
    }
  }

  // A sequence of no steps: the gradients of the states pass through, the others are zero.
  void nothing(int thread, int n) {
    if (thread == 0) weight_gradients(0, 1, 0, 0, nullptr, nullptr, false);
    if (l.grad_h_0)
      for (Index b = l.B * thread / n; b < l.B * (thread + 1) / n; ++b)
        for (Index u = 0; u < l.R; ++u)
          P::at(l.grad_h_0)[b * l.R + u] = l.grad_h_n ? P::at(l.grad_h_n)[b * l.R + u] : T(0);
  }
};

// ---- entry -----------------------------------------------------------------------------------------------

// One step of a few sequences: nothing is packed, since each weight is met once.
template <class T, Cell C> void forward_once(const Layer& l) {
  const Index G = gates_of(C), columns = G * l.H, B = l.B;
  const Index ld = padded<T>(columns), ldh = padded<T>(larger(l.H, l.R));
  const bool gru = C == Cell::kGru, lstm = C == Cell::kLstm, projected = l.w_hr != nullptr;
  Lease lease(columns * (l.I + l.R) > 400000 ? l.threads : 1);
  T *x, *sum, *h_0, *h, *c;
  const auto lay = [&](Room room) {
    x = room.take<T>(B * ld + kPanel<T>);
    sum = room.take<T>(B * ld + kPanel<T>);
    h_0 = room.take<T>(B * ldh + kPanel<T>);
    h = room.take<T>(B * ldh + kPanel<T>);
    c = room.take<T>(B * ldh + kPanel<T>);
    return room.used();
  };
  lay(Room(static_cast<char*>(scratch_memory(lay(Room(nullptr))))));
  const auto copy = [&](T* to, Index ldt, const void* from, Index width) {
    for (Index b = 0; b < B; ++b) {
      if (from) std::memcpy(to + b * ldt, static_cast<const T*>(from) + b * width, static_cast<std::size_t>(width) * sizeof(T));
      else std::memset(to + b * ldt, 0, static_cast<std::size_t>(width) * sizeof(T));
    }
  };
  copy(h_0, ldh, l.h_0, l.R);
  if (lstm) copy(c, ldh, l.c_0, l.H);
  T* const gates = static_cast<T*>(l.gates);
  const Index gates_stride = kept_of(C) * l.H, x_stride = gates ? gates_stride : ld;
  if (gates) x = gates;
  const T *b_ih = static_cast<const T*>(l.b_ih), *b_hh = static_cast<const T*>(l.b_hh);
  T* const out = static_cast<T*>(l.out);
  auto region = [&](Team& team, int thread) {
    const FlushSubnormals flush;
    const Index n = team.size(), n0 = columns * thread / n, n1 = columns * (thread + 1) / n;
    const Index inner = gru ? 2 * l.H : columns;  // the GRU's b_hn lies inside r * (...)
    const auto inputs = [&](Index from, Index to, const T* second) {
      if (to > from)
        dot_product<T>(x, x_stride, static_cast<const T*>(l.x), l.x_stride, B, static_cast<const T*>(l.w_ih), from, to,
                       l.I, b_ih, second);
    };
    inputs(n0, smaller(n1, inner), b_hh);
    inputs(larger(n0, inner), n1, nullptr);
    dot_product<T>(sum, ld, h_0, ldh, B, static_cast<const T*>(l.w_hh), n0, n1, l.R);
    team.barrier();
    if (thread == 0) {
      ForwardStep<T> step{};
      step.H = l.H;
      step.x = x;
      step.x_stride = x_stride;
      step.keep = gates != nullptr && kept_of(C) > 1;
      step.h_prev = h_0;
      step.h_next = h;
      step.h_stride = ldh;
      step.out = projected ? nullptr : out;
      step.out_stride = l.out_stride;
      step.c = c;
      step.c_stride = ldh;
      step.c_keep = lstm ? static_cast<T*>(l.cells) : nullptr;
      step.b_hn = gru && b_hh ? b_hh + 2 * l.H : nullptr;
      forward_units<T, C>(step, 0, B, 0, l.H, sum, ld, l.H);
    }
    if (projected) {
      team.barrier();
      dot_product<T>(out, l.out_stride, h, ldh, B, static_cast<const T*>(l.w_hr), l.R * thread / n,
                     l.R * (thread + 1) / n, l.H);
      team.barrier();
    }
    if (thread == 0)
      for (Index b = 0; b < B; ++b) {
        const auto bytes = [](Index width) { return static_cast<std::size_t>(width) * sizeof(T); };
        std::memcpy(static_cast<T*>(l.h_n) + b * l.R, out + b * l.out_stride, bytes(l.R));
        if (lstm) std::memcpy(static_cast<T*>(l.c_n) + b * l.H, c + b * ldh, bytes(l.H));
      }
  };
  lease.run(lease.size(), region);
  release_scratch();
}

template <class T, Cell C> void forward(const Layer& l) {
  if (l.T == 1 && l.B > 0 && l.B <= kDotRows && !l.batch_sizes && l.segment == 0) return forward_once<T, C>(l);
  Lease lease(l.threads);
  Forward<T, C> pass(l);
  pass.division = divide<T>(lease.size(), l.T, l.B, pass.groups.panels(), l.H, l.R, gates_of(C));
  Room measure(nullptr);
  pass.take(measure);
  Room room(static_cast<char*>(scratch_memory(measure.used())));
  pass.take(room);
  pass.begin();
  const auto bytes = [&](Index n) { return static_cast<std::size_t>(n) * sizeof(T); };
  expect_writes(l.out, bytes(l.rows * l.out_stride));
  expect_writes(l.gates, bytes(l.rows * pass.D * l.H));
  if (!l.segment) expect_writes(l.cells, bytes(l.rows * l.H));
  auto region = [&](Team& team, int thread) { pass.run(team, thread); };
  lease.run(pass.division.threads, region);
  release_scratch();
}

template <class T, Cell C> void backward(const Layer& l) {
  Lease lease(l.threads);
  Backward<T, C> pass(l);
  pass.division = divide<T>(lease.size(), l.T, l.B, pass.out_groups.panels(), l.H, gates_of(C) * l.H, gates_of(C));
  Layer without_gates = l;
  without_gates.gates = nullptr;
  Forward<T, C> again(without_gates);
  again.x_stride = pass.D * l.H;
  again.division = pass.division;
  const auto take = [&](Room& room) {
    pass.take(room);
    if (pass.recomputes()) again.take(room, false);
  };
  Room measure(nullptr);
  take(measure);
  Room room(static_cast<char*>(scratch_memory(measure.used())));
  take(room);
  pass.begin();
  if (pass.recomputes()) {
    again.begin();
    pass.again = &again;
  }
  const auto bytes = [&](Index n) { return static_cast<std::size_t>(n) * sizeof(T); };
  if (!l.grad_x_add) expect_writes(l.grad_x, bytes(l.rows * l.grad_x_stride));
  expect_writes(l.grad_w_ih, bytes(pass.G * l.H * l.I));
  expect_writes(l.grad_w_hh, bytes(pass.G * l.H * l.R));
  auto region = [&](Team& team, int thread) { pass.run(team, thread); };
  lease.run(pass.division.threads, region);
  release_scratch();
}

}  // namespace RETROGRADE_SET
}  // namespace retrograde
