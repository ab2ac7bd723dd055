#include "score_sweep.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.hpp"

namespace synbench {
namespace {

constexpr int kRows = 4;      // samples per tile
constexpr int kColumns = 16;  // classifiers per tile; weights are padded to a multiple
constexpr int kChunk = 256;   // samples per unit of work, at least

// margins [kRows, kColumns] of `rows` <= kRows samples; w [features, kColumns].
template <typename Feature>
SYNBENCH_INLINE void project(const Feature* x, std::int64_t features, int rows, const double* center, const double* w,
                             double* margins) {
  const Feature* row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = x + std::min(r, rows - 1) * features;
  double s[kRows][kColumns] = {};
  for (std::int64_t j = 0; j < features; ++j) {
    const double* wj = w + j * kColumns;
    for (int r = 0; r < kRows; ++r) {
      const double xj = static_cast<double>(row[r][j]) - center[j];
      for (int c = 0; c < kColumns; ++c) s[r][c] += xj * wj[c];
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) margins[r * kColumns + c] = s[r][c];
}

SYNBENCH_CLONES void project_float(const float* x, std::int64_t features, int rows, const double* center,
                                   const double* w, double* margins) {
  project(x, features, rows, center, w, margins);
}
SYNBENCH_CLONES void project_double(const double* x, std::int64_t features, int rows, const double* center,
                                    const double* w, double* margins) {
  project(x, features, rows, center, w, margins);
}
void project_rows(const float* x, std::int64_t f, int rows, const double* c, const double* w, double* m) {
  project_float(x, f, rows, c, w, m);
}
void project_rows(const double* x, std::int64_t f, int rows, const double* c, const double* w, double* m) {
  project_double(x, f, rows, c, w, m);
}

// What one unit of work, a run of whole groups, found for one classifier.
struct Partial {
  SweepPartial sum;
  std::int64_t groups = 0;
  double group_mean_sum = 0;
};

}  // namespace

template <typename Feature>
void score_sweep(const Feature* x, const std::uint8_t* y, std::int64_t n, std::int64_t features, const double* weights,
                 const double* center, std::int64_t budgets, const double* signal, const double* robust_margin,
                 double offset, std::int64_t group, int threads, const SweepTotals& totals) {
  const std::int64_t blocks = (budgets + kColumns - 1) / kColumns;
  std::vector<double> packed(blocks * features * kColumns, 0.0);  // [block, feature, column]
  for (std::int64_t e = 0; e < budgets; ++e)
    for (std::int64_t j = 0; j < features; ++j)
      packed[((e / kColumns) * features + j) * kColumns + e % kColumns] = weights[e * features + j];

  group = std::clamp<std::int64_t>(group, 1, std::max<std::int64_t>(n, 1));
  const std::int64_t unit = (kChunk + group - 1) / group * group;  // whole groups
  const std::int64_t units = (n + unit - 1) / unit;
  std::vector<Partial> partials(units * budgets);

  parallel_for(units, 1, threads, [&](std::int64_t first, std::int64_t last) {
    std::vector<SweepPartial> open(budgets);
    double margins[kRows * kColumns];
    for (std::int64_t u = first; u < last; ++u) {
      Partial* partial = partials.data() + u * budgets;
      const std::int64_t end = std::min(n, (u + 1) * unit);
      for (std::int64_t start = u * unit; start < end; start += group) {
        const std::int64_t stop = std::min(end, start + group);
        std::fill(open.begin(), open.end(), SweepPartial{});
        for (std::int64_t i = start; i < stop; i += kRows) {
          const int rows = static_cast<int>(std::min<std::int64_t>(kRows, stop - i));
          for (std::int64_t block = 0; block < blocks; ++block) {
            project_rows(x + i * features, features, rows, center, packed.data() + block * features * kColumns,
                         margins);
            const int columns = static_cast<int>(std::min<std::int64_t>(kColumns, budgets - block * kColumns));
            for (int r = 0; r < rows; ++r) {
              const bool label = y[i + r] != 0;
              for (int c = 0; c < columns; ++c) {
                const std::int64_t e = block * kColumns + c;
                add_margin(open[e], margins[r * kColumns + c] - offset, label, signal[e], robust_margin[e]);
              }
            }
          }
        }
        for (std::int64_t e = 0; e < budgets; ++e) {
          add_partial(partial[e].sum, open[e]);
          if (open[e].correct == 0) continue;
          partial[e].group_mean_sum += open[e].bound_sum / static_cast<double>(open[e].correct);
          ++partial[e].groups;
        }
      }
    }
  });

  for (std::int64_t e = 0; e < budgets; ++e) {
    Partial total;
    for (std::int64_t u = 0; u < units; ++u) {
      const Partial& p = partials[u * budgets + e];
      add_partial(total.sum, p.sum);
      total.groups += p.groups;
      total.group_mean_sum += p.group_mean_sum;
    }
    totals.correct[e] = total.sum.correct;
    totals.robust_correct[e] = total.sum.robust_correct;
    totals.groups[e] = total.groups;
    totals.group_mean_sum[e] = total.group_mean_sum;
    totals.bound_sum[e] = total.sum.bound_sum;
    totals.bound_square_sum[e] = total.sum.bound_square_sum;
    for (int k = 0; k < 2; ++k) {
      totals.margin_sum[k * budgets + e] = total.sum.margin_sum[k];
      totals.margin_square_sum[k * budgets + e] = total.sum.margin_square_sum[k];
    }
  }
}

template void score_sweep<float>(const float*, const std::uint8_t*, std::int64_t, std::int64_t, const double*,
                                 const double*, std::int64_t, const double*, const double*, double, std::int64_t, int,
                                 const SweepTotals&);
template void score_sweep<double>(const double*, const std::uint8_t*, std::int64_t, std::int64_t, const double*,
                                  const double*, std::int64_t, const double*, const double*, double, std::int64_t, int,
                                  const SweepTotals&);

}  // namespace synbench
