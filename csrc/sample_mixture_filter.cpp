#include "sample_mixture_filter.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <numbers>
#include <utility>

#include "parallel.hpp"

namespace synbench {
namespace {

using i64 = std::int64_t;

struct Planes {  // real and imaginary parts apart: the inner loops then are plain float loops
  float* re;
  float* im;
};

struct Stage {
  i64 radix, parts;           // parts = remaining length / radix
  std::vector<float> re, im;  // [parts, radix] exp(-2 pi i p k / (parts radix))
};

// One axis of length n: decimation in frequency, self-sorting (Stockham).
struct Axis {
  i64 length;
  std::vector<Stage> stages;
  std::vector<float> roots_re, roots_im;  // exp(-2 pi i k / radix), [radix] per stage, in order
};

std::pair<float, float> root_of_unity(i64 k, i64 n) {
  const double angle = -2.0 * std::numbers::pi * static_cast<double>(k % n) / static_cast<double>(n);
  return {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
}

Axis make_axis(i64 n) {
  Axis axis{n, {}, {}, {}};
  std::vector<i64> radices;
  i64 rest = n;
  for (i64 radix : {i64{4}, i64{2}, i64{3}})
    for (; rest % radix == 0; rest /= radix) radices.push_back(radix);
  for (i64 radix = 5; rest > 1; radix += 2) {
    if (radix * radix > rest) radix = rest;
    for (; rest % radix == 0; rest /= radix) radices.push_back(radix);
  }
  for (i64 length = n; const i64 radix : radices) {
    const i64 parts = length / radix;
    Stage stage{radix, parts, {}, {}};
    for (i64 p = 0; p < parts; ++p)
      for (i64 k = 0; k < radix; ++k) {
        const auto [re, im] = root_of_unity(p * k, length);
        stage.re.push_back(re);
        stage.im.push_back(im);
      }
    for (i64 k = 0; k < radix; ++k) {
      const auto [re, im] = root_of_unity(k, radix);
      axis.roots_re.push_back(re);
      axis.roots_im.push_back(im);
    }
    axis.stages.push_back(std::move(stage));
    length = parts;
  }
  return axis;
}

// y[q, radix p + k] = w_p^k sum_j exp(-2 pi i j k / radix) x[q, p + parts j], q in [0, stride) innermost.
void radix2(const Planes& x, const Planes& y, const Stage& stage, i64 stride) {
  for (i64 p = 0; p < stage.parts; ++p) {
    const float wr = stage.re[2 * p + 1], wi = stage.im[2 * p + 1];
    const i64 in0 = stride * p, in1 = stride * (p + stage.parts), out0 = stride * 2 * p, out1 = out0 + stride;
    const float* __restrict ar = x.re + in0, * __restrict ai = x.im + in0, * __restrict br = x.re + in1, * __restrict bi = x.im + in1;
    float* __restrict cr = y.re + out0, * __restrict ci = y.im + out0, * __restrict dr = y.re + out1, * __restrict di = y.im + out1;
    for (i64 q = 0; q < stride; ++q) {
      const float r = ar[q] - br[q], i = ai[q] - bi[q];
      cr[q] = ar[q] + br[q];
      ci[q] = ai[q] + bi[q];
      dr[q] = r * wr - i * wi;
      di[q] = r * wi + i * wr;
    }
  }
}

void radix4(const Planes& x, const Planes& y, const Stage& stage, i64 stride) {
  for (i64 p = 0; p < stage.parts; ++p) {
    const float *w = stage.re.data() + 4 * p, *v = stage.im.data() + 4 * p;
    const float w1 = w[1], v1 = v[1], w2 = w[2], v2 = v[2], w3 = w[3], v3 = v[3];
    const i64 in = stride * p, step = stride * stage.parts, out = stride * 4 * p;
    const float* __restrict xr = x.re + in, * __restrict xi = x.im + in;
    float* __restrict yr = y.re + out, * __restrict yi = y.im + out;
    for (i64 q = 0; q < stride; ++q) {
      const float sr = xr[q] + xr[q + 2 * step], si = xi[q] + xi[q + 2 * step];
      const float tr = xr[q] - xr[q + 2 * step], ti = xi[q] - xi[q + 2 * step];
      const float ur = xr[q + step] + xr[q + 3 * step], ui = xi[q + step] + xi[q + 3 * step];
      const float zr = xr[q + step] - xr[q + 3 * step], zi = xi[q + step] - xi[q + 3 * step];
      yr[q] = sr + ur;
      yi[q] = si + ui;
      const float ar = tr + zi, ai = ti - zr, br = sr - ur, bi = si - ui, cr = tr - zi, ci = ti + zr;
      yr[q + stride] = ar * w1 - ai * v1;
      yi[q + stride] = ar * v1 + ai * w1;
      yr[q + 2 * stride] = br * w2 - bi * v2;
      yi[q + 2 * stride] = br * v2 + bi * w2;
      yr[q + 3 * stride] = cr * w3 - ci * v3;
      yi[q + 3 * stride] = cr * v3 + ci * w3;
    }
  }
}

void any_radix(const Planes& x, const Planes& y, const Stage& stage, i64 stride, const float* root_re,
               const float* root_im) {
  const i64 radix = stage.radix;
  for (i64 p = 0; p < stage.parts; ++p)
    for (i64 k = 0; k < radix; ++k) {
      float* __restrict yr = y.re + stride * (radix * p + k), * __restrict yi = y.im + stride * (radix * p + k);
      std::fill_n(yr, stride, 0.0f);
      std::fill_n(yi, stride, 0.0f);
      for (i64 j = 0; j < radix; ++j) {
        const float wr = root_re[j * k % radix], wi = root_im[j * k % radix];
        const float* __restrict xr = x.re + stride * (p + stage.parts * j), * __restrict xi =
                                                                                x.im + stride * (p + stage.parts * j);
        for (i64 q = 0; q < stride; ++q) {
          yr[q] += xr[q] * wr - xi[q] * wi;
          yi[q] += xr[q] * wi + xi[q] * wr;
        }
      }
      const float wr = stage.re[radix * p + k], wi = stage.im[radix * p + k];
      for (i64 q = 0; q < stride; ++q) {
        const float r = yr[q], i = yi[q];
        yr[q] = r * wr - i * wi;
        yi[q] = r * wi + i * wr;
      }
    }
}

// Along one axis of [outer, length, inner]; x and y swap roles at every stage, the result is in x afterwards.
void transform_axis(const Axis& axis, i64 outer, i64 inner, Planes& x, Planes& y) {
  const i64 size = axis.length * inner;
  i64 stride = inner;
  const float *root_re = axis.roots_re.data(), *root_im = axis.roots_im.data();
  for (const Stage& stage : axis.stages) {
    for (i64 o = 0; o < outer; ++o) {
      const Planes from{x.re + o * size, x.im + o * size}, to{y.re + o * size, y.im + o * size};
      if (stage.radix == 4)
        radix4(from, to, stage, stride);
      else if (stage.radix == 2)
        radix2(from, to, stage, stride);
      else
        any_radix(from, to, stage, stride, root_re, root_im);
    }
    stride *= stage.radix;
    root_re += stage.radix;
    root_im += stage.radix;
    std::swap(x, y);
  }
}

void transform(const std::vector<Axis>& axes, i64 size, Planes& x, Planes& y) {
  i64 outer = 1;
  for (const Axis& axis : axes) {
    transform_axis(axis, outer, size / outer / axis.length, x, y);
    outer *= axis.length;
  }
}

}  // namespace

void filter_spectrum(float* x, i64 count, i64 channels, const std::vector<i64>& shape, const float* gain, int threads) {
  std::vector<Axis> axes;
  i64 size = 1;
  for (const i64 length : shape) {
    axes.push_back(make_axis(length));
    size *= length;
  }
  const float scale = static_cast<float>(1.0 / static_cast<double>(size));
  parallel_for(count, 1, threads, [&](i64 from, i64 to) {
    const std::unique_ptr<float[]> room(new float[static_cast<std::size_t>(4 * size)]);
    for (i64 i = from; i < to; ++i)
      // A real filter acts on real and imaginary parts apart: two channels make one complex transform.
      for (i64 c = 0; c < channels; c += 2) {
        Planes a{room.get(), room.get() + size}, b{room.get() + 2 * size, room.get() + 3 * size};
        float* first = x + (i * channels + c) * size;
        const bool two = c + 1 < channels;
        std::copy_n(first, size, a.re);
        if (two)
          std::copy_n(first + size, size, a.im);
        else
          std::fill_n(a.im, size, 0.0f);
        transform(axes, size, a, b);
        for (i64 f = 0; f < size; ++f) {
          const float g = gain[f] * scale;
          a.re[f] *= g;
          a.im[f] *= g;
        }
        std::swap(a.re, a.im);  // the inverse is the forward transform of the swapped parts, swapped back
        std::swap(b.re, b.im);
        transform(axes, size, a, b);
        std::copy_n(a.im, size, first);
        if (two) std::copy_n(a.re, size, first + size);
      }
  });
}

}  // namespace synbench
