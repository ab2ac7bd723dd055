#include "score_auc.hpp"

#include "arrays.hpp"
#include "gil.hpp"

namespace synbench {

void bind_score_auc(py::module_& module) {
  module.def(
      "score_auc",
      [](const py::array& accuracy, const py::array& bound, const py::array& thresholds, bool grid, int threads) {
        if (accuracy.ndim() != 2)
          throw py::value_error("accuracy: expected [replicates, scales], got " + std::to_string(accuracy.ndim()) +
                                " axes");
        const std::int64_t replicates = accuracy.shape(0), scales = accuracy.shape(1);
        expect(scales > 0, "accuracy: expected at least one scale, got none");
        check_threads(threads);
        const double* a = input<double>(accuracy, "accuracy", {replicates, scales});
        const double* b = input<double>(bound, "bound", {replicates, scales});
        const double* t = input<double>(thresholds, "thresholds", {kAny});
        const std::int64_t count = thresholds.shape(0);
        py::array_t<double> area({replicates, count});
        double* out = area.mutable_data();
        {
          WithoutGil released;
          score_auc(a, b, replicates, scales, t, count, grid ? AucIntegral::grid : AucIntegral::exact, threads, out);
        }
        return area;
      },
      py::arg("accuracy"), py::arg("bound"), py::arg("thresholds"), py::arg("grid"), py::arg("threads"));
}

}  // namespace synbench
