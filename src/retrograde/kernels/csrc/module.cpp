// The Python face of the engine: tensors and sizes in, nothing out but what was written to the tensors.
//
// Python has compared the shapes (shapes.py). What it cannot see cheaply is checked here: batch sizes and targets,
// which are data, and tensors whose storage has been freed. Tensors are asked for their `data_ptr()`, as Python would,
// so the engine needs no header and no library of torch. (nb::ndarray would go through DLPack, which takes longer for
// the tensors of one layer than a short sequence takes to compute.)
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "layer.hpp"
#include "pool.hpp"

namespace nb = nanobind;
using namespace nb::literals;

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
namespace naive {
extern const Kernels kernels;
}

namespace {

using Index = std::int64_t;

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

void choose(const std::string& name) {
  std::vector<const Kernels*> all = runnable();
  all.push_back(&naive::kernels);  // for tests
  for (const Kernels* k : all)
    if (name == k->name) {
      chosen = k;
      return;
    }
  throw std::invalid_argument("no such instruction set here");
}

// ---- what Python hands over ------------------------------------------------------------------------------

// Arrives in Python as retrograde.errors.OptionError.
struct Refused : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
void require(bool condition, const char* otherwise) {
  if (!condition) throw Refused(otherwise);
}

// Where a tensor's numbers are; null for None.
void* pointer(nb::handle tensor) {
  static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
  if (tensor.is_none()) return nullptr;
  const nb::object address = nb::steal(PyObject_CallMethodNoArgs(tensor.ptr(), data_ptr));
  if (!address) throw nb::python_error();
  void* const p = PyLong_AsVoidPtr(address.ptr());
  if (!p)
    require(nb::cast<Index>(tensor.attr("numel")()) == 0,
            "the engine: a tensor has a shape but no memory (was its storage freed?)");
  return p;
}

template <class P> P* shifted(P* p, Index bytes) {
  return p ? static_cast<char*>(const_cast<void*>(p)) + bytes : nullptr;
}

// shapes.LayerSpec and shapes.Sizes: (cell, directions, bias, projected, recompute) and (T, B, I, H, R, rows).
using Spec = std::tuple<int, Index, bool, bool, bool>;
using Sizes = std::tuple<Index, Index, Index, Index, Index, Index>;

// A layer in one direction or both. It keeps no reference to the tensors: they must outlive it.
struct LayerCall {
  Layer whole{};  // tensors of both directions begin with the first
  Index directions;
  struct Direction {
    void* of[5];  // w_ih, w_hh, b_ih, b_hh, w_hr, or their gradients
  } weights[2];
  bool bias;

  LayerCall(const Spec& spec, const Sizes& sizes, bool float64, Index segment, int threads, nb::handle x,
            nb::handle h_0, nb::handle c_0, nb::sequence weights, nb::handle batch_sizes, nb::handle out,
            nb::handle gates, nb::handle cells) {
    Layer& l = whole;
    int cell;
    std::tie(cell, directions, bias, std::ignore, std::ignore) = spec;
    std::tie(l.T, l.B, l.I, l.H, l.R, l.rows) = sizes;
    require(cell >= 0 && cell <= 3 && (directions == 1 || directions == 2), "no such cell or number of directions");
    require(l.T >= 0 && l.B >= 0 && l.I >= 0 && l.H >= 1 && l.R >= 1 && segment >= 0,
            "a size is negative, or a layer has no units");
    require(threads >= 1, "at least one thread is needed");
    l.cell = static_cast<Cell>(cell), l.float64 = float64, l.segment = segment, l.threads = threads;
    l.x = pointer(x), l.x_stride = l.I;
    l.h_0 = pointer(h_0), l.c_0 = pointer(c_0);
    l.batch_sizes = static_cast<const Index*>(pointer(batch_sizes));
    l.out = pointer(out), l.out_stride = directions * l.R;
    l.gates = pointer(gates), l.cells = pointer(cells);
    for (Index d = 0; d < directions; ++d) this->weights[d] = direction_of(weights, d);
    check_rows();
  }

