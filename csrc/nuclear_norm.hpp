// Sums of singular values (nuclear norms) of many small matrices, without the singular values.
//
//   1. Householder bidiagonalisation X = U B V' (Golub & Van Loan 5.4.8). The two rank-one updates of a step wait
//      for the next one, which does them together with its two products, row by row: one pass over the matrix.
//   2. With the pivots of B'B + t I, from B alone and without subtractions (the stationary qd algorithm: Parlett,
//      Acta Numerica 4 (1995), 459), tr B'B (B'B + t I)^-1 at any t, several t side by side.
//   3. sigma = (2 / pi) integral of sigma^2 e^u / (sigma^2 + e^(2u)) over u by the trapezoidal rule, whose error
//      falls like exp(-pi^2 / step).
//
// Squares of X are never formed, so that small singular values keep their digits. Each sum is within p(n) 2^-53 of
// itself. Work 8/3 n^3 for n x n, memory n^2 per thread.
#pragma once
#include <cstdint>

namespace synbench {

// sums [a, b] of the blocks products[a, :, b, :] of products [first, rows, second, columns], row major and finite; of
// block (a, b) only the first used_rows[a] rows and used_columns[b] columns are read, the others are zero.
// The result does not depend on the number of threads.
struct Products {
  const double* values;
  std::int64_t first, rows, second, columns;
  const std::int64_t *used_rows, *used_columns;
};

void nuclear_norm(const Products& products, int threads, double* sums);

}  // namespace synbench
