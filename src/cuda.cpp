#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>

#include "gil.hpp"
#include "launch_cuda.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_cuda, module) {
  using namespace py::literals;
  module.doc() =
      "CUDA kernels compiled ahead of time. Use synbench_fast.ops, which checks and documents its arguments.";
  module.attr("architectures") = SYNBENCH_CUDA_ARCHITECTURES;
  module.def("kernel_names", &synbench::kernel_names);
  module.def("device_count", &synbench::device_count);
  module.def(
      "launch",
      [](const std::string& name, const std::array<std::uint32_t, 3>& grid, std::uint32_t threads, int device,
         std::uintptr_t stream, const std::vector<std::uint64_t>& words) {
        std::string wrong;
        {
          synbench::WithoutGil released;
          wrong = synbench::launch_kernel(name, grid.data(), threads, device, reinterpret_cast<void*>(stream), words);
        }
        if (!wrong.empty()) throw std::runtime_error(wrong);
      },
      "name"_a, "grid"_a, "threads"_a, "device"_a, "stream"_a, "words"_a);
}
