// The arithmetic of one step of a discrete Fourier transform (Stockham, decimation in frequency), for numbers and for
// vectors of numbers T: the same operations in the same order on a CPU and on a GPU.
//
//   y_k = w^k sum_j exp(-2 pi i j k / radix) x_j,   k and j from 0 to radix - 1
#pragma once
#include "host_device.hpp"

namespace synbench {

template <class T>
struct Complex {
  T re, im;
};

// x (wr + i wi)
template <class T>
SYNBENCH_HD Complex<T> times(const Complex<T>& x, float wr, float wi) {
  return {x.re * wr - x.im * wi, x.re * wi + x.im * wr};
}

template <class T>
SYNBENCH_HD Complex<T> operator+(const Complex<T>& a, const Complex<T>& b) {
  return {a.re + b.re, a.im + b.im};
}

template <class T>
SYNBENCH_HD Complex<T> operator-(const Complex<T>& a, const Complex<T>& b) {
  return {a.re - b.re, a.im - b.im};
}

// wr, wi: [2] powers of w.
template <class T>
SYNBENCH_HD void butterfly2(const Complex<T>& a, const Complex<T>& b, const float* wr, const float* wi, Complex<T>& c,
                            Complex<T>& d) {
  c = a + b;
  d = times(a - b, wr[1], wi[1]);
}

// wr, wi: [4] powers of w.
template <class T>
SYNBENCH_HD void butterfly4(const Complex<T>* x, const float* wr, const float* wi, Complex<T>* y) {
  const Complex<T> s = x[0] + x[2], t = x[0] - x[2], u = x[1] + x[3], z = x[1] - x[3];
  y[0] = s + u;
  y[1] = times(Complex<T>{t.re + z.im, t.im - z.re}, wr[1], wi[1]);
  y[2] = times(s - u, wr[2], wi[2]);
  y[3] = times(Complex<T>{t.re - z.im, t.im + z.re}, wr[3], wi[3]);
}

}  // namespace synbench
