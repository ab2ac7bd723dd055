// The renderers of the task families on the device: one thread per element of an image, or per butterfly of a transform.
//
// The arithmetic is that of csrc/families/ and filter_spectrum_cpu.cpp, from the same headers. This unit is compiled
// without fused multiply-adds, so that images have the bits of the CPU. In every grid, y is the image (or the signal) and x
// goes over what it consists of, which 32 bits count.
#include "butterflies.hpp"
#include "families/reading.hpp"
#include "families/stroke.hpp"
#include "host_device.hpp"

namespace synbench {

// A place of threads among `items` of one image.
__device__ __forceinline__ unsigned int place_in_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }

__device__ __forceinline__ Index image_in_grid() { return static_cast<Index>(blockIdx.y); }

constexpr int kTileWidth = 32, kTileHeight = 8, kTile = kTileWidth * kTileHeight;  // elements that a block paints
constexpr int kChannelsTogether = 4;  // of an element, painted by one thread
constexpr int kStrokesTogether = 64;  // whose spans are in shared memory

struct Spans {
  int x0, x1, y0, y1;
};

// The cover and the filling of the element (dx, dy) from the stroke's centre.
__device__ __forceinline__ void cover_element(const Stroke& s, const float* outline, float dx, float dy, float& cover,
                                              float& filling) {
  const float p = dx * s.ux + dy * s.uy, q = dy * s.ux - dx * s.uy;
  float inside;
  if (s.kind == 0.0f)
    inside = inside_of<Kind::kEllipse>(s, outline, p, q);
  else if (s.kind == 1.0f)
    inside = inside_of<Kind::kRectangle>(s, outline, p, q);
  else
    inside = inside_of<Kind::kOutline>(s, outline, p, q);
  cover = clamp01(inside + 0.5f);
  filling = s.fx == 0.0f && s.fy == 0.0f ? 1.0f : filling_of(s, p, q);
}

}  // namespace synbench

// y(f) = (g_0 + g_1)(f) / 2 w(f) + (g_0 - g_1)(f) / 2 conj(w(-f)) for each pair of channels, the second of an odd number 0.
// w, y [images, 2 (real, imaginary), pairs, height, width]; gain [channels, height, width].
extern "C" __global__ void render_spectrum_kernel(const float* w, const float* gain, long long channels,
                                                  long long height, long long width, float* y) {
  using namespace synbench;
  const unsigned int pixels = static_cast<unsigned int>(height * width);
  const unsigned int pairs = static_cast<unsigned int>((channels + 1) / 2), half = pairs * pixels;
  const unsigned int item = place_in_grid();
  if (item >= half) return;
  const unsigned int pair = item / pixels, p = item % pixels, columns = static_cast<unsigned int>(width);
  const unsigned int row = p / columns, column = p % columns;
  const unsigned int opposite_row = row == 0 ? 0 : static_cast<unsigned int>(height) - row;
  const unsigned int opposite_column = column == 0 ? 0 : columns - column;
  const float* re = w + image_in_grid() * 2 * half;
  const float* im = re + half;
  const unsigned int other = pair * pixels + opposite_row * columns + opposite_column;
  const float first = gain[2 * static_cast<Index>(pair) * pixels + p];
  const float second = 2 * pair + 1 < channels ? gain[(2 * static_cast<Index>(pair) + 1) * pixels + p] : 0.0f;
  const float plus = (first + second) * 0.5f, minus = (first - second) * 0.5f;
  float* out = y + image_in_grid() * 2 * half;
  out[item] = plus * re[item] + minus * re[other];
  out[half + item] = plus * im[item] - minus * im[other];
}

