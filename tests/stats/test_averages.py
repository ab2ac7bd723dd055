"""Means over the scales and their errors, against plain arithmetic, numerical derivatives and simulation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from checks import Array, gaussian_point
from torch import Tensor

from synbench_fast.ops.score_auc import score_auc
from synbench_fast.scales import spread_scales
from synbench_fast.stats.averages import Averages, over_scales
from synbench_fast.stats.point import CurvePoint
from synbench_fast.stats.smooth import fit_accuracy, fit_reach

SCALES = spread_scales(8)
WANTED = spread_scales(12)
BUDGETS, NODES = (0.0, 0.3), (0.2, 0.7)  # of the scores, and of the robust area
QUADRATURE = np.array([0.6, 0.4])
THRESHOLDS = (0.65, 0.8)


def points_of(error: float, slope: float = 0.8, **changes: Any) -> list[CurvePoint]:
    return [
        gaussian_point(BUDGETS + NODES, slope * s / (1 + 0.04 * s), error=error, seed=i, **changes)
        for i, s in enumerate(SCALES)
    ]


def area(accuracy: Tensor, bound: Tensor) -> Tensor:
    return score_auc(accuracy[:, :2].T, bound[:, :2].T, torch.tensor(THRESHOLDS, dtype=torch.float64))


def found_of(points: list[CurvePoint], fitted: bool) -> Averages:
    return over_scales(points, SCALES, WANTED if fitted else None, area, THRESHOLDS, QUADRATURE)


def values(points: list[CurvePoint]) -> Array:
    """[S, 2, E] accuracies and reaches of the score's budgets."""
    return np.stack([np.stack([p.accuracy[:2], p.accuracy[:2] * p.bound[:2]]) for p in points])


def maps(points: list[CurvePoint], fitted: bool) -> list[tuple[Any, Any]]:
    """Per budget what turns accuracies, and reaches, of the sampled scales into those of the wanted ones."""
    if not fitted:
        return [(lambda a: a, lambda r: r)] * 2
    out = []
    for e in range(2):
        errors = np.stack([np.sqrt(np.diagonal(np.asarray(p.covariance))) for p in points])
        at, given = np.array(WANTED), np.array(SCALES)
        accuracy = fit_accuracy(given, values(points)[:, 0, e], errors[:, e], at)
        reach = fit_reach(given, values(points)[:, 1, e], errors[:, 4 + e], at)
        # value = matrix @ (measured - 1/2) + 1/2
        out.append(
            tuple((lambda x, m=one.matrix: np.asarray(m @ (x - 0.5) + 0.5)) for one in (accuracy, reach))
        )
    return out


@pytest.mark.parametrize("fitted", [False, True])
def test_areas_and_their_errors_by_numerical_derivatives(fitted: bool) -> None:
    points = points_of(1e-5)
    found, turn = found_of(points, fitted), maps(points, fitted)

    def mean_area(given: Array, e: int, a: int) -> float:
        accuracy, reach = turn[e][0](given[:, 0, e]), turn[e][1](given[:, 1, e])
        return float(np.mean(reach / accuracy * np.maximum(0.0, accuracy - THRESHOLDS[a])))

    at, places = values(points), [(e, a) for e in range(2) for a in range(2)]
    np.testing.assert_allclose(found.area.reshape(-1), [mean_area(at, e, a) for e, a in places], rtol=1e-10)
    jacobian = np.zeros((4, len(points), 4))
    for row, (e, a) in enumerate(places):
        for s in range(len(points)):
            for kind in range(2):
                up, down = at.copy(), at.copy()
                up[s, kind, e] += 1e-6
                down[s, kind, e] -= 1e-6
                jacobian[row, s, 2 * kind + e] = (mean_area(up, e, a) - mean_area(down, e, a)) / 2e-6
    rows = [0, 1, 4, 5]  # accuracy and reach at the first two of four budgets
    parts = [
        jacobian[:, s] @ np.asarray(p.covariance)[np.ix_(rows, rows)] @ jacobian[:, s].T
        for s, p in enumerate(points)
    ]
    largest = max(float(one.max()) for one in parts)
    np.testing.assert_allclose(found.covariance, sum(parts), rtol=2e-3, atol=1e-3 * largest)
    for s, one in enumerate(parts):
        np.testing.assert_allclose(
            found.variance[s].reshape(-1), one.diagonal(), rtol=2e-3, atol=1e-3 * largest
        )
    for row, (e, a) in enumerate(places):
        for kind in range(2):
            expected = jacobian[row, :, 2 * kind + e]
            np.testing.assert_allclose(
                found.slopes[:, kind, e, a], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
            )
    assert (found.fits is not None) == fitted


