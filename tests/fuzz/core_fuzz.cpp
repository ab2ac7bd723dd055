// The C++ core under a fuzzer: bytes choose an operation, its sizes and its numbers, all within its contract.
//
// Buffers are allocated to the element, so that AddressSanitizer sees what is read or written beside them. Every answer
// must be the same for one thread and for several, and outputs must be written whole: they begin as NaN.
//
// With libFuzzer this is LLVMFuzzerTestOneInput. SYNBENCH_DRIVER adds a main that makes up the bytes itself:
// core_fuzz INPUTS [SEED].
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "families/renderers.hpp"
#include "filter_spectrum.hpp"
#include "robust_solve.hpp"
#include "sample_mixture.hpp"
#include "score_auc.hpp"
#include "score_sweep.hpp"

namespace {

using i64 = std::int64_t;
using namespace synbench;

// What is left of the input; zeros once it is used up.
struct Bytes {
  const std::uint8_t* data;
  std::size_t left;

  std::uint8_t byte() { return left == 0 ? 0 : (--left, *data++); }
  int threads() { return 1 + byte() % 4; }  // asked for first: what comes late is often beyond the input
  i64 upto(i64 most) { return (byte() | byte() << 8) % (most + 1); }
  i64 size(i64 most) { return 1 + upto(most - 1); }
  std::uint64_t word() {
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | byte();
    return value;
  }
  // Mostly tame, sometimes zero, tiny or huge; finite.
  double number() {
    const int kind = byte();
    const double value = static_cast<std::int8_t>(byte()) / 16.0 + byte() / 4096.0;
    if (kind < 8) return 0.0;
    if (kind < 12) return value * 1e-150;
    if (kind < 16) return value * 1e100;
    return value;
  }
};

template <typename T>
struct Buffer {
  explicit Buffer(i64 count, T value = T()) : size(count), items(new T[static_cast<std::size_t>(count)]) {
    std::fill_n(items.get(), count, value);
  }
  T* get() { return items.get(); }
  T& operator[](i64 i) { return items[static_cast<std::size_t>(i)]; }
  i64 size;
  std::unique_ptr<T[]> items;
};

void require(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "core_fuzz: expected %s\n", what);
  std::abort();
}

template <typename T>
bool same(Buffer<T>& a, Buffer<T>& b) {
  return a.size == b.size && std::memcmp(a.get(), b.get(), sizeof(T) * static_cast<std::size_t>(a.size)) == 0;
}

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <typename T>
void mixture(Bytes& in, SampleType type, T blank) {
  const int threads = in.threads();
  const i64 channels = in.size(5), pixels = in.size(in.byte() % 4 == 0 ? 3000 : 40), count = in.upto(9),
            dim = channels * pixels;
  MixtureSpec spec;
  spec.seed = in.word();
  spec.stream = static_cast<std::uint32_t>(in.word());
  spec.channels = channels;
  spec.pixels = pixels;
  spec.center = static_cast<std::int8_t>(in.byte());
  spec.scale = in.byte();
  spec.channels_last = in.byte() & 1;
  if (in.byte() & 1)
    for (i64 c = 0; c < channels; ++c)
      spec.mean.push_back(in.byte() / 64.0), spec.std.push_back(0.125 + in.byte() / 64.0);
  Buffer<float> pattern(dim, 0.0f);
  if (in.byte() & 1) {
    for (i64 e = 0; e < dim; ++e) pattern[e] = e % 3 == 0 ? 1.0f / static_cast<float>(dim) : -0.01f;
    spec.pattern = pattern.get();
  }
  Buffer<std::uint8_t> labels(count);
  for (i64 i = 0; i < count; ++i) labels[i] = in.byte() & 1;
  const i64 start = in.byte() & 1 ? (i64{1} << 32) - count : static_cast<i64>(in.word() % (1u << 31));
  Buffer<T> whole(count * dim, blank), again(count * dim, blank);
  sample_mixture(spec, start, count, labels.get(), type, whole.get(), 1, SimdLevel::kAuto);
  const SimdLevel level =
      static_cast<SimdLevel>(1 + in.byte() % static_cast<int>(std::max(best_simd_level(), SimdLevel::kBaseline)));
  sample_mixture(spec, start, count, labels.get(), type, again.get(), threads, level);
  require(same(whole, again), "samples that depend on neither threads nor instruction set");
  for (i64 i = 0; i < whole.size; ++i)
    require(std::memcmp(&whole[i], &blank, sizeof(T)) != 0, "samples written everywhere");
}