// A step of the inverse transform along one axis of signals [outer, length, inner] in two planes, `apart` from one to the
// next; `signals` of them make an image. As in filter_spectrum_cpu.cpp, with real and imaginary parts exchanged:
// y[q, radix p + k] = w_p^k sum_j exp(-2 pi i j k / radix) x[q, p + parts j], q in [0, stride) innermost.
// roots [2, radix parts]: exp(-2 pi i k / (radix parts)), so that w_p^k is root p k; small_roots [2, radix].
// A thread computes a butterfly of radix 2 or 4, or one y of any other radix.
extern "C" __global__ void render_fourier_kernel(const float* x, long long signals, long long size, long long length,
                                                 long long inner, long long radix, long long stride, const float* roots,
                                                 const float* small_roots, float* y) {
  using namespace synbench;
  const unsigned int n = static_cast<unsigned int>(radix), steps = static_cast<unsigned int>(stride);
  const unsigned int along = static_cast<unsigned int>(length), across = static_cast<unsigned int>(inner);
  const unsigned int parts = along / steps / n, butterflies = parts * steps;
  const bool whole = n == 2 || n == 4;
  const unsigned int per_line = whole ? butterflies : along, lines = static_cast<unsigned int>(size) / along;
  unsigned int item = place_in_grid();
  if (item >= lines * per_line) return;
  const unsigned int r = item % across;
  item /= across;
  const unsigned int b = item % butterflies;
  item /= butterflies;
  unsigned int k = 0;
  if (!whole) {
    k = item % n;
    item /= n;
  }
  const unsigned int p = b / steps, q = b % steps;
  const Index image = image_in_grid() / signals, signal = image_in_grid() % signals;
  const Index begin = (image * 2 * signals + signal) * size + static_cast<Index>(item) * along * across + r;
  const Index plane = signals * size;
  // The forward transform of the exchanged parts, exchanged back.
  const float *im = x + begin, *re = im + plane;
  float *out_im = y + begin, *out_re = out_im + plane;
  const float *roots_im = roots + n * parts, *small_im = small_roots + n;
  const unsigned int in = (q + steps * p) * across, jump = steps * parts * across;
  const unsigned int out = (q + steps * n * p) * across, skip = steps * across;
  if (n == 4) {
    Complex<float> from[4], to[4];
    float wr[4], wi[4];
    for (int j = 0; j < 4; ++j) {
      from[j] = {re[in + j * jump], im[in + j * jump]};
      wr[j] = roots[p * j];
      wi[j] = roots_im[p * j];
    }
    butterfly4(from, wr, wi, to);
    for (int j = 0; j < 4; ++j) {
      out_re[out + j * skip] = to[j].re;
      out_im[out + j * skip] = to[j].im;
    }
  } else if (n == 2) {
    const float wr[2] = {1.0f, roots[p]}, wi[2] = {0.0f, roots_im[p]};
    Complex<float> c, d;
    butterfly2(Complex<float>{re[in], im[in]}, Complex<float>{re[in + jump], im[in + jump]}, wr, wi, c, d);
    out_re[out] = c.re;
    out_im[out] = c.im;
    out_re[out + skip] = d.re;
    out_im[out + skip] = d.im;
  } else {
    Complex<float> sum = {0.0f, 0.0f};
    sum = sum + Complex<float>{re[in], im[in]};
    unsigned int power = 0;  // j k mod radix
    for (unsigned int j = 1; j < n; ++j) {
      power += power + k < n ? k : k - n;
      const Complex<float> from = {re[in + j * jump], im[in + j * jump]};
      sum = sum + times(from, small_roots[power], small_im[power]);
    }
    if (p != 0 && k != 0) sum = times(sum, roots[p * k], roots_im[p * k]);
    out_re[out + k * skip] = sum.re;
    out_im[out + k * skip] = sum.im;
  }
}

// x[i, c] = center + sum_d mix[c, d] u_d; field d of image i is plane d % 2 of pair d / 2 in u [images, 2, pairs, pixels].
extern "C" __global__ void render_mix_kernel(const float* u, const float* mix, double center, long long channels,
                                             long long pixels, float* x) {
  using namespace synbench;
  const unsigned int p = place_in_grid();
  if (p >= pixels) return;
  const Index half = (channels + 1) / 2 * pixels;
  const float* fields = u + image_in_grid() * 2 * half + p;
  float* out = x + image_in_grid() * channels * pixels + p;
  for (Index c = 0; c < channels; ++c) {
    float sum = static_cast<float>(center);
    for (Index d = 0; d < channels; ++d) sum += mix[c * channels + d] * fields[d % 2 * half + d / 2 * pixels];
    out[c * pixels] = sum;
  }
}

// x[i] += contrast[i] picture, moved by places[i] (rows, columns) on the torus. x [images, channels, height, width].
extern "C" __global__ void render_roll_kernel(float* x, const float* picture, const long long* places,
                                              const float* contrast, long long channels, long long height,
                                              long long width) {
  using namespace synbench;
  const unsigned int rows = static_cast<unsigned int>(height), columns = static_cast<unsigned int>(width);
  const unsigned int size = static_cast<unsigned int>(channels) * rows * columns, item = place_in_grid();
  if (item >= size) return;
  const Index i = image_in_grid();
  const unsigned int column = item % columns, line = item / columns, row = line % rows, channel = line / rows;
  const unsigned int down = static_cast<unsigned int>(places[2 * i]),
                     right = static_cast<unsigned int>(places[2 * i + 1]);
  const unsigned int from_row = (row + rows - down) % rows, from_column = (column + columns - right) % columns;
  x[i * size + item] += contrast[i] * picture[(channel * rows + from_row) * columns + from_column];
}

