#include "sample_mixture.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "normal.hpp"
#include "parallel.hpp"
#include "philox.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(SYNBENCH_NO_CLONES)
#define SYNBENCH_X86 1
#include <immintrin.h>
#define SYNBENCH_AVX2 __attribute__((target("arch=x86-64-v3")))
#define SYNBENCH_AVX512 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))
#endif

namespace synbench {
namespace {

using i64 = std::int64_t;

// A block goes through three stages, each a plain loop over buffers that stay in the first-level cache:
// words -> normals -> store (affine map, cast, layout). Only the last one touches x.
constexpr i64 kBlock = 1024;          // elements per block, a multiple of 4
constexpr i64 kBuffer = kBlock + 32;  // an unaligned block reaches into one more quad; vectors write up to 8

struct Stream {
  Wide seed;
  Word sample, stream, purpose;
};

struct Affine {
  float gain, base, amplitude;
};

// ---- words: quads [first, first + quads) as pairs, radius[2 q + j] and angle[2 q + j] for pair j of quad q

void words_baseline(Stream s, Word first, i64 quads, Word* __restrict radius, Word* __restrict angle) {
  for (i64 q = 0; q < quads; ++q) {
    const Words w = philox4x32(s.seed, {first + static_cast<Word>(q), s.sample, s.stream, s.purpose});
    radius[2 * q] = w.w0;
    angle[2 * q] = w.w1;
    radius[2 * q + 1] = w.w2;
    angle[2 * q + 1] = w.w3;
  }
}

#ifdef SYNBENCH_X86
// Every 64-bit lane carries one 32-bit word in its lower half. The upper half is garbage, which the
// multiplication ignores: a product then yields both new words with a single shift and no shuffle.

#pragma GCC diagnostic push
// GCC's own AVX-512 header reads undefined registers on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

// kGroups independent chains of eight quads hide the latency of the multiplications.
template <int kGroups>
SYNBENCH_AVX512 SYNBENCH_INLINE void quads_avx512(Stream s, __m512i counter, Word* radius, Word* angle) {
  const __m512i m0 = _mm512_set1_epi64(kPhiloxMultiplier0), m1 = _mm512_set1_epi64(kPhiloxMultiplier1);
  __m512i w0[kGroups], w1[kGroups], w2[kGroups], w3[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    w0[g] = _mm512_add_epi64(counter, _mm512_set1_epi64(8 * g));
    w1[g] = _mm512_set1_epi64(s.sample);
    w2[g] = _mm512_set1_epi64(s.stream);
    w3[g] = _mm512_set1_epi64(s.purpose);
  }
  Word k0 = static_cast<Word>(s.seed), k1 = static_cast<Word>(s.seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round, k0 += kPhiloxWeyl0, k1 += kPhiloxWeyl1) {
    for (int g = 0; g < kGroups; ++g) {
      const __m512i p0 = _mm512_mul_epu32(m0, w0[g]), p1 = _mm512_mul_epu32(m1, w2[g]);
      w0[g] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), w1[g], _mm512_set1_epi64(k0), 0x96);  // a ^ b ^ c
      w2[g] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), w3[g], _mm512_set1_epi64(k1), 0x96);
      w1[g] = p1;
      w3[g] = p0;
    }
  }
  for (int g = 0; g < kGroups; ++g) {
    _mm512_storeu_si512(radius + 16 * g, _mm512_mask_shuffle_epi32(w0[g], 0xAAAA, w2[g], _MM_PERM_CCAA));
    _mm512_storeu_si512(angle + 16 * g, _mm512_mask_shuffle_epi32(w1[g], 0xAAAA, w3[g], _MM_PERM_CCAA));
  }
}

SYNBENCH_AVX512 void words_avx512(Stream s, Word first, i64 quads, Word* radius, Word* angle) {
  __m512i counter = _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  i64 q = 0;
  for (; q + 32 <= quads; q += 32, counter = _mm512_add_epi64(counter, _mm512_set1_epi64(32)))
    quads_avx512<4>(s, counter, radius + 2 * q, angle + 2 * q);
  for (; q < quads; q += 8, counter = _mm512_add_epi64(counter, _mm512_set1_epi64(8)))
    quads_avx512<1>(s, counter, radius + 2 * q, angle + 2 * q);
}

