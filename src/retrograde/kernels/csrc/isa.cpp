// Compiled once per instruction set, with -DRETROGRADE_SET=<name> and that set's flags.
#include "adjoint.hpp"
#include "sweep.hpp"

namespace retrograde {
namespace RETROGRADE_SET {
namespace {

void run_forward(const Layer& l) {
  switch (l.cell) {
    case Cell::kTanh: return l.float64 ? forward<double, Cell::kTanh>(l) : forward<float, Cell::kTanh>(l);
    case Cell::kRelu: return l.float64 ? forward<double, Cell::kRelu>(l) : forward<float, Cell::kRelu>(l);
    case Cell::kGru: return l.float64 ? forward<double, Cell::kGru>(l) : forward<float, Cell::kGru>(l);
    case Cell::kLstm: return l.float64 ? forward<double, Cell::kLstm>(l) : forward<float, Cell::kLstm>(l);
  }
}

void run_backward(const Layer& l) {
  switch (l.cell) {
    case Cell::kTanh: return l.float64 ? backward<double, Cell::kTanh>(l) : backward<float, Cell::kTanh>(l);
    case Cell::kRelu: return l.float64 ? backward<double, Cell::kRelu>(l) : backward<float, Cell::kRelu>(l);
    case Cell::kGru: return l.float64 ? backward<double, Cell::kGru>(l) : backward<float, Cell::kGru>(l);
    case Cell::kLstm: return l.float64 ? backward<double, Cell::kLstm>(l) : backward<float, Cell::kLstm>(l);
  }
}

void run_adjoints(const Adjoints& a) { return a.float64 ? adjoints<double>(a) : adjoints<float>(a); }

template <class T>
void matmul(T* c, const T* a, const T* b, bool b_transposed, Index M, Index N, Index K, int threads) {
  Lease lease(M * N * K > 1000000 ? threads : 1);
  const Index panels = parts(N, kPanel<T>);
  Room measure(nullptr);
  measure.take<T>(panels * kPanel<T> * K);
  measure.take<T>(kBlockRoom<T> * lease.size());
  Room room(static_cast<char*>(scratch_memory(measure.used())));
  T* const packed = room.take<T>(panels * kPanel<T> * K);
  T* const blocks = room.take<T>(kBlockRoom<T> * lease.size());
  auto region = [&](Team& team, int thread) {
    const FlushSubnormals flush;
    const int n = team.size();
    const T* source[kPanel<T>];
    for (Index p = panels * thread / n; p < panels * (thread + 1) / n; ++p) {
      T* const to = packed + p * kPanel<T> * K;
      if (b_transposed) {
        for (Index j = 0; j < kPanel<T>; ++j)
          source[j] = p * kPanel<T> + j < N ? b + (p * kPanel<T> + j) * K : nullptr;
        pack_transposed<T>(to, source, K);
      } else {
        pack_rows<T>(to, [&](Index k) { return b + k * N + p * kPanel<T>; }, K, smaller(kPanel<T>, N - p * kPanel<T>));
      }
    }
    team.barrier();
    const Index m0 = M * thread / n, m1 = M * (thread + 1) / n;
    product_exact<T>(c + m0 * N, N, a + m0 * K, K, m1 - m0, packed, N, K, false, nullptr,
                     blocks + thread * kBlockRoom<T>);
  };
  lease.run(lease.size(), region);
  release_scratch();
}

void run_matmul(bool float64, void* c, const void* a, const void* b, bool b_transposed, Index M, Index N, Index K,
                int threads) {
  if (float64)
    matmul(static_cast<double*>(c), static_cast<const double*>(a), static_cast<const double*>(b), b_transposed, M, N, K,
           threads);
  else
    matmul(static_cast<float*>(c), static_cast<const float*>(a), static_cast<const float*>(b), b_transposed, M, N, K,
           threads);
}

template <class T> void activate(bool logistic, T* y, const T* x, Index n) {
  for (Index i = 0; i < n; i += kWidth<T>) {
    const int lanes = static_cast<int>(smaller(kWidth<T>, n - i));
    const Vec<T> v = load_first(x + i, lanes < kWidth<T> ? lanes : kWidth<T> - 1);
    Vec<T> in = lanes < kWidth<T> ? v : load(x + i);
    in = logistic ? sigmoid<T>(in) : tanh<T>(in);
    if (lanes < kWidth<T>) store_first(y + i, in, lanes);
    else store(y + i, in);
  }
}

void run_activation(bool float64, bool logistic, void* y, const void* x, Index n) {
  const FlushSubnormals flush;
  if (float64) activate(logistic, static_cast<double*>(y), static_cast<const double*>(x), n);
  else activate(logistic, static_cast<float*>(y), static_cast<const float*>(x), n);
}

// Multiply-adds on registers alone, as many in flight as the processor can take.
double run_flops(int threads, Index repeats) {
  constexpr int chains = 12;
  Lease lease(threads);
  float results[256] = {};
  auto region = [&](Team& team, int thread) {
    Vec<float> acc[chains];
    volatile float seed = 0.5f;
    for (int i = 0; i < chains; ++i) acc[i] = splat<float>(seed + static_cast<float>(i));
    Vec<float> x = splat<float>(seed), y = splat<float>(seed);
    team.barrier();
    for (Index r = 0; r < repeats; ++r) {
#pragma GCC unroll 12
      for (int i = 0; i < chains; ++i) acc[i] = acc[i] * x + y;
#if defined(__x86_64__)
      __asm__ volatile("" : "+v"(x), "+v"(y));
#elif defined(__aarch64__)
      __asm__ volatile("" : "+w"(x), "+w"(y));
#endif
    }
    for (int i = 1; i < chains; ++i) acc[0] += acc[i];
    results[thread % 256] = acc[0][0];
  };
  lease.run(lease.size(), region);
  volatile float sink = results[0];
  (void)sink;
  return 2.0 * chains * kWidth<float> * static_cast<double>(repeats) * lease.size();
}

}  // namespace

#define RG_NAME_(x) #x
#define RG_NAME(x) RG_NAME_(x)
extern const Kernels kernels;
const Kernels kernels = {RG_NAME(RETROGRADE_SET), run_forward, run_backward, run_adjoints, run_matmul, run_activation, run_flops};

}  // namespace RETROGRADE_SET
}  // namespace retrograde