@pytest.mark.parametrize("fitted", [False, True])
def test_the_robust_area_and_its_error(fitted: bool) -> None:
    points = points_of(1e-5)
    found = found_of(points, fitted)
    robust = np.stack([p.robust_accuracy[2:] for p in points]) @ QUADRATURE
    variance = np.array([QUADRATURE @ np.asarray(p.covariance)[10:, 10:] @ QUADRATURE for p in points])
    matrix = np.eye(len(points))
    if fitted:
        fit = fit_accuracy(np.array(SCALES), robust, np.sqrt(variance), np.array(WANTED))
        robust, matrix = fit.value, fit.matrix
    weight = matrix.mean(0)
    assert found.robust_area == pytest.approx(robust.mean(), rel=1e-12)
    assert found.robust_area_stderr == pytest.approx(math.sqrt(np.square(weight) @ variance), rel=1e-6)


@pytest.mark.parametrize("slope", [0.2, 0.5, 1.0])
def test_errors_near_a_threshold_are_those_of_what_is_cut_there(slope: float) -> None:
    """Drawn accuracies and reaches with the stated covariance: the spread of the areas is the stated one."""
    points = points_of(0.02, slope)
    stated = np.sqrt(np.diagonal(found_of(points, False).covariance))
    rng = np.random.default_rng(0)
    areas = np.zeros((4000, 2, 2))
    for p in points:
        assert p.covariance is not None
        values_, vectors = np.linalg.eigh(p.covariance)
        moved = rng.standard_normal((4000, 12)) @ (vectors * np.sqrt(values_.clip(0))).T
        accuracy = p.accuracy[:2] + moved[:, :2]
        reach = p.accuracy[:2] * p.bound[:2] + moved[:, 4:6]
        ratio = (reach / accuracy)[..., None] * np.maximum(0, accuracy[..., None] - np.array(THRESHOLDS))
        areas += ratio / len(points)
    np.testing.assert_allclose(stated, areas.std(0).reshape(-1), rtol=0.12)


def test_a_scale_without_a_signal_counts_nothing() -> None:
    """Its reach is infinite and has no error."""
    points = points_of(1e-3)
    silent = gaussian_point(BUDGETS + NODES, 0.0, error=1e-3)
    covariance = np.asarray(silent.covariance).copy()
    covariance[4:8], covariance[:, 4:8] = np.nan, np.nan
    with_silent = [replace(silent, covariance=covariance), *points[1:]]
    for fitted in (False, True):
        found = found_of(with_silent, fitted)
        assert np.all(np.isfinite(found.area)) and np.all(np.isfinite(found.covariance))
        assert np.all(np.isfinite(found.variance)) and np.isfinite(found.robust_area_stderr)
    plain = found_of(with_silent, False)
    rest = over_scales(points[1:], SCALES[1:], None, area, THRESHOLDS, QUADRATURE)
    np.testing.assert_allclose(plain.area * 8, rest.area * 7, rtol=1e-12)


def test_certain_scales_add_no_infinity() -> None:
    points = points_of(1e-3)
    one = gaussian_point(
        BUDGETS + NODES, 9.0, error=1e-6, **{name: np.full(4, np.inf) for name in ("t_rob",)}
    )
    certain = replace(one, t=np.full(4, np.inf), accuracy=np.ones(4), bound=np.ones(4))
    for fitted in (False, True):
        found = found_of([*points[:-1], certain], fitted)
        assert np.all(np.isfinite(found.area)) and np.all(np.isfinite(found.covariance))
        assert np.all(found.area > found_of(points, fitted).area - 0.01)


