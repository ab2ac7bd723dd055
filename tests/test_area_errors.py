"""Errors of what one scale adds to the area, against quadrature, roots and finite differences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from synbench_fast.area_errors import (
    _rectified,
    area_covariance,
    area_terms,
    classifier_variance,
    expected_slopes,
    robust_area_stderr,
)

from synbench_fast.stats.estimators import gaussian_curve
from synbench_fast.stats.point import CurvePoint

Array = np.ndarray[Any, np.dtype[np.float64]]


def accuracy(t: float, t_rob: float, prior: float) -> float:
    k = math.log((1 - prior) / prior) / 2 / t_rob
    return float(prior * norm.cdf(t - k) + (1 - prior) * norm.cdf(t + k))


def bound(t: float, t_rob: float, prior: float) -> float:
    k = math.log((1 - prior) / prior) / 2 / t_rob
    both = (share * (x * norm.cdf(x) + norm.pdf(x)) for share, x in ((prior, t - k), (1 - prior, t + k)))
    return float(sum(both) / (t * accuracy(t, t_rob, prior)))


def crossing(ratio: float, threshold: float, prior: float) -> float:
    """t at which the accuracy reaches the threshold, t_rob = ratio t."""
    return float(brentq(lambda t: accuracy(t, ratio * t, prior) - threshold, 1e-3, 16, xtol=1e-14))


def slopes(t: float, t_rob: float, threshold: float, prior: float) -> tuple[float, float, float, float]:
    """Derivatives of bound (accuracy - threshold) in t and t_rob, at the point or below the threshold at its crossing."""
    if accuracy(t, t_rob, prior) <= threshold:
        there = crossing(t_rob / t, threshold, prior)
        t, t_rob = there, t_rob / t * there

    def term(t: float, t_rob: float) -> float:
        return bound(t, t_rob, prior) * (accuracy(t, t_rob, prior) - threshold)

    h = 1e-6
    by_t = (term(t + h, t_rob) - term(t - h, t_rob)) / (2 * h)
    return by_t, (term(t, t_rob + h) - term(t, t_rob - h)) / (2 * h), t, t_rob


def rectified(value: float, deviation: float) -> float:
    """Standard deviation of max(0, N(value, deviation^2)) by quadrature where it bends and where it does not."""
    bend = min(max(-value / deviation, -9.0), 9.0)
    first = second = 0.0
    for low, high in ((-9.0, bend), (bend, 9.0)):
        nodes, weights = np.polynomial.legendre.leggauss(200)
        z = low + (high - low) * (nodes + 1) / 2
        weight = weights * (high - low) / 2 * norm.pdf(z)
        x = np.maximum(0, value + deviation * z)
        first, second = first + weight @ x, second + weight @ x**2
    return math.sqrt(max(0.0, second - first**2))


def point(
    t: float, t_rob: float, error: float, prior: float, *, correlation: float = 0.6, **changes: Any
) -> CurvePoint:
    """One budget; t_rob has 0.8 of the error of t."""
    t_cov, t_rob_cov, cross = (np.array([[one * error**2]]) for one in (1.0, 0.8**2, 0.8 * correlation))
    fields: dict[str, Any] = {
        **gaussian_curve(np.array([t]), np.array([t_rob]), t_cov, t_rob_cov, cross, prior),
        "eps": np.array([0.2]),
        "ridge": np.zeros(1),
        "kappa": np.zeros(1),
        "count": 100,
        "feature_dim": 3,
        "rank": 3,
        "estimator": "consistent",
    }
    return CurvePoint(**(fields | changes))


THRESHOLDS = (0.6, 0.7, 0.8)
LEVELS = torch.tensor(THRESHOLDS, dtype=torch.float64)


@pytest.mark.parametrize("prior", [0.5, 0.45])
@pytest.mark.parametrize("error", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("t", [0.3, 0.5, 0.55, 0.9])
def test_terms_on_both_sides_of_a_threshold(t: float, error: float, prior: float) -> None:
    """Above it the term itself, below it its tangent at the crossing; both taken as normal and cut at 0."""
    t_rob = 0.8 * t
    found = area_terms(point(t, t_rob, error, prior), LEVELS, prior)
    assert found.by_t is not None and found.by_t_rob is not None
    for a, threshold in enumerate(THRESHOLDS):
        by_t, by_rob, there, there_rob = slopes(t, t_rob, threshold, prior)
        deviation = error * math.sqrt(by_t**2 + (0.8 * by_rob) ** 2 + 2 * 0.6 * 0.8 * by_t * by_rob)
        value = bound(t, t_rob, prior) * (accuracy(t, t_rob, prior) - threshold)
        if value <= 0:
            value = by_t * (t - there) + by_rob * (t_rob - there_rob)
        if abs(value) > 5.5 * deviation:
            continue
        expected = rectified(value, deviation)
        assert float(found.stderr[0, a]) == pytest.approx(expected, rel=2e-4)
        assert float(found.by_t[0, a]) == pytest.approx(by_t * expected / deviation, rel=2e-4)
        assert float(found.by_t_rob[0, a]) == pytest.approx(by_rob * expected / deviation, rel=2e-4, abs=1e-9)


def test_far_from_a_threshold_a_term_counts_wholly_or_not_at_all() -> None:
    found = area_terms(point(2.0, 1.5, 1e-3, 0.5), LEVELS, 0.5)
    by_t = slopes(2.0, 1.5, 0.6, 0.5)[0]
    assert float(found.stderr[0, 0]) == pytest.approx(1e-3 * abs(by_t), rel=1e-6)
    none = area_terms(point(0.1, 0.08, 1e-3, 0.5), LEVELS, 0.5)
    assert none.by_t is not None
    assert none.stderr.tolist() == none.by_t.tolist() == [[0.0, 0.0, 0.0]]


def test_without_a_signal_the_commoner_class_alone_has_no_known_error() -> None:
    found = area_terms(point(0.0, 0.0, 0.1, 0.3), torch.tensor([0.6, 0.9], dtype=torch.float64), 0.3)
    assert found.by_t is not None and found.by_t_rob is not None
    for one in (found.stderr, found.by_t, found.by_t_rob):
        assert math.isnan(float(one[0, 0])) and math.isfinite(float(one[0, 1]))


@pytest.mark.parametrize("t", [0.4, 0.55, 1.2])
def test_terms_of_the_paper_on_both_sides_of_a_threshold(t: float) -> None:
    """The errors of the count and of the bound, taken as independent."""
    one = point(
        t, t, 0.1, 0.5,
        estimator="paper", t_cov=None, t_rob_cov=None, cross_cov=None,
        accuracy_stderr=np.array([0.03]), bound_stderr=np.array([0.2]),
    )  # fmt: skip
    found = area_terms(one, LEVELS, 0.5)
    assert found.by_t is None and found.by_t_rob is None
    for a, threshold in enumerate(THRESHOLDS):
        excess = accuracy(t, t, 0.5) - threshold
        deviation = math.hypot(0.03 * bound(t, t, 0.5), 0.2 * excess)
        value = bound(t, t, 0.5) * excess
        if abs(value) < 5.5 * deviation:
            assert float(found.stderr[0, a]) == pytest.approx(rectified(value, deviation), rel=2e-4)


def test_what_the_classifiers_add_to_the_error_of_t() -> None:
    both = point(1.0, 1.0, 0.1, 0.5, stderr=np.array([0.4, 0.01]), count=50)
    one = replace(both, t=np.array([1.5, 0.5]))
    expected = [0.16 - (1 + 1.5**2 / 2) / 50, 0.0]
    np.testing.assert_allclose(classifier_variance(one).numpy(), expected, rtol=1e-12)


def test_chances_are_taken_from_differences_as_far_as_these_have_digits() -> None:
    value = torch.tensor([-6.5, -5.5, 5.5, 6.5], dtype=torch.float64)
    one = torch.ones(4, dtype=torch.float64)
    never, seldom, nearly, always = _rectified(2 * value, 2 * one, value > 0).tolist()
    assert (never, always) == (0.0, 2.0)
    assert seldom == pytest.approx(rectified(-11.0, 2.0), rel=0.05)
    assert 2.0 - 1e-6 < nearly < 2.0


@pytest.mark.parametrize("prior", [0.5, 0.4])
@pytest.mark.parametrize("t", [0.5, 0.6, 1.2])
def test_terms_of_counts(t: float, prior: float) -> None:
    """The count's covariance, and through the Gaussian slopes what the classifiers add to the error of t."""
    t_rob, count = 0.8 * t, 40
    spread = np.array([[4e-3, 1e-3], [1e-3, 9e-3]])
    a, b = accuracy(t, t_rob, prior) + 0.01, bound(t, t_rob, prior)
    one = point(
        t, t_rob, 0.3, prior,
        estimator="counted", count=count, counted_cov=spread[None], accuracy=np.array([a]),
    )  # fmt: skip
    found = area_terms(one, LEVELS, prior)
    extra = 0.09 - (1 + t**2 / 2) / count
    assert extra > 0
    for place, threshold in enumerate(THRESHOLDS):
        by_t, by_rob, _, _ = slopes(t, t_rob, threshold, prior)
        gradient = np.array([b * threshold / a, 1 - threshold / a])
        deviation = math.sqrt(gradient @ spread @ gradient + (by_t + 0.8 * by_rob) ** 2 * extra)
        expected = rectified(b * (a - threshold), deviation)
        assert float(found.stderr[0, place]) == pytest.approx(expected, rel=2e-4)


