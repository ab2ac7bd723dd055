"""Means over the scales and their errors, against plain arithmetic and numerical derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from synbench_fast.area_errors import expected_slopes
from torch import Tensor

from synbench_fast.ops.score_auc import score_auc
from synbench_fast.stats.averages import Averages, over_fit, over_sampled, scale_slopes
from synbench_fast.stats.estimators import gaussian_curve
from synbench_fast.stats.point import CurvePoint
from synbench_fast.stats.smooth import fit_scales
from synbench_fast.task import spread_scales

Array = np.ndarray[Any, np.dtype[np.float64]]

SCALES = np.array(spread_scales(6))
WANTED = np.array(spread_scales(9))
BUDGETS, NODES = (0.0, 0.3), (0.2, 0.7)  # of the scores, and of the robust area
QUADRATURE = np.array([0.6, 0.4])
THRESHOLDS = torch.tensor([0.65, 0.8], dtype=torch.float64)


def term(t: Array, t_rob: Array, threshold: float, prior: float) -> Array:
    """bound * max(0, accuracy - threshold), from the definitions."""
    k = math.log((1 - prior) / prior) / 2 / t_rob

    def positive(x: Array) -> Array:
        return np.asarray(x * norm.cdf(x) + norm.pdf(x))

    accuracy = prior * norm.cdf(t - k) + (1 - prior) * norm.cdf(t + k)
    bound = (prior * positive(t - k) + (1 - prior) * positive(t + k)) / (t * accuracy)
    return np.asarray(bound * np.maximum(0.0, accuracy - threshold))


def robust(t_rob: Array, prior: float) -> Array:
    k = math.log((1 - prior) / prior) / 2 / t_rob
    return np.asarray(prior * norm.cdf(t_rob - k) + (1 - prior) * norm.cdf(t_rob + k))


def points_of(prior: float, error: float, seed: int = 0) -> list[CurvePoint]:
    """Points at BUDGETS and NODES whose t and t_rob bend, with errors that are correlated and small."""
    rng = np.random.default_rng(seed)
    eps = np.array(BUDGETS + NODES)
    points = []
    for scale in SCALES:
        t = 0.8 * scale * (1 - 0.1 * eps) / (1 + 0.04 * scale)
        t_rob = t * (1 - eps)
        root = rng.standard_normal((2 * len(eps), 2 * len(eps))) * error * (1 + scale / 5)
        joint = root @ root.T
        size = len(eps)
        fields = gaussian_curve(
            t, t_rob, joint[:size, :size], joint[size:, size:], joint[:size, size:], prior
        )
        point = CurvePoint(
            **fields,
            eps=eps,
            ridge=np.zeros(size),
            kappa=np.zeros(size),
            count=100,
            feature_dim=4,
            rank=4,
            estimator="consistent",
        )
        points.append(point)
    return points


def area(accuracy: Tensor, bound: Tensor) -> Tensor:
    return score_auc(accuracy[:, :2].T, bound[:, :2].T, THRESHOLDS)


def by_differences(function: Callable[[Array], float], at: Array) -> Array:
    step = 1e-6
    return np.array(
        [(function(at + step * unit) - function(at - step * unit)) / (2 * step) for unit in np.eye(len(at))]
    )


def joint_covariance(point: CurvePoint, count: int) -> Array:
    """Of t and t_rob at the first `count` budgets."""
    t, rob, cross = (
        np.asarray(one)[:count, :count] for one in (point.t_cov, point.t_rob_cov, point.cross_cov)
    )
    return np.block([[t, cross], [cross.T, rob]])


def check_errors(
    found: Averages, points: list[CurvePoint], mean_area: Callable[[Array, Array, int, int], float]
) -> None:
    """variance and covariance are J C J' with the numerical J of `mean_area(t [S, E], t_rob [S, E], e, a)`."""
    t, t_rob = (np.stack([getattr(p, name) for p in points])[:, :2] for name in ("t", "t_rob"))
    shape = (len(points), 2 * 2)

    def of(flat: Array, e: int, a: int) -> float:
        values = flat.reshape(len(points), 2, 2)  # scale, kind, budget
        return mean_area(values[:, 0], values[:, 1], e, a)

    at = np.stack([t, t_rob], axis=1).reshape(-1)
    slopes = np.array([by_differences(partial(of, e=e, a=a), at) for e in range(2) for a in range(2)])
    slopes = slopes.reshape(4, *shape)
    parts = [slopes[:, s] @ joint_covariance(p, 2) @ slopes[:, s].T for s, p in enumerate(points)]
    largest = max(float(one.max()) for one in parts)
    assert found.covariance is not None
    np.testing.assert_allclose(found.covariance.numpy(), sum(parts), rtol=2e-3, atol=1e-4 * largest)
    for s, one in enumerate(parts):
        np.testing.assert_allclose(
            found.variance[s].reshape(-1).numpy(), one.diagonal(), rtol=2e-3, atol=1e-4 * largest
        )


