// What lets one header serve the CPU, nvcc and NVRTC (which has no standard headers).
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define SYNBENCH_HD __host__ __device__ __forceinline__
#else
#define SYNBENCH_HD inline __attribute__((always_inline))
#endif

#ifndef __CUDACC_RTC__
#include <cmath>
#endif

namespace synbench {

using Index = long long;  // of rows, samples and bytes

constexpr double kEpsilon = 0x1p-52;                 // distance from 1 to the next double
constexpr double kLargest = 0x1.fffffffffffffp1023;  // finite double

}  // namespace synbench
