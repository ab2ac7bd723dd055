#include "filter_spectrum.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numbers>
#include <utility>

#include "butterflies.hpp"
#include "parallel.hpp"
#include "sample_mixture.hpp"
#include "simd.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(SYNBENCH_NO_CLONES)
#define SYNBENCH_X86 1
#define SYNBENCH_AVX2 __attribute__((target("arch=x86-64-v3")))
#define SYNBENCH_AVX512 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
#endif

namespace synbench {
namespace {

using i64 = std::int64_t;

// Lines along an axis are transformed several at a time, as one line of vectors that stays in the cache. The arithmetic
// of a number is the same alone and in a vector, and so are its bits. `Loose` is a vector anywhere among floats.
typedef float Four __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));
typedef float Sixteen __attribute__((vector_size(64)));
typedef float LooseFour __attribute__((vector_size(16), aligned(4), may_alias));
typedef float LooseEight __attribute__((vector_size(32), aligned(4), may_alias));
typedef float LooseSixteen __attribute__((vector_size(64), aligned(4), may_alias));

template <class V>
constexpr i64 kWidth = static_cast<i64>(sizeof(V) / sizeof(float));
constexpr i64 kWidest = kWidth<Sixteen>;

SYNBENCH_INLINE void copy(const float* from, Four& to) { to = *reinterpret_cast<const LooseFour*>(from); }
SYNBENCH_INLINE void copy(const float* from, Eight& to) { to = *reinterpret_cast<const LooseEight*>(from); }
SYNBENCH_INLINE void copy(const float* from, Sixteen& to) { to = *reinterpret_cast<const LooseSixteen*>(from); }
SYNBENCH_INLINE void copy(const Four& from, float* to) { *reinterpret_cast<LooseFour*>(to) = from; }
SYNBENCH_INLINE void copy(const Eight& from, float* to) { *reinterpret_cast<LooseEight*>(to) = from; }
SYNBENCH_INLINE void copy(const Sixteen& from, float* to) { *reinterpret_cast<LooseSixteen*>(to) = from; }

