// The spectrum of a covariance as seen from one vector, without eigenvectors and almost without eigenvalues.
//
// Everything that robust_solve needs of C = U diag(d) U' and a = U'm are sums of a^2/(d + g) and d/(d + g) over the
// kept eigenvalues, derivatives of them in g, and vectors w = sum u a/(d + g). All are rational functions of a
// tridiagonal matrix:
//
//   1. Householder reduction of [[0, m'], [m, C]]: the first reflector maps m to beta e1, so T = Q' C Q is
//      tridiagonal with Q'm = beta e1. Blocked, on the upper triangle only (LAPACK's dsytrd, Golub & Van
//      Loan 8.3); rows are owned by threads, so that a thread's part of C stays in its cache.
//   2. Sturm counts tell how many eigenvalues are at or below the cut. Usually none; otherwise implicit QL
//      with the unwanted eigenvalue as shift splits them off one by one (Golub & Van Loan 8.3.5), its
//      rotations kept.
//   3. The sums of tridiagonal.hpp; w = Q (rotations ((T + g I)^-1 z)).
//
// An eigensolver would take half of the whole time for eigenvalues nobody asks for, and as long again for its
// vectors. Units: the largest eigenvalue is 1, so the scale of C does not matter.
//
// Limits: backward stable like LAPACK: each sum is that of a matrix within p(n) 2^-53 of C. Work 4/3 n^3 once,
// O(n) per sum, 4 n^2 per vector; memory n^2. The result does not depend on the number of threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "tridiagonal.hpp"

namespace synbench {

class Spectrum {
 public:
  // covariance: row major, only j >= i is read.
  // cut: eigenvalues at or below it are dropped; in units of the largest one if `relative`.
  Spectrum(const double* covariance, const double* m, std::int64_t n, double cut, bool relative, int threads);

  // False if an input is NaN or infinite, or so far from the diagonal's size that it overflows; then nothing else counts.
  bool finite() const { return finite_; }
  // False if implicit QL did not converge (not seen on finite input).
  bool converged() const { return converged_; }
  double unit() const { return unit_; }            // largest eigenvalue, in the units of C; 0 for C = 0
  double threshold() const { return threshold_; }  // of dropping, in the units of C
  // Over kept eigenvalues, in units of the largest.
  double smallest() const { return smallest_; }
  const SpectralMoments& moments() const { return moments_; }

  SpectralSums sums(double g, bool traces) const;

  // vectors [count, n] <- w at the ridges g [count], in the units of C and m.
  void weights(const double* g, std::int64_t count, double* vectors, int threads) const;

 private:
  // Rotations of one QL sweep: rows (i, i + 1), i = last-1 .. first.
  struct Sweep {
    Index first, last;
    std::size_t begin;
  };
  struct Rotations {
    std::vector<Sweep> sweeps;
    std::vector<double> values;  // (cosine, sine) pairs
    void sweep(Index first, Index last) { sweeps.push_back({first, last, values.size()}); }
    void rotation(double c, double s) { values.insert(values.end(), {c, s}); }
  };

  void tridiagonalise(const double* covariance, const double* m, int threads);
  Tridiagonal matrix() const;
  double eigenvalue(Index k, Index begin, Index end) const;  // k-th smallest (from 0) of rows begin .. end - 1
  bool drop();

  std::int64_t n_;
  bool finite_ = true;
  bool converged_ = true;
  double unit_ = 0, length_unit_ = 1, threshold_ = 0;
  double edge_ = 0;  // of dropping, in units of the largest eigenvalue
  double smallest_ = 0;
  SpectralMoments moments_ = {};
  std::unique_ptr<double[]> matrix_;       // [n+1, n+1]; row k holds reflector k in columns k+1 ..
  std::vector<double> tau_;                // [n]
  mutable std::vector<double> d_, e_, z_;  // T, and m in its basis
  Rotations rotations_;
};

}  // namespace synbench
