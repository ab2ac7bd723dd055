// robust_solve: the ridges of the eps-robust Bayes classifiers of two Gaussians, for all budgets at once.
//
//   w(g) = (C + g I)^-1 m,   ridge g >= 0 with |g w(g)| = eps |m|
//
// known: C and m as they are. sampled: C and m are sample moments on nu degrees of freedom, and f estimates
// m'(C + kappa I)^-1 m of the population, with d the eigenvalues, a = U'm:
//
//   df = sum d/(d + g),  rho = 1 - df/nu,  kappa = g/rho,  f = rho sum a^2/(d + g) - c0 df
//   the smallest g with -kappa^2 df/dkappa = eps^2 |m|^2,  |m|^2 ~ sum a^2 - c0 sum d
//
// Everything is a function of the sums s_n, e_n below, so the scalar part is written once, for host and device.
// Source: docs/method.md (ridge form of the robust classifier; deterministic equivalents).
//
// Shapes: m [features], covariance [features, features], eps [budgets]; row major doubles.
// Limits: roots to about 1e-15 relative in log g. Largest kept eigenvalue is the unit, so the scale of the
// features does not matter. eps in [0, 1); nu > number of kept eigenvalues for `sampled`.
#pragma once
#include "tridiagonal.hpp"

#ifndef __CUDACC_RTC__
#include <cstdint>
#include <vector>
#endif

