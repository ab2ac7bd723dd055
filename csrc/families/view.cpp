// Scenes seen through affine maps.
#include <cstring>

#include "families/reading.hpp"
#include "families/renderers.hpp"
#include "parallel.hpp"
#include "simd.hpp"

namespace synbench {
namespace {

using i64 = std::int64_t;
constexpr int kBlock = 16;  // elements at a time: a whole vector on every instruction set

struct Reading {
  alignas(64) float colour[3][kBlock];
};

// kBlock readings of the scene along a row.
SYNBENCH_INLINE void read(const std::uint32_t* __restrict scene, int side, float x, float x_step, float y, float y_step,
                          int first, Reading& out) {
  const int mask = side - 1;
  alignas(64) float s[kBlock], t[kBlock];
  alignas(64) int corner[4][kBlock];
  for (int j = 0; j < kBlock; ++j) {
    const float column = static_cast<float>(first + j);
    const float horizontal = x + x_step * column, vertical = y + y_step * column;
    const int left = floor_of(horizontal), top = floor_of(vertical);
    s[j] = horizontal - static_cast<float>(left);
    t[j] = vertical - static_cast<float>(top);
    const int x0 = left & mask, x1 = (left + 1) & mask, y0 = (top & mask) * side, y1 = ((top + 1) & mask) * side;
    corner[0][j] = y0 + x0;
    corner[1][j] = y0 + x1;
    corner[2][j] = y1 + x0;
    corner[3][j] = y1 + x1;
  }
  alignas(64) std::uint32_t texel[4][kBlock];
  for (int k = 0; k < 4; ++k)
    for (int j = 0; j < kBlock; ++j) texel[k][j] = scene[corner[k][j]];
  for (int d = 0; d < 3; ++d)
    for (int j = 0; j < kBlock; ++j) {
      const float around[4] = {colour_of(texel[0][j], 8 * d), colour_of(texel[1][j], 8 * d),
                               colour_of(texel[2][j], 8 * d), colour_of(texel[3][j], 8 * d)};
      out.colour[d][j] = bilinear(around, s[j], t[j]);
    }
}

SYNBENCH_CLONES void view_image(const ImageShape& shape, const std::uint32_t* scene, int side, const float* map,
                                const float* colours, float* x) {
  for (i64 row = 0; row < shape.height; ++row) {
    const float y = static_cast<float>(row), left = map[0] + map[2] * y, top = map[3] + map[5] * y;
    for (i64 first = 0; first < shape.width; first += kBlock) {
      Reading p;
      read(scene, side, left, map[1], top, map[4], static_cast<int>(first), p);
      for (i64 c = 0; c < shape.channels; ++c) {
        const float* k = colours + 4 * c;
        float* out = x + (c * shape.height + row) * shape.width + first;
        const auto add = [&](int j) { out[j] += recoloured(k, p.colour[0][j], p.colour[1][j], p.colour[2][j]); };
        if (first + kBlock <= shape.width)
          for (int j = 0; j < kBlock; ++j) add(j);
        else
          for (int j = 0; j < static_cast<int>(shape.width - first); ++j) add(j);
      }
    }
  }
}

}  // namespace

void render_view(const ImageShape& shape, i64 count, const std::uint8_t* scene, i64 side, const float* maps,
                 const float* colours, int threads, float* x) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a texel is read as one word");
  const auto* texels = reinterpret_cast<const std::uint32_t*>(scene);
  parallel_for(count, 1, threads, [&](i64 from, i64 to) {
    for (i64 i = from; i < to; ++i)
      view_image(shape, texels, static_cast<int>(side), maps + 6 * i, colours + 4 * shape.channels * i,
                 x + i * shape.size());
  });
}

}  // namespace synbench
