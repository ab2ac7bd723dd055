// Stationary noise in the Fourier domain, and pictures moved on the torus.
#include <algorithm>
#include <cstddef>
#include <memory>

#include "parallel.hpp"
#include "philox.hpp"
#include "families/renderers.hpp"
#include "sample_mixture.hpp"
#include "filter_spectrum.hpp"

namespace synbench {
namespace {

using i64 = std::int64_t;

std::unique_ptr<float[]> floats(i64 count) {
  return std::unique_ptr<float[]>(new float[static_cast<std::size_t>(count)]);
}

// y(f) = plus w(f) + minus conj(w(-f)) of one line of frequencies; `opposite` is the line of -f.
SYNBENCH_CLONES void hermitian_line(const float* __restrict plus, const float* __restrict minus, i64 n,
                                    const float* __restrict re, const float* __restrict im,
                                    const float* __restrict opposite_re, const float* __restrict opposite_im,
                                    float* __restrict y_re, float* __restrict y_im) {
  y_re[0] = plus[0] * re[0] + minus[0] * opposite_re[0];
  y_im[0] = plus[0] * im[0] - minus[0] * opposite_im[0];
  for (i64 f = 1; f < n; ++f) {
    y_re[f] = plus[f] * re[f] + minus[f] * opposite_re[n - f];
    y_im[f] = plus[f] * im[f] - minus[f] * opposite_im[n - f];
  }
}

// y(f) = plus w(f) + minus conj(w(-f)) of a plane of frequencies, in place. `room`: 4 lines.
void make_hermitian(const float* plus, const float* minus, i64 height, i64 width, float* re, float* im, float* room) {
  for (i64 row = 0; 2 * row <= height; ++row) {
    const i64 other = row == 0 ? 0 : height - row, lines[2] = {row * width, other * width};
    const i64 both = row == other ? 1 : 2;
    for (i64 k = 0; k < both; ++k) {
      const i64 own = lines[k], opposite = lines[1 - k];
      hermitian_line(plus + own, minus + own, width, re + own, im + own, re + opposite, im + opposite,
                     room + 2 * k * width, room + (2 * k + 1) * width);
    }
    for (i64 k = 0; k < both; ++k) {
      std::copy_n(room + 2 * k * width, width, re + lines[k]);
      std::copy_n(room + (2 * k + 1) * width, width, im + lines[k]);
    }
  }
}

// kChannels: their number, or 0 for any. All channels of a place come at once where the compiler knows how many there
// are: their planes often lie a multiple of a page apart, and a store then holds up loads of the other planes.
template <i64 kChannels>
SYNBENCH_INLINE void mix_places(const float* __restrict mix, float center, i64 any, i64 pixels,
                                const float* const* fields, float* __restrict x) {
  const i64 channels = kChannels ? kChannels : any;
  if constexpr (kChannels != 0) {
    const float* from[kChannels];
    for (i64 d = 0; d < channels; ++d) from[d] = fields[d];
    for (i64 p = 0; p < pixels; ++p)
      for (i64 c = 0; c < kChannels; ++c) {
        float sum = center;
        for (i64 d = 0; d < kChannels; ++d) sum += mix[c * kChannels + d] * from[d][p];
        x[c * pixels + p] = sum;
      }
    return;
  }
  for (i64 c = 0; c < channels; ++c) {
    float* __restrict out = x + c * pixels;
    std::fill_n(out, pixels, center);
    for (i64 d = 0; d < channels; ++d) {
      const float weight = mix[c * channels + d];
      const float* __restrict field = fields[d];
      for (i64 p = 0; p < pixels; ++p) out[p] += weight * field[p];
    }
  }
}

SYNBENCH_CLONES void mix_channels(const float* __restrict mix, float center, i64 channels, i64 pixels,
                                  const float* const* fields, float* __restrict x) {
  if (channels == 3)
    mix_places<3>(mix, center, channels, pixels, fields, x);
  else
    mix_places<0>(mix, center, channels, pixels, fields, x);
}

SYNBENCH_CLONES void add_scaled(float factor, const float* __restrict from, i64 n, float* __restrict to) {
  for (i64 p = 0; p < n; ++p) to[p] += factor * from[p];
}

}  // namespace

void random_words(std::uint64_t seed, std::uint32_t stream, std::uint32_t purpose, i64 start, i64 count, i64 first,
                  i64 quads, std::uint32_t* words) {
  for (i64 i = 0; i < count; ++i)
    for (i64 q = 0; q < quads; ++q, words += 4) {
      const Words w = philox4x32(seed, {static_cast<Word>(first + q), static_cast<Word>(start + i), stream, purpose});
      words[0] = w.w0, words[1] = w.w1, words[2] = w.w2, words[3] = w.w3;
    }
}

void lay_noise(const WhiteNoise& noise, const ImageShape& shape, i64 i, i64 first, i64 last, float* x) {
  for (i64 c = 0; c < shape.channels; ++c) {
    const i64 begin = c * shape.pixels() + first * shape.width;
    sample_normals(noise.normals, noise.start + i, begin, (last - first) * shape.width, noise.deviation,
                   x + i * shape.size() + begin);
  }
}

void render_fields(const FieldsSpec& spec, i64 start, i64 count, int threads, float* x) {
  const i64 channels = spec.shape.channels, height = spec.shape.height, width = spec.shape.width;
  const i64 pixels = spec.shape.pixels(), pairs = (channels + 1) / 2, half = pairs * pixels;
  const InverseFourier inverse({height, width});
  const auto plus = floats(half), minus = floats(half);
  for (i64 pair = 0; pair < pairs; ++pair)
    for (i64 p = 0; p < pixels; ++p) {
      const float first = spec.gain[2 * pair * pixels + p];
      const float second = 2 * pair + 1 < channels ? spec.gain[(2 * pair + 1) * pixels + p] : 0.0f;
      plus[pair * pixels + p] = (first + second) * 0.5f;
      minus[pair * pixels + p] = (first - second) * 0.5f;
    }
  const NormalStream noise{spec.seed, spec.stream, spec.purpose};
  // Images go pair by pair, whose planes stay in the cache; a waveform has too few lines for vectors of its own.
  const i64 together = height > 1 ? 1 : pairs;
  parallel_for(count, 1, threads, [&](i64 from, i64 to) {
    const auto w = floats(2 * half), room = floats(4 * width);  // w: real parts of all pairs, then imaginary ones
    const std::unique_ptr<const float*[]> fields(new const float*[static_cast<std::size_t>(channels)]);
    for (i64 c = 0; c < channels; ++c) fields[c] = w.get() + c % 2 * half + c / 2 * pixels;
    for (i64 i = from; i < to; ++i) {
      for (i64 first = 0; first < half; first += together * pixels) {
        float *re = w.get() + first, *im = re + half;
        sample_normals(noise, start + i, first, together * pixels, 1.0f, re);
        sample_normals(noise, start + i, half + first, together * pixels, 1.0f, im);
        for (i64 p = 0; p < together * pixels; p += pixels)
          make_hermitian(plus.get() + first + p, minus.get() + first + p, height, width, re + p, im + p, room.get());
        inverse(re, im, together);
      }
      mix_channels(spec.mix, spec.center, channels, pixels, fields.get(), x + i * channels * pixels);
    }
  });
}

void render_roll(const ImageShape& shape, i64 count, const float* picture, const i64* places, const float* contrast,
                 int threads, float* x) {
  const i64 height = shape.height, width = shape.width;
  parallel_for(count, 1, threads, [&](i64 from, i64 to) {
    for (i64 i = from; i < to; ++i) {
      const i64 down = places[2 * i], right = places[2 * i + 1];
      for (i64 line = 0; line < shape.channels * height; ++line) {
        const i64 channel = line / height, row = line % height;
        const float* source = picture + (channel * height + (row + height - down) % height) * width;
        float* target = x + (i * shape.channels * height + line) * width;
        add_scaled(contrast[i], source, width - right, target + right);
        add_scaled(contrast[i], source + width - right, right, target);
      }
    }
  });
}

}  // namespace synbench
