#include "score_auc.hpp"

#include "parallel.hpp"

namespace synbench {

void score_auc(const double* accuracy, const double* bound, std::int64_t replicates, std::int64_t scales,
               const double* thresholds, std::int64_t count, AucIntegral integral, int threads, double* area) {
  parallel_for(replicates, 64, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      for (std::int64_t t = 0; t < count; ++t)
        area[r * count + t] = area_above(accuracy + r * scales, bound + r * scales, scales, thresholds[t], integral);
  });
}

}  // namespace synbench
