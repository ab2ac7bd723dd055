"""Accuracy, robust accuracy and bound counted from the margins of samples that the classifiers have not seen.

The classifier fitted to N samples is worse than that of the population. What it gets right of samples that were left
out is counted; what the population's would get right beyond that is taken from Gaussian margins: with t_loo the
signal-to-noise ratio of the margins left out,

    accuracy = count + r (Phi(t') - Phi(t_loo)),     1/t_loo^2 = (1 + c0 df2 / v') / ((1 - df2/nu) t'^2),

where v' = t_rob'^2 is the variance of the margin in the units of w, df2 the degrees of freedom of the noise of w. The
second equation says what the noise of m (c0 df2 / v') and of the covariance (df2/nu) does to t; it holds for Gaussian
features, and is solved for t'. Noise of the classifier decides only the samples near the boundary, so that r is the
number of samples there over that of Gaussian margins. A difference of two Gaussian accuracies needs margins that are
Gaussian far less than an accuracy does: it is 0 for any margins as N grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from synbench_fast.ops.feature_stats import FeatureStats
from synbench_fast.ops.leave_one_out import LeaveOneOut
from synbench_fast.ops.robust_solve import RobustSolution
from synbench_fast.stats import gaussian

__all__ = [
    "GROUP",
    "Counts",
    "Margins",
    "counts",
    "deviation_error",
    "grouped",
    "margins",
    "t_influence",
    "unseen",
]

FAR = 1e6  # deviations; no margin is as large
ROUNDING = 1e-9  # deviations; a margin as small as that is 0
TIE = 0.1  # of what leaving a sample out did to its margin; what is left is on neither side
GROUP = 16  # consecutive samples whose influences are kept as one sum


@dataclass(frozen=True)
class Margins:
    """Margins [N, E] of left-out samples in units of their pooled within-class deviation, positive on the right side.

    unit: [N, E] the margins. centred: [N, E] less the mean of their class. t: [E] t_loo, the mean of the class means.
    side: [N, 1] +-1, the class. per_class: [N, 1] 1/(2 N_k), what a sample adds to the mean of the class means.
    share: [N, 1] prior/N_1 or (1 - prior)/N_0, what a sample adds to a mean over the classes as likely as the prior says.
    """

    unit: Tensor
    centred: Tensor
    t: Tensor
    deviation: Tensor
    side: Tensor
    per_class: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.unit)


def margins(margin: Tensor, y: Tensor, prior: float = 0.5) -> Margins:
    """Of margins [N, E] with the sign of the class, labels [N] and the probability of class 1."""
    margin = margin.cpu()
    one = (y.cpu() != 0)[:, None]
    ones = int(one.sum())
    zeros = len(one) - ones
    mean_1 = torch.where(one, margin, 0.0).sum(0) / ones
    mean_0 = torch.where(one, 0.0, margin).sum(0) / zeros
    centred = margin - torch.where(one, mean_1, mean_0)
    deviation = centred.square().mean(0).sqrt()
    safe = torch.where(deviation > 0, deviation, 1.0)
    return Margins(
        unit=margin / safe,
        centred=centred / safe,
        t=(mean_1 + mean_0) / 2 / safe,
        deviation=safe,
        side=torch.where(one, 1.0, -1.0).double(),
        per_class=torch.where(one, 0.5 / ones, 0.5 / zeros).double(),
        share=one * margin.new_tensor(prior / ones) + ~one * margin.new_tensor((1 - prior) / zeros),
    )


def unseen(left_out: LeaveOneOut) -> Tensor:
    """Margins [N, E] of left-out samples, none larger than margins of others can be.

    A sample that alone makes up a direction has leverage 1, and its margin without itself is 0/0: of any size, on the
    right or on the wrong side. It counts on its side, and must not decide the moments of all: no margin exceeds the
    mean by more than 8 deviations of the fitted ones, as leaving out widens them on average.

    A sample of a code that as many others of either class have is on no side. Without it its class has one sample less, and
    that alone would decide for it: its margin is 0, which counts half.
    """
    fitted = left_out.fitted
    room = (1 - left_out.leverage.mean(0)).clamp_min(0.05)
    most = fitted.mean(0).abs() + 8 * fitted.std(0) / room
    tie = left_out.margin.abs() < TIE * (fitted - left_out.margin).abs()
    margin = torch.where(tie, 0.0, left_out.margin)
    return torch.maximum(torch.minimum(margin, most), -most)


def t_influence(found: Margins, t: Tensor) -> Tensor:
    """[N, E] influence of each sample on a t [E] of these margins; its square sums up to the variance at fixed w."""
    z = found.centred
    return z * found.per_class - t * (z.square() - 1) / (2 * len(found))


def deviation_error(found: Margins) -> Tensor:
    """[E] relative standard error of the deviation of these margins: (mean z^4 - 1)^(1/2) / (2 N^(1/2)).

    It is (2 N)^(-1/2) of Gaussian margins, and about 1/2 where a single one makes up the deviation.
    """
    return (found.centred.pow(4).mean(0) - 1).clamp_min(0).sqrt() / (2 * math.sqrt(len(found)))


def grouped(values: Tensor, start: int = 0) -> Tensor:
    """[E, G] sums of values [N, E] over the groups of GROUP consecutive samples, numbered from `start` on.

    A group begins with a multiple of GROUP; the first and the last may be smaller.
    """
    before = start % GROUP
    after = -(before + len(values)) % GROUP
    padded = torch.nn.functional.pad(values, (0, 0, before, after))
    return padded.reshape(-1, GROUP, values.shape[1]).sum(1).T


@dataclass(frozen=True)
class Counts:
    """accuracy, reach and robust accuracy [E], the influences of the samples on each [N, E], and what counting adds.

    by_t: [3, E, 2] their derivatives in (t', t_rob'), through which the noise of the classifiers moves them.
    correction: [3, E] what was added to the counts of left-out samples.
    optimism: [4, E] how much the accuracy of the samples that gave w exceeds that of left-out ones, as counted, and as
        expected of Gaussian margins; then the same of the robust accuracy. They say how far the correction can be trusted:
        it is the same difference between what the classifier was fitted to and what it was not.
    repeated: share of the samples whose margin equals that of another one.
    undecided: [2, E] part of the samples that may be decided either way, because margins pile up within the noise of the
        boundary; for accuracy and robust accuracy, 0 unless they do.
    jumps: [2, E] variance that a boundary which is known to its own error only adds to the accuracy, and to the robust
        accuracy.
    """

    accuracy: Tensor
    reach: Tensor
    robust_accuracy: Tensor
    influence: tuple[Tensor, Tensor, Tensor]
    by_t: Tensor
    correction: Tensor
    optimism: Tensor
    repeated: float
    undecided: Tensor
    jumps: Tensor


@dataclass(frozen=True)
class _Gaussian:
    """Gaussian margins with the t of left-out samples, and with that of the population's classifier; all [E].

    here, limit: t_loo and t'; k_here, k_limit: shifts of the boundary; slope: d limit / d here; noise: deviation of the
    noise of the classifiers in the margins, whose own is 1.
    """

    here: Tensor
    limit: Tensor
    k_here: Tensor
    k_limit: Tensor
    slope: Tensor
    noise: Tensor
    prior: float


@dataclass(frozen=True)
class _Rate:
    """A fraction of samples [E] and what belongs to it, see `Counts`; density: r, near the boundary."""

    value: Tensor
    influence: Tensor
    by_limit: Tensor
    correction: Tensor
    density: Tensor
    undecided: Tensor
    jumps: Tensor


def counts(
    found: Margins,
    left_out: LeaveOneOut,
    solution: RobustSolution,
    stats: FeatureStats,
    eps: Tensor,
    prior: float,
    *,
    corrected: bool,
) -> Counts:
    """What the margins say; corrected: of the population's classifier, else of the one that N samples give."""
    t, t_rob = solution.t.cpu(), solution.t_rob.cpu()
    k = gaussian.threshold_shift(gaussian.log_prior_offset(prior), t_rob.square())
    kept = torch.where(t > 0, t_rob / torch.where(t > 0, t, 1.0), 1 - eps)  # t_rob/t, what an attack leaves
    limit, slope = found.t, torch.ones_like(t)
    if corrected:
        limit, slope = _without_noise(found, left_out.noise_df.cpu(), kept, stats)

    def shift(
        at: Tensor,
    ) -> Tensor:  # the margin at the boundary is q/2 in the units of w, so k shrinks as t grows
        return k * torch.where(t > 0, at / torch.where(t > 0, t, 1.0), 1.0)

    noise = (1 - (found.t / torch.where(limit == 0, 1.0, limit)).square()).clamp(0.01, 1).sqrt()
    curve = _Gaussian(found.t, limit, shift(found.t), shift(limit), slope, noise, prior)
    moved, error = t_influence(found, found.t), math.sqrt(stats.c0)

    def beyond(margin: Tensor, at: Tensor) -> Tensor:
        return margin - found.side * at.clamp(-FAR, FAR)  # infinite where the prior alone decides

    shifted = beyond(found.unit, curve.k_here)
    # The boundary k is in units of t_rob, and moves with it.
    signal = t_rob > 0
    by_k = torch.where(signal, -k / torch.where(signal, t_rob, 1.0), 0.0) * t_influence(found, t_rob)
    accuracy = _rate(shifted, found, curve, moved, by_k, error, corrected)
    # r |w| in these units; |w| of noisy weights is too long, so that of the population is taken where it is asked for.
    cost = eps * solution.mean_norm * left_out.weight_norm.cpu() / found.deviation
    if corrected:
        cost = (1 - kept) * found.t
    attacked = replace(curve, here=found.t - cost, limit=limit * kept, slope=slope * kept)
    robust = _rate(shifted - cost, found, attacked, moved, by_k, error, corrected)
    reach, of_reach, by_limit, added = _reach(shifted, found, curve, accuracy.density, moved, by_k, t > 0)

    fitted = margins(left_out.fitted, found.side[:, 0] > 0, prior)
    k_fitted = shift(fitted.t)
    by_fit = beyond(fitted.unit, k_fitted)

    def optimism(share: Tensor) -> tuple[Tensor, Tensor]:  # share: of the mean margin that an attack costs
        spent, spent_fitted = share * found.t, share * fitted.t
        counted = (found.share * (_right(by_fit - spent_fitted) - _right(shifted - spent))).sum(0)
        expected = gaussian.accuracy(fitted.t - spent_fitted, k_fitted, prior)
        return counted, expected - gaussian.accuracy(found.t - spent, curve.k_here, prior)

    zero = torch.zeros_like(t)
    by_t = [(accuracy.by_limit, zero), (by_limit, zero), (zero, robust.by_limit)]
    return Counts(
        accuracy=accuracy.value,
        reach=reach,
        robust_accuracy=robust.value,
        influence=(accuracy.influence, of_reach, robust.influence),
        by_t=torch.stack([torch.stack(pair, 1) for pair in by_t]) * float(corrected),
        correction=torch.stack([accuracy.correction, added, robust.correction]),
        optimism=torch.stack([*optimism(torch.zeros_like(t)), *optimism(1 - kept)]),
        repeated=1 - len(np.unique(fitted.unit[:, 0].numpy().round(7))) / len(found),
        undecided=torch.stack([accuracy.undecided, robust.undecided]),
        jumps=torch.stack([accuracy.jumps, robust.jumps]),
    )


