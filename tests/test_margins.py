"""Standardised margins: influences against finite differences, the check of Gaussian margins against truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import close
from synbench_fast.margins import GROUP, counted, gaussianity, grouped, influence, standard_margins

from synbench_fast.stats import gaussian, margins


def drawn(n: int, f: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, generator=generator) < 0.4).to(torch.uint8)
    x = torch.randn(n, f, generator=generator, dtype=torch.float64) + 0.6 * (2.0 * y[:, None] - 1)
    return x, y, torch.randn(3, f, generator=generator, dtype=torch.float64)


def weighted_t(margins: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """(mean_1 - mean_0)/(2 s) of weighted samples."""
    means = [np.average(margins[y == k], weights=weight[y == k]) for k in (0, 1)]
    square = np.average((margins - np.where(y == 1, means[1], means[0])) ** 2, weights=weight)
    return float((means[1] - means[0]) / (2 * math.sqrt(square)))


def test_influence_is_the_derivative_in_the_weight_of_a_sample() -> None:
    x, y, w = drawn(40, 5)
    z = standard_margins(x, y, w, x.mean(0))
    margins = ((x - x.mean(0)) @ w.T).numpy()
    for e in range(3):
        t = weighted_t(margins[:, e], y.numpy(), np.ones(40))
        found = influence(z, y, torch.full((3,), t, dtype=torch.float64))[:, e]
        for i in (0, 7, 39):
            up, down = (np.where(np.arange(40) == i, 1 + h, 1.0) for h in (1e-5, -1e-5))
            slope = (
                weighted_t(margins[:, e], y.numpy(), up) - weighted_t(margins[:, e], y.numpy(), down)
            ) / 2e-5
            assert float(found[i]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_standard_margins_are_standard_and_point_to_their_side() -> None:
    x, y, w = drawn(300, 4)
    z = standard_margins(x, y, w, x.mean(0))
    close(z.square().mean(0), torch.ones(3), 1e-12)
    for label in (0, 1):
        close(z[y == label].mean(0), torch.zeros(3), 1e-12)
    flipped = standard_margins(x, 1 - y, -w, x.mean(0))
    close(flipped, z, 1e-12)
    assert torch.equal(
        standard_margins(torch.ones(4, 4), torch.tensor([0, 1, 0, 1]), w, torch.zeros(4)),
        torch.zeros(4, 3).double(),
    )


def test_features_are_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, w = drawn(300, 4)
    whole = standard_margins(x.float(), y, w, x.mean(0))
    monkeypatch.setattr(margins, "CHUNK_BYTES", 8 * 4 * 7)
    close(standard_margins(x.float(), y, w, x.mean(0)), whole, 1e-12)


@pytest.mark.parametrize("n", [1, GROUP - 1, GROUP, 3 * GROUP + 5])
def test_groups_are_consecutive_samples(n: int) -> None:
    values = torch.arange(2 * n, dtype=torch.float64).reshape(n, 2)
    sums = grouped(values)
    assert sums.shape == (2, -(-n // GROUP))
    close(sums[:, 0], values[:GROUP].sum(0), 1e-15)
    close(sums.sum(1), values.sum(0), 1e-15)


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_counting_gaussian_margins_gives_the_closed_form(prior: float) -> None:
    n = 400_000
    generator = torch.Generator().manual_seed(1)
    y = (torch.arange(n) < prior * n).to(torch.uint8)
    z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.8, 2.0], dtype=torch.float64)
    k = gaussian.threshold_shift(gaussian.log_prior_offset(prior), (0.9 * t) ** 2)
    accuracy, bound = counted(z, y, t, k)
    close(accuracy, gaussian.accuracy(t, k, prior), 3e-3)
    close(bound, gaussian.bound(t, k, prior), 5e-3)
    nothing = counted(
        z[:10], y[:10], torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    )
    assert bool(torch.isinf(nothing[1]).all())


def p_values(draw, prior: float, repeat: int = 400, n: int = 600) -> np.ndarray:
    """Of the check on `repeat` sets of three scales whose margins `draw` makes."""
    generator = np.random.default_rng(0)
    t = torch.tensor([0.5, 1.0, 1.8], dtype=torch.float64)
    k = gaussian.threshold_shift(gaussian.log_prior_offset(prior), t**2)
    y = (torch.arange(n) % 10 < 10 * prior).to(torch.uint8)
    found = []
    for _ in range(repeat):
        u = torch.from_numpy(draw(generator, (n, 3)))
        z = standard_margins(u, y, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
        accuracy = torch.stack(
            [counted(z[:, i : i + 1], y, t[i : i + 1], k[i : i + 1])[0] for i in range(3)]
        )[:, 0]
        check = gaussianity(accuracy, t, k, prior, n)
        assert check is not None
        found.append(check.p_value)
    return np.array(found)


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_p_values_of_gaussian_margins_are_uniform(prior: float) -> None:
    """400 repetitions know a rate of 5 % to 1.1 %, and counts are not continuous."""
    found = p_values(lambda g, shape: g.standard_normal(shape), prior)
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(found <= level) - level) < 4 * math.sqrt(level * (1 - level) / 400) + 0.01


def test_margins_with_another_distribution_are_found() -> None:
    assert np.mean(p_values(lambda g, shape: g.standard_exponential(shape), 0.5, 50) < 1e-3) > 0.95


def test_scales_without_mistakes_cannot_tell() -> None:
    t = torch.tensor([6.0], dtype=torch.float64)
    assert (
        gaussianity(torch.ones(1, dtype=torch.float64), t, torch.zeros(1, dtype=torch.float64), 0.5, 1000)
        is None
    )
