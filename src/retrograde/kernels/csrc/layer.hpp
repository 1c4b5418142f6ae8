// What Python and the kernels say to one another: one layer in one direction, as plain pointers and sizes.
//
// Shapes, with rows = T * B (packed sequences: the sum of batch_sizes) and G gates:
//   x (rows, I)  h_0, h_n (B, R)  c_0, c_n (B, H)  w_ih (G H, I)  w_hh (G H, R)  b (G H)  w_hr (R, H)
//   out (rows, R)  gates (rows, G' H)  cells (rows, H)
// R is the size of h_t: the projection's where there is one, otherwise H. All are contiguous except those
// with a row stride of their own. Null pointers: not given, or not asked for.
#pragma once
#include <cstdint>

namespace retrograde {

enum class Cell : int { kTanh = 0, kRelu = 1, kGru = 2, kLstm = 3 };

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
  void* gates;                // G' = 1 (RNN: unused), 4 (GRU: r, z, n, U_n h + b_hn), 4 (LSTM: i, f, g, o)
  void* cells;                // LSTM: c_t of every step, or of every `segment`-th step
  std::int64_t segment;       // 0: everything was kept; otherwise states only at the start of each segment of steps

  // backward only
  const void* grad_out;
  std::int64_t grad_out_stride;
  const void *grad_h_n, *grad_c_n;
  void* grad_x;
  std::int64_t grad_x_stride;
  bool grad_x_add;
  void *grad_w_ih, *grad_w_hh, *grad_b, *grad_b_hh, *grad_w_hr, *grad_h_0, *grad_c_0;
};

// Steps of a chunk of the sweep: enough rows for the large products, and not much more than a cache holds. It
// depends on the problem alone, since sums over time are cut at the chunks.
inline std::int64_t chunk_steps(const Layer& l) {
  const std::int64_t gates = l.cell == Cell::kLstm || l.cell == Cell::kGru ? 4 : 1;
  const std::int64_t row = gates * l.H * (l.float64 ? 8 : 4), cache = std::int64_t{1} << 18;
  const std::int64_t rows = row > 0 && cache / row > 512 ? cache / row : 512;
  const std::int64_t steps = l.B > 0 ? rows / l.B : rows;
  return steps < 1 ? 1 : steps < l.T || l.T < 1 ? steps : l.T;
}

// A stack of layers as the coefficients of its linearisation, and the norms of its adjoints.
struct AdjointLayer {
  Cell cell;
  std::int64_t H, I;
  // (T, B, .): k (H; GRU and LSTM 3 H) towards W_hh h; k_side (H) the GRU's n towards W_ih x, the LSTM's o;
  // q = dh/dc and f (H), LSTM; pass (H), what of dE/dh_k reaches h_{k-1} past W_hh, or null
  const void *k, *k_side, *q, *f, *pass;
  const void *w_hh, *w_ih;  // (G H, H), (G H, I)
  const void* local;        // (T, B, H) dE_t/d(output_t)
  double* norms;            // (count, B, T)
};
constexpr std::int64_t kMostAdjointLayers = 16;
struct Adjoints {
  bool float64;
  int state;  // LSTM: 0 h, 1 c with h following it, 2 both
  int threads;
  std::int64_t layers, T, B, count;
  const std::int64_t* targets;  // rising
  AdjointLayer layer[kMostAdjointLayers];  // from the bottom of the stack
};

// Built once per instruction set.
struct Kernels {
  const char* name;
  void (*forward)(const Layer&);
  void (*backward)(const Layer&);
  void (*adjoints)(const Adjoints&);
  // c (M x N) = a (M x K) b (K x N), or b given as (N x K)
  void (*matmul)(bool float64, void* c, const void* a, const void* b, bool b_transposed, std::int64_t M, std::int64_t N,
                 std::int64_t K, int threads);
  // y = tanh(x) or the logistic function, for tests
  void (*activation)(bool float64, bool logistic, void* y, const void* x, std::int64_t n);
  // seconds for a fixed number of multiply-adds that touch no memory, per call on `threads` threads; returns flops
  double (*flops)(int threads, std::int64_t repeats);
};

}  // namespace retrograde
