"""In which arithmetic an encoder runs, and what that does to its score: measured, never assumed.

A dtype below float32 adds rounding noise of its own to the features. On the first scale that runs, the same
samples go through the encoder in float32 as well, and one fixed set of classifiers is applied to both:

    t_hat = (mean_1 - mean_0) / (2 s)      of the margins u = h'w, s their pooled deviation
    difference = t_hat(dtype) - t_hat(float32)

w are the classifiers of the scale's moments in the dtype. At eps = 0 the best classifier is a maximum of t,
so by the envelope theorem a fixed one is right to first order; the samples are paired, so their noise cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.feature_stats import FeatureStats
from synbench_fast.ops.robust_solve import robust_solve
from synbench_fast.results.records import ArithmeticCheck, ArithmeticPoint
from synbench_fast.stats import gaussian
from synbench_fast.stats.estimators import find_estimator
from synbench_fast.stats.point import CurvePoint

__all__ = [
    "DTYPES",
    "Arithmetic",
    "arithmetic_of",
    "candidates",
    "compare",
    "margin_ratio",
]

CHECKED = 256  # samples that run in float32 as well
TENSOR_CORES = (8, 0)  # compute capability from which GPUs have bfloat16 and TF32 products


@dataclass(frozen=True)
class Arithmetic:
    """Name, dtype of weights and samples, and whether products of float32 may be rounded to TF32."""

    name: str
    dtype: torch.dtype
    tf32: bool = False

    @property
    def reduced(self) -> bool:
        """Whether its arithmetic is coarser than float32's."""
        return self.tf32 or torch.finfo(self.dtype).bits < 32


DTYPES = {
    one.name: one
    for one in (
        Arithmetic("float32", torch.float32),
        Arithmetic("tf32", torch.float32, tf32=True),
        Arithmetic("bfloat16", torch.bfloat16),
        Arithmetic("float16", torch.float16),
        Arithmetic("float64", torch.float64),
    )
}


def arithmetic_of(dtype: torch.dtype) -> Arithmetic:
    """The arithmetic of an encoder that owns its dtype, such as a Module that is left as it is."""
    name = str(dtype).removeprefix("torch.")
    return DTYPES.get(name) or Arithmetic(name, dtype)


def candidates(
    wanted: str, own: torch.dtype | None, castable: bool, device: torch.device, capability: tuple[int, int]
) -> list[Arithmetic]:
    """What to run in, best first; all but the last have to show that they are accurate enough.

    Args:
        wanted: the dtype of `ScoreConfig`.
        own: dtype of a caller's encoder, which "auto" keeps; None for one that was loaded from a spec.
        castable: whether the encoder has weights that can be converted.
        device: where it runs.
        capability: compute capability of that GPU; (0, 0) elsewhere.

    Raises:
        SynbenchError: TF32 where there is none.
    """
    there = device.type == "cuda" and capability >= TENSOR_CORES
    if wanted == "tf32" and not there:
        found = (
            f"{device} (compute capability {capability[0]}.{capability[1]})" if any(capability) else device
        )
        raise SynbenchError(
            "dtype: expected one that the device computes in; tf32 needs a CUDA GPU of compute capability 8.0 "
            f"or newer, got {found}"
        )
    if wanted != "auto":
        return [DTYPES[wanted]]
    if own is not None:
        return [arithmetic_of(own)]
    if there and castable:
        return [DTYPES["bfloat16"], DTYPES["tf32"], DTYPES["float32"]]
    return [DTYPES["float32"]]


