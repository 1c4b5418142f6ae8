// One layer in one direction, forward. Read sweep.hpp first.
#pragma once
#include "sweep.hpp"

namespace retrograde {
namespace RETROGRADE_SET {

template <class T, Cell C> struct Forward : Pass<T> {
  using P = Pass<T>;
  using P::D;
  using P::G;
  using P::l;
  static constexpr bool kLstm = C == Cell::kLstm;
  Groups<T> groups, out_groups;
  Index ldh, ldc, steps, x_stride;
  T *w_ih, *w_hh, *w_hr, *bias;  // packed
  T *h[2], *c, *raw;             // h[s % 2] enters step s; raw: an LSTM's o * tanh(c) before its projection
  T *x_chunk, *sums, *blocks;
  Index sums_size;

  explicit Forward(const Layer& layer) : P(layer), groups{layer.H, gates_of(C)}, out_groups{layer.R, 1} {
    ldh = padded<T>(l.R);
    ldc = padded<T>(l.H);
    steps = chunk_steps(l);
    x_stride = (l.gates ? D : G) * l.H;
  }

  void allocate(Arena& arena, bool own_chunk = true) {
    P::allocate(arena);
    w_ih = arena.allocate<T>(ceil_div(G * l.H, kPanel<T>) * kPanel<T> * l.I);
    w_hh = arena.allocate<T>(groups.panels() * kPanel<T> * l.R);
    w_hr = P::projected() ? arena.allocate<T>(out_groups.panels() * kPanel<T> * l.H) : nullptr;
    bias = arena.allocate<T>(ceil_div(G * l.H, kPanel<T>) * kPanel<T>);
    for (T*& state : h) state = arena.allocate<T>(l.B * ldh + kPanel<T>);
    c = kLstm ? arena.allocate<T>(l.B * ldc + kPanel<T>) : nullptr;
    raw = P::projected() ? arena.allocate<T>(l.B * ldc + kPanel<T>) : nullptr;
    x_chunk = own_chunk && !l.gates ? arena.allocate<T>(P::max_rows(steps) * G * l.H + kPanel<T>) : nullptr;
    sums_size = max(sums_size_for<T>(l.B, G), sums_size_for<T>(l.B, 1)) + 16;
    sums = arena.allocate<T>(sums_size * P::partition.threads);
    blocks = arena.allocate<T>(kBlockWorkspace<T> * P::partition.threads);
  }

  // The part of the packing that thread `thread` of n does.
  void pack(int thread, int n) {
    pack_panels_transposed<T>(w_ih, P::at(l.w_ih), G * l.H, l.I, thread, n);
    if (P::projected()) pack_panels_transposed<T>(w_hr, P::at(l.w_hr), l.R, l.H, thread, n);
    const T* source[kPanel<T>];
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
    if (thread == 0)
      for (Index i = 0; i < ceil_div(G * l.H, kPanel<T>) * kPanel<T>; ++i) {
        const bool hidden = C != Cell::kGru || i < 2 * l.H;  // the GRU's b_hn is inside r * (...)
        bias[i] =
            i >= G * l.H ? T(0) : (l.b_ih ? P::at(l.b_ih)[i] : T(0)) + (hidden && l.b_hh ? P::at(l.b_hh)[i] : T(0));
      }
  }

  // The state before step s of sequences [r0, r1): the initial one, or what an earlier pass has left.
  void set_state(Index s, Index r0, Index r1, const T* kept_cells) {
    const Index before = s > 0 ? min(P::batch(P::time(s - 1)), P::batch(P::time(s))) : 0;
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

  // X = x W_ih^T + b for this thread's part of steps [s0, s1), into `to`, which begins with the chunk's first row.
  void input_product(Team& team, int thread, const Shard& mine, Index s0, Index s1, T* to) {
    const Index first = P::first_row(s0, s1);
    const auto rows = [&](Index row, Index count, Index distance) {
      product_exact<T>(to + (row - first) * x_stride, x_stride * distance, P::at(l.x) + row * l.x_stride,
                       l.x_stride * distance, count, w_ih, G * l.H, l.I, false, bias,
                       blocks + thread * kBlockWorkspace<T>);
    };
    if (!P::partition.by_units) return rows_of_chunk(*this, s0, s1, mine.r0, mine.r1, rows);
    const Index count = P::rows_in(s0, s1), b0 = count * thread / team.size(), b1 = count * (thread + 1) / team.size();
    rows(first + b0, b1 - b0, 1);
    team.barrier();
  }

  // Steps [s0, s1) of a thread's shard; x and cells begin with the chunk's first row.
  void sweep(Team& team, int thread, const Shard& mine, Index s0, Index s1, T* x, bool keep, T* cells, bool write_out) {
    T* const own = sums + thread * sums_size;
    const Index first = P::first_row(s0, s1);
    for (Index s = s0; s < s1; ++s) {
      const Index t = P::time(s), row = P::offset(t), r1 = min(mine.r1, P::batch(t));
      T* const out = write_out ? P::at(l.out) + row * l.out_stride : nullptr;
      ForwardStep<T> step{};
      step.H = l.H;
      step.x = x + (row - first) * x_stride;
      step.x_stride = x_stride;
      step.keep = keep;
      step.h_prev = h[s % 2];
      step.h_next = P::projected() ? raw : h[1 - s % 2];
      step.h_stride = P::projected() ? ldc : ldh;
      step.out = P::projected() ? nullptr : out;
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
      if (P::partition.by_units) team.barrier();
      if (P::projected()) project(team, thread, mine.r0, r1, h[1 - s % 2], out, own);
    }
  }

  // h_t = W_hr (o * tanh(c)) for sequences [r0, r1).
  void project(Team& team, int thread, Index r0, Index r1, T* next, T* out, T* own) {
    const Shard mine = P::shard(out_groups, team, thread);
    if (r1 > r0)
      grouped_product<T>(out_groups, mine.q0, mine.q1, raw, ldc, r0, r1, w_hr, l.H, own,
                         [&](Index b0, Index b1, Index q, const T* sum, Index stride) {
                           const Index u = out_groups.first(q), n = min(kPanel<T>, l.R - u);
                           const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
                           for (Index b = b0; b < b1; ++b, sum += stride) {
                             std::memcpy(next + b * ldh + u, sum, bytes);
                             if (out) std::memcpy(out + b * l.out_stride + u, sum, bytes);
                           }
                         });
    if (P::partition.by_units) team.barrier();
  }

  void run(Team& team, int thread) {
    const FlushSubnormals flush;
    const int n = team.size();
    const Shard mine = P::shard(groups, team, thread);
    pack(thread, n);
    set_state(0, l.B * thread / n, l.B * (thread + 1) / n, nullptr);
    team.barrier();
    const bool keeps_all = l.gates != nullptr;
    for (Index s0 = 0; s0 < l.T; s0 += steps) {
      const Index s1 = min(l.T, s0 + steps), first = P::first_row(s0, s1);
      T* x = keeps_all ? P::at(l.gates) + first * x_stride : x_chunk;
      // rows of packed sequences move between chunks: others may still read what this thread is about to overwrite
      if (l.batch_sizes && !keeps_all && s0 > 0) team.barrier();
      if (kLstm && l.segment && s0 > 0 && s0 % l.segment == 0) keep_cells(s0 / l.segment, mine);
      input_product(team, thread, mine, s0, s1, x);
      T* cells = kLstm && keeps_all ? P::at(l.cells) + first * l.H : nullptr;
      sweep(team, thread, mine, s0, s1, x, keeps_all && D > 1, cells, true);
    }
    team.barrier();
    finish(l.B * thread / n, l.B * (thread + 1) / n);
  }

  // c before the first step of a segment
  void keep_cells(Index segment, const Shard& mine) {
    const Index u0 = groups.first(mine.q0), u1 = min(l.H, groups.first(mine.q1));
    for (Index b = mine.r0; b < mine.r1 && u1 > u0; ++b)
      std::memcpy(P::at(l.cells) + (segment * l.B + b) * l.H + u0, c + b * ldc + u0,
                  static_cast<std::size_t>(u1 - u0) * sizeof(T));
  }

  // The last state of each sequence is its output at its last step.
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

// One step of a few sequences: nothing is packed, since each weight is read once.
template <class T, Cell C> struct SingleStep {
  const Layer& l;
  const Index G = gates_of(C), columns = G * l.H, B = l.B;
  const Index ld = padded<T>(columns), ldh = padded<T>(max(l.H, l.R));
  T* const gates = static_cast<T*>(l.gates);
  T* const out = static_cast<T*>(l.out);
  Index x_stride = gates ? kept_of(C) * l.H : ld;
  T *x = nullptr, *sum = nullptr, *h_0 = nullptr, *h = nullptr, *c = nullptr;

  void allocate(Arena& arena) {
    x = arena.allocate<T>(B * ld + kPanel<T>);
    sum = arena.allocate<T>(B * ld + kPanel<T>);
    for (T** state : {&h_0, &h, &c}) *state = arena.allocate<T>(B * ldh + kPanel<T>);
  }
  static const T* at(const void* p) { return static_cast<const T*>(p); }

  void products(Index n0, Index n1) {
    const Index inner = C == Cell::kGru ? 2 * l.H : columns;  // the GRU's b_hn is inside r * (...)
    const auto inputs = [&](Index from, Index to, const T* second) {
      if (to > from) dot_product<T>(x, x_stride, at(l.x), l.x_stride, B, at(l.w_ih), from, to, l.I, at(l.b_ih), second);
    };
    inputs(n0, min(n1, inner), at(l.b_hh));
    inputs(max(n0, inner), n1, nullptr);
    dot_product<T>(sum, ld, h_0, ldh, B, at(l.w_hh), n0, n1, l.R);
  }
  void units() {
    ForwardStep<T> step{};
    step.H = l.H;
    step.x = x;
    step.x_stride = x_stride;
    step.keep = gates != nullptr && kept_of(C) > 1;
    step.h_prev = h_0;
    step.h_next = h;
    step.h_stride = ldh;
    step.out = l.w_hr ? nullptr : out;
    step.out_stride = l.out_stride;
    step.c = c;
    step.c_stride = ldh;
    step.c_keep = C == Cell::kLstm ? static_cast<T*>(l.cells) : nullptr;
    step.b_hn = C == Cell::kGru && l.b_hh ? at(l.b_hh) + 2 * l.H : nullptr;
    forward_units<T, C>(step, 0, B, 0, l.H, sum, ld, l.H);
  }
  void run(Team& team, int thread) {
    const FlushSubnormals flush;
    const Index n = team.size();
    products(columns * thread / n, columns * (thread + 1) / n);
    team.barrier();
    if (thread == 0) units();
    if (l.w_hr) {
      team.barrier();
      dot_product<T>(out, l.out_stride, h, ldh, B, at(l.w_hr), l.R * thread / n, l.R * (thread + 1) / n, l.H);
      team.barrier();
    }
    if (thread != 0) return;
    copy_rows<T>(static_cast<T*>(l.h_n), l.R, out, l.out_stride, l.R, 0, B);
    if (C == Cell::kLstm) copy_rows<T>(static_cast<T*>(l.c_n), l.H, c, ldh, l.H, 0, B);
  }
};

template <class T, Cell C> void forward_step(const Layer& l) {
  SingleStep<T, C> step{l};
  TeamLock lock(step.columns * (l.I + l.R) > 400000 ? l.threads : 1);
  allocate_scratch([&](Arena& arena) { step.allocate(arena); });
  copy_rows<T>(step.h_0, step.ldh, step.at(l.h_0), l.R, l.R, 0, l.B);
  if (C == Cell::kLstm) copy_rows<T>(step.c, step.ldh, step.at(l.c_0), l.H, l.H, 0, l.B);
  if (step.gates) step.x = step.gates;
  auto region = [&](Team& team, int thread) { step.run(team, thread); };
  lock.run(lock.size(), region);
  release_scratch();
}

template <class T, Cell C> void forward(const Layer& l) {
  if (l.T == 1 && l.B > 0 && l.B <= kDotRows && !l.batch_sizes && l.segment == 0) return forward_step<T, C>(l);
  TeamLock lock(l.threads);
  Forward<T, C> pass(l);
  pass.partition = choose_partition<T>(lock.size(), l.T, l.B, pass.groups.panels(), l.H, l.R, gates_of(C));
  allocate_scratch([&](Arena& arena) { pass.allocate(arena); });
  pass.initialize();
  const auto bytes = [&](Index n) { return static_cast<std::size_t>(n) * sizeof(T); };
  advise_huge_pages(l.out, bytes(l.rows * l.out_stride));
  advise_huge_pages(l.gates, bytes(l.rows * pass.D * l.H));
  if (!l.segment) advise_huge_pages(l.cells, bytes(l.rows * l.H));
  auto region = [&](Team& team, int thread) { pass.run(team, thread); };
  lock.run(pass.partition.threads, region);
  release_scratch();
}

}  // namespace RETROGRADE_SET
}  // namespace retrograde