@pytest.mark.parametrize("prior", [0.5, 0.4])
def test_over_the_sampled_scales(prior: float) -> None:
    points = points_of(prior, 1e-5)
    found = over_sampled(points, area, THRESHOLDS, 2, QUADRATURE, prior)

    def mean_area(t: Array, t_rob: Array, e: int, a: int) -> float:
        return float(term(t[:, e], t_rob[:, e], float(THRESHOLDS[a]), prior).mean())

    t, t_rob = (np.stack([getattr(p, name) for p in points]) for name in ("t", "t_rob"))
    expected = [[mean_area(t, t_rob, e, a) for a in range(2)] for e in range(2)]
    np.testing.assert_allclose(found.area.numpy(), expected, rtol=1e-12)
    check_errors(found, points, mean_area)
    accuracy = np.stack([robust(t_rob[:, 2 + q], prior) for q in range(2)], axis=1)
    assert found.robust_area == pytest.approx((accuracy @ QUADRATURE).mean(), rel=1e-12)
    variance = 0.0
    for p in points:
        slope = QUADRATURE * (robust(p.t_rob[2:] + 1e-6, prior) - robust(p.t_rob[2:] - 1e-6, prior)) / 2e-6
        variance += slope @ np.asarray(p.t_rob_cov)[2:, 2:] @ slope / 36
    assert found.robust_area_stderr == pytest.approx(math.sqrt(variance), rel=1e-5)
    assert found.fits is None


@pytest.mark.parametrize("prior", [0.5, 0.4])
def test_over_a_fit(prior: float) -> None:
    points = points_of(prior, 1e-5)
    found = over_fit(points, SCALES, WANTED, area, THRESHOLDS, 2, QUADRATURE, prior)
    t, t_rob, t_error = (np.stack([getattr(p, name) for p in points]) for name in ("t", "t_rob", "stderr"))
    rob_error = np.sqrt(np.stack([np.diagonal(np.asarray(p.t_rob_cov)) for p in points]))
    fits = [fit_scales(SCALES, t[:, e], t_error[:, e], WANTED) for e in range(2)]
    robust_fits = [fit_scales(SCALES, t_rob[:, e], rob_error[:, e], WANTED) for e in range(4)]

    def mean_area(t: Array, t_rob: Array, e: int, a: int) -> float:
        there, there_rob = fits[e].matrix @ t[:, e], robust_fits[e].matrix @ t_rob[:, e]
        return float(term(there, there_rob, float(THRESHOLDS[a]), prior).mean())

    expected = [[mean_area(t, t_rob, e, a) for a in range(2)] for e in range(2)]
    np.testing.assert_allclose(found.area.numpy(), expected, rtol=1e-12)
    check_errors(found, points, mean_area)
    assert found.fits is not None
    for one, other in zip(found.fits, fits, strict=True):
        np.testing.assert_array_equal(one.coefficients, other.coefficients)

    def robust_area(flat: Array) -> float:
        values = flat.reshape(t_rob[:, 2:].shape)
        there = [robust(robust_fits[2 + q].matrix @ values[:, q], prior).mean() for q in range(2)]
        return float(QUADRATURE @ there)

    assert found.robust_area == pytest.approx(robust_area(t_rob[:, 2:].reshape(-1)), rel=1e-12)
    slopes = by_differences(robust_area, t_rob[:, 2:].reshape(-1)).reshape(-1, 2)
    variance = sum(
        slope @ np.asarray(p.t_rob_cov)[2:, 2:] @ slope for slope, p in zip(slopes, points, strict=True)
    )
    assert found.robust_area_stderr == pytest.approx(math.sqrt(variance), rel=1e-5)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("prior", [0.5, 0.4])
