"""What the scales add up to: mean over the scales of bound * max(0, accuracy - a_t), and of robust accuracy.

Either over the scales that were sampled, or over those of the published grid, by a fit (see `smooth`). Both are linear
maps of the accuracies and reaches (accuracy * bound) of the sampled scales, so that one propagation of errors serves both:
with X = reach (1 - a_t / accuracy) of one scale and X > 0,

    dX / d reach = 1 - a_t / accuracy,    dX / d accuracy = reach a_t / accuracy^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.stats.point import CurvePoint
from synbench_fast.stats.smooth import Fit, fit_accuracy, fit_reach

__all__ = ["Area", "Averages", "over_scales"]

Array = NDArray[np.float64]
Area = Callable[[Tensor, Tensor], Tensor]  # accuracy and bound [J, E] -> mean area [E, A]


# Which part of its error an interval may owe to samples that nothing decides, and to a correction that is refuted: the
# optimism as counted exceeds that of Gaussian margins by more than this. Beyond them it is withheld.
MOSTLY_UNDECIDED, PARTLY_DOUBTED, REFUTED = 0.55, 0.2, 1.12
CLEARLY = 2.5  # errors
# A scale tells too little if the deviation of its margins is known to no better than a tenth, and by half worse than that
# of Gaussian margins: a few samples make it up. Scales with more than this part of a score's slopes withhold its interval.
FEW_SAMPLES, WORSE, PARTLY_FEW = 0.1, 1.5, 0.2
FEW_VALUES = 0.75  # share of the samples that repeat the margin of another one: robust accuracy is a step function there


@dataclass(frozen=True)
class Averages:
    """Means over the scales, and their sampling errors.

    area: [E, A]; variance: [S, E, A], what each sampled scale adds to that of the area, with `area` as the integral; what
    belongs to no scale is shared out in proportion. covariance: [E A, E A], eps-major; drift, drift_stderr: [E, A], area
    from all samples minus that from their halves, and its error, NaN where that is not known; slopes: [S, 2, E, A],
    derivatives of the area in the accuracy and in the reach of each sampled scale; accuracy: [J, E] at the scales of the
    mean; robust_area and its error; fits: of accuracy and reach, per budget, where there are any.
    withheld: (e, a) of the areas whose error is too small by an unknown amount, and why; robust_withheld: why that of the
    robust area is, empty if it is not.
    """

    area: Array
    variance: Array
    covariance: Array
    drift: Array
    drift_stderr: Array
    slopes: Array
    accuracy: Array
    robust_area: float
    robust_area_stderr: float
    fits: list[tuple[Fit, Fit]] | None = None
    withheld: dict[tuple[int, int], str] = field(default_factory=dict)
    robust_withheld: str = ""


@dataclass(frozen=True)
class _Scales:
    """The points of S scales: arrays [S, B] over the E budgets of the scores and the Q of the robust area."""

    points: Sequence[CurvePoint]
    scales: Array
    quadrature: Array

    def __len__(self) -> int:
        return len(self.points)

    @property
    def budgets(self) -> int:
        return len(self.points[0].eps)

    @property
    def count(self) -> int:
        """E"""
        return self.budgets - len(self.quadrature)

    def of(self, name: str) -> Array:
        return np.stack([getattr(p, name) for p in self.points])

    def kinds(self, name: str, missing: float) -> Array:
        """[S, 3, B] of accuracy, reach and robust accuracy; `missing` for points without."""
        none = np.full(3 * self.budgets, missing)
        found = [none if getattr(p, name) is None else getattr(p, name) for p in self.points]
        return np.stack(found).reshape(len(self), 3, self.budgets)

    @cached_property
    def covariance(self) -> Array:
        """[S, 3, B, 3, B]"""
        found = np.stack([_known(p.covariance) for p in self.points])
        return found.reshape(len(self), 3, self.budgets, 3, self.budgets)

    def error(self, kind: int, e: int) -> Array:
        """[S] standard errors of accuracy (0) or reach (1)."""
        return np.asarray(np.sqrt(self.covariance[:, kind, e, kind, e]))


@dataclass(frozen=True)
class _Curves:
    """Accuracy and reach over the J wanted scales, per budget, and the matrices [J, S] that make them of the sampled ones."""

    values: list[tuple[Array, Array]]
    maps: list[tuple[Array, Array]]
    fits: list[tuple[Fit, Fit]] | None
    wanted: Array | None


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
    found = _Scales(points, np.array(scales), quadrature)
    curves = _curves(found, wanted)
    slopes = _all_slopes(found, curves, thresholds)
    per_scale = _propagated(found, curves, slopes)
    moved = found.kinds("drift", np.nan)
    # A half without a signal at a scale has an infinite reach, and says nothing of it.
    known = np.isfinite(moved[:, 0, : found.count]).all()
    parts = slopes * np.nan_to_num(moved[:, :2, : found.count, None])
    drift, drift_stderr = _summed(parts.sum(1)) if known else (np.full(slopes.shape[2:], np.nan),) * 2
    doubt, refuted = _doubt(points, found.count)
    corrected, piled = found.kinds("correction", 0.0), found.kinds("undecided", 0.0)
    # Of accuracy and of reach, which need not cancel.
    doubted = np.einsum("ske,skea->kea", corrected[:, :2, : found.count], slopes)
    doubted = np.square(doubt[: found.count, None] * doubted).sum(0)
    undecided = np.square(np.einsum("se,sea->ea", piled[:, 0, : found.count], slopes[:, 0]))
    added = doubted + undecided + _unexplained(drift, drift_stderr)
    whole = per_scale.sum(0) + np.diag(added.reshape(-1))
    variance = np.einsum("spp->sp", per_scale).clip(0)
    plain = variance.sum(0)
    variance = variance * np.where(plain > 0, np.diagonal(whole) / np.where(plain > 0, plain, 1.0), 1.0)
    accuracy, reach = (
        torch.from_numpy(np.ascontiguousarray(np.stack([v[i] for v in curves.values], 1))) for i in (0, 1)
    )
    few = _few(found)
    robust_area, robust_variance, robust_withheld = _robust(found, curves.wanted, doubt, few, refuted)
    in_all = np.diagonal(whole).reshape(undecided.shape)
    share = _share(few[:, : found.count, None], np.abs(slopes[:, 0]))
    reasons = {
        (e, a): _withheld(*(float(one[e, a]) for one in (undecided, doubted, in_all, share)), refuted=refuted)
        for e in range(found.count)
        for a in range(len(thresholds))
    }
    return Averages(
        area=np.asarray(area(accuracy, torch.where(accuracy > 0, reach / accuracy, torch.inf))),
        variance=variance.reshape(len(points), *undecided.shape),
        covariance=whole,
        drift=drift,
        drift_stderr=drift_stderr,
        slopes=slopes,
        accuracy=accuracy.numpy(),
        robust_area=robust_area,
        robust_area_stderr=math.sqrt(max(0.0, robust_variance)),
        fits=curves.fits,
        withheld={place: reason for place, reason in reasons.items() if reason},
        robust_withheld=robust_withheld,
    )


def _curves(found: _Scales, wanted: Sequence[float] | None) -> _Curves:
    accuracy, reach = found.of("accuracy"), found.of("reach")
    if wanted is None:
        own = np.eye(len(found))
        values = [(accuracy[:, e], reach[:, e]) for e in range(found.count)]
        return _Curves(values, [(own, own)] * found.count, None, None)
    at = np.array(wanted)
    fits = [
        (
            fit_accuracy(found.scales, accuracy[:, e], found.error(0, e), at),
            fit_reach(found.scales, reach[:, e], found.error(1, e), at),
        )
        for e in range(found.count)
    ]
    values = [(a.value.clip(0, 1), r.value.clip(1)) for a, r in fits]
    return _Curves(values, [(a.matrix, r.matrix) for a, r in fits], fits, at)


def _all_slopes(found: _Scales, curves: _Curves, thresholds: Sequence[float]) -> Array:
    """[S, 2, E, A]"""
    slopes = np.zeros((len(found), 2, found.count, len(thresholds)))
    for e, (values, maps) in enumerate(zip(curves.values, curves.maps, strict=True)):
        error = np.sqrt(np.square(maps[0]) @ np.square(found.error(0, e)))
        for kind, by in enumerate(_slopes(*values, error, thresholds)):
            slopes[:, kind, e] = maps[kind].T @ by / len(error)
    return slopes


def _propagated(found: _Scales, curves: _Curves, slopes: Array) -> Array:
    """[S, E A, E A] what the errors of every scale add to the covariance of the areas."""
    count, levels = slopes.shape[2:]
    joint = found.covariance[:, :2, :count, :2, :count].reshape(len(found), 2 * count, 2 * count)
    # A reach without an error (no signal, an infinite bound) counts nothing where its slope is 0.
    silent = _silent(slopes)
    joint = np.where(np.isnan(joint) & (silent[:, :, None] | silent[:, None, :]), 0.0, joint)
    if curves.fits is not None:
        factor = np.sqrt([[one.dispersion for one in pair] for pair in curves.fits]).T.reshape(-1)
        joint = joint * np.outer(factor, factor)
    flat = np.zeros((len(found), 2, count, count, levels))
    for e in range(count):
        flat[:, :, e, e] = slopes[:, :, e]
    rows = flat.reshape(len(found), 2 * count, count * levels)
    return np.asarray(np.einsum("sip,sij,sjq->spq", rows, joint, rows))


def _robust(
    found: _Scales, wanted: Array | None, doubt: Array, few: NDArray[np.bool_], refuted: bool
) -> tuple[float, float, str]:
    """The robust area, its variance, and why that is withheld; empty if it is not."""
    nodes, quadrature = slice(found.count, None), found.quadrature
    mean = found.of("robust_accuracy")[:, nodes] @ quadrature
    joint = found.covariance[:, 2, nodes, 2, nodes]
    variance = np.einsum("q,sqr,r->s", quadrature, joint, quadrature)
    weight, spread = np.full(len(found), 1 / len(found)), 1.0
    if wanted is not None:
        fit = fit_accuracy(found.scales, mean, np.sqrt(variance), wanted)
        mean, weight, spread = fit.value, fit.matrix.mean(0), fit.dispersion

    def total(kinds: Array) -> float:
        return float(weight @ (kinds[:, 2, nodes] @ quadrature))

    drift, drift_stderr = _summed(weight * (found.kinds("drift", np.nan)[:, 2, nodes] @ quadrature))
    # The drift of an area that hardly has noise is the bias that is left, whatever its own noise.
    drifted = float(drift) ** 2 if np.isfinite(drift_stderr) else 0.0
    shape = 0.0
    if all(one.optimism is not None for one in found.points):
        counted, expected = np.stack([np.asarray(one.optimism)[2:, nodes] for one in found.points], 1)
        shape = float(weight @ ((counted - expected) @ quadrature))
    doubted = float(weight @ (found.kinds("correction", 0.0)[:, 2, nodes] @ (quadrature * doubt[nodes])))
    doubted = max(doubted**2, shape**2)
    undecided = total(found.kinds("undecided", 0.0)) ** 2
    whole = float(np.square(weight) @ variance) * spread + drifted + doubted + undecided
    share = _share(few[:, nodes] @ quadrature, np.abs(weight))
    reason = _withheld(undecided, doubted, whole, float(share), refuted=refuted)
    if np.mean([one.repeated for one in found.points]) > FEW_VALUES:
        reason = (
            reason or "the features take few values, and robust accuracy is a step function of the budget"
        )
    return float(mean.mean()), whole, reason


def _withheld(undecided: float, doubted: float, whole: float, few: float, *, refuted: bool) -> str:
    """Why an interval with these parts of its variance is withheld, `few` of its slopes; empty if it is not.

    Where the deviation of the margins is hardly known, neither is how far the correction for them can be trusted.
    """
    if few > PARTLY_FEW and undecided + doubted > PARTLY_DOUBTED**2 * whole:
        return (
            "a few samples make up the deviation of the margins, which the correction of the count depends on"
        )
    if undecided > MOSTLY_UNDECIDED**2 * whole:
        return "margins pile up within the noise of the decision boundary, and no rule decides them"
    if refuted and doubted > PARTLY_DOUBTED**2 * whole:
        return "the noise of the classifier decides more samples than the correction for it knows of"
    return ""


def _few(found: _Scales) -> NDArray[np.bool_]:
    """[S, B] whether a few samples make up the deviation of the margins; False where that is not known.

    At this budget or at a smaller one: what few samples show of a direction also moves |m|, and with it every attack.
    """
    none = np.zeros(found.budgets)
    errors = np.stack([none if p.deviation_error is None else p.deviation_error for p in found.points])
    eps = np.asarray(found.points[0].eps)
    errors = np.where(eps <= eps[:, None], errors[:, None, :], 0.0).max(2)
    gaussian = 1 / np.sqrt(2 * np.array([p.count for p in found.points]))
    return np.asarray(errors > np.maximum(FEW_SAMPLES, WORSE * gaussian)[:, None])


def _share(few: NDArray[np.bool_] | Array, slopes: Array) -> Array:
    """Part of the slopes over the scales, the first axis, at those that are `few`; 0 without slopes."""
    total = slopes.sum(0)
    return np.asarray((few * slopes).sum(0) / np.where(total > 0, total, 1.0))


def _summed(parts: Array) -> tuple[Array, Array]:
    """Sum over the scales of parts [S, ...], and its error.

    Parts of neighbouring scales differ by their noise, because what they estimate is smooth: the error follows from half
    the mean square of these differences (von Neumann).
    """
    if len(parts) < 2:
        return parts.sum(0), np.full(parts.shape[1:], np.nan)
    noise = np.square(np.diff(parts, axis=0)).mean(0) / 2
    return parts.sum(0), np.sqrt(len(parts) * noise)


def _doubt(points: Sequence[CurvePoint], count: int) -> tuple[Array, bool]:
    """[B] which part of the corrections for finite N is in doubt, |1 - b|, and whether b refutes them.

    b is the optimism as counted over that expected, pooled over the scales by least squares. It refutes if that over the
    `count` first budgets exceeds REFUTED, and 1 by CLEARLY of its errors: counting n samples of which a share p changes
    sides has the variance p/n; budgets share their samples. 0 and False for estimators that do not correct.
    """
    if any(one.optimism is None for one in points):
        return np.zeros(len(points[0].eps)), False
    counted, expected = np.stack([np.asarray(one.optimism)[:2] for one in points], 1)
    total = np.square(expected).sum(0)
    ratio = np.where(total > 0, (counted * expected).sum(0) / np.where(total > 0, total, 1.0), 1.0)
    samples = np.array([one.count for one in points])[:, None]
    weight = float(total[:count].sum())
    excess = float(((counted - expected) * expected)[:, :count].sum())
    noise = (expected * np.sqrt(expected.clip(0) / samples))[:, :count].sum(1)
    clear = CLEARLY * float(np.sqrt(np.square(noise).sum()))
    return np.abs(1 - ratio), excess > max((REFUTED - 1) * weight, clear)


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
