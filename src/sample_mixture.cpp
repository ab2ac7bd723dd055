#include "sample_mixture.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "gil.hpp"
#include "philox.hpp"

namespace synbench {
namespace {

constexpr std::int64_t kSamples = std::int64_t{1} << 32, kElements = std::int64_t{1} << 34;

constexpr std::pair<std::string_view, SimdLevel> kLevels[] = {
    {"baseline", SimdLevel::kBaseline}, {"avx2", SimdLevel::kAvx2}, {"avx512", SimdLevel::kAvx512}};

std::vector<std::string> simd_levels() {
  std::vector<std::string> names;
  for (const auto& [name, level] : kLevels)
    if (level <= best_simd_level()) names.emplace_back(name);
  return names;
}

SimdLevel level_of(const std::string& wanted) {
  if (wanted == "auto") return SimdLevel::kAuto;
  for (const auto& [name, level] : kLevels)
    if (name == wanted && level <= best_simd_level()) return level;
  std::string names;
  for (const std::string& name : simd_levels()) names += ", '" + name + "'";
  throw py::value_error("level: expected one of 'auto'" + names + ", got '" + wanted + "'");
}

// [count, dim] array of `type`; the 16-bit types are passed as their bits.
void* checked_output(py::array& x, const std::string& type, std::int64_t count, std::int64_t dim, SampleType& kind) {
  if (type == "float32") return kind = SampleType::kFloat32, output<float>(x, "x", {count, dim});
  if (type == "float64") return kind = SampleType::kFloat64, output<double>(x, "x", {count, dim});
  if (type == "bfloat16") return kind = SampleType::kBFloat16, output<std::uint16_t>(x, "x", {count, dim});
  if (type == "float16") return kind = SampleType::kFloat16, output<std::uint16_t>(x, "x", {count, dim});
  throw py::value_error("type: expected 'float32', 'float64', 'bfloat16' or 'float16', got '" + type + "'");
}

void bound_sample_mixture(py::array x, const py::array& labels, const std::string& type, std::int64_t start,
                          std::uint64_t seed, std::uint32_t stream, std::uint32_t purpose, std::int64_t channels,
                          std::int64_t pixels, double center, double scale, const std::optional<py::array>& pattern,
                          std::vector<double> mean, std::vector<double> std, bool channels_last, int threads,
                          const std::string& level) {
  const std::int64_t count = labels.ndim() == 1 ? labels.shape(0) : 0;
  const std::uint8_t* y = input<std::uint8_t>(labels, "labels", {kAny});
  expect(channels > 0 && pixels > 0 && channels <= kElements / pixels,
         "channels, pixels: expected a product in [1, 2^34], got " + std::to_string(channels) + ", " +
             std::to_string(pixels));
  expect(start >= 0 && start <= kSamples - count, "start: expected start >= 0 and start + count <= 2^32, got " +
                                                      std::to_string(start) + " and count " + std::to_string(count));
  for (const auto* values : {&mean, &std})
    expect(
        values->empty() || static_cast<std::int64_t>(values->size()) == channels,
        "mean, std: expected none or " + std::to_string(channels) + " values, got " + std::to_string(values->size()));
  check_threads(threads);
  for (std::int64_t i = 0; i < count; ++i) expect(y[i] <= 1, "labels: expected 0 or 1, got " + std::to_string(y[i]));

  SampleType kind;
  void* data = checked_output(x, type, count, channels * pixels, kind);
  const float* u = pattern ? input<float>(*pattern, "pattern", {channels * pixels}) : nullptr;
  check_apart(x, "x", labels, "labels");
  if (pattern) check_apart(x, "x", *pattern, "pattern");
  const MixtureSpec spec{seed,  stream, purpose,         channels,       pixels,       center,
                         scale, u,      std::move(mean), std::move(std), channels_last};
  const SimdLevel simd = level_of(level);
  WithoutGil released;
  sample_mixture(spec, start, count, y, kind, data, threads, simd);
}

py::array_t<float> bound_normals_of_words(const py::array& radius, const py::array& angle, const std::string& level) {
  const std::uint32_t* r = input<std::uint32_t>(radius, "radius", {kAny});
  const std::uint32_t* a = input<std::uint32_t>(angle, "angle", {radius.shape(0)});
  py::array_t<float> z({radius.shape(0), py::ssize_t{2}});
  normals_of_words(r, a, radius.shape(0), z.mutable_data(), level_of(level));
  return z;
}

std::array<Word, 4> bound_philox4x32(std::uint64_t seed, const std::array<Word, 4>& counter) {
  const Words w = philox4x32(seed, {counter[0], counter[1], counter[2], counter[3]});
  return {w.w0, w.w1, w.w2, w.w3};
}

}  // namespace

void bind_sample_mixture(py::module_& module) {
  using namespace py::literals;
  module.def("sample_mixture", &bound_sample_mixture, "x"_a, "labels"_a, py::kw_only(), "type"_a, "start"_a, "seed"_a,
             "stream"_a, "purpose"_a = 0, "channels"_a, "pixels"_a, "center"_a, "scale"_a, "pattern"_a = py::none(),
             "mean"_a = std::vector<double>(), "std"_a = std::vector<double>(), "channels_last"_a = false,
             "threads"_a = 0, "level"_a = "auto");
  module.def("normals_of_words", &bound_normals_of_words, "radius"_a, "angle"_a, py::kw_only(), "level"_a = "auto");
  module.def("philox4x32", &bound_philox4x32, "seed"_a, "counter"_a);
  module.def("simd_levels", &simd_levels);
}

}  // namespace synbench
