"""The consistent moments against known populations: bias, standard errors, and a non-Gaussian encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from synbench_fast.ops.robust_solve import robust_solve

Array = NDArray[np.float64]
EPS = (0.0, 0.2, 0.5, 0.8)
SAMPLES = 240
SEEDS = 400


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Thousands of small eigenproblems: threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def population(m: Array, covariance: Array) -> tuple[Array, Array]:
    """t and t_rob of the population: the plug-in solve of the true moments."""
    out = robust_solve(
        torch.from_numpy(m), torch.from_numpy(covariance), EPS, moments="known", dof=1, cut=0.0
    )
    return out.t.numpy(), out.t_rob.numpy()


@dataclass
class Simulation:
    truth: tuple[Array, Array]
    t: Array  # [SEEDS, E]
    t_rob: Array
    t_cov: Array  # [SEEDS, E, E]
    t_rob_cov: Array


@pytest.fixture(scope="module", params=[SAMPLES // 20, SAMPLES // 4, SAMPLES // 2], ids=lambda f: f"F{f}")
def simulation(request: pytest.FixtureRequest) -> Simulation:
    """Gaussian features with eigenvalues i^-1/2 and a signal in every direction, t about 1.5.

    The sufficient statistics are drawn instead of samples: the scatter is a Wishart matrix (Bartlett's
    triangular factor), the mean an independent Gaussian.
    """
    size = request.param
    rng = np.random.default_rng(20240 + size)
    d = np.arange(1, size + 1) ** -0.5
    m = rng.standard_normal(size) * d**0.25
    m *= 1.5 / math.sqrt((m**2 / d).sum())
    dof, c0 = SAMPLES - 2, 1 / SAMPLES
    rows = []
    for _ in range(SEEDS):
        factor = np.tril(rng.standard_normal((size, size)), -1)
        factor[np.diag_indices(size)] = np.sqrt(rng.chisquare(dof - np.arange(size)))
        factor *= np.sqrt(d)[:, None]
        sample = m + np.sqrt(c0 * d) * rng.standard_normal(size)
        scatter = torch.from_numpy(factor @ factor.T)
        rows.append(robust_solve(torch.from_numpy(sample), scatter / dof, EPS, dof=dof, c0=c0))
    return Simulation(
        population(m, np.diag(d)),
        *(np.stack([getattr(row, k).numpy() for row in rows]) for k in ("t", "t_rob", "t_cov", "t_rob_cov")),
    )


def test_mean_over_200_seeds_is_the_truth(simulation: Simulation) -> None:
    for estimates, truth in zip((simulation.t, simulation.t_rob), simulation.truth, strict=True):
        some = estimates[:200]
        standard_error = some.std(0, ddof=1) / math.sqrt(len(some))
        assert np.all(np.abs(some.mean(0) - truth) < 2.0 * standard_error)


def test_standard_errors_are_the_spread_over_seeds(simulation: Simulation) -> None:
    """To 12 %: the spread over 400 seeds is itself known to 3.5 %, the formula is of leading order in 1/N."""
    for estimates, covariance in (
        (simulation.t, simulation.t_cov),
        (simulation.t_rob, simulation.t_rob_cov),
    ):
        predicted = np.sqrt(covariance.diagonal(axis1=1, axis2=2).mean(0))
        np.testing.assert_allclose(predicted, estimates.std(0, ddof=1), rtol=0.12)


def test_errors_of_different_eps_are_correlated_as_predicted(simulation: Simulation) -> None:
    """t(0) - t(0.8), far more precise than either, and the average over eps."""
    for contrast in (np.array([1.0, 0.0, 0.0, -1.0]), np.full(4, 0.25)):
        predicted = math.sqrt(float(np.mean(simulation.t_cov @ contrast @ contrast)))
        assert predicted == pytest.approx(float((simulation.t @ contrast).std(ddof=1)), rel=0.15)


def test_intervals_cover_the_truth(simulation: Simulation) -> None:
    """95 % intervals; 400 seeds measure the level to 1.1 %."""
    for estimates, covariance, truth in (
        (simulation.t, simulation.t_cov, simulation.truth[0]),
        (simulation.t_rob, simulation.t_rob_cov, simulation.truth[1]),
    ):
        error = np.sqrt(covariance.diagonal(axis1=1, axis2=2))
        covered = (np.abs(estimates - truth) < 1.96 * error).mean(0)
        assert np.all((covered > 0.92) & (covered < 0.985)), covered


def test_intervals_cover_a_signal_that_is_lost_in_noise() -> None:
    """t = 0.2 at F/N = 1/2, where a quarter of the estimates is exactly 0."""
    rng = np.random.default_rng(5)
    size, dof, c0 = 60, 118, 1 / 120
    m = np.full(size, 0.2 / math.sqrt(size))
    covered, zeros = [], []
    for _ in range(200):
        x = rng.standard_normal((dof, size))
        sample = torch.from_numpy(m + math.sqrt(c0) * rng.standard_normal(size))
        out = robust_solve(sample, torch.from_numpy(x.T @ x / dof), EPS, dof=dof, c0=c0)
        assert bool(out.t_cov.isfinite().all())
        covered.append(((out.t - 0.2).abs() < 1.96 * out.t_cov.diagonal().sqrt()).numpy())
        zeros.append(bool(out.t[0] == 0.0))
    assert 0.1 < np.mean(zeros) < 0.5
    assert np.all(np.mean(covered, axis=0) > 0.9)


def sample_moments(features: Array, labels: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Half mean difference, pooled covariance and c0 of features [N, F] with labels 0/1 [N]."""
    one, zero = features[labels == 1], features[labels == 0]
    centered = np.concatenate([one - one.mean(0), zero - zero.mean(0)])
    m = (one.mean(0) - zero.mean(0)) / 2
    c0 = (1 / len(one) + 1 / len(zero)) / 4
    return torch.from_numpy(m), torch.from_numpy(centered.T @ centered / (len(features) - 2)), c0