// See `view`: scene [side, side] texels of four bytes, maps [images, 6], colours [images, channels, 4].
extern "C" __global__ void render_view_kernel(float* x, const unsigned int* scene, long long side, const float* maps,
                                              const float* colours, long long channels, long long height,
                                              long long width) {
  using namespace synbench;
  const unsigned int columns = static_cast<unsigned int>(width), pixels = static_cast<unsigned int>(height) * columns;
  const unsigned int p = place_in_grid();
  if (p >= pixels) return;
  const Index i = image_in_grid();
  const float* m = maps + 6 * i;
  const float column = static_cast<float>(static_cast<int>(p % columns));
  const float row = static_cast<float>(static_cast<int>(p / columns));
  const float horizontal = (m[0] + m[2] * row) + m[1] * column, vertical = (m[3] + m[5] * row) + m[4] * column;
  const int left = floor_of(horizontal), top = floor_of(vertical);
  const float s = horizontal - static_cast<float>(left), t = vertical - static_cast<float>(top);
  const int mask = static_cast<int>(side) - 1;
  const int x0 = left & mask, x1 = (left + 1) & mask;
  const int y0 = (top & mask) * static_cast<int>(side), y1 = ((top + 1) & mask) * static_cast<int>(side);
  const unsigned int texel[4] = {scene[y0 + x0], scene[y0 + x1], scene[y1 + x0], scene[y1 + x1]};
  float read[3];
  for (int d = 0; d < 3; ++d) {
    const float around[4] = {colour_of(texel[0], 8 * d), colour_of(texel[1], 8 * d), colour_of(texel[2], 8 * d),
                             colour_of(texel[3], 8 * d)};
    read[d] = bilinear(around, s, t);
  }
  float* out = x + i * channels * pixels + p;
  for (Index c = 0; c < channels; ++c)
    out[c * pixels] += recoloured(colours + 4 * (i * channels + c), read[0], read[1], read[2]);
}

// See `paint`: strokes [images, strokes, kStrokeNumbers], colours [images, strokes, 2, channels], outlines
// [images, strokes, 2 kHarmonics]. grid [tiles of kTile elements, images, groups of kChannelsTogether channels], kTile
// threads. A tile passes over the strokes that do not reach it.
extern "C" __global__ void __launch_bounds__(synbench::kTile)
    render_paint_kernel(float* x, const float* ground, const float* strokes, const float* colours,
                        const float* outlines, long long number, long long channels, long long height,
                        long long width) {
  using namespace synbench;
  __shared__ Spans spans[kStrokesTogether];
  const int tiles = static_cast<int>((width + kTileWidth - 1) / kTileWidth);
  const int left = static_cast<int>(blockIdx.x) % tiles * kTileWidth;
  const int top = static_cast<int>(blockIdx.x) / tiles * kTileHeight;
  const int column = left + static_cast<int>(threadIdx.x) % kTileWidth;
  const int row = top + static_cast<int>(threadIdx.x) / kTileWidth;
  const Index i = image_in_grid();
  const int begin = static_cast<int>(blockIdx.z) * kChannelsTogether, all = static_cast<int>(channels);
  float picture[kChannelsTogether];
  for (int c = 0; c < kChannelsTogether; ++c) picture[c] = begin + c < all ? ground[i * channels + begin + c] : 0.0f;

  for (Index first = 0; first < number; first += kStrokesTogether) {
    const int some = static_cast<int>(min(static_cast<Index>(kStrokesTogether), number - first));
    __syncthreads();
    for (int k = static_cast<int>(threadIdx.x); k < some; k += kTile) {
      const Stroke& s = reinterpret_cast<const Stroke*>(strokes)[i * number + first + k];
      const Span across = span_of(s.cx, s.ex, width), down = span_of(s.cy, s.ey, height);
      spans[k] = {static_cast<int>(across.first), static_cast<int>(across.last), static_cast<int>(down.first),
                  static_cast<int>(down.last)};
    }
    __syncthreads();
    for (int k = 0; k < some; ++k) {
      const Spans reach = spans[k];
      if (column < reach.x0 || column >= reach.x1 || row < reach.y0 || row >= reach.y1) continue;
      const Index at = i * number + first + k;
      const Stroke& s = reinterpret_cast<const Stroke*>(strokes)[at];
      const float dx = static_cast<float>(column) + 0.5f - s.cx, dy = static_cast<float>(row) + 0.5f - s.cy;
      float cover, filling;
      cover_element(s, outlines + at * 2 * kHarmonics, dx, dy, cover, filling);
      const float* colour = colours + at * 2 * channels + begin;
      for (int c = 0; c < kChannelsTogether; ++c) {
        if (begin + c >= all) break;
        const float painted = colour[c] + filling * (colour[channels + c] - colour[c]);
        picture[c] = picture[c] + cover * (painted - picture[c]);
      }
    }
  }
  if (column >= width || row >= height) return;
  for (int c = 0; c < kChannelsTogether; ++c)
    if (begin + c < all) x[((i * channels + begin + c) * height + row) * width + column] += picture[c];
}
