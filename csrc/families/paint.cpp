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
constexpr int kBlock = 16;  // elements at a time: a whole vector on every instruction set

struct Cover {
  alignas(64) float cover[kBlock], filling[kBlock];
};

// A block as one vector: loops over so few elements are unrolled before they are vectorised.
typedef float Vector __attribute__((vector_size(4 * kBlock)));
typedef float LooseVector __attribute__((vector_size(4 * kBlock), aligned(4), may_alias));

template <Kind kKind, bool kFilled>
SYNBENCH_INLINE void cover_block(const Stroke& s, const float* outline, float dy, i64 first, Cover& out) {
  for (int j = 0; j < kBlock; ++j) {
    const float dx = static_cast<float>(static_cast<int>(first) + j) + 0.5f - s.cx;
    const float p = dx * s.ux + dy * s.uy, q = dy * s.ux - dx * s.uy;
    out.cover[j] = clamp01(inside_of<kKind>(s, outline, p, q) + 0.5f);
    out.filling[j] = kFilled ? filling_of(s, p, q) : 1.0f;  // as at phase 0
  }
}

// `picture` is [channels, height, stride], stride >= width + kBlock: blocks may reach beyond the last column.
template <Kind kKind, bool kFilled>
SYNBENCH_INLINE void paint_rows(const ImageShape& shape, i64 stride, const Stroke& s, const float* outline,
                                const float* colours, float* picture) {
  const auto [x0, x1] = span_of(s.cx, s.ex, shape.width);
  const auto [y0, y1] = span_of(s.cy, s.ey, shape.height);
  for (i64 row = y0; row < y1; ++row) {
    const float dy = static_cast<float>(static_cast<int>(row)) + 0.5f - s.cy;
    for (i64 first = x0; first < x1; first += kBlock) {
      Cover block;
      cover_block<kKind, kFilled>(s, outline, dy, first, block);
      for (i64 j = x1 - first; j < kBlock; ++j) block.cover[j] = 0.0f;
      const Vector cover = *reinterpret_cast<const LooseVector*>(block.cover);
      const Vector filling = *reinterpret_cast<const LooseVector*>(block.filling);
      for (i64 c = 0; c < shape.channels; ++c) {
        LooseVector& out = *reinterpret_cast<LooseVector*>(picture + (c * shape.height + row) * stride + first);
        const Vector under = out, colour = colours[c] + filling * (colours[shape.channels + c] - colours[c]);
        out = under + cover * (colour - under);
      }
    }
  }
}

template <Kind kKind>
SYNBENCH_INLINE void paint_stroke(const ImageShape& shape, i64 stride, const Stroke& s, const float* outline,
                                  const float* colours, float* picture) {
  if (s.fx == 0.0f && s.fy == 0.0f)
    paint_rows<kKind, false>(shape, stride, s, outline, colours, picture);
  else
    paint_rows<kKind, true>(shape, stride, s, outline, colours, picture);
}

SYNBENCH_CLONES void paint_image(const Paint& paint, i64 stride, const float* geometry, const float* colours,
                                 const float* outlines, float* picture) {
  for (i64 k = 0; k < paint.strokes; ++k) {
    const float* g = geometry + k * kStrokeNumbers;
    const Stroke s{g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10]};
    const float *outline = outlines + 2 * kHarmonics * k, *colour = colours + 2 * paint.shape.channels * k;
    if (s.kind == 0.0f)
      paint_stroke<Kind::kEllipse>(paint.shape, stride, s, outline, colour, picture);
    else if (s.kind == 1.0f)
      paint_stroke<Kind::kRectangle>(paint.shape, stride, s, outline, colour, picture);
    else
      paint_stroke<Kind::kOutline>(paint.shape, stride, s, outline, colour, picture);
  }
}

SYNBENCH_CLONES void add_line(const float* __restrict from, i64 n, float* __restrict to) {
  for (i64 j = 0; j < n; ++j) to[j] += from[j];
}

}  // namespace

void render_paint(const Paint& paint, i64 count, int threads, float* x) {
  const ImageShape& shape = paint.shape;
  const i64 stride = shape.width + kBlock, plane = shape.height * stride;
  parallel_for(count, 1, threads, [&](i64 from, i64 to) {
    std::vector<float> picture(static_cast<std::size_t>(shape.channels * plane));
    for (i64 i = from; i < to; ++i) {
      for (i64 c = 0; c < shape.channels; ++c)
        std::fill_n(picture.data() + c * plane, plane, paint.ground[i * shape.channels + c]);
      paint_image(paint, stride, paint.geometry + i * paint.strokes * kStrokeNumbers,
                  paint.colours + i * paint.strokes * 2 * shape.channels,
                  paint.outlines + i * paint.strokes * 2 * kHarmonics, picture.data());
      for (i64 line = 0; line < shape.channels * shape.height; ++line)
        add_line(picture.data() + line * stride, shape.width,
                 x + (i * shape.channels * shape.height + line) * shape.width);
    }
  });
}

}  // namespace synbench
