#include <pybind11/pybind11.h>

#include <string>

#include "parallel.hpp"

namespace py = pybind11;

namespace synbench {
void bind_sample_mixture(py::module_&);
void bind_filter_spectrum(py::module_&);
void bind_robust_solve(py::module_&);
void bind_score_sweep(py::module_&);
void bind_score_auc(py::module_&);
void bind_nuclear_norm(py::module_&);
void bind_families(py::module_&);
}  // namespace synbench

// The instruction set that the dispatched functions run on.
static std::string simd_level() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4 (AVX-512)";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3 (AVX2)";
  return "x86-64 (SSE2)";
#else
  return "baseline";
#endif
}

PYBIND11_MODULE(_core, module) {
  module.doc() = "Compiled core of synbench_fast. Use synbench_fast.ops, which checks and documents its arguments.";
  module.def("simd_level", &simd_level);
  synbench::bind_sample_mixture(module);
  synbench::bind_filter_spectrum(module);
  synbench::bind_robust_solve(module);
  synbench::bind_score_sweep(module);
  synbench::bind_score_auc(module);
  synbench::bind_nuclear_norm(module);
  synbench::bind_families(module);
}
