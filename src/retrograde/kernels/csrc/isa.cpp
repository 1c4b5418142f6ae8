// Compiled once per instruction set, with -DRETROGRADE_SET=<name> and that set's flags.
#include "adjoint.hpp"
#include "backward.hpp"
#include "forward.hpp"
#include "stream.hpp"

namespace retrograde {
namespace RETROGRADE_SET {
namespace {

// Calls run(number, cell), whose types say which precision and which cell to compile for.
template <class Run> void dispatch(bool float64, Cell cell, Run run) {
  const auto with_type = [&](auto number) {
    switch (cell) {
      case Cell::kTanh: return run(number, std::integral_constant<Cell, Cell::kTanh>());
      case Cell::kRelu: return run(number, std::integral_constant<Cell, Cell::kRelu>());
      case Cell::kGru: return run(number, std::integral_constant<Cell, Cell::kGru>());
      case Cell::kLstm: return run(number, std::integral_constant<Cell, Cell::kLstm>());
    }
  };
  if (float64) with_type(double());
  else with_type(float());
}

void run_forward(const Layer& l) {
  dispatch(l.float64, l.cell, [&](auto number, auto cell) { forward<decltype(number), cell.value>(l); });
}
void run_backward(const Layer& l) {
  dispatch(l.float64, l.cell, [&](auto number, auto cell) { backward<decltype(number), cell.value>(l); });
}
void run_adjoints(const Adjoints& a) { return a.float64 ? adjoints<double>(a) : adjoints<float>(a); }

void run_stream(const Stream& s) {
  const FlushSubnormals flush;
  const std::size_t size = s.float64 ? sizeof(double) : sizeof(float);
  for (Index b = 0; b < s.B; ++b) {
    const void* x = static_cast<const char*>(s.x) + static_cast<std::size_t>(b * s.layer[0].I) * size;
    for (Index i = 0; i < s.layers; ++i)
      dispatch(s.float64, s.layer[i].cell, [&](auto number, auto cell) {
        using T = decltype(number);
        x = stream_layer<T, cell.value>(s.layer[i], b, static_cast<const T*>(x), static_cast<T*>(s.sums));
      });
    const std::size_t row = static_cast<std::size_t>(s.layer[s.layers - 1].R) * size;
    std::memcpy(static_cast<char*>(s.out) + static_cast<std::size_t>(b) * row, x, row);
  }
}

template <class T>
void matmul(T* c, const T* a, const T* b, bool b_transposed, Index M, Index N, Index K, int threads) {
  TeamLock lock(M * N * K > 1000000 ? threads : 1);
  const Index panels = ceil_div(N, kPanel<T>);
  T *packed, *blocks;
  allocate_scratch([&](Arena& arena) {
    packed = arena.allocate<T>(panels * kPanel<T> * K);
    blocks = arena.allocate<T>(kBlockWorkspace<T> * lock.size());
  });
  auto region = [&](Team& team, int thread) {
    const FlushSubnormals flush;
    const int n = team.size();
    if (b_transposed) pack_panels_transposed<T>(packed, b, N, K, thread, n);
    else pack_panels<T>(packed, [&](Index k) { return b + k * N; }, N, K, thread, n);
    team.barrier();
    const Index m0 = M * thread / n, m1 = M * (thread + 1) / n;
    product_exact<T>(c + m0 * N, N, a + m0 * K, K, m1 - m0, packed, N, K, false, nullptr,
                     blocks + thread * kBlockWorkspace<T>);
  };
  lock.run(lock.size(), region);
  release_scratch();
}

void run_matmul(bool float64, void* c, const void* a, const void* b, bool b_transposed, Index M, Index N, Index K,
                int threads) {
  const auto run = [&](auto number) {
    using T = decltype(number);
    matmul(static_cast<T*>(c), static_cast<const T*>(a), static_cast<const T*>(b), b_transposed, M, N, K, threads);
  };
  if (float64) run(double());
  else run(float());
}

template <class T> void activations(bool logistic, T* y, const T* x, Index n) {
  for (Index i = 0; i < n; i += kWidth<T>) {
    const int lanes = static_cast<int>(min(kWidth<T>, n - i));
    Vec<T> in[] = {lanes < kWidth<T> ? load_first(x + i, lanes) : load(x + i)};
    activate<T>(in, [&](int) { return !logistic; });
    if (lanes < kWidth<T>) store_first(y + i, in[0], lanes);
    else store(y + i, in[0]);
  }
}

void run_activation(bool float64, bool logistic, void* y, const void* x, Index n) {
  const FlushSubnormals flush;
  if (float64) activations(logistic, static_cast<double*>(y), static_cast<const double*>(x), n);
  else activations(logistic, static_cast<float*>(y), static_cast<const float*>(x), n);
}

// Multiply-adds on registers alone, enough independent ones to keep the processor's units busy.
double run_flops(int threads, Index repeats) {
  constexpr int chains = 12;
  TeamLock lock(threads);
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
  lock.run(lock.size(), region);
  volatile float sink = results[0];
  (void)sink;
  return 2.0 * chains * kWidth<float> * static_cast<double>(repeats) * lock.size();
}

}  // namespace

#define RG_NAME_(x) #x
#define RG_NAME(x) RG_NAME_(x)
extern const Kernels kernels;
const Kernels kernels = {RG_NAME(RETROGRADE_SET), run_forward, run_backward, run_adjoints, run_stream, run_matmul,
                         run_activation,          run_flops};

}  // namespace RETROGRADE_SET
}  // namespace retrograde
