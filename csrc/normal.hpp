// Two standard normals from two 32-bit words by the transform of Box and Muller (Ann. Math. Stat. 29, 1958):
//
//   r = sqrt(-2 ln u),  u = (radius + 1/2) / 2^32      z0 = r cos(2 pi angle / 2^32)
//                                                      z1 = r sin(2 pi angle / 2^32)
//
// u lies strictly between 0 and 1 and is symmetric, so r is never 0 and |z| <= sqrt(66 ln 2) = 6.764. All
// reductions act on the integers and are exact; what remains are three short polynomials in single precision
// and one square root. Measured over 10^9 pairs against the formula in double precision, the error is at most
// 2.6e-7 r (two to three units in the last place of r) and 1.2e-6 in all. There is no branch, no table and no
// fused multiply-add: with -ffp-contract=off every instruction set gives the same bits, and so does the Triton kernel.
#pragma once
#include "philox.hpp"

namespace synbench {

SYNBENCH_INLINE Word bits_of(float value) { return __builtin_bit_cast(Word, value); }
SYNBENCH_INLINE float float_of(Word bits) { return __builtin_bit_cast(float, bits); }

// -2 ln((word + 1/2) / 2^32). Read as signed, the word is the exact distance to whichever of 0 and 2^32 is
// nearer, so that u close to 1 loses nothing either:
//   word >= 2^31:  u = 1 + f, f = x / 2^32 in (-1/2, 0)
//   word <  2^31:  u = 2^k (1 + f), f in [-1/2, 0), k in -32 .. 0
// The polynomial is the minimax fit of -2 ln(1 + f) / f on [-1/2, 0], relative error 1.5e-7, which matters
// least where r is large; it is summed as a tree because a chain would be waited for.
SYNBENCH_INLINE float minus_two_log_uniform(Word word) {
  const int distance = static_cast<int>(word);
  const float x = static_cast<float>(distance) + 0.5f;
  const Word bits = bits_of(x);
  const float k = static_cast<float>(static_cast<int>(bits >> 23) - 158);
  const float mantissa = float_of((bits & 0x007fffffu) | 0x3f000000u);
  const bool near_one = distance < 0;
  const float f = near_one ? x * 0x1p-32f : mantissa - 1.0f;
  const float octaves = near_one ? 0.0f : k * -1.38629436f;  // -2 ln 2
  const float f2 = f * f, f4 = f2 * f2;
  const float low = (1.00006878f * f - 1.99999976f) + (0.543604851f * f - 0.663818896f) * f2;
  const float high = (1.55932379f * f - 0.0804322213f) + (2.36162925f * f + 2.14766622f) * f2;
  return (low + high * f4) * f + octaves;
}

// The angle is its nearest quarter turn plus h quarter turns, h in [-1/2, 1/2): the upper two bits of
// angle + 2^29 and the lower thirty of the angle, read as signed. Minimax fits of sin(h pi/2) / h and
// cos(h pi/2) in h^2; errors 2.9e-8 relative and 4e-10 absolute, rounding apart.
SYNBENCH_INLINE void box_muller(Word radius, Word angle, float& z0, float& z1) {
  const float r = __builtin_sqrtf(minus_two_log_uniform(radius));
  const float h = static_cast<float>(static_cast<int>(angle << 2)) * 0x1p-32f;
  const float y = h * h;
  const float sine = r * (h * (((-0.00468597189f * y + 0.079712525f) * y - 0.645966649f) * y + 1.57079637f));
  const float cosine = r * ((((0.000893573218f * y - 0.0208552536f) * y + 0.253668517f) * y - 1.23370051f) * y + 1.0f);

  const Word turned = angle + 0x20000000u;
  const bool odd = (turned & 0x40000000u) != 0;
  const Word cosine_sign = (turned + 0x40000000u) & 0x80000000u;
  const Word sine_sign = turned & 0x80000000u;
  z0 = float_of(bits_of(odd ? sine : cosine) ^ cosine_sign);
  z1 = float_of(bits_of(odd ? cosine : sine) ^ sine_sign);
}

}  // namespace synbench
