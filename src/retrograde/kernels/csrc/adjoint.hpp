// ‖∂E_t/∂s_k‖ for every pair of steps: the adjoint recursion of a stack of layers, many targets t at once.
//
// ∂E_t/∂s_{k-1} = J_k^T ∂E_t/∂s_k with the same J_k for every t (adjoint_step in naive.cpp has the equations). Rows
// (t, b) are independent of each other, so a block of rows goes from the last step to the first while it stays in the
// cache:
//
//            k = 0 ............................ T-1
//   t = 9    <-------------------------o             o: the row starts at its own t with ∂E_t/∂h_t ("local")
//   t = 6    <-----------------o                     at each step an upper layer adds ∂E_t/∂x_k to the rows of the
//   t = 2    <------o                                layer below
//
// Where many targets share a step, the gates of a GRU or an LSTM are summed once for each (k, b), and the rows are
// multiplied by one matrix instead of one for each gate:
//   GRU   ∂E/∂h_{k-1} = J^T ∂E/∂h_k,                 J^T = Σ_{r,z,n} W_g^T diag(k_g) + diag(pass)
//   LSTM  ∂E/∂h_{k-1} = M^T ∂E/∂c_k + N^T ∂E/∂h_k,   M^T = Σ_{i,f,g} W_g^T diag(k_g),  N^T = W_o^T diag(k_o)
// Where few do, building it would cost more than it saves, and the rows of all sequences are multiplied by W_hh at
// once.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "layer.hpp"
#include "pool.hpp"
#include "sweep.hpp"

