"""Blocks of samples: what of one scale is evaluated together, and how several blocks become one point.

Samples are only ever appended: the first block of a scale is 0 .. N - 1, the next one begins where it ends. Each is
evaluated for itself, so that features are never kept, and gives an independent estimate of the same t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbench_fast.checks import ESTIMATORS
from synbench_fast.estimators import gaussian_curve
from synbench_fast.margins import GROUP
from synbench_fast.results import CurvePoint

__all__ = ["Block", "combined"]

Array = NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Block:
    """Samples start .. start + count - 1 of one scale, in every split."""

    scale_index: int
    start: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.count


def combined(blocks: Sequence[Block], points: Sequence[CurvePoint], prior: float) -> CurvePoint:
    """One point from those of independent blocks of a scale, in the order of their samples.

    t and t_rob are weighted means. `consistent` weighs block b by N_b (1 - df/nu) = N_b g/kappa, what its noise
    leaves of its samples, so that a block with few samples more than features counts little; `counted` by N_b.
    These weights hardly depend on the outcome, as inverse variances would, which are larger where t came out
    small. Accuracy and bound are those of the combined t; `counted` averages its counts. Estimators of other packages
    are averaged in everything, by N_b.

    Args:
        blocks, points: at least one, of one scale, estimator and list of budgets.
        prior: tau of the task.
    """
    first = points[0]
    if len(points) == 1:
        return first
    counts = np.array([one.count for one in points], dtype=np.float64)
    share = (counts / counts.sum())[:, None]
    if first.estimator not in ESTIMATORS:
        return _averaged(blocks, points, share)
    weight = share * np.ones_like(first.t)
    if first.counted_cov is None:
        weight = share * np.stack([_left_by_noise(one) for one in points])
        weight /= weight.sum(0)

    def mean(name: str, by: Array = weight) -> Array:
        return np.asarray((by * np.stack([getattr(one, name) for one in points])).sum(0))

    def covariance(name: str) -> Array:
        matrices = np.stack([getattr(one, name) for one in points])
        return np.asarray(np.einsum("be,bef,bf->ef", weight, matrices, weight))

    moved: dict[str, Any] = dict(
        gaussian_curve(
            mean("t"),
            mean("t_rob"),
            covariance("t_cov"),
            covariance("t_rob_cov"),
            covariance("cross_cov"),
            prior,
        )
    )
    point = replace(
        first,
        **moved,
        ridge=mean("ridge"),
        kappa=mean("kappa"),
        count=int(counts.sum()),
        rank=max(one.rank for one in points),
    )
    if first.counted_cov is not None:
        return _counts_averaged(point, points, share)
    if first.influence is None:
        return point
    sampled = len(first.influence)
    # Each block's count is at its own t: what moves with the t of all is how far it is from the Gaussian accuracy.
    beyond = mean("counted_accuracy", share) - mean("accuracy", share)[:sampled]
    return replace(
        point,
        counted_accuracy=point.accuracy[:sampled] + beyond,
        influence=_in_place(blocks, points, weight[:, :sampled]),
    )


def _averaged(blocks: Sequence[Block], points: Sequence[CurvePoint], share: Array) -> CurvePoint:
    """Means of all that the points estimate, with the errors of independent estimates."""

    def mean(name: str) -> Array:
        return np.asarray((share * np.stack([getattr(one, name) for one in points])).sum(0))

    def error(name: str) -> Array:
        return np.asarray(np.sqrt(np.square(share * np.stack([getattr(one, name) for one in points])).sum(0)))

    def covariance(name: str) -> Array | None:
        matrices = [getattr(one, name) for one in points]
        if any(one is None for one in matrices):
            return None
        return np.asarray(np.tensordot(np.square(share[:, 0]), np.stack(matrices), 1))

    known = ("t", "t_rob", "accuracy", "robust_accuracy", "ridge", "kappa")
    values: dict[str, Any] = {name: mean(name) for name in known}
    errors = ("stderr", "accuracy_stderr", "robust_accuracy_stderr", "bound_stderr")
    values |= {name: error(name) for name in errors}
    # The bound is given correct, so it is its product with the accuracy that is a mean over samples.
    values["bound"] = np.asarray(
        (share * np.stack([one.accuracy * one.bound for one in points])).sum(0) / values["accuracy"]
    )
    values |= {name: covariance(name) for name in ("t_cov", "t_rob_cov", "cross_cov", "counted_cov")}
    paired = all(one.influence is not None for one in points) and all(b.start % GROUP == 0 for b in blocks)
    sampled = len(points[0].influence) if paired and points[0].influence is not None else 0
    counted = all(one.counted_accuracy is not None for one in points)
    return replace(
        points[0],
        **values,
        count=sum(one.count for one in points),
        rank=max(one.rank for one in points),
        counted_accuracy=mean("counted_accuracy") if counted else None,
        influence=_in_place(blocks, points, np.tile(share, sampled)) if paired else None,
    )


def _left_by_noise(point: CurvePoint) -> Array:
    """1 - df/nu [E], which is g/kappa where there is a ridge."""
    without = (point.count - 2 - point.rank) / (point.count - 2)
    ridged = point.kappa > 0
    return np.where(ridged, point.ridge / np.where(ridged, point.kappa, 1.0), without)


def _counts_averaged(point: CurvePoint, points: Sequence[CurvePoint], share: Array) -> CurvePoint:
    """`point` with the counts of `points` and their errors, which are independent."""

    def mean(values: Sequence[Array]) -> Array:
        return np.asarray((share * np.stack(values)).sum(0))

    def error(name: str) -> Array:
        return np.asarray(np.sqrt(np.square(share * np.stack([getattr(one, name) for one in points])).sum(0)))

    accuracy = mean([one.accuracy for one in points])
    bound = mean([one.accuracy * one.bound for one in points]) / accuracy
    spread = np.stack([one.counted_cov for one in points if one.counted_cov is not None])
    return replace(
        point,
        accuracy=accuracy,
        robust_accuracy=mean([one.robust_accuracy for one in points]),
        bound=bound,
        counted_accuracy=accuracy,
        counted_cov=np.asarray(np.einsum("b,beij->eij", np.square(share[:, 0]), spread)),
        accuracy_stderr=error("accuracy_stderr"),
        robust_accuracy_stderr=error("robust_accuracy_stderr"),
        bound_stderr=error("bound_stderr"),
    )


def _in_place(blocks: Sequence[Block], points: Sequence[CurvePoint], weight: Array) -> Array:
    """Weighted influences [E, G] of all blocks, each group of samples where its number puts it."""
    groups = -(-max(one.stop for one in blocks) // GROUP)
    total = np.zeros((weight.shape[1], groups))
    for block, point, by in zip(blocks, points, weight, strict=True):
        assert point.influence is not None
        first = block.start // GROUP
        total[:, first : first + point.influence.shape[1]] += by[:, None] * point.influence
    return total