def _rate(
    margin: Tensor,
    found: Margins,
    curve: _Gaussian,
    moved: Tensor,
    by_k: Tensor,
    error: float,
    corrected: bool,
) -> _Rate:
    """The probability of positive margins [N, E], corrected from `curve.here` to `curve.limit`.

    moved, by_k: influences on t_loo and on k [N, E]; error: of the boundary.
    """
    right, prior = _right(margin), curve.prior
    counted = (found.share * right).sum(0)
    zero = torch.zeros_like(counted)
    density, undecided = _density(margin, found.share, curve) if corrected else (zero, zero)
    gain = gaussian.accuracy(curve.limit, curve.k_limit, prior) - gaussian.accuracy(
        curve.here, curve.k_here, prior
    )
    by_limit = density * gaussian.accuracy_slope(curve.limit, curve.k_limit, prior)
    slope = by_limit * curve.slope - density * gaussian.accuracy_slope(curve.here, curve.k_here, prior)
    value = (counted + density * gain).clamp(0, 1)
    return _Rate(
        value=value,
        influence=_within(right, found.side) * found.share
        + slope * moved
        + gaussian.accuracy_shift_slope(curve.here, curve.k_here, prior) * by_k,
        by_limit=by_limit,
        correction=value - counted,
        density=density,
        undecided=undecided,
        jumps=_jumps(margin, found, error),
    )


