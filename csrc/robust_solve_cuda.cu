// robust_solve on the device, one block, in three kernels that follow one another on a stream:
//
//   tridiagonalise_kernel        (C, m) -> T, z and the reflectors                     (spectrum.hpp, step 1)
//   robust_solve_kernel          T, z, eps -> ridges and what follows from them        (steps 2 and 3)
//   robust_solve_weights_kernel  ridges -> w, one warp per classifier                  (step 3)
//
// It occupies one multiprocessor, so that a finished scale is solved beside the next scale's forward passes.
#include "block.cuh"
#include "robust_solve.hpp"

namespace synbench {

constexpr int kPanel = 8;  // reflectors between two updates of the trailing matrix

// Output of robust_solve_kernel: kSolveHeader doubles, then [budgets] of ridge, kappa and variance and
// [kTaylor, budgets] of f and df.
constexpr int kPerBudget = 3 + 2 * kTaylor;
enum SolveHeader {
  kStatus,
  kLargestEigenvalue,
  kThreshold,
  kRank,
  kSmallest,
  kA2,
  kA2d,
  kTrace,
  kTraceSquare,
  kSweeps,
  kSolveHeader
};
enum SolveStatus { kSolved = 0, kNotConverged = 1, kRotationsFull = 2, kNotFinite = 3 };

// The power of two next below `size`: dividing by it is exact.
__device__ __forceinline__ double power_of_two(double size) {
  int exponent;
  if (!(size > 0.0)) return 1.0;
  frexp(size, &exponent);
  return ldexp(1.0, exponent - 1);
}

// Rotations of QL, kept for the weights: values [capacity, 2], sweeps [sweep_capacity, 3] of first and last row and
// the place of the first rotation. More than fit are counted and lost, which `full` tells.
struct DeviceRotations {
  double* values;
  long long* sweeps;
  Index capacity, sweep_capacity;
  Index count = 0, sweep_count = 0;
  __device__ bool full() const { return count > capacity || sweep_count > sweep_capacity; }
  __device__ void sweep(Index first, Index last) {
    if (sweep_count < sweep_capacity) {
      sweeps[3 * sweep_count] = first;
      sweeps[3 * sweep_count + 1] = last;
      sweeps[3 * sweep_count + 2] = count;
    }
    ++sweep_count;
  }
  __device__ void rotation(double c, double s) {
    if (count < capacity) {
      values[2 * count] = c;
      values[2 * count + 1] = s;
    }
    ++count;
  }
};

// The k-th smallest eigenvalue (from 0) of rows begin .. end - 1: every thread counts at its own shift. All threads
// of the block call it and get it, and when one of them does, all have read T. `first` is shared.
__device__ double block_eigenvalue(const Tridiagonal& t, Index k, Index begin, Index end, int* first) {
  Interval at = gershgorin(t, begin, end);
  __syncthreads();  // for an interval that is narrow enough from the start
  const int threads = blockDim.x, thread = threadIdx.x;
  for (int round = 0; round < 80 && at.high - at.low > at.resolution; ++round) {
    const double step = (at.high - at.low) / (threads + 1);
    const double low = at.low;
    if (thread == 0) *first = threads;
    __syncthreads();
    if (count_below(t, begin, end, low + step * (thread + 1)) > k) atomicMin(first, thread);
    __syncthreads();
    const int found = *first;
    __syncthreads();
    const double next_low = found == 0 ? low : low + step * found;
    const double next_high = found == threads ? at.high : low + step * (found + 1);
    if (next_low <= at.low && next_high >= at.high) break;
    at.low = next_low;
    at.high = next_high;
  }
  return at.high;
}

}  // namespace synbench

