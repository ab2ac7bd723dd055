"""The synthetic task: what it accepts, the raw-data optimum, and which random numbers belong to what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from checks import refused
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from synbench_fast.task import GaussianTask, spread_scales

EPS = (0.0, 0.2, 0.5, 0.9)


def test_published_scales() -> None:
    assert spread_scales(49) == tuple(round(0.1 * i, 4) for i in range(1, 50))
    assert spread_scales(7) == (0.7, 1.4, 2.1, 2.8, 3.5, 4.2, 4.9)
    assert GaussianTask((3,)).scale_values == spread_scales(49)
    assert GaussianTask((3, 8, 9)).dim == 216


def test_raw_optimum_of_equal_priors_is_closed_form() -> None:
    task = GaussianTask((5,), (0.1, 1.3, 4.9))
    s = np.array(task.scale_values)[:, None]
    accuracy, robust, bound = (x.numpy() for x in task.raw(EPS))
    assert accuracy.shape == (3, 4)
    np.testing.assert_allclose(accuracy, np.broadcast_to(norm.cdf(s), (3, 4)), rtol=1e-14)
    np.testing.assert_allclose(robust, norm.cdf(s * (1 - np.array(EPS))), rtol=1e-14)
    np.testing.assert_allclose(
        bound, np.broadcast_to(1 + norm.pdf(s) / (s * norm.cdf(s)), (3, 4)), rtol=1e-13
    )


@pytest.mark.parametrize("prior", [0.3, 0.05, 0.8])
@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("scale", [0.4, 1.7])
def test_raw_optimum_of_unequal_priors_is_its_definition(scale: float, eps: float, prior: float) -> None:
    """Along u: the classifier w = (1 - eps) s predicts 1 iff (x - c) w > q/2; integrals of both classes."""
    w = (1 - eps) * scale
    boundary = math.log((1 - prior) / prior) / 2 / w

    def mass(power: int, shift: float) -> float:
        """Integral of |margin|^power over the samples that stay correct when moved `shift` to the wrong side."""
        total = 0.0
        for weight, center, side in ((prior, scale, 1), (1 - prior, -scale, -1)):
            edge = boundary + side * shift
            start = side * max(side * edge, side * (center - side * 12.0))

            def f(x: float, weight: float = weight, center: float = center, side: int = side) -> float:
                return weight * (side * (x - boundary) * w) ** power * float(norm.pdf(x - center))

            stop = start + side * 26.0
            total += side * quad(f, start, stop, points=[start + side, center + side * 1e-9], limit=400)[0]
        return total

    accuracy, robust, bound = (x.item() for x in GaussianTask((4,), (scale,), prior=prior).raw((eps,)))
    correct = mass(0, 0.0)
    assert accuracy == pytest.approx(correct, rel=1e-7)
    assert robust == pytest.approx(mass(0, eps * scale), rel=1e-7)
    assert bound == pytest.approx(mass(1, 0.0) / correct / (w * scale), rel=1e-7)


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_raw_optimum_is_the_best_threshold(prior: float) -> None:
    """At eps = 0 no threshold along u beats it; under attack the robust classifier's is the best one."""
    scale = 0.9

    def accuracy(boundary: float, reach: float) -> float:
        return float(
            prior * norm.sf(boundary + reach - scale) + (1 - prior) * norm.cdf(boundary - reach + scale)
        )

    for eps in (0.0, 0.4):
        best = minimize_scalar(
            lambda b, eps=eps: -accuracy(b, eps * scale), bracket=(-1.0, 1.0), options={"xtol": 1e-10}
        )
        robust = GaussianTask((4,), (scale,), prior=prior).raw((eps,))[1].item()
        assert robust == pytest.approx(-best.fun, rel=1e-10)


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_samples_reach_the_raw_optimum(prior: float) -> None:
    """Counted on the task's own samples: accuracy, robust accuracy, bound, within 4 standard errors."""
    task, eps, n = GaussianTask((3, 2, 2), (0.8,), prior=prior, center=-1.0), 0.4, 40_000
    x, y = task.sample(0.8, 0, n, seed=11)
    along = (x.flatten(1).double() + 1.0).sum(1) / math.sqrt(12)
    w = (1 - eps) * 0.8
    margin = along * w - math.log((1 - prior) / prior) / 2
    correct = (margin > 0) == (y == 1)
    stays = correct & (margin.abs() > eps * 0.8 * w)
    distance = margin[correct].abs() / (w * 0.8)
    accuracy, robust, bound = (one.item() for one in task.raw((eps,)))
    assert abs(correct.double().mean().item() - accuracy) < 4 * math.sqrt(accuracy * (1 - accuracy) / n)
    assert abs(stays.double().mean().item() - robust) < 4 * math.sqrt(robust * (1 - robust) / n)
    assert abs(distance.mean().item() - bound) < 4 * distance.std().item() / math.sqrt(len(distance))