def margin_ratio(margins: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """t_hat = (mean_1 - mean_0) / (2 s) of margins [n, E] with labels [n], s the pooled deviation.

    Returns:
        t_hat, float64 [E], 0 where the margins do not vary, and the influence of each sample on it, float64
        [n, E]: the variance of t_hat, or of a difference of two, is the sum of squares of its influences.
    """
    margins = margins.double()
    one = (y == 1).to(margins)[:, None]
    ones, zeros = one.sum(), (1 - one).sum()
    mean_1, mean_0 = (margins * one).sum(0) / ones, (margins * (1 - one)).sum(0) / zeros
    centred = margins - torch.where(one > 0, mean_1, mean_0)
    deviation = (centred.square().sum(0) / (len(y) - 2)).sqrt()
    units = torch.where(deviation > 0, centred / deviation, 0.0)
    t = torch.where(deviation > 0, (mean_1 - mean_0) / (2 * deviation), 0.0)
    of_means = torch.where(one > 0, units / ones, -units / zeros) / 2
    return t, of_means - t / 2 * (units.square() - 1) / len(y)


def compare(
    arithmetic: Arithmetic,
    stats: FeatureStats,
    point: CurvePoint,
    features: Tensor,
    reference: Tensor,
    y: Tensor,
    *,
    eps: Sequence[float],
    scale: float,
    scales: int,
    prior: float,
    threshold: float,
    raw_terms: Sequence[float],
    backend: str = "auto",
) -> ArithmeticCheck:
    """How far the features of one scale in `arithmetic` are from float32, in t and in the scale's part of the score.

    It is accurate enough if |difference| <= stderr(t) / sqrt(scales) at every eps, and the difference is known
    to that: a systematic difference adds up over the scales, while their sampling errors average out.

    Args:
        stats: moments of the scale in `arithmetic` (for the paper's estimator its training half).
        point: what the estimator made of them; its first budgets are `eps`.
        features, reference: [n, F] of the same samples, in `arithmetic` and in float32.
        y: [n] their labels.
        scales: S, how many scales the run has.
        threshold: a_t of the score whose difference is reported.
        raw_terms: per eps bound * max(0, accuracy - a_t) of the raw data at this scale.

    Returns:
        ArithmeticCheck, `used` if accurate enough, with one ArithmeticPoint per eps. Its score_difference is what
        a run of scales like this one would have: (h(t) - h(t - difference)) / h(raw) with
        h(t) = bound(t) max(0, accuracy(t) - a_t); NaN where the raw data do not exceed a_t.
    """
    solution = robust_solve(
        stats.half_difference,
        stats.covariance,
        torch.tensor(list(eps), dtype=torch.float64),
        moments=find_estimator(point.estimator).moments,
        dof=stats.dof,
        c0=stats.c0,
        weights=True,
        backend=backend,
    )
    weights = solution.weights.to(features.device)
    there, exact = (margin_ratio(one.double() @ weights.T, y) for one in (features, reference.to(features)))
    difference = (there[0] - exact[0]).cpu()
    error = (there[1] - exact[1]).square().sum(0).sqrt().cpu()
    count = len(eps)
    t, t_rob = torch.from_numpy(point.t)[:count], torch.from_numpy(point.t_rob)[:count]
    k = gaussian.threshold_shift(gaussian.log_prior_offset(prior), t_rob.square())
    term = _term(t, k, prior, threshold) - _term((t - difference).clamp_min(0), k, prior, threshold)
    raw = torch.tensor(list(raw_terms), dtype=torch.float64)
    score = torch.where(raw > 0, term / raw, torch.nan)
    stderr = torch.from_numpy(point.stderr)[:count]
    limit = stderr / scales**0.5
    accurate = bool(((difference.abs() <= limit) & (error <= limit)).all())
    reason = "t differs from float32 by more than stderr(t) / sqrt(number of scales)"
    if not bool(torch.isfinite(difference).all()):
        reason = f"t of float32 is unknown: {len(y)} samples do not hold both classes"
    elif bool((difference.abs() <= limit).all()):
        reason = "the difference of t to float32 is not known to stderr(t) / sqrt(number of scales)"
    return ArithmeticCheck(
        dtype=arithmetic.name,
        used=accurate,
        reason="" if accurate else reason,
        scale=scale,
        samples=len(y),
        points=[
            ArithmeticPoint(
                eps=one,
                t_difference=float(difference[e]),
                t_difference_stderr=float(error[e]),
                t_stderr=float(stderr[e]),
                score_difference=float(score[e]),
            )
            for e, one in enumerate(eps)
        ],
    )


def _term(t: Tensor, k: Tensor, prior: float, threshold: float) -> Tensor:
    """bound * max(0, accuracy - threshold); 0 without a signal."""
    excess = (gaussian.accuracy(t, k, prior) - threshold).clamp_min(0)
    return torch.where((t > 0) & (excess > 0), gaussian.bound(t, k, prior) * excess, 0.0)