def test_linear_encoder_with_unequal_classes() -> None:
    """Features W x + b of samples, 70 of one class and 130 of the other, give the known t within 2 errors."""
    rng = np.random.default_rng(1)
    inputs, size, count, scale = 80, 50, 200, 2.0
    weight = rng.standard_normal((size, inputs)) / math.sqrt(inputs)
    bias = rng.standard_normal(size)
    labels = (np.arange(count) < 70).astype(np.int64)
    signs = np.where(labels == 1, scale, -scale) / math.sqrt(inputs)
    estimates = []
    for _ in range(200):
        x = rng.standard_normal((count, inputs)) + signs[:, None]
        m, covariance, c0 = sample_moments(x @ weight.T + bias, labels)
        estimates.append(robust_solve(m, covariance, EPS, dof=count - 2, c0=c0).t.numpy())
    truth, _ = population(scale * weight.sum(1) / math.sqrt(inputs), weight @ weight.T)
    standard_error = np.std(estimates, axis=0, ddof=1) / math.sqrt(len(estimates))
    assert np.all(np.abs(np.mean(estimates, axis=0) - truth) < 2.0 * standard_error)


def test_relu_encoder_agrees_with_its_plugin_limit() -> None:
    """On random ReLU features, 192 samples estimate what the plug-in tends to as N grows.

    The limit of t and of the accuracy on fresh data is extrapolated in 1/N from N = 8192 and 32768; accuracy
    Phi(t) holds as far as the margin, a sum over features, is Gaussian.
    """
    rng = np.random.default_rng(3)
    inputs, size, scale = 64, 48, 1.5
    hidden = rng.standard_normal((inputs, 96)) / math.sqrt(inputs)
    out_weight = rng.standard_normal((96, size)) / math.sqrt(96)

    def draw(count: int) -> tuple[Array, NDArray[np.int64]]:
        labels = np.arange(count) % 2
        x = rng.standard_normal((count, inputs)) + ((2 * labels - 1) * scale / math.sqrt(inputs))[:, None]
        return np.maximum(np.maximum(x @ hidden, 0.0) @ out_weight, 0.0), labels

    def tail(count: int) -> tuple[Array, Array]:
        features, labels = draw(count)
        m, covariance, _ = sample_moments(features, labels)
        center = (features[labels == 1].mean(0) + features[labels == 0].mean(0)) / 2
        solved = robust_solve(m, covariance, EPS, moments="known", dof=count - 2)
        test, test_labels = draw(131072)
        right = ((test - center) @ solved.weights.numpy().T > 0) == (test_labels[:, None] == 1)
        return solved.t.numpy(), right.mean(0)

    (t_small, right_small), (t_large, right_large) = tail(8192), tail(32768)
    t_limit = t_large + (t_large - t_small) / 3
    right_limit = right_large + (right_large - right_small) / 3

    count = 192
    estimates, errors = [], []
    for _ in range(200):
        features, labels = draw(count)
        m, covariance, c0 = sample_moments(features, labels)
        out = robust_solve(m, covariance, EPS, dof=count - 2, c0=c0)
        estimates.append(out.t.numpy())
        errors.append(out.t_cov.diagonal().numpy())
    spread = np.std(estimates, axis=0, ddof=1)
    mean = np.mean(estimates, axis=0)
    # The limit is itself an estimate, known to about t sqrt(2 / 32768).
    limit_error = t_limit * math.sqrt(2.0 / 32768)
    assert np.all(np.abs(mean - t_limit) < 3.0 * np.hypot(spread / math.sqrt(200), limit_error))
    accuracy = np.array([0.5 * math.erfc(-one / math.sqrt(2.0)) for one in mean])
    np.testing.assert_allclose(accuracy, right_limit, atol=0.01)
    np.testing.assert_allclose(np.sqrt(np.mean(errors, axis=0)), spread, rtol=0.2)
