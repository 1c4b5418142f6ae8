// The Python face of the engine: pointers and sizes in, nothing out but what was written through the pointers.
//
// Python has compared the shapes (native.py). What it cannot see cheaply is checked here: batch sizes and targets,
// which are data, and pointers to storage that has been freed.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "layer.hpp"
#include "pool.hpp"

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

void require(bool holds, const char* otherwise) {
  if (!holds) throw std::invalid_argument(otherwise);
}
void require_memory(Pointer p, std::int64_t numbers, const char* otherwise) { require(p != 0 || numbers == 0, otherwise); }

Layer describe(int cell, bool float64, bool reverse, const std::int64_t* sizes, std::int64_t rows, Pointer batch_sizes,
               int threads) {
  require(cell >= 0 && cell <= 3, "no such cell");
  for (int i = 0; i < 5; ++i) require(sizes[i] >= (i < 3 ? 0 : 1), "a size is negative, or a layer has no units");
  require(threads >= 1, "at least one thread is needed");
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
  l.rows = rows;
  if (l.batch_sizes) {
    std::int64_t sum = 0, before = l.B;
    for (std::int64_t t = 0; t < l.T; ++t) {
      require(l.batch_sizes[t] >= 1 && l.batch_sizes[t] <= before, "batch_sizes must be at least 1 and never grow");
      sum += before = l.batch_sizes[t];
    }
    require(sum == rows, "batch_sizes must add up to the number of rows");
  } else {
    require(l.T * l.B == rows, "the number of rows must be T * B");
  }
  l.threads = threads;
  return l;
}

constexpr const char* kNoMemory = "a tensor has a shape but no memory (was its storage freed?)";

void layer_forward(int cell, bool float64, bool reverse, std::int64_t T, std::int64_t B, std::int64_t I, std::int64_t H,
                   std::int64_t R, std::int64_t rows, Pointer batch_sizes, int threads, Pointer x, std::int64_t x_stride, Pointer h_0,
                   Pointer c_0, Pointer w_ih, Pointer w_hh, Pointer b_ih, Pointer b_hh, Pointer w_hr, Pointer out,
                   std::int64_t out_stride, Pointer h_n, Pointer c_n, Pointer gates, Pointer cells,
                   std::int64_t segment) {
  const std::int64_t sizes[] = {T, B, I, H, R};
  Layer l = describe(cell, float64, reverse, sizes, rows, batch_sizes, threads);
  for (Pointer p : {w_hh, out}) require_memory(p, rows, kNoMemory);
  for (Pointer p : {x, w_ih}) require_memory(p, rows * I, kNoMemory);
  l.x = pointer(x), l.x_stride = x_stride;
  l.h_0 = pointer(h_0), l.c_0 = pointer(c_0);
  l.w_ih = pointer(w_ih), l.w_hh = pointer(w_hh), l.b_ih = pointer(b_ih), l.b_hh = pointer(b_hh), l.w_hr = pointer(w_hr);
  l.out = pointer(out), l.out_stride = out_stride;
  l.h_n = pointer(h_n), l.c_n = pointer(c_n);
  l.gates = pointer(gates), l.cells = pointer(cells), l.segment = segment;
  require_memory(h_n, B, kNoMemory);
  if (l.cell == Cell::kLstm) require_memory(c_n, B, kNoMemory);
  nb::gil_scoped_release free_python;
  chosen->forward(l);
}

