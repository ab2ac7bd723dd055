#include "spectrum.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel.hpp"
#include "spectrum_kernels.hpp"

namespace synbench {

using namespace kernels;

namespace {

// The power of two next below `size`: dividing by it is exact.
double power_of_two(double size) { return size > 0.0 ? std::exp2(std::ilogb(size)) : 1.0; }

}  // namespace

Spectrum::Spectrum(const double* covariance, const double* m, std::int64_t n, double cut, bool relative, int threads)
    : n_(n) {
  tridiagonalise(covariance, m, threads);
  for (const auto* values : {&d_, &e_, &z_})
    for (const double value : *values) finite_ = finite_ && std::isfinite(value);
  if (!finite_) return;
  const double largest = eigenvalue(n - 1, 0, n);
  threshold_ = std::max(0.0, relative ? cut * largest * unit_ : cut);
  if (!(largest > 0.0)) {
    unit_ = 0.0;
    return;
  }
  // From here on the largest eigenvalue is 1.
  for (double& value : d_) value /= largest;
  for (double& value : e_) value /= largest;
  for (double& value : z_) value /= std::sqrt(largest);
  unit_ *= largest;
  // m in units of sqrt(C): the unit of length was its own so far.
  const double length = length_unit_ / std::sqrt(unit_ / largest);
  for (double& value : z_) value *= length;
  // What lies within rounding of the cut counts as at the cut.
  edge_ = threshold_ / unit_ + 4.0 * kEpsilon;
  converged_ = drop();
  if (!converged_) return;
  moments_ = spectral_moments(matrix(), edge_);
  if (moments_.rank > 0) smallest_ = eigenvalue(n_ - moments_.rank, 0, n_);
}

Tridiagonal Spectrum::matrix() const { return {n_, d_.data(), e_.data(), z_.data()}; }

void Spectrum::tridiagonalise(const double* covariance, const double* m, int threads) {
  // Order n + 1: row 0 is (0, m'), rows 1.. are C. Row i keeps only columns >= i.
  const std::int64_t order = n_ + 1, ld = order;
  matrix_.reset(new double[static_cast<std::size_t>(order * ld)]);  // not touched here, and below the diagonal never
  tau_.assign(n_, 0.0);
  std::vector<double> diagonal(order, 0.0), off(n_, 0.0);
  std::vector<double> v(kPanel * ld), w(kPanel * ld), parts(kParts * ld);
  double* a = matrix_.get();

  // In units near the largest variance and the largest entry of m, squares neither over- nor underflow.
  double largest = 0.0, longest = 0.0;
  for (std::int64_t i = 0; i < n_; ++i) {
    largest = std::max(largest, std::abs(covariance[i * n_ + i]));
    longest = std::max(longest, std::abs(m[i]));
  }
  const double unit = power_of_two(largest), length_unit = power_of_two(longest);

  const int members =
      static_cast<int>(std::clamp<std::int64_t>(order / 64, 1, std::min(resolve_threads(threads), kParts)));
  team(members, [&](int thread, int count, Barrier& barrier) {
    if (thread == 0) {
      a[0] = 0;
      for (std::int64_t i = 0; i < n_; ++i) a[i + 1] = m[i] / length_unit;
    }
    for (std::int64_t block = 0; block * kRows < order; ++block) {  // first touch by the owner
      if (static_cast<int>(block % kParts) % count != thread) continue;
      for (std::int64_t i = std::max<std::int64_t>(1, block * kRows); i < std::min(order, (block + 1) * kRows); ++i)
        for (std::int64_t j = i; j < order; ++j) a[i * ld + j] = covariance[(i - 1) * n_ + (j - 1)] / unit;
    }
    barrier.wait();
    for (std::int64_t start = 0; start < order - 1; start += kPanel) {
      const int width = static_cast<int>(std::min<std::int64_t>(kPanel, order - 1 - start));
      for (int p = 0; p < width; ++p) {
        const std::int64_t k = start + p, length = order - k - 1;
        double* x = a + k * ld + k + 1;
        double* vp = v.data() + p * ld + k + 1;
        double* wp = w.data() + p * ld + k + 1;
        double left[kPanel], right[kPanel];
        if (thread == 0) {
          for (int q = 0; q < p; ++q) {
            left[q] = w[q * ld + k];
            right[q] = v[q * ld + k];
          }
          subtract_panel(a + k * ld, v.data(), w.data(), left, right, p, ld, k, order);
          diagonal[k] = a[k * ld + k];
          // The reflector of row k maps its columns k+1 .. to (beta, 0, ..., 0).
          const double rest = std::sqrt(dot(x + 1, x + 1, length - 1));
          double beta = x[0];
          if (rest != 0.0) {
            beta = -std::copysign(std::hypot(x[0], rest), x[0]);
            tau_[k] = (beta - x[0]) / beta;
            const double scale = 1.0 / (x[0] - beta);
            for (std::int64_t j = 1; j < length; ++j) x[j] *= scale;
          }
          x[0] = 1.0;
          off[k] = beta;
          std::memcpy(vp, x, length * sizeof(double));
        }
        barrier.wait();
        for (int part = thread; part < kParts; part += count)
          symmetric_product_part(a, ld, k + 1, order, part, v.data() + p * ld, parts.data() + part * ld);
        barrier.wait();
        if (thread == 0) {
          sum_parts(parts.data(), w.data() + p * ld, ld, k + 1, order);
          for (int q = 0; q < p; ++q) {
            left[q] = dot(w.data() + q * ld + k + 1, vp, length);
            right[q] = dot(v.data() + q * ld + k + 1, vp, length);
          }
          subtract_panel(w.data() + p * ld, v.data(), w.data(), left, right, p, ld, k + 1, order);
          const double tau = tau_[k], half = 0.5 * tau * tau * dot(wp, vp, length);
          for (std::int64_t j = 0; j < length; ++j) wp[j] = tau * wp[j] - half * vp[j];
        }
      }
      barrier.wait();
      for (int part = thread; part < kParts; part += count)
        symmetric_update_part(a, ld, start + width, order, part, v.data(), w.data(), width);
      barrier.wait();
    }
  });
  diagonal[order - 1] = a[(order - 1) * ld + order - 1];
  // Row 0 of the reduced matrix is (0, beta, 0, ...): m = beta Q e1. The rest is T.
  d_.assign(diagonal.begin() + 1, diagonal.end());
  e_.assign(off.begin() + 1, off.end());
  e_.push_back(0.0);
  z_.assign(n_, 0.0);
  z_[0] = off[0];
  unit_ = unit;
  length_unit_ = length_unit;
}

double Spectrum::eigenvalue(Index k, Index begin, Index end) const {
  const Tridiagonal t = matrix();
  auto [low, high, resolution] = gershgorin(t, begin, end);
  for (int i = 0; i < 200 && high - low > resolution; ++i) {
    const double middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) break;
    (count_below(t, begin, end, middle) > k ? high : low) = middle;
  }
  return high;
}