namespace retrograde {
namespace RETROGRADE_SET {

// Rows whose norm comes close to the limits of T are scaled back to 1 by a power of two, which is layer_rows in
// `exponent`. The recursion is linear, so the result is the same, and gradients are followed far below T's smallest
// number.
template <class T> T smallest_norm() { return std::sqrt(std::sqrt(std::numeric_limits<T>::min())); }

// Σ x², and with Scales also d = x k; in vectors of T, and again in double if the sum left T's range.
template <class T, bool Scales = false> double squares(const T* x, Index n, const T* k = nullptr, T* d = nullptr) {
  constexpr int W = kWidth<T>, chains = 4;  // independent sums_gates hide the latency of the multiply-add
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
    const int rest = static_cast<int>(min(W, n - j));
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

template <class T> struct AdjointRecursion {
  const Adjoints& a;
  bool sums_gates;             // one matrix for all gates of a layer
  Index per_block, sequences;  // targets and sequences of a block
  struct Rows {                // one layer's rows of a block: target by target, sequence by sequence
    Index ld, ldg;
    T *h, *next, *c, *hidden, *inputs, *above, *jacobian;
    std::int32_t *exponent, *above_exponent;
    double* norm;
  };
  T* w_hh[kMaxAdjointLayers];
  T* w_ih[kMaxAdjointLayers];

  explicit AdjointRecursion(const Adjoints& given) : a(given), sums_gates(false) {
    double pairs = 0.0;
    for (Index j = 0; j < a.count; ++j) pairs += static_cast<double>(a.targets[j] + 1);
    const bool many = pairs >= kManyTargets * static_cast<double>(a.targets[a.count - 1] + 1);
    Index bytes = 0;  // of a row
    for (Index i = 0; i < a.layers; ++i) {
      sums_gates = sums_gates || (many && gates(a.layer[i]) > 1);
      bytes += 4 * a.layer[i].H * static_cast<Index>(sizeof(T));
    }
    sequences = sums_gates ? 1 : a.B;
    per_block = max(1, kRowBatch / 2 / max(1, a.B));
    if (sums_gates) {  // as few blocks as caches and threads allow, of enough targets to pay for the Jacobians
      const Index for_threads = a.B >= 4 * a.threads || a.B % a.threads == 0 ? 1 : ceil_div(4 * a.threads, a.B);
      const Index most = max(1, a.count / kFewTargets);
      per_block = ceil_div(a.count, min(most, max(for_threads, ceil_div(a.count * bytes, kCacheBytes))));
    }
  }
  static constexpr Index kManyTargets = 12, kFewTargets = 48, kCacheBytes = Index{1} << 21;
  static Index gates(const AdjointLayer& l) { return gates_of(l.cell); }
  static const T* at(const void* p) { return static_cast<const T*>(p); }

  void allocate_weights(Arena& arena) {
    for (Index i = 0; i < a.layers; ++i) {
      const AdjointLayer& l = a.layer[i];
      w_hh[i] = arena.allocate<T>(ceil_div(l.H, kPanel<T>) * kPanel<T> * gates(l) * l.H);
      w_ih[i] = i > 0 ? arena.allocate<T>(ceil_div(l.I, kPanel<T>) * kPanel<T> * gates(l) * l.H) : nullptr;
    }
  }
  void allocate_rows(Arena& arena, Rows* layer_rows) {
    const Index rows = per_block * sequences;
    for (Index i = 0; i < a.layers; ++i) {
      const AdjointLayer& l = a.layer[i];
      Rows& s = layer_rows[i];
      const Index G = gates(l), widest = ceil_div(i > 0 ? max(l.H, l.I) : l.H, kPanel<T>) * kPanel<T>;
      s.ld = padded<T>(ceil_div(l.H, kPanel<T>) * kPanel<T>);
      s.ldg = padded<T>(G * l.H);
      s.h = arena.allocate<T>(rows * s.ld);
      s.next = arena.allocate<T>(rows * s.ld);
      s.c = l.cell == Cell::kLstm ? arena.allocate<T>(rows * s.ld) : nullptr;
      s.jacobian = sums_gates ? arena.allocate<T>(widest * l.H * (l.cell == Cell::kLstm ? 2 : 1)) : nullptr;
      s.hidden = sums_gates ? nullptr : arena.allocate<T>(rows * s.ldg);
      s.inputs = !sums_gates && i > 0 && l.cell == Cell::kGru ? arena.allocate<T>(rows * s.ldg) : s.hidden;
      // what the layer above sends is as wide as this layer's own state
      s.above = i + 1 < a.layers ? arena.allocate<T>(rows * s.ld) : nullptr;
      s.exponent = arena.allocate<std::int32_t>(rows);
      s.above_exponent = arena.allocate<std::int32_t>(rows);
      s.norm = arena.allocate<double>(rows);
    }
  }

  void pack(int thread, int n) {
    for (Index i = 0; i < a.layers; ++i) {
      const AdjointLayer& l = a.layer[i];
      const auto rows_of = [](const void* w, Index width) { return [=](Index k) { return at(w) + k * width; }; };
      pack_panels<T>(w_hh[i], rows_of(l.w_hh, l.H), l.H, gates(l) * l.H, thread, n);
      if (i > 0) pack_panels<T>(w_ih[i], rows_of(l.w_ih, l.I), l.I, gates(l) * l.H, thread, n);
    }
  }

  // h += what the layer above sends to row r, in the scale of the larger of the two; zero has no scale.
  static void add_from_above(const AdjointLayer& l, Rows& s, Index r) {
    T* const h = s.h + r * s.ld;
    const T* const g = s.above + r * s.ld;
    const std::int32_t own = s.exponent[r], upper = s.above_exponent[r];
    T factor = T(1);
    if (own != upper) {
      const bool no_own = squares(h, l.H) == 0.0 && (!s.c || squares(s.c + r * s.ld, l.H) == 0.0);
      s.exponent[r] = no_own ? upper : squares(g, l.H) == 0.0 || own < upper ? own : upper;
      scale(l, s, r, s.exponent[r] - own);
      factor = static_cast<T>(std::ldexp(1.0, s.exponent[r] - upper));
      if (std::isinf(factor)) factor = T(0);  // g is zero, and 0 * inf would not be
    }
#pragma GCC ivdep
    for (Index u = 0; u < l.H; ++u) h[u] += g[u] * factor;
  }

  // d = what row r sends through W_hh and, for a GRU, x = what it sends through W_ih: n differs by the reset gate.
  static void gru_sums(const AdjointLayer& l, const T* h, Index from, T* d, T* x) {
    const Index H = l.H;
    const T *const k = at(l.k) + from * 3 * H, *const k_n = at(l.k_side) + from * H;
#pragma GCC ivdep
    for (Index u = 0; u < H; ++u) {
      d[u] = h[u] * k[u];
      d[H + u] = h[u] * k[H + u];
      d[2 * H + u] = h[u] * k[2 * H + u];
    }
    if (x == d) return;
    std::memcpy(x, d, static_cast<std::size_t>(2 * H) * sizeof(T));
#pragma GCC ivdep
    for (Index u = 0; u < H; ++u) x[2 * H + u] = h[u] * k_n[u];
  }
  static void lstm_sums(const AdjointLayer& l, const T* h, T* c, Index from, T* d) {
    const Index H = l.H;
    const T *const k = at(l.k) + from * 3 * H, *const k_o = at(l.k_side) + from * H, *const f = at(l.f) + from * H;
#pragma GCC ivdep
    for (Index u = 0; u < H; ++u) {
      d[u] = c[u] * k[u];
      d[H + u] = c[u] * k[H + u];
      d[2 * H + u] = c[u] * k[2 * H + u];
      d[3 * H + u] = h[u] * k_o[u];
      c[u] *= f[u];
    }
  }

  // One row of one layer at one step (from = k B + b): writes its norm, and what is multiplied by the matrices.
  void row(const AdjointLayer& l, Rows& s, Index r, Index from, double* out) const {
    const Index H = l.H;
    T* const h = s.h + r * s.ld;
    T* const d = s.hidden ? s.hidden + r * s.ldg : nullptr;
    if (s.above) add_from_above(l, s, r);
    const bool plain = d && gates(l) == 1;
    double of_h = plain ? squares<T, true>(h, H, at(l.k) + from * H, d) : squares(h, H), of_c = 0.0, result = of_h;
    if (l.cell == Cell::kGru && d) gru_sums(l, h, from, d, s.inputs + r * s.ldg);
    if (l.cell == Cell::kLstm) {
      T* const c = s.c + r * s.ld;
      const T* const q = at(l.q) + from * H;
      of_c = squares(c, H);
#pragma GCC ivdep
      for (Index u = 0; u < H; ++u) c[u] += h[u] * q[u];  // ∂E/∂c_k with h_k as a function of c_k
      result = a.state == 0 ? of_h : a.state == 1 ? squares(c, H) : of_h + of_c;
      if (d) lstm_sums(l, h, c, from, d);
    }
    s.norm[r] = std::sqrt(of_h > of_c ? of_h : of_c);
    *out = s.exponent[r] ? std::ldexp(std::sqrt(result), -s.exponent[r]) : std::sqrt(result);
  }

  static void scale(const AdjointLayer& l, Rows& s, Index r, int power) {
    const T factor = static_cast<T>(std::ldexp(1.0, power));
    if (factor == T(1)) return;
    for (Index u = 0; u < l.H; ++u) s.h[r * s.ld + u] *= factor;
    if (s.c)
      for (Index u = 0; u < l.H; ++u) s.c[r * s.ld + u] *= factor;
  }

  static void rescale(const AdjointLayer& l, Rows& s, Index r) {
    const double low = smallest_norm<T>(), norm = s.norm[r];
    if (!(norm > 0.0) || !std::isfinite(norm) || (norm >= low && norm <= 1.0 / low)) return;
    int exponent;
    std::frexp(norm, &exponent);
    scale(l, s, r, -exponent);
    s.exponent[r] -= exponent;
  }

  // to[p][u] = Σ_g k_g[u] w[p][g H + u] for G gates, with `direct` on the diagonal; both packed in panels, w of `rows`.
  template <int G>
  static void sum_gates(T* to, const T* w, Index rows, Index panels, Index H, const T* const* k, const T* direct) {
    constexpr int W = kWidth<T>;
    for (Index p = 0; p < panels; ++p) {
      T* const panel = to + p * kPanel<T> * H;
      const T* const from = w + p * kPanel<T> * rows;
      for (Index u = 0; u < H; ++u) {
        Vec<T> left{}, right{};
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
          const T* const line = from + (g * H + u) * kPanel<T>;
          const Vec<T> x = splat(k[g][u]);
          left += x * load(line);
          right += x * load(line + W);
        }
        store(panel + u * kPanel<T>, left);
        store(panel + u * kPanel<T> + W, right);
      }
      if (direct)
        for (Index u = p * kPanel<T>; u < min(H, (p + 1) * kPanel<T>); ++u)
          panel[u * kPanel<T> + u - p * kPanel<T>] += direct[u];
    }
  }

  // The matrix of a layer whose gates are summed at from = k B + b, for `columns` outputs; an LSTM's M, then its N.
  void build(T* to, const AdjointLayer& l, const T* w, Index columns, Index from, bool own) const {
    const Index H = l.H, panels = ceil_div(columns, kPanel<T>), rows = gates(l) * H;
    const T* const direct = own && l.passed ? at(l.passed) + from * H : nullptr;
    if (gates(l) == 1) {
      const T* const k = at(l.k) + from * H;
      return sum_gates<1>(to, w, rows, panels, H, &k, direct);
    }
    const T *const k = at(l.k) + from * 3 * H, *const side = at(l.k_side) + from * H;
    const bool gru = l.cell == Cell::kGru;
    // a GRU's n: x_n and W_hn h differ by the factor r
    const T* const three[3] = {k, k + H, gru && !own ? side : k + 2 * H};
    sum_gates<3>(to, w, rows, panels, H, three, gru ? direct : nullptr);
    if (!gru) sum_gates<1>(to + panels * kPanel<T> * H, w + 3 * H * kPanel<T>, rows, panels, H, &side, direct);
  }

  // to = rows r0 to r1 through W_hh^T (own) or W_ih^T, which leads to the layer below.
  void send(T* to, Index ld, Index i, const Rows& s, Index r0, Index r1, Index from, bool own) const {
    const AdjointLayer& l = a.layer[i];
    const Index columns = own ? l.H : l.I, panels = ceil_div(columns, kPanel<T>), rows = r1 - r0;
    const T* const w = own ? w_hh[i] : w_ih[i];
    if (!sums_gates) {
      product<T>(to, ld, (own ? s.hidden : s.inputs) + r0 * s.ldg, s.ldg, rows, w, panels, gates(l) * l.H, false);
      return;
    }
    build(s.jacobian, l, w, columns, from, own);
    product<T>(to, ld, (s.c ? s.c : s.h) + r0 * s.ld, s.ld, rows, s.jacobian, panels, l.H, false);
    if (s.c) product<T>(to, ld, s.h + r0 * s.ld, s.ld, rows, s.jacobian + panels * kPanel<T> * l.H, panels, l.H, true);
  }

  // Targets i0 to i1 of sequences b0 to b1.
  void block(Index i0, Index i1, Index b0, Index b1, Rows* layer_rows) const {
    const Index B = a.B, n = b1 - b0, count = (i1 - i0) * n;
    Index first = i1;  // the targets from here on have started
    for (Index k = a.targets[i1 - 1]; k >= 0; --k) {
      for (; first > i0 && a.targets[first - 1] >= k; --first)
        for (Index i = 0; i < a.layers; ++i)
          start_target(a.layer[i], layer_rows[i], first - 1, (first - 1 - i0) * n, b0, n);
      const Index r0 = (first - i0) * n;
      for (Index i = a.layers - 1; i >= 0; --i) {
        const AdjointLayer& l = a.layer[i];
        Rows& s = layer_rows[i];
        for (Index j = first, r = r0; j < i1; ++j)
          for (Index b = b0; b < b1; ++b, ++r) row(l, s, r, k * B + b, l.norms + (j * B + b) * a.T + k);
        if (i > 0) {
          Rows& lower = layer_rows[i - 1];
          send(lower.above + r0 * lower.ld, lower.ld, i, s, r0, count, k * B + b0, false);
          std::memcpy(lower.above_exponent + r0, s.exponent + r0,
                      static_cast<std::size_t>(count - r0) * sizeof(std::int32_t));
        }
        if (k == 0) continue;
        send(s.next + r0 * s.ld, s.ld, i, s, r0, count, k * B + b0, true);
        if (!sums_gates && l.passed)
          multiply_rows<true>(s.next, s.h, at(l.passed) + (k * B + b0) * l.H, s.ld, l.H, r0, count, n);
        if (sums_gates && s.c) multiply_rows<false>(s.c, s.c, at(l.f) + (k * B + b0) * l.H, s.ld, l.H, r0, count, n);
        T* const swapped = s.h;
        s.h = s.next;
        s.next = swapped;
        for (Index r = r0; r < count; ++r) rescale(l, s, r);
      }
    }
  }

  // Starts target j's rows, from r on, with ∂E_t/∂h_t; at steps after t the gradient of E_t is zero.
  void start_target(const AdjointLayer& l, Rows& s, Index j, Index r, Index b0, Index n) const {
    const Index t = a.targets[j];
    for (Index b = b0; b < b0 + n; ++b, ++r) {
      std::memcpy(s.h + r * s.ld, at(l.local) + (t * a.B + b) * l.H, static_cast<std::size_t>(l.H) * sizeof(T));
      if (s.c) std::memset(s.c + r * s.ld, 0, static_cast<std::size_t>(l.H) * sizeof(T));
      s.exponent[r] = 0;
      double* const norms = l.norms + (j * a.B + b) * a.T;
      std::fill(norms + t + 1, norms + a.T, 0.0);
    }
  }

  // to = x k, or += it, row by row; k has one row for each of n sequences.
  template <bool Adds>
  static void multiply_rows(T* to, const T* x, const T* k, Index ld, Index H, Index r0, Index r1, Index n) {
    for (Index r = r0; r < r1; ++r) {
      T* const out = to + r * ld;
      const T *const in = x + r * ld, *const factor = k + r % n * H;
#pragma GCC ivdep
      for (Index u = 0; u < H; ++u) out[u] = Adds ? out[u] + in[u] * factor[u] : in[u] * factor[u];
    }
  }
};

template <class T> void adjoints(const Adjoints& a) {
  AdjointRecursion<T> recursion(a);
  const Index groups = ceil_div(a.B, recursion.sequences), blocks = ceil_div(a.count, recursion.per_block) * groups;
  TeamLock lock(static_cast<int>(min(a.threads, max(1, blocks))));
  Arena weights(nullptr), own(nullptr);
  recursion.allocate_weights(weights);
  typename AdjointRecursion<T>::Rows nothing[kMaxAdjointLayers];
  recursion.allocate_rows(own, nothing);
  const std::size_t per_thread = own.used();
  char* const memory =
      static_cast<char*>(scratch_memory(weights.used() + per_thread * static_cast<std::size_t>(lock.size())));
  Arena arena(memory);
  recursion.allocate_weights(arena);
  std::atomic<Index> next{0};
  auto region = [&](Team& team, int thread) {
    const FlushSubnormals flush;
    typename AdjointRecursion<T>::Rows layer_rows[kMaxAdjointLayers];
    Arena mine(memory + weights.used() + per_thread * static_cast<std::size_t>(thread));
    recursion.allocate_rows(mine, layer_rows);
    recursion.pack(thread, team.size());
    team.barrier();
    // the last targets take longest
    for (Index i; (i = next.fetch_add(1)) < blocks;) {
      const Index end = a.count - i / groups * recursion.per_block, b = i % groups * recursion.sequences;
      recursion.block(max(0, end - recursion.per_block), end, b, b + recursion.sequences, layer_rows);
    }
  };
  lock.run(lock.size(), region);
  release_scratch();
}

}  // namespace RETROGRADE_SET
}  // namespace retrograde
