// Kernels by name, for launch_cuda.cu.
#pragma once
#include <cstddef>
#include <vector>

namespace synbench {

struct Kernel {
  const char* name;
  const void* function;
  std::size_t arguments;
};

template <typename... Arguments>
Kernel kernel(const char* name, void (*function)(Arguments...)) {
  static_assert(((sizeof(Arguments) == 8) && ...), "every kernel argument is one 64-bit word");
  return {name, reinterpret_cast<const void*>(function), sizeof...(Arguments)};
}

#define SYNBENCH_KERNEL(name) synbench::kernel(#name, name)

// Those of exact_kernels.cu, which have options of the compiler of their own.
std::vector<Kernel> exact_kernels();

}  // namespace synbench
