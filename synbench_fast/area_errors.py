"""Sampling errors of what the scales add to the area, from those of t and of counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast import gaussian
from synbench_fast.results import CurvePoint

__all__ = [
    "AreaTerms",
    "area_covariance",
    "area_terms",
    "classifier_variance",
    "deviation",
    "expected_slopes",
    "propagate",
    "robust_area_stderr",
    "robust_slope",
    "shift",
]


def shift(t_rob: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    """k and dk/dt_rob: t_rob^2 is w'Cw, so an estimate of t_rob is one of k, too."""
    k = gaussian.threshold_shift(gaussian.log_prior_offset(prior), t_rob.square())
    return k, torch.where(t_rob > 0, -k / t_rob, 0.0)


def propagate(by_t: Tensor, by_t_rob: Tensor, t_var: Tensor, t_rob_var: Tensor, cross: Tensor) -> Tensor:
    """Standard error of a function of t and t_rob with these derivatives."""
    # A derivative of 0 counts nothing, also beside an infinite one (the bound's at t = 0).
    mixed = torch.where(by_t_rob == 0, 0.0, 2 * by_t * by_t_rob * cross)
    return (by_t.square() * t_var + mixed + by_t_rob.square() * t_rob_var).clamp_min(0).sqrt()


def classifier_variance(point: CurvePoint) -> Tensor:
    """[E] what the noise of the classifiers adds to the variance of t: (1 + t^2/2)/N is that at fixed ones."""
    t = torch.from_numpy(point.t)
    fixed = (1 + t.square() / 2) / point.count
    return (torch.from_numpy(point.stderr).square() - fixed).clamp_min(0)


@dataclass(frozen=True)
class AreaTerms:
    """Sampling errors of what one scale adds to the area, bound * max(0, accuracy - a_t); all [E, A].

    by_t, by_t_rob: derivatives in t and t_rob, scaled to the standard error; None without covariances.
    """

    stderr: Tensor
    by_t: Tensor | None = None
    by_t_rob: Tensor | None = None


def area_terms(point: CurvePoint, thresholds: Tensor, prior: float) -> AreaTerms:
    """Errors of bound * max(0, accuracy - a_t) for thresholds [A].

    X = bound * (accuracy - a_t) is taken as normal with its delta-method deviation s, and the error is that of
    max(0, X): with q = X/s, Var = s^2 ((1 + q^2) Phi(q) + q phi(q) - (phi(q) + q Phi(q))^2). Far above the
    threshold that is s, far below 0, and an accuracy next to the threshold counts on either side of it.

    counted: accuracy and accuracy times bound have the covariance of the count, and move with t as the Gaussian
    ones do where the error of t comes from the classifiers.
    consistent: accuracy and bound are functions of one t (and, through the log-prior term, of t_rob), so the
    derivative of the product counts. Below the threshold X is the tangent where it crosses 0, because the
    bound grows without limit towards t = 0, where it does not count.
    paper: the count and the mean of the margins are taken as independent.
    NaN where t = 0 and the commoner class alone exceeds a_t, because there the bound is infinite.
    """
    a, b = torch.from_numpy(point.accuracy)[:, None], torch.from_numpy(point.bound)[:, None]
    excess = a - thresholds
    if point.counted_cov is not None:
        return AreaTerms(_counted_stderr(point, thresholds, prior))
    if point.t_cov is None or point.t_rob_cov is None or point.cross_cov is None:
        a_stderr = torch.from_numpy(point.accuracy_stderr)[:, None]
        b_stderr = torch.from_numpy(point.bound_stderr)[:, None]
        return AreaTerms(_rectified(b * excess, torch.hypot(b * a_stderr, excess * b_stderr), excess > 0))
    t, t_rob = torch.from_numpy(point.t)[:, None], torch.from_numpy(point.t_rob)[:, None]
    by_t, by_t_rob, there, there_rob = _tangent(t, t_rob, thresholds, prior)
    above = excess > 0
    value = torch.where(above, b * excess, by_t * (t - there) + by_t_rob * (t_rob - there_rob))
    spread = (
        torch.from_numpy(c).diagonal()[:, None] for c in (point.t_cov, point.t_rob_cov, point.cross_cov)
    )
    plain = propagate(by_t, by_t_rob, *spread)
    stderr = _rectified(value, plain, above)
    share = torch.where(stderr > 0, stderr / plain, 0.0)
    unknown = torch.isnan(stderr)

    def scaled(slope: Tensor) -> Tensor:
        return torch.where(unknown, torch.nan, torch.where(share > 0, share * slope, 0.0))

    return AreaTerms(stderr, scaled(by_t), scaled(by_t_rob))


def _counted_stderr(point: CurvePoint, thresholds: Tensor, prior: float) -> Tensor:
    """[E, A] error of R (1 - a_t/a), R = a b: what one scale adds to the area."""
    a, b = torch.from_numpy(point.accuracy)[:, None], torch.from_numpy(point.bound)[:, None]
    t, t_rob = torch.from_numpy(point.t)[:, None], torch.from_numpy(point.t_rob)[:, None]
    known = (t > 0) & (a > 0)
    safe_a, safe_b = torch.where(known, a, 1.0), torch.where(known, b, 0.0)
    gradient = torch.stack([safe_b * thresholds / safe_a, 1 - thresholds / safe_a], 2)  # in a and R
    fixed = torch.einsum(
        "eai,eij,eaj->ea", gradient, torch.from_numpy(np.asarray(point.counted_cov)), gradient
    )
    by_t, by_t_rob, _, _ = _tangent(t, t_rob, thresholds, prior)
    by_t = by_t + by_t_rob * torch.where(
        t > 0, t_rob / t, 0.0
    )  # both move with the classifiers, in proportion
    total = (fixed + by_t.square() * classifier_variance(point)[:, None]).clamp_min(0).sqrt()
    return torch.where(known, _rectified(safe_b * (a - thresholds), total, a > thresholds), 0.0)