  // Part d of a flat list of weights, or of their gradients.
  Direction direction_of(nb::sequence list, Index d) const {
    const Index n = static_cast<Index>(nb::len(list)) / directions, biases = bias ? 2 : 0;
    require(n == 2 + biases || n == 3 + biases, "a layer has another number of weights");
    Direction found{};
    for (Index i = 0; i < n; ++i)
      found.of[i < 2 + biases ? i : 4] = pointer(nb::object(list[static_cast<std::size_t>(d * n + i)]));
    return found;
  }

  void check_rows() const {
    const Layer& l = whole;
    if (!l.batch_sizes) return require(l.T * l.B == l.rows, "the number of rows must be T * B");
    Index sum = 0, before = l.B;
    for (Index t = 0; t < l.T; ++t) {
      require(l.batch_sizes[t] >= 1 && l.batch_sizes[t] <= before, "batch_sizes must be at least 1 and never grow");
      sum += before = l.batch_sizes[t];
    }
    require(sum == l.rows, "batch_sizes must add up to the number of rows");
  }

  Index bytes(Index n) const { return n * (whole.float64 ? 8 : 4); }

  // Direction d alone.
  Layer direction(Index d) const {
    Layer l = whole;
    const Index kept_rows = l.segment ? (l.T + l.segment - 1) / l.segment * l.B : l.rows;
    l.reverse = d == 1;
    l.h_0 = shifted(l.h_0, bytes(d * l.B * l.R)), l.c_0 = shifted(l.c_0, bytes(d * l.B * l.H));
    l.out = shifted(l.out, bytes(d * l.R));
    l.gates = shifted(l.gates, bytes(d * l.rows * 4 * l.H)), l.cells = shifted(l.cells, bytes(d * kept_rows * l.H));
    const auto& w = weights[d].of;
    l.w_ih = w[0], l.w_hh = w[1], l.b_ih = w[2], l.b_hh = w[3], l.w_hr = w[4];
    return l;
  }
};

void forward(const LayerCall& call, nb::handle h_n, nb::handle c_n) {
  void *const h = pointer(h_n), *const c = pointer(c_n);
  nb::gil_scoped_release without_gil;
  for (Index d = 0; d < call.directions; ++d) {
    Layer l = call.direction(d);
    l.h_n = shifted(h, call.bytes(d * l.B * l.R)), l.c_n = shifted(c, call.bytes(d * l.B * l.H));
    chosen->forward(l);
  }
}

void backward(const LayerCall& call, nb::handle grad_out, nb::handle grad_h_n, nb::handle grad_c_n, nb::handle grad_x,
              nb::handle grad_h_0, nb::handle grad_c_0, nb::sequence grad_weights) {
  LayerCall::Direction gradients[2]{};
  for (Index d = 0; d < call.directions; ++d) gradients[d] = call.direction_of(grad_weights, d);
  Layer whole = call.whole;
  whole.grad_out = pointer(grad_out), whole.grad_h_n = pointer(grad_h_n), whole.grad_c_n = pointer(grad_c_n);
  whole.grad_x = pointer(grad_x), whole.grad_h_0 = pointer(grad_h_0), whole.grad_c_0 = pointer(grad_c_0);
  nb::gil_scoped_release without_gil;
  for (Index d = 0; d < call.directions; ++d) {
    Layer l = call.direction(d);
    const Index of_h = call.bytes(d * l.B * l.R), of_c = call.bytes(d * l.B * l.H);
    l.grad_out = shifted(whole.grad_out, call.bytes(d * l.R)), l.grad_out_stride = l.out_stride;
    l.grad_h_n = shifted(whole.grad_h_n, of_h), l.grad_c_n = shifted(whole.grad_c_n, of_c);
    l.grad_h_0 = shifted(whole.grad_h_0, of_h), l.grad_c_0 = shifted(whole.grad_c_0, of_c);
    l.grad_x = whole.grad_x, l.grad_x_stride = l.I, l.grad_x_add = d == 1;
    const auto& g = gradients[d].of;
    const bool gru = l.cell == Cell::kGru;
    l.grad_w_ih = g[0], l.grad_w_hh = g[1], l.grad_w_hr = g[4];
    l.grad_b = gru || g[2] ? g[2] : g[3], l.grad_b_hh = gru ? g[3] : nullptr;
    chosen->backward(l);
    if (!gru && g[2] && g[3]) std::memcpy(g[3], g[2], static_cast<std::size_t>(call.bytes(gates_of(l.cell) * l.H)));
  }
}

AdjointLayer adjoint_layer(int cell, Index H, Index I, nb::handle k, nb::handle k_side, nb::handle q, nb::handle f,
                           nb::handle passed, nb::handle w_hh, nb::handle w_ih, nb::handle local, nb::handle norms) {
  require(cell >= 0 && cell <= 3 && H >= 1 && I >= 0, "a layer has no such cell or no units");
  return {static_cast<Cell>(cell),
          H,
          I,
          pointer(k),
          pointer(k_side),
          pointer(q),
          pointer(f),
          pointer(passed),
          pointer(w_hh),
          pointer(w_ih),
          pointer(local),
          static_cast<double*>(pointer(norms))};
}

void adjoint_norms(bool float64, int state, int threads, Index T, Index B, nb::handle targets, Index count,
                   const std::vector<AdjointLayer>& layers) {
  require(!layers.empty() && layers.size() <= kMaxAdjointLayers, "too many layers, or none");
  require(T >= 1 && B >= 1 && count >= 1 && threads >= 1, "a size or the number of threads is not positive");
  Adjoints a{};
  a.float64 = float64, a.state = state, a.threads = threads;
  a.T = T, a.B = B, a.count = count, a.targets = static_cast<const Index*>(pointer(targets));
  for (Index j = 0; j < count; ++j)
    require(a.targets[j] >= (j ? a.targets[j - 1] + 1 : 0) && a.targets[j] < T, "targets must rise, from 0 to T - 1");
  for (const AdjointLayer& l : layers) {
    const bool lstm = l.cell == Cell::kLstm;
    require(
        l.k && l.w_hh && l.w_ih && l.local && l.norms && (l.k_side || gates_of(l.cell) == 1) && (!lstm || (l.q && l.f)),
        "a layer lacks a tensor that its cell needs");
    a.layer[a.layers++] = l;
  }
  nb::gil_scoped_release without_gil;
  chosen->adjoints(a);
}

void matmul(bool float64, nb::handle c, nb::handle a, nb::handle b, bool b_transposed, Index M, Index N, Index K,
            int threads) {
  require(M >= 0 && N >= 0 && K >= 0 && threads >= 1, "a size is negative, or there is no thread");
  void *const to = pointer(c), *const left = pointer(a), *const right = pointer(b);
  nb::gil_scoped_release without_gil;
  chosen->matmul(float64, to, left, right, b_transposed, M, N, K, threads);
}

// A stack of layers that keeps its state. Like a LayerCall it keeps no reference to the tensors.
class StreamCall {
 public:
  StreamCall(bool float64, Index B, nb::handle sums) : float64_(float64), B_(B), sums_(pointer(sums)) {
    require(B >= 1 && sums_, "a stream needs a sequence and working memory");
  }

