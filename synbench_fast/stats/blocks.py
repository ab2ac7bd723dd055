"""Blocks of samples: what of one scale is evaluated together, and how several blocks become one point.

Samples are only ever appended: the first block of a scale is 0 .. N - 1, the next one begins where it ends. Each is
evaluated for itself, so that features are never kept, and gives an independent estimate of the same quantities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synbench_fast.checks import ESTIMATORS
from synbench_fast.stats.consistent import GROUP
from synbench_fast.stats.point import CurvePoint

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


def combined(blocks: Sequence[Block], points: Sequence[CurvePoint]) -> CurvePoint:
    """One point from those of independent blocks of a scale, in the order of their samples.

    Everything is a weighted mean. Block b counts N_b (1 - df/nu) = N_b g/kappa, what its noise leaves of its samples, so
    that a block with few samples more than features counts little; without a ridge, and for estimators of other
    packages, N_b (1 - rank/nu) and N_b. These weights hardly depend on the outcome, as inverse variances would, which are
    larger where an accuracy came out small.

    Args:
        blocks, points: at least one, of one scale, estimator and list of budgets.
    """
    first = points[0]
    if len(points) == 1:
        return first
    counts = np.array([one.count for one in points], dtype=np.float64)
    share = (
        np.stack([_left_by_noise(one) for one in points])
        if first.estimator in ESTIMATORS
        else np.ones((len(points), 1))
    )
    weight = counts[:, None] * share * np.ones(len(first.eps))
    weight /= weight.sum(0)

    def of(name: str, by: Array) -> Array | None:
        """Weighted sum of a field; `by` as long as the field or longer. None where a block has none."""
        values = [getattr(one, name) for one in points]
        if any(one is None for one in values):
            return None
        stacked = np.stack(values)
        return np.asarray((by[..., : stacked.shape[-1]] * stacked).sum(0))

    def mean(name: str) -> Array:
        return np.asarray((weight * np.stack([getattr(one, name) for one in points])).sum(0))

    def error(name: str) -> Array:
        return np.asarray(
            np.sqrt(np.square(weight * np.stack([getattr(one, name) for one in points])).sum(0))
        )

    # accuracy and reach are means over samples; the bound is given correct.
    accuracy, reach = mean("accuracy"), mean("reach")
    whole = np.tile(weight, 3)
    # Estimators of other packages do not know the number of their first sample: their groups begin with it.
    placed = first.estimator in ESTIMATORS or all(block.start % GROUP == 0 for block in blocks)
    paired = placed and all(one.influence is not None for one in points)
    return replace(
        first,
        accuracy=accuracy,
        bound=np.where(accuracy > 0, reach / np.where(accuracy > 0, accuracy, 1.0), np.inf),
        robust_accuracy=mean("robust_accuracy"),
        t=mean("t"),
        t_rob=mean("t_rob"),
        ridge=mean("ridge"),
        kappa=mean("kappa"),
        stderr=error("stderr"),
        accuracy_stderr=error("accuracy_stderr"),
        robust_accuracy_stderr=error("robust_accuracy_stderr"),
        bound_stderr=error("bound_stderr"),
        count=int(counts.sum()),
        rank=max(one.rank for one in points),
        below_cut=max(one.below_cut for one in points),
        lost_separation=any(one.lost_separation for one in points),
        covariance=of("covariance", whole[:, :, None] * whole[:, None, :]),
        correction=of("correction", whole),
        optimism=of("optimism", weight[:, None]),
        deviation_error=_squares("deviation_error", points, weight),
        undecided=of("undecided", whole),
        repeated=float(counts @ [one.repeated for one in points] / counts.sum()),
        drift=of("drift", whole),
        influence=_in_place(blocks, points, weight) if paired else None,
        excess=of("excess", weight),
        excess_stderr=_squares("excess_stderr", points, weight),
    )


def _squares(name: str, points: Sequence[CurvePoint], weight: Array) -> Array | None:
    """Errors of a weighted mean of independent numbers; None where a block has none."""
    if any(getattr(one, name) is None for one in points):
        return None
    errors = np.stack([getattr(one, name) for one in points])
    return np.asarray(np.sqrt(np.square(weight[:, : errors.shape[1]] * errors).sum(0)))


def _left_by_noise(point: CurvePoint) -> Array:
    """1 - df/nu [E], which is g/kappa where there is a ridge."""
    without = max(0.0, point.count - 2 - point.rank) / (point.count - 2)
    ridged = (point.kappa > 0) & (point.ridge > 0)
    return np.asarray(np.where(ridged, point.ridge / np.where(ridged, point.kappa, 1.0), max(without, 1e-9)))


def _in_place(blocks: Sequence[Block], points: Sequence[CurvePoint], weight: Array) -> Array:
    """Weighted influences [2, E', G] of all blocks, each group of samples where its number puts it."""
    groups = -(-max(one.stop for one in blocks) // GROUP)
    assert points[0].influence is not None
    kinds, sampled, _ = points[0].influence.shape
    total = np.zeros((kinds, sampled, groups))
    for block, point, by in zip(blocks, points, weight, strict=True):
        assert point.influence is not None
        first = block.start // GROUP
        total[:, :, first : first + point.influence.shape[2]] += by[:sampled, None] * point.influence
    return total
