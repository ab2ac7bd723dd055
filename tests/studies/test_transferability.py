"""Transferability scores: against scikit-learn, NumPy and numerical integration of the papers' definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from checks import refused
from numpy.typing import NDArray
from scipy import integrate, stats

from synbench_fast.studies.validity.transferability import TRANSFERABILITY, gbc, h_score, transrate

Array = NDArray[np.float64]


def sample(
    count: int, width: int, classes: int, seed: int = 0, apart: float = 1.0
) -> tuple[Array, NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, count)
    means = apart * random.standard_normal((classes, width))
    scales = np.linspace(0.3, 2.0, width)
    return means[y] + random.standard_normal((count, width)) * scales + 3.0, y


def of(function: Callable[..., float], z: Array, y: NDArray[np.int64]) -> float:
    return function(torch.from_numpy(z), torch.from_numpy(y))


@pytest.mark.parametrize(("count", "width"), [(120, 10), (50, 90)], ids=["tall", "wide"])
def test_h_score_is_that_of_the_covariance_of_scikit_learn(count: int, width: int) -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    z, y = sample(count, width, 4)
    fitted = covariance.LedoitWolf().fit(z)
    expected = np.empty_like(z)
    for k in range(4):
        expected[y == k] = z[y == k].mean(0)
    between = (1 - fitted.shrinkage_) * np.cov(expected.T, bias=True)
    assert of(h_score, z, y) == pytest.approx(np.trace(np.linalg.pinv(fitted.covariance_) @ between))


def test_h_score_of_classes_far_apart_is_their_number_less_one() -> None:
    z, y = sample(3000, 5, 3, apart=200.0)
    assert of(h_score, z, y) == pytest.approx(2, abs=0.02)
    constant = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    assert of(h_score, constant, y) == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize(("count", "width"), [(120, 10), (50, 90)], ids=["tall", "wide"])
def test_transrate_is_that_of_the_determinants(count: int, width: int) -> None:
    z, y = sample(count, width, 3)

    def rate(part: Array) -> float:
        n = len(part)
        return float(np.linalg.slogdet(np.eye(width) + part.T @ part / (n * 1e-4))[1] / 2)

    centred = z - z.mean(0)
    weights = np.bincount(y) / count
    expected = rate(centred) - sum(weights[k] * rate(centred[y == k]) for k in range(3))
    assert of(transrate, z, y) == pytest.approx(expected, rel=1e-9)
    # The authors' weights 1/K, of classes of the same size.
    same = np.arange(len(y)) // 3 * 3 < len(y) // 3 * 3
    balanced = np.arange(len(y)) % 3
    part = z[same]
    part = part - part.mean(0)
    label = balanced[same]
    authors = rate(part) - sum(rate(part[label == k]) for k in range(3)) / 3
    assert of(transrate, z[same], label) == pytest.approx(authors, rel=1e-9)


def test_gbc_of_one_feature_is_the_overlap_of_densities() -> None:
    """exp(-D) is the integral of the geometric mean of two densities."""
    random = np.random.default_rng(1)
    y = np.repeat([0, 1, 2], [30, 40, 50])
    z = (np.array([0.0, 1.0, 3.0])[y] + np.array([0.5, 1.0, 2.0])[y] * random.standard_normal(len(y)))[
        :, None
    ]
    grid = np.linspace(-30, 40, 200_001)
    densities = [stats.norm(z[y == k].mean(), z[y == k].std()).pdf(grid) for k in range(3)]
    expected = -sum(
        float(integrate.simpson(np.sqrt(densities[i] * densities[j]), x=grid))
        for i in range(3)
        for j in range(3)
        if i != j
    )
    assert of(gbc, z, y) == pytest.approx(expected, rel=1e-6)


def test_gbc_of_several_features_is_that_of_spherical_gaussians() -> None:
    """By the general formula of the distance, with matrices; and of 64 components where there are more."""
    z, y = sample(400, 80, 3, seed=2, apart=0.3)
    centred = z - z.mean(0)
    _, vectors = np.linalg.eigh(np.cov(centred.T))
    expected, kept = 0.0, centred @ vectors[:, ::-1][:, :64]
    for i in range(3):
        for j in range(3):
            if i == j:
                continue
            a, b = kept[y == i], kept[y == j]
            first, second = (np.eye(64) * one.var(0).mean() for one in (a, b))
            middle, apart = (first + second) / 2, a.mean(0) - b.mean(0)
            distance = apart @ np.linalg.solve(middle, apart) / 8 + 0.5 * (
                np.linalg.slogdet(middle)[1]
                - 0.5 * (np.linalg.slogdet(first)[1] + np.linalg.slogdet(second)[1])
            )
            expected -= math.exp(-distance)
    assert of(gbc, z, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", TRANSFERABILITY)
def test_scores_rise_with_the_distance_of_the_classes(name: str) -> None:
    values = [
        of(TRANSFERABILITY[name], *sample(300, 12, 4, seed=5, apart=apart)) for apart in (0.0, 0.5, 1.0, 2.0)
    ]
    assert values == sorted(values) and values[0] < values[-1]


@pytest.mark.parametrize("name", TRANSFERABILITY)
def test_mistakes(name: str) -> None:
    function, z, y = TRANSFERABILITY[name], torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])
    with refused("features: expected features [N, F], got [6]"):
        function(z[:, 0], y)
    with refused("features: expected finite features, got others"):
        function(z * math.inf, y)
    with refused("y: expected 6 labels as there are features, got [5]"):
        function(z, y[:5])
    with refused("y: expected at least 2 classes, got 1"):
        function(z, y * 0)


def test_constant_features_have_no_h_score() -> None:
    with refused("features: expected some that vary, got constants only"):
        h_score(torch.ones(6, 2), torch.tensor([0, 1, 0, 1, 0, 1]))
