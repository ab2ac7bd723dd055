// score_auc on the device: one thread per (replicate, threshold).
#include "score_auc.hpp"

extern "C" __global__ void score_auc_kernel(const double* accuracy, const double* bound, long long replicates,
                                            long long scales, const double* thresholds, long long count, long long grid,
                                            double* area) {
  using namespace synbench;
  const Index item = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (item >= replicates * count) return;
  const Index r = item / count, t = item % count;
  area[item] = area_above(accuracy + r * scales, bound + r * scales, scales, thresholds[t],
                          grid ? AucIntegral::grid : AucIntegral::exact);
}
