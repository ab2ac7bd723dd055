// Strokes one over the other.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "families/renderers.hpp"
#include "families/stroke.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace synbench {
namespace {

using i64 = std::int64_t;
constexpr int kBlock = 16;     // elements at a time: a whole vector on every instruction set
constexpr i64 kCached = 8192;  // elements of a band, if it has more than 8 rows

// A block as one vector: loops over so few elements are unrolled before they are vectorised.
typedef float Vector __attribute__((vector_size(4 * kBlock)));
typedef float LooseVector __attribute__((vector_size(4 * kBlock), aligned(4), may_alias));
typedef int Places __attribute__((vector_size(4 * kBlock)));
constexpr Places kPlaces = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

template <Kind kKind, bool kFilled>
SYNBENCH_INLINE void cover_block(const Stroke& s, const float* outline, float dy, i64 first, Vector& cover,
                                 Vector& filling) {
  alignas(64) float covers[kBlock], fillings[kBlock];
  for (int j = 0; j < kBlock; ++j) {
    const float dx = static_cast<float>(static_cast<int>(first) + j) + 0.5f - s.cx;
    const float p = dx * s.ux + dy * s.uy, q = dy * s.ux - dx * s.uy;
    covers[j] = clamp01(inside_of<kKind>(s, outline, p, q) + 0.5f);
    fillings[j] = kFilled ? filling_of(s, p, q) : 1.0f;  // as at phase 0
  }
  cover = *reinterpret_cast<const LooseVector*>(covers);
  filling = *reinterpret_cast<const LooseVector*>(fillings);
}

// Some rows of an image: [channels, last - first, stride], stride >= width + kBlock as blocks may reach beyond the last
// column. They stay in the first-level cache while all strokes pass.
struct Band {
  float* picture;
  i64 channels, stride, first, last;
};

// Where a stroke may cover elements.
struct Reach {
  i64 x0, x1, y0, y1;
};

// The largest distance from the centre, in elements, at which an outline covers any: beyond it its cover is exactly 0.
float largest_radius(const Stroke& s, const float* outline) {
  float most = 1.0f;
  for (int k = 0; k < 2 * kHarmonics; ++k) most += abs_of(outline[k]);
  return (s.a * most * 1.0001f + 0.6f) / sqrtf(s.ux * s.ux + s.uy * s.uy);
}

// kChannels: their number, or 0 for any.
template <Kind kKind, bool kFilled, i64 kChannels>
SYNBENCH_INLINE void paint_rows(const Band& band, const Reach& reach, const Stroke& s, const float* outline,
                                const float* colours) {
  const i64 plane = (band.last - band.first) * band.stride, channels = kChannels ? kChannels : band.channels;
  const float radius = kKind == Kind::kOutline ? largest_radius(s, outline) : 0.0f;
  for (i64 row = std::max(reach.y0, band.first); row < std::min(reach.y1, band.last); ++row) {
    const float dy = static_cast<float>(static_cast<int>(row)) + 0.5f - s.cy;
    float* line = band.picture + (row - band.first) * band.stride;
    i64 begin = reach.x0, end = reach.x1;
    if constexpr (kKind == Kind::kOutline) {
      if (!(abs_of(dy) <= radius)) continue;
      const float half = sqrtf(radius * radius - dy * dy) + 1.0f;
      begin = std::max<i64>(begin, clamped(floorf(s.cx - half), end));
      end = clamped(ceilf(s.cx + half), end);
    }
    for (i64 first = begin; first < end; first += kBlock) {
      Vector cover, filling;
      cover_block<kKind, kFilled>(s, outline, dy, first, cover, filling);
      if (end - first < kBlock) cover = kPlaces < static_cast<int>(end - first) ? cover : Vector{};
      for (i64 c = 0; c < channels; ++c) {
        LooseVector& out = *reinterpret_cast<LooseVector*>(line + c * plane + first);
        const Vector under = out, colour = colours[c] + filling * (colours[channels + c] - colours[c]);
        out = under + cover * (colour - under);
      }
    }
  }
}

template <Kind kKind>
SYNBENCH_INLINE void paint_stroke(const Band& band, const Reach& reach, const Stroke& s, const float* outline,
                                  const float* colours) {
  const bool filled = s.fx != 0.0f || s.fy != 0.0f;
  if (filled && band.channels == 3)
    paint_rows<kKind, true, 3>(band, reach, s, outline, colours);
  else if (filled)
    paint_rows<kKind, true, 0>(band, reach, s, outline, colours);
  else if (band.channels == 3)
    paint_rows<kKind, false, 3>(band, reach, s, outline, colours);
  else
    paint_rows<kKind, false, 0>(band, reach, s, outline, colours);
}

SYNBENCH_CLONES void paint_band(const Band& band, const float* ground, i64 strokes, const Reach* reach,
                                const float* geometry, const float* colours, const float* outlines) {
  const i64 plane = (band.last - band.first) * band.stride;
  for (i64 c = 0; c < band.channels; ++c) std::fill_n(band.picture + c * plane, plane, ground[c]);
  for (i64 k = 0; k < strokes; ++k) {
    if (reach[k].y0 >= band.last || reach[k].y1 <= band.first) continue;
    const float* g = geometry + k * kStrokeNumbers;
    const Stroke s{g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10]};
    const float *outline = outlines + 2 * kHarmonics * k, *colour = colours + 2 * band.channels * k;
    if (s.kind == 0.0f)
      paint_stroke<Kind::kEllipse>(band, reach[k], s, outline, colour);
    else if (s.kind == 1.0f)
      paint_stroke<Kind::kRectangle>(band, reach[k], s, outline, colour);
    else
      paint_stroke<Kind::kOutline>(band, reach[k], s, outline, colour);
  }
}

