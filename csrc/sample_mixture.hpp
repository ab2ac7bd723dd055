// sample_mixture: samples of a two-class Gaussian mixture as an encoder reads them, in one pass over memory.
//
//   x[i, e] = (center + s_i * scale * u[e] + z[i, e] - mean[c]) / std[c],    s_i = +1 for label 1, -1 for 0
//           = z[i, e] * gain[c] + (base[c] + s_i * amplitude[c] * u[e])      as computed, in float32
//
// e runs over the contiguous [channels, pixels] order of a sample whatever the layout of x, c = e / pixels;
// all of x, mean, std, center and scale are in the units of the encoder's raw input, noise variance 1.
// z[i, e] is normal number e % 4 of the block with counter (e / 4, start + i, stream, purpose) under the key
// `seed`: words 0, 1 give z 0, 1 and words 2, 3 give z 2, 3 (normal.hpp). A sample is thus a pure function
// of (seed, stream, purpose, its index): its bits depend neither on start and count, nor on threads, layout
// or instruction set.
//
// Limits: start + count <= 2^32, channels * pixels <= 2^34, and base, gain, amplitude within float32. The
// normals are within 2.6e-7 r <= 1.2e-6 of the formula in exact arithmetic (normal.hpp); the affine map adds
// float32 rounding. float64 output holds float32 values; bfloat16 and float16 are rounded to nearest even.
#pragma once
#include <cstdint>
#include <vector>

namespace synbench {

enum class SampleType { kFloat32, kFloat64, kBFloat16, kFloat16 };
enum class SimdLevel { kAuto, kBaseline, kAvx2, kAvx512 };

struct MixtureSpec {
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;
  std::uint32_t purpose = 0;
  std::int64_t channels = 1;
  std::int64_t pixels = 1;  // elements per channel
  double center = 0.0;
  double scale = 1.0;
  const float* pattern = nullptr;  // u, [channels * pixels]; null: the constant 1 / sqrt(channels * pixels)
  std::vector<double> mean, std;   // [channels] or empty: 0 and 1
  bool channels_last = false;      // x is [count, pixels, channels]
};

// Writes x, [count, channels * pixels] of `type`. labels: [count] of 0 or 1. threads <= 0: the machine's.
void sample_mixture(const MixtureSpec& spec, std::int64_t start, std::int64_t count, const std::uint8_t* labels,
                    SampleType type, void* x, int threads, SimdLevel level);

// factor * z of the normals z [first, first + count) of one sample of a spec: bits as in the whole sample.
struct NormalStream {
  std::uint64_t seed;
  std::uint32_t stream, purpose;
};
void sample_normals(const NormalStream& spec, std::int64_t sample, std::int64_t first, std::int64_t count, float factor,
                    float* z);

// box_muller (normal.hpp) of `pairs` pairs of words, as the given level computes it: z [pairs, 2].
void normals_of_words(const std::uint32_t* radius, const std::uint32_t* angle, std::int64_t pairs, float* z,
                      SimdLevel level);

// The best level of this machine; kAuto resolves to it, and any level up to it may be asked for.
SimdLevel best_simd_level();

}  // namespace synbench
