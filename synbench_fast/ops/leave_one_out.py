"""leave_one_out: the margin of every sample under the classifiers that were fitted without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.dispatch import Operation
from synbench_fast.ops.feature_stats import CHUNK_BYTES, GPU_CHUNK_BYTES, FeatureStats

__all__ = ["LeaveOneOut", "leave_one_out", "leave_one_out_blas", "margins_of_forms"]

# A sample that alone makes up a direction has leverage 1: without it there is no such direction, and the formula
# divides 0 by 0. This bound of 1 - leverage leaves such a sample with the margin of the other directions.
LEAST_ROOM = 1e-3
CUT = 8 * 2.0**-52  # times F and the largest eigenvalue: what float64 cannot tell from 0, as in robust_solve


@dataclass(frozen=True)
class LeaveOneOut:
    """Margins of N samples under E ridge discriminants; all float64, on the device of the features.

    Attributes:
        margin: [N, E] (x_i - c_-i)'w_-i with the sign of the class: positive on the right side.
        fitted: [N, E] the same under the classifiers of all N samples, (x_i - c)'w.
        leverage: [N, E] h_i = x_i'(S + g I)^-1 x_i / nu, of samples from which the mean of their class is subtracted.
        noise_df: [E] estimate of tr C^2 (C + kappa I)^-2, the degrees of freedom whose noise is in w.
        weight_norm: [E] |w|.
    """

    margin: Tensor
    fitted: Tensor
    leverage: Tensor
    noise_df: Tensor
    weight_norm: Tensor


# x, y, stats, ridge, covariance
_backends = Operation[[Tensor, Tensor, FeatureStats, Tensor, Tensor], LeaveOneOut]("leave_one_out")


def leave_one_out(
    x: Tensor,
    y: Tensor,
    stats: FeatureStats,
    ridge: Tensor,
    *,
    covariance: Tensor | None = None,
    backend: str = "auto",
) -> LeaveOneOut:
    """Margins of all samples, each under the classifiers w = (S + g I)^-1 m of the other N - 1.

    With x~_i the sample less the mean of its class, n its class's number of samples, s_i = +-1 its class, A = (S + g I)^-1,

        p_i = s_i x~_i'A m,   q = m'A m,   h_i = x~_i'A x~_i / nu,   b = n/(n - 1),   d = 1/(2 (n - 1)),
        margin_i = q + (p_i + b p_i^2 / nu - nu d (1 + d) h_i) / (1 - b h_i),

    which follows from the rank-one update of the scatter and the move of the class mean (Sherman and Morrison). It is
    exact but for the change of nu to nu - 1 beside g, a relative change of the ridge of 1/nu.

    Args:
        x: floating [N, F] features; read in chunks.
        y: [N] labels 0/1.
        stats: their moments.
        ridge: float64 [E] g >= 0, in squared feature units.
        covariance: [F, F] in place of that of `stats`.
        backend: "auto", "blas" (one eigendecomposition for all ridges, any device) or "torch" (specification: one
            linear solve for each ridge).

    Raises:
        SynbenchError: shapes that do not fit, fewer than 2 samples of a class.
    """
    if x.ndim != 2 or x.shape[1] != stats.mean.shape[1] or y.shape != x.shape[:1]:
        raise SynbenchError(
            f"x: expected [N, {stats.mean.shape[1]}] with labels [N], got {list(x.shape)} and {list(y.shape)}"
        )
    if int(stats.count.min()) < 2:
        raise SynbenchError(
            f"samples: expected at least 2 of each class to leave one out, got {stats.count.tolist()}"
        )
    return _backends.on(x.device.type, backend)(
        x, y, stats, ridge.to(x.device), stats.covariance if covariance is None else covariance
    )


# centred samples [n, F] -> A m of them [n, E], leverages [n, E]
Forms = Callable[[Tensor], tuple[Tensor, Tensor]]


def leave_one_out_blas(
    x: Tensor, y: Tensor, stats: FeatureStats, ridge: Tensor, covariance: Tensor
) -> LeaveOneOut:
    values, vectors = torch.linalg.eigh(covariance)
    # Zeros in place of an index: which directions are kept would have to wait for a GPU.
    kept = values > CUT * len(values) * values[-1]
    resolvent = torch.where(
        kept[:, None], 1 / (torch.where(kept, values, 1.0)[:, None] + ridge), 0.0
    )  # [F, E]
    signal = vectors.T @ stats.half_difference
    weights = signal[:, None] * resolvent

    def forms(centred: Tensor) -> tuple[Tensor, Tensor]:
        rotated = centred @ vectors
        return rotated @ weights, rotated.square_() @ resolvent / stats.dof

    return margins_of_forms(x, y, stats, ridge, torch.where(kept, values, 0.0), signal, weights, forms)


def margins_of_forms(
    x: Tensor,
    y: Tensor,
    stats: FeatureStats,
    ridge: Tensor,
    values: Tensor,
    signal: Tensor,
    weights: Tensor,
    forms: Forms,
) -> LeaveOneOut:
    """values, signal [K]: eigenvalues (0 where dropped) and m in their basis; weights [K, E]: w in it."""
    nu = stats.dof
    margin = torch.empty(len(x), len(ridge), dtype=torch.float64, device=x.device)
    leverage = torch.empty_like(margin)
    rows = max(1, (CHUNK_BYTES if x.device.type == "cpu" else GPU_CHUNK_BYTES) // (8 * x.shape[1]))
    mean = stats.mean
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        one = (y[part] != 0)[:, None]
        margin[part], leverage[part] = forms(x[part].double() - torch.where(one, mean[1], mean[0]))
    one = (y != 0)[:, None]
    zeros, ones = (int(n) for n in stats.count)
    n = torch.where(one, ones, zeros).double()
    b, d = n / (n - 1), 0.5 / (n - 1)
    p = torch.where(one, margin, -margin)
    room = (1 - b * leverage).clamp_min(LEAST_ROOM)
    square = signal @ weights
    left_out = square + (p + b * p.square() / nu - nu * d * (1 + d) * leverage) / room
    return LeaveOneOut(left_out, square + p, leverage, _noise_df(values, ridge, nu), weights.norm(dim=0))


def _noise_df(values: Tensor, ridge: Tensor, nu: int) -> Tensor:
    """df + kappa d df/d kappa, with df = sum d/(d + g) and kappa = g/(1 - df/nu): tr C^2 (C + kappa I)^-2."""
    total = values[:, None] + ridge
    share = torch.where(total > 0, values[:, None] / torch.where(total > 0, total, 1.0), 0.0)
    df = share.sum(0)
    by_log_ridge = -(share * (1 - share)).sum(0)  # g d df/d g
    rho = 1 - df / nu
    # d log kappa / d log g = 1 + (g d df/d g) / (nu rho)
    return df + by_log_ridge / (1 + by_log_ridge / (nu * rho))