SYNBENCH_CLONES void add_line(const float* __restrict from, i64 n, float* __restrict to) {
  for (i64 j = 0; j < n; ++j) to[j] += from[j];
}

void find_reach(const Paint& paint, i64 image, Reach* reach) {
  for (i64 k = 0; k < paint.strokes; ++k) {
    const float* g = paint.geometry + (image * paint.strokes + k) * kStrokeNumbers;
    const auto [x0, x1] = span_of(g[1], g[9], paint.shape.width);
    const auto [y0, y1] = span_of(g[2], g[10], paint.shape.height);
    reach[k] = {x0, x1, y0, y1};
  }
}

}  // namespace

void render_paint(const Paint& paint, i64 count, const WhiteNoise* noise, int threads, float* x) {
  const auto [channels, height, width] = paint.shape;
  const i64 stride = width + kBlock;
  const i64 rows = std::clamp<i64>(kCached / (channels * stride), std::min<i64>(2, height), height),
            bands = (height + rows - 1) / rows;
  parallel_for(count * bands, 1, threads, [&](i64 from, i64 to) {
    std::vector<float> picture(static_cast<std::size_t>(channels * rows * stride));
    std::vector<Reach> reach(static_cast<std::size_t>(paint.strokes));
    for (i64 item = from; item < to; ++item) {
      const i64 i = item / bands, first = item % bands * rows, last = std::min(first + rows, height);
      if (item == from || first == 0) find_reach(paint, i, reach.data());
      const i64 plane = (last - first) * stride;
      paint_band({picture.data(), channels, stride, first, last}, paint.ground + i * channels, paint.strokes,
                 reach.data(), paint.geometry + i * paint.strokes * kStrokeNumbers,
                 paint.colours + i * paint.strokes * 2 * channels, paint.outlines + i * paint.strokes * 2 * kHarmonics);
      if (noise != nullptr) lay_noise(*noise, paint.shape, i, first, last, x);
      for (i64 c = 0; c < channels; ++c)
        for (i64 row = first; row < last; ++row)
          add_line(picture.data() + c * plane + (row - first) * stride, width,
                   x + ((i * channels + c) * height + row) * width);
    }
  });
}

}  // namespace synbench
