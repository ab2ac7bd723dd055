#include "robust_solve.hpp"

#include <stdexcept>

#include "arrays.hpp"

namespace synbench {
namespace {

py::array_t<double> vector(const std::vector<double>& values) {
  return py::array_t<double>(static_cast<py::ssize_t>(values.size()), values.data());
}

}  // namespace

void bind_robust_solve(py::module_& module) {
  module.def(
      "robust_solve",
      [](const py::array& m, const py::array& covariance, const py::array& eps, bool plugin, double dof, double c0,
         double cut, bool want_weights, int threads) {
        if (m.ndim() != 1) throw py::value_error("m: expected [features], got " + std::to_string(m.ndim()) + " axes");
        if (eps.ndim() != 1)
          throw py::value_error("eps: expected [budgets], got " + std::to_string(eps.ndim()) + " axes");
        const std::int64_t features = m.shape(0), budgets = eps.shape(0);
        const double* m_data = input<double>(m, "m", {features});
        const double* c_data = input<double>(covariance, "covariance", {features, features});
        const double* e_data = input<double>(eps, "eps", {budgets});
        py::array_t<double> weights({want_weights ? budgets : 0, features});
        double* w_data = want_weights ? weights.mutable_data() : nullptr;
        if (want_weights) std::fill(w_data, w_data + budgets * features, 0.0);
        RobustSolution solution;
        {
          py::gil_scoped_release release;
          solution = robust_solve(m_data, c_data, features, e_data, budgets,
                                  plugin ? SolveKind::plugin : SolveKind::consistent, dof, c0, cut, threads, w_data);
        }
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
      py::arg("m"), py::arg("covariance"), py::arg("eps"), py::arg("plugin"), py::arg("dof"), py::arg("c0"),
      py::arg("cut"), py::arg("want_weights"), py::arg("threads"));
}

}  // namespace synbench