// Each layer as twelve numbers: cell, H, I, and the pointers of AdjointLayer in their order.
void adjoint_norms(bool float64, int state, int threads, std::int64_t T, std::int64_t B, std::int64_t count,
                   Pointer targets, std::int64_t layers, Pointer described) {
  require(layers >= 1 && layers <= kMostAdjointLayers, "too many layers, or none");
  require(T >= 1 && B >= 1 && count >= 1 && threads >= 1 && targets && described, kNoMemory);
  Adjoints a{};
  a.float64 = float64, a.state = state, a.threads = threads;
  a.T = T, a.B = B, a.count = count, a.targets = pointer<const std::int64_t*>(targets);
  for (std::int64_t j = 0; j < count; ++j)
    require(a.targets[j] >= (j ? a.targets[j - 1] + 1 : 0) && a.targets[j] < T, "targets must rise, from 0 to T - 1");
  for (const std::int64_t* n = pointer<const std::int64_t*>(described); a.layers < layers; n += 12) {
    AdjointLayer& l = a.layer[a.layers++];
    const auto at = [&](int i) { return pointer(static_cast<Pointer>(n[i])); };
    l.cell = static_cast<Cell>(n[0]), l.H = n[1], l.I = n[2];
    l.k = at(3), l.k_side = at(4), l.q = at(5), l.f = at(6), l.pass = at(7);
    l.w_hh = at(8), l.w_ih = at(9), l.local = at(10), l.norms = static_cast<double*>(at(11));
    const bool lstm = l.cell == Cell::kLstm;
    require(l.k && l.w_hh && (l.w_ih || a.layers == 1) && l.local && l.norms, kNoMemory);
    require((l.k_side || n[0] < 2) && (!lstm || (l.q && l.f)), "a layer lacks what its cell needs");
  }
  nb::gil_scoped_release free_python;
  chosen->adjoints(a);
}

void layer_backward(int cell, bool float64, bool reverse, std::int64_t T, std::int64_t B, std::int64_t I, std::int64_t H,
                    std::int64_t R, std::int64_t rows, Pointer batch_sizes, int threads, Pointer x, std::int64_t x_stride, Pointer h_0,
                    Pointer c_0, Pointer w_ih, Pointer w_hh, Pointer b_ih, Pointer b_hh, Pointer w_hr, Pointer out,
                    std::int64_t out_stride, Pointer gates, Pointer cells, std::int64_t segment, Pointer grad_out,
                    std::int64_t grad_out_stride, Pointer grad_h_n, Pointer grad_c_n, Pointer grad_x,
                    std::int64_t grad_x_stride, bool grad_x_add, Pointer grad_w_ih, Pointer grad_w_hh, Pointer grad_b,
                    Pointer grad_b_hh, Pointer grad_w_hr, Pointer grad_h_0, Pointer grad_c_0) {
  const std::int64_t sizes[] = {T, B, I, H, R};
  Layer l = describe(cell, float64, reverse, sizes, rows, batch_sizes, threads);
  for (Pointer p : {w_hh, out}) require_memory(p, rows, kNoMemory);
  for (Pointer p : {x, w_ih}) require_memory(p, rows * I, kNoMemory);
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
  if ((l.cell == Cell::kLstm || l.cell == Cell::kGru) && segment == 0) require_memory(gates, rows, kNoMemory);
  if (l.cell == Cell::kLstm) require_memory(cells, rows, kNoMemory);
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
  m.def("choose", [](const char* name) {
    for (const Kernels* k : runnable())
      if (std::strcmp(name, k->name) == 0) {
        chosen = k;
        return;
      }
    throw std::invalid_argument("no such instruction set here");
  });
  m.def("fail_allocation", &fail_allocation);
  m.def("forward", &layer_forward);
  m.def("backward", &layer_backward);
  m.def("adjoint_norms", &adjoint_norms);
  m.def("chunk_steps", [](int cell, bool float64, std::int64_t T, std::int64_t B, std::int64_t H) {
    const std::int64_t sizes[] = {T, B, 0, H, H};
    return chunk_steps(describe(cell, float64, false, sizes, T * B, 0, 1));
  });
  m.def("matmul", [](bool float64, Pointer c, Pointer a, Pointer b, bool b_transposed, std::int64_t M, std::int64_t N,
                     std::int64_t K, int threads) {
    require(M >= 0 && N >= 0 && K >= 0 && threads >= 1, "a size is negative, or there is no thread");
    require_memory(c, M * N, kNoMemory);
    require_memory(a, M * K, kNoMemory);
    require_memory(b, K * N, kNoMemory);
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
