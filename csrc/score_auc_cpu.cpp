#include "score_auc.hpp"

#include <cmath>

#include "parallel.hpp"

namespace synbench {
namespace {

// Point i of linspace(kGridFirst, kGridLast, kGridPoints), rounded as NumPy rounds it.
double grid_point(int i) {
  const double step = (kGridLast - kGridFirst) / (kGridPoints - 1);
  return i == kGridPoints - 1 ? kGridLast : kGridFirst + i * step;
}

}  // namespace

void score_auc(const double* accuracy, const double* bound, std::int64_t replicates, std::int64_t scales,
               const double* thresholds, std::int64_t count, AucIntegral integral, int threads, double* area) {
  parallel_for(replicates, 64, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const double* a = accuracy + r * scales;
      const double* b = bound + r * scales;
      for (std::int64_t t = 0; t < count; ++t) {
        double sum = 0;
        for (std::int64_t s = 0; s < scales; ++s) {
          if (!(a[s] > thresholds[t]) || std::isinf(b[s])) continue;
          double weight = 0;
          if (integral == AucIntegral::exact) {
            weight = a[s] - thresholds[t];
          } else {
            for (int i = 0; i < kGridPoints; ++i) weight += grid_point(i) >= thresholds[t] && a[s] > grid_point(i);
          }
          sum += b[s] * weight;
        }
        area[r * count + t] = sum / static_cast<double>(scales);
      }
    }
  });
}

}  // namespace synbench
