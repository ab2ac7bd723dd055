#include "spectrum.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "parallel.hpp"

namespace synbench {
namespace {

constexpr int kRows = 4;        // rows handled together
constexpr int kPanel = 8;       // columns between two updates of the trailing matrix
constexpr int kParts = 8;       // partial sums of a product, whatever the number of threads

SYNBENCH_CLONES
double dot(const double* x, const double* y, std::int64_t n) {
  Lanes s0 = {}, s1 = {};
  std::int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    s0 += load(x + j) * load(y + j);
    s1 += load(x + j + kLanes) * load(y + j + kLanes);
  }
  double tail = 0;
  for (; j < n; ++j) tail += x[j] * y[j];
  return sum(s0 + s1) + tail;
}

// y += A x over the stored (upper) halves of rows [i, i + R): each element serves its own row and its mirror.
template <int R>
SYNBENCH_INLINE void symmetric_rows(const double* a, std::int64_t ld, std::int64_t n, std::int64_t i, const double* x, double* y) {
  const double* row[R];
  double xi[R], yi[R];
  for (int r = 0; r < R; ++r) {
    row[r] = a + (i + r) * ld;
    xi[r] = x[i + r];
    yi[r] = row[r][i + r] * xi[r];
  }
  for (int r = 0; r < R; ++r)
    for (int c = r + 1; c < R; ++c) {
      yi[r] += row[r][i + c] * xi[c];
      yi[c] += row[r][i + c] * xi[r];
    }
  Lanes s[R] = {};
  std::int64_t j = i + R;
  for (; j + kLanes <= n; j += kLanes) {
    const Lanes xj = load(x + j);
    Lanes yj = load(y + j);
    for (int r = 0; r < R; ++r) {
      const Lanes arj = load(row[r] + j);
      s[r] += arj * xj;
      yj += arj * xi[r];
    }
    store(y + j, yj);
  }
  for (; j < n; ++j)
    for (int r = 0; r < R; ++r) {
      yi[r] += row[r][j] * x[j];
      y[j] += row[r][j] * xi[r];
    }
  for (int r = 0; r < R; ++r) y[i + r] += yi[r] + sum(s[r]);
}

// Row blocks are counted from 0, not from `begin`, so that a part keeps its rows from call to call.
SYNBENCH_CLONES
void symmetric_product_part(const double* a, std::int64_t ld, std::int64_t begin, std::int64_t n, int part, const double* x, double* y) {
  std::fill(y + begin, y + n, 0.0);
  for (std::int64_t block = begin / kRows; block * kRows < n; ++block) {
    if (block % kParts != part) continue;
    const std::int64_t first = std::max(begin, block * kRows), last = std::min(n, (block + 1) * kRows);
    if (last - first == kRows) symmetric_rows<kRows>(a, ld, n, first, x, y);
    else for (std::int64_t i = first; i < last; ++i) symmetric_rows<1>(a, ld, n, i, x, y);
  }
}

// A -= V' W + W' V over the stored halves of rows [i, i + R); v, w are [panel][ld].
template <int R>
SYNBENCH_INLINE void update_rows(double* a, std::int64_t ld, std::int64_t n, std::int64_t i, const double* v, const double* w, int panel) {
  double vi[kPanel][R], wi[kPanel][R];
  for (int p = 0; p < panel; ++p)
    for (int r = 0; r < R; ++r) {
      vi[p][r] = v[p * ld + i + r];
      wi[p][r] = w[p * ld + i + r];
    }
  std::int64_t j = i;
  for (; j < std::min(i + R, n); ++j)
    for (int r = 0; r < R; ++r) {
      if (j < i + r) continue;
      double s = 0;
      for (int p = 0; p < panel; ++p) s += vi[p][r] * w[p * ld + j] + wi[p][r] * v[p * ld + j];
      a[(i + r) * ld + j] -= s;
    }
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    Lanes s[R][2];
    for (int r = 0; r < R; ++r) {
      s[r][0] = load(a + (i + r) * ld + j);
      s[r][1] = load(a + (i + r) * ld + j + kLanes);
    }
    for (int p = 0; p < panel; ++p) {
      const Lanes v0 = load(v + p * ld + j), v1 = load(v + p * ld + j + kLanes);
      const Lanes w0 = load(w + p * ld + j), w1 = load(w + p * ld + j + kLanes);
      for (int r = 0; r < R; ++r) {
        s[r][0] -= vi[p][r] * w0;
        s[r][1] -= vi[p][r] * w1;
        s[r][0] -= wi[p][r] * v0;
        s[r][1] -= wi[p][r] * v1;
      }
    }
    for (int r = 0; r < R; ++r) {
      store(a + (i + r) * ld + j, s[r][0]);
      store(a + (i + r) * ld + j + kLanes, s[r][1]);
    }
  }
  for (; j < n; ++j)
    for (int r = 0; r < R; ++r) {
      double s = 0;
      for (int p = 0; p < panel; ++p) s += vi[p][r] * w[p * ld + j] + wi[p][r] * v[p * ld + j];
      a[(i + r) * ld + j] -= s;
    }
}

