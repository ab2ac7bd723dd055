// score_auc: threshold integral of the expected-bound curve, for many replicates at once.
//
//   E(a) = 1/S sum_s bound_s 1[accuracy_s > a]
//   exact: area[r, t] = int_{a_t}^1 E(a) da = 1/S sum_s bound_s max(0, accuracy_s - a_t)
//   grid:  area[r, t] = sum of E over the points of linspace(0.6, 1, 100) that are >= a_t
//          (the published script's sum: no step width, so only ratios of such areas mean anything)
//
// Shapes: accuracy, bound [replicates, scales], thresholds [thresholds], area [replicates, thresholds]; row
// major doubles. An infinite bound (no signal, t = 0) counts as 0. Limits: exact to rounding; scales are summed in order.
#pragma once
#include "host_device.hpp"

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace synbench {

enum class AucIntegral { exact, grid };

constexpr int kGridPoints = 100;
constexpr double kGridFirst = 0.6, kGridLast = 1.0;

// Point i of linspace(kGridFirst, kGridLast, kGridPoints), rounded as NumPy rounds it: no fused multiply-add.
SYNBENCH_HD double grid_point(int i) {
  const double step = (kGridLast - kGridFirst) / (kGridPoints - 1);
#ifdef __CUDA_ARCH__
  const double point = __dadd_rn(kGridFirst, __dmul_rn(i, step));
#else
  const double point = kGridFirst + i * step;
#endif
  return i == kGridPoints - 1 ? kGridLast : point;
}

// Area above one threshold of one replicate's curve: accuracy, bound [scales].
SYNBENCH_HD double area_above(const double* accuracy, const double* bound, Index scales, double threshold,
                              AucIntegral integral) {
  double sum = 0.0;
  for (Index s = 0; s < scales; ++s) {
    if (!(accuracy[s] > threshold) || fabs(bound[s]) > kLargest) continue;
    double weight = 0.0;
    if (integral == AucIntegral::exact)
      weight = accuracy[s] - threshold;
    else
      for (int i = 0; i < kGridPoints; ++i) weight += grid_point(i) >= threshold && accuracy[s] > grid_point(i);
    sum += bound[s] * weight;
  }
  return sum / static_cast<double>(scales);
}

#ifndef __CUDACC_RTC__

void score_auc(const double* accuracy, const double* bound, std::int64_t replicates, std::int64_t scales,
               const double* thresholds, std::int64_t count, AucIntegral integral, int threads, double* area);

#endif

}  // namespace synbench