// Householder reduction of [[0, m'], [m, C]] by panels, as in spectrum.hpp; here both halves of the matrix are kept, so
// that every product reads rows. Only columns j >= i of C are read.
// m [n], covariance [n, n]; matrix [n+1, n+1] row k keeps reflector k in columns k+1 .., tau [n],
// panel [2, kPanel, n+1] is work space; tridiagonal [3, n] gets d, e, z; units [2] those of C and of m.
extern "C" __global__ void __launch_bounds__(512)
    tridiagonalise_kernel(const double* m, const double* covariance, long long n, double* matrix, double* tau,
                          double* panel, double* tridiagonal, double* units) {
  using namespace synbench;
  __shared__ double scratch[kMaxWarps], left[kPanel], right[kPanel];
  const Index order = n + 1, ld = order;
  const int thread = threadIdx.x, threads = blockDim.x, lane = thread % kWarp, warp = thread / kWarp,
            warps = threads / kWarp;
  double *a = matrix, *v = panel, *w = v + kPanel * ld;
  double *d = tridiagonal, *e = d + n, *z = e + n;

  double largest = 0.0, longest = 0.0;
  for (Index i = thread; i < n; i += threads) {
    largest = fmax(largest, fabs(covariance[i * n + i]));
    longest = fmax(longest, fabs(m[i]));
  }
  const double unit = power_of_two(block_max(largest, scratch)),
               length_unit = power_of_two(block_max(longest, scratch));
  if (thread == 0) {
    units[0] = unit;
    units[1] = length_unit;
    a[0] = 0.0;
  }
  for (Index j = thread; j < n; j += threads) a[j + 1] = m[j] / length_unit;
  for (Index i = warp; i < n; i += warps)
    for (Index j = lane; j < n; j += kWarp) a[(i + 1) * ld + j + 1] = covariance[i <= j ? i * n + j : j * n + i] / unit;
  __syncthreads();

  for (Index start = 0; start < order - 1; start += kPanel) {
    const int width = static_cast<int>(order - 1 - start < kPanel ? order - 1 - start : kPanel);
    for (int p = 0; p < width; ++p) {
      const Index k = start + p;
      double *row = a + k * ld, *vp = v + p * ld, *wp = w + p * ld;
      // Row k of the matrix as the reflectors of this panel leave it.
      double rest = 0.0;
      for (Index j = k + thread; j < order; j += threads) {
        double value = row[j];
        for (int q = 0; q < p; ++q) value -= w[q * ld + k] * v[q * ld + j] + v[q * ld + k] * w[q * ld + j];
        row[j] = value;
        if (j >= k + 2) rest += value * value;
      }
      rest = sqrt(block_sum(rest, scratch));
      // The reflector maps columns k+1 .. to (beta, 0, ..., 0).
      const double x0 = row[k + 1];
      const double beta = rest == 0.0 ? x0 : -copysign(hypot(x0, rest), x0);
      const double tau_k = rest == 0.0 ? 0.0 : (beta - x0) / beta, shrink = rest == 0.0 ? 0.0 : 1.0 / (x0 - beta);
      __syncthreads();
      for (Index j = k + 1 + thread; j < order; j += threads) row[j] = vp[j] = j == k + 1 ? 1.0 : row[j] * shrink;
      if (thread == 0) {
        tau[k] = tau_k;
        if (k > 0) {
          d[k - 1] = row[k];
          e[k - 1] = beta;
        } else {
          z[0] = beta;
        }
      }
      __syncthreads();

      constexpr int kRows = 4;  // one load of v serves four rows
      for (Index i = k + 1 + kRows * warp; i < order; i += kRows * warps) {
        double s[kRows] = {};
        const double* rows[kRows];
        for (int r = 0; r < kRows; ++r) rows[r] = a + (i + r < order ? i + r : order - 1) * ld;
        for (Index j = k + 1 + lane; j < order; j += kWarp) {
          const double vj = vp[j];
          for (int r = 0; r < kRows; ++r) s[r] += rows[r][j] * vj;
        }
        for (int r = 0; r < kRows; ++r) {
          s[r] = warp_sum(s[r]);
          if (lane == 0 && i + r < order) wp[i + r] = s[r];
        }
      }
      // Products of the panel's earlier vectors with this one, which correct for what the matrix still lacks.
      for (int q = warp; q < 2 * p; q += warps) {
        const double* other = q < p ? w + q * ld : v + (q - p) * ld;
        double s = 0.0;
        for (Index j = k + 1 + lane; j < order; j += kWarp) s += other[j] * vp[j];
        s = warp_sum(s);
        if (lane == 0) (q < p ? left[q] : right[q - p]) = s;
      }
      __syncthreads();
      double product = 0.0;
      for (Index j = k + 1 + thread; j < order; j += threads) {
        double value = wp[j];
        for (int q = 0; q < p; ++q) value -= left[q] * v[q * ld + j] + right[q] * w[q * ld + j];
        wp[j] = value;
        product += value * vp[j];
      }
      const double half = 0.5 * tau_k * tau_k * block_sum(product, scratch);
      for (Index j = k + 1 + thread; j < order; j += threads) wp[j] = tau_k * wp[j] - half * vp[j];
      __syncthreads();
    }

    // A -= V'W + W'V on what follows the panel.
    constexpr int kRows = 2;
    const Index begin = start + width;
    for (Index i = begin + kRows * warp; i < order; i += kRows * warps) {
      const Index other = i + 1 < order ? i + 1 : i;
      double vi[kRows][kPanel], wi[kRows][kPanel];
#pragma unroll
      for (int p = 0; p < kPanel; ++p) {
        vi[0][p] = p < width ? v[p * ld + i] : 0.0;
        wi[0][p] = p < width ? w[p * ld + i] : 0.0;
        vi[1][p] = p < width ? v[p * ld + other] : 0.0;
        wi[1][p] = p < width ? w[p * ld + other] : 0.0;
      }
      for (Index j = begin + lane; j < order; j += kWarp) {
        double s0 = a[i * ld + j], s1 = a[other * ld + j];
#pragma unroll
        for (int p = 0; p < kPanel; ++p) {
          if (p >= width) break;
          const double vj = v[p * ld + j], wj = w[p * ld + j];
          s0 -= vi[0][p] * wj + wi[0][p] * vj;
          s1 -= vi[1][p] * wj + wi[1][p] * vj;
        }
        a[i * ld + j] = s0;
        if (other != i) a[other * ld + j] = s1;
      }
    }
    __syncthreads();
  }
  if (thread == 0) {
    d[n - 1] = a[(order - 1) * ld + order - 1];
    e[n - 1] = 0.0;
  }
  for (Index i = 1 + thread; i < n; i += threads) z[i] = 0.0;
}

