#include "nuclear_norm.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "parallel.hpp"
#include "simd.hpp"
#include "spectrum_kernels.hpp"

namespace synbench {

namespace {

constexpr std::int64_t kRows = 4;  // rows of a pass that share the loads of its vectors

std::int64_t padded(std::int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Leading dimension: an odd number of cache lines, so that the rows of a column lie in different sets of the cache.
std::int64_t leading(std::int64_t n) { return padded(n) + (padded(n) / kLanes % 2 ? 0 : kLanes); }

// Doubles that begin with a cache line: loads across two lines take twice the time.
class Aligned {
 public:
  explicit Aligned(std::int64_t n) : storage_(n + kLanes - 1) {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    const std::uintptr_t bytes = (64 - address % 64) % 64;
    start_ = storage_.data() + bytes / 8;  // of 8 bytes each
  }
  double* data() { return start_; }

 private:
  std::vector<double> storage_;
  double* start_;
};

// What a step leaves to be done: A <- A - left y' - right v' with right = turn (A v - left (y'v)).
struct Pending {
  const double *left, *y, *v;
  double turn, common;  // common = y'v
};

// R rows of A from one place on, while they are in the nearest cache: the pending update, column[r] <- element k of
// row r, and sum += column[r] row r. Columns begin .. end - 1, multiples of kLanes.
template <int R>
SYNBENCH_INLINE void step_rows(double* a, std::int64_t ld, std::int64_t begin, std::int64_t end, std::int64_t k,
                               const double* left, const Pending& p, double* column, double* sum) {
  Lanes dots[R] = {};
  for (std::int64_t j = begin; j < end; j += kLanes) {
    const Lanes vj = load(p.v + j);
    for (int r = 0; r < R; ++r) dots[r] += load(a + r * ld + j) * vj;
  }
  double right[R];
  for (int r = 0; r < R; ++r) {
    right[r] = p.turn * (synbench::sum(dots[r]) - left[r] * p.common);
    column[r] = a[r * ld + k] - left[r] * p.y[k] - right[r] * p.v[k];
  }
  for (std::int64_t j = begin; j < end; j += kLanes) {
    const Lanes yj = load(p.y + j), vj = load(p.v + j);
    Lanes s = load(sum + j);
    for (int r = 0; r < R; ++r) {
      const Lanes value = load(a + r * ld + j) - left[r] * yj - right[r] * vj;
      store(a + r * ld + j, value);
      s += column[r] * value;
    }
    store(sum + j, s);
  }
}

SYNBENCH_CLONES void step(double* a, std::int64_t ld, std::int64_t first, std::int64_t m, std::int64_t begin,
                          std::int64_t end, const Pending& p, double* column, double* sum) {
  std::int64_t i = first;
  for (; i + kRows <= m; i += kRows)
    step_rows<kRows>(a + i * ld, ld, begin, end, first, p.left + i, p, column + i, sum);
  for (; i < m; ++i) step_rows<1>(a + i * ld, ld, begin, end, first, p.left + i, p, column + i, sum);
}

struct Reflector {
  double beta, tau, scale;
};

// x <- v with v[0] = 1 and (I - tau v v') x = beta e1; v = scale (x - beta e1).
Reflector reflector(double* x, std::int64_t n) {
  const double rest = kernels::dot(x + 1, x + 1, n - 1);
  const double alpha = x[0];
  x[0] = 1.0;
  if (rest == 0.0) return {alpha, 0.0, 0.0};
  const double beta = -std::copysign(std::sqrt(alpha * alpha + rest), alpha);
  const double scale = 1.0 / (alpha - beta);
  for (std::int64_t i = 1; i < n; ++i) x[i] *= scale;
  return {beta, (beta - alpha) / beta, scale};
}

struct Work {
  Aligned a, x, left, y, v, sum, d, e;
  Work(std::int64_t m, std::int64_t n)
      : a(m * leading(n)), x(m), left(m), y(padded(n)), v(padded(n)), sum(padded(n)), d(n), e(n) {}
};

// A [m, n], m >= n, rows padded with zeros to a multiple of kLanes, to diagonal d and superdiagonal e (e[n-1] = 0).
void bidiagonalise(Work& w, std::int64_t m, std::int64_t n) {
  const std::int64_t ld = leading(n), end = padded(n);
  double *a = w.a.data(), *x = w.x.data(), *left = w.left.data(), *y = w.y.data(), *v = w.v.data(), *s = w.sum.data();
  double *d = w.d.data(), *e = w.e.data(), turn = 0.0, common = 0.0;
  std::fill(left, left + m, 0.0);
  std::fill(y, y + end, 0.0);
  std::fill(v, v + end, 0.0);
  for (std::int64_t k = 0; k < n; ++k) {
    const std::int64_t begin = k / kLanes * kLanes, after = k + 1;
    std::fill(s + begin, s + end, 0.0);
    step(a, ld, k, m, begin, end, {left, y, v, turn, common}, x, s);
    const Reflector below = reflector(x + k, m - k);
    d[k] = below.beta;
    e[k] = 0.0;
    if (after == n) break;
    // s = A'x for the column as it was; the reflector's vector is scale (x - beta e1).
    const double* row = a + k * ld;
    for (std::int64_t i = k; i < m; ++i) left[i] = below.tau * x[i];
    for (std::int64_t j = begin; j < end; ++j) y[j] = below.scale * (s[j] - below.beta * row[j]);
    for (std::int64_t j = begin; j < after; ++j) y[j] = v[j] = 0.0;  // finished columns
    for (std::int64_t j = after; j < n; ++j) v[j] = row[j] - left[k] * y[j];
    const Reflector above = reflector(v + after, n - after);
    e[k] = above.beta;
    turn = above.tau;
    common = kernels::dot(y + after, v + after, n - after);
  }
}

constexpr double kStep = 0.29;     // of the trapezoidal rule: an error of 4 exp(-pi^2 / step) = 6e-15 of every value
constexpr double kLowest = -40.0;  // below it lies less than exp(-40) = 4e-18 for every value
constexpr int kGroups = 24, kTogether = 4;  // groups of kLanes nodes; several at once hide the time of divisions

// Sum of the singular values of B, from the squares of its entries; those are at most 1 and one is at least 1/4.
SYNBENCH_CLONES double sum_of_values(const double* d2, const double* e2, std::int64_t n) {
  double total = 0.0, trace = 0.0;
  for (std::int64_t i = 0; i < n; ++i) trace += d2[i] + e2[i];
  for (int group = 0; group < kGroups; group += kTogether) {
    Lanes shift[kTogether], t[kTogether], h[kTogether], sums[kTogether];
    for (int g = 0; g < kTogether; ++g)
      for (int lane = 0; lane < kLanes; ++lane)
        shift[g][lane] = std::exp(2.0 * (kLowest + kStep * ((group + g) * kLanes + lane)));
    for (int g = 0; g < kTogether; ++g) {
      t[g] = shift[g];
      h[g] = Lanes{};
      sums[g] = Lanes{};
    }
    for (std::int64_t i = 0; i < n; ++i)
      for (int g = 0; g < kTogether; ++g) {
        // pivot = d^2 + t; h = t - shift * dt/dshift
        const Lanes r = 1.0 / (d2[i] + t[g]), q = d2[i] * h[g];
        sums[g] += (d2[i] + h[g]) * r;
        const Lanes er = e2[i] * r;
        h[g] = er * r * (t[g] * t[g] + q);
        t[g] = shift[g] + er * t[g];
      }
    for (int g = 0; g < kTogether; ++g)
      for (int lane = 0; lane < kLanes; ++lane) total += sums[g][lane] * std::sqrt(shift[g][lane]);
  }
  // Above the last node sigma^2 is nothing beside the shift, and the rest is a geometric series.
  const double last = kLowest + kStep * (kGroups * kLanes);
  total += trace * std::exp(-last) / (1.0 - std::exp(-kStep));
  return total * kStep * 2.0 / std::numbers::pi;
}

double nuclear_norm(const double* block, std::int64_t stride, std::int64_t rows, std::int64_t columns, Work& w) {
  const std::int64_t m = std::max(rows, columns), n = std::min(rows, columns), ld = leading(n);
  double largest = 0.0;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) largest = std::max(largest, std::abs(block[i * stride + j]));
  if (!(largest > 0.0)) return 0.0;
  const double unit = std::exp2(std::ilogb(largest));  // squares neither over- nor underflow
  const double scale = 1.0 / unit;
  double* a = w.a.data();
  if (rows >= columns) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j) a[i * ld + j] = block[i * stride + j] * scale;
  } else {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j) a[j * ld + i] = block[i * stride + j] * scale;
  }
  for (std::int64_t i = 0; i < m; ++i) std::fill(a + i * ld + n, a + (i + 1) * ld, 0.0);
  bidiagonalise(w, m, n);
  double *d = w.d.data(), *e = w.e.data();
  double row = 0.0, column = 0.0;  // the largest singular value is at most the root of the product of these norms
  for (std::int64_t i = 0; i < n; ++i) {
    row = std::max(row, std::abs(d[i]) + std::abs(e[i]));
    column = std::max(column, std::abs(d[i]) + (i ? std::abs(e[i - 1]) : 0.0));
  }
  const double bound = std::sqrt(row * column);
  for (std::int64_t i = 0; i < n; ++i) {
    d[i] = d[i] / bound * (d[i] / bound);
    e[i] = e[i] / bound * (e[i] / bound);
  }
  return sum_of_values(d, e, n) * bound * unit;
}

}  // namespace

void nuclear_norm(const Products& p, int threads, double* sums) {
  parallel_for(p.first * p.second, 1, threads, [&](std::int64_t begin, std::int64_t end) {
    Work work(std::max(p.rows, p.columns), std::min(p.rows, p.columns));
    for (std::int64_t pair = begin; pair < end; ++pair) {
      const std::int64_t a = pair / p.second, b = pair % p.second;
      const double* block = p.values + (a * p.rows * p.second + b) * p.columns;
      sums[pair] = nuclear_norm(block, p.second * p.columns, p.used_rows[a], p.used_columns[b], work);
    }
  });
}

}  // namespace synbench
