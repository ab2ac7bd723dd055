#include "robust_solve.hpp"

#include <algorithm>
#include <numeric>

#include "parallel.hpp"
#include "spectrum.hpp"

namespace synbench {
namespace {

SYNBENCH_CLONES
void spectral_sums(const double* d, const double* a2, std::int64_t n, double g, SpectralSums* sums) {
  Lanes s[kTaylor] = {}, e[kTaylor] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Lanes di = load(d + i), ai = load(a2 + i);
    const Lanes resolvent = 1.0 / (di + g);
    Lanes power = resolvent;
    for (int k = 0; k < kTaylor; ++k) {
      s[k] += ai * power;
      e[k] += di * power;
      power *= -resolvent;
    }
  }
  for (int k = 0; k < kTaylor; ++k) {
    sums->s[k] = sum(s[k]);
    sums->e[k] = sum(e[k]);
  }
  for (; i < n; ++i) {
    const double resolvent = 1.0 / (d[i] + g);
    double power = resolvent;
    for (int k = 0; k < kTaylor; ++k) {
      sums->s[k] += a2[i] * power;
      sums->e[k] += d[i] * power;
      power *= -resolvent;
    }
  }
}

// The smallest g at which share reaches each target: a grid of half octaves finds the rise, Newton refines it.
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
  double low = smallest * lowest / 4.0, high = 4.0 / (1.0 - largest);
  for (int i = 0; i < 64 && !(share(low).value < smallest * smallest); ++i) low /= 16.0;
  for (int i = 0; i < 64 && !(share(high).value > largest * largest); ++i) high *= 16.0;
  const int steps = static_cast<int>(std::ceil(2.0 * std::log2(high / low)));
  std::vector<bool> found(eps.size(), false);
  for (int step = 1; step <= steps && open > 0; ++step) {
    const double g = low * std::exp2(step / 2.0);
    const double value = share(g).value;
    for (std::size_t e = 0; e < eps.size(); ++e) {
      if (found[e] || !(eps[e] * eps[e] > 0.0)) continue;
      if (!(value >= eps[e] * eps[e]) && step < steps) continue;
      ridge[e] = rising_root(share, eps[e] * eps[e], g * std::sqrt(0.5), g);
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
  const Spectrum spectrum(covariance, m, features, threads);
  out.converged = spectrum.converged();
  if (!out.converged) return out;
  const auto& values = spectrum.eigenvalues();
  out.largest = *std::max_element(values.begin(), values.end());
  out.threshold = std::max(0.0, kind == SolveKind::plugin ? cut : cut * out.largest);
  std::vector<std::int64_t> kept(features);
  std::iota(kept.begin(), kept.end(), 0);
  std::erase_if(kept, [&](std::int64_t i) { return !(values[i] > out.threshold); });
  std::sort(kept.begin(), kept.end(), [&](std::int64_t i, std::int64_t j) { return values[i] < values[j]; });
  const std::int64_t rank = static_cast<std::int64_t>(kept.size());
  const double unit = out.largest;
  for (std::int64_t i : kept) {
    out.eigenvalues.push_back(values[i] / unit);
    out.square_coordinates.push_back(spectrum.coordinates()[i] * spectrum.coordinates()[i] / unit);
  }
  if (rank == 0 || (kind == SolveKind::consistent && !(nu > static_cast<double>(rank)))) return out;

  const auto& d = out.eigenvalues;
  const auto& a2 = out.square_coordinates;
  auto sums = [&](double g) {
    SpectralSums at;
    spectral_sums(d.data(), a2.data(), rank, g, &at);
    return at;
  };
  double norm_square = std::accumulate(a2.begin(), a2.end(), 0.0);
  if (kind == SolveKind::consistent) norm_square -= c0 * std::accumulate(d.begin(), d.end(), 0.0);

  const std::vector<double> wanted(eps, eps + budgets);
  out.ridge.assign(budgets, 0.0);
  if (norm_square > 0.0) {
    if (kind == SolveKind::plugin) {
      for (std::int64_t e = 0; e < budgets; ++e) {
        if (!(wanted[e] * wanted[e] > 0.0)) continue;
        // g/(d + g) = eps at each eigenvalue alone brackets the root of their weighted mean.
        const double odds = wanted[e] / (1.0 - wanted[e]);
        out.ridge[e] = rising_root([&](double g) { return plugin_share(sums(g), g, norm_square); },
                                   wanted[e] * wanted[e], odds * d.front(), odds * d.back());
      }
    } else {
      first_rises([&](double g) { return consistent_share(sums(g), g, nu, c0, norm_square); }, wanted, d.front(),
                  out.ridge.data());
    }
  }

  out.kappa = out.ridge;
  out.variance.assign(budgets, 0.0);
  out.f.assign(kTaylor * budgets, 0.0);
  out.df.assign(kTaylor * budgets, 0.0);
  for (std::int64_t e = 0; e < budgets; ++e) {
    const double g = out.ridge[e];
    if (kind == SolveKind::plugin) {
      for (std::int64_t i = 0; i < rank; ++i) {
        const double resolvent = 1.0 / (d[i] + g);
        out.f[e] += a2[i] * resolvent;
        out.variance[e] += a2[i] * d[i] * resolvent * resolvent;
      }
    } else {
      const Expansion at = expand(sums(g), g, nu, c0);
      out.kappa[e] = at.kappa;
      for (int n = 0; n < kTaylor; ++n) {
        out.f[n * budgets + e] = at.f[n];
        out.df[n * budgets + e] = at.df[n];
      }
    }
  }

  if (weights != nullptr) {
    std::vector<double> coefficients(features * budgets, 0.0);
    for (std::int64_t k = 0; k < rank; ++k)
      for (std::int64_t e = 0; e < budgets; ++e)
        coefficients[kept[k] * budgets + e] = spectrum.coordinates()[kept[k]] / (unit * (d[k] + out.ridge[e]));
    spectrum.apply(coefficients.data(), weights, budgets, threads);
  }
  return out;
}

}  // namespace synbench
