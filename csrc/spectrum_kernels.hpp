// Vector kernels of the spectrum: symmetric products and updates on stored upper halves, reflections, rotations.
//
// Matrices are row major with leading dimension ld; only columns j >= i of row i are stored. Row blocks of kRows are
// dealt out to kParts parts by their number counted from row 0, so that a part keeps its rows from call to call and
// the sum over parts does not depend on how many threads share them.
#pragma once
#include <cstdint>

#include "simd.hpp"

namespace synbench::kernels {

constexpr int kRows = 4;   // rows handled together
constexpr int kPanel = 8;  // columns between two updates of the trailing matrix
constexpr int kParts = 8;  // partial sums of a product, whatever the number of threads

double dot(const double* x, const double* y, std::int64_t n);

// y [begin, n) <- the part's share of A x, rows and columns begin .. n - 1 of A.
void symmetric_product_part(const double* a, std::int64_t ld, std::int64_t begin, std::int64_t n, int part,
                            const double* x, double* y);

// A -= V'W + W'V on the part's rows begin .. n - 1; v, w [panel, ld].
void symmetric_update_part(double* a, std::int64_t ld, std::int64_t begin, std::int64_t n, int part, const double* v,
                           const double* w, int panel);

// y[j] -= sum_p (left[p] v[p][j] + right[p] w[p][j]), begin <= j < n.
void subtract_panel(double* y, const double* v, const double* w, const double* left, const double* right, int panel,
                    std::int64_t ld, std::int64_t begin, std::int64_t n);

// y [begin, n) <- sum of the kParts rows of parts [kParts, ld].
void sum_parts(const double* parts, double* y, std::int64_t ld, std::int64_t begin, std::int64_t n);

// x <- (I - tau v v') x for kLanes columns: x [n, kLanes], v [n] with v[0] = 1 implied.
void reflect_rows(double* x, const double* v, double tau, std::int64_t n);

// x <- G x for kLanes columns, G the product of the rotations of one QL sweep over rows begin .. end.
void rotate_rows(double* x, const double* rotations, std::int64_t begin, std::int64_t end);

}  // namespace synbench::kernels
