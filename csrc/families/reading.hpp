// The arithmetic of `view`: one reading of a periodic scene of 8-bit colours.
#pragma once
#include "host_device.hpp"

namespace synbench {

// The largest integer not above x, |x| < 2^31; without an instruction that the oldest set lacks.
SYNBENCH_HD int floor_of(float x) {
  const int truncated = static_cast<int>(x);
  return truncated - (x < static_cast<float>(truncated) ? 1 : 0);
}

SYNBENCH_HD float colour_of(unsigned int texel, int shift) {
  return static_cast<float>(static_cast<int>(texel >> shift & 255u));
}

// Of the texels left and right of a place, above it and below it; s and t are its distances from the left and the top.
SYNBENCH_HD float bilinear(const float (&colour)[4], float s, float t) {
  const float upper = colour[0] * (1.0f - s) + colour[1] * s, lower = colour[2] * (1.0f - s) + colour[3] * s;
  return upper * (1.0f - t) + lower * t;
}

// k: [4], the colours' factors and the constant.
SYNBENCH_HD float recoloured(const float* k, float red, float green, float blue) {
  return ((k[3] + k[0] * red) + k[1] * green) + k[2] * blue;
}

}  // namespace synbench
