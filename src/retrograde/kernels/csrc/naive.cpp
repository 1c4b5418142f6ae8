// The whole engine once more as plain loops over single numbers: what the fast kernels must compute. Read this first.
//
// One sequence after another, one step after another, one number after another; nothing is packed, kept or shared
// between threads. The tests compare every instruction set with it (tests/kernels/test_naive.py). Names and shapes
// are those of layer.hpp.
#include <algorithm>
#include <cmath>
#include <vector>

#include "layer.hpp"

namespace retrograde {
namespace naive {
namespace {

using Index = std::int64_t;
template <class T> using Vector = std::vector<T>;

// ---- one unit of a cell ----------------------------------------------------------------------------------

template <class T> T sigmoid(T a) { return T(1) / (T(1) + std::exp(-a)); }

// What a step computes for one unit. Gates: GRU r, z, n and the sum u_n; LSTM i, f, g, o. `h` before a projection.
template <class T> struct Unit {
  T gates[4];
  T c, h;
};

// x and u have one sum per gate: x = W_ih x_t + b_ih and u = W_hh h_{t-1} + b_hh.
//   RNN   h = tanh(x + u)  or  max(x + u, 0)
//   GRU   r = σ(x_r + u_r)   z = σ(x_z + u_z)   n = tanh(x_n + r u_n)   h = (1 - z) n + z h_{t-1}
//   LSTM  i = σ(x_i + u_i)   f = σ(x_f + u_f)   g = tanh(x_g + u_g)   o = σ(x_o + u_o)
//         c = f c_{t-1} + i g   h = o tanh(c)
template <class T> Unit<T> cell_forward(Cell cell, const T* x, const T* u, T h_before, T c_before) {
  switch (cell) {
    case Cell::kTanh: return {{}, T(0), std::tanh(x[0] + u[0])};
    case Cell::kRelu: return {{}, T(0), x[0] + u[0] < T(0) ? T(0) : x[0] + u[0]};  // NaN stays NaN
    case Cell::kGru: {
      const T r = sigmoid(x[0] + u[0]), z = sigmoid(x[1] + u[1]), n = std::tanh(x[2] + r * u[2]);
      return {{r, z, n, u[2]}, T(0), (T(1) - z) * n + z * h_before};
    }
    case Cell::kLstm: break;
  }
  const T i = sigmoid(x[0] + u[0]), f = sigmoid(x[1] + u[1]), g = std::tanh(x[2] + u[2]), o = sigmoid(x[3] + u[3]);
  const T c = f * c_before + i * g;
  return {{i, f, g, o}, c, o * std::tanh(c)};
}

// Gradients of the sums x and u, and of the state before as far as it is used directly (not through W_hh).
template <class T> struct UnitGradient {
  T x[4], u[4];
  T h_before, c_before;
};

// dh = ∂E/∂h_t; dc = ∂E/∂c_t as far as it comes from step t + 1. The derivatives of the activations, by their values:
// tanh' = 1 - tanh², σ' = σ (1 - σ).
template <class T> UnitGradient<T> cell_backward(Cell cell, const Unit<T>& s, T h_before, T c_before, T dh, T dc) {
  const T one = 1;
  switch (cell) {
    case Cell::kTanh: {
      const T d = dh * (one - s.h * s.h);
      return {{d}, {d}, T(0), T(0)};
    }
    case Cell::kRelu: {
      const T d = s.h <= T(0) ? T(0) : dh;
      return {{d}, {d}, T(0), T(0)};
    }
    case Cell::kGru: {
      const T r = s.gates[0], z = s.gates[1], n = s.gates[2], u_n = s.gates[3];
      const T d_n = dh * (one - z) * (one - n * n);
      const T d_z = dh * (h_before - n) * z * (one - z), d_r = d_n * u_n * r * (one - r);
      return {{d_r, d_z, d_n}, {d_r, d_z, d_n * r}, dh * z, T(0)};
    }
    case Cell::kLstm: break;
  }
  const T i = s.gates[0], f = s.gates[1], g = s.gates[2], o = s.gates[3], tanh_c = std::tanh(s.c);
  dc += dh * o * (one - tanh_c * tanh_c);
  const T d_i = dc * g * i * (one - i), d_f = dc * c_before * f * (one - f);
  const T d_g = dc * i * (one - g * g), d_o = dh * tanh_c * o * (one - o);
  return {{d_i, d_f, d_g, d_o}, {d_i, d_f, d_g, d_o}, T(0), dc * f};
}

// ---- vectors and matrices --------------------------------------------------------------------------------

// Row `i` of a matrix whose rows are `stride` numbers apart; null stays null.
template <class T> const T* row(const void* p, Index i, Index stride) {
  return p ? static_cast<const T*>(p) + i * stride : nullptr;
}
template <class T> T* row(void* p, Index i, Index stride) { return p ? static_cast<T*>(p) + i * stride : nullptr; }
template <class T> Vector<T> copy_or_zeros(const T* from, Index n) {
  return from ? Vector<T>(from, from + n) : Vector<T>(n, T(0));
}
template <class T> void write(T* to, const Vector<T>& from) {
  if (to) std::copy(from.begin(), from.end(), to);
}
template <class T> void add(T* to, const T* from, Index n) {
  for (Index i = 0; to && from && i < n; ++i) to[i] += from[i];
}
// to = start + W in, with W (rows x columns)
template <class T> Vector<T> multiply(const void* w, const T* in, const void* start, Index rows, Index columns) {
  Vector<T> to = copy_or_zeros(row<T>(start, 0, 0), rows);
  for (Index j = 0; j < rows; ++j)
    for (Index i = 0; i < columns; ++i) to[j] += row<T>(w, j, columns)[i] * in[i];
  return to;
}
// to += W^T d
template <class T> void add_transposed(T* to, const void* w, const Vector<T>& d, Index columns) {
  for (std::size_t j = 0; to && j < d.size(); ++j)
    for (Index i = 0; i < columns; ++i) to[i] += d[j] * row<T>(w, j, columns)[i];
}
// The gradient of W in W in: grad += d in^T
template <class T> void add_outer(void* grad, const Vector<T>& d, const T* in, Index columns) {
  for (std::size_t j = 0; grad && j < d.size(); ++j)
    for (Index i = 0; i < columns; ++i) row<T>(grad, j, columns)[i] += d[j] * in[i];
}
template <class T> void zero(void* p, Index rows, Index width, Index stride) {
  for (Index i = 0; p && i < rows; ++i) std::fill_n(row<T>(p, i, stride), width, T(0));
}

// ---- one layer through time ------------------------------------------------------------------------------

// One sequence's step: its row in x and out, and what entered and left the cell.
template <class T> struct Step {
  Index row;
  Vector<T> h_before, c_before;
  std::vector<Unit<T>> units;
  Vector<T> raw;  // h before a projection
};

template <class T> Step<T> step_forward(const Layer& l, Index at, Vector<T>& h, Vector<T>& c) {
  const Index G = gates_of(l.cell);
  const Vector<T> x = multiply(l.w_ih, row<T>(l.x, at, l.x_stride), l.b_ih, G * l.H, l.I);
  const Vector<T> u = multiply(l.w_hh, h.data(), l.b_hh, G * l.H, l.R);
  Step<T> step{at, h, c, {}, {}};
  for (Index j = 0; j < l.H; ++j) {
    T x_j[4], u_j[4];
    for (Index g = 0; g < G; ++g) x_j[g] = x[g * l.H + j], u_j[g] = u[g * l.H + j];
    const T h_before = l.w_hr ? T(0) : h[j];  // only a GRU uses it, and only an LSTM has a projection
    step.units.push_back(cell_forward(l.cell, x_j, u_j, h_before, c[j]));
    step.raw.push_back(step.units[j].h);
    c[j] = step.units[j].c;
  }
  h = l.w_hr ? multiply(l.w_hr, step.raw.data(), nullptr, l.R, l.H) : step.raw;
  write(row<T>(l.out, at, l.out_stride), h);
  return step;
}

// One step back: dh and dc are ∂E/∂h_t and ∂E/∂c_t as far as they come from later steps, then the same of step t - 1.
template <class T> void step_backward(const Layer& l, const Step<T>& step, Vector<T>& dh, Vector<T>& dc) {
  const Index G = gates_of(l.cell);
  add(dh.data(), row<T>(l.grad_out, step.row, l.grad_out_stride), l.R);
  Vector<T> d_raw = dh, dh_before(l.R, T(0)), d_x(G * l.H), d_u(G * l.H);
  if (l.w_hr) {
    d_raw.assign(l.H, T(0));
    add_transposed(d_raw.data(), l.w_hr, dh, l.H);
    add_outer(l.grad_w_hr, dh, step.raw.data(), l.H);
  }
  for (Index j = 0; j < l.H; ++j) {
    const T h_before = l.w_hr ? T(0) : step.h_before[j];
    const UnitGradient<T> d = cell_backward(l.cell, step.units[j], h_before, step.c_before[j], d_raw[j], dc[j]);
    for (Index g = 0; g < G; ++g) d_x[g * l.H + j] = d.x[g], d_u[g * l.H + j] = d.u[g];
    if (!l.w_hr) dh_before[j] = d.h_before;
    dc[j] = d.c_before;
  }
  add_outer(l.grad_w_ih, d_x, row<T>(l.x, step.row, l.x_stride), l.I);
  add_outer(l.grad_w_hh, d_u, step.h_before.data(), l.R);
  add(row<T>(l.grad_b, 0, 0), d_x.data(), G * l.H);
  add(row<T>(l.grad_b_hh, 0, 0), d_u.data(), G * l.H);
  add_transposed(row<T>(l.grad_x, step.row, l.grad_x_stride), l.w_ih, d_x, l.I);
  add_transposed(dh_before.data(), l.w_hh, d_u, l.R);
  dh = dh_before;
}

// Runs sequence b through its steps, in the order of the sweep: from its last time to the first if l.reverse.
// Before each of the sweep's steps, also those that the sequence does not take, keep(s, c) sees the state.
template <class T, class Keep>
std::vector<Step<T>> steps_of(const Layer& l, Index b, Vector<T>& h, Vector<T>& c, Keep keep) {
  h = copy_or_zeros(row<T>(l.h_0, b, l.R), l.R);
  c = copy_or_zeros(row<T>(l.c_0, b, l.H), l.H);
  std::vector<Step<T>> steps;
  for (Index s = 0; s < l.T; ++s) {
    keep(s, c);
    const Index t = l.reverse ? l.T - 1 - s : s;
    Index first = t * l.B, size = l.B;  // the rows of step t are sequences 0 to size - 1
    if (l.batch_sizes) {
      first = 0, size = l.batch_sizes[t];
      for (Index before = 0; before < t; ++before) first += l.batch_sizes[before];
    }
    if (b < size) steps.push_back(step_forward(l, first + b, h, c));
  }
  return steps;
}

template <class T> void forward(const Layer& l) {
  Vector<T> h, c;
  for (Index b = 0; b < l.B; ++b) {
    const auto keep = [&](Index s, const Vector<T>& state) {
      if (l.segment && s > 0 && s % l.segment == 0) write(row<T>(l.cells, s / l.segment * l.B + b, l.H), state);
    };
    const std::vector<Step<T>> steps = steps_of(l, b, h, c, keep);
    write(row<T>(l.h_n, b, l.R), h);
    write(row<T>(l.c_n, b, l.H), c);
    for (const Step<T>& step : steps)
      for (Index j = 0; j < l.H && !l.segment && gates_of(l.cell) > 1; ++j) {
        for (Index g = 0; g < 4 && l.gates; ++g)
          row<T>(l.gates, step.row, 4 * l.H)[g * l.H + j] = step.units[j].gates[g];
        if (l.cells) row<T>(l.cells, step.row, l.H)[j] = step.units[j].c;
      }
  }
}

// The forward pass is computed again, so that nothing depends on what it kept.
template <class T> void backward(const Layer& l) {
  const Index G = gates_of(l.cell);
  if (!l.grad_x_add) zero<T>(l.grad_x, l.rows, l.I, l.grad_x_stride);
  zero<T>(l.grad_w_ih, G * l.H, l.I, l.I);
  zero<T>(l.grad_w_hh, G * l.H, l.R, l.R);
  zero<T>(l.grad_w_hr, l.R, l.H, l.H);
  zero<T>(l.grad_b, 1, G * l.H, 0);
  zero<T>(l.grad_b_hh, 1, G * l.H, 0);
  Layer again = l;
  again.out = nullptr;
  Vector<T> h, c;
  for (Index b = 0; b < l.B; ++b) {
    const std::vector<Step<T>> steps = steps_of(again, b, h, c, [](Index, const Vector<T>&) {});
    Vector<T> dh = copy_or_zeros(row<T>(l.grad_h_n, b, l.R), l.R), dc = copy_or_zeros(row<T>(l.grad_c_n, b, l.H), l.H);
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) step_backward(l, *step, dh, dc);
    write(row<T>(l.grad_h_0, b, l.R), dh);
    write(row<T>(l.grad_c_0, b, l.H), dc);
  }
}

// ---- the adjoints of a stack -----------------------------------------------------------------------------

template <class T> double squares(const Vector<T>& v) {
  double sum = 0.0;
  for (const T x : v) sum += static_cast<double>(x) * static_cast<double>(x);
  return sum;
}

// ∂E_t/∂s_k of one layer at one step k, from h = ∂E_t/∂h_k and c = ∂E_t/∂c_k (past h_k); both become those of step
// k - 1, and below receives ∂E_t/∂x_k. Returns the norm. The derivative of the step is linear in them:
//   RNN   d = k h                             h' = W_hh^T d                below = W_ih^T d
//   GRU   d = (k_r h, k_z h, k_n h)           h' = W_hh^T d + passed h      below = W_ih^T (k_r h, k_z h, k_side h)
//   LSTM  c += q h,  d = (k_i c, k_f c, k_g c, k_side h)    h' = W_hh^T d    c' = f c    below = W_ih^T d
template <class T>
double adjoint_step(const AdjointLayer& l, int state, Index at, Vector<T>& h, Vector<T>& c, T* below) {
  const Index G = gates_of(l.cell), H = l.H;
  const double of_h = squares(h), of_c = squares(c);
  Vector<T> d(G * H), d_x;
  const T* const k = row<T>(l.k, at, G > 1 ? 3 * H : H);
  const T *const k_side = row<T>(l.k_side, at, H), *const q = row<T>(l.q, at, H), *const f = row<T>(l.f, at, H);
  if (l.cell == Cell::kLstm)
    for (Index j = 0; j < H; ++j) c[j] += q[j] * h[j];
  const double of_whole_c = squares(c);
  for (Index g = 0; g < G; ++g)
    for (Index j = 0; j < H; ++j) d[g * H + j] = g == 3 ? k_side[j] * h[j] : k[g * H + j] * (G == 4 ? c[j] : h[j]);
  d_x = d;
  if (l.cell == Cell::kGru)
    for (Index j = 0; j < H; ++j) d_x[2 * H + j] = k_side[j] * h[j];
  if (l.cell == Cell::kLstm)
    for (Index j = 0; j < H; ++j) c[j] *= f[j];
  Vector<T> before(H, T(0));
  add_transposed(before.data(), l.w_hh, d, H);
  const T* const passed = row<T>(l.passed, at, H);
  for (Index j = 0; passed && j < H; ++j) before[j] += passed[j] * h[j];
  add_transposed(below, l.w_ih, d_x, l.I);
  h = before;
  return std::sqrt(l.cell != Cell::kLstm || state == 0 ? of_h : state == 1 ? of_whole_c : of_h + of_c);
}

template <class T> void adjoints(const Adjoints& a) {
  for (Index j = 0; j < a.count; ++j)
    for (Index b = 0; b < a.B; ++b) {
      const Index t = a.targets[j];
      Vector<T> h[kMaxAdjointLayers], c[kMaxAdjointLayers];
      for (Index i = 0; i < a.layers; ++i) {
        const AdjointLayer& l = a.layer[i];
        h[i] = copy_or_zeros(row<T>(l.local, t * a.B + b, l.H), l.H);
        c[i].assign(l.cell == Cell::kLstm ? l.H : 0, T(0));
        std::fill_n(l.norms + (j * a.B + b) * a.T, a.T, 0.0);
      }
      for (Index k = t; k >= 0; --k)
        for (Index i = a.layers - 1; i >= 0; --i)  // from the top, since ∂E_t/∂x_k of a layer enters the one below
          a.layer[i].norms[(j * a.B + b) * a.T + k] =
              adjoint_step(a.layer[i], a.state, k * a.B + b, h[i], c[i], i > 0 ? h[i - 1].data() : nullptr);
    }
}

// ---- a stream ------------------------------------------------------------------------------------------------

// Sum j of a layer: start + what each input adds to it.
template <class T> T stream_sum(const void* start, const void* w, Index columns, const T* in, Index K, Index j) {
  T sum = start ? row<T>(start, 0, 0)[j] : T(0);
  for (Index k = 0; k < K; ++k) sum += row<T>(w, k, columns)[j] * in[k];
  return sum;
}
template <class T> void stream(const Stream& s) {
  for (Index b = 0; b < s.B; ++b) {
    const T* x = row<T>(s.x, b, s.layer[0].I);
    for (Index i = 0; i < s.layers; ++i) {
      const StreamLayer& l = s.layer[i];
      const Index G = gates_of(l.cell), P = stream_padded(l.H);
      T *const h = row<T>(l.h, b, stream_padded(l.R)), *const c = row<T>(l.c, b, P);
      Vector<T> raw;
      for (Index j = 0; j < l.H; ++j) {
        T x_j[4], u_j[4];
        for (Index g = 0; g < G; ++g) {
          x_j[g] = stream_sum(l.b, l.w_ih, G * P, x, l.I, g * P + j);
          u_j[g] = stream_sum<T>(nullptr, l.w_hh, G * P, h, l.R, g * P + j);
        }
        if (l.b_hn) u_j[2] += row<T>(l.b_hn, 0, 0)[j];
        const Unit<T> unit = cell_forward(l.cell, x_j, u_j, l.w_hr ? T(0) : h[j], c ? c[j] : T(0));
        raw.push_back(unit.h);
        if (c) c[j] = unit.c;
      }
      for (Index j = 0; j < l.R; ++j)
        h[j] = l.w_hr ? stream_sum<T>(nullptr, l.w_hr, stream_padded(l.R), raw.data(), l.H, j) : raw[j];
      x = h;
    }
    std::copy_n(x, s.layer[s.layers - 1].R, row<T>(s.out, b, s.layer[s.layers - 1].R));
  }
}

// ---- the table of kernels --------------------------------------------------------------------------------

template <class T> void matmul(T* c, const T* a, const T* b, bool b_transposed, Index M, Index N, Index K) {
  for (Index m = 0; m < M; ++m)
    for (Index n = 0; n < N; ++n) {
      c[m * N + n] = T(0);
      for (Index k = 0; k < K; ++k) c[m * N + n] += a[m * K + k] * (b_transposed ? b[n * K + k] : b[k * N + n]);
    }
}
template <class T> void activation(bool logistic, T* y, const T* x, Index n) {
  for (Index i = 0; i < n; ++i) y[i] = logistic ? sigmoid(x[i]) : std::tanh(x[i]);
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {
    "naive",
    [](const Layer& l) { l.float64 ? forward<double>(l) : forward<float>(l); },
    [](const Layer& l) { l.float64 ? backward<double>(l) : backward<float>(l); },
    [](const Adjoints& a) { a.float64 ? adjoints<double>(a) : adjoints<float>(a); },
    [](const Stream& s) { s.float64 ? stream<double>(s) : stream<float>(s); },
    [](bool float64, void* c, const void* a, const void* b, bool b_transposed, Index M, Index N, Index K, int) {
      if (float64) matmul(row<double>(c, 0, 0), row<double>(a, 0, 0), row<double>(b, 0, 0), b_transposed, M, N, K);
      else matmul(row<float>(c, 0, 0), row<float>(a, 0, 0), row<float>(b, 0, 0), b_transposed, M, N, K);
    },
    [](bool float64, bool logistic, void* y, const void* x, Index n) {
      if (float64) activation(logistic, row<double>(y, 0, 0), row<double>(x, 0, 0), n);
      else activation(logistic, row<float>(y, 0, 0), row<float>(x, 0, 0), n);
    },
    [](int, Index) { return 0.0; },
};

}  // namespace naive
}  // namespace retrograde
