"""From points to scores: normalisation, errors, warnings and what a run reports, with points made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import gaussian_point, refused
from scipy.stats import norm

import synbench_fast as sb
from synbench_fast.engine.curve import GAUSSIAN_REFUTED, Curve, Scoring
from synbench_fast.stats.consistent import GROUP
from synbench_fast.stats.point import CurvePoint

EPS, THRESHOLDS = (0.0, 0.3), (0.6, 0.8)
SCALES = (0.5, 1.0, 2.0)


def scoring(prior: float = 0.5, **changes: Any) -> Scoring:
    given: dict[str, Any] = {
        "task": sb.GaussianTask((4,), SCALES, prior=prior), "eps": EPS, "thresholds": THRESHOLDS,
        "integral": "exact", "average": "sampled", "estimator": "consistent", "backend": "auto",
    }  # fmt: skip
    return Scoring(**(given | changes))


def point(one: Scoring, t: Any, **changes: Any) -> CurvePoint:
    """At the budgets of the run."""
    return gaussian_point(one.budgets, t, seed=int(1000 * np.max(t)), **changes)


def raw_area(threshold: float) -> float:
    s = np.array(SCALES)
    bound = 1 + norm.pdf(s) / (s * norm.cdf(s))
    return float((bound * np.maximum(0, norm.cdf(s) - threshold)).mean())


def test_scores_are_areas_over_that_of_the_raw_data() -> None:
    one = scoring()
    points = [point(one, 0.8 * s, error=1e-4) for s in SCALES]
    curve = one.curve(points)
    assert [(s.eps, s.threshold) for s in curve.scores] == [(e, a) for e in EPS for a in THRESHOLDS]
    variances = one.variances(points)
    assert variances.shape == (3, 2, 2)
    for place, found in enumerate(curve.scores):
        e, a = divmod(place, 2)
        values = [p.bound[e] * max(0.0, p.accuracy[e] - found.threshold) for p in points]
        assert found.score == pytest.approx(np.mean(values) / raw_area(found.threshold))
        # reach (1 - a_t / accuracy): the derivatives in accuracy and reach
        variance = 0.0
        for p in points:
            size = len(p.eps)
            places = [e, size + e]
            a, reach = p.accuracy[e], p.accuracy[e] * p.bound[e]
            above = a > found.threshold
            slope = np.array([reach * found.threshold / a**2, 1 - found.threshold / a])
            if above:
                assert p.covariance is not None
                variance += slope @ p.covariance[np.ix_(places, places)] @ slope
        stderr = math.sqrt(float(variances[:, e, place % 2].sum()))
        assert math.sqrt(variance) / 3 / raw_area(found.threshold) == pytest.approx(stderr, rel=1e-6)
        assert found.stderr == pytest.approx(stderr)
        half = norm.ppf(0.975) * stderr
        assert (found.ci95_low, found.ci95_high) == pytest.approx((found.score - half, found.score + half))
    assert curve.score_covariance is not None
    spread = np.sqrt(np.diagonal(curve.score_covariance))
    np.testing.assert_allclose(spread, [s.stderr for s in curve.scores], rtol=1e-9)
    assert curve.warnings == [] and curve.fits is None and curve.influence is None
    assert curve.dropped == [0, 0, 0]


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
    points = [point(one, 0.8 * s, excess=None if s > 1 else np.array([0.1, -0.2])) for s in SCALES]
    curve = one.curve(points).curve
    assert [(p.scale, p.eps) for p in curve] == [(s, e) for s in SCALES for e in EPS]
    for place, found in enumerate(curve):
        s, e = divmod(place, 2)
        source = points[s]
        for name in ("accuracy", "robust_accuracy", "bound", "t", "t_rob", "accuracy_stderr", "bound_stderr"):
            assert getattr(found, name) == getattr(source, name)[e]
        assert found.t_stderr == source.stderr[e]
        assert found.robust_accuracy_stderr == source.robust_accuracy_stderr[e]
        assert math.isnan(found.excess) if s == 2 else found.excess == (0.1, -0.2)[e]
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
def test_scores_below_the_commoner_class_have_no_interval(prior: float, commoner: float) -> None:
    def curve(lowest: float) -> Curve:
        one = scoring(prior, thresholds=(lowest, 0.9))
        return one.curve([point(one, 0.8 * s) for s in SCALES])

    for lowest in (commoner - 0.01, commoner):
        found = curve(lowest)
        assert found.warnings[0].startswith(f"interval withheld above {lowest:g} at eps 0, {lowest:g} at eps")
        assert found.warnings[0].endswith(
            ": naming the commoner class alone exceeds the threshold, so scales without a signal decide the score"
        )
        for score in found.scores:
            assert math.isfinite(score.score)
            for error in (score.stderr, score.ci95_low, score.ci95_high):
                assert math.isnan(error) == (score.threshold == lowest)
    assert curve(commoner + 0.01).warnings == []
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


def test_margins_that_are_not_gaussian_are_warned_of() -> None:
    one = scoring(thresholds=(0.65, 0.8), estimator="gaussian")

    def warnings(moved: float, error: float, estimator: str = "gaussian") -> list[str]:
        points = [
            point(
                one,
                0.8 * s,
                estimator=estimator,
                excess=np.array([0.0, moved * (s == 1.0)]),
                excess_stderr=np.full(2, error),
            )
            for s in SCALES
        ]
        return one.curve(points).warnings

    assert warnings(0.0, 1e-5) == []
    assert warnings(0.0019, 1e-5) == []  # certain, and too small to matter
    assert warnings(0.01, 0.008) == []  # large enough, and not certain
    *withheld, text = warnings(0.01, 0.001)
    assert [one.partition(":")[0] for one in withheld] == [
        "interval withheld above 0.65 at eps 0.3, 0.8 at eps 0.3",
        "interval withheld of the robust area",
    ]
    assert all(one.endswith(f": {GAUSSIAN_REFUTED}") for one in withheld)
    expected = float(point(one, 0.8).accuracy[1])
    assert text.startswith("the margins are not Gaussian (p = ")
    assert text.endswith(
        f"at scale 1, eps 0.3 their count gives accuracy {expected + 0.01:.4f} in place of {expected:.4f}; estimator "
        "consistent counts them"
    )
    assert warnings(0.01, 0.001, "consistent") == []  # its accuracy is the count


def test_accuracies_above_the_optimum_are_flagged() -> None:
    one = scoring()

    def warnings(above: float, count: int = 1000, scale: float = 1.0) -> list[str]:
        points = []
        for s in SCALES:
            p = point(one, s, error=0.004, count=count)
            accuracy = p.accuracy + above * ((s == scale) & (np.array(one.budgets) == 0.3))
            points.append(replace(p, accuracy=accuracy))
        found = one.curve(points).warnings
        return [text for text in found if not text.startswith("score above 1")]

    assert warnings(0.0) == []
    assert warnings(0.02) == []  # 20 of 1000 are less than four errors of the optimum's own rate
    (text,) = warnings(0.08)
    assert text.startswith(
        "accuracy above the raw data's optimum, by 6.92 errors: 0.9213 at scale 1, eps 0.3"
    )
    assert "where no classifier of the raw data exceeds 0.8413; scores above it cannot be trusted" in text
    (text,) = warnings(0.02, 10**6)  # by the errors of the estimate
    assert text.startswith("accuracy above the raw data's optimum")
    # No mistake at all, where the optimum makes some: the estimate's own error is 0.
    certain = [
        replace(p, accuracy=np.ones_like(p.accuracy), accuracy_stderr=np.zeros_like(p.accuracy))
        for p in (point(one, s) for s in SCALES)
    ]
    assert any(
        text.startswith("accuracy above the raw data's optimum") for text in one.curve(certain).warnings
    )


def test_scores_above_one_say_what_exceeds_the_raw_data() -> None:
    one = scoring()

    def warnings(accuracy: float = 0.0, bound: float = 1.0, error: float = 1e-3) -> list[str]:
        points = [point(one, s, error=error) for s in SCALES]
        return one.curve(
            [replace(p, accuracy=p.accuracy + accuracy, bound=p.bound * bound) for p in points]
        ).warnings

    assert warnings() == []
    assert warnings(bound=0.9) == []
    assert warnings(bound=1.02, error=0.05) == []  # 1 is within the interval
    (text,) = warnings(bound=1.1)
    assert text.startswith(
        "score above 1 for threshold 0.6 at eps 0, 0.8 at eps 0, 0.6 at eps 0.3, 0.8 at eps 0.3, because the bound, not "
        "the accuracy, exceeds that of the raw data: 1.1000 ± "
    )
    assert text.endswith(" would be 1.0000 with the raw data's bound")
    (text,) = warnings(accuracy=0.003)
    assert "because estimated accuracies exceed the raw data's optimum, which true ones cannot: 1.0" in text
    score, same = (float(part.split()[0]) for part in text.partition(": ")[2].split(" would be "))
    assert score == same > 1
    # The bound's part of 0.02 is the larger one above 0.6, that of the accuracies above 0.8.
    by_bound, by_accuracy = warnings(accuracy=0.003, bound=1.02)
    assert by_bound.startswith("score above 1 for threshold 0.6 at eps 0, 0.6 at eps 0.3, because the bound")
    assert by_accuracy.startswith(
        "score above 1 for threshold 0.8 at eps 0, 0.8 at eps 0.3, because estimated"
    )


def test_scores_that_move_with_the_number_of_samples_are_named() -> None:
    task = sb.GaussianTask((4,), tuple(np.linspace(0.4, 4.8, 12)))
    one = scoring(task=task)

    def found(bias: float, noise: float, seed: int = 0) -> Curve:
        rng, size = np.random.default_rng(seed), len(one.budgets)
        return one.curve(
            [
                point(one, 0.7 * s, error=1e-3, drift=bias + noise * rng.standard_normal(3 * size))
                for s in task.scale_values
            ]
        )

    moved, still = found(0.01, 0.003), found(0.0, 0.003)
    (text,) = moved.warnings
    assert text.startswith("scores move with the number of samples: above 0.") and " by +0.0" in text
    assert still.warnings == []
    # What is left is of the size of the drift: the interval says so.
    for one_score, other in zip(moved.scores, still.scores, strict=True):
        assert one_score.stderr > 1.5 * other.stderr
    assert sum(bool(found(0.0, 0.003, seed).warnings) for seed in range(40)) <= 2


def test_influences_are_stored_to_five_digits() -> None:
    one = scoring()
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((2, 2, 4)) for _ in SCALES]
    points = [point(one, 0.8 * s, influence=x) for s, x in zip(SCALES, given, strict=True)]
    found = one.curve(points).influence
    assert found is not None and found.group == GROUP
    np.testing.assert_allclose(found.accuracy, [x[0] for x in given], rtol=5e-5)
    np.testing.assert_allclose(found.reach, [x[1] for x in given], rtol=5e-5)
    assert found.accuracy[0][0][0] == float(f"{given[0][0, 0, 0]:.5g}") != given[0][0, 0, 0]
    points[1] = point(one, 0.8)
    assert one.curve(points).influence is None


def test_slopes_of_influences_are_derivatives_of_the_scores() -> None:
    """By finite differences of the accuracy, and of the reach, of one scale."""
    one = scoring(thresholds=(0.6, 0.7))
    points = [point(one, 0.9 * s, error=1e-4, influence=np.ones((2, 2, 1))) for s in SCALES]
    found = one.curve(points).influence
    assert found is not None

    def scores(s: int, e: int, by_accuracy: float, by_reach: float) -> np.ndarray:
        p = points[s]
        accuracy, reach = p.accuracy.copy(), p.accuracy * p.bound
        accuracy[e] += by_accuracy
        reach[e] += by_reach
        moved = [*points]
        moved[s] = replace(p, accuracy=accuracy, bound=reach / accuracy)
        return np.array([x.score for x in one.curve(moved).scores]).reshape(2, 2)[e]

    for s in (1, 2):  # far above the thresholds
        for e in range(2):
            for kind, table in enumerate((found.accuracy_slope, found.reach_slope)):
                up, down = (scores(s, e, *(h * (kind == k) for k in (0, 1))) for h in (1e-6, -1e-6))
                np.testing.assert_allclose(table[s][e], (up - down) / 2e-6, rtol=1e-4, atol=1e-6)


def test_averages_that_cannot_be() -> None:
    with refused(
        "average: expected one of ['sampled', 'published'], got 'publised', did you mean published?"
    ):
        scoring(average="publised")
    with refused("scales: expected at least 5 for the published average, whose curves are fitted, got 3"):
        scoring(average="published")
    with refused("average: expected sampled with prior 0.4, got published, which needs prior 0.5"):
        scoring(0.4, average="published", task=sb.GaussianTask((4,), tuple(range(1, 7)), prior=0.4))
    with refused("average: expected sampled with estimator other, got published"):
        scoring(average="published", estimator="other")
