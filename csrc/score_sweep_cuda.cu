// score_sweep on the device: margins of a tile of samples with all classifiers, and what they count for, without an
// N x E matrix in memory. A second kernel adds the tiles up in a fixed order.
//
// A tile is up to kTileSamples consecutive samples of one group, so that group means need no atomics.
#include "score_sweep.hpp"

namespace synbench {

constexpr int kTileSamples = 16, kTileBudgets = 16, kTileFeatures = 64;
constexpr int kSweepThreads = kTileSamples * kTileBudgets;

// What one tile found for one classifier, [tiles, budgets].
constexpr int kSweepPartialDoubles = 8;

__device__ __forceinline__ void store_partial(double* out, const SweepPartial& p) {
  out[0] = static_cast<double>(p.correct);
  out[1] = static_cast<double>(p.robust_correct);
  out[2] = p.bound_sum;
  out[3] = p.bound_square_sum;
  for (int k = 0; k < 2; ++k) {
    out[4 + k] = p.margin_sum[k];
    out[6 + k] = p.margin_square_sum[k];
  }
}

__device__ __forceinline__ SweepPartial load_partial(const double* in) {
  SweepPartial p;
  p.correct = static_cast<Index>(in[0]);
  p.robust_correct = static_cast<Index>(in[1]);
  p.bound_sum = in[2];
  p.bound_square_sum = in[3];
  for (int k = 0; k < 2; ++k) {
    p.margin_sum[k] = in[4 + k];
    p.margin_square_sum[k] = in[6 + k];
  }
  return p;
}

// grid [tiles, budget tiles], kSweepThreads threads; thread (sample r, classifier c) of the tile.
template <typename Feature>
__device__ void sweep_tile(const Feature* x, const unsigned char* y, Index n, Index features, const double* weights,
                           const double* center, Index budgets, const double* signal, const double* robust_margin,
                           double offset, Index group, Index tiles_per_group, double* partials) {
  __shared__ double centered[kTileSamples][kTileFeatures];
  __shared__ double columns[kTileFeatures][kTileBudgets + 1];  // padded: written along features, read along budgets
  __shared__ double margins[kTileSamples][kTileBudgets + 1];
  const Index tile = blockIdx.x;
  const Index first = tile / tiles_per_group * group + tile % tiles_per_group * kTileSamples;
  const Index group_end = (tile / tiles_per_group + 1) * group;
  const Index last = min(n, min(group_end, first + kTileSamples));
  const Index first_budget = static_cast<Index>(blockIdx.y) * kTileBudgets;
  const int r = threadIdx.x / kTileBudgets, c = threadIdx.x % kTileBudgets;

  double margin = 0.0;
  for (Index begin = 0; begin < features; begin += kTileFeatures) {
    const int width = static_cast<int>(min(static_cast<Index>(kTileFeatures), features - begin));
    for (int item = threadIdx.x; item < kTileSamples * kTileFeatures; item += kSweepThreads) {
      const int row = item / kTileFeatures, j = item % kTileFeatures;
      const bool inside = first + row < last && j < width;
      centered[row][j] =
          inside ? static_cast<double>(x[(first + row) * features + begin + j]) - center[begin + j] : 0.0;
    }
    for (int item = threadIdx.x; item < kTileBudgets * kTileFeatures; item += kSweepThreads) {
      const int column = item / kTileFeatures, j = item % kTileFeatures;
      const bool inside = first_budget + column < budgets && j < width;
      columns[j][column] = inside ? weights[(first_budget + column) * features + begin + j] : 0.0;
    }
    __syncthreads();
    for (int j = 0; j < kTileFeatures; ++j) margin += centered[r][j] * columns[j][c];
    __syncthreads();
  }
  margins[r][c] = margin - offset;
  __syncthreads();

  const Index budget = first_budget + threadIdx.x;
  if (threadIdx.x >= kTileBudgets || budget >= budgets) return;
  SweepPartial partial;
  for (Index i = first; i < last; ++i)
    add_margin(partial, margins[i - first][threadIdx.x], y[i] != 0, signal[budget], robust_margin[budget]);
  store_partial(partials + (tile * budgets + budget) * kSweepPartialDoubles, partial);
}

}  // namespace synbench

#define SYNBENCH_SWEEP_KERNEL(name, Feature)                                                                          \
  extern "C" __global__ void __launch_bounds__(synbench::kSweepThreads)                                               \
      name(const Feature* x, const unsigned char* y, long long n, long long features, const double* weights,          \
           const double* center, long long budgets, const double* signal, const double* robust_margin, double offset, \
           long long group, long long tiles_per_group, double* partials) {                                            \
    synbench::sweep_tile<Feature>(x, y, n, features, weights, center, budgets, signal, robust_margin, offset, group,  \
                                  tiles_per_group, partials);                                                         \
  }
SYNBENCH_SWEEP_KERNEL(score_sweep_float32_kernel, float)
SYNBENCH_SWEEP_KERNEL(score_sweep_float64_kernel, double)

// Totals of one classifier: counts [budgets, 3] of correct, robustly correct samples and groups with a correct
// one; sums [budgets, 7] of group means, bounds, their squares, margins and squared margins per class.
// One warp per classifier; its lanes share the groups, and the last step adds the lanes in order.
extern "C" __global__ void score_sweep_total_kernel(const double* partials, long long tiles, long long tiles_per_group,
                                                    long long budgets, long long* counts, double* sums) {
  using namespace synbench;
  const int lane = threadIdx.x % 32;
  const Index budget = (static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (budget >= budgets) return;
  SweepPartial sum;
  double group_mean_sum = 0.0;
  Index groups = 0;
  for (Index first = lane * tiles_per_group; first < tiles; first += 32 * tiles_per_group) {
    SweepPartial open;
    for (Index tile = first; tile < first + tiles_per_group; ++tile)
      add_partial(open, load_partial(partials + (tile * budgets + budget) * kSweepPartialDoubles));
    add_partial(sum, open);
    if (open.correct == 0) continue;
    group_mean_sum += open.bound_sum / static_cast<double>(open.correct);
    ++groups;
  }
  long long integers[3] = {sum.correct, sum.robust_correct, groups};
  double reals[7] = {group_mean_sum,          sum.bound_sum,     sum.bound_square_sum,
                     sum.margin_sum[0],       sum.margin_sum[1], sum.margin_square_sum[0],
                     sum.margin_square_sum[1]};
  for (int distance = 16; distance > 0; distance /= 2) {
    for (int k = 0; k < 3; ++k) integers[k] += __shfl_xor_sync(0xffffffffu, integers[k], distance);
    for (int k = 0; k < 7; ++k) reals[k] += __shfl_xor_sync(0xffffffffu, reals[k], distance);
  }
  if (lane != 0) return;
  for (int k = 0; k < 3; ++k) counts[budget * 3 + k] = integers[k];
  for (int k = 0; k < 7; ++k) sums[budget * 7 + k] = reals[k];
}