SYNBENCH_CLONES
void symmetric_update_part(double* a, std::int64_t ld, std::int64_t begin, std::int64_t n, int part, const double* v, const double* w, int panel) {
  for (std::int64_t block = begin / kRows; block * kRows < n; ++block) {
    if (block % kParts != part) continue;
    const std::int64_t first = std::max(begin, block * kRows), last = std::min(n, (block + 1) * kRows);
    if (last - first == kRows) update_rows<kRows>(a, ld, n, first, v, w, panel);
    else for (std::int64_t i = first; i < last; ++i) update_rows<1>(a, ld, n, i, v, w, panel);
  }
}

// y[j] -= sum_p (left[p] * v[p][j] + right[p] * w[p][j])
SYNBENCH_CLONES
void subtract_panel(double* y, const double* v, const double* w, const double* left, const double* right, int panel, std::int64_t ld, std::int64_t begin, std::int64_t n) {
  std::int64_t j = begin;
  for (; j + kLanes <= n; j += kLanes) {
    Lanes s = load(y + j);
    for (int p = 0; p < panel; ++p) {
      s -= left[p] * load(v + p * ld + j);
      s -= right[p] * load(w + p * ld + j);
    }
    store(y + j, s);
  }
  for (; j < n; ++j)
    for (int p = 0; p < panel; ++p) y[j] -= left[p] * v[p * ld + j] + right[p] * w[p * ld + j];
}

SYNBENCH_CLONES
void sum_parts(const double* parts, double* y, std::int64_t ld, std::int64_t begin, std::int64_t n) {
  std::int64_t j = begin;
  for (; j + kLanes <= n; j += kLanes) {
    Lanes s = load(parts + j);
    for (int p = 1; p < kParts; ++p) s += load(parts + p * ld + j);
    store(y + j, s);
  }
  for (; j < n; ++j) {
    double s = parts[j];
    for (int p = 1; p < kParts; ++p) s += parts[p * ld + j];
    y[j] = s;
  }
}

// x (I - tau v v') for `count` <= kLanes columns: x [n, kLanes], v [n] with v[0] = 1 implied.
SYNBENCH_CLONES
void reflect_rows(double* x, const double* v, double tau, std::int64_t n) {
  Lanes s0 = load(x), s1 = {};
  std::int64_t i = 1;
  for (; i + 1 < n; i += 2) {
    s0 += v[i] * load(x + i * kLanes);
    s1 += v[i + 1] * load(x + (i + 1) * kLanes);
  }
  if (i < n) s0 += v[i] * load(x + i * kLanes);
  const Lanes s = tau * (s0 + s1);
  store(x, load(x) - s);
  for (i = 1; i < n; ++i) store(x + i * kLanes, load(x + i * kLanes) - v[i] * s);
}

