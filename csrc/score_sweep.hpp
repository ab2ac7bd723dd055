// score_sweep: how E linear classifiers do on N labelled feature vectors, in one pass over the features.
//
//   u[i, e] = (x_i - center)' w_e - offset                     margin; the N x E matrix is never stored
//   correct[e]        = #{ y_i = 1 : u > 0 } + #{ y_i = 0 : u <= 0 }
//   robust_correct[e] = the same with the margin reduced by robust_margin[e] = r |w_e|
//                       (correct under every l2 perturbation of the features of norm <= r)
//   bound             = |u| / signal[e], signal = m'w: the distance to the decision boundary in units of the
//                       distance of the class midpoint from a class mean; summed over the correct samples
//   group_mean_sum, groups: consecutive runs of `group` samples each give the mean bound of their correct
//                       samples; groups without a correct sample are left out
//   margin_sum, margin_square_sum [2, E]: sums of u and u^2 per class
//
// Source: the SynBench paper's accuracy and scaled bound; docs/method.md, section 5.
//
// Shapes: x [n, features] float or double, y [n] 0/1, weights [budgets, features], center [features]; row major.
// Limits: margins are accumulated in double from (x - center), so features with a mean of 1e3 deviations lose
// nothing; results do not depend on the number of threads or the instruction set (fixed order, no fused
// multiply-add). signal[e] = 0 (no classifier) counts bounds as 0.
#pragma once
#include "host_device.hpp"

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace synbench {

// What consecutive samples of one group add to the totals of one classifier.
struct SweepPartial {
  Index correct = 0, robust_correct = 0;
  double bound_sum = 0, bound_square_sum = 0;
  double margin_sum[2] = {0, 0}, margin_square_sum[2] = {0, 0};
};

SYNBENCH_HD void add_margin(SweepPartial& partial, double margin, bool label, double signal, double robust_margin) {
  for (int k = 0; k < 2; ++k) {  // constant indices keep the sums in registers
    partial.margin_sum[k] += label == k ? margin : 0.0;
    partial.margin_square_sum[k] += label == k ? margin * margin : 0.0;
  }
  if (label ? !(margin > 0.0) : !(margin <= 0.0)) return;
  const double bound = signal == 0.0 ? 0.0 : fabs(margin) / signal;
  ++partial.correct;
  partial.robust_correct += label ? margin > robust_margin : -margin >= robust_margin;
  partial.bound_sum += bound;
  partial.bound_square_sum += bound * bound;
}

SYNBENCH_HD void add_partial(SweepPartial& sum, const SweepPartial& part) {
  sum.correct += part.correct;
  sum.robust_correct += part.robust_correct;
  sum.bound_sum += part.bound_sum;
  sum.bound_square_sum += part.bound_square_sum;
  for (int k = 0; k < 2; ++k) {
    sum.margin_sum[k] += part.margin_sum[k];
    sum.margin_square_sum[k] += part.margin_square_sum[k];
  }
}

#ifndef __CUDACC_RTC__

struct SweepTotals {
  std::int64_t* correct;         // [E]
  std::int64_t* robust_correct;  // [E]
  std::int64_t* groups;          // [E] groups with a correct sample
  double* group_mean_sum;        // [E]
  double* bound_sum;             // [E]
  double* bound_square_sum;      // [E]
  double* margin_sum;            // [2, E]
  double* margin_square_sum;     // [2, E]
};

template <typename Feature>
void score_sweep(const Feature* x, const std::uint8_t* y, std::int64_t n, std::int64_t features, const double* weights,
                 const double* center, std::int64_t budgets, const double* signal, const double* robust_margin,
                 double offset, std::int64_t group, int threads, const SweepTotals& totals);

#endif

}  // namespace synbench
