"""What the scales add up to: mean over the scales of bound * max(0, accuracy - a_t), and of robust accuracy.

Either over the scales that were sampled, or over those of the published grid, by a fit of t(s) (see `smooth`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast import gaussian
from synbench_fast.area_errors import (
    area_covariance,
    area_terms,
    deviation,
    expected_slopes,
    propagate,
    robust_area_stderr,
    robust_slope,
    shift,
)
from synbench_fast.results import CurvePoint
from synbench_fast.smooth import Fit, fit_scales

__all__ = ["Area", "Averages", "over_fit", "over_sampled", "scale_slopes"]

Array = NDArray[np.float64]
Area = Callable[[Tensor, Tensor], Tensor]  # accuracy and bound [S, E] -> mean area [E, A]


@dataclass(frozen=True)
class Averages:
    """Means over the scales, and their sampling errors.

    area: [E, A]; variance: [S, E, A], what each sampled scale adds to that of the area, with `area` as the
    integral; covariance: [E A, E A], eps-major, None if unknown; robust_area and its error; fits: of t, per budget.
    """

    area: Tensor
    variance: Tensor
    covariance: Tensor | None
    robust_area: float
    robust_area_stderr: float
    fits: list[Fit] | None = None


def over_sampled(
    points: Sequence[CurvePoint], area: Area, thresholds: Tensor, count: int, quadrature: Array, prior: float
) -> Averages:
    """Over the points' own scales.

    Args:
        points: S points at E budgets, then at those of the robust area.
        area: the integral.
        thresholds: [A].
        count: E.
        quadrature: weights of the robust area's budgets.
        prior: tau of the task.
    """
    accuracy = torch.from_numpy(np.stack([p.accuracy for p in points]))
    bound = torch.from_numpy(np.stack([p.bound for p in points]))
    terms = [area_terms(p, thresholds, prior) for p in points]
    slopes = [
        (None, None) if one.by_t is None or one.by_t_rob is None else (one.by_t[:count], one.by_t_rob[:count])
        for one in terms
    ]
    covariance = area_covariance(points, slopes)
    weights = np.concatenate([np.zeros(count), quadrature])
    errors = [robust_area_stderr(p, weights, prior) for p in points]
    return Averages(
        area=area(accuracy, bound),
        variance=torch.stack([one.stderr[:count] for one in terms]).square() / len(points) ** 2,
        covariance=None if covariance is None else covariance / len(points) ** 2,
        robust_area=float(np.mean([p.robust_accuracy @ weights for p in points])),
        robust_area_stderr=float(np.sqrt(np.sum(np.square(errors)))) / len(points),
    )


def over_fit(
    points: Sequence[CurvePoint],
    scales: Sequence[float],
    wanted: Sequence[float],
    area: Area,
    thresholds: Tensor,
    count: int,
    quadrature: Array,
    prior: float,
) -> Averages:
    """Over the scales `wanted`, by fits of t(s) and t_rob(s) to the points at `scales`; else as `over_sampled`."""
    given, at = np.array(scales), np.array(wanted)
    t, t_rob, t_var, t_rob_var = (
        np.stack(one)
        for one in (
            [p.t for p in points],
            [p.t_rob for p in points],
            [np.square(p.stderr) for p in points],
            [np.diagonal(_known(p.t_rob_cov)) for p in points],
        )
    )
    fits = [fit_scales(given, t[:, e], np.sqrt(t_var[:, e]), at) for e in range(count)]
    robust = [fit_scales(given, t_rob[:, e], np.sqrt(t_rob_var[:, e]), at) for e in range(t_rob.shape[1])]
    value, value_rob = (
        torch.from_numpy(np.stack([f.value for f in one], 1)) for one in (fits, robust[:count])
    )
    k, _ = shift(value_rob, prior)
    by_t, by_t_rob = [], []
    for e, (fit, fit_rob) in enumerate(zip(fits, robust[:count], strict=True)):
        matrix, matrix_rob = torch.from_numpy(fit.matrix), torch.from_numpy(fit_rob.matrix)
        stderr = (matrix.square() @ torch.from_numpy(t_var[:, e])).sqrt()
        slope, slope_rob = expected_slopes(value[:, e], value_rob[:, e], stderr, thresholds, prior)
        by_t.append(matrix.T @ slope / len(at))
        by_t_rob.append(matrix_rob.T @ slope_rob / len(at))
    slopes = [
        (torch.stack([one[i] for one in by_t]), torch.stack([one[i] for one in by_t_rob]))
        for i in range(len(points))
    ]
    variance = [
        propagate(
            *one, *(torch.tensor(c).diagonal()[:count, None] for c in (p.t_cov, p.t_rob_cov, p.cross_cov))
        ).square()
        for one, p in zip(slopes, points, strict=True)
    ]
    robust_area, moved = 0.0, np.zeros((len(points), len(quadrature)))
    for q, (weight, fit) in enumerate(zip(quadrature, robust[count:], strict=True)):
        there = torch.from_numpy(fit.value)
        robust_area += weight * float(gaussian.accuracy(there, shift(there, prior)[0], prior).mean())
        moved[:, q] = weight * (fit.matrix.T @ robust_slope(there, prior).numpy()) / len(at)
    errors = [deviation(_known(p.t_rob_cov)[count:, count:], w) for p, w in zip(points, moved, strict=True)]
    return Averages(
        area=area(gaussian.accuracy(value, k, prior), gaussian.bound(value, k, prior)),
        variance=torch.stack(variance),
        covariance=area_covariance(points, slopes),
        robust_area=robust_area,
        robust_area_stderr=float(np.sqrt(np.sum(np.square(errors)))),
        fits=fits,
    )


def scale_slopes(
    scales: Sequence[float],
    t: Array,
    t_rob: Array,
    stderr: Array,
    threshold: float,
    prior: float,
    wanted: Sequence[float] | None,
) -> Array:
    """[M, S] derivative of the area above a threshold in the t [M, S] of each scale, of M encoders at one budget.

    Up to one factor, that of the mean over the scales, and at fixed t_rob.

    wanted: the scales of the average by a fit; None for the sampled ones.
    """
    level = torch.tensor([threshold], dtype=torch.float64)

    def slopes(*values: Array) -> Array:
        signal, attacked, error = (torch.from_numpy(np.ascontiguousarray(one)).reshape(-1) for one in values)
        by_t, _ = expected_slopes(signal, attacked, error, level, prior)
        return np.asarray(by_t.numpy()).reshape(values[0].shape)

    if wanted is None:
        return slopes(t, t_rob, stderr)
    given, at = np.array(scales), np.array(wanted)
    fits = [fit_scales(given, *one, at) for one in zip(t, stderr, strict=True)]
    value = np.stack([one.value for one in fits])
    # t_rob counts through the log-prior term alone; its own errors are not known from a result.
    attacked = value
    if prior != 0.5:
        attacked = np.stack([fit_scales(given, *one, at).value for one in zip(t_rob, stderr, strict=True)])
    matrix = np.stack([one.matrix for one in fits])
    spread = np.sqrt(np.einsum("mjs,ms->mj", np.square(matrix), np.square(stderr)))
    return np.asarray(np.einsum("mjs,mj->ms", matrix, slopes(value, attacked, spread)))


def _known(covariance: Array | None) -> Array:
    assert covariance is not None  # of `consistent`, the only estimator whose t is fitted
    return covariance
