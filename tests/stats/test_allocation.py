"""How many samples each scale gets until the intervals are narrow enough, alone and in runs."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from scipy.optimize import minimize

import synbench_fast as sb
from synbench_fast.results.records import Result
from synbench_fast.stats.allocation import GRANULE, further_samples

MANY = 1 << 30


def test_one_score_is_shared_out_by_the_square_root() -> None:
    """v_s = c_s / n_s at equal n: n_s ~ sqrt(c_s), and the sum of c_s / n_s is the target."""
    cost = np.array([9.0, 16.0, 25.0, 36.0])
    samples = np.full(4, 1000.0)
    variance = (cost / samples)[:, None]
    target = 0.036
    further = np.array(further_samples(variance, samples, np.zeros(4), target, MANY))
    total = samples + further
    expected = np.sqrt(cost) * np.sqrt(cost).sum() / target
    np.testing.assert_allclose(total, expected / 0.97, atol=GRANULE, rtol=0.01)
    assert (cost / total).sum() <= target


def test_several_scores_get_the_cheapest_plan() -> None:
    """Against a general optimiser."""
    rng = np.random.default_rng(0)
    samples = rng.uniform(5000, 9000, 6)
    lost = np.full(6, 100.0)
    for _ in range(5):
        cost = rng.exponential(1.0, (6, 4)) * 2
        variance = cost / (samples - lost)[:, None]
        target = float(variance.sum(0).max()) / 2
        further = np.array(further_samples(variance, samples, lost, target, MANY))
        total = samples - lost + np.where(further > 0, further - lost, 0)
        assert np.all((cost / total[:, None]).sum(0) <= target * 1.0001)

        def room(n: np.ndarray, cost: np.ndarray = cost, target: float = target) -> np.ndarray:
            return np.asarray(0.97 - (cost / n[:, None]).sum(0) / target)

        best = minimize(
            lambda n: n.sum() / 1e4,
            samples,
            bounds=[(n - 100, None) for n in samples],
            constraints={"type": "ineq", "fun": room},
            options={"maxiter": 1000, "ftol": 1e-10},
        )
        assert best.success
        assert further.sum() <= (best.x - samples + lost).sum() + 6 * (GRANULE + 100) + 0.02 * best.x.sum()


def test_nothing_is_added_where_nothing_is_missing() -> None:
    samples, lost = np.full(3, 500.0), np.zeros(3)
    assert further_samples(np.full((3, 2), 1e-5), samples, lost, 1e-4, MANY) == [0, 0, 0]
    one_needed = np.array([[1e-3], [0.0], [0.0]])
    further = further_samples(one_needed, samples, lost, 5e-4, MANY)
    assert further[0] >= 500 and further[1:] == [0, 0]


def test_a_round_grows_by_a_factor_and_stays_below_the_most() -> None:
    samples = np.full(2, 1000.0)
    variance = np.full((2, 1), 1.0)
    assert further_samples(variance, samples, np.zeros(2), 1e-6, MANY) == [3008, 3008]
    assert further_samples(variance, samples, np.zeros(2), 1e-6, 1500) == [500, 500]
    assert further_samples(variance, samples, np.zeros(2), 1e-6, 1000) == [0, 0]


def test_a_block_is_never_lost_to_the_features() -> None:
    samples, lost = np.full(2, 2000.0), np.full(2, 900.0)
    variance = np.full((2, 1), 0.5)
    further = further_samples(variance, samples, lost, 0.999, MANY)
    assert all(n == 0 or n >= 1800 for n in further) and any(further)
    assert further_samples(variance, samples, lost, 0.5, 3000) == [0, 0]  # no room for a block that helps


# Runs

LINEAR = "builtin:linear?dim=8"
SMALL: dict[str, Any] = {"input_shape": (16,), "preset": "quick", "thresholds": (0.6, 0.9)}


def widest(result: Result) -> float:
    return max(one.ci95_high - one.score for one in result.scores)


@pytest.mark.parametrize("estimator", ["consistent", "gaussian"])
@pytest.mark.parametrize("half_width", [0.03, 0.015])
def test_every_interval_is_as_narrow_as_asked(estimator: str, half_width: float) -> None:
    result = sb.score(LINEAR, half_width=half_width, estimator=estimator, **SMALL)
    assert 0.6 * half_width < widest(result) <= half_width
    assert result.half_width == half_width
    assert result.cost.images == sum(result.task.samples)
    assert min(result.task.samples) < max(result.task.samples)
    assert all(count % GRANULE == 0 for count in result.task.samples)
    assert f"--half-width {half_width}" in result.command
    assert not any("half_width" in text for text in result.warnings)


@pytest.mark.parametrize(
    "changes",
    [
        {"input_shape": (300,), "dim": 150, "estimator": "gaussian", "scales": 6, "half_width": 0.02},
        {"prior": 0.006, "samples": 366, "scales": (2.0, 3.0, 4.0), "thresholds": 0.9985, "half_width": 0.2},
    ],
    ids=["many features", "few of one class"],
)
def test_a_further_block_can_be_evaluated(changes: dict[str, Any]) -> None:
    """However little is missing: more samples than features, and samples of both classes."""
    dim = changes.pop("dim", 4)
    options = {"input_shape": (12,), "eps": 0.0, "thresholds": 0.6, **changes}
    result = sb.score(f"builtin:linear?dim={dim}", **options)
    assert widest(result) <= options["half_width"]
    assert max(result.task.samples) > 366  # more than it began with


def test_samples_are_only_appended_and_the_batch_size_changes_nothing() -> None:
    loose, tight = (sb.score(LINEAR, half_width=h, **SMALL) for h in (0.05, 0.01))
    assert all(a <= b for a, b in zip(loose.task.samples, tight.task.samples, strict=True))
    assert sum(tight.task.samples) > 4 * sum(loose.task.samples)

    def by_sample(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([row[:3] * torch.arange(1, 4) + row.mean() for row in x])

    runs = [
        sb.score(by_sample, input_shape=(6,), preset="quick", half_width=0.05, batch_size=size, seed=2)
        for size in (64, 1000)
    ]
    assert runs[0].scores == runs[1].scores and runs[0].task.samples == runs[1].task.samples


def test_intervals_of_adapted_runs_hold() -> None:
    """15 seeds, 60 scores: 95 % intervals although the samples stop coming when the errors look small."""

    def linear(x: torch.Tensor) -> torch.Tensor:
        return x @ MATRIX

    truth = sb.score(linear, **{**SMALL, "input_shape": (16,)}, samples=40_000, seed=1000)
    runs = [sb.score(linear, half_width=0.04, seed=seed, **SMALL) for seed in range(15)]
    held = [
        abs(one.score - exact.score) <= 1.96 * one.stderr
        for run in runs
        for one, exact in zip(run.scores, truth.scores, strict=True)
    ]
    assert np.mean(held) >= 0.85


MATRIX = torch.from_numpy(np.random.default_rng(3).standard_normal((16, 5)) + 0.3).float()


def test_what_begins_and_what_is_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = sb.score(LINEAR, half_width=0.5, **SMALL)
    assert set(begun.task.samples) == {256}
    assert set(sb.score(LINEAR, half_width=0.5, samples=100, **SMALL).task.samples) == {100}
    monkeypatch.setattr(importlib.import_module("synbench_fast.engine.score"), "MOST_SAMPLES", 512)
    capped = sb.score(LINEAR, half_width=0.001, **SMALL)
    assert set(capped.task.samples) == {512}
    expected = f"half_width: expected half-widths of at most 0.001, got {widest(capped):.2g} with 512 samples at a scale"
    assert any(text.startswith(expected) for text in capped.warnings)


def test_scores_without_an_error_do_not_keep_a_run_going() -> None:
    """The raw data never reach 0.99 at these scales: those scores are NaN and are left out."""
    result = sb.score(
        "builtin:identity",
        input_shape=(4,),
        scales=(0.5, 1.0),
        thresholds=(0.6, 0.99),
        eps=0.0,
        half_width=0.05,
    )
    assert math.isnan(result.score(threshold=0.99).stderr)
    assert result.score(threshold=0.6).ci95_high - result.score(threshold=0.6).score <= 0.05


def test_progress_reaches_what_was_drawn() -> None:
    seen: list[tuple[int, int]] = []
    result = sb.score(
        LINEAR, half_width=0.03, progress=lambda done, total, phase: seen.append((done, total)), **SMALL
    )
    assert seen[-1] == (result.cost.images, result.cost.images)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("value", [0, 1, -0.1, math.nan, True, "0.01"])
def test_half_widths_that_cannot_be(value: Any) -> None:
    with refused(f"half_width: expected a half-width in [0.0001, 1), got {value!r}"):
        sb.score(LINEAR, half_width=value, **SMALL)


def test_estimators_whose_points_depend_on_the_number_of_samples_keep_it() -> None:
    for name in ("paper", "counted"):
        with refused(f"half_width: expected estimator consistent or gaussian, got {name}"):
            sb.score(LINEAR, half_width=0.01, estimator=name, **SMALL)
