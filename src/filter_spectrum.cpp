#include "filter_spectrum.hpp"

#include "arrays.hpp"
#include "gil.hpp"

namespace synbench {
namespace {

void bound_filter_spectrum(py::array x, const py::array& gain, int threads) {
  std::vector<std::int64_t> shape(gain.shape(), gain.shape() + gain.ndim());
  std::int64_t size = 1;
  for (const std::int64_t length : shape) size *= length;
  constexpr int kReadable = static_cast<int>(py::array::c_style) | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  expect(gain.ndim() > 0 && size > 0 && py::isinstance<py::array_t<float>>(gain) &&
             (gain.flags() & kReadable) == kReadable,
         "gain: expected C-contiguous float32 with at least one element, got " +
             py::str(gain.dtype()).cast<std::string>() + " " + shape_text(gain.shape(), gain.ndim()));
  check_threads(threads);
  float* data = output<float>(x, "x", {kAny, kAny, size});
  check_apart(x, "x", gain, "gain");
  const std::int64_t count = x.shape(0), channels = x.shape(1);
  const float* g = static_cast<const float*>(gain.data());
  WithoutGil released;
  filter_spectrum(data, count, channels, shape, g, threads);
}

}  // namespace

void bind_filter_spectrum(py::module_& module) {
  using namespace py::literals;
  module.def("filter_spectrum", &bound_filter_spectrum, "x"_a, "gain"_a, py::kw_only(), "threads"_a = 0);
}

}  // namespace synbench