namespace synbench {

enum class SolveKind { sampled, known };

// Taylor coefficients of f and df in kappa about kappa(g).
struct Expansion {
  double kappa;
  double f[kTaylor];
  double df[kTaylor];
};

SYNBENCH_HD Expansion expand(const SpectralSums& sums, double g, double nu, double c0) {
  double rho[kTaylor], in_g[kTaylor], inverse[kTaylor];
  for (int n = 0; n < kTaylor; ++n) rho[n] = (n == 0 ? 1.0 : 0.0) - sums.e[n] / nu;
  for (int n = 0; n < kTaylor; ++n) {
    in_g[n] = -c0 * sums.e[n];
    for (int i = 0; i <= n; ++i) in_g[n] += rho[i] * sums.s[n - i];
  }
  inverse[0] = 1.0 / rho[0];
  for (int n = 1; n < kTaylor; ++n) {
    double carry = 0.0;
    for (int i = 1; i <= n; ++i) carry += rho[i] * inverse[n - i];
    inverse[n] = -carry / rho[0];
  }
  // kappa(g + x) - kappa(g) = p1 x + p2 x^2 + p3 x^3, reverted to x = q1 y + q2 y^2 + q3 y^3, then substituted.
  const double p1 = g * inverse[1] + inverse[0], p2 = g * inverse[2] + inverse[1], p3 = g * inverse[3] + inverse[2];
  const double q1 = 1.0 / p1, q2 = -p2 * q1 * q1 * q1;
  const double q3 = (2.0 * p2 * p2 - p1 * p3) * q1 * q1 * q1 * q1 * q1;
  Expansion out;
  out.kappa = g * inverse[0];
  const double* from[2] = {in_g, sums.e};
  double* to[2] = {out.f, out.df};
  for (int k = 0; k < 2; ++k) {
    const double* c = from[k];
    to[k][0] = c[0];
    to[k][1] = c[1] * q1;
    to[k][2] = c[1] * q2 + c[2] * q1 * q1;
    to[k][3] = c[1] * q3 + 2.0 * c[2] * q1 * q2 + c[3] * q1 * q1 * q1;
  }
  return out;
}

// A function of g that goes from 0 to 1, and its derivative in log g; the ridge solves share = eps^2.
struct Share {
  double value;
  double slope;
};

// |g w|^2 / |m|^2
SYNBENCH_HD Share known_share(const SpectralSums& sums, double g, double norm_square) {
  const double square = -g * g * sums.s[1], cube = g * g * g * sums.s[2];
  return {square / norm_square, 2.0 * (square - cube) / norm_square};
}

// -kappa^2 f'(kappa) / |m|^2; kappa = g / (1 - df/nu) gives dg/dkappa = 1 - (kappa df)'/nu.
SYNBENCH_HD Share sampled_share(const SpectralSums& sums, double g, double nu, double c0, double norm_square) {
  const Expansion x = expand(sums, g, nu, c0);
  const double kappa_per_log = g / (1.0 - (x.df[0] + x.kappa * x.df[1]) / nu);
  return {-x.kappa * x.kappa * x.f[1] / norm_square,
          -2.0 * x.kappa * (x.f[1] + x.kappa * x.f[2]) / norm_square * kappa_per_log};
}

// g in [low, high] with share(g) = target, share rising through it: Newton on log g, else bisection.
template <typename Function>
SYNBENCH_HD double rising_root(const Function& share, double target, double low, double high) {
  low = log(low);
  high = log(high);
  double x = 0.5 * (low + high);
  for (int i = 0; i < 100; ++i) {
    const Share here = share(exp(x));
    (here.value < target ? low : high) = x;
    const double newton = x - (here.value - target) / here.slope;
    const double next = newton > low && newton < high ? newton : 0.5 * (low + high);  // NaN bisects
    const bool done = fabs(next - x) <= 1e-15 * fmax(1.0, fabs(x));
    x = next;
    if (done) break;
  }
  return exp(x);
}

constexpr int kMostSteps = 4200;  // half octaves from the smallest to the largest double

// The smallest g at which a share that may fall as well as rise reaches its targets is found on a grid of half
// octaves, low * 2^(step/2), step = 0 .. steps, that brackets all of them.
struct RiseGrid {
  double low = 1.0;
  int steps = 0;
  SYNBENCH_HD double at(int step) const { return low * exp2(0.5 * step); }
};

// For budgets in [smallest, largest] of the positive ones; lowest: the smallest kept eigenvalue.
template <typename Function>
SYNBENCH_HD RiseGrid rise_grid(const Function& share, double smallest, double largest, double lowest) {
  double low = smallest * lowest / 4.0, high = 4.0 / (1.0 - largest);
  for (int i = 0; i < 64 && !(share(low).value < smallest * smallest); ++i) low /= 16.0;
  for (int i = 0; i < 64 && !(share(high).value > largest * largest); ++i) high *= 16.0;
  RiseGrid grid;
  grid.low = low;
  const double steps = ceil(2.0 * log2(high / low));
  grid.steps = steps <= 0.0 ? 0 : steps < kMostSteps ? static_cast<int>(steps) : kMostSteps;  // which NaN gives too
  return grid;
}

#ifndef __CUDACC_RTC__

// All but `weights`, `largest` and `threshold` in units of the largest eigenvalue; budgets in the caller's order.
struct RobustSolution {
  bool finite = false;  // no NaN, and no overflow on the way
  bool converged = false;
  double largest = 0;      // eigenvalue, in squared feature units
  double threshold = 0;    // eigenvalues at or below it are dropped, in squared feature units
  std::int64_t rank = 0;   // eigenvalues kept
  double smallest = 0;     // of the kept ones
  double a2 = 0, a2d = 0;  // sum a^2, sum a^2 d over the kept ones
  double trace = 0, trace_square = 0;
  std::vector<double> ridge;     // [E]
  std::vector<double> kappa;     // [E]
  std::vector<double> variance;  // [E] w'Cw, known only
  std::vector<double> f, df;     // [kTaylor, E]; known: f[0] = m'w only
};

// cut: absolute for known, relative to the largest eigenvalue for sampled. weights: [E, features] or null.
// threads <= 0: the machine's, here and in the other operations.
// With no eigenvalue kept, or nu not above their number (sampled), nothing from `ridge` on is filled in.
RobustSolution robust_solve(const double* m, const double* covariance, std::int64_t features, const double* eps,
                            std::int64_t budgets, SolveKind kind, double nu, double c0, double cut, int threads,
                            double* weights);

#endif

}  // namespace synbench