def test_samples_depend_on_the_value_of_a_scale_not_on_the_list() -> None:
    few, many = GaussianTask((7,), (0.5, 1.0)), GaussianTask((7,), (0.1, 0.25, 0.5, 0.7, 1.0))
    for scale in (0.5, 1.0):
        for split in (0, 1):
            a, b = (t.sample(scale, 3, 20, split=split, seed=5) for t in (few, many))
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_every_scale_and_split_has_random_numbers_of_its_own() -> None:
    task = GaussianTask((16,), (*GaussianTask((16,)).scale_values, 4.9001, 4.9002, 99_999.9999, 100_000.0))
    streams = [task.stream(s, split) for s in task.scale_values for split in (0, 1)]
    assert len(set(streams)) == 106
    assert min(streams) >= 0 and max(streams) < 2**32  # one word of the counter
    n, noise = 500, []
    for scale, split, seed in ((0.5, 0, 0), (0.5, 1, 0), (0.6, 0, 0), (0.5, 0, 1)):
        x, y = task.sample(scale, 0, n, split=split, seed=seed)
        noise.append((x.double() - 0.5 - (2.0 * y[:, None] - 1) * scale / 4).flatten())
    correlation = torch.corrcoef(torch.stack(noise)) - torch.eye(4, dtype=torch.float64)
    assert correlation.abs().max() < 4.5 / math.sqrt(noise[0].numel())


def test_any_part_of_a_scale_can_be_drawn_alone() -> None:
    task = GaussianTask((3, 4, 5), prior=0.3)
    whole, labels = task.sample(0.5, 0, 63, seed=2, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 0.5))
    for start, stop in ((0, 1), (1, 40), (40, 63)):
        x, y = task.sample(0.5, start, stop - start, seed=2, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 0.5))
        assert torch.equal(x, whole[start:stop]) and torch.equal(y, labels[start:stop])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"shape": ()}, ["shape: expected positive integers, got ()"]),
        ({"shape": (3, 0)}, ["shape: expected positive integers, got (3, 0)"]),
        ({"shape": (2.5,)}, ["shape: expected positive integers, got (2.5,)"]),
        ({"scales": ()}, ["scales: expected at least 1 scale, got none"]),
        ({"scales": (0.0, 1.0)}, ["scales: expected values in [0.0001, 100000], got [0.0, 1.0]"]),
        ({"scales": (1.0, math.nan)}, ["scales: expected values in", "nan"]),
        ({"scales": (1.0, 2e5)}, ["scales: expected values in", "200000.0"]),
        ({"scales": (1.0, 0.5)}, ["scales: expected increasing values at least 0.0001 apart", "[1.0, 0.5]"]),
        ({"scales": (1.0, 1.00001)}, ["scales: expected increasing values"]),
        ({"prior": 0.0}, ["prior: expected a value in (0, 1), got 0.0"]),
        ({"prior": 1.0}, ["prior: expected a value in (0, 1), got 1.0"]),
        ({"prior": math.nan}, ["prior: expected a value in (0, 1), got nan"]),
        ({"center": math.inf}, ["center: expected a finite value, got inf"]),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], parts: list[str]) -> None:
    with refused(*parts):
        GaussianTask(**{"shape": (4,), **arguments})  # type: ignore[arg-type]


def test_numbers_of_scales_that_cannot_be() -> None:
    with refused("scales: expected 1 to 49000 scales, got 0"):
        spread_scales(0)
    with refused("scales: expected 1 to 49000 scales, got 50000"):
        spread_scales(50_000)
    assert len(GaussianTask((1,), spread_scales(49_000)).scale_values) == 49_000


@pytest.mark.parametrize("eps", [1.0, -0.1, math.nan])
def test_raw_optimum_has_no_budget_outside_its_range(eps: float) -> None:
    with refused("eps: expected values in [0, 1)"):
        GaussianTask((4,)).raw((0.1, eps))
