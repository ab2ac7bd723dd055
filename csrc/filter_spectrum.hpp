// Coloured noise: white normals filtered over their spatial axes, x = F^-1 (gain F x) for each sample and channel.
//
// F is the discrete Fourier transform over the spatial axes and gain a real array with gain[-f] = gain[f], so
// that a real x stays real. A sample is filtered by itself, with the same operations in the same order whatever
// else is in the batch: its bits depend neither on the batch nor on the number of threads. Mixed radices with
// twiddles rounded from double: relative to the largest element the error is about 1e-7 times the number of
// stages; a prime factor p of an axis costs p operations per element.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace synbench {

// x [count, channels, shape...] in place; gain [shape...]. Needs 2 * product(shape) floats per thread, or those of a few
// samples where the axes are short, and 32 for each element of the longest axis, or 4 if it is the only one.
void filter_spectrum(float* x, std::int64_t count, std::int64_t channels, const std::vector<std::int64_t>& shape,
                     const float* gain, int threads);

// The inverse transform x(place) = sum_f y(f) exp(2 pi i f place), without a factor 1 / size.
class InverseFourier {
 public:
  explicit InverseFourier(const std::vector<std::int64_t>& shape);
  ~InverseFourier();
  // Complex signals [signals, shape...] in two planes, in place. Any number of threads may use one transform.
  void operator()(float* re, float* im, std::int64_t signals) const;

 private:
  struct Tables;
  std::unique_ptr<Tables> tables_;
};

}  // namespace synbench
