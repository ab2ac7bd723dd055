// Launching the kernels of cuda_kernels.cu and exact_kernels.cu by name. Every argument of every kernel is one 64-bit word (a pointer, a
// long long or a double), so that a launch needs no signature; the caller checks shapes, types and devices.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace synbench {

std::vector<std::string> kernel_names();

// Enqueues a kernel on a stream of the device. Returns an empty text, or what is wrong in one line.
std::string launch_kernel(const std::string& name, const std::uint32_t grid[3], std::uint32_t threads, int device,
                          void* stream, const std::vector<std::uint64_t>& words);

// Number of usable devices; 0 without a driver.
int device_count();

}  // namespace synbench