def test_drift_is_summed_with_the_slopes_and_widens_beyond_its_noise() -> None:
    points = points_of(1e-4)
    rng = np.random.default_rng(0)
    drifts = [0.01 + 1e-4 * rng.standard_normal(12) for _ in points]
    moved = [replace(p, drift=d) for p, d in zip(points, drifts, strict=True)]
    plain, found = found_of(points, False), found_of(moved, False)
    expected = np.zeros((2, 2))
    for s, d in enumerate(drifts):
        for e in range(2):
            expected[e] += found.slopes[s, 0, e] * d[e] + found.slopes[s, 1, e] * d[4 + e]
    np.testing.assert_allclose(found.drift, expected, rtol=1e-10)
    assert np.all(np.isnan(plain.drift)) and np.all(np.isfinite(found.drift_stderr))
    widened = np.sqrt(np.diagonal(found.covariance))
    assert np.all(widened > 0.9 * np.abs(found.drift.reshape(-1)))
    assert np.all(widened > 5 * np.sqrt(np.diagonal(plain.covariance)))
    assert found.robust_area_stderr > 0.005 > plain.robust_area_stderr
    # What the scales add to the variance adds up to all of it.
    np.testing.assert_allclose(found.variance.sum(0).reshape(-1), np.diagonal(found.covariance), rtol=1e-9)
    # Noise of neighbouring scales that differ: nothing is added.
    noise = [replace(p, drift=1e-3 * rng.standard_normal(12)) for p in points]
    small = found_of(noise, False)
    assert np.all(np.diagonal(small.covariance) < 2e-6)


def test_corrections_that_the_optimism_does_not_bear_out_widen() -> None:
    """Of fitted samples the accuracy exceeds that of left-out ones by what Gaussian margins say, or does not."""
    points = points_of(1e-4)

    def stderr(ratio: float) -> Array:
        expected = np.full(4, 0.03)
        doubtful = [
            replace(
                p,
                correction=np.full(12, 0.02),
                optimism=np.stack([ratio * expected, expected, expected, expected]),
            )
            for p in points
        ]
        return np.sqrt(np.diagonal(found_of(doubtful, False).covariance))

    plain = np.sqrt(np.diagonal(found_of(points, False).covariance))
    np.testing.assert_allclose(stderr(1.0), plain, rtol=1e-9)
    slopes = found_of(points, False).slopes.sum(0)  # [2, E, A]
    added = 0.5 * 0.02 * np.hypot(slopes[0], slopes[1]).reshape(-1)
    np.testing.assert_allclose(stderr(1.5), np.hypot(plain, added), rtol=1e-6)
    np.testing.assert_allclose(stderr(0.5), stderr(1.5), rtol=1e-9)


def test_samples_that_pile_up_at_the_boundary_widen() -> None:
    points = points_of(1e-4)
    undecided = np.zeros(12)
    undecided[:4] = 0.05
    found = found_of([replace(p, undecided=undecided) for p in points], False)
    plain = found_of(points, False)
    added = np.square(0.05 * plain.slopes[:, 0].sum(0)).reshape(-1)
    np.testing.assert_allclose(np.diagonal(found.covariance - plain.covariance), added, rtol=1e-6)


def test_a_half_without_a_signal_leaves_the_drift_of_the_rest() -> None:
    points = points_of(1e-4)
    drifts = [np.full(12, 0.01) for _ in points]
    drifts[0][4:8] = np.nan  # of its reaches
    found = found_of([replace(p, drift=d) for p, d in zip(points, drifts, strict=True)], False)
    expected = 0.01 * (found.slopes.sum((0, 1)) - found.slopes[0, 1])
    np.testing.assert_allclose(found.drift, expected, rtol=1e-10)


