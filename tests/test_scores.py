"""From points to scores: normalisation, errors, warnings and what a run reports, with points made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from synbench_fast.area_errors import area_terms

import synbench_fast as sb
from synbench_fast.scores import Scoring, averaged_scales
from synbench_fast.stats.estimators import gaussian_curve
from synbench_fast.stats.point import CurvePoint

EPS, THRESHOLDS = (0.0, 0.3), (0.6, 0.8)
SCALES = (0.5, 1.0, 2.0)


def scoring(prior: float = 0.5, **changes: Any) -> Scoring:
    given: dict[str, Any] = {
        "task": sb.GaussianTask((4,), SCALES, prior=prior), "eps": EPS, "thresholds": THRESHOLDS,
        "integral": "exact", "average": "sampled", "estimator": "consistent", "backend": "auto",
    }  # fmt: skip
    return Scoring(**(given | changes))


def point(one: Scoring, t: np.ndarray, error: float = 0.05, **changes: Any) -> CurvePoint:
    """At the budgets of the run: t is that of each, what an attack leaves is (1 - eps) t."""
    eps = np.array(one.budgets)
    t = np.broadcast_to(t, eps.shape).astype(float).copy()
    rng = np.random.default_rng(int(1000 * t[0]))
    root = error * rng.standard_normal((2 * len(eps), 2 * len(eps))) / math.sqrt(2 * len(eps))
    joint = root @ root.T
    size = len(eps)
    fields: dict[str, Any] = {
        **gaussian_curve(
            t, (1 - eps) * t, joint[:size, :size], joint[size:, size:], joint[:size, size:], one.task.prior
        ),
        "eps": eps,
        "ridge": np.zeros(size),
        "kappa": np.zeros(size),
        "count": 1000,
        "feature_dim": 4,
        "rank": 4,
        "estimator": "consistent",
    }
    return CurvePoint(**(fields | changes))


def raw_area(threshold: float) -> float:
    s = np.array(SCALES)
    bound = 1 + norm.pdf(s) / (s * norm.cdf(s))
    return float((bound * np.maximum(0, norm.cdf(s) - threshold)).mean())


def test_scores_are_areas_over_that_of_the_raw_data() -> None:
    one = scoring()
    points = [point(one, 0.8 * s) for s in SCALES]
    curve = one.curve(points)
    assert [(s.eps, s.threshold) for s in curve.scores] == [(e, a) for e in EPS for a in THRESHOLDS]
    variances = one.variances(points)
    assert variances.shape == (3, 2, 2)
    for place, found in enumerate(curve.scores):
        e, a = divmod(place, 2)
        values = [p.bound[e] * max(0.0, p.accuracy[e] - found.threshold) for p in points]
        assert found.score == pytest.approx(np.mean(values) / raw_area(found.threshold))
        errors = [area_terms(p, torch.tensor(THRESHOLDS).double(), 0.5).stderr[e, a] for p in points]
        stderr = math.sqrt(sum(float(x) ** 2 for x in errors)) / 3 / raw_area(found.threshold)
        assert found.stderr == pytest.approx(stderr)
        assert math.sqrt(float(variances[:, e, a].sum())) == pytest.approx(stderr)
        half = norm.ppf(0.975) * stderr
        assert (found.ci95_low, found.ci95_high) == pytest.approx((found.score - half, found.score + half))
    assert curve.score_covariance is not None
    spread = np.sqrt(np.diagonal(curve.score_covariance))
    np.testing.assert_allclose(spread, [s.stderr for s in curve.scores], rtol=1e-9)
    assert curve.warnings == [] and curve.fits is None and curve.influence is None


def test_the_grid_has_the_relative_errors_of_the_exact_integral() -> None:
    exact, grid = scoring(), scoring(integral="grid")
    one, other = (run.curve([point(run, 0.8 * s) for s in SCALES]) for run in (exact, grid))
    points = np.linspace(0.6, 1, 100)
    for a, threshold in enumerate(THRESHOLDS):
        s = np.array(SCALES)

        def summed(t: np.ndarray, threshold: float = threshold) -> float:
            above = points[points >= threshold]
            bound = 1 + norm.pdf(t) / (t * norm.cdf(t))
            return float((bound[:, None] * (norm.cdf(t)[:, None] > above)).sum())

        assert other.scores[a].score == pytest.approx(summed(0.8 * s) / summed(s))
        # The sum is about the integral times the points per unit of accuracy.
        assert other.scores[a].stderr == pytest.approx(one.scores[a].stderr, rel=0.1)


def test_points_of_the_curve() -> None:
    one = scoring()
    points = [point(one, 0.8 * s, counted_accuracy=None if s > 1 else np.array([0.7, 0.6])) for s in SCALES]
    curve = one.curve(points).curve
    assert [(p.scale, p.eps) for p in curve] == [(s, e) for s in SCALES for e in EPS]
    for place, found in enumerate(curve):
        s, e = divmod(place, 2)
        source = points[s]
        for name in ("accuracy", "robust_accuracy", "bound", "t", "t_rob", "accuracy_stderr", "bound_stderr"):
            assert getattr(found, name) == getattr(source, name)[e]
        assert found.t_stderr == source.stderr[e]
        assert found.robust_accuracy_stderr == source.robust_accuracy_stderr[e]
        assert math.isnan(found.counted_accuracy) if s == 2 else found.counted_accuracy == (0.7, 0.6)[e]
        assert found.raw_accuracy == pytest.approx(norm.cdf(SCALES[s]))
        raw = SCALES[s]
        assert found.raw_bound == pytest.approx(1 + norm.pdf(raw) / (raw * norm.cdf(raw)))


def test_robust_area_is_the_mean_over_budgets_and_scales() -> None:
    """Against Gauss-Legendre quadrature with many more nodes."""
    one = scoring()
    area = one.curve([point(one, 0.8 * s) for s in SCALES]).robust_area
    nodes, weights = np.polynomial.legendre.leggauss(60)

    def mean(factor: float) -> float:
        values = norm.cdf(np.outer(factor * np.array(SCALES), 1 - (nodes + 1) / 2))
        return float((values @ weights / 2).mean())

    assert area.value == pytest.approx(mean(0.8), abs=1e-7)
    assert area.raw == pytest.approx(mean(1.0), abs=1e-7)
    assert area.ratio == pytest.approx(mean(0.8) / mean(1.0), abs=1e-6)
    assert len(one.budgets) == len(EPS) + 8
    assert one.budgets[:2] == EPS and all(0 < e < 1 for e in one.budgets[2:])


def test_scales_without_a_signal_are_named_where_the_raw_data_have_one_that_counts() -> None:
    one = scoring(thresholds=(0.6, 0.8), eps=(0.5, 0.9))
    silent = np.array([0.7] * 10)
    silent[1] = 0.0  # at the second budget only
    points = [point(one, silent), point(one, 0.8), point(one, silent)]
    # Under attack the raw data do not reach 0.6 at the first scale, which does not matter.
    assert one.curve(points).warnings[0] == "no signal found (t <= 0) at 2 of 3 scales: 0.5, 2"
    lost = scoring(thresholds=(0.8,), eps=(0.5, 0.9))
    assert lost.curve([point(lost, silent), point(lost, 0.8), point(lost, 1.6)]).warnings == []
    beyond = scoring()
    attacked = np.array([0.7] * 10)
    attacked[5] = 0.0  # a node of the robust area
    assert beyond.curve([point(beyond, attacked), point(beyond, 0.8), point(beyond, 1.6)]).warnings == []


def test_at_most_eight_silent_scales_are_listed() -> None:
    scales = tuple(float(s) for s in range(1, 12))
    one = scoring(task=sb.GaussianTask((4,), scales))
    (warning, *_) = one.curve([point(one, 0.0) for _ in scales]).warnings
    assert warning == "no signal found (t <= 0) at 11 of 11 scales: 1, 2, 3, 4, 5, 6, 7, 8"


@pytest.mark.parametrize(("prior", "commoner"), [(0.4, 0.6), (0.7, 0.7)])
def test_thresholds_below_the_commoner_class_are_warned_of(prior: float, commoner: float) -> None:
    def warnings(lowest: float) -> list[str]:
        one = scoring(prior, thresholds=(lowest, 0.9))
        return one.curve([point(one, 0.8 * s) for s in SCALES]).warnings

    assert warnings(commoner - 0.01)[0].startswith(
        f"thresholds up to {commoner:g}: naming the commoner class"
    )
    assert warnings(commoner) == []
    half = scoring(thresholds=(0.4, 0.9))
    assert half.curve([point(half, 0.8 * s) for s in SCALES]).warnings == []


def test_thresholds_that_the_raw_data_never_exceed_have_no_score() -> None:
    one = scoring(thresholds=(0.6, 0.98))  # the largest scale reaches 0.9772
    curve = one.curve([point(one, 0.8 * s) for s in SCALES])
    assert [math.isnan(s.score) for s in curve.scores] == [False, True, False, True]
    assert curve.warnings == [
        "threshold 0.98: the raw data exceed this accuracy at no scale, so there is no score above it"
    ]
    assert curve.score_covariance is None


@pytest.mark.parametrize("prior", [0.5, 0.4])
def test_margins_that_are_not_gaussian_are_warned_of(prior: float) -> None:
    one = scoring(prior, thresholds=(0.65, 0.8))

    def warnings(moved: float, count: int) -> list[str]:
        points = []
        for s in SCALES:
            p = point(one, 0.8 * s, count=count)
            counted = p.accuracy[:2].copy()
            counted[1] += moved * (s == 1.0)
            points.append(point(one, 0.8 * s, count=count, counted_accuracy=counted))
        return one.curve(points).warnings

    assert warnings(0.0, 10**7) == []
    assert warnings(0.0019, 10**8) == []  # certain, and too small to matter
    assert warnings(0.01, 200) == []  # large enough, and not certain
    (text,) = warnings(0.01, 10**6)
    expected = float(point(one, 0.8).accuracy[1])
    assert text.startswith("the margins are not Gaussian (p = ")
    assert text.endswith(
        f"at scale 1, eps 0.3 their count gives accuracy {expected + 0.01:.4f} in place of {expected:.4f}"
    )


def test_influences_are_stored_to_five_digits() -> None:
    one = scoring()
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((10, 4)) for _ in SCALES]
    points = [point(one, 0.8 * s, influence=x) for s, x in zip(SCALES, given, strict=True)]
    found = one.curve(points).influence
    assert found is not None and found.group == 64
    np.testing.assert_allclose(found.t, [x[:2] for x in given], rtol=5e-5)
    assert found.t[0][0][0] == float(f"{given[0][0, 0]:.5g}") != given[0][0, 0]
    points[1] = point(one, 0.8)
    assert one.curve(points).influence is None


def test_published_scales() -> None:
    assert averaged_scales("sampled") is None
    assert averaged_scales("published") == tuple(round(0.1 * i, 1) for i in range(1, 50))
