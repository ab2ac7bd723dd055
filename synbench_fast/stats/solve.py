"""Robust classifiers of one scale's moments, directions that separate the classes without error among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.feature_stats import FeatureStats
from synbench_fast.ops.leave_one_out import CUT
from synbench_fast.ops.robust_solve import RobustSolution, enqueue

__all__ = ["Directions", "Solved", "check_sizes", "check_stats", "examine", "start_solving"]

# Features come in float32: what is constant there varies by its rounding.
ROUNDING = 2.0**-22
# Size of the largest feature; every float32 number lies between. Squares of features within FADED of it are normal numbers.
SMALLEST, LARGEST, FADED = 1e-50, 1e50, 1e-100


def check_stats(stats: FeatureStats, role: str) -> None:
    """SynbenchError unless there are samples of both classes, and at least 3, of features whose squares are numbers."""
    for label, count in enumerate(stats.count.tolist()):
        if count == 0:
            raise SynbenchError(f"{role} labels: expected samples of both classes, got none of class {label}")
    if stats.dof < 1:
        raise SynbenchError(f"{role} samples: expected at least 3, got {stats.dof + 2}")
    if stats.mean.device.type == "cpu":  # looking at numbers waits for a GPU
        check_sizes(stats)


def check_sizes(stats: FeatureStats) -> None:
    """SynbenchError if the squares of the features overflow or vanish in float64."""
    mean, deviation = stats.mean.abs().amax(0), stats.covariance.diagonal().clamp_min(0).sqrt()
    largest = float(torch.maximum(mean, deviation).nan_to_num(math.inf).max())
    if largest and not SMALLEST <= largest <= LARGEST:
        found = f"{largest:.2g}" if largest < 1e150 else "larger ones"  # whose squares are infinite
        raise SynbenchError(
            f"features: expected the largest between {SMALLEST:g} and {LARGEST:g} in size, got {found}; multiply all of them "
            "by one number"
        )


@dataclass(frozen=True)
class Directions:
    """What the features hold, whatever their units.

    varying: number of directions that vary within the classes.
    separation: [F] the part of m along the others, in feature units; 0 unless it is above rounding. Where it is not 0,
        the features separate the classes without error.
    """

    varying: int
    separation: Tensor

    @property
    def separated(self) -> bool:
        return bool((self.separation != 0).any())


def examine(stats: FeatureStats) -> Directions:
    """Directions of the features, each divided by its deviation; those that are constant within the classes by themselves.

    In these units an eigenvalue at rounding level means a mixture that does not vary; in the features' own units it may
    also mean a feature that is small beside another one.
    """
    m, variance = stats.half_difference, stats.covariance.diagonal()
    size = stats.mean.abs().amax(0)
    deviation = variance.clamp_min(0).sqrt()
    faded = FADED * (size + deviation).max()  # of smaller features nothing is known
    constant = deviation <= torch.maximum(ROUNDING * size, faded)
    # A constant feature is rounded as a number of its size is, another one as one of its mean and deviation.
    limit = ROUNDING * torch.where(constant, size, size + deviation) * len(m) ** 0.5
    limit = torch.maximum(limit, faded)
    separation, number = torch.where(constant & (m.abs() > limit), m, 0.0), 0
    if not bool(constant.all()):
        rest = ~constant
        unit = deviation[rest]
        values, vectors = torch.linalg.eigh(stats.covariance[rest][:, rest] / (unit[:, None] * unit))
        varies = values > CUT * len(m) * values[-1]
        number = int(varies.sum())
        # What does not vary, in the features' own units, and the part of m in it.
        kernel = vectors[:, ~varies]
        if bool(((kernel @ (kernel.T @ (m[rest] / unit))).abs() > limit[rest] / unit).any()):
            still = torch.linalg.qr(kernel / unit[:, None]).Q
            separation[rest] = still @ (still.T @ m[rest])
    return Directions(number, separation)


@dataclass(frozen=True)
class Solved:
    """The consistent solution of one scale's moments.

    covariance: [F, F] that was solved, with a direction that separates the classes as its smallest eigenvalue.
    certain: [E] at which budgets such a direction is left after the attack: there no sample is on the wrong side.
    rank: directions that were solved, without that one.
    below_cut: further directions that vary, but too little beside the largest one to be seen in float64.
    """

    solution: RobustSolution
    covariance: Tensor
    certain: NDArray[np.bool_]
    rank: int
    below_cut: int


def start_solving(stats: FeatureStats, eps: Sequence[float], backend: str) -> Callable[[], Solved]:
    """Enqueue the solution; calling what is returned waits for it.

    A direction v without variance within the classes, along which their means differ by 2 |m_v|, is kept with the
    variance that the cut just leaves. The classifier of a budget r = eps |m| < |m_v| makes no error, because the attack
    cannot cancel m_v; a larger budget cancels it and spends the rest elsewhere, as the ridge form does by itself.

    Raises:
        SynbenchError: from what is returned: features that are all constant and equal in both classes, too few samples.
    """
    budgets = torch.tensor(list(eps), dtype=torch.float64)
    device = stats.mean.device

    def solve(covariance: Tensor) -> Callable[[], RobustSolution]:
        return enqueue(
            stats.half_difference,
            covariance,
            budgets.to(device, non_blocking=True),
            moments="sampled",
            dof=stats.dof,
            c0=stats.c0,
            weights=False,
            backend=backend,
        ).solution

    covariance = stats.covariance
    nothing = np.zeros(len(budgets), dtype=bool)
    varies = bool((covariance.diagonal() > 0).any()) if device.type == "cpu" else True
    pending = solve(covariance) if varies else None

    def finish() -> Solved:
        solution = None
        if pending is not None:
            solution = pending()
            if solution.rank == len(covariance):
                return Solved(solution, covariance, nothing, solution.rank, 0)
        found = examine(stats)  # perhaps what does not vary within the classes tells them apart
        rank = 0 if solution is None else solution.rank
        below = max(0, found.varying - rank)
        if not found.separated:
            if solution is None:
                raise SynbenchError(
                    "features: expected at least one that varies within the classes, got constants only"
                )
            return Solved(solution, covariance, nothing, rank, below)
        length = float(found.separation.norm())
        direction = found.separation / length
        largest = 0.0 if solution is None else solution.eigenvalue_range[1]
        least = 4 * CUT * len(covariance) * max(largest, length**2 * 2.0**-40)
        augmented = covariance + least * torch.outer(direction, direction)
        solution = solve(augmented)()
        certain = length > budgets.numpy() * max(solution.mean_norm, length)
        return Solved(solution, augmented, certain, rank, below)

    return finish