def test_slopes_of_several_encoders(prior: float, fitted: bool) -> None:
    """Up to one factor the numerical derivative in t at fixed t_rob."""
    t = np.stack([0.8 * SCALES / (1 + 0.04 * SCALES), 0.5 * SCALES + 0.02 * SCALES**2])
    t_rob = t * np.array([[0.7], [0.8]])
    error = 1e-5 * (1 + t)
    found = scale_slopes(SCALES, t, t_rob, error, 0.7, prior, WANTED if fitted else None)
    for m in range(2):
        to_t = to_rob = np.eye(len(SCALES))
        if fitted:
            to_t, to_rob = (fit_scales(SCALES, one, error[m], WANTED).matrix for one in (t[m], t_rob[m]))

        def total(values: Array, m: int = m, to_t: Array = to_t, to_rob: Array = to_rob) -> float:
            return float(term(to_t @ values, to_rob @ t_rob[m], 0.7, prior).sum())

        expected = by_differences(total, t[m])
        np.testing.assert_allclose(found[m], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("prior", [0.5, 0.4])
def test_errors_decide_how_likely_a_scale_counts(prior: float) -> None:
    """Where t is near the threshold, slopes are weighed by that chance, with the errors that the fit leaves."""
    t = np.stack([0.3 * SCALES, 0.25 * SCALES + 0.01 * SCALES**2])
    t_rob, error = 0.8 * t, 0.2 * np.ones_like(t)
    level = torch.tensor([0.7], dtype=torch.float64)
    found = scale_slopes(SCALES, t, t_rob, error, 0.7, prior, WANTED)
    for m in range(2):
        fit, fit_rob = (fit_scales(SCALES, one, error[m], WANTED) for one in (t[m], t_rob[m]))
        spread = np.sqrt(np.square(fit.matrix) @ np.square(error[m]))
        there_rob = fit.value if prior == 0.5 else fit_rob.value
        by_t, _ = expected_slopes(
            *(torch.from_numpy(x) for x in (fit.value, there_rob, spread)), level, prior
        )
        np.testing.assert_allclose(found[m], fit.matrix.T @ by_t[:, 0].numpy(), rtol=1e-10)
    points = points_of(prior, 0.1)
    averages = over_fit(points, SCALES, WANTED, area, THRESHOLDS, 2, QUADRATURE, prior)
    for e in range(2):
        given = [np.array([getattr(p, name)[e] for p in points]) for name in ("t", "stderr", "t_rob")]
        rob_error = np.sqrt([np.asarray(p.t_rob_cov)[e, e] for p in points])
        fit = fit_scales(SCALES, given[0], given[1], WANTED)
        fit_rob = fit_scales(SCALES, given[2], rob_error, WANTED)
        spread = np.sqrt(np.square(fit.matrix) @ np.square(given[1]))
        both = expected_slopes(
            *(torch.from_numpy(x) for x in (fit.value, fit_rob.value, spread)), THRESHOLDS, prior
        )
        slopes = [
            one.matrix.T @ by.numpy() / len(WANTED) for one, by in zip((fit, fit_rob), both, strict=True)
        ]
        for s, p in enumerate(points):
            joint = joint_covariance(p, 2)[np.ix_([e, 2 + e], [e, 2 + e])]
            for a in range(2):
                slope = np.array([slopes[0][s, a], slopes[1][s, a]])
                assert float(averages.variance[s, e, a]) == pytest.approx(slope @ joint @ slope, rel=1e-9)
