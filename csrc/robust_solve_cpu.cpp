#include "robust_solve.hpp"

#include <algorithm>

#include "spectrum.hpp"

namespace synbench {
namespace {

// The smallest g at which share reaches each target.
template <typename Function>
void first_rises(const Function& share, const std::vector<double>& eps, double lowest, double* ridge) {
  double smallest = 1.0, largest = 0.0;
  std::size_t open = 0;
  for (double e : eps) {
    if (!(e * e > 0.0)) continue;
    smallest = std::min(smallest, e);
    largest = std::max(largest, e);
    ++open;
  }
  if (open == 0) return;
  const RiseGrid grid = rise_grid(share, smallest, largest, lowest);
  std::vector<bool> found(eps.size(), false);
  for (int step = 1; step <= grid.steps && open > 0; ++step) {
    const double value = share(grid.at(step)).value;
    for (std::size_t e = 0; e < eps.size(); ++e) {
      if (found[e] || !(eps[e] * eps[e] > 0.0)) continue;
      if (!(value >= eps[e] * eps[e]) && step < grid.steps) continue;
      ridge[e] = rising_root(share, eps[e] * eps[e], grid.at(step - 1), grid.at(step));
      found[e] = true;
      --open;
    }
  }
}

}  // namespace

RobustSolution robust_solve(const double* m, const double* covariance, std::int64_t features, const double* eps,
                            std::int64_t budgets, SolveKind kind, double nu, double c0, double cut, int threads,
                            double* weights) {
  RobustSolution out;
  const bool known = kind == SolveKind::known;
  const Spectrum spectrum(covariance, m, features, cut, !known, threads);
  out.finite = spectrum.finite();
  out.converged = spectrum.converged();
  out.largest = spectrum.unit();
  out.threshold = spectrum.threshold();
  out.rank = spectrum.moments().rank;
  out.smallest = spectrum.smallest();
  out.a2 = spectrum.moments().a2;
  out.a2d = spectrum.moments().a2d;
  out.trace = spectrum.moments().trace;
  out.trace_square = spectrum.moments().trace_square;
  if (!out.finite || !out.converged || out.rank == 0 || (!known && !(nu > static_cast<double>(out.rank)))) return out;

  const double norm_square = known ? out.a2 : out.a2 - c0 * out.trace;
  const std::vector<double> wanted(eps, eps + budgets);
  out.ridge.assign(budgets, 0.0);
  if (norm_square > 0.0 && known) {
    auto share = [&](double g) { return known_share(spectrum.sums(g, false), g, norm_square); };
    for (std::int64_t e = 0; e < budgets; ++e) {
      if (!(wanted[e] * wanted[e] > 0.0)) continue;
      // g/(d + g) = eps at each eigenvalue alone brackets the root of their weighted mean.
      const double odds = wanted[e] / (1.0 - wanted[e]);
      out.ridge[e] = rising_root(share, wanted[e] * wanted[e], odds * spectrum.smallest(), odds);
    }
  } else if (norm_square > 0.0) {
    first_rises([&](double g) { return sampled_share(spectrum.sums(g, true), g, nu, c0, norm_square); }, wanted,
                spectrum.smallest(), out.ridge.data());
  }

  out.kappa = out.ridge;
  out.variance.assign(budgets, 0.0);
  out.f.assign(kTaylor * budgets, 0.0);
  out.df.assign(kTaylor * budgets, 0.0);
  for (std::int64_t e = 0; e < budgets; ++e) {
    const double g = out.ridge[e];
    const SpectralSums at = spectrum.sums(g, !known);
    if (known) {
      out.f[e] = at.s[0];
      out.variance[e] = at.s[0] + g * at.s[1];  // sum a^2 d/(d + g)^2
      continue;
    }
    const Expansion x = expand(at, g, nu, c0);
    out.kappa[e] = x.kappa;
    for (int n = 0; n < kTaylor; ++n) {
      out.f[n * budgets + e] = x.f[n];
      out.df[n * budgets + e] = x.df[n];
    }
  }
  if (weights != nullptr) spectrum.weights(out.ridge.data(), budgets, weights, threads);
  return out;
}

}  // namespace synbench
