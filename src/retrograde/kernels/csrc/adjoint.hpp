// ‖∂E_t/∂s_k‖ for every pair of steps: the adjoint recursion of a stack of layers, many targets t at once.
//
// D_l[t] = ∂E_t/∂s_{t-l} obeys D_l[t] = J_{t-l+1}^T D_{l-1}[t]. A row (t, b) never meets another one, so a block of
// rows walks through all lags while it stays in the cache, one product with W_hh a lag; an upper layer hands
// ∂E_t/∂x_{t-l} down at the same lag.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "layer.hpp"
#include "pool.hpp"
#include "sweep.hpp"

namespace retrograde {
namespace RETROGRADE_SET {

// Rows whose norm nears the ends of the number range are brought back to 1 by a power of two, which is kept beside
// them: the recursion is linear, so nothing changes but that gradients are followed far below what T can hold.
template <class T> T smallest_norm() { return std::sqrt(std::sqrt(std::numeric_limits<T>::min())); }

// Σ x², and d = x k on the way where there is k; in T's own vectors, and anew in double where that left its range.
template <class T, bool Scales = false> double squares(const T* x, Index n, const T* k = nullptr, T* d = nullptr) {
  constexpr int W = kWidth<T>, chains = 4;  // the sum waits for nothing
  Vec<T> acc[chains] = {};
  Index j = 0;
  for (; j + chains * W <= n; j += chains * W)
#pragma GCC unroll 4
    for (int i = 0; i < chains; ++i) {
      const Vec<T> v = load(x + j + i * W);
      if constexpr (Scales) store(d + j + i * W, v * load(k + j + i * W));
      acc[i] += v * v;
    }
  for (; j < n; j += W) {
    const int rest = static_cast<int>(smaller(W, n - j));
    const Vec<T> v = load_first(x + j, rest);
    if constexpr (Scales) store_first(d + j, v * load_first(k + j, rest), rest);
    acc[0] += v * v;
  }
  acc[0] = (acc[0] + acc[1]) + (acc[2] + acc[3]);
  T lanes[W];
  store(lanes, acc[0]);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  constexpr T least = sizeof(T) == 4 ? T(1e-30) : T(1e-280), most = sizeof(T) == 4 ? T(1e37) : T(1e300);
  if (lanes[0] > least && lanes[0] < most) return static_cast<double>(lanes[0]);
  double sum = 0.0;
  for (j = 0; j < n; ++j) sum += static_cast<double>(x[j]) * static_cast<double>(x[j]);
  return sum;
}

template <class T> struct AdjointWalk {
  const Adjoints& a;
  Index per_block, rows;  // targets and rows of a block
  struct Stored {         // one layer's rows of a block
    Index ld, ldg;
    T *h, *next, *c, *hidden, *inputs, *above;
    std::int32_t *exponent, *above_exponent;
    double* norm;
  };
  T* w_hh[kMostAdjointLayers];
  T* w_ih[kMostAdjointLayers];

  explicit AdjointWalk(const Adjoints& given) : a(given) {
    per_block = larger(1, kRowBatch / 2 / larger(1, a.B));
    rows = per_block * a.B;
  }
  static Index gates(const AdjointLayer& l) { return gates_of(l.cell); }
  static const T* at(const void* p) { return static_cast<const T*>(p); }

  void take_weights(Room& room) {
    for (Index i = 0; i < a.layers; ++i) {
      const AdjointLayer& l = a.layer[i];
      w_hh[i] = room.take<T>(parts(l.H, kPanel<T>) * kPanel<T> * gates(l) * l.H);
      w_ih[i] = i > 0 ? room.take<T>(parts(l.I, kPanel<T>) * kPanel<T> * gates(l) * l.H) : nullptr;
    }
  }
  void take_rows(Room& room, Stored* stored) {
    for (Index i = 0; i < a.layers; ++i) {
      const AdjointLayer& l = a.layer[i];
      Stored& s = stored[i];
      const Index G = gates(l);
      s.ld = padded<T>(parts(l.H, kPanel<T>) * kPanel<T>);
      s.ldg = padded<T>(G * l.H);
      s.h = room.take<T>(rows * s.ld);
      s.next = room.take<T>(rows * s.ld);
      s.c = l.cell == Cell::kLstm ? room.take<T>(rows * s.ld) : nullptr;
      s.hidden = room.take<T>(rows * s.ldg);
      s.inputs = i > 0 && l.cell == Cell::kGru ? room.take<T>(rows * s.ldg) : s.hidden;
      // what this layer receives from the one above is as wide as its own state
      s.above = i + 1 < a.layers ? room.take<T>(rows * s.ld) : nullptr;
      s.exponent = room.take<std::int32_t>(rows);
      s.above_exponent = room.take<std::int32_t>(rows);
      s.norm = room.take<double>(rows);
    }
  }

  void pack(int thread, int n) {
    for (Index i = 0; i < a.layers; ++i) {
      const AdjointLayer& l = a.layer[i];
      const Index K = gates(l) * l.H;
      const auto panels = [&](T* to, const T* w, Index columns) {
        const Index count = parts(columns, kPanel<T>);
        for (Index p = count * thread / n; p < count * (thread + 1) / n; ++p)
          pack_rows<T>(to + p * kPanel<T> * K, [&](Index k) { return w + k * columns + p * kPanel<T>; }, K,
                       smaller(kPanel<T>, columns - p * kPanel<T>));
      };
      panels(w_hh[i], at(l.w_hh), l.H);
      if (i > 0) panels(w_ih[i], at(l.w_ih), l.I);
    }
  }

  // One row of one layer at one lag: its norm, and what goes through the matrices.
  void row(const AdjointLayer& l, Stored& s, Index r, Index from, double* out, bool above) const {
    const Index H = l.H;
    T* const h = s.h + r * s.ld;
    T* const d = s.hidden + r * s.ldg;
    if (above) {
      const T* const g = s.above + r * s.ld;
      const std::int32_t own = s.exponent[r], upper = s.above_exponent[r];
      T factor = T(1);
      if (own != upper) {  // go on in the scale of the larger one; what is zero has none
        const bool no_own = squares(h, H) == 0.0 && (!s.c || squares(s.c + r * s.ld, H) == 0.0);
        s.exponent[r] = no_own ? upper : squares(g, H) == 0.0 || own < upper ? own : upper;
        scale(l, s, r, s.exponent[r] - own);
        factor = static_cast<T>(std::ldexp(1.0, s.exponent[r] - upper));
        if (std::isinf(factor)) factor = T(0);  // nothing comes from above
      }
#pragma GCC ivdep
      for (Index u = 0; u < H; ++u) h[u] += g[u] * factor;
    }
    const bool plain = l.cell == Cell::kTanh || l.cell == Cell::kRelu;
    double of_h = plain ? squares<T, true>(h, H, at(l.k) + from * H, d) : squares(h, H), of_c = 0.0, result = of_h;
    if (l.cell == Cell::kGru) {
      const T* const k = at(l.k) + from * 3 * H;
#pragma GCC ivdep
      for (Index u = 0; u < H; ++u) {
        d[u] = h[u] * k[u];
        d[H + u] = h[u] * k[H + u];
        d[2 * H + u] = h[u] * k[2 * H + u];
      }
      if (s.inputs != s.hidden) {  // they differ in n, where the reset gate lies between
        const T* const k_n = at(l.k_side) + from * H;
        T* const x = s.inputs + r * s.ldg;
        std::memcpy(x, d, static_cast<std::size_t>(2 * H) * sizeof(T));
#pragma GCC ivdep
        for (Index u = 0; u < H; ++u) x[2 * H + u] = h[u] * k_n[u];
      }
    } else if (l.cell == Cell::kLstm) {
      const T *const k = at(l.k) + from * 3 * H, *const k_o = at(l.k_side) + from * H;
      const T *const q = at(l.q) + from * H, *const f = at(l.f) + from * H;
      T* const c = s.c + r * s.ld;
      of_c = squares(c, H);
#pragma GCC ivdep
      for (Index u = 0; u < H; ++u) c[u] += h[u] * q[u];  // ∂E/∂c_k with h_k following c_k
      result = a.state == 0 ? of_h : a.state == 1 ? squares(c, H) : of_h + of_c;
#pragma GCC ivdep
      for (Index u = 0; u < H; ++u) {
        d[u] = c[u] * k[u];
        d[H + u] = c[u] * k[H + u];
        d[2 * H + u] = c[u] * k[2 * H + u];
        d[3 * H + u] = h[u] * k_o[u];
        c[u] *= f[u];
      }
    }
    s.norm[r] = std::sqrt(of_h > of_c ? of_h : of_c);
    *out = s.exponent[r] ? std::ldexp(std::sqrt(result), -s.exponent[r]) : std::sqrt(result);
  }

  static void scale(const AdjointLayer& l, Stored& s, Index r, int power) {
    const T factor = static_cast<T>(std::ldexp(1.0, power));
    if (factor == T(1)) return;
    for (Index u = 0; u < l.H; ++u) s.h[r * s.ld + u] *= factor;
    if (s.c)
      for (Index u = 0; u < l.H; ++u) s.c[r * s.ld + u] *= factor;
  }

  static void rescale(const AdjointLayer& l, Stored& s, Index r) {
    const double low = smallest_norm<T>(), norm = s.norm[r];
    if (!(norm > 0.0) || !std::isfinite(norm) || (norm >= low && norm <= 1.0 / low)) return;
    int exponent;
    std::frexp(norm, &exponent);
    scale(l, s, r, -exponent);
    s.exponent[r] -= exponent;
  }

  void block(Index i0, Index i1, Stored* stored) const {
    const Index B = a.B, count = (i1 - i0) * B;
    for (Index i = 0; i < a.layers; ++i) {
      const AdjointLayer& l = a.layer[i];
      Stored& s = stored[i];
      for (Index r = 0; r < count; ++r) {
        std::memcpy(s.h + r * s.ld, at(l.local) + (a.targets[i0 + r / B] * B + r % B) * l.H,
                    static_cast<std::size_t>(l.H) * sizeof(T));
        if (s.c) std::memset(s.c + r * s.ld, 0, static_cast<std::size_t>(l.H) * sizeof(T));
        s.exponent[r] = 0;
      }
      for (Index j = i0; j < i1; ++j) {  // nothing of E_t at steps after t
        double* const after = l.norms + (j * a.T + a.targets[j] + 1) * B;
        std::fill(after, l.norms + (j + 1) * a.T * B, 0.0);
      }
    }
    const Index last = a.targets[i1 - 1];
    for (Index lag = 0, first = i0; lag <= last; ++lag) {
      while (a.targets[first] < lag) ++first;
      const Index r0 = (first - i0) * B;
      for (Index i = a.layers - 1; i >= 0; --i) {
        const AdjointLayer& l = a.layer[i];
        Stored& s = stored[i];
        const Index K = gates(l) * l.H;
        for (Index j = first, r = r0; j < i1; ++j) {
          const Index from = (a.targets[j] - lag) * B;
          double* const out = l.norms + j * a.T * B + from;
          for (Index b = 0; b < B; ++b, ++r) row(l, s, r, from + b, out + b, i + 1 < a.layers);
        }
        if (i > 0) {
          Stored& lower = stored[i - 1];
          product<T>(lower.above + r0 * lower.ld, lower.ld, s.inputs + r0 * s.ldg, s.ldg, count - r0, w_ih[i],
                     parts(l.I, kPanel<T>), K, false);
          std::memcpy(lower.above_exponent + r0, s.exponent + r0, static_cast<std::size_t>(count - r0) * sizeof(std::int32_t));
        }
        if (lag == last) continue;
        product<T>(s.next + r0 * s.ld, s.ld, s.hidden + r0 * s.ldg, s.ldg, count - r0, w_hh[i], parts(l.H, kPanel<T>), K,
                   false);
        if (l.pass)
          for (Index j = first, r = r0; j < i1; ++j) {
            const T* p = at(l.pass) + (a.targets[j] - lag) * B * l.H;
            for (Index b = 0; b < B; ++b, ++r, p += l.H) {
              T *const to = s.next + r * s.ld, *const h = s.h + r * s.ld;
#pragma GCC ivdep
              for (Index u = 0; u < l.H; ++u) to[u] += h[u] * p[u];
            }
          }
        T* const swapped = s.h;
        s.h = s.next;
        s.next = swapped;
        for (Index r = r0; r < count; ++r) rescale(l, s, r);
      }
    }
  }
};

template <class T> void adjoints(const Adjoints& a) {
  AdjointWalk<T> walk(a);
  const Index blocks = parts(a.count, walk.per_block);
  Lease lease(static_cast<int>(smaller(a.threads, larger(1, blocks))));
  Room weights(nullptr), own(nullptr);
  walk.take_weights(weights);
  typename AdjointWalk<T>::Stored nothing[kMostAdjointLayers];
  walk.take_rows(own, nothing);
  const std::size_t per_thread = own.used();
  char* const memory = static_cast<char*>(scratch_memory(weights.used() + per_thread * static_cast<std::size_t>(lease.size())));
  Room room(memory);
  walk.take_weights(room);
  std::atomic<Index> taken{0};
  auto region = [&](Team& team, int thread) {
    const FlushSubnormals flush;
    typename AdjointWalk<T>::Stored stored[kMostAdjointLayers];
    Room mine(memory + weights.used() + per_thread * static_cast<std::size_t>(thread));
    walk.take_rows(mine, stored);
    walk.pack(thread, team.size());
    team.barrier();
    // the last targets have the longest way
    for (Index i; (i = taken.fetch_add(1)) < blocks;) {
      const Index end = a.count - i * walk.per_block;
      walk.block(larger(0, end - walk.per_block), end, stored);
    }
  };
  lease.run(lease.size(), region);
  release_scratch();
}

}  // namespace RETROGRADE_SET
}  // namespace retrograde