  void add(int cell, Index I, Index H, Index R, nb::handle w_ih, nb::handle w_hh, nb::handle w_hr, nb::handle b,
           nb::handle b_hn, nb::handle h, nb::handle c) {
    require(cell >= 0 && cell <= 3 && I >= 1 && H >= 1 && R >= 1, "a layer has no such cell, no units or no input");
    const StreamLayer l{
        static_cast<Cell>(cell), I,          H,         R, pointer(w_ih), pointer(w_hh), pointer(w_hr), pointer(b),
        pointer(b_hn),           pointer(h), pointer(c)};
    require(l.w_ih && l.w_hh && l.h && (l.cell != Cell::kLstm || l.c) && (l.w_hr || R == H),
            "a layer lacks a tensor that its cell needs");
    require(layers_.empty() || layers_.back().R == I, "a layer's input must be the output of the one below");
    layers_.push_back(l);
  }

  void step(nb::handle x, nb::handle out) const {
    require(!layers_.empty(), "a stream needs a layer");
    chosen->stream({float64_, B_, static_cast<Index>(layers_.size()), layers_.data(), pointer(x), pointer(out), sums_});
  }

 private:
  bool float64_;
  Index B_;
  void* sums_;
  std::vector<StreamLayer> layers_;
};

Index chunk_steps_of(int cell, bool float64, Index T, Index B, Index H) {
  Layer l{};
  l.cell = static_cast<Cell>(cell), l.float64 = float64, l.T = T, l.B = B, l.H = H;
  return chunk_steps(l);
}

double flops(int threads, Index repeats) {
  nb::gil_scoped_release without_gil;
  return chosen->flops(threads, repeats);
}

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Refused& e) {
    PyErr_SetString(nb::module_::import_("retrograde.errors").attr("OptionError").ptr(), e.what());
  }
}

}  // namespace
}  // namespace retrograde

