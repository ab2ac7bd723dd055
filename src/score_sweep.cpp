#include "score_sweep.hpp"

#include "arrays.hpp"
#include "gil.hpp"

namespace synbench {
namespace {

template <typename Feature>
py::dict sweep(const py::array& x, const py::array& y, const py::array& weights, const py::array& center,
               const py::array& signal, const py::array& robust_margin, double offset, std::int64_t group,
               int threads) {
  if (x.ndim() != 2)
    throw py::value_error("x: expected [samples, features], got " + std::to_string(x.ndim()) + " axes");
  if (weights.ndim() != 2)
    throw py::value_error("weights: expected [budgets, features], got " + std::to_string(weights.ndim()) + " axes");
  expect(group >= 1, "group: expected at least 1, got " + std::to_string(group));
  check_threads(threads);
  const std::int64_t n = x.shape(0), features = x.shape(1), budgets = weights.shape(0);
  const Feature* x_data = input<Feature>(x, "x", {n, features});
  const auto* y_data = input<std::uint8_t>(y, "y", {n});
  const double* w = input<double>(weights, "weights", {budgets, features});
  const double* c = input<double>(center, "center", {features});
  const double* s = input<double>(signal, "signal", {budgets});
  const double* r = input<double>(robust_margin, "robust_margin", {budgets});

  py::array_t<std::int64_t> correct(budgets), robust_correct(budgets), groups(budgets);
  py::array_t<double> group_mean_sum(budgets), bound_sum(budgets), bound_square_sum(budgets);
  py::array_t<double> margin_sum({std::int64_t{2}, budgets}), margin_square_sum({std::int64_t{2}, budgets});
  const SweepTotals totals{correct.mutable_data(),    robust_correct.mutable_data(),
                           groups.mutable_data(),     group_mean_sum.mutable_data(),
                           bound_sum.mutable_data(),  bound_square_sum.mutable_data(),
                           margin_sum.mutable_data(), margin_square_sum.mutable_data()};
  {
    WithoutGil released;
    score_sweep<Feature>(x_data, y_data, n, features, w, c, budgets, s, r, offset, group, threads, totals);
  }
  py::dict out;
  out["correct"] = correct;
  out["robust_correct"] = robust_correct;
  out["groups"] = groups;
  out["group_mean_sum"] = group_mean_sum;
  out["bound_sum"] = bound_sum;
  out["bound_square_sum"] = bound_square_sum;
  out["margin_sum"] = margin_sum;
  out["margin_square_sum"] = margin_square_sum;
  return out;
}

}  // namespace

void bind_score_sweep(py::module_& module) {
  module.def(
      "score_sweep",
      [](const py::array& x, const py::array& y, const py::array& weights, const py::array& center,
         const py::array& signal, const py::array& robust_margin, double offset, std::int64_t group, int threads) {
        return py::isinstance<py::array_t<double>>(x)
                   ? sweep<double>(x, y, weights, center, signal, robust_margin, offset, group, threads)
                   : sweep<float>(x, y, weights, center, signal, robust_margin, offset, group, threads);
      },
      py::arg("x"), py::arg("y"), py::arg("weights"), py::arg("center"), py::arg("signal"), py::arg("robust_margin"),
      py::arg("offset"), py::arg("group"), py::arg("threads"));
}

}  // namespace synbench
