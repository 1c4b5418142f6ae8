// The Python face of the engine.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

namespace nb = nanobind;

// The widest instruction set this processor can run.
static std::string instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#elif defined(__aarch64__)
  return "neon";
#endif
  return "portable";
}

NB_MODULE(_engine, m) {
  m.doc() = "Native kernels of retrograde.";
  m.def("instruction_set", &instruction_set);
}
