#include "launch_cuda.hpp"

#include "cuda_kernels.cu"
#include "kernel_table.cuh"

namespace synbench {
namespace {

const std::vector<Kernel>& kernels() {
  static const std::vector<Kernel> all = [] {
    std::vector<Kernel> both = {SYNBENCH_KERNEL(tridiagonalise_kernel),
                                SYNBENCH_KERNEL(robust_solve_kernel),
                                SYNBENCH_KERNEL(robust_solve_weights_kernel),
                                SYNBENCH_KERNEL(score_sweep_float32_kernel),
                                SYNBENCH_KERNEL(score_sweep_float64_kernel),
                                SYNBENCH_KERNEL(score_sweep_total_kernel),
                                SYNBENCH_KERNEL(score_auc_kernel)};
    for (const Kernel& one : exact_kernels()) both.push_back(one);
    return both;
  }();
  return all;
}

}  // namespace

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Kernel& one : kernels()) names.push_back(one.name);
  return names;
}

std::string launch_kernel(const std::string& name, const std::uint32_t grid[3], std::uint32_t threads, int device,
                          void* stream, const std::vector<std::uint64_t>& words) {
  for (const Kernel& one : kernels()) {
    if (name != one.name) continue;
    if (words.size() != one.arguments)
      return name + ": expected " + std::to_string(one.arguments) + " arguments, got " + std::to_string(words.size());
    std::vector<void*> arguments;
    for (const std::uint64_t& word : words) arguments.push_back(const_cast<std::uint64_t*>(&word));
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess)
      error = cudaLaunchKernel(one.function, dim3(grid[0], grid[1], grid[2]), dim3(threads), arguments.data(), 0,
                               static_cast<cudaStream_t>(stream));
    return error == cudaSuccess ? "" : name + ": " + cudaGetErrorString(error);
  }
  return "kernel: expected a known name, got '" + name + "'";
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace synbench