def test_a_count_without_a_signal_adds_no_error() -> None:
    one = point(
        0.0, 0.0, 0.3, 0.5, estimator="counted", counted_cov=np.eye(2)[None], accuracy=np.array([0.75])
    )
    assert area_terms(one, LEVELS, 0.5).stderr.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("prior", [0.5, 0.45])
def test_expected_slopes_are_weighed_by_the_chance_to_count(prior: float) -> None:
    t = np.array([0.2, 0.5, 0.9, 3.0])
    t_rob, stderr = 0.8 * t, np.array([0.1, 0.4, 0.3, 0.5])
    by_t, by_rob = expected_slopes(*(torch.from_numpy(one) for one in (t, t_rob, stderr)), LEVELS, prior)
    for s in range(4):
        for a, threshold in enumerate(THRESHOLDS):
            of_t, of_rob, _, _ = slopes(t[s], t_rob[s], threshold, prior)
            likely = norm.cdf((t[s] - crossing(0.8, threshold, prior)) / stderr[s])
            assert float(by_t[s, a]) == pytest.approx(of_t * likely, rel=1e-5)
            assert float(by_rob[s, a]) == pytest.approx(of_rob * likely, rel=1e-4, abs=1e-9)


def test_an_error_of_0_counts_or_does_not() -> None:
    t, none = torch.tensor([0.2, 0.9], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    by_t, _ = expected_slopes(t, t, none, LEVELS[:1], 0.5)
    assert by_t[0].tolist() == [0.0]
    assert float(by_t[1, 0]) == pytest.approx(slopes(0.9, 0.9, 0.6, 0.5)[0], rel=1e-6)


def test_covariance_of_a_sum_over_scales_has_all_four_parts() -> None:
    rng = np.random.default_rng(0)
    points, given, expected = [], [], np.zeros((4, 4))
    for _ in range(3):
        root = rng.standard_normal((6, 6))
        joint = root @ root.T  # of t and t_rob at three budgets, of which two are asked for
        points.append(
            point(1.0, 1.0, 0.1, 0.5, t_cov=joint[:3, :3], t_rob_cov=joint[3:, 3:], cross_cov=joint[:3, 3:])
        )
        by_t, by_rob = rng.standard_normal((2, 2, 2))  # [kind, E, A]
        given.append((torch.from_numpy(by_t), torch.from_numpy(by_rob)))
        jacobian = np.zeros((4, 6))
        for e in range(2):
            for a in range(2):
                jacobian[2 * e + a, e], jacobian[2 * e + a, 3 + e] = by_t[e, a], by_rob[e, a]
        expected += jacobian @ joint @ jacobian.T
    found = area_covariance(points, given)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_error_of_the_robust_area_of_counts_adds_up() -> None:
    one = point(
        1.0, 1.0, 0.1, 0.5, counted_cov=np.eye(2)[None], robust_accuracy_stderr=np.array([0.03]),
    )  # fmt: skip
    assert robust_area_stderr(one, np.array([0.5]), 0.5) == pytest.approx(0.015)


@pytest.mark.parametrize("prior", [0.5, 0.45])
def test_slopes_without_a_signal_are_those_of_the_crossing(prior: float) -> None:
    none, error = torch.zeros(1, dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64)
    by_t, by_rob = expected_slopes(none, none, error, LEVELS, prior)
    for a, threshold in enumerate(THRESHOLDS):
        there = crossing(1.0, threshold, prior)
        of_t, of_rob, _, _ = slopes(there * (1 + 1e-9), there * (1 + 1e-9), threshold, prior)
        likely = norm.cdf(-there / 0.2)
        assert float(by_t[0, a]) == pytest.approx(of_t * likely, rel=1e-5)
        assert float(by_rob[0, a]) == pytest.approx(of_rob * likely, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("counts", [True, False])
def test_what_is_not_known_is_passed_on_where_it_counts(counts: bool) -> None:
    value = torch.tensor([1.0, math.inf, math.nan, 0.0], dtype=torch.float64)
    deviation = torch.tensor([math.inf, 0.5, math.nan, 0.0], dtype=torch.float64)
    found = _rectified(value, deviation, torch.tensor([counts] * 4)).tolist()
    expected = [math.inf, 0.5, math.nan, 0.0] if counts else [0.0] * 4
    np.testing.assert_array_equal(found, expected)