NB_MODULE(_engine, m) {
  using namespace retrograde;
  m.doc() = "Native kernels of retrograde.";
  m.attr("INTERFACE") = 3;  // another number in native.py: Python does not use this build
  nb::register_exception_translator(&translate);
  m.def("instruction_set", [] { return std::string(chosen->name); });
  m.def("runnable", [] {
    std::vector<std::string> names;
    for (const Kernels* k : runnable()) names.emplace_back(k->name);
    return names;
  });
  m.def("choose", &choose);
  m.def("fail_allocation", &fail_allocation);
  nb::class_<LayerCall>(m, "Layer")
      .def(nb::init<const Spec&, const Sizes&, bool, Index, int, nb::handle, nb::handle, nb::handle, nb::sequence,
                    nb::handle, nb::handle, nb::handle, nb::handle>(),
           "spec"_a, "sizes"_a, "float64"_a, "segment"_a, "threads"_a, "x"_a, "h_0"_a.none(), "c_0"_a.none(),
           "weights"_a, "batch_sizes"_a.none(), "out"_a, "gates"_a.none(), "cells"_a.none());
  m.def("forward", &forward, "layer"_a, "h_n"_a, "c_n"_a.none());
  m.def("backward", &backward, "layer"_a, "grad_out"_a.none(), "grad_h_n"_a.none(), "grad_c_n"_a.none(),
        "grad_x"_a.none(), "grad_h_0"_a.none(), "grad_c_0"_a.none(), "grad_weights"_a);
  nb::class_<AdjointLayer>(m, "AdjointLayer");
  m.def("adjoint_layer", &adjoint_layer, "cell"_a, "H"_a, "I"_a, "k"_a, "k_side"_a.none(), "q"_a.none(), "f"_a.none(),
        "passed"_a.none(), "w_hh"_a, "w_ih"_a, "local"_a, "norms"_a);
  m.def("adjoint_norms", &adjoint_norms, "float64"_a, "state"_a, "threads"_a, "T"_a, "B"_a, "targets"_a, "count"_a,
        "layers"_a);
  nb::class_<StreamCall>(m, "Stream")
      .def(nb::init<bool, Index, nb::handle>(), "float64"_a, "B"_a, "sums"_a)
      .def("add", &StreamCall::add, "cell"_a, "I"_a, "H"_a, "R"_a, "w_ih"_a, "w_hh"_a, "w_hr"_a.none(), "b"_a.none(),
           "b_hn"_a.none(), "h"_a, "c"_a.none())
      .def("step", &StreamCall::step, "x"_a, "out"_a);
  m.attr("STREAM_PAD") = kStreamPad;
  m.def("chunk_steps", &chunk_steps_of, "cell"_a, "float64"_a, "T"_a, "B"_a, "H"_a);
  m.def("matmul", &matmul, "float64"_a, "c"_a, "a"_a, "b"_a, "b_transposed"_a, "M"_a, "N"_a, "K"_a, "threads"_a);
  m.def("activation", [](bool float64, bool logistic, nb::handle y, nb::handle x, Index n) {
    chosen->activation(float64, logistic, pointer(y), pointer(x), n);
  });
  m.def("flops", &flops, "threads"_a, "repeats"_a);
}
