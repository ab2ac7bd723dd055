"""What the scales add up to: mean over the scales of bound * max(0, accuracy - a_t), and of robust accuracy.

Either over the scales that were sampled, or over those of the published grid, by a fit (see `smooth`). Both are linear
maps of the accuracies and reaches (accuracy * bound) of the sampled scales, so that one propagation of errors serves both:
with X = reach (1 - a_t / accuracy) of one scale and X > 0,

    dX / d reach = 1 - a_t / accuracy,    dX / d accuracy = reach a_t / accuracy^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.stats.point import CurvePoint
from synbench_fast.stats.smooth import Fit, fit_accuracy, fit_reach

__all__ = ["Area", "Averages", "over_scales"]

Array = NDArray[np.float64]
Area = Callable[[Tensor, Tensor], Tensor]  # accuracy and bound [J, E] -> mean area [E, A]


@dataclass(frozen=True)
class Averages:
    """Means over the scales, and their sampling errors.

    area: [E, A]; variance: [S, E, A], what each sampled scale adds to that of the area, with `area` as the integral; what
    belongs to no scale is shared out in proportion. covariance: [E A, E A], eps-major; drift, drift_stderr: [E, A], area
    from all samples minus that from their halves, and its error, NaN where that is not known; slopes: [S, 2, E, A], derivatives of the area in the accuracy and in the reach of
    each sampled scale; robust_area and its error; fits: of accuracy and reach, per budget, where there are any.
    """

    area: Array
    variance: Array
    covariance: Array
    drift: Array
    drift_stderr: Array
    slopes: Array
    robust_area: float
    robust_area_stderr: float
    fits: list[tuple[Fit, Fit]] | None = None


def over_scales(
    points: Sequence[CurvePoint],
    scales: Sequence[float],
    wanted: Sequence[float] | None,
    area: Area,
    thresholds: Sequence[float],
    quadrature: Array,
) -> Averages:
    """Averages over the scales `wanted` by fits to the points at `scales`; None: over the points' own.

    Args:
        points: S points at E budgets, then at the Q of the robust area.
        area: the integral.
        thresholds: A.
        quadrature: [Q] weights of the robust area's budgets.
    """
    given = np.array(scales)
    count = len(points[0].eps) - len(quadrature)
    budgets = len(points[0].eps)
    accuracy, reach, robust = (
        np.stack([getattr(p, name) for p in points]) for name in ("accuracy", "reach", "robust_accuracy")
    )
    covariance = np.stack([_known(p.covariance) for p in points])  # [S, 3 B, 3 B]
    deviation = np.sqrt(np.einsum("sii->si", covariance))
    robust_mean = robust[:, count:] @ quadrature
    tail = covariance[:, 2 * budgets + count :, 2 * budgets + count :]
    robust_variance = np.einsum("q,sqr,r->s", quadrature, tail, quadrature)
    own = np.eye(len(points))
    fits: list[tuple[Fit, Fit]] | None = None
    maps: list[tuple[Array, Array]] = [(own, own)] * count
    values = [(accuracy[:, e], reach[:, e]) for e in range(count)]
    robust_map, robust_spread = own, 1.0
    if wanted is not None:
        at = np.array(wanted)
        fits = [
            (
                fit_accuracy(given, accuracy[:, e], deviation[:, e], at),
                fit_reach(given, reach[:, e], deviation[:, budgets + e], at),
            )
            for e in range(count)
        ]
        maps = [(a.matrix, r.matrix) for a, r in fits]
        values = [(a.value.clip(0, 1), r.value.clip(1)) for a, r in fits]
        over_eps = fit_accuracy(given, robust_mean, np.sqrt(robust_variance), at)
        robust_map, robust_spread = over_eps.matrix, over_eps.dispersion
        robust_mean = over_eps.value
    slopes = np.zeros((len(points), 2, count, len(thresholds)))
    spread = np.ones((2, count))
    for e, (values_e, maps_e) in enumerate(zip(values, maps, strict=True)):
        error = np.sqrt(np.square(maps_e[0]) @ np.square(deviation[:, e]))
        by_accuracy, by_reach = _slopes(*values_e, error, thresholds)
        slopes[:, 0, e] = maps_e[0].T @ by_accuracy / len(error)
        slopes[:, 1, e] = maps_e[1].T @ by_reach / len(error)
        if fits is not None:
            spread[:, e] = [one.dispersion for one in fits[e]]
    places = np.concatenate([np.arange(count), budgets + np.arange(count)])
    joint = covariance[:, places[:, None], places]  # of accuracy and reach [S, 2 E, 2 E]
    # A reach without an error (no signal, an infinite bound) counts nothing where its slope is 0.
    joint = np.where(np.isnan(joint) & _silent(slopes)[:, :, None], 0.0, joint)
    joint = np.where(np.isnan(joint) & _silent(slopes)[:, None, :], 0.0, joint)
    factor = np.sqrt(spread).reshape(-1)
    joint = joint * np.outer(factor, factor)
    flat = np.zeros((len(points), 2, count, count, len(thresholds)))
    for e in range(count):
        flat[:, :, e, e] = slopes[:, :, e]
    rows = flat.reshape(len(points), 2 * count, count * len(thresholds))
    per_scale = np.einsum("sip,sij,sjq->spq", rows, joint, rows)
    variance = np.einsum("spp->sp", per_scale).clip(0)
    stacked = [torch.from_numpy(np.ascontiguousarray(np.stack([v[i] for v in values], 1))) for i in (0, 1)]
    bound = torch.where(stacked[0] > 0, stacked[1] / stacked[0], torch.inf)
    weight = robust_map.sum(0) / len(robust_map)
    drifts = [np.full(3 * budgets, np.nan) if p.drift is None else p.drift for p in points]
    moved = np.stack([d[places] for d in drifts]).reshape(len(points), 2, count)
    # What counts nothing, a reach without a signal for one, need not be known.
    drift, drift_stderr = _summed((slopes * np.where(slopes == 0, 0.0, moved[..., None])).sum(1))
    robust_drift = np.stack([d[2 * budgets + count :] for d in drifts]) @ quadrature
    robust_moved, robust_moved_stderr = _summed(weight * robust_drift)
    robust_variance_in_all = float(np.square(weight) @ robust_variance) * robust_spread
    robust_variance_in_all += float(_unexplained(robust_moved, robust_moved_stderr))
    doubt = _doubt(points)
    corrected = np.stack([np.zeros(3 * budgets) if p.correction is None else p.correction for p in points])
    doubted = np.einsum("ske,skea->kea", corrected[:, places].reshape(len(points), 2, count), slopes)
    piled = np.stack([np.zeros(3 * budgets) if p.undecided is None else p.undecided for p in points])
    undecided = np.einsum("se,sea->ea", piled[:, :count], slopes[:, 0])
    # Of accuracy and of reach, which need not cancel.
    doubted = np.square(doubt[:count, None] * doubted).sum(0) + np.square(undecided)
    robust_doubted = weight @ (corrected[:, 2 * budgets + count :] @ (quadrature * doubt[count:]))
    robust_undecided = weight @ (piled[:, 2 * budgets + count :] @ quadrature)
    robust_variance_in_all += float(robust_doubted**2 + robust_undecided**2)
    whole = per_scale.sum(0) + np.diag((doubted + _unexplained(drift, drift_stderr)).reshape(-1))
    plain = variance.sum(0)
    variance = variance * np.where(plain > 0, np.diagonal(whole) / np.where(plain > 0, plain, 1.0), 1.0)
    return Averages(
        area=np.asarray(area(stacked[0], bound)),
        variance=variance.reshape(len(points), count, len(thresholds)),
        covariance=whole,
        drift=drift,
        drift_stderr=drift_stderr,
        slopes=slopes,
        robust_area=float(robust_mean.mean()),
        robust_area_stderr=math.sqrt(max(0.0, robust_variance_in_all)),
        fits=fits,
    )


def _summed(parts: Array) -> tuple[Array, Array]:
    """Sum over the scales of parts [S, ...], and its error.

    Parts of neighbouring scales differ by their noise, because what they estimate is smooth: the error follows from half
    the mean square of these differences (von Neumann).
    """
    if len(parts) < 2:
        return parts.sum(0), np.full(parts.shape[1:], np.nan)
    noise = np.square(np.diff(parts, axis=0)).mean(0) / 2
    return parts.sum(0), np.sqrt(len(parts) * noise)


def _doubt(points: Sequence[CurvePoint]) -> Array:
    """[B] which part of the corrections for finite N is in doubt: |1 - b|, b the optimism as counted over that expected.

    b is pooled over the scales by least squares; 0 for estimators that do not correct.
    """
    if any(one.optimism is None for one in points):
        return np.zeros(len(points[0].eps))
    counted, expected = np.stack([np.asarray(one.optimism) for one in points], 1)
    square = np.square(expected).sum(0)
    return np.asarray(
        np.abs(1 - np.where(square > 0, (counted * expected).sum(0) / np.where(square > 0, square, 1), 1.0))
    )


def _unexplained(drift: Array, stderr: Array) -> Array:
    """Variance that a drift adds beyond chance, twice its own: the bias that is left is of its size. 0 if not known."""
    known = np.isfinite(drift) & np.isfinite(stderr)
    square, noise = (np.square(np.where(known, one, 0.0)) for one in (drift, stderr))
    return np.asarray((square - 2 * noise).clip(0))


def _silent(slopes: Array) -> NDArray[np.bool_]:
    """[S, 2 E] whether an accuracy or a reach counts at no threshold."""
    return np.asarray((slopes == 0).all(3).reshape(len(slopes), -1))


def _slopes(accuracy: Array, reach: Array, error: Array, thresholds: Sequence[float]) -> tuple[Array, Array]:
    """Slopes [J, A] of E[max(0, X)] in accuracy and reach [J], the accuracy normal with errors [J].

    They are those of X, times the deviation of max(0, X) in units of that of X: with q = (accuracy - a_t) / error,

        ((1 + q^2) Phi(q) + q phi(q) - (phi(q) + q Phi(q))^2)^(1/2),

    which is 1 far above the threshold, 0 far below, and lets an accuracy next to it count on either side. Below the
    threshold X is the tangent where it crosses 0. A reach is taken as at most that of Gaussian margins at the threshold,
    because it grows without limit towards t = 0.
    """
    level = np.asarray(thresholds, dtype=np.float64)
    excess = accuracy[:, None] - level
    known = error[:, None] > 0
    q = np.where(known, excess / np.where(known, error[:, None], 1.0), np.where(excess > 0, np.inf, -np.inf))
    share = _rectified(q)
    at = np.maximum(accuracy[:, None], level)
    crossing = _gaussian_reach(level)
    finite = np.isfinite(reach)[:, None] & (excess > 0)
    height = np.where(finite, np.where(np.isfinite(reach), reach, 0.0)[:, None], crossing)
    safe = np.where(at > 0, at, 1.0)
    return share * height * level / safe**2, share * np.where(excess > 0, 1 - level / safe, 0.0)


def _gaussian_reach(accuracy: Array) -> Array:
    """Phi(t) + phi(t)/t at accuracy = Phi(t); at most that of accuracy 0.51, because it grows without limit towards 0.5."""
    t = torch.special.ndtri(torch.from_numpy(np.clip(accuracy, 0.51, 1 - 1e-12)))
    return np.asarray(torch.special.ndtr(t) + torch.exp(-t.square() / 2) / (math.sqrt(2 * math.pi) * t))


def _rectified(q: Array) -> Array:
    """Standard deviation of max(0, q + Z), Z standard normal."""
    near = (
        np.abs(q) <= 6
    )  # farther out the differences below have no digits left, and max(0, .) counts always or never
    x = torch.from_numpy(np.where(near, q, 0.0))
    below, density = torch.special.ndtr(x), torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    mean = density + x * below
    share = ((1 + x.square()) * below + x * density - mean.square()).clamp(0, 1).sqrt()
    return np.where(near, np.asarray(share), (q > 0).astype(np.float64))


def _known(covariance: Array | None) -> Array:
    assert covariance is not None  # every estimator gives one
    return covariance
