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

template <class T, Cell C, bool Full>
RG_INLINE void forward_vector(const ForwardStep<T>& s, Index b, Index u, int n, const T* sum, Index gate) {
  const Index H = s.H;
  T* x = s.x + b * s.x_stride + u;
  Vec<T> h;
  if constexpr (C == Cell::kTanh || C == Cell::kRelu) {
    const Vec<T> a = read<Full>(x, n) + load(sum);
    if constexpr (C == Cell::kTanh) h = tanh<T>(a);
    else h = a < T(0) ? Vec<T>{} : a;  // NaN stays
  } else if constexpr (C == Cell::kGru) {
    const Vec<T> r = sigmoid<T>(read<Full>(x, n) + load(sum));
    const Vec<T> z = sigmoid<T>(read<Full>(x + H, n) + load(sum + gate));
    Vec<T> hn = load(sum + 2 * gate);
    if (s.b_hn) hn += read<Full>(s.b_hn + u, n);
    const Vec<T> a = tanh<T>(read<Full>(x + 2 * H, n) + r * hn);
    h = a + z * (load(s.h_prev + b * s.h_stride + u) - a);  // (1 - z) n + z h
    if (s.keep) {
      write<Full>(x, r, n);
      write<Full>(x + H, z, n);
      write<Full>(x + 2 * H, a, n);
      write<Full>(x + 3 * H, hn, n);
    }
  } else {
    const Vec<T> i = sigmoid<T>(read<Full>(x, n) + load(sum));
    const Vec<T> f = sigmoid<T>(read<Full>(x + H, n) + load(sum + gate));
    const Vec<T> g = tanh<T>(read<Full>(x + 2 * H, n) + load(sum + 2 * gate));
    const Vec<T> o = sigmoid<T>(read<Full>(x + 3 * H, n) + load(sum + 3 * gate));
    T* cell = s.c + b * s.c_stride + u;
    const Vec<T> c = f * load(cell) + i * g;
    store(cell, c);
    h = o * tanh<T>(c);
    if (s.keep) {
      write<Full>(x, i, n);
      write<Full>(x + H, f, n);
      write<Full>(x + 2 * H, g, n);
      write<Full>(x + 3 * H, o, n);
    }
    if (s.c_keep) write<Full>(s.c_keep + b * H + u, c, n);
  }
  store(s.h_next + b * s.h_stride + u, h);
  if (s.out) write<Full>(s.out + b * s.out_stride + u, h, n);
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
    const Vec<T> tc = tanh<T>(read<Full>(s.c + b * s.c_stride + u, n));
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

// Units [u, u + units) of rows [b0, b1); `sum` begins with row b0.
template <class T, Cell C> void forward_units(const ForwardStep<T>& s, Index b0, Index b1, Index u, Index units,
                                              const T* sum, Index sum_stride, Index gate) {
  constexpr int W = kWidth<T>;
  for (Index b = b0; b < b1; ++b, sum += sum_stride)
    for (Index v = 0; v < units; v += W) {
      const int n = static_cast<int>(min(W, s.H - (u + v)));
      if (n == W) forward_vector<T, C, true>(s, b, u + v, n, sum + v, gate);
      else if (n > 0) forward_vector<T, C, false>(s, b, u + v, n, sum + v, gate);
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
