#include "spectrum.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "parallel.hpp"
#include "spectrum_kernels.hpp"

namespace synbench {

using namespace kernels;

namespace {

// The power of two next below `size`: dividing by it is exact.
double power_of_two(double size) { return size > 0.0 ? std::exp2(std::ilogb(size)) : 1.0; }

}  // namespace

Spectrum::Spectrum(const double* covariance, const double* m, std::int64_t n, double cut, bool relative, int threads) : n_(n) {
  tridiagonalise(covariance, m, threads);
  const double largest = eigenvalue(n - 1, 0);
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
  drop(threshold_ / unit_);
  if (!converged_) return;

  rank_ = n_ - begin_ + static_cast<std::int64_t>(isolated_.size());
  smallest_ = begin_ < n_ ? eigenvalue(0, begin_) : 1.0;
  for (const Isolated& one : isolated_) {
    smallest_ = std::min(smallest_, one.d);
    trace_ += one.d;
    trace_square_ += one.d * one.d;
    a2_ += one.z * one.z;
    a2d_ += one.z * one.z * one.d;
  }
  for (std::int64_t i = begin_; i < n_; ++i) {
    trace_ += d_[i];
    trace_square_ += d_[i] * d_[i];
    a2_ += z_[i] * z_[i];
    a2d_ += z_[i] * z_[i] * d_[i];
    if (i + 1 == n_) break;
    trace_square_ += 2.0 * e_[i] * e_[i];
    a2d_ += 2.0 * z_[i] * z_[i + 1] * e_[i];
  }
}

void Spectrum::tridiagonalise(const double* covariance, const double* m, int threads) {
  // Order n + 1: row 0 is (0, m'), rows 1.. are C. Row i keeps only columns >= i.
  const std::int64_t order = n_ + 1, ld = order;
  matrix_.resize(order * ld);
  tau_.assign(n_, 0.0);
  std::vector<double> diagonal(order, 0.0), off(n_, 0.0);
  std::vector<double> v(kPanel * ld), w(kPanel * ld), parts(kParts * ld);
  double* a = matrix_.data();

  // In units near the largest variance and the largest entry of m, squares neither over- nor underflow.
  double largest = 0.0, longest = 0.0;
  for (std::int64_t i = 0; i < n_; ++i) {
    largest = std::max(largest, std::abs(covariance[i * n_ + i]));
    longest = std::max(longest, std::abs(m[i]));
  }
  const double unit = power_of_two(largest), length_unit = power_of_two(longest);

  const int members = static_cast<int>(std::clamp<std::int64_t>(order / 64, 1, std::min(threads, kParts)));
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

// Eigenvalues of rows begin .. of T that are below x: negative pivots of T - x I (Sturm).
std::int64_t Spectrum::count_below(double x, std::int64_t begin) const {
  constexpr double kTiny = 1e-290;
  std::int64_t count = 0;
  double pivot = 1.0;
  for (std::int64_t i = begin; i < n_; ++i) {
    const double e = i == begin ? 0.0 : e_[i - 1];
    pivot = d_[i] - x - e * (e / pivot);
    if (std::abs(pivot) < kTiny) pivot = -kTiny;
    count += pivot < 0.0;
  }
  return count;
}

double Spectrum::eigenvalue(std::int64_t k, std::int64_t begin) const {
  double low = d_[begin], high = d_[begin];
  for (std::int64_t i = begin; i < n_; ++i) {  // Gershgorin
    const double radius = (i == begin ? 0.0 : std::abs(e_[i - 1])) + (i + 1 < n_ ? std::abs(e_[i]) : 0.0);
    low = std::min(low, d_[i] - radius);
    high = std::max(high, d_[i] + radius);
  }
  const double resolution = 0.5 * std::numeric_limits<double>::epsilon() * std::max(std::abs(low), std::abs(high));
  high += resolution;
  for (int i = 0; i < 200 && high - low > resolution; ++i) {
    const double middle = 0.5 * (low + high);
    if (middle <= low || middle >= high) break;
    (count_below(middle, begin) > k ? high : low) = middle;
  }
  return high;
}

void Spectrum::drop(double cut) {
  // What lies within rounding of the cut counts as at the cut.
  const double edge = cut + 4.0 * std::numeric_limits<double>::epsilon();
  while (begin_ < n_ && count_below(edge, begin_) > 0) {
    if (!split_first(eigenvalue(0, begin_))) {
      converged_ = false;
      return;
    }
    if (d_[begin_] > edge) isolated_.push_back({begin_, d_[begin_], z_[begin_]});
    ++begin_;
  }
}

// Implicit QL (EISPACK tql2) until row begin_ is split off. The first sweeps use the given shift, an eigenvalue,
// which splits that very eigenvalue off; should they not, Wilkinson's shift splits off some eigenvalue.
bool Spectrum::split_first(double shift) {
  constexpr int kShifted = 3, kMaxSweeps = 60;
  const std::int64_t l = begin_;
  double* d = d_.data();
  double* e = e_.data();
  double* z = z_.data();
  for (int sweep = 0;; ++sweep) {
    std::int64_t top = l;
    for (; top < n_ - 1; ++top) {
      // Next to the largest eigenvalue, 1, whatever is below rounding is nothing; near 0 that alone ends the sweeps.
      const double size = std::max(0.5, std::abs(d[top]) + std::abs(d[top + 1]));
      if (std::abs(e[top]) <= 0.5 * std::numeric_limits<double>::epsilon() * size) break;
    }
    if (top == l) {
      e[l] = 0.0;
      return true;
    }
    if (sweep == kMaxSweeps) return false;
    double g = (d[l + 1] - d[l]) / (2.0 * e[l]), r = std::hypot(g, 1.0);
    g = sweep < kShifted ? d[top] - shift : d[top] - d[l] + e[l] / (g + std::copysign(r, g));
    double s = 1.0, c = 1.0, p = 0.0;
    sweeps_.push_back({l, top, rotations_.size()});
    for (std::int64_t i = top - 1; i >= l; --i) {
      const double f = s * e[i], b = c * e[i];
      r = std::hypot(f, g);
      s = r == 0.0 ? 0.0 : f / r;
      c = r == 0.0 ? 1.0 : g / r;
      e[i + 1] = r;
      g = d[i + 1] - p;
      const double t = (d[i] - g) * s + 2.0 * c * b;
      p = s * t;
      d[i + 1] = g + p;
      g = c * t - b;
      rotations_.push_back(c);
      rotations_.push_back(s);
      const double high = z[i + 1];
      z[i + 1] = s * z[i] + c * high;
      z[i] = c * z[i] - s * high;
    }
    d[l] -= p;
    e[l] = g;
    e[top] = 0.0;
  }
}

// y = (T + g I)^-1 right on rows begin_ .. (both indexed from there), by the factors L D L'.
void Spectrum::solve(double g, const double* right, double* y) const {
  const double* d = d_.data() + begin_;
  const double* e = e_.data() + begin_;
  const std::int64_t n = n_ - begin_;
  if (n == 0) return;
  std::vector<double> inverse(n);
  inverse[0] = 1.0 / (d[0] + g);
  y[0] = right[0];
  for (std::int64_t i = 1; i < n; ++i) {
    const double factor = e[i - 1] * inverse[i - 1];
    inverse[i] = 1.0 / (d[i] + g - e[i - 1] * factor);
    y[i] = right[i] - factor * y[i - 1];
  }
  y[n - 1] *= inverse[n - 1];
  for (std::int64_t i = n - 2; i >= 0; --i) y[i] = (y[i] - e[i] * y[i + 1]) * inverse[i];
}

SpectralSums Spectrum::sums(double g, bool traces) const {
  SpectralSums out = {};
  const std::int64_t n = n_ - begin_;
  std::vector<double> once(n), twice(n);
  solve(g, z_.data() + begin_, once.data());
  solve(g, once.data(), twice.data());
  for (std::int64_t i = 0; i < n; ++i) {
    out.s[0] += z_[begin_ + i] * once[i];
    out.s[1] -= once[i] * once[i];
    out.s[2] += once[i] * twice[i];
    out.s[3] -= twice[i] * twice[i];
  }
  if (traces && n > 0) {
    // Pivots P_i(x) = g + x + W_i(x), W_i = d_i - e^2 / P_(i-1), have sum of log P_i' = tr (T + g + x)^-1, so
    // sum d/(d + g + x) = sum_i (1 - (g + x) P_i'/P_i) = sum_i (W_i - (g + x) W_i')/P_i, which keeps its digits
    // for ridges far above the spectrum. w and q are the Taylor coefficients of W and 1/P.
    double q[kTaylor + 1] = {};
    for (std::int64_t i = 0; i < n; ++i) {
      const double square = i == 0 ? 0.0 : e_[begin_ + i - 1] * e_[begin_ + i - 1];
      const double w0 = d_[begin_ + i] - square * q[0], w1 = -square * q[1];
      const double w2 = -square * q[2], w3 = -square * q[3], w4 = -square * q[4], p1 = 1.0 + w1;
      q[0] = 1.0 / (g + w0);
      q[1] = -q[0] * (p1 * q[0]);
      q[2] = -q[0] * (p1 * q[1] + w2 * q[0]);
      q[3] = -q[0] * (p1 * q[2] + w2 * q[1] + w3 * q[0]);
      q[4] = -q[0] * (p1 * q[3] + w2 * q[2] + w3 * q[1] + w4 * q[0]);
      const double n0 = w0 - g * w1, n1 = -2.0 * g * w2, n2 = -w2 - 3.0 * g * w3, n3 = -2.0 * w3 - 4.0 * g * w4;
      out.e[0] += n0 * q[0];
      out.e[1] += n0 * q[1] + n1 * q[0];
      out.e[2] += n0 * q[2] + n1 * q[1] + n2 * q[0];
      out.e[3] += n0 * q[3] + n1 * q[2] + n2 * q[1] + n3 * q[0];
    }
  }
  for (const Isolated& one : isolated_) {
    const double resolvent = 1.0 / (one.d + g);
    double power = resolvent;
    for (int k = 0; k < kTaylor; ++k) {
      out.s[k] += one.z * one.z * power;
      out.e[k] += one.d * power;
      power *= -resolvent;
    }
  }
  return out;
}

void Spectrum::weights(const double* g, std::int64_t count, double* vectors, int threads) const {
  const std::int64_t ld = n_ + 1;
  const double scale = 1.0 / std::sqrt(unit_);  // (C + g)^-1 m = unit^(1/2) / unit times that of the scaled problem
  parallel_for((count + kLanes - 1) / kLanes, 1, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> x(n_ * kLanes), y(n_);
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kLanes, columns = std::min<std::int64_t>(kLanes, count - first);
      std::fill(x.begin(), x.end(), 0.0);
      for (std::int64_t c = 0; c < columns; ++c) {
        solve(g[first + c], z_.data() + begin_, y.data());
        for (std::int64_t i = begin_; i < n_; ++i) x[i * kLanes + c] = scale * y[i - begin_];
        for (const Isolated& one : isolated_) x[one.row * kLanes + c] = scale * one.z / (one.d + g[first + c]);
      }
      for (auto sweep = sweeps_.rbegin(); sweep != sweeps_.rend(); ++sweep)
        rotate_rows(x.data(), rotations_.data() + sweep->first, sweep->begin, sweep->end);
      // Reflector k acts on rows k+1 .. of the bordered matrix, that is on rows k .. here.
      for (std::int64_t k = n_ - 1; k >= 0; --k)
        if (tau_[k] != 0.0) reflect_rows(x.data() + k * kLanes, matrix_.data() + k * ld + k + 1, tau_[k], n_ - k);
      for (std::int64_t c = 0; c < columns; ++c)
        for (std::int64_t i = 0; i < n_; ++i) vectors[(first + c) * n_ + i] = x[i * kLanes + c];
    }
  });
}

}  // namespace synbench
