// Spectrum of a covariance as seen from one vector.
//
// For symmetric C [n, n] and m [n] it finds d, a with C = U diag(d) U' and a = U' m, and applies U to a few
// vectors, without ever forming U. Everything that robust_solve needs is a function of (d, a); forming U is
// two thirds of the work of a symmetric eigensolver, and its memory is a second n x n matrix.
//
//   1. Householder reduction of [[0, m'], [m, C]]: the first reflector maps m to beta e1, so T = Q' C Q is
//      tridiagonal with Q e1 = m / beta. Blocked, on the upper triangle only (LAPACK's dsytrd, Golub & Van
//      Loan 8.3); rows are owned by threads, so that a thread's part of C stays in its cache.
//   2. Implicit QL on T, rotations kept; the first row of its eigenvector matrix gives a (Golub & Welsch 1969).
//   3. U c = Q (rotations c), n^2 operations per vector.
//
// Limits: backward stable like LAPACK (|error of d| <= p(n) 2^-53 max d). Work 4/3 n^3 + O(n^2); memory
// n^2 + about n^2 doubles for the rotations. The result does not depend on the number of threads.
#pragma once
#include <cstdint>
#include <vector>

namespace synbench {

class Spectrum {
 public:
  // covariance: row major, only j >= i is read; both inputs are finite (checked by the caller).
  Spectrum(const double* covariance, const double* m, std::int64_t n, int threads);

  // False if implicit QL did not converge (not seen on finite input).
  bool converged() const { return converged_; }
  const std::vector<double>& eigenvalues() const { return d_; }   // [n], unordered
  const std::vector<double>& coordinates() const { return a_; }   // [n], a = U' m

  // vectors [count, n] <- U coefficients, coefficients [n, count] row major.
  void apply(const double* coefficients, double* vectors, std::int64_t count, int threads) const;

 private:
  struct Sweep { std::int64_t begin, end; std::size_t first; };  // rotations of rows (i, i + 1), i = end-1 .. begin
  void tridiagonalise(const double* covariance, const double* m, int threads);
  void diagonalise();

  std::int64_t n_;
  bool converged_ = false;
  double unit_ = 1.0, length_unit_ = 1.0;
  std::vector<double> matrix_;     // [n+1, n+1]; row k holds reflector k in columns k+1 ..
  std::vector<double> tau_;        // [n]
  std::vector<double> d_, e_, a_;  // diagonal, off-diagonal of T, coordinates
  std::vector<Sweep> sweeps_;
  std::vector<double> rotations_;  // (cosine, sine) pairs
};

}  // namespace synbench
