#include "robust_solve.hpp"

#include <cmath>
#include <stdexcept>

#include "arrays.hpp"
#include "gil.hpp"

namespace synbench {
namespace {

py::array_t<double> vector(const std::vector<double>& values) {
  return py::array_t<double>(static_cast<py::ssize_t>(values.size()), values.data());
}

}  // namespace

void bind_robust_solve(py::module_& module) {
  module.def(
      "robust_solve",
      [](const py::array& m, const py::array& covariance, const py::array& eps, bool known, double dof, double c0,
         double cut, bool want_weights, int threads) {
        if (m.ndim() != 1) throw py::value_error("m: expected [features], got " + std::to_string(m.ndim()) + " axes");
        if (eps.ndim() != 1)
          throw py::value_error("eps: expected [budgets], got " + std::to_string(eps.ndim()) + " axes");
        const std::int64_t features = m.shape(0), budgets = eps.shape(0);
        expect(features > 0, "m: expected at least one feature, got none");
        check_threads(threads);
        const double* m_data = input<double>(m, "m", {features});
        const double* c_data = input<double>(covariance, "covariance", {features, features});
        const double* e_data = input<double>(eps, "eps", {budgets});
        for (std::int64_t j = 0; j < features; ++j)
          expect(std::isfinite(m_data[j]), "m: expected finite numbers, got NaN or infinity");
        for (std::int64_t e = 0; e < budgets; ++e)
          expect(e_data[e] >= 0.0 && e_data[e] < 1.0,
                 "eps: expected values in [0, 1), got " + std::to_string(e_data[e]));
        expect(std::isfinite(dof) && dof > 0.0, "dof: expected a positive finite number, got " + std::to_string(dof));
        expect(std::isfinite(c0) && c0 >= 0.0, "c0: expected a finite number of at least 0, got " + std::to_string(c0));
        expect(std::isfinite(cut) && cut >= 0.0,
               "cut: expected a finite number of at least 0, got " + std::to_string(cut));
        py::array_t<double> weights({want_weights ? budgets : 0, features});
        double* w_data = want_weights ? weights.mutable_data() : nullptr;
        if (want_weights) std::fill(w_data, w_data + budgets * features, 0.0);
        RobustSolution solution;
        {
          WithoutGil released;
          solution = robust_solve(m_data, c_data, features, e_data, budgets,
                                  known ? SolveKind::known : SolveKind::sampled, dof, c0, cut, threads, w_data);
        }
        expect(solution.finite, "covariance: expected finite numbers near those of its diagonal, got others");
        if (!solution.converged) throw std::runtime_error("robust_solve: the eigenvalue iteration did not converge");
        py::dict out;
        out["largest"] = solution.largest;
        out["threshold"] = solution.threshold;
        out["rank"] = solution.rank;
        out["smallest"] = solution.smallest;
        out["a2"] = solution.a2;
        out["a2d"] = solution.a2d;
        out["trace"] = solution.trace;
        out["trace_square"] = solution.trace_square;
        out["ridge"] = vector(solution.ridge);
        out["variance"] = vector(solution.variance);
        out["kappa"] = vector(solution.kappa);
        out["f"] = vector(solution.f);
        out["df"] = vector(solution.df);
        out["weights"] = weights;
        return out;
      },
      py::arg("m"), py::arg("covariance"), py::arg("eps"), py::arg("known"), py::arg("dof"), py::arg("c0"),
      py::arg("cut"), py::arg("want_weights"), py::arg("threads"));
}

}  // namespace synbench
