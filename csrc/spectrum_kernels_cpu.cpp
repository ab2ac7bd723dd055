#include "spectrum_kernels.hpp"

#include <algorithm>

namespace synbench::kernels {

SYNBENCH_CLONES double dot(const double* x, const double* y, std::int64_t n) {
  Lanes s0 = {}, s1 = {};
  std::int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    s0 += load(x + j) * load(y + j);
    s1 += load(x + j + kLanes) * load(y + j + kLanes);
  }
  double tail = 0;
  for (; j < n; ++j) tail += x[j] * y[j];
  return sum(s0 + s1) + tail;
}

namespace {

// y += A x over the stored (upper) halves of rows [i, i + R): each element serves its own row and its mirror.
template <int R>
SYNBENCH_INLINE void symmetric_rows(const double* a, std::int64_t ld, std::int64_t n, std::int64_t i, const double* x,
                                    double* y) {
  const double* row[R];
  double xi[R], yi[R];
  for (int r = 0; r < R; ++r) {
    row[r] = a + (i + r) * ld;
    xi[r] = x[i + r];
    yi[r] = row[r][i + r] * xi[r];
  }
  for (int r = 0; r < R; ++r)
    for (int c = r + 1; c < R; ++c) {
      yi[r] += row[r][i + c] * xi[c];
      yi[c] += row[r][i + c] * xi[r];
    }
  Lanes s[R] = {};
  std::int64_t j = i + R;
  for (; j + kLanes <= n; j += kLanes) {
    const Lanes xj = load(x + j);
    Lanes yj = load(y + j);
    for (int r = 0; r < R; ++r) {
      const Lanes arj = load(row[r] + j);
      s[r] += arj * xj;
      yj += arj * xi[r];
    }
    store(y + j, yj);
  }
  for (; j < n; ++j)
    for (int r = 0; r < R; ++r) {
      yi[r] += row[r][j] * x[j];
      y[j] += row[r][j] * xi[r];
    }
  for (int r = 0; r < R; ++r) y[i + r] += yi[r] + sum(s[r]);
}

}  // namespace

SYNBENCH_CLONES void symmetric_product_part(const double* a, std::int64_t ld, std::int64_t begin, std::int64_t n,
                                            int part, const double* x, double* y) {
  std::fill(y + begin, y + n, 0.0);
  for (std::int64_t block = begin / kRows; block * kRows < n; ++block) {
    if (block % kParts != part) continue;
    const std::int64_t first = std::max(begin, block * kRows), last = std::min(n, (block + 1) * kRows);
    if (last - first == kRows)
      symmetric_rows<kRows>(a, ld, n, first, x, y);
    else
      for (std::int64_t i = first; i < last; ++i) symmetric_rows<1>(a, ld, n, i, x, y);
  }
}

namespace {

// A -= V' W + W' V over the stored halves of rows [i, i + R); v, w are [panel][ld].
template <int R>
SYNBENCH_INLINE void update_rows(double* a, std::int64_t ld, std::int64_t n, std::int64_t i, const double* v,
                                 const double* w, int panel) {
  double vi[kPanel][R], wi[kPanel][R];
  for (int p = 0; p < panel; ++p)
    for (int r = 0; r < R; ++r) {
      vi[p][r] = v[p * ld + i + r];
      wi[p][r] = w[p * ld + i + r];
    }
  std::int64_t j = i;
  for (; j < std::min(i + R, n); ++j)
    for (int r = 0; r < R; ++r) {
      if (j < i + r) continue;
      double s = 0;
      for (int p = 0; p < panel; ++p) s += vi[p][r] * w[p * ld + j] + wi[p][r] * v[p * ld + j];
      a[(i + r) * ld + j] -= s;
    }
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    Lanes s[R][2];
    for (int r = 0; r < R; ++r) {
      s[r][0] = load(a + (i + r) * ld + j);
      s[r][1] = load(a + (i + r) * ld + j + kLanes);
    }
    for (int p = 0; p < panel; ++p) {
      const Lanes v0 = load(v + p * ld + j), v1 = load(v + p * ld + j + kLanes);
      const Lanes w0 = load(w + p * ld + j), w1 = load(w + p * ld + j + kLanes);
      for (int r = 0; r < R; ++r) {
        s[r][0] -= vi[p][r] * w0;
        s[r][1] -= vi[p][r] * w1;
        s[r][0] -= wi[p][r] * v0;
        s[r][1] -= wi[p][r] * v1;
      }
    }
    for (int r = 0; r < R; ++r) {
      store(a + (i + r) * ld + j, s[r][0]);
      store(a + (i + r) * ld + j + kLanes, s[r][1]);
    }
  }
  for (; j < n; ++j)
    for (int r = 0; r < R; ++r) {
      double s = 0;
      for (int p = 0; p < panel; ++p) s += vi[p][r] * w[p * ld + j] + wi[p][r] * v[p * ld + j];
      a[(i + r) * ld + j] -= s;
    }
}

}  // namespace

