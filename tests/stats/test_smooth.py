"""t(s) fitted over the scales, and scores by that fit: exact where the form is, unbiased, with the error stated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused

import synbench_fast as sb
from synbench_fast.checks import THRESHOLDS
from synbench_fast.scores import Curve, Scoring
from synbench_fast.stats import gaussian
from synbench_fast.stats.estimators import gaussian_curve
from synbench_fast.stats.point import CurvePoint
from synbench_fast.stats.smooth import MOST_TERMS, fit_scales
from synbench_fast.task import spread_scales

NODES, ALL = np.array(spread_scales(12)), np.array(spread_scales(49))
Array = np.ndarray[Any, np.dtype[np.float64]]
SHAPES: dict[str, Callable[[Array], Array]] = {
    "proportional": lambda s: 0.6 * s,
    "saturating": lambda s: 2.0 * np.tanh(s / 2),
    "falling": lambda s: 3 * np.sin(s / 2.2),
    "accelerating": lambda s: 0.3 * s + 0.02 * s**3,
    "sharper": lambda s: s * np.exp(-((s / 3) ** 4)) + 0.4 * s,
}


@pytest.mark.parametrize("terms", [3, 5, MOST_TERMS])
def test_polynomials_are_found(terms: int) -> None:
    rng = np.random.default_rng(terms)
    coefficients = rng.standard_normal(terms) + 1

    def polynomial(s: Array) -> Array:
        v = s**2 / (s**2 + 2.5**2) * (1 + 2.5**2 / 4.9**2)
        return np.asarray(s * np.polynomial.chebyshev.chebval(2 * v - 1, coefficients))

    values, at_nodes = polynomial(ALL), polynomial(NODES)
    fit = fit_scales(NODES, at_nodes, np.full(12, 1e-4), ALL)
    np.testing.assert_allclose(fit.value, values, atol=1e-9)
    np.testing.assert_allclose(fit.coefficients, coefficients, atol=1e-9)
    np.testing.assert_allclose(fit.matrix @ at_nodes, fit.value, atol=1e-12)
    assert fit.p_value == pytest.approx(1.0)


def area(t: Array, threshold: float) -> float:
    values = torch.from_numpy(t)
    none = torch.zeros_like(values)
    above = (gaussian.accuracy(values, none, 0.5) - threshold).clamp_min(0)
    return float(torch.where(above > 0, gaussian.bound(values, none, 0.5) * above, 0.0).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_of_the_published_scales_from_twelve(shape: str) -> None:
    """Without noise: what the fit costs, and what averaging the twelve scales themselves would."""
    t = SHAPES[shape]
    fit = fit_scales(NODES, t(NODES), np.full(12, 0.01), ALL)
    for threshold in (0.6, 0.8, 0.95):
        truth = area(t(ALL), threshold) / area(ALL, threshold)
        assert abs(area(fit.value, threshold) / area(ALL, threshold) - truth) < 2e-3
    if shape == "proportional":
        as_they_are = area(t(NODES), 0.9) / area(NODES, 0.9)
        assert abs(as_they_are - area(t(ALL), 0.9) / area(ALL, 0.9)) > 5e-3
    if shape == "sharper":
        assert len(fit.coefficients) > 3


def drawn(t: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    truth = np.sqrt((1 + t**2 / 2) / count)
    found = t + truth * rng.standard_normal(t.shape)
    return found, np.sqrt((1 + found**2 / 2) / count)  # as known from what was found


@pytest.mark.parametrize("shape", ["proportional", "saturating"])
def test_the_fit_is_unbiased_and_as_precise_as_its_matrix_says(shape: str) -> None:
    rng, t = np.random.default_rng(0), SHAPES[shape]
    fits = [fit_scales(NODES, *drawn(t(NODES), 300, rng), ALL) for _ in range(1000)]
    values = np.stack([one.value for one in fits])
    spread = values.std(0)
    assert np.all(np.abs(values.mean(0) - t(ALL)) < 5 * spread / math.sqrt(1000) + 0.35 * spread)
    errors = np.sqrt((1 + t(NODES) ** 2 / 2) / 300)
    stated = np.sqrt(np.mean([np.square(one.matrix) @ np.square(errors) for one in fits], axis=0))
    # Where t is far below the lowest threshold's 0.25 the choice of K shows; elsewhere it hardly does.
    np.testing.assert_allclose((stated / spread)[t(ALL) > 0.25], 1.0, atol=0.17)
    p_values = np.array([one.p_value for one in fits])
    assert 0.4 < p_values.mean() < 0.6
    assert 0.002 < (p_values < 0.01).mean() < 0.03
    assert np.mean([len(one.coefficients) > 3 for one in fits]) < 0.15
    # Smoothing: at most scales the fit knows t better than the samples of one scale do.
    assert np.median(spread / np.sqrt((1 + t(ALL) ** 2 / 2) / 300)) < 0.7


def test_what_is_not_smooth_has_a_small_p_value() -> None:
    t = np.where(NODES > 2, 2.0, 0.5)
    assert fit_scales(NODES, t, np.full(12, 0.02), ALL).p_value < 1e-6


def test_scales_without_an_error_count_nothing() -> None:
    t, error = 0.5 * NODES, np.full(12, 0.05)
    wrong, unknown = t.copy(), error.copy()
    wrong[0], unknown[0] = 0.0, math.nan
    fit = fit_scales(NODES, wrong, unknown, ALL)
    np.testing.assert_allclose(fit.value, 0.5 * ALL, atol=1e-12)
    np.testing.assert_array_equal(fit.matrix[:, 0], 0.0)


def curve_of(t: Array, robust: Array, count: int, rng: np.random.Generator, scoring: Scoring) -> Curve:
    """Points whose t and t_rob [S] share their noise and are those of every budget."""
    points = []
    size = len(scoring.budgets)
    for signal, attacked in zip(t, robust, strict=True):
        error = rng.standard_normal() * math.sqrt((1 + signal**2 / 2) / count)
        found, found_rob = (np.full(size, one + error) for one in (signal, attacked))
        covariance = np.full((size, size), (1 + found[0] ** 2 / 2) / count)
        fields = gaussian_curve(found, found_rob, covariance, covariance, covariance, scoring.task.prior)
        points.append(
            CurvePoint(
                **fields,
                eps=np.array(scoring.budgets),
                ridge=np.zeros(size),
                kappa=np.zeros(size),
                count=count,
                feature_dim=1,
                rank=1,
                estimator="consistent",
            )
        )
    return scoring.curve(points)


def scoring(prior: float = 0.5, **options: Any) -> Scoring:
    task = sb.GaussianTask((4,), spread_scales(12), prior=prior)
    given = {"integral": "exact", "average": "published", "estimator": "consistent", "backend": "auto"}
    return Scoring(task, (0.0,), THRESHOLDS, **{**given, **options})


@pytest.mark.parametrize("prior", [0.5, 0.4])
def test_scores_have_the_errors_they_state(prior: float) -> None:
    """200 repetitions: 95 % intervals of all thresholds, and of the robust area, hold the truth."""
    rng = np.random.default_rng(2)
    one, t = scoring(prior), 0.7 * NODES
    truth = curve_of(t, t, 10**14, rng, one)
    runs = [curve_of(t, t, 600, rng, one) for _ in range(200)]
    assert truth.score_covariance is not None and truth.fits is not None
    assert truth.fits[0].coefficients == pytest.approx([0.7, 0, 0], abs=1e-6)
    lowest = 4 if prior == 0.4 else 0  # below the commoner class's share scales without signal dominate
    for a, exact in enumerate(truth.scores[lowest:], lowest):
        found = np.array([run.scores[a].score for run in runs])
        held = np.mean([run.scores[a].ci95_low <= exact.score <= run.scores[a].ci95_high for run in runs])
        assert 0.91 <= held <= 0.985, exact.threshold
        stated = math.sqrt(np.mean([run.scores[a].stderr ** 2 for run in runs]))
        assert 0.87 < stated / found.std() < 1.15
    covariance = np.mean([run.score_covariance for run in runs], axis=0)[lowest:, lowest:]
    observed = np.cov(np.array([[s.score for s in run.scores] for run in runs]).T)[lowest:, lowest:]
    np.testing.assert_allclose(_correlation(covariance), _correlation(observed), atol=0.2)
    held = np.mean(
        [abs(run.robust_area.value - truth.robust_area.value) < 1.96 * run.robust_area.stderr for run in runs]
    )
    assert 0.91 <= held <= 0.985


def _correlation(covariance: Array) -> Array:
    deviation = np.sqrt(np.diagonal(covariance))
    return np.asarray(covariance / np.outer(deviation, deviation))


def test_the_published_average_is_that_of_49_scales() -> None:
    """A linear encoder with many samples: 12 scales by the fit, and the 49 themselves."""
    options: dict[str, Any] = {
        "input_shape": (16,),
        "samples": 4096,
        "eps": (0.0, 0.3),
        "thresholds": (0.6, 0.9),
    }
    few = sb.score("builtin:linear?dim=6", scales=12, average="published", **options)
    all_scales = sb.score("builtin:linear?dim=6", scales=49, seed=0, **options)
    for one, other in zip(few.scores, all_scales.scores, strict=True):
        assert abs(one.score - other.score) < 4 * math.hypot(one.stderr, other.stderr)
    assert few.task.average == "published" and all_scales.task.average == "sampled"
    assert few.fits is not None and [one.eps for one in few.fits] == [0.0, 0.3]
    assert all_scales.fits is None
    assert abs(few.robust_area.raw - all_scales.robust_area.raw) < 1e-12
    assert abs(few.robust_area.value - all_scales.robust_area.value) < 4 * few.robust_area.stderr
    assert "--average published" in few.command and "--average" not in all_scales.command


def test_presets_estimate_one_quantity() -> None:
    options: dict[str, Any] = {"input_shape": (16,), "thresholds": (0.6, 0.9), "eps": 0.0}
    results = {name: sb.score("builtin:linear?dim=6", preset=name, **options) for name in ("quick", "paper")}
    exact = [one.score for one in results["paper"].scores]
    for one, other in zip(results["quick"].scores, exact, strict=True):
        assert abs(one.score - other) < 4 * one.stderr
    assert [len(one.task.scales) for one in results.values()] == [12, 49]
    sampled = sb.score("builtin:linear?dim=6", preset="quick", average="sampled", **options)
    assert sampled.task.average == "sampled" and sampled.fits is None


def test_fits_that_do_not_hold_are_warned_of() -> None:
    one = scoring()
    rng = np.random.default_rng(0)
    t = np.where(NODES > 2, 2.0, 0.5)
    warned = curve_of(t, t, 5000, rng, one).warnings
    assert any(text.startswith("t does not follow its fit over the scales (p = ") for text in warned)
    assert not any("does not follow" in text for text in curve_of(NODES, NODES, 5000, rng, one).warnings)


def test_averages_that_cannot_be() -> None:
    options: dict[str, Any] = {"input_shape": (8,), "samples": 64}
    with refused(
        "average: expected one of ['sampled', 'published'], got 'publised', did you mean published?"
    ):
        sb.score("builtin:identity", average="publised", **options)
    with refused("average: expected sampled with estimator paper, got published"):
        sb.score("builtin:identity", average="published", estimator="paper", **options)
    with refused("scales: expected at least 5 for the published average, whose t is fitted, got 4"):
        sb.score("builtin:identity", average="published", scales=4, **options)
    with refused("scales: expected at least 5 for the published average, whose t is fitted, got 1"):
        sb.Probe(sb.GaussianTask((3,), (1.0,)), average="published")


def test_comparison_needs_one_average() -> None:
    options: dict[str, Any] = {"input_shape": (8,), "samples": 256, "scales": 12}
    one = sb.score("builtin:linear?dim=6", average="published", **options)
    other = sb.score("builtin:linear?dim=3", average="published", **options)
    found = sb.compare(one, other, eps=0.0).differences[0]
    assert found.correlation > 0.3
    assert found.stderr < math.hypot(one.score().stderr, other.score().stderr)
    sampled = sb.score("builtin:linear?dim=3", average="sampled", **options)
    with refused("expected task.average 'published' as in builtin:linear?dim=6, got 'sampled'"):
        sb.compare(one, sampled)


def with_a_fourth_term(gain: float) -> tuple[Array, Array]:
    """t [S] and its errors for which the fourth term takes away `gain` of chi-squared, and nothing else is left."""
    v = NODES**2 / (NODES**2 + 2.5**2) * (1 + 2.5**2 / 4.9**2)
    basis = NODES[:, None] * np.polynomial.chebyshev.chebvander(2 * v - 1, 3)
    beyond = basis[:, 3] - basis[:, :3] @ np.linalg.lstsq(basis[:, :3], basis[:, 3])[0]
    error = 1e-6  # of t so small that it changes no weight
    return 1e-5 * NODES + error * math.sqrt(gain) * beyond / np.linalg.norm(beyond), np.full(12, error)


@pytest.mark.parametrize(("gain", "terms"), [(3.9, 3), (4.1, 4)])
def test_a_term_costs_4_of_chi_squared(gain: float, terms: int) -> None:
    from scipy.stats import chi2

    fit = fit_scales(NODES, *with_a_fourth_term(gain), ALL)
    assert len(fit.coefficients) == terms
    left = gain if terms == 3 else 0.0
    assert fit.p_value == pytest.approx(chi2.sf(left, 12 - terms), abs=1e-6)


def test_there_are_at_most_8_terms() -> None:
    rng = np.random.default_rng(0)
    assert len(fit_scales(NODES, rng.standard_normal(12), np.full(12, 1e-4), ALL).coefficients) == 8
    # and always a residual that says how well they fit
    few = NODES[:6]
    fit = fit_scales(few, rng.standard_normal(6), np.full(6, 1e-4), ALL)
    assert len(fit.coefficients) == 5 and fit.p_value < 1e-6


def test_weights_go_by_the_fitted_t() -> None:
    """Least squares three times: by the errors as they are, then twice by the errors that the fitted t has."""
    from scipy.stats import chi2

    rng = np.random.default_rng(4)
    t = 0.8 * NODES + 0.3 * rng.standard_normal(12)
    error = np.sqrt((1 + t**2 / 2) / 12)
    v = NODES**2 / (NODES**2 + 2.5**2) * (1 + 2.5**2 / 4.9**2)
    basis = NODES[:, None] * np.polynomial.chebyshev.chebvander(2 * v - 1, 2)
    weight = 1 / error
    for last in (False, False, True):
        coefficients = np.linalg.lstsq(basis * weight[:, None], t * weight)[0]
        left = (t - basis @ coefficients) * weight
        if not last:
            weight = np.sqrt((1 + t**2 / 2) / (1 + (basis @ coefficients) ** 2 / 2)) / error
    fit = fit_scales(NODES, t, error, NODES)
    np.testing.assert_allclose(fit.coefficients, coefficients, rtol=1e-10)
    np.testing.assert_allclose(fit.value, basis @ coefficients, rtol=1e-10)
    assert fit.p_value == pytest.approx(chi2.sf(left @ left, 9), rel=1e-9)


def test_without_a_residual_nothing_speaks_against_the_fit() -> None:
    """Three scales whose errors are known, and three terms."""
    error = np.array([0.1, math.nan, 0.1, math.nan, 0.1])
    fit = fit_scales(NODES[:5], 0.5 * NODES[:5], error, ALL)
    assert fit.p_value == 1.0 and len(fit.coefficients) == 3
    np.testing.assert_allclose(fit.value, 0.5 * ALL, atol=1e-9)


def test_a_scale_without_an_error_is_no_scale() -> None:
    rng = np.random.default_rng(2)
    t, error = 0.7 * NODES + 0.1 * rng.standard_normal(12), np.linspace(2.0, 4.0, 12)
    unknown = error.copy()
    unknown[3] = math.nan
    rest = np.arange(12) != 3
    found, expected = fit_scales(NODES, t, unknown, ALL), fit_scales(NODES[rest], t[rest], error[rest], ALL)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-10)
    np.testing.assert_allclose(found.matrix[:, rest], expected.matrix, rtol=1e-8, atol=1e-12)
    assert found.p_value == pytest.approx(expected.p_value, rel=1e-9)
