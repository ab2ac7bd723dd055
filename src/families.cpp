#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "arrays.hpp"
#include "families/renderers.hpp"
#include "gil.hpp"

namespace synbench {
namespace {

constexpr std::int64_t kSamples = std::int64_t{1} << 32, kNormals = std::int64_t{1} << 34;
constexpr py::ssize_t kAxis = py::ssize_t{1} << 20;
constexpr float kFar = 1 << 20;  // elements; beyond it single precision has no fractions worth the name

void check_range(std::int64_t start, std::int64_t count) {
  expect(start >= 0 && count >= 0 && start <= kSamples - count,
         "start: expected start >= 0 and start + count <= 2^32, got " + std::to_string(start) + " and count " +
             std::to_string(count));
}

// Of x [count, channels, height, width].
ImageShape image_shape(const py::array& x) {
  expect(
      x.ndim() == 4 && x.shape(1) > 0 && x.shape(2) > 0 && x.shape(3) > 0 && x.shape(2) < kAxis && x.shape(3) < kAxis,
      "x: expected [count, channels, height, width] with axes from 1 to 2^20, got " + shape_text(x.shape(), x.ndim()));
  return {x.shape(1), x.shape(2), x.shape(3)};
}

float* images(py::array& x) { return output<float>(x, "x", {kAny, kAny, kAny, kAny}); }

py::array_t<std::uint32_t> bound_random_words(std::uint64_t seed, std::uint32_t purpose, std::uint32_t stream,
                                              std::int64_t start, std::int64_t count, std::int64_t first,
                                              std::int64_t quads) {
  check_range(start, count);
  expect(first >= 0 && quads >= 0 && first <= kSamples - quads,
         "first, quads: expected at least 0 and a sum of at most 2^32, got " + std::to_string(first) + ", " +
             std::to_string(quads));
  py::array_t<std::uint32_t> words({count, 4 * quads});
  random_words(seed, stream, purpose, start, count, first, quads, words.mutable_data());
  return words;
}

void bound_fields(py::array x, const py::array& gain, const py::array& mix, float center, std::uint64_t seed,
                  std::uint32_t purpose, std::uint32_t stream, std::int64_t start, int threads) {
  const ImageShape shape = image_shape(x);
  float* data = images(x);
  check_range(start, x.shape(0));
  check_threads(threads);
  expect(shape.pixels() <= kNormals / (shape.channels + 1),
         "x: expected at most 2^34 elements of a sample, got " + shape_text(x.shape(), x.ndim()));
  const FieldsSpec spec{shape,
                        seed,
                        stream,
                        purpose,
                        input<float>(gain, "gain", {shape.channels, shape.height, shape.width}),
                        input<float>(mix, "mix", {shape.channels, shape.channels}),
                        center};
  check_apart(x, "x", gain, "gain");
  check_apart(x, "x", mix, "mix");
  const std::int64_t count = x.shape(0);
  WithoutGil released;
  render_fields(spec, start, count, threads, data);
}

void bound_roll(py::array x, const py::array& picture, const py::array& places, const py::array& contrast,
                int threads) {
  const ImageShape shape = image_shape(x);
  float* data = images(x);
  const std::int64_t count = x.shape(0);
  const float* from = input<float>(picture, "picture", {shape.channels, shape.height, shape.width});
  const std::int64_t* to = input<std::int64_t>(places, "places", {count, 2});
  const float* factor = input<float>(contrast, "contrast", {count});
  check_threads(threads);
  check_apart(x, "x", picture, "picture");
  check_apart(x, "x", places, "places");
  check_apart(x, "x", contrast, "contrast");
  for (std::int64_t i = 0; i < count; ++i)
    expect(to[2 * i] >= 0 && to[2 * i] < shape.height && to[2 * i + 1] >= 0 && to[2 * i + 1] < shape.width,
           "places: expected a place in the picture, got (" + std::to_string(to[2 * i]) + ", " +
               std::to_string(to[2 * i + 1]) + ")");
  WithoutGil released;
  render_roll(shape, count, from, to, factor, threads, data);
}

// The noise under the images; none where the deviation is 0.
std::optional<WhiteNoise> noise_of(std::uint64_t seed, std::uint32_t purpose, std::uint32_t stream, std::int64_t start,
                                   std::int64_t count, float deviation) {
  if (deviation == 0.0f) return std::nullopt;
  check_range(start, count);
  expect(std::isfinite(deviation), "deviation: expected a finite number, got " + std::to_string(deviation));
  return WhiteNoise{{seed, stream, purpose}, start, deviation};
}

void bound_view(py::array x, const py::array& scene, const py::array& maps, const py::array& colours, int threads,
                std::uint64_t seed, std::uint32_t purpose, std::uint32_t stream, std::int64_t start, float deviation) {
  const ImageShape shape = image_shape(x);
  float* data = images(x);
  const std::optional<WhiteNoise> noise = noise_of(seed, purpose, stream, start, x.shape(0), deviation);
  const std::int64_t count = x.shape(0), side = scene.ndim() == 3 ? scene.shape(0) : 0;
  const std::uint8_t* texels = input<std::uint8_t>(scene, "scene", {side, side, 4});
  // Four bytes are read as one word, which the flags of an array of bytes do not promise to be aligned.
  expect(side > 0 && side <= 1 << 14 && (side & (side - 1)) == 0 && reinterpret_cast<std::uintptr_t>(texels) % 4 == 0,
         "scene: expected an aligned one whose side is a power of two up to 2^14, got " + std::to_string(side));
  const float* map = input<float>(maps, "maps", {count, 6});
  const float* colour = input<float>(colours, "colours", {count, shape.channels, 4});
  check_threads(threads);
  check_apart(x, "x", scene, "scene");
  check_apart(x, "x", maps, "maps");
  check_apart(x, "x", colours, "colours");
  const float width = static_cast<float>(shape.width) + 16.0f, height = static_cast<float>(shape.height);
  for (std::int64_t k = 0; k < 2 * count; ++k) {
    const float reach = std::abs(map[3 * k]) + std::abs(map[3 * k + 1]) * width + std::abs(map[3 * k + 2]) * height;
    expect(reach < kFar, "maps: expected places within 2^20 of 0, got " + std::to_string(reach));
  }
  WithoutGil released;
  render_view(shape, count, texels, side, map, colour, noise ? &*noise : nullptr, threads, data);
}

// Finite, with half axes above 0 and numbers that integers of 32 bits can count.
bool paintable(const float* g) {
  const auto within = [g](int from, int to, float most) {
    return std::all_of(g + from, g + to, [most](float value) { return std::abs(value) <= most; });
  };
  return within(1, 3, kFar) && within(3, 5, 1.001f) && within(5, 7, kFar) && within(7, 9, 8.0f) &&
         within(9, 11, kFar) && g[5] >= 1e-6f && g[6] >= 1e-6f;
}

void bound_paint(py::array x, const py::array& ground, const py::array& strokes, const py::array& colours,
                 const py::array& outlines, int threads, std::uint64_t seed, std::uint32_t purpose,
                 std::uint32_t stream, std::int64_t start, float deviation) {
  const ImageShape shape = image_shape(x);
  float* data = images(x);
  const std::optional<WhiteNoise> noise = noise_of(seed, purpose, stream, start, x.shape(0), deviation);
  const std::int64_t count = x.shape(0), number = strokes.ndim() == 3 ? strokes.shape(1) : 0;
  const Paint paint{shape,
                    number,
                    input<float>(ground, "ground", {count, shape.channels}),
                    input<float>(strokes, "strokes", {count, kAny, kStrokeNumbers}),
                    input<float>(colours, "colours", {count, number, 2, shape.channels}),
                    input<float>(outlines, "outlines", {count, number, 2 * kHarmonics})};
  check_threads(threads);
  for (const py::array* read : {&ground, &strokes, &colours, &outlines}) check_apart(x, "x", *read, "an input");
  for (std::int64_t k = 0; k < count * number; ++k)
    expect(paintable(paint.geometry + k * kStrokeNumbers),
           "strokes: expected finite places within 2^20 of 0, unit vectors, half axes from 1e-6 on and at most eight "
           "cycles per element, got another one at " +
               std::to_string(k));
  WithoutGil released;
  render_paint(paint, count, noise ? &*noise : nullptr, threads, data);
}

}  // namespace

void bind_families(py::module_& module) {
  using namespace py::literals;
  module.def("random_words", &bound_random_words, "seed"_a, "purpose"_a, "stream"_a, "start"_a, "count"_a, "first"_a,
             "quads"_a);
  module.def("fields", &bound_fields, "x"_a, "gain"_a, "mix"_a, "center"_a, py::kw_only(), "seed"_a, "purpose"_a,
             "stream"_a, "start"_a, "threads"_a = 0);
  module.def("roll", &bound_roll, "x"_a, "picture"_a, "places"_a, "contrast"_a, "threads"_a = 0);
  module.def("view", &bound_view, "x"_a, "scene"_a, "maps"_a, "colours"_a, "threads"_a = 0, py::kw_only(), "seed"_a = 0,
             "purpose"_a = 0, "stream"_a = 0, "start"_a = 0, "deviation"_a = 0.0f);
  module.def("paint", &bound_paint, "x"_a, "ground"_a, "strokes"_a, "colours"_a, "outlines"_a, "threads"_a = 0,
             py::kw_only(), "seed"_a = 0, "purpose"_a = 0, "stream"_a = 0, "start"_a = 0, "deviation"_a = 0.0f);
}

}  // namespace synbench