#pragma GCC diagnostic pop

// word ^ key, sealed: GCC would reassociate the exclusive ors and put the key on the critical path (20 % slower).
SYNBENCH_AVX2 SYNBENCH_INLINE __m256i keyed(__m256i word, Word key) {
  word = _mm256_xor_si256(word, _mm256_set1_epi64x(key));
  asm("" : "+x"(word));
  return word;
}

SYNBENCH_AVX2 void words_avx2(Stream s, Word first, i64 quads, Word* radius, Word* angle) {
  const __m256i m0 = _mm256_set1_epi64x(kPhiloxMultiplier0), m1 = _mm256_set1_epi64x(kPhiloxMultiplier1);
  __m256i counter = _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_set_epi64x(3, 2, 1, 0));
  for (i64 q = 0; q < quads; q += 4, counter = _mm256_add_epi64(counter, _mm256_set1_epi64x(4))) {
    __m256i w0 = counter, w1 = _mm256_set1_epi64x(s.sample);
    __m256i w2 = _mm256_set1_epi64x(s.stream), w3 = _mm256_set1_epi64x(s.purpose);
    Word k0 = static_cast<Word>(s.seed), k1 = static_cast<Word>(s.seed >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round, k0 += kPhiloxWeyl0, k1 += kPhiloxWeyl1) {
      const __m256i p0 = _mm256_mul_epu32(m0, w0), p1 = _mm256_mul_epu32(m1, w2);
      w0 = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), keyed(w1, k0));
      w2 = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), keyed(w3, k1));
      w1 = p1;
      w3 = p0;
    }
    const __m256i even = _mm256_blend_epi32(w0, _mm256_slli_epi64(w2, 32), 0xAA);
    const __m256i odd = _mm256_blend_epi32(w1, _mm256_slli_epi64(w3, 32), 0xAA);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(radius + 2 * q), even);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(angle + 2 * q), odd);
  }
}
#endif

// ---- normals and store: scalar loops that the compiler vectorises once per instruction set

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

