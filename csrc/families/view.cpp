// Scenes seen through affine maps.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>

#include "families/reading.hpp"
#include "families/renderers.hpp"
#include "parallel.hpp"
#include "sample_mixture.hpp"
#include "simd.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(SYNBENCH_NO_CLONES)
#define SYNBENCH_X86 1
#include <immintrin.h>
#define SYNBENCH_AVX2 __attribute__((target("arch=x86-64-v3")))
#define SYNBENCH_AVX512 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
#endif

namespace synbench {
namespace {

using i64 = std::int64_t;
constexpr int kBlock = 16;     // elements at a time: a whole vector on every instruction set
constexpr i64 kCached = 8192;  // elements of a band

// A scene whose rows have their first texel again behind their last: a texel and its right neighbour lie side by side.
struct Scene {
  const std::uint32_t* texels;
  int side;
};

// left[j], right[j] = texels[at[j]], texels[at[j] + 1]
struct Plain {
  static SYNBENCH_INLINE void pairs(const std::uint32_t* texels, const int* at, std::uint32_t* left,
                                    std::uint32_t* right) {
    for (int j = 0; j < kBlock; ++j) left[j] = texels[at[j]];
    for (int j = 0; j < kBlock; ++j) right[j] = texels[at[j] + 1];
  }
};

#ifdef SYNBENCH_X86
#pragma GCC diagnostic push
// As in sample_mixture_cpu.cpp (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
struct Gathered {
  SYNBENCH_AVX512 static void pairs(const std::uint32_t* texels, const int* at, std::uint32_t* left,
                                    std::uint32_t* right) {
    const __m512i places = _mm512_load_si512(at);
    const __m512i low = _mm512_i32gather_epi64(_mm512_castsi512_si256(places), texels, 4);
    const __m512i high = _mm512_i32gather_epi64(_mm512_extracti64x4_epi64(places, 1), texels, 4);
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    _mm512_store_si512(left, _mm512_permutex2var_epi32(low, even, high));
    _mm512_store_si512(right, _mm512_permutex2var_epi32(low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), high));
  }
};
#pragma GCC diagnostic pop
#endif

struct Reading {
  alignas(64) float colour[3][kBlock];
};

// kBlock readings of the scene along a row.
template <class Texels>
SYNBENCH_INLINE void read(const Scene& scene, float x, float x_step, float y, float y_step, int first, Reading& out) {
  const int mask = scene.side - 1, stride = scene.side + 1;
  alignas(64) float s[kBlock], t[kBlock];
  alignas(64) int upper[kBlock], lower[kBlock];
  for (int j = 0; j < kBlock; ++j) {
    const float column = static_cast<float>(first + j);
    const float horizontal = x + x_step * column, vertical = y + y_step * column;
    const int left = floor_of(horizontal), top = floor_of(vertical);
    s[j] = horizontal - static_cast<float>(left);
    t[j] = vertical - static_cast<float>(top);
    upper[j] = (top & mask) * stride + (left & mask);
    lower[j] = ((top + 1) & mask) * stride + (left & mask);
  }
  alignas(64) std::uint32_t texel[4][kBlock];
  Texels::pairs(scene.texels, upper, texel[0], texel[1]);
  Texels::pairs(scene.texels, lower, texel[2], texel[3]);
  for (int d = 0; d < 3; ++d)
    for (int j = 0; j < kBlock; ++j) {
      const float around[4] = {colour_of(texel[0][j], 8 * d), colour_of(texel[1][j], 8 * d),
                               colour_of(texel[2][j], 8 * d), colour_of(texel[3][j], 8 * d)};
      out.colour[d][j] = bilinear(around, s[j], t[j]);
    }
}

// The rows [begin, end) of an image.
template <class Texels>
SYNBENCH_INLINE void view_rows(const ImageShape& shape, i64 begin, i64 end, const Scene& scene, const float* map,
                               const float* colours, float* x) {
  for (i64 row = begin; row < end; ++row) {
    const float y = static_cast<float>(row), left = map[0] + map[2] * y, top = map[3] + map[5] * y;
    for (i64 first = 0; first < shape.width; first += kBlock) {
      Reading p;
      read<Texels>(scene, left, map[1], top, map[4], static_cast<int>(first), p);
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

using ViewRows = void(const ImageShape&, i64, i64, const Scene&, const float*, const float*, float*);

void view_rows_baseline(const ImageShape& shape, i64 begin, i64 end, const Scene& scene, const float* map,
                        const float* colours, float* x) {
  view_rows<Plain>(shape, begin, end, scene, map, colours, x);
}

#ifdef SYNBENCH_X86
SYNBENCH_AVX2 void view_rows_avx2(const ImageShape& shape, i64 begin, i64 end, const Scene& scene, const float* map,
                                  const float* colours, float* x) {
  view_rows<Plain>(shape, begin, end, scene, map, colours, x);
}

SYNBENCH_AVX512 void view_rows_avx512(const ImageShape& shape, i64 begin, i64 end, const Scene& scene, const float* map,
                                      const float* colours, float* x) {
  view_rows<Gathered>(shape, begin, end, scene, map, colours, x);
}
#endif

ViewRows* best_view_rows() {
#ifdef SYNBENCH_X86
  if (best_simd_level() == SimdLevel::kAvx512) return view_rows_avx512;
  if (best_simd_level() == SimdLevel::kAvx2) return view_rows_avx2;
#endif
  return view_rows_baseline;
}

}  // namespace

void render_view(const ImageShape& shape, i64 count, const std::uint8_t* scene, i64 side, const float* maps,
                 const float* colours, const WhiteNoise* noise, int threads, float* x) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a texel is read as one word");
  const i64 stride = side + 1;
  const std::unique_ptr<std::uint32_t[]> texels(new std::uint32_t[static_cast<std::size_t>(side * stride)]);
  for (i64 row = 0; row < side; ++row) {
    std::memcpy(texels.get() + row * stride, scene + 4 * row * side, static_cast<std::size_t>(4 * side));
    texels[row * stride + side] = texels[row * stride];
  }
  const Scene padded{texels.get(), static_cast<int>(side)};
  auto* view_rows = best_view_rows();
  // Some rows at a time, which stay in the first-level cache between their noise and their view.
  const i64 rows = std::clamp<i64>(kCached / (shape.channels * shape.width), 1, shape.height);
  const i64 bands = (shape.height + rows - 1) / rows;
  parallel_for(count * bands, 1, threads, [&](i64 from, i64 to) {
    for (i64 item = from; item < to; ++item) {
      const i64 i = item / bands, begin = item % bands * rows, end = std::min(begin + rows, shape.height);
      if (noise != nullptr) lay_noise(*noise, shape, i, begin, end, x);
      view_rows(shape, begin, end, padded, maps + 6 * i, colours + 4 * shape.channels * i, x + i * shape.size());
    }
  });
}

}  // namespace synbench