def _reach(
    margin: Tensor,
    found: Margins,
    curve: _Gaussian,
    density: Tensor,
    moved: Tensor,
    by_k: Tensor,
    signal: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reach [E], the influences on it [N, E], its derivative in t', and its correction; infinite without a signal."""
    signal = signal & (curve.here > 0) & (curve.limit > 0)
    prior, share = curve.prior, found.share
    here = torch.where(signal, curve.here, 1.0)
    positive = margin.clamp_min(0)
    ratio = (share * positive).sum(0) / here
    gain = gaussian.reach(curve.limit, curve.k_limit, prior) - gaussian.reach(curve.here, curve.k_here, prior)
    value = (ratio + torch.where(signal, density * gain, 0.0)).clamp_min(1.0)
    by_limit = torch.where(signal, density * gaussian.reach_slope(curve.limit, curve.k_limit, prior), 0.0)
    slope = by_limit * curve.slope
    slope = slope - torch.where(signal, density * gaussian.reach_slope(curve.here, curve.k_here, prior), 0.0)
    # The mean of the margins moves with its samples, and so does the midpoint, which one class gains from.
    right_side = (share * _right(margin) * found.side).sum(0)
    by_mean = (ratio + right_side * found.side) * found.centred * found.per_class / here
    influence = (
        _within(positive, found.side) * share / here - by_mean + slope * moved - right_side / here * by_k
    )
    return (
        torch.where(signal, value, torch.inf),
        torch.where(signal, influence, 0.0),
        by_limit,
        torch.where(signal, value - ratio, 0.0),
    )


def _within(values: Tensor, side: Tensor) -> Tensor:
    """[N, E] less the mean of their class: how many samples a class has is no luck."""
    one = side > 0
    ones = one.sum()
    mean_1 = torch.where(one, values, 0.0).sum(0) / ones
    mean_0 = torch.where(one, 0.0, values).sum(0) / (len(values) - ones)
    return values - torch.where(one, mean_1, mean_0)


def _right(margin: Tensor) -> Tensor:
    """1 on the right side, 0 on the wrong one, 1/2 on neither, so that rounding does not decide it."""
    return ((margin > ROUNDING).double() + (margin >= -ROUNDING).double()) / 2


# Half the width of the zone near the boundary, in deviations of the noise; samples that both numbers are taken to have
# more, so that few of them say little; and from which ratio on margins are said to pile up.
NEAR, AS_MANY_MORE, PILED_UP = 1.5, 2.0, 2.5


def _density(margin: Tensor, share: Tensor, curve: _Gaussian) -> tuple[Tensor, Tensor]:
    """r [E]: samples near the boundary over those of Gaussian margins, and half of those that are too many if r is large."""
    n, prior = len(margin), curve.prior
    width = NEAR * curve.noise
    near = (share * (margin.abs() < width)).sum(0)
    expected = sum(
        chance * (torch.special.ndtr(at + width) - torch.special.ndtr(at - width))
        for chance, at in ((prior, curve.here - curve.k_here), (1 - prior, curve.here + curve.k_here))
    )
    ratio = (n * near + AS_MANY_MORE) / (n * expected + AS_MANY_MORE)
    undecided = torch.where(ratio > PILED_UP, (near - expected) / 4, 0.0)
    return ratio.clamp_max(PILED_UP), undecided


def _without_noise(found: Margins, noise: Tensor, kept: Tensor, stats: FeatureStats) -> tuple[Tensor, Tensor]:
    """t' [E] from t_loo, and its derivative in it; with the sign of t_loo, so that no signal is none on average.

    With y = 1/t'^2, L = (1 - df2/nu) / t_loo^2 and B = c0 df2 / kept^2, y + B y^2 = L.
    """
    # Near 0 the derivative has no limit: it is taken at half the error of t_loo.
    size = torch.maximum(found.t.abs(), torch.full_like(found.t, 0.5 / math.sqrt(len(found))))
    b = stats.c0 * noise / kept.square().clamp_min(1e-12)

    def inverse(t: Tensor) -> Tensor:
        level = (1 - noise / stats.dof).clamp_min(1e-3) / t.square().clamp_min(1e-300)
        return torch.where(b > 0, 2 * level / (1 + (1 + 4 * b * level).sqrt()), level)

    y = inverse(size)
    slope = (1 + b * y) / (1 + 2 * b * y) / (size * y.sqrt())
    value = found.t.sign() / inverse(found.t).sqrt()
    return torch.where(found.t == 0, 0.0, value), slope


def _jumps(shifted: Tensor, found: Margins, error: float) -> Tensor:
    """[E] variance of the accuracy from the error of the midpoint, beyond what counting near the boundary has anyway.

    A midpoint that is off by its standard error moves the boundary towards one class. Where margins are spread smoothly
    and alike, one class gains what the other loses; where many of them lie at the boundary (saturated features), the
    accuracy jumps.
    """
    share, by = found.share, error * found.side
    here = _right(shifted)
    moved = [(share * (_right(shifted + sign * by) - here)).sum(0).square() for sign in (1, -1)]
    near = (share.square() * (_right(shifted + error) - _right(shifted - error))).sum(0)
    return ((moved[0] + moved[1]) / 2 - near).clamp_min(0)  # twice what counting gives