SYNBENCH_INLINE void cast(float value, float& out) { out = value; }
SYNBENCH_INLINE void cast(float value, double& out) { out = value; }
SYNBENCH_INLINE void cast(float value, BFloat16& out) {  // to nearest even; x is never NaN
  const Word bits = bits_of(value);
  out.bits = static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
SYNBENCH_INLINE void cast(float value, Float16& out) {  // to nearest even, overflow to infinity
  const Word bits = bits_of(value), sign = bits & 0x80000000u, magnitude = bits ^ sign;
  const Word normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;  // rebias 127 -> 15, round
  const Word subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;        // the addition rounds at 2^-24
  const Word finite = magnitude < 0x38800000u ? subnormal : normal;
  out.bits = static_cast<std::uint16_t>((magnitude >= 0x477ff000u ? 0x7c00u : finite) | sign >> 16);
}

SYNBENCH_INLINE void normals(const Word* __restrict radius, const Word* __restrict angle, i64 pairs,
                             float* __restrict z) {
  for (i64 p = 0; p < pairs; ++p) box_muller(radius[p], angle[p], z[2 * p], z[2 * p + 1]);
}

template <typename T>
SYNBENCH_INLINE void store_planar(const float* __restrict z, i64 n, Affine a, const float* __restrict pattern,
                                  T* __restrict x) {
  if (pattern == nullptr)
    for (i64 i = 0; i < n; ++i) cast(z[i] * a.gain + a.base, x[i]);
  else
    for (i64 i = 0; i < n; ++i) cast(z[i] * a.gain + (a.base + a.amplitude * pattern[i]), x[i]);
}

// y [channels, n] -> x [n, channels]
template <typename T>
SYNBENCH_INLINE void store_interleaved(const float* __restrict y, i64 n, i64 channels, T* __restrict x) {
  if (channels == 3)
    for (i64 i = 0; i < n; ++i) cast(y[i], x[3 * i]), cast(y[n + i], x[3 * i + 1]), cast(y[2 * n + i], x[3 * i + 2]);
  else
    for (i64 i = 0; i < n; ++i)
      for (i64 c = 0; c < channels; ++c) cast(y[c * n + i], x[i * channels + c]);
}

#define SYNBENCH_LEVEL(Name, TARGET, words_function)                                         \
  struct Name {                                                                              \
    static constexpr auto words = words_function;                                            \
    TARGET static void normals(const Word* radius, const Word* angle, i64 pairs, float* z) { \
      synbench::normals(radius, angle, pairs, z);                                            \
    }                                                                                        \
    template <typename T>                                                                    \
    TARGET static void planar(const float* z, i64 n, Affine a, const float* pattern, T* x) { \
      store_planar(z, n, a, pattern, x);                                                     \
    }                                                                                        \
    template <typename T>                                                                    \
    TARGET static void interleaved(const float* y, i64 n, i64 channels, T* x) {              \
      store_interleaved(y, n, channels, x);                                                  \
    }                                                                                        \
  };
SYNBENCH_LEVEL(Baseline, , words_baseline)
#ifdef SYNBENCH_X86
SYNBENCH_LEVEL(Avx2, SYNBENCH_AVX2, words_avx2)
SYNBENCH_LEVEL(Avx512, SYNBENCH_AVX512, words_avx512)
#endif
#undef SYNBENCH_LEVEL

// ---- the operation for one level and one type

struct Call {
  const MixtureSpec& spec;
  std::vector<Affine> affine[2];  // by label, then channel
  i64 start, count;
  const std::uint8_t* labels;
  void* x;
  int threads;
};

template <typename Level>
class Source {
 public:
  explicit Source(const Stream& stream) : stream_(stream) {}

  // Normals [begin, end) of the sample, end - begin <= kBlock; valid until the next call.
  const float* operator()(i64 begin, i64 end) {
    const i64 first = begin / 4, quads = (end + 3) / 4 - first;
    Level::words(stream_, static_cast<Word>(first), quads, radius_, angle_);
    Level::normals(radius_, angle_, 2 * quads, z_);
    return z_ + (begin - 4 * first);
  }

 private:
  Stream stream_;
  alignas(64) Word radius_[kBuffer / 2];
  alignas(64) Word angle_[kBuffer / 2];
  alignas(64) float z_[kBuffer];
};

template <typename Level, typename T>
void run_planar(const Call& call) {
  const MixtureSpec& spec = call.spec;
  const i64 dim = spec.channels * spec.pixels, blocks = (dim + kBlock - 1) / kBlock;
  parallel_for(call.count * blocks, 16, call.threads, [&](i64 from, i64 to) {
    for (i64 item = from; item < to; ++item) {
      const i64 i = item / blocks, begin = item % blocks * kBlock, end = std::min(begin + kBlock, dim);
      const Affine* affine = call.affine[call.labels[i]].data();
      Source<Level> source({spec.seed, static_cast<Word>(call.start + i), spec.stream, spec.purpose});
      const float* z = source(begin, end);
      T* x = static_cast<T*>(call.x) + i * dim;
      for (i64 e = begin; e < end;) {
        const i64 c = e / spec.pixels, next = std::min((c + 1) * spec.pixels, end);
        Level::template planar<T>(z + (e - begin), next - e, affine[c], spec.pattern ? spec.pattern + e : nullptr,
                                  x + e);
        e = next;
      }
    }
  });
}

template <typename Level, typename T>
void run_channels_last(const Call& call) {
  const MixtureSpec& spec = call.spec;
  const i64 channels = spec.channels, pixels = spec.pixels, dim = channels * pixels;
  const i64 tile = std::clamp<i64>(4 * kBlock / channels / 32 * 32, 32, kBlock), tiles = (pixels + tile - 1) / tile;
  parallel_for(call.count * tiles, 4, call.threads, [&](i64 from, i64 to) {
    std::vector<float> y(channels * tile);
    for (i64 item = from; item < to; ++item) {
      const i64 i = item / tiles, begin = item % tiles * tile, n = std::min(tile, pixels - begin);
      const Affine* affine = call.affine[call.labels[i]].data();
      Source<Level> source({spec.seed, static_cast<Word>(call.start + i), spec.stream, spec.purpose});
      for (i64 c = 0; c < channels; ++c) {
        const i64 e = c * pixels + begin;
        Level::template planar<float>(source(e, e + n), n, affine[c], spec.pattern ? spec.pattern + e : nullptr,
                                      y.data() + c * n);
      }
      Level::template interleaved<T>(y.data(), n, channels, static_cast<T*>(call.x) + i * dim + begin * channels);
    }
  });
}

template <typename Level>
void run(const Call& call, SampleType type) {
  const bool planar = !call.spec.channels_last || call.spec.channels == 1 || call.spec.pixels == 1;
  switch (type) {
    case SampleType::kFloat32: return planar ? run_planar<Level, float>(call) : run_channels_last<Level, float>(call);
    case SampleType::kFloat64: return planar ? run_planar<Level, double>(call) : run_channels_last<Level, double>(call);
    case SampleType::kBFloat16:
      return planar ? run_planar<Level, BFloat16>(call) : run_channels_last<Level, BFloat16>(call);
    case SampleType::kFloat16:
      return planar ? run_planar<Level, Float16>(call) : run_channels_last<Level, Float16>(call);
  }
}

template <typename Function>
void dispatch(SimdLevel level, const Function& function) {
  switch (level == SimdLevel::kAuto ? best_simd_level() : level) {
#ifdef SYNBENCH_X86
    case SimdLevel::kAvx512: return function(Avx512());
    case SimdLevel::kAvx2: return function(Avx2());
#endif
    default: return function(Baseline());
  }
}

}  // namespace