void spectrum_filter(Bytes& in) {
  const int threads = in.threads();
  std::vector<i64> shape;
  i64 size = 1;
  for (int axis = in.byte() % 3; axis >= 0; --axis) shape.push_back(in.size(13)), size *= shape.back();
  const i64 count = in.upto(5), channels = in.upto(4);
  Buffer<float> x(count * channels * size), y(count * channels * size), gain(size);
  for (i64 i = 0; i < x.size; ++i) x[i] = y[i] = static_cast<float>(in.byte()) / 16.0f;
  for (i64 i = 0; i < size; ++i) gain[i] = static_cast<float>(in.byte()) / 64.0f;
  filter_spectrum(x.get(), count, channels, shape, gain.get(), 1);
  filter_spectrum(y.get(), count, channels, shape, gain.get(), threads);
  require(same(x, y), "a filter that does not depend on threads");
  for (i64 i = 0; i < x.size; ++i) require(std::isfinite(x[i]), "finite filtered noise");
}

ImageShape image(Bytes& in) {
  const i64 channels = in.size(4), height = in.size(40), width = in.size(40);
  return {channels, height, width};
}

void fields_and_roll(Bytes& in) {
  const int threads = in.threads();
  const ImageShape shape = image(in);
  const i64 count = in.upto(3);
  Buffer<float> gain(shape.size()), mix(shape.channels * shape.channels), picture(shape.size()), contrast(count);
  Buffer<i64> places(2 * count);
  for (i64 i = 0; i < gain.size; ++i) gain[i] = picture[i] = static_cast<float>(in.byte()) / 64.0f;
  for (i64 i = 0; i < mix.size; ++i) mix[i] = static_cast<float>(in.byte()) / 64.0f - 2.0f;
  for (i64 i = 0; i < count; ++i) {
    contrast[i] = static_cast<float>(in.byte()) / 64.0f;
    places[2 * i] = in.upto(shape.height - 1);
    places[2 * i + 1] = in.upto(shape.width - 1);
  }
  const FieldsSpec spec{shape, in.word(), 1, 2, gain.get(), mix.get(), 0.5f};
  const float blank = std::numeric_limits<float>::quiet_NaN();
  Buffer<float> x(count * shape.size(), blank), y(count * shape.size(), blank);
  render_fields(spec, 3, count, 1, x.get());
  render_roll(shape, count, picture.get(), places.get(), contrast.get(), 1, x.get());
  render_fields(spec, 3, count, threads, y.get());
  render_roll(shape, count, picture.get(), places.get(), contrast.get(), threads, y.get());
  require(same(x, y), "fields that do not depend on threads");
  for (i64 i = 0; i < x.size; ++i) require(std::isfinite(x[i]), "finite fields everywhere");
}

void view(Bytes& in) {
  const int threads = in.threads();
  const ImageShape shape = image(in);
  const i64 count = in.upto(3), side = i64{1} << in.byte() % 7;
  Buffer<std::uint32_t> scene(side * side);
  Buffer<float> maps(6 * count), colours(4 * count * shape.channels);
  for (i64 i = 0; i < scene.size; ++i) scene[i] = static_cast<std::uint32_t>(i * 2654435761u);
  for (i64 i = 0; i < maps.size; ++i) maps[i] = static_cast<float>(in.byte() - 128) * (i % 3 == 0 ? 1000.0f : 0.5f);
  for (i64 i = 0; i < colours.size; ++i) colours[i] = static_cast<float>(in.byte()) / 64.0f;
  Buffer<float> x(count * shape.size(), 0.0f), y(count * shape.size(), 0.0f);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(scene.get());
  const WhiteNoise noise{{in.word(), 1, 2}, 3, 0.5f}, *under = in.byte() % 2 ? &noise : nullptr;
  render_view(shape, count, bytes, side, maps.get(), colours.get(), under, 1, x.get());
  render_view(shape, count, bytes, side, maps.get(), colours.get(), under, threads, y.get());
  require(same(x, y), "views that do not depend on threads");
  for (i64 i = 0; i < x.size; ++i) require(std::isfinite(x[i]), "finite views");
}

