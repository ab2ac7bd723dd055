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
#include <cstdint>

namespace synbench {

enum class AucIntegral { exact, grid };

constexpr int kGridPoints = 100;
constexpr double kGridFirst = 0.6, kGridLast = 1.0;

void score_auc(const double* accuracy, const double* bound, std::int64_t replicates, std::int64_t scales,
               const double* thresholds, std::int64_t count, AucIntegral integral, int threads, double* area);

}  // namespace synbench