SimdLevel best_simd_level() {
#ifdef SYNBENCH_X86
  static const SimdLevel level = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) return SimdLevel::kAvx512;
    if (__builtin_cpu_supports("x86-64-v3")) return SimdLevel::kAvx2;
    return SimdLevel::kBaseline;
  }();
  return level;
#else
  return SimdLevel::kBaseline;
#endif
}

void sample_mixture(const MixtureSpec& spec, i64 start, i64 count, const std::uint8_t* labels, SampleType type, void* x,
                    int threads, SimdLevel level) {
  if (count == 0) return;  // before a table of all channels is made
  Call call{spec, {}, start, count, labels, x, threads};
  const double constant_pattern = 1.0 / std::sqrt(static_cast<double>(spec.channels * spec.pixels));
  for (int label = 0; label < 2; ++label) {
    const double signed_scale = label ? spec.scale : -spec.scale;
    const double mid = spec.center + (spec.pattern ? 0.0 : signed_scale * constant_pattern);
    for (i64 c = 0; c < spec.channels; ++c) {
      const double mean = spec.mean.empty() ? 0.0 : spec.mean[c], deviation = spec.std.empty() ? 1.0 : spec.std[c];
      call.affine[label].push_back({static_cast<float>(1.0 / deviation), static_cast<float>((mid - mean) / deviation),
                                    static_cast<float>(signed_scale / deviation)});
    }
  }
  dispatch(level, [&](auto chosen) { run<decltype(chosen)>(call, type); });
}

void sample_normals(const NormalStream& spec, i64 sample, i64 first, i64 count, float factor, float* z) {
  const Affine scaled{factor, 0.0f, 0.0f};
  dispatch(SimdLevel::kAuto, [&](auto chosen) {
    using Level = decltype(chosen);
    Source<Level> source({spec.seed, static_cast<Word>(sample), spec.stream, spec.purpose});
    for (i64 begin = first; begin < first + count; begin += kBlock) {
      const i64 end = std::min(begin + kBlock, first + count);
      Level::planar(source(begin, end), end - begin, scaled, nullptr, z + (begin - first));
    }
  });
}

void normals_of_words(const std::uint32_t* radius, const std::uint32_t* angle, i64 pairs, float* z, SimdLevel level) {
  dispatch(level, [&](auto chosen) { chosen.normals(radius, angle, pairs, z); });
}

}  // namespace synbench
