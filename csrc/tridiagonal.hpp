// Symmetric tridiagonal matrices: eigenvalue counts, deflation, and the sums of robust_solve over the spectrum.
//
// T has diagonal d, off-diagonal e (e[n-1] = 0) and comes with a vector z. Eigenvalues at or below an edge are
// dropped: after `drop` every row with d <= edge is a block of its own and counts for nothing. With the sum
// over the kept eigenvalues d_k and a_k the component of z along their eigenvectors,
//
//   s_n = (-1)^n sum a^2/(d + g)^(n+1),   e_n = (-1)^n sum d/(d + g)^(n+1),   n = 0 .. 3
//
// s_n comes from two solves with T + g I, e_n from the Taylor coefficients of its pivots, because
// tr (T + g I)^-1 is the derivative of the sum of their logarithms.
//
// One source for host and device. Everything here is sequential in the rows; a device runs many shifts or ridges
// side by side, one per thread, so work arrays are interleaved: element i is at [i * stride].
// Limits: backward stable; T is scaled so that its largest eigenvalue is near 1 before `drop`.
#pragma once
#include "host_device.hpp"

namespace synbench {

constexpr int kTaylor = 4;  // Taylor coefficients of orders 0 .. 3

// Taylor coefficients in g of sum a^2/(d + g) and sum d/(d + g).
struct SpectralSums {
  double s[kTaylor];
  double e[kTaylor];
};

struct Tridiagonal {
  Index n;
  double* d;
  double* e;
  double* z;
};

// Whether rows i and i + 1 are separate blocks: next to the largest eigenvalue, 1, whatever is below rounding is
// nothing.
SYNBENCH_HD bool negligible(const Tridiagonal& t, Index i) {
  return fabs(t.e[i]) <= 0.5 * kEpsilon * fmax(0.5, fabs(t.d[i]) + fabs(t.d[i + 1]));
}

// Eigenvalues of rows begin .. end - 1 that are below x: negative pivots of T - x I (Sturm).
SYNBENCH_HD Index count_below(const Tridiagonal& t, Index begin, Index end, double x) {
  constexpr double kTiny = 1e-290;
  Index count = 0;
  double pivot = 1.0;
  for (Index i = begin; i < end; ++i) {
    const double e = i == begin ? 0.0 : t.e[i - 1];
    pivot = t.d[i] - x - e * (e / pivot);
    if (fabs(pivot) < kTiny) pivot = -kTiny;
    count += pivot < 0.0;
  }
  return count;
}

// All eigenvalues of rows begin .. end - 1 lie in (low, high]; a bisection ends at `resolution`.
struct Interval {
  double low, high, resolution;
};

SYNBENCH_HD Interval gershgorin(const Tridiagonal& t, Index begin, Index end) {
  double low = t.d[begin], high = t.d[begin];
  for (Index i = begin; i < end; ++i) {
    const double radius = (i == begin ? 0.0 : fabs(t.e[i - 1])) + (i + 1 < end ? fabs(t.e[i]) : 0.0);
    low = fmin(low, t.d[i] - radius);
    high = fmax(high, t.d[i] + radius);
  }
  const double resolution = 0.5 * kEpsilon * fmax(fabs(low), fabs(high));
  return {low, high + resolution, resolution};
}

// One implicit QL iteration (EISPACK tql2) on rows first .. last of T, with z; its rotations go to `sink`. The
// shift is `shift` if `exact`, an eigenvalue that is to be split off, else Wilkinson's.
template <typename Sink>
SYNBENCH_HD void ql_sweep(const Tridiagonal& t, Index first, Index last, double shift, bool exact, Sink& sink) {
  double *d = t.d, *e = t.e, *z = t.z;
  double g = (d[first + 1] - d[first]) / (2.0 * e[first]), r = hypot(g, 1.0);
  g = exact ? d[last] - shift : d[last] - d[first] + e[first] / (g + copysign(r, g));
  double s = 1.0, c = 1.0, p = 0.0;
  sink.sweep(first, last);
  for (Index i = last - 1; i >= first; --i) {
    const double f = s * e[i], b = c * e[i];
    r = hypot(f, g);
    s = r == 0.0 ? 0.0 : f / r;
    c = r == 0.0 ? 1.0 : g / r;
    e[i + 1] = r;
    g = d[i + 1] - p;
    const double q = (d[i] - g) * s + 2.0 * c * b;
    p = s * q;
    d[i + 1] = g + p;
    g = c * q - b;
    sink.rotation(c, s);
    const double high = z[i + 1];
    z[i + 1] = s * z[i] + c * high;
    z[i] = c * z[i] - s * high;
  }
  d[first] -= p;
  e[first] = g;
  e[last] = 0.0;
}

// Splits one eigenvalue off as row `first`, if possible `shift`. The first sweeps use the shift, an eigenvalue, which
// splits that very eigenvalue off; should they not, Wilkinson's shift splits off some eigenvalue. False if that
// does not converge (not seen on finite input).
template <typename Sink>
SYNBENCH_HD bool split_first(const Tridiagonal& t, Index first, double shift, Sink& sink) {
  constexpr int kShifted = 3, kMaxSweeps = 60;
  for (int sweep = 0;; ++sweep) {
    Index last = first;
    while (last < t.n - 1 && !negligible(t, last)) ++last;
    if (last < t.n - 1) t.e[last] = 0.0;
    if (last == first) return true;
    if (sweep == kMaxSweeps) return false;
    ql_sweep(t, first, last, shift, sweep < kShifted, sink);
  }
}

// The block that begins at `first`: its last row, and how many of its eigenvalues are at or below the edge.
struct Block {
  Index last, dropped;
};

SYNBENCH_HD Block block_at(const Tridiagonal& t, Index first, double edge) {
  Index last = first;
  while (last < t.n - 1 && !negligible(t, last)) ++last;
  if (last < t.n - 1) t.e[last] = 0.0;
  return {last, last == first ? static_cast<Index>(t.d[first] <= edge) : count_below(t, first, last + 1, edge)};
}

// Takes a block out of T whole.
SYNBENCH_HD void drop_block(const Tridiagonal& t, Index first, Index last) {
  for (Index i = first; i <= last; ++i) t.d[i] = t.e[i] = t.z[i] = 0.0;
}

// 1/pivots of T + g I, 0 for dropped rows, and y <- the first half of the solve (T + g I) y = right.
SYNBENCH_HD void factor(const Tridiagonal& t, double edge, double g, double* inverse, double* y, Index stride) {
  double reciprocal = 0.0, value = 0.0;
  for (Index i = 0; i < t.n; ++i) {
    const double e = i == 0 ? 0.0 : t.e[i - 1], ratio = e * reciprocal;
    reciprocal = t.d[i] > edge ? 1.0 / (t.d[i] + g - e * ratio) : 0.0;
    value = t.z[i] - ratio * value;
    inverse[i * stride] = reciprocal;
    y[i * stride] = value;
  }
}

// y <- the second half of a solve.
SYNBENCH_HD void substitute_back(const Tridiagonal& t, const double* inverse, double* y, Index stride) {
  double value = 0.0;
  for (Index i = t.n - 1; i >= 0; --i) {
    value = (y[i * stride] - t.e[i] * value) * inverse[i * stride];
    y[i * stride] = value;
  }
}

// y <- (T + g I)^-1 z over the kept eigenvalues; y and the work array `inverse` have n elements.
SYNBENCH_HD void solve(const Tridiagonal& t, double edge, double g, double* inverse, double* y, Index stride) {
  factor(t, edge, g, inverse, y, stride);
  substitute_back(t, inverse, y, stride);
}

constexpr int kSumArrays = 3;  // work arrays of spectral_sums, n elements each

SYNBENCH_HD SpectralSums spectral_sums(const Tridiagonal& t, double edge, double g, bool traces, double* work,
                                       Index stride) {
  double *inverse = work, *once = inverse + t.n * stride, *twice = once + t.n * stride;
  SpectralSums out = {};
  solve(t, edge, g, inverse, once, stride);
  double value = 0.0;
  for (Index i = 0; i < t.n; ++i) {
    if (i > 0) value *= -t.e[i - 1] * inverse[(i - 1) * stride];
    value += once[i * stride];
    twice[i * stride] = value;
  }
  substitute_back(t, inverse, twice, stride);
  for (Index i = 0; i < t.n; ++i) {
    const double y = once[i * stride], x = twice[i * stride];
    out.s[0] += t.z[i] * y;
    out.s[1] -= y * y;
    out.s[2] += y * x;
    out.s[3] -= x * x;
  }
  if (!traces) return out;
  // Pivots P_i(x) = g + x + W_i(x), W_i = d_i - e^2 / P_(i-1), have sum of log P_i' = tr (T + g + x)^-1, so
  // sum d/(d + g + x) = sum_i (1 - (g + x) P_i'/P_i) = sum_i (W_i - (g + x) W_i')/P_i, which keeps its digits
  // for ridges far above the spectrum. w and q are the Taylor coefficients of W and 1/P.
  double q0 = 0.0, q1 = 0.0, q2 = 0.0, q3 = 0.0, q4 = 0.0;
  for (Index i = 0; i < t.n; ++i) {
    const double square = i == 0 ? 0.0 : t.e[i - 1] * t.e[i - 1];
    const double w0 = t.d[i] - square * q0, w1 = -square * q1, w2 = -square * q2, w3 = -square * q3, w4 = -square * q4;
    const double p1 = 1.0 + w1;
    q0 = inverse[i * stride];
    q1 = -q0 * (p1 * q0);
    q2 = -q0 * (p1 * q1 + w2 * q0);
    q3 = -q0 * (p1 * q2 + w2 * q1 + w3 * q0);
    q4 = -q0 * (p1 * q3 + w2 * q2 + w3 * q1 + w4 * q0);
    const double n0 = w0 - g * w1, n1 = -2.0 * g * w2, n2 = -w2 - 3.0 * g * w3, n3 = -2.0 * w3 - 4.0 * g * w4;
    out.e[0] += n0 * q0;
    out.e[1] += n0 * q1 + n1 * q0;
    out.e[2] += n0 * q2 + n1 * q1 + n2 * q0;
    out.e[3] += n0 * q3 + n1 * q2 + n2 * q1 + n3 * q0;
  }
  return out;
}

// Over the kept eigenvalues: their number, sum a^2, sum d, sum d^2, sum a^2 d.
struct SpectralMoments {
  Index rank;
  double a2, trace, trace_square, a2d;
};

SYNBENCH_HD SpectralMoments spectral_moments(const Tridiagonal& t, double edge) {
  SpectralMoments out = {};
  for (Index i = 0; i < t.n; ++i) {
    if (!(t.d[i] > edge)) continue;
    ++out.rank;
    out.trace += t.d[i];
    out.trace_square += t.d[i] * t.d[i];
    out.a2 += t.z[i] * t.z[i];
    out.a2d += t.z[i] * t.z[i] * t.d[i];
    if (i + 1 == t.n) break;
    out.trace_square += 2.0 * t.e[i] * t.e[i];
    out.a2d += 2.0 * t.z[i] * t.z[i + 1] * t.e[i];
  }
  return out;
}

}  // namespace synbench