SYNBENCH_CLONES
void rotate_rows(double* x, const double* rotations, std::int64_t begin, std::int64_t end) {
  // The sweep ran i = end-1 .. begin; its transpose runs the other way.
  Lanes low = load(x + begin * kLanes);
  for (std::int64_t i = begin; i < end; ++i) {
    const double c = rotations[2 * (end - 1 - i)], s = rotations[2 * (end - 1 - i) + 1];
    const Lanes high = load(x + (i + 1) * kLanes);
    store(x + i * kLanes, c * low + s * high);
    low = c * high - s * low;
  }
  store(x + end * kLanes, low);
}

// The power of two next below `size`: dividing by it is exact.
double power_of_two(double size) { return size > 0.0 ? std::exp2(std::ilogb(size)) : 1.0; }

}  // namespace

Spectrum::Spectrum(const double* covariance, const double* m, std::int64_t n, int threads) : n_(n) {
  tridiagonalise(covariance, m, threads);
  diagonalise();
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
  a_.assign(n_, 0.0);
  a_[0] = off[0];
  unit_ = unit;
  length_unit_ = length_unit;
}

// Implicit QL with Wilkinson's shift (EISPACK tql2), the rotations kept instead of applied to a matrix.
void Spectrum::diagonalise() {
  constexpr int kMaxSweeps = 60;
  double* d = d_.data();
  double* e = e_.data();
  double* a = a_.data();
  rotations_.reserve(static_cast<std::size_t>(2 * n_) * n_);
  for (std::int64_t l = 0; l < n_; ++l) {
    for (int sweep = 0;; ++sweep) {
      std::int64_t top = l;
      for (; top < n_ - 1; ++top) {
        const double size = std::abs(d[top]) + std::abs(d[top + 1]);
        if (std::abs(e[top]) <= 0.5 * std::numeric_limits<double>::epsilon() * size) break;
      }
      if (top == l) break;
      if (sweep == kMaxSweeps) return;
      double g = (d[l + 1] - d[l]) / (2.0 * e[l]);
      double r = std::hypot(g, 1.0);
      g = d[top] - d[l] + e[l] / (g + std::copysign(r, g));
      double s = 1.0, c = 1.0, p = 0.0;
      sweeps_.push_back({l, top, rotations_.size()});
      for (std::int64_t i = top - 1; i >= l; --i) {
        const double f = s * e[i], b = c * e[i];
        const double square = f * f + g * g;
        if (square > 1e-280) {
          r = std::sqrt(square);
          const double inverse = 1.0 / r;
          s = f * inverse;
          c = g * inverse;
        } else {  // scaled, for spectra near underflow
          r = std::hypot(f, g);
          s = r == 0.0 ? 0.0 : f / r;
          c = r == 0.0 ? 1.0 : g / r;
        }
        e[i + 1] = r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2.0 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        rotations_.push_back(c);
        rotations_.push_back(s);
        const double high = a[i + 1];
        a[i + 1] = s * a[i] + c * high;
        a[i] = c * a[i] - s * high;
      }
      d[l] -= p;
      e[l] = g;
      e[top] = 0.0;
    }
  }
  for (double& value : d_) value *= unit_;
  for (double& value : a_) value *= length_unit_;
  converged_ = true;
}

void Spectrum::apply(const double* coefficients, double* vectors, std::int64_t count, int threads) const {
  const std::int64_t ld = n_ + 1;
  parallel_for((count + kLanes - 1) / kLanes, 1, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> x(n_ * kLanes);
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kLanes, columns = std::min<std::int64_t>(kLanes, count - first);
      std::fill(x.begin(), x.end(), 0.0);
      for (std::int64_t i = 0; i < n_; ++i)
        for (std::int64_t c = 0; c < columns; ++c) x[i * kLanes + c] = coefficients[i * count + first + c];
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