template <class T>
struct Planes {  // real and imaginary parts apart: the inner loops then are plain loops over floats or vectors
  T *re, *im;
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

// A step of a transform: y[q, radix p + k] = w_p^k sum_j exp(-2 pi i j k / radix) x[q, p + parts j], q in [0, stride)
// innermost.
template <class T>
SYNBENCH_INLINE void radix2(const Planes<T>& x, const Planes<T>& y, const Stage& stage, i64 stride) {
  for (i64 p = 0; p < stage.parts; ++p) {
    const float w[2] = {1.0f, stage.re[2 * p + 1]}, v[2] = {0.0f, stage.im[2 * p + 1]};
    const i64 in0 = stride * p, in1 = stride * (p + stage.parts), out0 = stride * 2 * p, out1 = out0 + stride;
    const T* __restrict ar = x.re + in0, * __restrict ai = x.im + in0, * __restrict br = x.re + in1, * __restrict bi = x.im + in1;
    T* __restrict cr = y.re + out0, * __restrict ci = y.im + out0, * __restrict dr = y.re + out1, * __restrict di = y.im + out1;
    for (i64 q = 0; q < stride; ++q) {
      Complex<T> c, d;
      butterfly2(Complex<T>{ar[q], ai[q]}, Complex<T>{br[q], bi[q]}, w, v, c, d);
      cr[q] = c.re;
      ci[q] = c.im;
      dr[q] = d.re;
      di[q] = d.im;
    }
  }
}

template <class T>
SYNBENCH_INLINE void radix4(const Planes<T>& x, const Planes<T>& y, const Stage& stage, i64 stride) {
  for (i64 p = 0; p < stage.parts; ++p) {
    const float *from_re = stage.re.data() + 4 * p, *from_im = stage.im.data() + 4 * p;
    const float w[4] = {from_re[0], from_re[1], from_re[2], from_re[3]};
    const float v[4] = {from_im[0], from_im[1], from_im[2], from_im[3]};
    const i64 in = stride * p, step = stride * stage.parts, out = stride * 4 * p;
    const T* __restrict xr = x.re + in, * __restrict xi = x.im + in;
    T* __restrict yr = y.re + out, * __restrict yi = y.im + out;
    for (i64 q = 0; q < stride; ++q) {
      Complex<T> x4[4], y4[4];
      for (int j = 0; j < 4; ++j) x4[j] = {xr[q + j * step], xi[q + j * step]};
      butterfly4(x4, w, v, y4);
      for (int j = 0; j < 4; ++j) {
        yr[q + j * stride] = y4[j].re;
        yi[q + j * stride] = y4[j].im;
      }
    }
  }
}

// A sum that began with 0 is never -0, so factors of exactly (1, -0) change no bit: they are left out.
template <class T>
SYNBENCH_INLINE void any_radix(const Planes<T>& x, const Planes<T>& y, const Stage& stage, i64 stride,
                               const float* root_re, const float* root_im) {
  constexpr i64 kSums = sizeof(T) == sizeof(float) ? kWidest : 1;  // at a time
  const i64 radix = stage.radix, step = stride * stage.parts;
  for (i64 p = 0; p < stage.parts; ++p)
    for (i64 k = 0; k < radix; ++k) {
      const float wr = stage.re[radix * p + k], wi = stage.im[radix * p + k];
      for (i64 first = 0; first < stride; first += kSums) {
        const i64 left = stride - first, count = left < kSums ? left : kSums;
        const T *xr = x.re + stride * p + first, *xi = x.im + stride * p + first;
        T r[kSums] = {}, i[kSums] = {};
        for (i64 q = 0; q < count; ++q) {
          r[q] += xr[q];
          i[q] += xi[q];
        }
        i64 power = 0;  // j k mod radix
        for (i64 j = 1; j < radix; ++j) {
          power += power + k < radix ? k : k - radix;
          const float ur = root_re[power], ui = root_im[power];
          for (i64 q = 0; q < count; ++q) {
            const Complex<T> part = times(Complex<T>{xr[q + j * step], xi[q + j * step]}, ur, ui);
            r[q] += part.re;
            i[q] += part.im;
          }
        }
        T *yr = y.re + stride * (radix * p + k) + first, *yi = y.im + stride * (radix * p + k) + first;
        if (p == 0 || k == 0) {
          std::copy_n(r, count, yr);
          std::copy_n(i, count, yi);
        } else {
          for (i64 q = 0; q < count; ++q) {
            const Complex<T> turned = times(Complex<T>{r[q], i[q]}, wr, wi);
            yr[q] = turned.re;
            yi[q] = turned.im;
          }
        }
      }
    }
}

// The same for a radix that the compiler knows.
template <int kRadix, class T>
SYNBENCH_INLINE void odd_radix(const Planes<T>& x, const Planes<T>& y, const Stage& stage, i64 stride,
                               const float* root_re, const float* root_im) {
  const i64 step = stride * stage.parts;
  for (i64 p = 0; p < stage.parts; ++p) {
    const float *wr = stage.re.data() + kRadix * p, *wi = stage.im.data() + kRadix * p;
    for (i64 q = 0; q < stride; ++q) {
      const i64 in = stride * p + q, out = stride * kRadix * p + q;
      Complex<T> from[kRadix];
      for (int j = 0; j < kRadix; ++j) from[j] = {x.re[in + j * step], x.im[in + j * step]};
#pragma GCC unroll 7
      for (int k = 0; k < kRadix; ++k) {
        Complex<T> sum = Complex<T>{} + from[0];
#pragma GCC unroll 7
        for (int j = 1; j < kRadix; ++j) {
          const int power = j * k % kRadix;
          sum = sum + times(from[j], root_re[power], root_im[power]);
        }
        if (p != 0 && k != 0) sum = times(sum, wr[k], wi[k]);
        y.re[out + k * stride] = sum.re;
        y.im[out + k * stride] = sum.im;
      }
    }
  }
}

template <class T>
SYNBENCH_INLINE void step(const Planes<T>& x, const Planes<T>& y, const Stage& stage, i64 stride, const float* root_re,
                          const float* root_im) {
  if (stage.radix == 4)
    radix4(x, y, stage, stride);
  else if (stage.radix == 2)
    radix2(x, y, stage, stride);
  else if (stage.radix == 3)
    odd_radix<3>(x, y, stage, stride, root_re, root_im);
  else if (stage.radix == 5)
    odd_radix<5>(x, y, stage, stride, root_re, root_im);
  else if (stage.radix == 7)
    odd_radix<7>(x, y, stage, stride, root_re, root_im);
  else
    any_radix(x, y, stage, stride, root_re, root_im);
}

template <class V>
SYNBENCH_INLINE Planes<V> of_vectors(const Planes<float>& x) {
  return {reinterpret_cast<V*>(x.re), reinterpret_cast<V*>(x.im)};
}

// One line; x and y swap roles at every stage, the result is in x afterwards.
template <class V, class T>
SYNBENCH_INLINE void transform(const Axis& axis, Planes<T>& x, Planes<T>& y) {
  i64 stride = 1;
  const float *root_re = axis.roots_re.data(), *root_im = axis.roots_im.data();
  for (const Stage& stage : axis.stages) {
    if constexpr (sizeof(T) == sizeof(float)) {
      if (stride % kWidth<V> == 0)  // a line of floats by itself has vectors in its later stages
        step(of_vectors<V>(x), of_vectors<V>(y), stage, stride / kWidth<V>, root_re, root_im);
      else
        step(x, y, stage, stride, root_re, root_im);
    } else {
      step(x, y, stage, stride, root_re, root_im);
    }
    stride *= stage.radix;
    root_re += stage.radix;
    root_im += stage.radix;
    std::swap(x, y);
  }
}

// `count` lines: the first begins at `at`, `step` is from element to element, `apart` from line to line.
struct Lines {
  i64 at, count, step, apart;
};

#if defined(__clang__)
#define SYNBENCH_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int Places __attribute__((vector_size(16)));
#define SYNBENCH_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Places{__VA_ARGS__})
#endif

// to[to_apart c + r] = from[from_apart r + c], r and c in [0, 4).
SYNBENCH_INLINE void transpose(const float* from, i64 from_apart, float* to, i64 to_apart) {
  Four rows[4];
  for (i64 r = 0; r < 4; ++r) copy(from + r * from_apart, rows[r]);
  const Four a = SYNBENCH_SHUFFLE(rows[0], rows[1], 0, 4, 1, 5), b = SYNBENCH_SHUFFLE(rows[0], rows[1], 2, 6, 3, 7);
  const Four c = SYNBENCH_SHUFFLE(rows[2], rows[3], 0, 4, 1, 5), d = SYNBENCH_SHUFFLE(rows[2], rows[3], 2, 6, 3, 7);
  copy(SYNBENCH_SHUFFLE(a, c, 0, 1, 4, 5), to);
  copy(SYNBENCH_SHUFFLE(a, c, 2, 3, 6, 7), to + to_apart);
  copy(SYNBENCH_SHUFFLE(b, d, 0, 1, 4, 5), to + 2 * to_apart);
  copy(SYNBENCH_SHUFFLE(b, d, 2, 3, 6, 7), to + 3 * to_apart);
}

// A vector holds one element of each line; lines that are not there are 0.
template <class V>
SYNBENCH_INLINE void load(const float* x, const Lines& lines, i64 length, V* line) {
  constexpr i64 kLines = kWidth<V>;
  i64 k = 0;
  if (lines.count == kLines && lines.apart == 1)
    for (; k < length; ++k) copy(x + lines.at + k * lines.step, line[k]);
  if (lines.count == kLines && lines.step == 1)
    for (; k + 4 <= length; k += 4)
      for (i64 q = 0; q < kLines; q += 4)
        transpose(x + lines.at + k + q * lines.apart, lines.apart, reinterpret_cast<float*>(line + k) + q, kLines);
  for (; k < length; ++k) {
    float values[kLines] = {};
    for (i64 q = 0; q < lines.count; ++q) values[q] = x[lines.at + k * lines.step + q * lines.apart];
    copy(values, line[k]);
  }
}

template <class V>
SYNBENCH_INLINE void store(const V* line, const Lines& lines, i64 length, float* x) {
  constexpr i64 kLines = kWidth<V>;
  i64 k = 0;
  if (lines.count == kLines && lines.apart == 1)
    for (; k < length; ++k) copy(line[k], x + lines.at + k * lines.step);
  if (lines.count == kLines && lines.step == 1)
    for (; k + 4 <= length; k += 4)
      for (i64 q = 0; q < kLines; q += 4)
        transpose(reinterpret_cast<const float*>(line + k) + q, kLines, x + lines.at + k + q * lines.apart,
                  lines.apart);
  for (; k < length; ++k) {
    float values[kLines];
    copy(line[k], values);
    for (i64 q = 0; q < lines.count; ++q) x[lines.at + k * lines.step + q * lines.apart] = values[q];
  }
}

SYNBENCH_INLINE void load(const float* x, const Lines& lines, i64 length, float* line) {
  for (i64 k = 0; k < length; ++k) line[k] = x[lines.at + k * lines.step];
}

SYNBENCH_INLINE void store(const float* line, const Lines& lines, i64 length, float* x) {
  for (i64 k = 0; k < length; ++k) x[lines.at + k * lines.step] = line[k];
}

i64 padded(i64 length) { return (length + kWidest - 1) / kWidest * kWidest; }

template <class V, class T>
SYNBENCH_INLINE void transform_lines(const Axis& axis, const Lines& lines, const Planes<float>& x, T* room) {
  const i64 length = axis.length, apart = padded(length);
  Planes<T> a{room, room + apart}, b{room + 2 * apart, room + 3 * apart};
  load(x.re, lines, length, a.re);
  load(x.im, lines, length, a.im);
  transform<V>(axis, a, b);
  store(a.re, lines, length, x.re);
  store(a.im, lines, length, x.im);
}

// Along one axis of [outer, length, inner], in place.
template <class V>
SYNBENCH_INLINE void transform_axis(const Axis& axis, i64 outer, i64 inner, const Planes<float>& x, Sixteen* room) {
  const i64 block = axis.length * inner, sets = inner == 1 ? 1 : outer, lines = inner == 1 ? outer : inner;
  const i64 apart = inner == 1 ? block : 1;
  for (i64 set = 0; set < sets; ++set)
    for (i64 first = 0; first < lines; first += kWidth<V>) {
      Lines some{set * block + first * apart, std::min(kWidth<V>, lines - first), inner, apart};
      if (some.count >= kWidth<V> / 2)
        transform_lines<V>(axis, some, x, reinterpret_cast<V*>(room));
      else
        for (i64 q = 0; q < some.count; ++q, some.at += apart)
          transform_lines<V>(axis, some, x, reinterpret_cast<float*>(room));
    }
}

void transform_axis_baseline(const Axis& axis, i64 outer, i64 inner, const Planes<float>& x, Sixteen* room) {
  transform_axis<Four>(axis, outer, inner, x, room);
}

#ifdef SYNBENCH_X86
SYNBENCH_AVX2 void transform_axis_avx2(const Axis& axis, i64 outer, i64 inner, const Planes<float>& x, Sixteen* room) {
  transform_axis<Eight>(axis, outer, inner, x, room);
}

SYNBENCH_AVX512 void transform_axis_avx512(const Axis& axis, i64 outer, i64 inner, const Planes<float>& x,
                                           Sixteen* room) {
  transform_axis<Sixteen>(axis, outer, inner, x, room);
}
#endif

// `signals` of `size` elements each.
void transform(const std::vector<Axis>& axes, i64 signals, i64 size, const Planes<float>& x, Sixteen* room) {
  auto* along = transform_axis_baseline;
#ifdef SYNBENCH_X86
  if (best_simd_level() == SimdLevel::kAvx2) along = transform_axis_avx2;
  if (best_simd_level() == SimdLevel::kAvx512) along = transform_axis_avx512;
#endif
  i64 outer = 1;
  for (const Axis& axis : axes) {
    if (axis.length > 1) along(axis, signals * outer, size / outer / axis.length, x, room);
    outer *= axis.length;
  }
}

constexpr i64 kLongest = 1024;  // of the axes whose lines go together across signals: longer vectors leave the cache

}  // namespace

