// What Python and the kernels tell each other: one layer in one direction, as plain pointers and sizes.
//
// The engine, in the order in which to read it:
//   naive.cpp     everything as plain loops over single numbers, equation by equation; the tests compare with it
//   layer.hpp     this file
//   module.cpp    what Python calls
//   simd.hpp      vectors of one instruction set; tanh and the logistic function
//   product.hpp   the packed matrix product (with a picture)
//   cells.hpp     what a cell does with one step's sums, forward and backward, a vector of units at a time
//   sweep.hpp     the way through time, and how threads share it (with a picture)
//   forward.hpp, backward.hpp    the two passes of a layer
//   adjoint.hpp   norms of the gradient for all pairs of steps
//   stream.hpp    one step of a stack of layers that keeps its state
//   isa.cpp       the table of kernels, compiled once for each instruction set
//   pool.hpp      threads and working memory
//
// Shapes, with rows = T * B (packed sequences: the sum of batch_sizes) and G gates:
//   x (rows, I)  h_0, h_n (B, R)  c_0, c_n (B, H)  w_ih (G H, I)  w_hh (G H, R)  b (G H)  w_hr (R, H)
//   out (rows, R)  gates (rows, G' H)  cells (rows, H)
// R is the size of h_t: the projection's if there is one, otherwise H. All are contiguous except those that have a
// row stride. A null pointer: not given, or not asked for.
#pragma once
#include <cstdint>

namespace retrograde {

enum class Cell : int { kTanh = 0, kRelu = 1, kGru = 2, kLstm = 3 };

constexpr std::int64_t gates_of(Cell c) { return c == Cell::kLstm ? 4 : c == Cell::kGru ? 3 : 1; }
// Numbers kept per unit for the backward pass: the GRU's fourth is W_hn h + b_hn.
constexpr std::int64_t kept_of(Cell c) { return c == Cell::kLstm || c == Cell::kGru ? 4 : 1; }

struct Layer {
  Cell cell;
  bool float64, reverse;
  std::int64_t T, B, I, H, R, rows;
  const std::int64_t* batch_sizes;  // T numbers that never grow; null: B at every step
  int threads;

  const void* x;
  std::int64_t x_stride;
  const void *h_0, *c_0, *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;

  void* out;
  std::int64_t out_stride;
  void *h_n, *c_n;
  void* gates;           // G' = 1 (RNN: unused), 4 (GRU: r, z, n, W_hn h + b_hn), 4 (LSTM: i, f, g, o)
  void* cells;           // LSTM: c_t of every step, or of every `segment`-th step
  std::int64_t segment;  // 0: everything was kept; otherwise states only at the start of each segment of steps

  // backward only
  const void* grad_out;
  std::int64_t grad_out_stride;
  const void *grad_h_n, *grad_c_n;
  void* grad_x;
  std::int64_t grad_x_stride;
  bool grad_x_add;
  // grad_b: of b_ih; of b_hh too, except in a GRU, whose r multiplies b_hn
  void *grad_w_ih, *grad_w_hh, *grad_b, *grad_b_hh, *grad_w_hr, *grad_h_0, *grad_c_0;
};

// Steps of a chunk of the sweep: enough rows for the large products, and not much more than fits in a cache. It
// depends on the problem alone, since sums over time are split at the chunks.
inline std::int64_t chunk_steps(const Layer& l) {
  const std::int64_t row = kept_of(l.cell) * l.H * (l.float64 ? 8 : 4), cache = std::int64_t{1} << 18;
  const std::int64_t rows = row > 0 && cache / row > 512 ? cache / row : 512;
  const std::int64_t steps = l.B > 0 ? rows / l.B : rows;
  return steps < 1 ? 1 : steps < l.T || l.T < 1 ? steps : l.T;
}

// A stack of layers as the coefficients of its linearisation, and the norms of its adjoints.
struct AdjointLayer {
  Cell cell;
  std::int64_t H, I;
  // (T, B, .): k (H; GRU and LSTM 3 H) of W_hh h; k_side (H): of W_ih x in a GRU's n; an LSTM's o;
  // q = dh/dc and f (H): LSTM; passed (H): the part of dE/dh_k that reaches h_{k-1} without W_hh, or null
  const void *k, *k_side, *q, *f, *passed;
  const void *w_hh, *w_ih;  // (G H, H), (G H, I)
  const void* local;        // (T, B, H) dE_t/d(output_t)
  double* norms;            // (count, B, T)
};
constexpr std::int64_t kMaxAdjointLayers = 16;
struct Adjoints {
  bool float64;
  int state;  // LSTM: 0 h, 1 c (with h as a function of it), 2 both
  int threads;
  std::int64_t layers, T, B, count;
  const std::int64_t* targets;            // rising
  AdjointLayer layer[kMaxAdjointLayers];  // from the bottom of the stack
};

// A layer that takes one step at a time and keeps its state. Its weights are packed by input: row i has what number i
// of the input adds to each sum, gate after gate. A gate has P columns, H rounded up to kStreamPad, of which those
// beyond H have weights of zero and are never read; P' is R rounded up.
constexpr std::int64_t kStreamPad = 16;  // numbers of the widest vector
inline std::int64_t stream_padded(std::int64_t n) { return (n + kStreamPad - 1) / kStreamPad * kStreamPad; }
struct StreamLayer {
  Cell cell;
  std::int64_t I, H, R;
  const void *w_ih, *w_hh, *w_hr;  // (I, G P), (R, G P), (H, P'); w_hr null without a projection
  const void *b, *b_hn;            // (G P) b_ih + b_hh, (P) of a GRU's n b_hn alone; null without biases
  void *h, *c;                     // (B, P'), (B, P)
};
struct Stream {
  bool float64;
  std::int64_t B, layers;
  const StreamLayer* layer;  // from the bottom of the stack
  const void* x;             // (B, I)
  void* out;                 // (B, R) of the last layer
  void* sums;                // working memory: 9 P of the widest layer
};

// Built once per instruction set.
struct Kernels {
  const char* name;
  void (*forward)(const Layer&);
  void (*backward)(const Layer&);
  void (*adjoints)(const Adjoints&);
  void (*stream)(const Stream&);
  // c (M x N) = a (M x K) b (K x N), or b given as (N x K)
  void (*matmul)(bool float64, void* c, const void* a, const void* b, bool b_transposed, std::int64_t M, std::int64_t N,
                 std::int64_t K, int threads);
  // y = tanh(x) or the logistic function, for tests
  void (*activation)(bool float64, bool logistic, void* y, const void* x, std::int64_t n);
  // runs multiply-adds that touch no memory on `threads` threads; returns how many floating-point operations
  double (*flops)(int threads, std::int64_t repeats);
};

}  // namespace retrograde