// tridiagonal [3, n] is scaled to a largest eigenvalue of 1 and deflated in place. eps [E]; known != 0: the ridges
// of (m, C) as they are, else the estimate for their population on nu degrees of freedom with c0. cut: absolute for known, else
// relative. work [kSumArrays, n, threads], grid_values [grid_capacity], which is best above kMostSteps, are work
// space; rotations [capacity, 2], sweeps [sweep_capacity, 3]; out [kSolveHeader + kPerBudget E].
extern "C" __global__ void __launch_bounds__(128)
    robust_solve_kernel(double* tridiagonal, const double* units, long long n, const double* eps, long long budgets,
                        long long known, double nu, double c0, double cut, double* work, double* grid_values,
                        long long grid_capacity, double* rotations, long long capacity, long long* sweeps,
                        long long sweep_capacity, double* out) {
  using namespace synbench;
  __shared__ int first_found, status;
  const int thread = threadIdx.x, threads = blockDim.x;
  Tridiagonal t = {n, tridiagonal, tridiagonal + n, tridiagonal + 2 * n};
  work += thread;
  double *ridge = out + kSolveHeader, *kappa = ridge + budgets, *variance = kappa + budgets;
  double *f = variance + budgets, *df = f + kTaylor * budgets;
  for (Index i = thread; i < kSolveHeader + kPerBudget * budgets; i += threads)
    out[i] = i < kSolveHeader ? 0.0 : nan("");
  if (thread == 0) status = kSolved;
  __syncthreads();
  for (Index i = thread; i < n; i += threads)
    if (!(fabs(t.d[i]) <= kLargest && fabs(t.e[i]) <= kLargest && fabs(t.z[i]) <= kLargest)) status = kNotFinite;
  __syncthreads();
  if (status != kSolved) {
    if (thread == 0) out[kStatus] = status;
    return;
  }

  const double largest = block_eigenvalue(t, n - 1, 0, n, &first_found);
  const double unit = units[0] * largest;
  const double threshold = fmax(0.0, known ? cut : cut * unit);
  if (thread == 0) {
    out[kThreshold] = threshold;
    out[kLargestEigenvalue] = largest > 0.0 ? unit : 0.0;
  }
  if (!(largest > 0.0)) return;
  // From here on the largest eigenvalue is 1, and m is in units of its square root.
  const double length = units[1] / sqrt(unit);
  for (Index i = thread; i < n; i += threads) {
    t.d[i] /= largest;
    t.e[i] /= largest;
    t.z[i] *= length;
  }

  // What lies within rounding of the cut counts as at the cut.
  const double edge = threshold / unit + 4.0 * kEpsilon;
  DeviceRotations sink = {rotations, sweeps, capacity, sweep_capacity};
  __syncthreads();
  if (count_below(t, 0, n, edge) > 0) {
    for (Index first = 0; first < n;) {
      __syncthreads();  // T as thread 0 left it
      Index last = first;
      while (last < n - 1 && !negligible(t, last)) ++last;
      const Index size = last - first + 1;
      const Index dropped = size == 1 ? t.d[first] <= edge : count_below(t, first, last + 1, edge);
      __syncthreads();  // all have read before anyone writes
      if (thread == 0 && last < n - 1) t.e[last] = 0.0;
      __syncthreads();
      if (size > 1 && dropped > 0 && dropped < size) {
        const double shift = block_eigenvalue(t, 0, first, last + 1, &first_found);
        if (thread == 0 && !split_first(t, first, shift, sink)) status = kNotConverged;
        __syncthreads();
        if (status != kSolved) break;
        ++first;
      } else {
        if (thread == 0 && size > 1 && dropped > 0) drop_block(t, first, last);
        first = last + 1;
      }
    }
    __syncthreads();
    if (thread == 0 && status == kSolved && capacity > 0 && sink.full()) status = kRotationsFull;
    __syncthreads();
  }
  const SpectralMoments moments = spectral_moments(t, edge);
  const double smallest = moments.rank > 0 ? block_eigenvalue(t, n - moments.rank, 0, n, &first_found) : 0.0;
  if (thread == 0) {
    out[kStatus] = status;
    out[kRank] = static_cast<double>(moments.rank);
    out[kSmallest] = smallest;
    out[kA2] = moments.a2;
    out[kA2d] = moments.a2d;
    out[kTrace] = moments.trace;
    out[kTraceSquare] = moments.trace_square;
    out[kSweeps] = static_cast<double>(sink.sweep_count);
  }
  if (status != kSolved || moments.rank == 0 || (!known && !(nu > static_cast<double>(moments.rank)))) return;

  const double norm_square = known ? moments.a2 : moments.a2 - c0 * moments.trace;
  auto share = [&](double g) {
    const SpectralSums at = spectral_sums(t, edge, g, !known, work, threads);
    return known ? known_share(at, g, norm_square) : sampled_share(at, g, nu, c0, norm_square);
  };
  for (Index i = thread; i < budgets; i += threads) ridge[i] = 0.0;
  if (norm_square > 0.0 && known) {
    for (Index i = thread; i < budgets; i += threads) {
      const double odds = eps[i] / (1.0 - eps[i]);
      if (eps[i] * eps[i] > 0.0) ridge[i] = rising_root(share, eps[i] * eps[i], odds * smallest, odds);
    }
  } else if (norm_square > 0.0) {
    double least = 1.0, most = 0.0;
    for (Index i = 0; i < budgets; ++i) {
      if (!(eps[i] * eps[i] > 0.0)) continue;
      least = fmin(least, eps[i]);
      most = fmax(most, eps[i]);
    }
    if (most > 0.0) {
      RiseGrid grid = rise_grid(share, least, most, smallest);
      if (grid.steps >= grid_capacity) grid.steps = static_cast<int>(grid_capacity) - 1;
      for (Index step = thread; step <= grid.steps; step += threads)
        grid_values[step] = share(grid.at(static_cast<int>(step))).value;
      __syncthreads();
      for (Index i = thread; i < budgets; i += threads) {
        const double target = eps[i] * eps[i];
        if (!(target > 0.0)) continue;
        int step = 1;
        while (step < grid.steps && !(grid_values[step] >= target)) ++step;
        ridge[i] = rising_root(share, target, grid.at(step - 1), grid.at(step));
      }
    }
  }

  for (Index i = thread; i < budgets; i += threads) {
    const double g = ridge[i];
    const SpectralSums at = spectral_sums(t, edge, g, !known, work, threads);
    kappa[i] = g;
    variance[i] = 0.0;
    for (int order = 0; order < kTaylor; ++order) f[order * budgets + i] = df[order * budgets + i] = 0.0;
    if (known) {
      f[i] = at.s[0];
      variance[i] = at.s[0] + g * at.s[1];  // sum a^2 d/(d + g)^2
      continue;
    }
    const Expansion x = expand(at, g, nu, c0);
    kappa[i] = x.kappa;
    for (int order = 0; order < kTaylor; ++order) {
      f[order * budgets + i] = x.f[order];
      df[order * budgets + i] = x.df[order];
    }
  }
}

