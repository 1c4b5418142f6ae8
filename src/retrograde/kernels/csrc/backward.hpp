// One layer in one direction, backward. Read sweep.hpp first, then forward.hpp.
#pragma once
#include "forward.hpp"

namespace retrograde {
namespace RETROGRADE_SET {

template <class T, Cell C> struct Backward : Pass<T> {
  using P = Pass<T>;
  using P::D;
  using P::G;
  using P::l;
  static constexpr bool kLstm = C == Cell::kLstm, kGru = C == Cell::kGru;
  Groups<T> groups, out_groups;
  Index steps, segment, ldd, ldp, ldk;
  Index hidden_from;  // a GRU's d is [n r z h_n]: W_ih uses the first three, W_hh the last three
  T *w_ih, *w_hh, *w_hr;
  T *carry, *d[2], *dp, *raw, *sums, *outer, *partial;
  const T** h_rows[2];  // the state before each row of a chunk
  Index sums_size;
  Forward<T, C>* recomputation = nullptr;  // computes a segment's gates again
  T *gates_again = nullptr, *cells_again = nullptr;

  explicit Backward(const Layer& layer) : P(layer), groups{layer.H, 1}, out_groups{layer.R, 1} {
    steps = chunk_steps(l);
    segment = l.segment ? l.segment : l.T;
    ldd = padded<T>(D * l.H);
    ldp = padded<T>(l.R);
    ldk = padded<T>(l.H);
    hidden_from = kGru ? l.H : 0;
  }
  bool recomputes() const { return l.segment != 0 && (kLstm || kGru); }

  void allocate(Arena& arena) {
    P::allocate(arena);
    w_hh = arena.allocate<T>(out_groups.panels() * kPanel<T> * G * l.H);
    w_ih = l.grad_x ? arena.allocate<T>(ceil_div(l.I, kPanel<T>) * kPanel<T> * G * l.H) : nullptr;
    w_hr = P::projected() ? arena.allocate<T>(groups.panels() * kPanel<T> * l.R) : nullptr;
    carry = kLstm || kGru ? arena.allocate<T>(l.B * ldk + kPanel<T>) : nullptr;
    const Index rows = P::max_rows(steps);
    for (T*& buffer : d) buffer = arena.allocate<T>(rows * ldd + kPanel<T>);
    dp = P::projected() ? arena.allocate<T>(rows * ldp + kPanel<T>) : nullptr;
    raw = P::projected() ? arena.allocate<T>(rows * ldk + kPanel<T>) : nullptr;
    for (const T**& list : h_rows) list = arena.allocate<const T*>(rows);
    sums_size = sums_size_for<T>(l.B, 1) + 16;
    sums = arena.allocate<T>(sums_size * P::partition.threads);
    outer = arena.allocate<T>(kOuterWorkspace<T> * P::partition.threads);
    partial = arena.allocate<T>(D * l.H + kPanel<T>);
    if (recomputes()) {
      gates_again = arena.allocate<T>(P::max_rows(segment) * D * l.H + kPanel<T>);
      if (kLstm) cells_again = arena.allocate<T>(P::max_rows(segment) * l.H + kPanel<T>);
    }
  }

  void pack(int thread, int n) {
    const auto rows_of = [](const void* w, Index width) { return [=](Index k) { return P::at(w) + k * width; }; };
    pack_panels<T>(w_hh, rows_of(l.w_hh, l.R), l.R, G * l.H, thread, n);
    if (P::projected()) pack_panels<T>(w_hr, rows_of(l.w_hr, l.H), l.H, l.R, thread, n);
    const auto input_row = [&](Index k) {
      if (kGru) k = k < l.H ? 2 * l.H + k : k - l.H;  // n, r, z
      return P::at(l.w_ih) + k * l.I;
    };
    if (l.grad_x) pack_panels<T>(w_ih, input_row, l.I, G * l.H, thread, n);
  }

  // sums = grad_h_n, for rows whose last step this is
  void last_state(Index b0, Index b1, Index u, Index width, T* sum, Index stride) const {
    const Index n = min(width, l.R - u);
    for (Index b = b0; b < b1; ++b, sum += stride)
      for (Index j = 0; j < width; ++j) sum[j] = l.grad_h_n && j < n ? P::at(l.grad_h_n)[b * l.R + u + j] : T(0);
  }

  // dE/dh_t of rows [b0, b1) as far as it comes from later steps, then after(b0, b1, group, sums, stride)
  template <class After>
  RG_INLINE void recurrent(const Shard& mine, Index b1, Index rows_next, const T* d_next, T* own, After after) {
    if (b1 <= mine.r0) return;
    const Index middle = max(mine.r0, min(b1, rows_next));
    if (middle > mine.r0)
      grouped_product<T>(out_groups, mine.q0, mine.q1, d_next + hidden_from, ldd, mine.r0, middle, w_hh, G * l.H, own,
                         after);
    for (Index b = middle; b < b1; b += kRowBatch)
      for (Index q = mine.q0; q < mine.q1; ++q) {
        const Index end = min(b1, b + kRowBatch);
        last_state(b, end, out_groups.first(q), out_groups.width(q), own, kPanel<T>);
        after(b, end, q, own, kPanel<T>);
      }
  }

  // dE/dh_0 of sequences [b0, b1), whose first step was the one that left d_next
  void first_state(Index q0, Index q1, Index b0, Index b1, const T* d_next, T* own) {
    if (!l.grad_h_0 || b1 <= b0) return;
    grouped_product<T>(out_groups, q0, q1, d_next + hidden_from, ldd, b0, b1, w_hh, G * l.H, own,
                       [&](Index c0, Index c1, Index q, const T* sum, Index stride) {
                         const Index u = out_groups.first(q), n = min(out_groups.width(q), l.R - u);
                         for (Index b = c0; b < c1; ++b, sum += stride)
                           for (Index j = 0; j < n; ++j)
                             P::at(l.grad_h_0)[b * l.R + u + j] = sum[j] + (kGru ? carry[b * ldk + u + j] : T(0));
                       });
  }

  struct Kept {  // the gates and cells of a run of steps
    const T *gates, *cells;
    Index first;            // the row they begin with
    const T* cells_before;  // c before the first step; null: c_0
    Index first_step;
  };

  // Where the rows of step s lie; `first` is the first row of its chunk.
  BackwardStep<T> step_at(Index s, Index first, T* chunk, const Kept& kept) const {
    const Index t = P::time(s), row = P::offset(t), row_before = s > 0 ? P::offset(P::time(s - 1)) : 0;
    BackwardStep<T> step{};
    step.H = l.H;
    step.gates = kept.gates ? kept.gates + (row - kept.first) * D * l.H : nullptr;
    step.gates_stride = D * l.H;
    step.grad_out = l.grad_out ? P::at(l.grad_out) + row * l.grad_out_stride : nullptr;
    step.grad_out_stride = l.grad_out_stride;
    step.h = P::at(l.out) + row * l.out_stride;
    step.h_stride = l.out_stride;
    step.rows_before = s > 0 ? min(P::batch(t), P::batch(P::time(s - 1))) : 0;
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
    step.h_raw = P::projected() ? raw + (row - first) * ldk : nullptr;
    step.h_raw_stride = ldk;
    return step;
  }

  // Steps [s0, s1) from the last: d of a thread's shard, and which state entered each row.
  void sweep(Team& team, int thread, const Shard& mine, const Shard& mine_out, Index s0, Index s1, T* chunk,
             const T** h_row, const T* d_next, const Kept& kept) {
    T* const own = sums + thread * sums_size;
    const Index first = P::first_row(s0, s1);
    const bool by_units = P::partition.by_units;
    // each row's state is looked up by one thread, also where all threads compute all rows
    const Index f0 = by_units ? l.B * thread / team.size() : mine.r0;
    const Index f1 = by_units ? l.B * (thread + 1) / team.size() : mine.r1;
    for (Index s = s1 - 1; s >= s0; --s) {
      const Index t = P::time(s), row = P::offset(t), rows = P::batch(t), r1 = min(mine.r1, rows);
      const Index rows_next = s + 1 < l.T ? P::batch(P::time(s + 1)) : 0;
      first_state(mine_out.q0, mine_out.q1, max(mine.r0, rows), min(mine.r1, rows_next), d_next, own);
      BackwardStep<T> step = step_at(s, first, chunk, kept);
      for (Index b = f0; b < min(f1, rows); ++b)
        h_row[row - first + b] =
            b < step.rows_before ? step.h_before + b * l.out_stride : step.h_0 + b * step.h_0_stride;
      const auto units = [&](Index b0, Index b1, Index q, const T* sum, Index stride) {
        backward_units<T, C>(step, b0, b1, groups.first(q), groups.width(q), sum, stride);
      };
      if (!P::projected()) {
        recurrent(mine, r1, rows_next, d_next, own, units);
      } else if constexpr (kLstm) {
        T* const dh = dp + (row - first) * ldp;
        projected_gradient(mine_out, step, r1, rows_next, d_next, dh, own);
        if (by_units) team.barrier();
        step.grad_out = nullptr;
        if (r1 > mine.r0) grouped_product<T>(groups, mine.q0, mine.q1, dh, ldp, mine.r0, r1, w_hr, l.R, own, units);
      }
      if (by_units) team.barrier();
      d_next = step.d;
    }
  }

  // dE/dh_t, h_t the projected state: what enters W_hr^T on the way to the cell.
  void projected_gradient(const Shard& mine, const BackwardStep<T>& step, Index r1, Index rows_next, const T* d_next,
                          T* dh, T* own) {
    recurrent(mine, r1, rows_next, d_next, own, [&](Index b0, Index b1, Index q, const T* sum, Index stride) {
      const Index u = out_groups.first(q), n = min(out_groups.width(q), l.R - u);
      for (Index b = b0; b < b1; ++b, sum += stride)
        for (Index j = 0; j < n; ++j)
          dh[b * ldp + u + j] = sum[j] + (step.grad_out ? step.grad_out[b * step.grad_out_stride + u + j] : T(0));
    });
  }

  // dE/dx of `rows` rows from `row` on, `distance` rows apart.
  void input_gradient(int thread, Index row, Index rows, Index distance, Index first, const T* chunk) {
    product_exact<T>(P::at(l.grad_x) + row * l.grad_x_stride, l.grad_x_stride * distance, chunk + (row - first) * ldd,
                     ldd * distance, rows, w_ih, l.I, G * l.H, l.grad_x_add, nullptr,
                     outer + thread * kOuterWorkspace<T>);
  }

  // The weights' gradients over one chunk's rows; this thread's part of each.
  void weight_gradients(int thread, int n, Index first, Index rows, const T* chunk, const T* const* h_row, bool add) {
    T* const workspace = outer + thread * kOuterWorkspace<T>;
    const auto part = [&](void* gradient, Index ld, Index rows_of_it, Index N, const T* a, Index lda, auto row) {
      if (!gradient) return;
      outer_product<T>(P::at(gradient), ld, a, lda, row, rows_of_it * thread / n, rows_of_it * (thread + 1) / n, N,
                       rows, add, workspace);
    };
    const auto input_row = [&](Index k) { return P::at(l.x) + (first + k) * l.x_stride; };
    const auto state_row = [&](Index k) { return h_row[k]; };
    const auto raw_row = [&](Index k) { return static_cast<const T*>(raw + k * ldk); };
    const Index H = l.H;
    if (kGru) {
      part(l.grad_w_ih, l.I, 2 * H, l.I, chunk + H, ldd, input_row);
      part(l.grad_w_ih ? P::at(l.grad_w_ih) + 2 * H * l.I : nullptr, l.I, H, l.I, chunk, ldd, input_row);
    } else {
      part(l.grad_w_ih, l.I, G * H, l.I, chunk, ldd, input_row);
    }
    part(l.grad_w_hh, l.R, G * H, l.R, chunk + hidden_from, ldd, state_row);
    if (P::projected()) part(l.grad_w_hr, H, l.R, H, dp, ldp, raw_row);
    if (l.grad_b || l.grad_b_hh) {
      const Index columns = D * H;
      bias_gradient(columns * thread / n, columns * (thread + 1) / n, rows, chunk, add);
    }
  }

  // Sums of the columns [j0, j1) of d, a few hundred rows at a time.
  void bias_gradient(Index j0, Index j1, Index rows, const T* chunk, bool add) {
    const Index H = l.H;
    for (Index k0 = 0; k0 < max(rows, 1); k0 += kDepth) {
      const Index k1 = min(rows, k0 + kDepth);
      for (Index j = j0; j < j1; ++j) partial[j] = T(0);
      for (Index k = k0; k < k1; ++k) {
        const T* from = chunk + k * ldd;
#pragma GCC ivdep
        for (Index j = j0; j < j1; ++j) partial[j] += from[j];
      }
      const bool more = add || k0 > 0;
      for (Index j = j0; j < j1; ++j) {
        const auto write = [&](void* to, Index i) {
          if (to) P::at(to)[i] = more ? P::at(to)[i] + partial[j] : partial[j];
        };
        if (!kGru) {
          write(l.grad_b, j);
        } else {
          if (j < H) write(l.grad_b, 2 * H + j);
          else if (j < 3 * H) write(l.grad_b, j - H);
          if (j >= H) write(l.grad_b_hh, j - H);
        }
      }
    }
  }

  void run(Team& team, int thread) {
    const FlushSubnormals flush;
    const int n = team.size();
    const Shard mine_out = P::shard(out_groups, team, thread);
    const Index b0 = l.B * thread / n, b1 = l.B * (thread + 1) / n;
    pack(thread, n);
    if (recomputation) recomputation->pack(thread, n);
    if (carry) {
      copy_rows<T>(carry, ldk, nullptr, 0, ldk, b0, b1);
      if (kLstm && l.grad_c_n) copy_rows<T>(carry, ldk, P::at(l.grad_c_n), l.H, l.H, b0, b1);
    }
    team.barrier();
    int which = 0;
    const T* d_next = nullptr;
    for (Index g1 = l.T; g1 > 0;) {
      const Index g0 = (g1 - 1) / segment * segment;
      Kept kept{P::at(l.gates), P::at(l.cells), 0, nullptr, 0};
      if (recomputes()) {
        kept = {gates_again, cells_again, P::first_row(g0, g1),
                kLstm && g0 > 0 ? P::at(l.cells) + g0 / segment * l.B * l.H : nullptr, g0};
        if (P::partition.by_units) team.barrier();  // the others may still read the segment before
        recompute(team, thread, g0, g1, kept.cells_before);
      }
      for (Index s1 = g1; s1 > g0;) {
        const Index s0 = max(g0, (s1 - 1) / steps * steps);
        d_next = chunk_gradients(team, thread, mine_out, s0, s1, which, d_next, kept);
        which = 1 - which;
        s1 = s0;
      }
      g1 = g0;
    }
    const Index started = l.T > 0 ? P::batch(P::time(0)) : 0;
    first_state(mine_out.q0, mine_out.q1, mine_out.r0, min(mine_out.r1, started), d_next, sums + thread * sums_size);
    team.barrier();
    if (l.T == 0) zero_steps(thread, n);
    if (kLstm && l.grad_c_0) copy_rows<T>(P::at(l.grad_c_0), l.H, carry, ldk, l.H, b0, b1);
  }

  // Sweeps over steps [s0, s1), then does their large products; returns d of the first of them.
  const T* chunk_gradients(Team& team, int thread, const Shard& mine_out, Index s0, Index s1, int which,
                           const T* d_next, const Kept& kept) {
    const int n = team.size();
    const Shard mine = P::shard(groups, team, thread);
    const Index first = P::first_row(s0, s1), rows = P::rows_in(s0, s1);
    T* const chunk = d[which];
    sweep(team, thread, mine, mine_out, s0, s1, chunk, h_rows[which], d_next, kept);
    if (l.grad_x && !P::partition.by_units)
      rows_of_chunk(*this, s0, s1, mine.r0, mine.r1, [&](Index row, Index count, Index distance) {
        input_gradient(thread, row, count, distance, first, chunk);
      });
    team.barrier();
    if (l.grad_x && P::partition.by_units) {
      const Index k0 = rows * thread / n, k1 = rows * (thread + 1) / n;
      input_gradient(thread, first + k0, k1 - k0, 1, first, chunk);
    }
    weight_gradients(thread, n, first, rows, chunk, h_rows[which], s1 < l.T);
    if (P::projected()) team.barrier();  // there is one dp and one raw
    return chunk + (P::offset(P::time(s0)) - first) * ldd;
  }

  // The gates and cells of steps [g0, g1), from the states that the forward pass kept.
  void recompute(Team& team, int thread, Index g0, Index g1, const T* cells_before) {
    const int n = team.size();
    const Shard mine = recomputation->shard(recomputation->groups, team, thread);
    recomputation->set_state(g0, l.B * thread / n, l.B * (thread + 1) / n, cells_before);
    team.barrier();
    for (Index s0 = g0; s0 < g1; s0 += steps) {
      const Index s1 = min(g1, s0 + steps), first = P::first_row(s0, s1) - P::first_row(g0, g1);
      T* const x = gates_again + first * D * l.H;
      recomputation->input_product(team, thread, mine, s0, s1, x);
      recomputation->sweep(team, thread, mine, s0, s1, x, true, kLstm ? cells_again + first * l.H : nullptr, false);
    }
  }

  // A sequence of no steps: the gradients of the final states are those of the initial ones, all others are zero.
  void zero_steps(int thread, int n) {
    if (thread == 0) weight_gradients(0, 1, 0, 0, nullptr, nullptr, false);
    if (l.grad_h_0)
      copy_rows<T>(P::at(l.grad_h_0), l.R, P::at(l.grad_h_n), l.R, l.R, l.B * thread / n, l.B * (thread + 1) / n);
  }
};

template <class T, Cell C> void backward(const Layer& l) {
  TeamLock lock(l.threads);
  Backward<T, C> pass(l);
  pass.partition =
      choose_partition<T>(lock.size(), l.T, l.B, pass.out_groups.panels(), l.H, gates_of(C) * l.H, gates_of(C));
  Layer without_gates = l;
  without_gates.gates = nullptr;
  Forward<T, C> recomputation(without_gates);
  recomputation.x_stride = pass.D * l.H;
  recomputation.partition = pass.partition;
  if (pass.recomputes()) pass.recomputation = &recomputation;
  allocate_scratch([&](Arena& arena) {
    pass.allocate(arena);
    if (pass.recomputes()) recomputation.allocate(arena, false);
  });
  pass.initialize();
  if (pass.recomputes()) recomputation.initialize();
  const auto bytes = [&](Index n) { return static_cast<std::size_t>(n) * sizeof(T); };
  if (!l.grad_x_add) advise_huge_pages(l.grad_x, bytes(l.rows * l.grad_x_stride));
  advise_huge_pages(l.grad_w_ih, bytes(pass.G * l.H * l.I));
  advise_huge_pages(l.grad_w_hh, bytes(pass.G * l.H * l.R));
  auto region = [&](Team& team, int thread) { pass.run(team, thread); };
  lock.run(pass.partition.threads, region);
  release_scratch();
}

}  // namespace RETROGRADE_SET
}  // namespace retrograde
