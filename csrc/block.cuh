// Sums over the threads of a block in a fixed order, so that results repeat to the bit.
#pragma once

namespace synbench {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarp = 32, kMaxWarps = 32;

// Every lane gets the sum.
__device__ __forceinline__ double warp_sum(double value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kFullWarp, value, distance);
  return value;
}

// Every thread gets the sum; scratch [kMaxWarps] is shared and free again on return.
__device__ __forceinline__ double block_sum(double value, double* scratch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  value = warp_sum(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = 0.0;
  for (int w = 0; w < warps; ++w) value += scratch[w];
  __syncthreads();
  return value;
}

// Every thread gets the largest value.
__device__ __forceinline__ double block_max(double value, double* scratch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = fmax(value, __shfl_xor_sync(kFullWarp, value, distance));
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = scratch[0];
  for (int w = 1; w < warps; ++w) value = fmax(value, scratch[w]);
  __syncthreads();
  return value;
}

}  // namespace synbench
