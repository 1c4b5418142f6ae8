// The Python face of the engine: pointers and sizes in, nothing out but what was written through the pointers.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "layer.hpp"

namespace nb = nanobind;

namespace retrograde {

#if defined(RETROGRADE_X86)
namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
#elif defined(RETROGRADE_ARM64)
namespace neon {
extern const Kernels kernels;
}
#endif
namespace portable {
extern const Kernels kernels;
}

namespace {

// Widest first.
std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> found;
#if defined(RETROGRADE_X86)
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (fma && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    found.push_back(&avx512::kernels);
  if (fma) found.push_back(&avx2::kernels);
#elif defined(RETROGRADE_ARM64)
  found.push_back(&neon::kernels);
#endif
  found.push_back(&portable::kernels);
  return found;
}

const Kernels* chosen = runnable().front();

using Pointer = std::uintptr_t;
template <class P = void*> P pointer(Pointer p) { return reinterpret_cast<P>(p); }

Layer describe(int cell, bool float64, bool reverse, const std::int64_t* sizes, Pointer batch_sizes, int threads) {
  Layer l{};
  l.cell = static_cast<Cell>(cell);
  l.float64 = float64;
  l.reverse = reverse;
  l.T = sizes[0];
  l.B = sizes[1];
  l.I = sizes[2];
  l.H = sizes[3];
  l.R = sizes[4];
  l.batch_sizes = pointer<const std::int64_t*>(batch_sizes);
  l.rows = l.T * l.B;
  if (l.batch_sizes) {
    l.rows = 0;
    for (std::int64_t t = 0; t < l.T; ++t) l.rows += l.batch_sizes[t];
  }
  l.threads = threads;
  return l;
}

void layer_forward(int cell, bool float64, bool reverse, std::int64_t T, std::int64_t B, std::int64_t I, std::int64_t H,
                   std::int64_t R, Pointer batch_sizes, int threads, Pointer x, std::int64_t x_stride, Pointer h_0,
                   Pointer c_0, Pointer w_ih, Pointer w_hh, Pointer b_ih, Pointer b_hh, Pointer w_hr, Pointer out,
                   std::int64_t out_stride, Pointer h_n, Pointer c_n, Pointer gates, Pointer cells,
                   std::int64_t segment) {
  const std::int64_t sizes[] = {T, B, I, H, R};
  Layer l = describe(cell, float64, reverse, sizes, batch_sizes, threads);
  l.x = pointer(x), l.x_stride = x_stride;
  l.h_0 = pointer(h_0), l.c_0 = pointer(c_0);
  l.w_ih = pointer(w_ih), l.w_hh = pointer(w_hh), l.b_ih = pointer(b_ih), l.b_hh = pointer(b_hh), l.w_hr = pointer(w_hr);
  l.out = pointer(out), l.out_stride = out_stride;
  l.h_n = pointer(h_n), l.c_n = pointer(c_n);
  l.gates = pointer(gates), l.cells = pointer(cells), l.segment = segment;
  nb::gil_scoped_release free_python;
  chosen->forward(l);
}

// Each layer as twelve numbers: cell, H, I, and the pointers of AdjointLayer in their order.
void adjoint_norms(bool float64, int state, int threads, std::int64_t T, std::int64_t B, std::int64_t count,
                   Pointer targets, const std::vector<std::vector<Pointer>>& layers) {
  if (layers.size() > static_cast<std::size_t>(kMostAdjointLayers)) throw std::invalid_argument("too many layers");
  Adjoints a{};
  a.float64 = float64, a.state = state, a.threads = threads;
  a.T = T, a.B = B, a.count = count, a.targets = pointer<const std::int64_t*>(targets);
  for (const std::vector<Pointer>& n : layers) {
    if (n.size() != 12) throw std::invalid_argument("a layer is twelve numbers");
    AdjointLayer& l = a.layer[a.layers++];
    l.cell = static_cast<Cell>(n[0]), l.H = static_cast<std::int64_t>(n[1]), l.I = static_cast<std::int64_t>(n[2]);
    l.k = pointer(n[3]), l.k_side = pointer(n[4]), l.q = pointer(n[5]), l.f = pointer(n[6]), l.pass = pointer(n[7]);
    l.w_hh = pointer(n[8]), l.w_ih = pointer(n[9]), l.local = pointer(n[10]), l.norms = pointer<double*>(n[11]);
  }
  nb::gil_scoped_release free_python;
  chosen->adjoints(a);
}

void layer_backward(int cell, bool float64, bool reverse, std::int64_t T, std::int64_t B, std::int64_t I, std::int64_t H,
                    std::int64_t R, Pointer batch_sizes, int threads, Pointer x, std::int64_t x_stride, Pointer h_0,
                    Pointer c_0, Pointer w_ih, Pointer w_hh, Pointer b_ih, Pointer b_hh, Pointer w_hr, Pointer out,
                    std::int64_t out_stride, Pointer gates, Pointer cells, std::int64_t segment, Pointer grad_out,
                    std::int64_t grad_out_stride, Pointer grad_h_n, Pointer grad_c_n, Pointer grad_x,
                    std::int64_t grad_x_stride, bool grad_x_add, Pointer grad_w_ih, Pointer grad_w_hh, Pointer grad_b,
                    Pointer grad_b_hh, Pointer grad_w_hr, Pointer grad_h_0, Pointer grad_c_0) {
  const std::int64_t sizes[] = {T, B, I, H, R};
  Layer l = describe(cell, float64, reverse, sizes, batch_sizes, threads);
  l.x = pointer(x), l.x_stride = x_stride;
  l.h_0 = pointer(h_0), l.c_0 = pointer(c_0);
  l.w_ih = pointer(w_ih), l.w_hh = pointer(w_hh), l.b_ih = pointer(b_ih), l.b_hh = pointer(b_hh), l.w_hr = pointer(w_hr);
  l.out = pointer(out), l.out_stride = out_stride;
  l.gates = pointer(gates), l.cells = pointer(cells), l.segment = segment;
  l.grad_out = pointer(grad_out), l.grad_out_stride = grad_out_stride;
  l.grad_h_n = pointer(grad_h_n), l.grad_c_n = pointer(grad_c_n);
  l.grad_x = pointer(grad_x), l.grad_x_stride = grad_x_stride, l.grad_x_add = grad_x_add;
  l.grad_w_ih = pointer(grad_w_ih), l.grad_w_hh = pointer(grad_w_hh);
  l.grad_b = pointer(grad_b), l.grad_b_hh = pointer(grad_b_hh), l.grad_w_hr = pointer(grad_w_hr);
  l.grad_h_0 = pointer(grad_h_0), l.grad_c_0 = pointer(grad_c_0);
  nb::gil_scoped_release free_python;
  chosen->backward(l);
}

}  // namespace
}  // namespace retrograde

