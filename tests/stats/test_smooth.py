"""Accuracy and reach fitted over the scales: exact where the form is, unbiased, with the error stated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from checks import Array, gaussian_point, refused
from scipy.stats import chi2, norm

import synbench_fast as sb
from synbench_fast.engine.curve import Scoring
from synbench_fast.scales import LARGEST_SCALE, spread_scales
from synbench_fast.stats.smooth import (
    ACCURACY_FORM,
    ACCURACY_TERMS,
    BEND,
    COST_OF_TERM,
    MOST_TERMS,
    fit_accuracy,
    fit_reach,
)

NODES, ALL = np.array(spread_scales(12)), np.array(spread_scales(49))


def basis(scales: Array, terms: int) -> Array:
    v = scales**2 / (scales**2 + BEND**2) * (1 + BEND**2 / LARGEST_SCALE**2)
    return np.asarray(np.polynomial.chebyshev.chebvander(2 * v - 1, terms - 1))


@pytest.mark.parametrize("terms", [5, MOST_TERMS])
def test_curves_of_the_form_are_found(terms: int) -> None:
    rng = np.random.default_rng(terms)
    coefficients = 0.1 * (rng.standard_normal(terms) + 1)
    for fit_to, shape in (
        (fit_accuracy, lambda s: s / np.sqrt(s**2 + BEND**2)),
        (fit_reach, lambda s: np.sqrt(s**2 + BEND**2) / s),
    ):
        values, at_nodes = (0.5 + shape(s) * (basis(s, terms) @ coefficients) for s in (ALL, NODES))
        fit = fit_to(NODES, at_nodes, np.full(12, 1e-7), ALL)
        exact = len(fit.coefficients) == terms
        np.testing.assert_allclose(fit.value, values, atol=1e-8 if exact else 2e-3)
        assert not exact or np.allclose(fit.coefficients, coefficients, atol=1e-7)
        np.testing.assert_allclose(fit.matrix @ (at_nodes - 0.5) + 0.5, fit.value, atol=1e-12)
        assert fit.dispersion == 1.0


@pytest.mark.parametrize("slope", [0.05, 0.2, 0.5, 0.8, 1.0])
def test_gaussian_curves_are_followed_within_the_stated_form_errors(slope: float) -> None:
    """Without noise: 4e-4 of the accuracy, 2e-3 of the reach where the accuracy exceeds 0.6."""
    t, at = slope * ALL, slope * NODES
    accuracy = fit_accuracy(NODES, norm.cdf(at), np.full(12, 0.01), ALL)
    assert np.abs(accuracy.value - norm.cdf(t)).max() < 4.5e-4
    reach = fit_reach(NODES, norm.cdf(at) + norm.pdf(at) / at, 0.02 / at, ALL)
    error = np.abs(reach.value - norm.cdf(t) - norm.pdf(t) / t)
    counts = norm.cdf(t) > 0.6
    assert not counts.any() or error[counts].max() < 2.5e-3
    assert accuracy.dispersion == reach.dispersion == 1.0


@pytest.mark.parametrize("slope", [0.4, 1.0])
def test_the_fit_is_unbiased_and_as_precise_as_its_matrix_says(slope: float) -> None:
    rng, truth, at = np.random.default_rng(0), norm.cdf(slope * ALL), norm.cdf(slope * NODES)
    true_error = np.sqrt(at * (1 - at) / 300 + 1e-6)
    fits = []
    for _ in range(600):
        measured = at + true_error * rng.standard_normal(12)
        stated = np.sqrt(
            np.clip(measured * (1 - measured), 1 / 300, None) / 300
        )  # as known from what was found
        fits.append(fit_accuracy(NODES, measured, stated, ALL))
    values = np.stack([one.value for one in fits])
    spread = values.std(0)
    assert np.all(np.abs(values.mean(0) - truth) < 5 * spread / math.sqrt(600) + 0.2 * spread + 4e-4)
    claimed = np.sqrt(np.mean([np.square(one.matrix) @ np.square(true_error) for one in fits], axis=0))
    np.testing.assert_allclose((claimed / spread)[truth > 0.55], 1.0, atol=0.2)
    assert np.mean([one.dispersion for one in fits]) < 1.15
    # Smoothing: at most scales the fit knows the accuracy better than the samples of one scale do.
    assert np.median(spread / np.sqrt(truth * (1 - truth) / 300 + 1e-6)) < 0.85


def test_what_is_not_smooth_disperses() -> None:
    accuracy = np.where(NODES > 2, 0.95, 0.6)
    fit = fit_accuracy(NODES, accuracy, np.full(12, 0.01), ALL)
    assert fit.dispersion == pytest.approx(fit.chi2 / fit.freedom) and fit.dispersion > 5
    assert chi2.sf(fit.chi2, fit.freedom) < 1e-6


def test_dispersion_begins_where_chance_ends() -> None:
    """Chi-squared below its 95 % quantile widens nothing."""
    rng, at = np.random.default_rng(1), norm.cdf(0.7 * NODES)
    fits = [
        fit_accuracy(NODES, at + 0.02 * rng.standard_normal(12), np.full(12, 0.02), ALL) for _ in range(300)
    ]
    widened = [one.dispersion > 1 for one in fits]
    assert 0.0 < np.mean(widened) < 0.09
    for one, more in zip(fits, widened, strict=True):
        assert (
            more == (chi2.sf(one.chi2, one.freedom) < 0.05)
            or abs(chi2.sf(one.chi2, one.freedom) - 0.05) < 0.005
        )


def test_scales_without_an_error_count_nothing() -> None:
    at, error = norm.cdf(0.5 * NODES), np.full(12, 0.02)
    for bad, unknown in ((0.9, math.nan), (0.9, 0.0), (math.inf, 0.02), (math.nan, 0.02)):
        wrong, errors = at.copy(), error.copy()
        wrong[0], errors[0] = bad, unknown
        fit = fit_accuracy(NODES, wrong, errors, ALL)
        np.testing.assert_allclose(fit.value, norm.cdf(0.5 * ALL), atol=1e-3)
        np.testing.assert_array_equal(fit.matrix[:, 0], 0.0)


def test_infinite_reaches_count_nothing() -> None:
    """Scales without a signal: the fit is that of the others."""
    t = 0.8 * NODES
    reach, error = norm.cdf(t) + norm.pdf(t) / t, 0.05 / t
    reach[:2], error[:2] = math.inf, math.nan
    fit = fit_reach(NODES, reach, error, ALL)
    counts = ALL > 1.5
    truth = norm.cdf(0.8 * ALL) + norm.pdf(0.8 * ALL) / (0.8 * ALL)
    np.testing.assert_allclose(fit.value[counts], truth[counts], atol=5e-3)
    assert np.all(np.isfinite(fit.value)) and np.all(fit.matrix[:, :2] == 0)
    none = fit_reach(NODES, np.full(12, math.inf), np.full(12, math.nan), ALL)
    assert np.all(np.isnan(none.value)) and none.dispersion == 1.0


def test_errors_that_are_small_by_luck_do_not_rule_the_fit() -> None:
    """An error of 0.002 among such of 0.02 has the weight that its neighbours have."""
    rng = np.random.default_rng(3)
    at, error = norm.cdf(0.6 * NODES), np.full(12, 0.02)
    measured = at + 0.02 * rng.standard_normal(12)
    lucky = error.copy()
    lucky[4] = 0.002
    one, other = (fit_accuracy(NODES, measured, e, ALL) for e in (error, lucky))
    np.testing.assert_allclose(one.value, other.value, atol=2e-3)


def with_one_more_term(gain: float) -> tuple[Array, Array]:
    """Accuracies [S] and errors for which a term more takes away `gain` of chi-squared, and nothing else is left."""
    terms = ACCURACY_TERMS
    columns = (NODES / np.sqrt(NODES**2 + BEND**2))[:, None] * basis(NODES, terms + 1)
    beyond = (
        columns[:, terms] - columns[:, :terms] @ np.linalg.lstsq(columns[:, :terms], columns[:, terms])[0]
    )
    error = math.hypot(0.02, ACCURACY_FORM)
    moved = columns[:, :terms] @ np.array([0.3, 0.1, 0, 0, 0][:terms])
    return 0.5 + moved + error * math.sqrt(gain) * beyond / np.linalg.norm(beyond), np.full(12, 0.02)


@pytest.mark.parametrize("more", [False, True])
def test_a_term_has_its_cost(more: bool) -> None:
    gain = COST_OF_TERM * (1.03 if more else 0.97)
    fit = fit_accuracy(NODES, *with_one_more_term(gain), ALL)
    assert len(fit.coefficients) == ACCURACY_TERMS + more
    assert fit.chi2 == pytest.approx(0.0 if more else gain, abs=1e-3)
    assert fit.freedom == 12 - len(fit.coefficients)


def test_there_is_always_a_residual() -> None:
    rng = np.random.default_rng(0)
    fit = fit_accuracy(NODES, rng.random(12), np.full(12, 1e-4), ALL)
    assert len(fit.coefficients) == MOST_TERMS
    few = fit_accuracy(NODES[:5], rng.random(5), np.full(5, 1e-4), ALL)
    assert len(few.coefficients) <= 4 and few.freedom >= 1


# Runs


def scoring(**options: Any) -> Scoring:
    task = sb.GaussianTask((4,), spread_scales(12))
    given = {"integral": "exact", "average": "published", "estimator": "consistent", "backend": "auto"}
    return Scoring(task, (0.0,), (0.6, 0.9), **{**given, **options})


def test_fits_that_do_not_hold_are_warned_of() -> None:
    one = scoring()
    broken = [gaussian_point(one.budgets, 2.0 if s > 2 else 0.5, error=0.01) for s in NODES]
    warned = one.curve(broken)
    assert any(
        text.startswith("accuracies do not follow their fit over the scales (p = ")
        for text in warned.warnings
    )
    assert warned.fits is not None and warned.fits[0].p_value < 1e-4
    fine = one.curve([gaussian_point(one.budgets, 0.8 * s, error=0.01) for s in NODES])
    assert not any("follow" in text for text in fine.warnings)
    # And the errors are as much larger.
    assert warned.scores[0].stderr > 3 * fine.scores[0].stderr


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