def test_an_area_that_undecided_samples_make_up_is_withheld() -> None:
    """Its estimate and its error stay; areas at budgets where all is decided keep their interval."""
    points = points_of(1e-3)
    undecided = np.zeros(12)
    undecided[0] = 0.05  # of the accuracy at the first budget
    found = found_of([replace(p, undecided=undecided) for p in points], False)
    assert set(found.withheld) == {(0, 0), (0, 1)} and not found.robust_withheld
    assert all(reason.startswith("margins pile up") for reason in found.withheld.values())
    assert np.all(found.area == found_of(points, False).area)
    robust = np.where(np.arange(12) >= 10, 0.05, 0.0)
    found = found_of([replace(p, undecided=robust) for p in points], False)
    assert not found.withheld and found.robust_withheld.startswith("margins pile up")
    # A part of the error that is smaller than the sampling noise withholds nothing.
    assert not found_of([replace(p, undecided=undecided / 1000) for p in points], False).withheld


@pytest.mark.parametrize(
    ("ratio", "samples", "refuted"), [(1.05, 10**6, False), (1.5, 400, True), (1.5, 40, False)]
)
def test_a_correction_that_is_refuted_beyond_chance_withholds(
    ratio: float, samples: int, refuted: bool
) -> None:
    """The error of `ratio` from 8 scales is sqrt(1 / (8 * 0.03 * samples)): 0.10 and 0.32 of 400 and 40 samples."""
    points, expected = points_of(1e-4), np.full(4, 0.03)
    optimism = np.stack([ratio * expected, expected, expected, expected])
    found = found_of(
        [replace(p, correction=np.full(12, 0.02), optimism=optimism, count=samples) for p in points], False
    )
    assert len(found.withheld) == (4 if refuted else 0)
    assert bool(found.robust_withheld) == refuted


def test_a_correction_for_margins_that_few_samples_decide_is_withheld() -> None:
    """Where it matters, and where scales of more than a fifth of the slopes have such margins."""
    points, expected = points_of(1e-2), np.full(4, 0.03)
    optimism = np.stack([1.3 * expected, expected, expected, expected])
    doubted = [replace(p, correction=np.full(12, 0.02), optimism=optimism, count=40) for p in points]
    assert not found_of(doubted, False).withheld

    def withheld(errors: Array, scales: slice, of: list[CurvePoint] = doubted) -> set[tuple[int, int]]:
        some = [
            replace(p, deviation_error=errors) if i in range(*scales.indices(8)) else p
            for i, p in enumerate(of)
        ]
        found = found_of(some, False)
        assert all("a few samples make up the deviation" in one for one in found.withheld.values())
        return set(found.withheld)

    everywhere = {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert withheld(np.full(4, 0.2), slice(8)) == everywhere
    assert withheld(np.full(4, 0.2), slice(7, 8)) == set()
    assert withheld(np.array([0.05, 0.2, 0.05, 0.05]), slice(8)) == {(1, 0), (1, 1)}
    assert withheld(np.array([0.2, 0.05, 0.05, 0.05]), slice(8)) == everywhere  # |m| is that of all budgets
    # Gaussian margins of 40 samples: (2 * 40)^-1/2 = 0.11.
    assert withheld(np.full(4, 0.15), slice(8)) == set()
    # A correction that adds little to the error may be as uncertain as it likes.
    small = [replace(p, correction=np.full(12, 0.0002)) for p in doubted]
    assert withheld(np.full(4, 0.2), slice(8), small) == set()
    alone = found_of([replace(p, deviation_error=np.array([0.0, 0.0, 0.0, 0.2])) for p in doubted], False)
    assert not alone.withheld and "a few samples" in alone.robust_withheld


def test_the_robust_area_of_features_with_few_values_is_withheld() -> None:
    points = points_of(1e-3)
    assert not found_of([replace(p, repeated=0.7) for p in points], False).robust_withheld
    found = found_of([replace(p, repeated=0.8) for p in points], False)
    assert "few values" in found.robust_withheld and not found.withheld