void strokes(Bytes& in) {
  const int threads = in.threads();
  const ImageShape shape = image(in);
  const i64 count = in.upto(3), number = in.upto(7);
  Buffer<float> ground(count * shape.channels), geometry(count * number * kStrokeNumbers);
  Buffer<float> colours(count * number * 2 * shape.channels), outlines(count * number * 2 * kHarmonics);
  for (auto* values : {&ground, &colours, &outlines})
    for (i64 i = 0; i < values->size; ++i) (*values)[i] = static_cast<float>(in.byte()) / 256.0f;
  for (i64 k = 0; k < count * number; ++k) {
    float* g = geometry.get() + k * kStrokeNumbers;
    const float far = in.byte() < 16 ? 4096.0f : 0.5f, thin = in.byte() < 16 ? 1e-6f : 0.25f;
    g[0] = static_cast<float>(in.byte() % 3);
    for (int i : {1, 2}) g[i] = static_cast<float>(in.byte() - 64) * far;
    for (int i : {3, 4, 7, 8}) g[i] = static_cast<float>(in.byte() - 128) / 128.0f;
    for (int i : {5, 6}) g[i] = static_cast<float>(1 + in.byte()) * thin;
    for (int i : {9, 10}) g[i] = static_cast<float>(in.byte()) * far;
  }
  const Paint paint{shape, number, ground.get(), geometry.get(), colours.get(), outlines.get()};
  Buffer<float> x(count * shape.size(), 0.0f), y(count * shape.size(), 0.0f);
  const WhiteNoise noise{{in.word(), 1, 2}, 3, 0.5f}, *under = in.byte() % 2 ? &noise : nullptr;
  render_paint(paint, count, under, 1, x.get());
  render_paint(paint, count, under, threads, y.get());
  require(same(x, y), "pictures that do not depend on threads");
  for (i64 i = 0; i < x.size; ++i) require(std::isfinite(x[i]), "finite pictures");
}

template <typename T>
void sweep(Bytes& in) {
  const int threads = in.threads();
  const i64 n = in.upto(700), features = in.upto(9), budgets = in.upto(20), group = in.size(300);
  Buffer<T> x(n * features);
  Buffer<std::uint8_t> y(n);
  Buffer<double> weights(budgets * features), center(features), signal(budgets), margin(budgets);
  for (i64 i = 0; i < x.size; ++i) x[i] = static_cast<T>(i % 7 == 0 ? in.number() : static_cast<double>(i % 13) - 6.0);
  for (i64 i = 0; i < n; ++i) y[i] = static_cast<std::uint8_t>(i * 2654435761u >> 7 & 1);
  for (auto* values : {&weights, &center, &signal, &margin})
    for (i64 i = 0; i < values->size; ++i) (*values)[i] = in.number();
  struct Out {
    explicit Out(i64 budgets) : counts(3 * budgets, -1), sums(7 * budgets, kNaN), e(budgets) {}
    SweepTotals totals() {
      return {counts.get(),   counts.get() + e,   counts.get() + 2 * e, sums.get(),
              sums.get() + e, sums.get() + 2 * e, sums.get() + 3 * e,   sums.get() + 5 * e};
    }
    Buffer<i64> counts;
    Buffer<double> sums;
    i64 e;
  } one(budgets), several(budgets);
  const double offset = in.number();
  score_sweep<T>(x.get(), y.get(), n, features, weights.get(), center.get(), budgets, signal.get(), margin.get(),
                 offset, group, 1, one.totals());
  score_sweep<T>(x.get(), y.get(), n, features, weights.get(), center.get(), budgets, signal.get(), margin.get(),
                 offset, group, threads, several.totals());
  require(same(one.counts, several.counts) && same(one.sums, several.sums), "totals that do not depend on threads");
  for (i64 i = 0; i < one.counts.size; ++i) require(one.counts[i] >= 0 && one.counts[i] <= n, "counts between 0 and n");
}