// weights [E, n] <- w at the ridges of `out`, in the units of C and m; inverse [E, n] is work space.
// grid [classifier groups]; one warp per classifier.
extern "C" __global__ void robust_solve_weights_kernel(const double* tridiagonal, const double* matrix,
                                                       const double* tau, long long n, long long budgets,
                                                       const double* out, const double* rotations,
                                                       const long long* sweeps, double* inverse, double* weights) {
  using namespace synbench;
  const Index ld = n + 1;
  const Index budget = static_cast<Index>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (budget >= budgets) return;
  double* d = const_cast<double*>(tridiagonal);
  const Tridiagonal t = {n, d, d + n, d + 2 * n};
  const double unit = out[kLargestEigenvalue];
  double* x = weights + budget * n;
  if (!(unit > 0.0) || static_cast<int>(out[kStatus]) != kSolved) {
    for (Index i = lane; i < n; i += kWarp) x[i] = 0.0;
    return;
  }
  if (lane == 0) {
    solve(t, out[kThreshold] / unit + 4.0 * kEpsilon, out[kSolveHeader + budget], inverse + budget * n, x, 1);
    // The transposed sweeps, last one first.
    for (Index sweep = static_cast<Index>(out[kSweeps]) - 1; sweep >= 0; --sweep) {
      const long long* one = sweeps + sweep * 3;
      const Index first = one[0], last = one[1];
      const double* pair = rotations + 2 * (one[2] + (last - 1 - first));
      double low = x[first];
      for (Index i = first; i < last; ++i, pair -= 2) {
        const double high = x[i + 1];
        x[i] = pair[0] * low + pair[1] * high;
        low = pair[0] * high - pair[1] * low;
      }
      x[last] = low;
    }
  }
  __syncwarp();
  // (C + g)^-1 m is unit^(1/2) / unit times that of the scaled problem; reflector k acts on rows k .. .
  const double factor = 1.0 / sqrt(unit);
  for (Index i = lane; i < n; i += kWarp) x[i] *= factor;
  __syncwarp();
  for (Index k = n - 1; k >= 0; --k) {
    const double* reflector = matrix + k * ld + 1;
    double product = 0.0;
    for (Index i = k + lane; i < n; i += kWarp) product += reflector[i] * x[i];
    product = tau[k] * warp_sum(product);
    for (Index i = k + lane; i < n; i += kWarp) x[i] -= product * reflector[i];
    __syncwarp();
  }
}