SYNBENCH_CLONES void symmetric_update_part(double* a, std::int64_t ld, std::int64_t begin, std::int64_t n, int part,
                                           const double* v, const double* w, int panel) {
  for (std::int64_t block = begin / kRows; block * kRows < n; ++block) {
    if (block % kParts != part) continue;
    const std::int64_t first = std::max(begin, block * kRows), last = std::min(n, (block + 1) * kRows);
    if (last - first == kRows)
      update_rows<kRows>(a, ld, n, first, v, w, panel);
    else
      for (std::int64_t i = first; i < last; ++i) update_rows<1>(a, ld, n, i, v, w, panel);
  }
}

SYNBENCH_CLONES void subtract_panel(double* y, const double* v, const double* w, const double* left,
                                    const double* right, int panel, std::int64_t ld, std::int64_t begin,
                                    std::int64_t n) {
  std::int64_t j = begin;
  for (; j + kLanes <= n; j += kLanes) {
    Lanes s = load(y + j);
    for (int p = 0; p < panel; ++p) {
      s -= left[p] * load(v + p * ld + j);
      s -= right[p] * load(w + p * ld + j);
    }
    store(y + j, s);
  }
  for (; j < n; ++j)
    for (int p = 0; p < panel; ++p) y[j] -= left[p] * v[p * ld + j] + right[p] * w[p * ld + j];
}

SYNBENCH_CLONES void sum_parts(const double* parts, double* y, std::int64_t ld, std::int64_t begin, std::int64_t n) {
  std::int64_t j = begin;
  for (; j + kLanes <= n; j += kLanes) {
    Lanes s = load(parts + j);
    for (int p = 1; p < kParts; ++p) s += load(parts + p * ld + j);
    store(y + j, s);
  }
  for (; j < n; ++j) {
    double s = parts[j];
    for (int p = 1; p < kParts; ++p) s += parts[p * ld + j];
    y[j] = s;
  }
}

SYNBENCH_CLONES void reflect_rows(double* x, const double* v, double tau, std::int64_t n) {
  Lanes s0 = load(x), s1 = {};
  std::int64_t i = 1;
  for (; i + 1 < n; i += 2) {
    s0 += v[i] * load(x + i * kLanes);
    s1 += v[i + 1] * load(x + (i + 1) * kLanes);
  }
  if (i < n) s0 += v[i] * load(x + i * kLanes);
  const Lanes s = tau * (s0 + s1);
  store(x, load(x) - s);
  for (i = 1; i < n; ++i) store(x + i * kLanes, load(x + i * kLanes) - v[i] * s);
}

SYNBENCH_CLONES void rotate_rows(double* x, const double* rotations, std::int64_t begin, std::int64_t end) {
  // The sweep ran i = end-1 .. begin; its transpose runs the other way.
  Lanes low = load(x + begin * kLanes);
  for (std::int64_t i = begin; i < end; ++i) {
    const double c = rotations[2 * (end - 1 - i)], s = rotations[2 * (end - 1 - i) + 1];
    const Lanes high = load(x + (i + 1) * kLanes);
    store(x + i * kLanes, c * low + s * high);
    low = c * high - s * low;
  }
  store(x + end * kLanes, low);
}

}  // namespace synbench::kernels
