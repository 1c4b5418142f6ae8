// What a cell does with one step's sums, a vector of units at a time: forward and backward, one branch per cell. The
// same equations, one unit at a time and with names, are cell_forward and cell_backward in naive.cpp.
//
// `sum` is the product with the recurrent weights for a group of units, gate after gate, each `gate` columns after the
// one before. A Step says where the rows of one time step are; row b of a state is sequence b of the batch.
#pragma once
#include "layer.hpp"
#include "product.hpp"

namespace retrograde {
namespace RETROGRADE_SET {

template <class T> struct ForwardStep {
  Index H;
  T* x;  // x W_ih^T + b, gate after gate; replaced by the gates where they are kept
  Index x_stride;
  bool keep;
  const T* h_prev;
  T* h_next;
  Index h_stride;
  T* out;  // null: with a projection h is not yet the output
  Index out_stride;
  T* c;  // the state, in place
  Index c_stride;
  T* c_keep;  // null: not kept
  const T* b_hn;
};

template <class T> struct BackwardStep {
  Index H;
  const T* gates;
  Index gates_stride;
  const T* grad_out;  // null: none
  Index grad_out_stride;
  const T* h;  // RNN: h_t
  Index h_stride;
  Index rows_before;  // rows that had a step before this one; for the others the state before is the initial one
  const T *h_before, *h_0;
  Index h_before_stride, h_0_stride;
  const T *c, *c_before, *c_0;
  Index c_stride, c_0_stride;
  T* d;  // gradients of the sums before the activations; GRU: n, r, z, W_hn h + b_hn
  Index d_stride;
  T* carry;  // GRU: dE/dh_{t-1} past the gates; LSTM: dE/dc
  Index carry_stride;
  T* h_raw;  // LSTM with projection: o * tanh(c), computed again; null otherwise
  Index h_raw_stride;
};

// V vectors of units from u on; of the last only n lanes are valid, unless it is Full.
template <class T, Cell C, bool Full, int V>
RG_INLINE void forward_vectors(const ForwardStep<T>& s, Index b, Index u, int n, const T* sum, Index gate) {
  constexpr int W = kWidth<T>, G = static_cast<int>(gates_of(C));
  const Index H = s.H;
  T* x = s.x + b * s.x_stride + u;
  const auto get = [&](const T* from, int v) { return v < V - 1 ? load(from + v * W) : read<Full>(from + v * W, n); };
  const auto put = [&](T* to, int v, Vec<T> value) {
    if (v < V - 1) store(to + v * W, value);
    else write<Full>(to + v * W, value, n);
  };
  const auto sum_of = [&](int g, int v) { return get(x + g * H, v) + load(sum + g * gate + v * W); };
  Vec<T> h[V];
  if constexpr (C == Cell::kTanh || C == Cell::kRelu) {
    for_each<V>([&](int v) { h[v] = sum_of(0, v); });
    if constexpr (C == Cell::kTanh) tanh<T>(h);
    else for_each<V>([&](int v) { h[v] = h[v] < T(0) ? Vec<T>{} : h[v]; });  // NaN stays
  } else if constexpr (C == Cell::kGru) {
    Vec<T> rz[2 * V], hn[V], a[V];
    for_each<2 * V>([&](int j) { rz[j] = sum_of(j % 2, j / 2); });
    sigmoid<T>(rz);
    for_each<V>([&](int v) {
      hn[v] = load(sum + 2 * gate + v * W);
      if (s.b_hn) hn[v] += get(s.b_hn + u, v);
      a[v] = get(x + 2 * H, v) + rz[2 * v] * hn[v];
    });
    tanh<T>(a);
    for_each<V>([&](int v) {
      h[v] = a[v] + rz[2 * v + 1] * (load(s.h_prev + b * s.h_stride + u + v * W) - a[v]);  // (1 - z) n + z h
      if (!s.keep) return;
      put(x, v, rz[2 * v]);
      put(x + H, v, rz[2 * v + 1]);
      put(x + 2 * H, v, a[v]);
      put(x + 3 * H, v, hn[v]);
    });
  } else {
    Vec<T> gates[G * V];  // of each vector i, f, g, o
    for_each<G * V>([&](int j) { gates[j] = sum_of(j % G, j / G); });
    activate<T>(gates, [](int j) { return j % G == 2; });
    for_each<V>([&](int v) {
      T* cell = s.c + b * s.c_stride + u + v * W;
      h[v] = gates[G * v + 1] * load(cell) + gates[G * v] * gates[G * v + 2];  // c
      store(cell, h[v]);
      if (s.c_keep) put(s.c_keep + b * H + u, v, h[v]);
    });
    if (s.keep) for_each<G * V>([&](int j) { put(x + j % G * H, j / G, gates[j]); });
    tanh<T>(h);
    for_each<V>([&](int v) { h[v] = gates[G * v + 3] * h[v]; });
  }
  for_each<V>([&](int v) { store(s.h_next + b * s.h_stride + u + v * W, h[v]); });
  if (s.out) for_each<V>([&](int v) { put(s.out + b * s.out_stride + u, v, h[v]); });
}

template <class T, Cell C, bool Full>
RG_INLINE void backward_vector(const BackwardStep<T>& s, Index b, Index u, int n, const T* sum) {
  const Index H = s.H;
  Vec<T> dh = load(sum);
  if (s.grad_out) dh += read<Full>(s.grad_out + b * s.grad_out_stride + u, n);
  T* d = s.d + b * s.d_stride + u;
  const T one = T(1);
  const bool first = b >= s.rows_before;
  if constexpr (C == Cell::kTanh || C == Cell::kRelu) {
    const Vec<T> h = read<Full>(s.h + b * s.h_stride + u, n);
    if constexpr (C == Cell::kTanh) write<Full>(d, dh * (one - h * h), n);
    else write<Full>(d, h <= T(0) ? Vec<T>{} : dh, n);
  } else if constexpr (C == Cell::kGru) {
    const T* at = s.gates + b * s.gates_stride + u;
    const T* before = first ? s.h_0 + b * s.h_0_stride : s.h_before + b * s.h_before_stride;
    const Vec<T> r = read<Full>(at, n), z = read<Full>(at + H, n), a = read<Full>(at + 2 * H, n);
    const Vec<T> hn = read<Full>(at + 3 * H, n), h = read<Full>(before + u, n);
    T* carry = s.carry + b * s.carry_stride + u;
    dh += load(carry);
    const Vec<T> da = dh * (one - z) * (one - a * a);
    write<Full>(d, da, n);
    write<Full>(d + H, da * hn * r * (one - r), n);
    write<Full>(d + 2 * H, dh * (h - a) * z * (one - z), n);
    write<Full>(d + 3 * H, da * r, n);
    store(carry, dh * z);
  } else {
    const T* at = s.gates + b * s.gates_stride + u;
    const T* before = first ? s.c_0 + b * s.c_0_stride : s.c_before + b * s.c_stride;
    const Vec<T> i = read<Full>(at, n), f = read<Full>(at + H, n);
    const Vec<T> g = read<Full>(at + 2 * H, n), o = read<Full>(at + 3 * H, n);
    Vec<T> cell[] = {read<Full>(s.c + b * s.c_stride + u, n)};
    tanh<T>(cell);
    const Vec<T> tc = cell[0];
    T* carry = s.carry + b * s.carry_stride + u;
    const Vec<T> dc = load(carry) + dh * o * (one - tc * tc);
    write<Full>(d, dc * g * i * (one - i), n);
    write<Full>(d + H, dc * read<Full>(before + u, n) * f * (one - f), n);
    write<Full>(d + 2 * H, dc * i * (one - g * g), n);
    write<Full>(d + 3 * H, dh * tc * o * (one - o), n);
    store(carry, dc * f);
    if (s.h_raw) write<Full>(s.h_raw + b * s.h_raw_stride + u, o * tc, n);
  }
}

// Vectors of units whose gates are computed side by side, as far as the registers reach.
constexpr int kVectors = kRows > 6 ? 2 : 1;

// Units [u, u + units) of rows [b0, b1); `sum` begins with row b0.
template <class T, Cell C> void forward_units(const ForwardStep<T>& s, Index b0, Index b1, Index u, Index units,
                                              const T* sum, Index sum_stride, Index gate) {
  constexpr int W = kWidth<T>, wide = kVectors * W;
  const Index valid = min(units, s.H - u);
  for (Index b = b0; b < b1; ++b, sum += sum_stride) {
    Index v = 0;
    for (; valid - v > wide - W; v += wide) {
      const int n = static_cast<int>(min(W, valid - v - (wide - W)));
      if (n == W) forward_vectors<T, C, true, kVectors>(s, b, u + v, n, sum + v, gate);
      else forward_vectors<T, C, false, kVectors>(s, b, u + v, n, sum + v, gate);
    }
    for (; v < valid; v += W) {
      const int n = static_cast<int>(min(W, valid - v));
      if (n == W) forward_vectors<T, C, true, 1>(s, b, u + v, n, sum + v, gate);
      else forward_vectors<T, C, false, 1>(s, b, u + v, n, sum + v, gate);
    }
  }
}
template <class T, Cell C> void backward_units(const BackwardStep<T>& s, Index b0, Index b1, Index u, Index units,
                                               const T* sum, Index sum_stride) {
  constexpr int W = kWidth<T>;
  for (Index b = b0; b < b1; ++b, sum += sum_stride)
    for (Index v = 0; v < units; v += W) {
      const int n = static_cast<int>(min(W, s.H - (u + v)));
      if (n == W) backward_vector<T, C, true>(s, b, u + v, n, sum + v);
      else if (n > 0) backward_vector<T, C, false>(s, b, u + v, n, sum + v);
    }
}

}  // namespace RETROGRADE_SET
}  // namespace retrograde