bool Spectrum::drop() {
  const Tridiagonal t = matrix();
  if (count_below(t, 0, n_, edge_) == 0) return true;
  for (Index first = 0; first < n_;) {
    const auto [last, dropped] = block_at(t, first, edge_);
    if (last > first && dropped == last - first + 1) drop_block(t, first, last);
    if (last > first && dropped > 0 && dropped <= last - first) {
      if (!split_first(t, first, eigenvalue(0, first, last + 1), rotations_)) return false;
      ++first;
    } else {
      first = last + 1;
    }
  }
  return true;
}

SpectralSums Spectrum::sums(double g, bool traces) const {
  std::vector<double> work(kSumArrays * n_);
  return spectral_sums(matrix(), edge_, g, traces, work.data(), 1);
}

void Spectrum::weights(const double* g, std::int64_t count, double* vectors, int threads) const {
  const std::int64_t ld = n_ + 1;
  const double scale = 1.0 / std::sqrt(unit_);  // (C + g)^-1 m = unit^(1/2) / unit times that of the scaled problem
  parallel_for((count + kLanes - 1) / kLanes, 1, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> x(n_ * kLanes), y(n_), inverse(n_);
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kLanes, columns = std::min<std::int64_t>(kLanes, count - first);
      std::fill(x.begin(), x.end(), 0.0);
      for (std::int64_t c = 0; c < columns; ++c) {
        solve(matrix(), edge_, g[first + c], inverse.data(), y.data(), 1);
        for (std::int64_t i = 0; i < n_; ++i) x[i * kLanes + c] = scale * y[i];
      }
      for (auto sweep = rotations_.sweeps.rbegin(); sweep != rotations_.sweeps.rend(); ++sweep)
        rotate_rows(x.data(), rotations_.values.data() + sweep->begin, sweep->first, sweep->last);
      // Reflector k acts on rows k+1 .. of the bordered matrix, that is on rows k .. here.
      for (std::int64_t k = n_ - 1; k >= 0; --k)
        if (tau_[k] != 0.0) reflect_rows(x.data() + k * kLanes, matrix_.get() + k * ld + k + 1, tau_[k], n_ - k);
      for (std::int64_t c = 0; c < columns; ++c)
        for (std::int64_t i = 0; i < n_; ++i) vectors[(first + c) * n_ + i] = x[i * kLanes + c];
    }
  });
}

}  // namespace synbench
