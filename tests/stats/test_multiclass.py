"""More than two classes: closed forms, refitting, simulated coverage, and what is refused."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from scipy.stats import norm

import synbench_fast as sb
from synbench_fast.results.multiclass import MulticlassResult
from synbench_fast.stats.gaussian_classes import Design, pair_trained, separations, simulated


def means_of(classes: int, width: int, apart: float, seed: int = 0) -> np.ndarray:
    """Class means whose distances are about `apart`."""
    return apart / math.sqrt(2 * width) * np.random.default_rng(seed).standard_normal((classes, width))


def drawn(means: np.ndarray, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(means)), each)
    noise = np.random.default_rng(seed).standard_normal((len(labels), means.shape[1]))
    return means[labels] + noise, labels


def evaluated(x: Any, y: Any, **options: Any) -> MulticlassResult:
    found = sb.evaluate_features(x, y, **options)
    assert isinstance(found, MulticlassResult)
    return found


@pytest.mark.parametrize("estimator", ["consistent", "gaussian", "counted"])
def test_many_samples_give_the_closed_form(estimator: str) -> None:
    """Phi(delta/2) for every pair; for four means at equal distances the integral over the largest of normals."""
    means = 2.0 / math.sqrt(2) * np.eye(4, 6)
    x, y = drawn(means, 10_000, 1)
    mixing = np.random.default_rng(2).standard_normal((6, 6))
    found = evaluated(x @ mixing + 3, y, estimator=estimator)
    assert found.pair_accuracy == pytest.approx(norm.cdf(1.0), abs=4 * found.pair_stderr)
    for pair in found.pairs:
        assert pair.accuracy == pytest.approx(norm.cdf(1.0), abs=0.015)
    grid = np.linspace(-9, 9, 20_001)
    exact = np.trapezoid if hasattr(np, "trapezoid") else np.trapz
    whole = float(exact(norm.pdf(grid) * norm.cdf(grid + math.sqrt(2)) ** 3, grid))
    assert found.accuracy == pytest.approx(whole, abs=4 * found.stderr)
    assert found.stderr < 0.006 and found.pair_stderr < 0.005 and found.chance == 0.25
    assert len(found.pairs) == 6 and found.rank == 6


def test_counts_are_those_of_refitting() -> None:
    """`counted` is the accuracy of discriminants that are fitted again without each sample."""
    x, y = drawn(means_of(3, 5, 2.0), 12, 3)
    keep = np.arange(len(x)) < 34  # classes of 12, 12 and 10
    x, y = x[keep], y[keep]
    right, pairs = np.zeros(3), np.zeros((3, 3))
    for i, label in enumerate(y):
        rest = np.arange(len(x)) != i
        middle = np.stack([x[rest & (y == k)].mean(0) for k in range(3)])
        inverse = np.linalg.inv((x[rest] - middle[y[rest]]).T @ (x[rest] - middle[y[rest]]))
        distance = np.einsum("kf,fg,kg->k", x[i] - middle, inverse, x[i] - middle)
        right[label] += distance.argmin() == label
        pairs[label] += distance[label] < distance
    size = np.bincount(y)
    found = evaluated(x, y, estimator="counted")
    assert found.accuracy == pytest.approx(float((right / size).mean()), abs=1e-12)
    pairs /= size[:, None]
    for pair in found.pairs:
        i, j = pair.first, pair.second
        assert pair.accuracy == pytest.approx((pairs[i, j] + pairs[j, i]) / 2, abs=1e-12)


def test_gaussian_model_of_trained_classifiers_is_their_accuracy_on_new_samples() -> None:
    means, each = means_of(6, 40, 3.0), 20
    design = Design(np.full(6, float(each)), 40)
    gram = (means - means.mean(0)) @ (means - means.mean(0)).T
    all_right, pair_right = [], []
    for seed in range(40):
        x, y = drawn(means, each, seed)
        middle = np.stack([x[y == k].mean(0) for k in range(6)])
        inverse = np.linalg.inv((x - middle[y]).T @ (x - middle[y]))
        new, labels = drawn(means, 100, 1000 + seed)
        score = new @ inverse @ middle.T - np.einsum("kf,fg,kg->k", middle, inverse, middle) / 2
        own = score[np.arange(len(new)), labels][:, None]
        all_right.append(float((score.argmax(1) == labels).mean()))
        pair_right.append(float((own > score).sum() / (len(new) * 5)))
    off = ~np.eye(6, dtype=bool)
    trained = pair_trained(separations(gram), design)[off].mean()
    assert np.mean(pair_right) == pytest.approx(trained, abs=0.008)
    assert np.mean(all_right) == pytest.approx(float(simulated([gram], design).trained[0]), abs=0.015)


def test_variance_of_the_mean_separation_is_its_spread() -> None:
    means, each = means_of(5, 30, 2.5), 20
    design, off, found = Design(np.full(5, float(each)), 30), ~np.eye(5, dtype=bool), []
    for seed in range(600):
        x, y = drawn(means, each, seed)
        middle = np.stack([x[y == k].mean(0) for k in range(5)])
        covariance = (x - middle[y]).T @ (x - middle[y]) / design.freedom
        root = np.linalg.inv(np.linalg.cholesky(covariance))
        found.append(separations(design.gram(middle @ root.T))[off].mean())
    gram = (means - means.mean(0)) @ (means - means.mean(0)).T
    expected = design.variance_of_sum(np.full((5, 5), 0.1), gram)
    assert np.var(found) == pytest.approx(expected, rel=0.2)  # known to 6 %, the formula to order 1/nu
    assert np.mean(found) == pytest.approx(separations(gram)[off].mean(), rel=0.04)


@pytest.mark.parametrize(
    ("classes", "each", "width", "relu"), [(3, 40, 60, False), (10, 20, 20, True), (6, 20, 36, True)]
)
def test_intervals_hold_the_truth(classes: int, each: int, width: int, relu: bool) -> None:
    """Truth from 60 000 samples; 40 sets of samples, of which at least 34 hold it if 95 in 100 do (0.997)."""
    means = means_of(classes, width, 3.0)
    mixing = np.random.default_rng(5).standard_normal((width, width)) / math.sqrt(width)

    def encoded(many: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = drawn(means, many, seed)
        return (np.maximum(x @ mixing, 0) if relu else x), y

    x, y = encoded(60_000 // classes, 999)
    middle = np.stack([x[y == k].mean(0) for k in range(classes)])
    inverse = np.linalg.inv((x - middle[y]).T @ (x - middle[y]))
    score = x @ inverse @ middle.T - np.einsum("kf,fg,kg->k", middle, inverse, middle) / 2
    own = score[np.arange(len(x)), y][:, None]
    right = float((score.argmax(1) == y).mean())
    both = np.stack([(own > score)[y == k].mean(0) for k in range(classes)])
    pairs = [(both[i, j] + both[j, i]) / 2 for i, j in combinations(range(classes), 2)]
    held, number = np.zeros(3), 0
    for seed in range(40):
        found = evaluated(*encoded(each, seed))
        if found.warnings:
            continue
        number += 1
        held += [
            found.ci95_low < right < found.ci95_high,
            found.pair_ci95_low < float(np.mean(pairs)) < found.pair_ci95_high,
            found.worst_ci95_low < min(pairs) < found.worst_ci95_high,
        ]
    assert number >= 36 and (held >= number - 6).all()


def test_labels_are_any_integers() -> None:
    x, y = drawn(means_of(3, 6, 2.0), 30, 4)
    names = np.array([40, -7, 1000])
    plain, named = evaluated(x, y), evaluated(torch.from_numpy(x), names[y].astype(float))
    assert named.labels == [-7, 40, 1000] and named.samples == [30, 30, 30]
    assert named.pair_accuracy == pytest.approx(plain.pair_accuracy, abs=1e-12)
    found = {(one.first, one.second): one.accuracy for one in named.pairs}
    for one in plain.pairs:
        i, j = sorted((int(names[one.first]), int(names[one.second])))
        assert found[i, j] == pytest.approx(one.accuracy, abs=1e-12)
    two, other = (
        sb.evaluate_features(x[:60], y[:60], eps=0.0),
        sb.evaluate_features(x[:60], 5 - 3 * y[:60], eps=0.0),
    )
    assert two.accuracy == pytest.approx(other.accuracy, abs=1e-12)  # the sides are exchanged


def test_a_result_is_a_document() -> None:
    found = evaluated(*drawn(means_of(4, 6, 2.5), 40, 6))
    assert MulticlassResult.from_json(found.to_json()) == found
    assert f"classes {found.worst_pair.first} and {found.worst_pair.second}" in str(found)
    assert found.worst_pair.accuracy == min(one.accuracy for one in found.pairs)
    assert found.worst_ci95_low < found.worst_pair.accuracy < found.worst_ci95_high


def test_intervals_without_ground_are_withheld() -> None:
    """Margins with a gain of each sample, and classes without a difference."""
    means = means_of(10, 30, 3.0)
    x, y = drawn(means, 100, 7)
    gain = np.exp(np.random.default_rng(8).standard_normal((len(x), 1)))
    heavy = evaluated(x * gain, y)
    assert heavy.warnings[0].startswith("interval withheld: the margins are not Gaussian")
    assert (
        math.isnan(heavy.stderr)
        and math.isnan(heavy.worst_ci95_low)
        and "interval " not in str(heavy).split("warning")[0]
    )
    assert MulticlassResult.from_json(heavy.to_json()).labels == heavy.labels
    assert not evaluated(x * gain, y, estimator="counted").warnings
    none = evaluated(*drawn(np.zeros((4, 20)), 20, 3))
    assert any("hardly told apart" in one for one in none.warnings)
    few = evaluated(*drawn(means_of(20, 60, 3.0), 5, 3))
    assert any("would be computed, not counted" in one for one in few.warnings)


def test_refusals() -> None:
    x, y = drawn(means_of(3, 6, 2.0), 20, 5)
    with refused(
        "estimator: expected one of ['consistent', 'gaussian', 'counted'] for 3 classes, got 'paper'"
    ):
        sb.evaluate_features(x, y, estimator="paper")
    with refused("eps: expected none for 3 classes, got one"):
        sb.evaluate_features(x, y, eps=0.2)
    with refused("test_x: expected none for 3 classes, got one"):
        sb.evaluate_features(x, y, x, y)
    with refused("prior: expected 0.5 for 3 classes, got 0.3"):
        sb.evaluate_features(x, y, prior=0.3)
    with refused("train_y: expected at least 2 samples of each class, got 1 of class 2"):
        sb.evaluate_features(x[:41], y[:41])
    with refused("samples: expected at least F + K + 2 = 45 samples", "got 44; twice as many are better"):
        sb.evaluate_features(np.random.default_rng(0).standard_normal((44, 40)), np.arange(44) % 3)
    with refused("features: expected at least one that varies within the classes, got constants only"):
        sb.evaluate_features(np.ones((60, 4)), y)
    with refused("leave out the features that repeat the labels"):
        sb.evaluate_features(np.c_[x, y], y)


@pytest.mark.parametrize("estimator", ["consistent", "gaussian", "counted"])
def test_classes_that_are_far_apart(estimator: str) -> None:
    """At 100 deviations no shift of a separation changes an accuracy: its slope is 0 in float64."""
    x, y = drawn(100 * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 100, 0)
    found = sb.evaluate_features(x, y, estimator=estimator)
    assert isinstance(found, MulticlassResult)
    assert found.accuracy == 1 and found.pair_accuracy == 1 and 0 <= found.stderr < 0.01


@pytest.mark.parametrize("distance", [1e4, 1e6])
@pytest.mark.parametrize("classes", [3, 10])
def test_classes_much_farther_apart(classes: int, distance: float) -> None:
    x, y = drawn(distance * np.eye(classes, 12), 60, 0)
    found = evaluated(x, y)
    assert found.accuracy == 1 and found.pair_accuracy == 1 and found.rank == 12


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e300])
def test_the_size_of_features_changes_nothing(size: float) -> None:
    x, y = drawn(means_of(4, 10, 2.0), 60, 1)
    plain = evaluated(x, y)
    for factor in (size, np.where(np.arange(10) == 3, size, 1.0)):
        found = evaluated(x * factor, y)
        assert found.rank == plain.rank
        assert found.accuracy == pytest.approx(plain.accuracy, abs=1e-9)
        assert found.stderr == pytest.approx(plain.stderr, rel=1e-6)


def test_an_offset_of_a_feature_changes_nothing() -> None:
    x, y = drawn(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]]), 100, 0)
    plain = evaluated(x, y)
    for offset in (1e4, 1e7):
        moved = evaluated(x + np.array([0.0, offset]), y)
        assert moved.rank == 2
        assert moved.accuracy == pytest.approx(plain.accuracy, abs=1e-6)


@pytest.mark.parametrize("offset", [1e8, -1e10])
def test_an_offset_of_all_features_changes_nothing(offset: float) -> None:
    """Rounding of numbers far from 0 was taken for directions in which no class varies, and refused."""
    x, y = drawn(means_of(4, 20, 2.5), 150, 5)
    found, moved = evaluated(x, y), evaluated(x + offset, y)
    assert moved.accuracy == pytest.approx(found.accuracy, abs=1e-3)
    assert moved.pair_accuracy == pytest.approx(found.pair_accuracy, abs=1e-5)


def test_intervals_of_equal_classes_and_of_few_samples_are_withheld() -> None:
    """Simulated: they held in 75 to 90 % of runs."""
    equal = evaluated(*drawn(np.repeat(means_of(3, 10, 2.0), 2, axis=0), 60, 1))
    assert any("hardly told apart while others are" in one for one in equal.warnings)
    assert math.isnan(equal.stderr)
    few = evaluated(*drawn(means_of(20, 5, 4.0), 3, 1))
    assert any("a class has fewer than 5 samples" in one for one in few.warnings)
    wide = evaluated(*drawn(means_of(5, 60, 3.0), 16, 1))
    assert any("too few samples for as many features" in one for one in wide.warnings)
    clear = evaluated(*drawn(means_of(4, 10, 4.0), 200, 1))
    assert not clear.warnings and clear.stderr > 0
