// The renderers of the task families: what synbench_fast/tasks/families/specification.py computes, image by image.
//
// Every image is made by one thread, with the same operations in the same order whatever else is in the batch, so its
// bits depend neither on the batch, nor on the number of threads or the instruction set. Images are [channels, height,
// width] float32; lengths are in elements. threads <= 0: the machine's.
#pragma once
#include <cstdint>

#include "families/stroke.hpp"
#include "sample_mixture.hpp"

namespace synbench {

// words[i, 4 q + k] is word k of the Philox block with counter (first + q, start + i, stream, purpose).
void random_words(std::uint64_t seed, std::uint32_t stream, std::uint32_t purpose, std::int64_t start,
                  std::int64_t count, std::int64_t first, std::int64_t quads, std::uint32_t* words);

struct ImageShape {
  std::int64_t channels, height, width;  // height 1 for waveforms
  std::int64_t pixels() const { return height * width; }
  std::int64_t size() const { return channels * height * width; }
};

// White noise under a picture: deviation times the normals of sample start + i of `sample_mixture`.
struct WhiteNoise {
  NormalStream normals;
  std::int64_t start;
  float deviation;
};

struct FieldsSpec {
  ImageShape shape;
  std::uint64_t seed;
  std::uint32_t stream, purpose;
  const float* gain;  // [channels, height, width], even in the frequency
  const float* mix;   // [channels, channels]
  float center;
};

// x[i, c] = center + sum_d mix[c, d] u_d, stationary noise u_d of spectrum gain_d^2; writes x.
void render_fields(const FieldsSpec& spec, std::int64_t start, std::int64_t count, int threads, float* x);

// x[i] += contrast[i] picture, moved by places[i] (rows, columns) on the torus, 0 <= place < axis.
void render_roll(const ImageShape& shape, std::int64_t count, const float* picture, const std::int64_t* places,
                 const float* contrast, int threads, float* x);

// x[i, c] += colours[i, c, 3] + sum_d colours[i, c, d] p_d, p the bilinear reading of the periodic scene [side, side, 4]
// at (m0 + m1 column + m2 row, m3 + m4 column + m5 row), m = maps[i]. side: a power of two; places within 2^20. x[i] is the
// noise before, if there is one (else null).
void render_view(const ImageShape& shape, std::int64_t count, const std::uint8_t* scene, std::int64_t side,
                 const float* maps, const float* colours, const WhiteNoise* noise, int threads, float* x);

struct Paint {
  ImageShape shape;
  std::int64_t strokes;   // of each image
  const float* ground;    // [count, channels]
  const float* geometry;  // [count, strokes, kStrokeNumbers], all finite
  const float* colours;   // [count, strokes, 2, channels]
  const float* outlines;  // [count, strokes, 2 kHarmonics]
};

// x[i] += a picture: the ground, then the strokes one over the other. x[i] is the noise before, if there is one (else null).
void render_paint(const Paint& paint, std::int64_t count, const WhiteNoise* noise, int threads, float* x);

// Writes the noise of the rows [first, last) of image i to x [count, channels, height, width].
void lay_noise(const WhiteNoise& noise, const ImageShape& shape, std::int64_t i, std::int64_t first, std::int64_t last,
               float* x);

}  // namespace synbench