def _tangent(
    t: Tensor, t_rob: Tensor, thresholds: Tensor, prior: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives [E, A] of bound * (accuracy - a_t) in t and t_rob [E, 1], at the returned t and t_rob.

    Those are the given ones, or below the threshold where it is reached.
    """
    excess = gaussian.accuracy(t, shift(t_rob, prior)[0], prior) - thresholds
    above = excess > 0
    ratio = torch.where(t > 0, t_rob / t, 1.0)
    crossing = _crossing(ratio, thresholds, prior)
    there, there_rob = torch.where(above, t, crossing), torch.where(above, t_rob, ratio * crossing)
    k, k_slope = shift(there_rob, prior)
    bound, over = gaussian.bound(there, k, prior), torch.where(above, excess, 0.0)
    by_t = gaussian.bound_slope(there, k, prior) * over + bound * gaussian.accuracy_slope(there, k, prior)
    by_k = gaussian.bound_shift_slope(there, k, prior) * over
    by_k = by_k + bound * gaussian.accuracy_shift_slope(there, k, prior)
    return by_t, torch.where(k_slope == 0, 0.0, by_k * k_slope), there, there_rob


def expected_slopes(
    t: Tensor, t_rob: Tensor, stderr: Tensor, thresholds: Tensor, prior: float
) -> tuple[Tensor, Tensor]:
    """Derivatives [S, A] in t and t_rob [S] of E[bound * max(0, accuracy - a_t)], t normal with this stderr [S].

    They are the derivatives of bound * (accuracy - a_t) times the probability that the accuracy is above a_t.
    """
    t, t_rob, stderr = t[:, None], t_rob[:, None], stderr[:, None]
    by_t, by_t_rob, _, _ = _tangent(t, t_rob, thresholds, prior)
    crossing = _crossing(torch.where(t > 0, t_rob / t, 1.0), thresholds, prior)
    likely = torch.special.ndtr((t - crossing) / stderr.clamp_min(1e-300))
    return by_t * likely, by_t_rob * likely


def _crossing(ratio: Tensor, thresholds: Tensor, prior: float) -> Tensor:
    """[E, A] the t at which the accuracy reaches the thresholds [A], with t_rob = ratio t; bisection on [0, 16]."""
    low = torch.zeros_like(ratio * thresholds)
    high = torch.full_like(low, 16.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        enough = gaussian.accuracy(middle, shift(ratio * middle, prior)[0], prior) > thresholds
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


def _rectified(value: Tensor, deviation: Tensor, counts: Tensor) -> Tensor:
    """Standard deviation of max(0, X), X normal; what is not finite is passed on where it counts, else 0."""
    known = torch.isfinite(value) & torch.isfinite(deviation) & (deviation > 0)
    q = torch.where(known, value / torch.where(known, deviation, 1.0), 0.0)
    below, density = torch.special.ndtr(q), torch.exp(-0.5 * q * q) / math.sqrt(2 * math.pi)
    mean = density + q * below
    share = ((1 + q * q) * below + q * density - mean * mean).clamp(0, 1).sqrt()
    # Far from 0 the differences above have no digits left; there X counts always or never.
    share = torch.where(q.abs() > 6, (q > 0).double(), share)
    return torch.where(known, deviation * share, torch.where(counts, deviation, 0.0))


def area_covariance(
    points: Sequence[CurvePoint], slopes: Sequence[tuple[Tensor | None, Tensor | None]]
) -> Tensor | None:
    """Covariance [E A, E A] over eps and thresholds, eps-major, of a sum over scales; None if unknown.

    slopes: its derivatives [E, A] in t and t_rob of each scale, for the first E budgets of the points.
    """
    total: Tensor | None = None
    for point, (by_t, by_t_rob) in zip(points, slopes, strict=True):
        covariances = (point.t_cov, point.cross_cov, point.t_rob_cov)
        if by_t is None or by_t_rob is None or any(one is None for one in covariances):
            return None
        count, size = len(by_t), by_t.numel()
        if total is None:
            total = torch.zeros(size, size, dtype=torch.float64)
        t, cross, t_rob = (torch.tensor(one)[:count, :count] for one in covariances)
        parts = (
            (by_t, t, by_t),
            (by_t, cross, by_t_rob),
            (by_t_rob, cross.T, by_t),
            (by_t_rob, t_rob, by_t_rob),
        )
        for left, matrix, right in parts:
            total += torch.einsum("ea,ef,fb->eafb", left, matrix, right).reshape(size, size)
    return total


def robust_area_stderr(point: CurvePoint, weights: NDArray[np.float64], prior: float) -> float:
    """Standard error of sum_e weights_e * robust_accuracy_e of one scale, weights [E].

    Of counted accuracies the covariance over eps is not known; their errors are added up as if fully
    correlated, which can only overstate the sum's.
    """
    if point.t_rob_cov is None or point.counted_cov is not None:
        return float(weights @ point.robust_accuracy_stderr)
    return deviation(point.t_rob_cov, weights * robust_slope(torch.from_numpy(point.t_rob), prior).numpy())


def robust_slope(t_rob: Tensor, prior: float) -> Tensor:
    """Derivative of robust accuracy in t_rob."""
    k, by_t_rob = shift(t_rob, prior)
    fixed = gaussian.accuracy_slope(t_rob, k, prior)
    return fixed + gaussian.accuracy_shift_slope(t_rob, k, prior) * by_t_rob


def deviation(covariance: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Standard deviation of weights @ X, X of this covariance."""
    return math.sqrt(max(0.0, float(weights @ covariance @ weights)))
