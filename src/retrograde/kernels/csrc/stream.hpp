// One step of a stack of layers for a few sequences: two products of a matrix with a vector, then the cell.
//
// A layer called on a sequence packs its weights first, which pays over many rows; for one row that would be most of
// the time. Here they were packed once, so that a step reads each weight once, in order:
//
//     in[0] * | row 0: gate 0 (P columns) | gate 1 | ... |
//   + in[1] * | row 1:  ...                              |
//   + ...                                    sums stay in registers, kBlock vectors of columns at a time
#pragma once
#include "cells.hpp"

namespace retrograde {
namespace RETROGRADE_SET {

// N vectors of columns of y = start + in W, with W (K x columns); start null: 0.
template <class T, int N>
RG_INLINE void stream_columns(T* y, const T* start, const T* w, Index columns, const T* in, Index K) {
  constexpr int W = kWidth<T>;
  Vec<T> sum[N];
  for (int v = 0; v < N; ++v) sum[v] = start ? load(start + v * W) : Vec<T>{};
  for (Index k = 0; k < K; ++k) {
    const Vec<T> x = splat(in[k]);
    for (int v = 0; v < N; ++v) sum[v] += load(w + k * columns + v * W) * x;
  }
  for (int v = 0; v < N; ++v) store(y + v * W, sum[v]);
}

template <class T> void stream_product(T* y, const T* start, const T* w, Index columns, const T* in, Index K) {
  constexpr int W = kWidth<T>, kBlock = 8;
  Index n = 0;
  const auto next = [&](auto vectors) {
    constexpr int N = decltype(vectors)::value;
    for (; n + N * W <= columns; n += N * W)
      stream_columns<T, N>(y + n, start ? start + n : nullptr, w + n, columns, in, K);
  };
  next(std::integral_constant<int, kBlock>());
  next(std::integral_constant<int, kBlock / 2>());
  next(std::integral_constant<int, 1>());
}

// Sequence b of one layer; returns its new h.
template <class T, Cell C> const T* stream_layer(const StreamLayer& l, Index b, const T* x, T* sums) {
  const auto at = [](const void* p) { return static_cast<const T*>(p); };
  const Index P = stream_padded(l.H), columns = gates_of(C) * P;
  T *const of_x = sums, *const of_h = of_x + columns, *const raw = of_h + columns;
  T* const h = static_cast<T*>(l.h) + b * stream_padded(l.R);
  stream_product(of_x, at(l.b), at(l.w_ih), columns, x, l.I);
  stream_product(of_h, at(nullptr), at(l.w_hh), columns, static_cast<const T*>(h), l.R);
  ForwardStep<T> step{};
  step.H = P;  // the columns beyond H too, so that every vector is whole
  step.x = of_x;
  step.h_prev = h, step.h_next = l.w_hr ? raw : h;
  step.c = l.c ? static_cast<T*>(l.c) + b * P : nullptr;
  step.b_hn = at(l.b_hn);
  forward_units<T, C>(step, 0, 1, 0, P, of_h, columns, P);
  if (l.w_hr) stream_product(h, at(nullptr), at(l.w_hr), stream_padded(l.R), static_cast<const T*>(raw), l.H);
  return h;
}

}  // namespace RETROGRADE_SET
}  // namespace retrograde
