"""Directions without variance within the classes: those that tell the classes apart count, others do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from checks import Array, refused

import synbench_fast as sb
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.stats.estimators import find_estimator
from synbench_fast.stats.solve import examine, start_solving

N = 400
LABELS = np.arange(N) % 2
SIDE = 2.0 * LABELS - 1
THREE = ("consistent", "gaussian", "counted")
EPS = (0.0, 0.2)


def noise(f: int = 8, signal: float = 0.3, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((N, f)) + signal * SIDE[:, None]


def rotated(x: Array) -> Array:
    return np.asarray(x @ np.linalg.qr(np.random.default_rng(1).standard_normal((x.shape[1], x.shape[1])))[0])


def codes() -> Array:
    """One-hot codes of which each belongs to one class."""
    return np.eye(8)[np.random.default_rng(2).integers(0, 4, N) + 4 * LABELS]


PERFECT: dict[str, Callable[[], Array]] = {
    "beside noise": lambda: np.c_[SIDE, noise()],
    "alone": lambda: SIDE[:, None],
    "alone, twice": lambda: np.c_[SIDE, -3 * SIDE],
    "bits": lambda: np.c_[LABELS, noise()],
    "beside constants": lambda: np.c_[SIDE, np.zeros(N), np.full(N, 7.0)],
    "codes": codes,
    "codes beside noise": lambda: np.c_[codes(), noise()],
    "rotated": lambda: rotated(np.c_[SIDE, noise()]),
    "tiny": lambda: 1e-8 * rotated(np.c_[SIDE, noise()]),
    "huge": lambda: 1e6 * rotated(np.c_[SIDE, noise()]),
    "tiny beside large": lambda: np.c_[1e-8 * SIDE, noise(signal=0.0)],
    "large beside small": lambda: np.c_[1e6 * SIDE, noise()],
    "constant far from 0": lambda: np.c_[SIDE + 100, noise()],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("features", PERFECT.values(), ids=PERFECT)
@pytest.mark.parametrize("estimator", THREE)
def test_what_separates_the_classes_has_accuracy_1(
    estimator: str, features: Callable[[], Array], dtype: Any
) -> None:
    point = sb.evaluate_features(features().astype(dtype), LABELS, eps=0.0, estimator=estimator)
    assert (point.accuracy[0], point.robust_accuracy[0], point.bound[0]) == (1.0, 1.0, 1.0)
    assert point.t[0] == np.inf and point.t_rob[0] == np.inf
    assert point.accuracy_stderr[0] == 1 / N and np.isnan(point.stderr[0])
    assert point.rank < point.feature_dim
    assert point.covariance is not None and np.all(np.isfinite(point.covariance))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("distance", [1e4, 1e5, 1e6, 1e7, 1e12, 1e30])
@pytest.mark.parametrize("along", ["one feature", "all features"])
@pytest.mark.parametrize("estimator", THREE)
def test_classes_far_apart_have_accuracy_1(estimator: str, along: str, distance: float, dtype: Any) -> None:
    x = noise(12, signal=0.0)
    x[:, : 1 if along == "one feature" else 12] += distance * SIDE[:, None]
    point = sb.evaluate_features(x.astype(dtype), LABELS, eps=EPS, estimator=estimator)
    assert point.accuracy.tolist() == [1.0, 1.0] and point.robust_accuracy.tolist() == [1.0, 1.0]
    assert point.t.min() > 5e3


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e-60, 1e60, 1e160, 1e300])
@pytest.mark.parametrize("estimator", [*THREE, "paper"])
def test_features_whose_squares_are_no_numbers_are_refused(estimator: str, size: float) -> None:
    with refused("features: expected the largest between 1e-50 and 1e+50 in size, got"):
        sb.evaluate_features(size * noise(), LABELS, size * noise(), LABELS, estimator=estimator)


@pytest.mark.parametrize("size", [1e-45, 1e-30, 1e30])
@pytest.mark.parametrize("estimator", THREE)
def test_features_of_every_size_that_float32_has(estimator: str, size: float) -> None:
    expected = sb.evaluate_features(noise(), LABELS, eps=EPS, estimator=estimator)
    point = sb.evaluate_features(size * noise(), LABELS, eps=EPS, estimator=estimator)
    np.testing.assert_allclose(point.accuracy, expected.accuracy, rtol=1e-9)
    np.testing.assert_allclose(point.t, expected.t, rtol=1e-9)


@pytest.mark.parametrize("size", [1e-130, 1e-160, 1e-200, 1e-300])
@pytest.mark.parametrize("estimator", THREE)
def test_a_feature_too_small_to_be_squared_is_dropped(estimator: str, size: float) -> None:
    """Its deviation is lost, so that it must not be taken for one that separates the classes."""
    x = noise()
    expected = sb.evaluate_features(x[:, 1:], LABELS, eps=EPS, estimator=estimator)
    x[:, 0] *= size
    point = sb.evaluate_features(x, LABELS, eps=EPS, estimator=estimator)
    assert point.rank == expected.rank == 7
    np.testing.assert_allclose(point.accuracy, expected.accuracy, rtol=1e-9)


@pytest.mark.parametrize("estimator", THREE)
def test_what_no_single_feature_tells(estimator: str) -> None:
    """Two features that share their noise: their difference is the class."""
    shared = noise(1, signal=0.0)
    point = sb.evaluate_features(
        np.c_[shared + SIDE[:, None], shared, noise(4, seed=3)], LABELS, eps=EPS, estimator=estimator
    )
    assert point.accuracy.tolist() == [1.0, 1.0] and point.t[0] == np.inf and point.rank == 5


@pytest.mark.parametrize("estimator", THREE)
def test_an_attack_above_its_share_of_the_class_distance_takes_it_away(estimator: str) -> None:
    """m = (1, 3, 0, ...): the attack cancels the first part from eps = 1/|m| = 0.316 on; then 3 - r/... is left."""
    x = np.c_[SIDE, noise(signal=0.0)]
    x[:, 1] += 3 * SIDE
    share = 1 / float(feature_stats(torch.from_numpy(x), torch.from_numpy(LABELS)).half_difference.norm())
    eps = (0.0, 0.98 * share, 1.02 * share, 0.6)
    point = sb.evaluate_features(x, LABELS, eps=eps, estimator=estimator)
    assert np.isinf(point.t).tolist() == [True, True, False, False]
    assert point.robust_accuracy[:2].tolist() == [1.0, 1.0]
    # The remaining budget works on the second direction, whose t is 3: sqrt(r^2 - 1) of it are gone.
    stats = feature_stats(torch.from_numpy(x), torch.from_numpy(LABELS))
    second = float(stats.half_difference[1] / stats.covariance[1, 1].sqrt())
    left = second - np.sqrt((np.array(eps[2:]) / share) ** 2 - 1)
    np.testing.assert_allclose(point.t_rob[2:], left, atol=0.15)
    other = sb.evaluate_features(rotated(x), LABELS, eps=eps, estimator=estimator)
    np.testing.assert_allclose(other.robust_accuracy, point.robust_accuracy, atol=1e-6)


@pytest.mark.parametrize("estimator", THREE)
def test_constant_in_one_class_only(estimator: str) -> None:
    x = noise()
    x[:, 0] = np.where(LABELS == 1, 1.0, x[:, 0] * 0.3 - 3)
    point = sb.evaluate_features(x, LABELS, eps=0.0, estimator=estimator)
    assert point.accuracy[0] == pytest.approx(1.0, abs=1e-6) and point.rank == 8


@pytest.mark.parametrize("estimator", (*THREE, "paper"))
@pytest.mark.parametrize("value", [0.0, 5.0, -1e4, 1e-7])
def test_noise_constants_are_dropped_without_effect(estimator: str, value: float) -> None:
    """Equal in both classes, as float32 holds them."""
    x = noise().astype(np.float32)
    wide = np.insert(x, 3, np.float32(value), axis=1)
    wide = np.c_[wide, wide[:, :1]]  # and a doubled column
    one, other = (
        sb.evaluate_features(z, LABELS, z, LABELS, eps=EPS, estimator=estimator) for z in (x, wide[:, :-1])
    )
    assert (one.rank, other.rank, other.feature_dim, other.below_cut) == (8, 8, 9, 0)
    for name in ("accuracy", "robust_accuracy", "bound", "t", "t_rob", "accuracy_stderr"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-7, err_msg=name)
    doubled = sb.evaluate_features(wide, LABELS, wide, LABELS, eps=EPS, estimator=estimator)
    assert doubled.rank == 8 and not doubled.lost_separation
    np.testing.assert_allclose(doubled.accuracy[0], one.accuracy[0], atol=1e-9)


@pytest.mark.parametrize("estimator", THREE)
@pytest.mark.parametrize("value", [0.1, 12345.678])
def test_the_rounding_of_a_constant_does_not_separate(estimator: str, value: float) -> None:
    """A constant that is computed in another order in one class differs there by its last bit."""
    x = noise().astype(np.float32)
    column = np.full(N, value, dtype=np.float32)
    column[LABELS == 1] = np.nextafter(column[0], np.float32(np.inf))
    point = sb.evaluate_features(np.c_[column, x], LABELS, eps=0.0, estimator=estimator)
    assert np.isfinite(point.t[0]) and point.accuracy[0] < 0.9


@pytest.mark.parametrize("estimator", THREE)
def test_nothing_but_constants_is_refused(estimator: str) -> None:
    for features in (np.ones((N, 4)), np.zeros((N, 1)), np.full((N, 2), 0.1, dtype=np.float32)):
        with refused("features: expected at least one that varies within the classes, got constants only"):
            sb.evaluate_features(features, LABELS, estimator=estimator)


@pytest.mark.parametrize("size", [1e8, 1e9])
@pytest.mark.parametrize("estimator", THREE)
def test_what_falls_below_the_cut_is_counted(estimator: str, size: float) -> None:
    x = np.c_[size * noise(1, signal=0.0, seed=5), noise()]
    point = sb.evaluate_features(x, LABELS, eps=0.0, estimator=estimator)
    assert (point.rank, point.below_cut) == (1, 8)
    whole = sb.evaluate_features(noise(), LABELS, eps=0.0, estimator=estimator)
    assert whole.below_cut == 0 and point.accuracy[0] < whole.accuracy[0] - 0.05


def test_runs_say_what_was_dropped() -> None:
    options: dict[str, Any] = {"input_shape": (8,), "scales": (1.0, 2.0), "samples": 256, "eps": 0.0}

    def wide(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 1e9 * torch.sin(1e3 * x[:, :1]), torch.ones(len(x), 2)], 1).double()

    def plain(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.ones(len(x), 2)], 1)

    lost, kept = (sb.score(encoder, **options) for encoder in (wide, plain))
    assert lost.dropped == [10, 10] and kept.dropped == [2, 2]
    assert any(
        text.startswith("8 of 11 directions of the features vary at scale 1 and were dropped")
        for text in lost.warnings
    )
    assert not any("dropped" in text for text in kept.warnings)


def test_the_published_protocol_drops_what_separates_and_warns() -> None:
    direction = torch.full((8,), 8**-0.5)

    def signed(x: torch.Tensor) -> torch.Tensor:
        along = x @ direction
        across = x - along[:, None] * direction  # which knows nothing of the class
        return torch.cat([torch.sign(along - 0.5 * direction.sum())[:, None], across[:, :2]], 1)

    options: dict[str, Any] = {"input_shape": (8,), "scales": (7.0,), "samples": 256, "eps": 0.0}
    paper, ours = (sb.score(signed, **options, estimator=name) for name in ("paper", "consistent"))
    assert any(
        text.startswith("at 1 of 1 scales, from 7, a direction without variance tells the classes apart")
        for text in paper.warnings
    )
    assert ours.curve[0].accuracy == 1.0 and ours.curve[0].t == np.inf
    assert paper.curve[0].accuracy < 0.7
    assert sb.Result.from_json(ours.to_json()).curve[0].t == np.inf


def test_directions_are_counted_in_units_of_the_features() -> None:
    x = np.c_[1e9 * noise(1, seed=4), 1e-6 * noise(2), np.full(N, 3.0), noise(1, seed=9)]
    x = np.c_[x, x[:, 4] + x[:, 0]]
    found = examine(feature_stats(torch.from_numpy(x), torch.from_numpy(LABELS)))
    assert found.varying == 4 and not found.separated
    apart = examine(feature_stats(torch.from_numpy(np.c_[x, SIDE]), torch.from_numpy(LABELS)))
    assert apart.varying == 4 and apart.separated
    expected = np.r_[np.zeros(6), 1.0]
    np.testing.assert_allclose(apart.separation.numpy(), expected, atol=1e-9)


def test_full_rank_is_solved_as_it_is() -> None:
    stats = feature_stats(torch.from_numpy(noise()), torch.from_numpy(LABELS))
    solved = start_solving(stats, EPS, "auto")()
    assert (solved.rank, solved.below_cut, solved.certain.any()) == (8, 0, False)
    assert torch.equal(solved.covariance, stats.covariance)
    one_class = torch.zeros(N, dtype=torch.uint8)
    with refused("train labels: expected samples of both classes, got none of class 1"):
        find_estimator("consistent").point(feature_stats(torch.from_numpy(noise()), one_class), EPS)
