// The arithmetic of `paint`: which elements a stroke may cover, how much of one it covers, and with which filling.
#pragma once
#include "host_device.hpp"

namespace synbench {

constexpr int kStrokeNumbers = 11;  // kind, cx, cy, ux, uy, a, b, fx, fy, ex, ey
constexpr int kHarmonics = 6;       // orders 2 to 7
constexpr float kMargin = 1.5f;     // of the soft edge, beyond what a stroke covers

enum class Kind { kEllipse, kRectangle, kOutline };

struct Stroke {
  float kind, cx, cy, ux, uy, a, b, fx, fy, ex, ey;
};
static_assert(sizeof(Stroke) == kStrokeNumbers * sizeof(float), "as `paint` reads them");

SYNBENCH_HD float clamp01(float x) {
  const float above = x > 0.0f ? x : 0.0f;
  return above < 1.0f ? above : 1.0f;
}

SYNBENCH_HD float abs_of(float x) { return x < 0.0f ? -x : x; }

// r(t) / a at the direction (cosine, sine).
SYNBENCH_HD float radius_at(const float* outline, float cosine, float sine) {
  float re = cosine * cosine - sine * sine, im = 2.0f * cosine * sine, sum = 1.0f;
  for (int k = 0; k < kHarmonics; ++k) {
    sum = sum + (outline[k] * re + outline[kHarmonics + k] * im);
    const float next = re * cosine - im * sine;
    im = re * sine + im * cosine;
    re = next;
  }
  return sum;
}

// How far (dx, dy) from the centre lies inside of the edge; along and across: the place on the stroke's own axes.
template <Kind kKind>
SYNBENCH_HD float inside_of(const Stroke& s, const float* outline, float along, float across) {
  if constexpr (kKind == Kind::kEllipse) {
    const float f = along * (1.0f / s.a), g = across * (1.0f / s.b);
    return (1.0f - sqrtf(f * f + g * g)) * (s.a < s.b ? s.a : s.b);
  } else if constexpr (kKind == Kind::kRectangle) {
    const float beside = s.a - abs_of(along), above = s.b - abs_of(across);
    return beside < above ? beside : above;
  } else {
    const float radius = sqrtf(along * along + across * across + 1e-12f);
    return s.a * radius_at(outline, along / radius, across / radius) - radius;
  }
}

// 0 where the colour is the stroke's first, 1 where it is the second.
SYNBENCH_HD float filling_of(const Stroke& s, float along, float across) {
  const float phase = abs_of(along * s.fx + across * s.fy), part = phase - static_cast<float>(static_cast<int>(phase));
  return clamp01(2.0f * abs_of(2.0f * part - 1.0f) - 0.5f);
}

struct Span {
  Index first, last;  // [first, last)
};

SYNBENCH_HD Index clamped(float value, Index size) {
  return value <= 0.0f ? 0 : value >= static_cast<float>(size) ? size : static_cast<Index>(value);
}

// Elements of an axis that a stroke may cover.
SYNBENCH_HD Span span_of(float centre, float half, Index size) {
  return {clamped(floorf(centre - half - kMargin), size), clamped(ceilf(centre + half + kMargin), size)};
}

}  // namespace synbench
