"""From the sums over the spectrum, which every backend of robust_solve finds in its own way, to the solution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.robust_solve import RobustSolution, Solve
from synbench_fast.ops.robust_spectrum import ratio
from synbench_fast.ops.sampling_covariance import Moments, sampling_covariances

__all__ = ["Sums", "check_rank", "solution"]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the kept eigenvalues of one scale.

    Attributes:
        rank: number of them.
        span: the smallest and the largest, in squared feature units; the largest is the unit of all that follows.
        moments: sums that no ridge enters.
        ridge: [E] g.
        kappa: [E] population ridges of sampled moments; g for known moments.
        f: signals [E]: m'w alone for known moments, four Taylor coefficients in kappa.
        df: likewise the degrees of freedom; unused by known moments.
        variance: [E] w'Cw of known moments; unused for sampled ones.
    """

    rank: int
    span: tuple[float, float]
    moments: Moments
    ridge: Tensor
    kappa: Tensor
    f: Sequence[Tensor]
    df: Sequence[Tensor]
    variance: Tensor


def check_rank(rank: int, call: Solve, threshold: float, largest: float) -> None:
    """SynbenchError where no eigenvalue is kept, or as many as there are degrees of freedom."""
    if rank == 0:
        raise SynbenchError(
            f"features: expected a direction of variance above the cut {threshold:g}, got at most {largest:g}"
        )
    if not call.known and call.dof <= rank:
        features = len(call.covariance)
        live = int((call.covariance.diagonal() > 0.0).sum())
        raise SynbenchError(
            f"samples: expected more than F + 2 = {live + 2} samples per scale"
            + (f" ({live} of {features} features vary)" if live < features else "")
            + f", got {call.dof + 2}; use at least {2 * live + 4}"
        )


def solution(sums: Sums, call: Solve, weights: Tensor) -> RobustSolution:
    """t and its sampling covariance, and the rest back in feature units."""
    moments, unit = sums.moments, sums.span[1]
    if call.known:
        norm_square, signal, variance = moments.a2, sums.f[0], sums.variance
        t_rob = variance.sqrt()
        t = ratio(signal, t_rob)
        none = torch.full((len(t), len(t)), math.nan, dtype=torch.float64, device=t.device)
        t_cov, t_rob_cov, cross_cov = none, none.clone(), none.clone()
    else:
        signal, variance = sums.f[0], sums.f[0] + sums.kappa * sums.f[1]
        found = (signal > 0.0) & (variance > 0.0)
        t_rob = torch.where(found, variance.clamp_min(0.0).sqrt(), 0.0)
        t = torch.where(found, ratio(signal, t_rob), 0.0)
        norm_square = max(moments.a2 - call.c0 * moments.trace, 0.0)
        t_cov, t_rob_cov, cross_cov = sampling_covariances(
            moments, sums.kappa, sums.f, sums.df, float(call.dof), call.c0
        )
    return RobustSolution(
        rank=sums.rank,
        eigenvalue_range=sums.span,
        mean_norm=math.sqrt(norm_square * unit),
        ridge=sums.ridge * unit,
        kappa=sums.kappa * unit,
        signal=signal,
        variance=variance,
        t=t,
        t_rob=t_rob,
        t_cov=t_cov,
        t_rob_cov=t_rob_cov,
        cross_cov=cross_cov,
        weights=weights,
    )