void auc(Bytes& in) {
  const int threads = in.threads();
  const i64 replicates = in.upto(400), scales = in.size(12), count = in.upto(5);
  Buffer<double> accuracy(replicates * scales), bound(replicates * scales), thresholds(count),
      area(replicates * count, kNaN), again(replicates * count, kNaN);
  for (i64 i = 0; i < accuracy.size; ++i) {
    accuracy[i] = static_cast<double>(in.byte()) / 255.0;
    bound[i] = in.byte() == 0 ? std::numeric_limits<double>::infinity() : static_cast<double>(in.byte()) / 32.0;
  }
  for (i64 i = 0; i < count; ++i) thresholds[i] = static_cast<double>(in.byte()) / 255.0;
  const AucIntegral integral = in.byte() & 1 ? AucIntegral::grid : AucIntegral::exact;
  score_auc(accuracy.get(), bound.get(), replicates, scales, thresholds.get(), count, integral, 1, area.get());
  score_auc(accuracy.get(), bound.get(), replicates, scales, thresholds.get(), count, integral, threads, again.get());
  require(same(area, again), "areas that do not depend on threads");
  for (i64 i = 0; i < area.size; ++i) require(area[i] >= 0.0 && std::isfinite(area[i]), "finite areas of at least 0");
}

// Covariances of all ranks, and sometimes matrices that are none.
void solve(Bytes& in) {
  const int threads = in.threads();
  // From 127 features on threads share the reduction.
  const int kind_of_size = in.byte();
  const i64 features = kind_of_size % 16 == 0 ? 120 + in.upto(90) : in.size(kind_of_size % 4 == 1 ? 90 : 12);
  const i64 budgets = in.upto(10), samples = in.upto(std::min<i64>(2 * features, 60));
  Buffer<double> x(samples * features), m(features), covariance(features * features), eps(budgets);
  for (i64 i = 0; i < x.size; ++i) x[i] = in.left ? in.number() : static_cast<double>(i * 40503 % 97) - 48.0;
  for (i64 j = 0; j < features; ++j) m[j] = in.number();
  const bool any = in.byte() < 16;
  for (i64 i = 0; i < features; ++i)
    for (i64 j = i; j < features; ++j) {
      double value = any ? in.number() : 0.0;
      for (i64 s = 0; !any && s < samples; ++s) value += x[s * features + i] * x[s * features + j];
      covariance[i * features + j] = covariance[j * features + i] = value;
    }
  for (i64 e = 0; e < budgets; ++e)
    eps[e] = std::min(static_cast<double>(in.byte()) / 256.0 + (in.byte() < 8 ? 1e-12 : 0.0), 0.999999999);
  const SolveKind kind = in.byte() & 1 ? SolveKind::known : SolveKind::sampled;
  const double nu = 1.0 + static_cast<double>(in.upto(400)), c0 = in.byte() / 1000.0,
               cut = in.byte() < 32 ? 0.0 : 1e-12;
  Buffer<double> weights(budgets * features, kNaN), again(budgets * features, kNaN);
  const RobustSolution one =
      robust_solve(m.get(), covariance.get(), features, eps.get(), budgets, kind, nu, c0, cut, 1, weights.get());
  const RobustSolution several =
      robust_solve(m.get(), covariance.get(), features, eps.get(), budgets, kind, nu, c0, cut, threads, again.get());
  require(one.rank == several.rank && same(weights, again), "weights that do not depend on threads");
  require(one.rank >= 0 && one.rank <= features, "a rank from 0 to the number of features");
  if (!one.finite || !one.converged || one.ridge.empty()) return;
  for (const double ridge : one.ridge) require(ridge >= 0.0, "ridges of at least 0");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes in{data, size};
  switch (in.byte() % 12) {
    case 0: mixture<float>(in, SampleType::kFloat32, std::numeric_limits<float>::quiet_NaN()); break;
    case 1: mixture<double>(in, SampleType::kFloat64, kNaN); break;
    case 2: mixture<std::uint16_t>(in, SampleType::kBFloat16, 0x7fff); break;
    case 3: mixture<std::uint16_t>(in, SampleType::kFloat16, 0x7fff); break;
    case 4: spectrum_filter(in); break;
    case 5: sweep<float>(in); break;
    case 6: sweep<double>(in); break;
    case 7: auc(in); break;
    case 8: fields_and_roll(in); break;
    case 9: view(in); break;
    case 10: strokes(in); break;
    default: solve(in); break;
  }
  return 0;
}

#ifdef SYNBENCH_DRIVER
int main(int argc, char** argv) {
  const int inputs = argc > 1 ? std::atoi(argv[1]) : 1000;
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0);
  std::vector<std::uint8_t> bytes;
  for (int i = 0; i < inputs; ++i) {
    bytes.resize(random() % 600);
    for (auto& one : bytes) one = static_cast<std::uint8_t>(random());
    if (!bytes.empty()) bytes[0] = static_cast<std::uint8_t>(i % 12);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%d inputs\n", inputs);
}
#endif