void filter_spectrum(float* x, i64 count, i64 channels, const std::vector<i64>& shape, const float* gain, int threads) {
  std::vector<Axis> axes;
  i64 size = 1, longest = 1;
  for (const i64 length : shape) {
    axes.push_back(make_axis(length));
    size *= length;
    longest = std::max(longest, length);
  }
  const float scale = static_cast<float>(1.0 / static_cast<double>(size));
  // A real filter acts on real and imaginary parts apart: two channels of a sample make one complex signal. Signals
  // go together until their lines along the longest axis fill a vector.
  const i64 pairs = (channels + 1) / 2, lines = size / longest;
  const i64 together = longest <= kLongest ? (kWidest + lines - 1) / lines : 1;
  i64 vectors = 0;  // of room: four lines of vectors, or of floats where a line is alone
  for (const i64 length : shape)
    vectors = std::max(vectors, 4 * padded(length) / (together * size > length ? 1 : kWidest));
  parallel_for(count * pairs, together, threads, [&](i64 from, i64 to) {
    const std::unique_ptr<float[]> planes(new float[static_cast<std::size_t>(2 * together * size)]);
    const std::unique_ptr<Sixteen[]> room(new Sixteen[static_cast<std::size_t>(vectors)]);
    const Planes<float> a{planes.get(), planes.get() + together * size};
    for (i64 first = from; first < to; first += together) {
      const i64 signals = std::min(together, to - first);
      const auto channel = [&](i64 s) { return (first + s) % pairs * 2; };
      const auto data = [&](i64 s) { return x + ((first + s) / pairs * channels + channel(s)) * size; };
      for (i64 s = 0; s < signals; ++s) {
        std::copy_n(data(s), size, a.re + s * size);
        if (channel(s) + 1 < channels)
          std::copy_n(data(s) + size, size, a.im + s * size);
        else
          std::fill_n(a.im + s * size, size, 0.0f);
      }
      transform(axes, signals, size, a, room.get());
      for (i64 s = 0; s < signals; ++s)
        for (i64 f = 0; f < size; ++f) {
          const float g = gain[f] * scale;
          a.re[s * size + f] *= g;
          a.im[s * size + f] *= g;
        }
      // The inverse is the forward transform of the swapped parts, swapped back.
      transform(axes, signals, size, {a.im, a.re}, room.get());
      for (i64 s = 0; s < signals; ++s) {
        std::copy_n(a.re + s * size, size, data(s));
        if (channel(s) + 1 < channels) std::copy_n(a.im + s * size, size, data(s) + size);
      }
    }
  });
}

struct InverseFourier::Tables {
  std::vector<Axis> axes;
  i64 size = 1, room = 0;  // room: four lines of vectors along the longest axis
};

InverseFourier::InverseFourier(const std::vector<i64>& shape) : tables_(new Tables) {
  for (const i64 length : shape) {
    tables_->axes.push_back(make_axis(length));
    tables_->size *= length;
    tables_->room = std::max(tables_->room, 4 * padded(length));
  }
}

InverseFourier::~InverseFourier() = default;

void InverseFourier::operator()(float* re, float* im, i64 signals) const {
  const std::unique_ptr<Sixteen[]> room(new Sixteen[static_cast<std::size_t>(tables_->room)]);
  // The forward transform of the swapped parts, swapped back.
  transform(tables_->axes, signals, tables_->size, {im, re}, room.get());
}

}  // namespace synbench
