"""Accuracy and bound of Gaussian margins against quadrature of their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from synbench_fast.stats import gaussian

PRIORS = (0.5, 0.3, 0.05, 0.8)
TS = (1e-3, 0.1, 0.7, 2.0, 4.9, 30.0)
KS = (0.0, 0.2, -0.6, 3.0, 40.0)


def tensor(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def by_quadrature(t: float, k: float, prior: float) -> tuple[float, float]:
    """Accuracy and E[|u|/(m'w) | correct], u in units of its deviation: N(t - k, 1) and N(-t - k, 1)."""
    parts = []
    for power in (0, 1):
        total = 0.0
        for weight, center, sign in ((prior, t - k, 1), (1 - prior, -t - k, -1)):
            peak = max(0.0, sign * center)

            def density(
                v: float, power: int = power, weight: float = weight, at: float = sign * center
            ) -> float:
                return weight * v**power * float(norm.pdf(v - at))  # v = sign u > 0: the correct side

            for low, high in ((max(0.0, peak - 12), peak), (peak, peak + 12)):
                total += quad(density, low, high, epsabs=1e-14, epsrel=1e-13)[0]
        parts.append(total)
    return parts[0], parts[1] / (t * parts[0])


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("t", TS)
def test_accuracy_and_bound_are_their_definitions(t: float, k: float, prior: float) -> None:
    accuracy, bound = by_quadrature(t, k, prior)
    assert gaussian.accuracy(tensor(t), tensor(k), prior).item() == pytest.approx(accuracy, rel=1e-11)
    assert gaussian.bound(tensor(t), tensor(k), prior).item() == pytest.approx(bound, rel=1e-10)


def test_equal_priors_have_the_short_forms() -> None:
    t = torch.linspace(0.01, 9.0, 300, dtype=torch.float64)
    zero = torch.zeros_like(t)
    expected = 1 + norm.pdf(t.numpy()) / (t.numpy() * norm.cdf(t.numpy()))
    torch.testing.assert_close(
        gaussian.accuracy(t, zero, 0.5), torch.from_numpy(norm.cdf(t.numpy())), rtol=1e-14, atol=0
    )
    torch.testing.assert_close(gaussian.bound(t, zero, 0.5), torch.from_numpy(expected), rtol=1e-13, atol=0)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("k", KS[:4])
@pytest.mark.parametrize("t", TS[1:5])
def test_slopes_are_derivatives(t: float, k: float, prior: float) -> None:
    step = 1e-5 * t
    for function, slope in (
        (gaussian.accuracy, gaussian.accuracy_slope),
        (gaussian.bound, gaussian.bound_slope),
    ):
        up, down = (function(tensor(t + h), tensor(k), prior).item() for h in (step, -step))
        difference = (up - down) / (2 * step)
        assert slope(tensor(t), tensor(k), prior).item() == pytest.approx(difference, rel=1e-5, abs=1e-9)
    for function, slope in (
        (gaussian.accuracy, gaussian.accuracy_shift_slope),
        (gaussian.bound, gaussian.bound_shift_slope),
    ):
        up, down = (function(tensor(t), tensor(k + h), prior).item() for h in (1e-5, -1e-5))
        difference = (up - down) / 2e-5
        assert slope(tensor(t), tensor(k), prior).item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_swapping_the_classes_changes_nothing() -> None:
    t = torch.tensor([0.3, 1.5, 3.0], dtype=torch.float64)
    k = torch.tensor([0.4, -0.2, 1.0], dtype=torch.float64)
    for function in (gaussian.accuracy, gaussian.accuracy_slope, gaussian.bound, gaussian.bound_slope):
        torch.testing.assert_close(function(t, k, 0.3), function(t, -k, 0.7), rtol=1e-13, atol=1e-15)
    for function in (gaussian.accuracy_shift_slope, gaussian.bound_shift_slope):
        torch.testing.assert_close(function(t, k, 0.3), -function(t, -k, 0.7), rtol=1e-13, atol=1e-15)


def test_no_signal() -> None:
    """At t = 0 with equal priors the accuracy is a coin's and no distance is left to compare with."""
    zero = tensor(0.0)
    assert gaussian.accuracy(zero, zero, 0.5).item() == 0.5
    assert gaussian.accuracy_slope(zero, zero, 0.5).item() == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert gaussian.bound(zero, zero, 0.5).item() == math.inf
    assert gaussian.bound_slope(zero, zero, 0.5).item() == -math.inf


@pytest.mark.parametrize("prior", [0.3, 0.8])
def test_without_signal_the_prior_decides(prior: float) -> None:
    """w = 0 makes k infinite: everything goes to the commoner class, and nothing is NaN."""
    k = gaussian.threshold_shift(gaussian.log_prior_offset(prior), tensor(0.0))
    assert k.item() == (math.inf if prior < 0.5 else -math.inf)
    for t in (tensor(0.0), tensor(1.0)):
        assert gaussian.accuracy(t, k, prior).item() == max(prior, 1 - prior)
        assert gaussian.accuracy_slope(t, k, prior).item() == 0.0
        assert gaussian.bound(t, k, prior).item() == math.inf


def test_threshold_shift_is_the_offset_in_deviations() -> None:
    offset = gaussian.log_prior_offset(0.3)
    assert offset == pytest.approx(0.5 * math.log(7 / 3), rel=1e-15)
    shift = gaussian.threshold_shift(offset, torch.tensor([0.25, 4.0], dtype=torch.float64))
    torch.testing.assert_close(shift, torch.tensor([2 * offset, offset / 2], dtype=torch.float64))
    assert gaussian.threshold_shift(0.0, torch.zeros(2, dtype=torch.float64)).tolist() == [0.0, 0.0]
