// The spectrum of a covariance as seen from one vector, without eigenvectors and almost without eigenvalues.
//
// Everything that robust_solve needs of C = U diag(d) U' and a = U'm are sums over the kept eigenvalues,
//
//   s_n = (-1)^n sum a^2/(d + g)^(n+1),   e_n = (-1)^n sum d/(d + g)^(n+1),   n = 0 .. 3,
//
// and vectors w = sum over kept of u a/(d + g). Both are rational functions of a tridiagonal matrix:
//
//   1. Householder reduction of [[0, m'], [m, C]]: the first reflector maps m to beta e1, so T = Q' C Q is
//      tridiagonal with Q'm = beta e1. Blocked, on the upper triangle only (LAPACK's dsytrd, Golub & Van
//      Loan 8.3); rows are owned by threads, so that a thread's part of C stays in its cache.
//   2. Sturm counts tell how many eigenvalues are at or below the cut. Usually none; otherwise implicit QL
//      with the unwanted eigenvalue as shift splits them off one by one (Golub & Van Loan 8.3.5), its
//      rotations kept.
//   3. s_n from two tridiagonal solves, e_n from the Taylor coefficients of the pivots of T + g I, because
//      tr (T + g I)^-1 is the derivative of the sum of their logarithms; w = Q (rotations ((T + g I)^-1 z)).
//
// An eigensolver would take half of the whole time for eigenvalues nobody asks for, and as long again for its
// vectors. Units: the largest eigenvalue is 1, so the scale of C does not matter.
//
// Limits: backward stable like LAPACK: each sum is that of a matrix within p(n) 2^-53 of C. Work 4/3 n^3 once,
// O(n) per sum, 4 n^2 per vector; memory n^2. The result does not depend on the number of threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "robust_solve.hpp"

namespace synbench {

class Spectrum {
 public:
  // covariance: row major, only j >= i is read; both inputs are finite (checked by the caller).
  // cut: eigenvalues at or below it are dropped; in units of the largest one if `relative`.
  Spectrum(const double* covariance, const double* m, std::int64_t n, double cut, bool relative, int threads);

  // False if implicit QL did not converge (not seen on finite input).
  bool converged() const { return converged_; }
  double unit() const { return unit_; }            // largest eigenvalue, in the units of C; 0 for C = 0
  double threshold() const { return threshold_; }  // of dropping, in the units of C
  std::int64_t rank() const { return rank_; }      // eigenvalues kept
  // Over kept eigenvalues, in units of the largest: smallest d, sum a^2, sum d, sum d^2, sum a^2 d.
  double smallest() const { return smallest_; }
  double a2() const { return a2_; }
  double trace() const { return trace_; }
  double trace_square() const { return trace_square_; }
  double a2d() const { return a2d_; }

  SpectralSums sums(double g, bool traces) const;

  // vectors [count, n] <- w at the ridges g [count], in the units of C and m.
  void weights(const double* g, std::int64_t count, double* vectors, int threads) const;

 private:
  struct Sweep { std::int64_t begin, end; std::size_t first; };  // rotations of rows (i, i + 1), i = end-1 .. begin
  struct Isolated { std::int64_t row; double d, z; };            // an eigenvalue that QL split off and that is kept

  void tridiagonalise(const double* covariance, const double* m, int threads);
  std::int64_t count_below(double x, std::int64_t begin) const;
  double eigenvalue(std::int64_t k, std::int64_t begin) const;  // k-th smallest (from 0) of rows begin ..
  void drop(double cut);
  bool split_first(double shift);
  void solve(double g, const double* right, double* y) const;

  std::int64_t n_;
  std::int64_t begin_ = 0;  // T from here on holds kept eigenvalues only
  std::int64_t rank_ = 0;
  bool converged_ = true;
  double unit_ = 0, length_unit_ = 1, threshold_ = 0;
  double smallest_ = 0, a2_ = 0, trace_ = 0, trace_square_ = 0, a2d_ = 0;
  std::vector<double> matrix_;  // [n+1, n+1]; row k holds reflector k in columns k+1 ..
  std::vector<double> tau_;     // [n]
  std::vector<double> d_, e_;   // diagonal and off-diagonal of T
  std::vector<double> z_;       // m in the basis of T
  std::vector<Isolated> isolated_;
  std::vector<Sweep> sweeps_;
  std::vector<double> rotations_;  // (cosine, sine) pairs
};

}  // namespace synbench
