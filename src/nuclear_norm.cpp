#include "nuclear_norm.hpp"

#include "arrays.hpp"
#include "gil.hpp"

namespace synbench {

void bind_nuclear_norm(py::module_& module) {
  module.def(
      "nuclear_norm",
      [](const py::array& products, const py::array& rows, const py::array& columns, int threads) {
        const double* x = input<double>(products, "products", {kAny, kAny, kAny, kAny});
        const std::int64_t first = products.shape(0), second = products.shape(2);
        const Products p{x,
                         first,
                         products.shape(1),
                         second,
                         products.shape(3),
                         input<std::int64_t>(rows, "rows", {first}),
                         input<std::int64_t>(columns, "columns", {second})};
        for (std::int64_t i = 0; i < first; ++i)
          if (p.used_rows[i] < 0 || p.used_rows[i] > p.rows)
            throw py::value_error("rows: expected 0 to " + std::to_string(p.rows) + ", got " +
                                  std::to_string(p.used_rows[i]));
        for (std::int64_t i = 0; i < second; ++i)
          if (p.used_columns[i] < 0 || p.used_columns[i] > p.columns)
            throw py::value_error("columns: expected 0 to " + std::to_string(p.columns) + ", got " +
                                  std::to_string(p.used_columns[i]));
        check_threads(threads);
        py::array_t<double> sums({first, second});
        double* out = sums.mutable_data();
        {
          WithoutGil released;
          nuclear_norm(p, threads, out);
        }
        return sums;
      },
      py::arg("products"), py::arg("rows"), py::arg("columns"), py::arg("threads"));
}

}  // namespace synbench