NB_MODULE(_engine, m) {
  using namespace retrograde;
  m.doc() = "Native kernels of retrograde.";
  m.def("instruction_set", [] { return std::string(chosen->name); });
  m.def("runnable", [] {
    std::vector<std::string> names;
    for (const Kernels* k : runnable()) names.emplace_back(k->name);
    return names;
  });
  m.def("choose", [](const std::string& name) {
    for (const Kernels* k : runnable())
      if (name == k->name) {
        chosen = k;
        return;
      }
    throw std::invalid_argument("no such instruction set here: " + name);
  });
  m.def("forward", &layer_forward);
  m.def("backward", &layer_backward);
  m.def("adjoint_norms", &adjoint_norms);
  m.def("chunk_steps", [](int cell, bool float64, std::int64_t T, std::int64_t B, std::int64_t H) {
    const std::int64_t sizes[] = {T, B, 0, H, H};
    return chunk_steps(describe(cell, float64, false, sizes, 0, 1));
  });
  m.def("matmul", [](bool float64, Pointer c, Pointer a, Pointer b, bool b_transposed, std::int64_t M, std::int64_t N,
                     std::int64_t K, int threads) {
    nb::gil_scoped_release free_python;
    chosen->matmul(float64, pointer(c), pointer(a), pointer(b), b_transposed, M, N, K, threads);
  });
  m.def("activation", [](bool float64, bool logistic, Pointer y, Pointer x, std::int64_t n) {
    chosen->activation(float64, logistic, pointer(y), pointer(x), n);
  });
  m.def("flops", [](int threads, std::int64_t repeats) {
    nb::gil_scoped_release free_python;
    return chosen->flops(threads, repeats);
  });
}
