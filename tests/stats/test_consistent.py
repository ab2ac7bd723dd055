"""Counts of left-out margins: their parts against definitions, and the whole against classifiers of other samples."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from checks import Array, drawn
from scipy.stats import norm

import synbench_fast as sb
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.ops.leave_one_out import leave_one_out
from synbench_fast.stats.consistent import GROUP, counts, deviation_error, grouped, margins, t_influence
from synbench_fast.stats.solve import start_solving


def sided(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Margins [n, 3] that are positive on the right side, and labels of classes of different size."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, generator=generator) < 0.4).to(torch.uint8)
    return torch.randn(n, 3, generator=generator, dtype=torch.float64) + 0.8, y


def weighted_t(margin: Array, y: Array, weight: Array) -> float:
    """Mean of the class means over the pooled deviation, of weighted samples."""
    means = [np.average(margin[y == k], weights=weight[y == k]) for k in (0, 1)]
    square = np.average((margin - np.where(y == 1, means[1], means[0])) ** 2, weights=weight)
    return float((means[1] + means[0]) / (2 * math.sqrt(square)))


def test_influence_is_the_derivative_in_the_weight_of_a_sample() -> None:
    margin, y = sided()
    found = margins(margin, y)
    influence = t_influence(found, found.t)
    for e in range(3):
        column, labels = margin[:, e].numpy(), y.numpy()
        assert float(found.t[e]) == pytest.approx(weighted_t(column, labels, np.ones(40)), rel=1e-12)
        for i in (0, 7, 39):
            up, down = (np.where(np.arange(40) == i, 1 + h, 1.0) for h in (1e-5, -1e-5))
            slope = (weighted_t(column, labels, up) - weighted_t(column, labels, down)) / 2e-5
            assert float(influence[i, e]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_margins_are_in_units_of_their_deviation() -> None:
    margin, y = sided(300)
    one, other = margins(margin, y), margins(1e6 * margin, y)
    torch.testing.assert_close(one.unit, other.unit)
    assert torch.allclose(one.centred.square().mean(0), torch.ones(3).double())
    for label in (0, 1):
        assert torch.allclose(one.centred[y == label].mean(0), torch.zeros(3).double(), atol=1e-12)
    still = margins(torch.full((4, 1), 2.0, dtype=torch.float64), torch.tensor([0, 1, 0, 1]))
    assert bool(still.unit.isfinite().all()) and bool(still.t.isfinite().all())


@pytest.mark.parametrize("kind", ["normal", "laplace", "exponential"])
def test_the_error_of_the_deviation_is_its_spread(kind: str) -> None:
    """2000 sets of 400 margins of two classes. Their fourth moments, 3, 6 and 9, give 0.035, 0.056 and 0.071."""
    rng = np.random.default_rng(1)
    drawn_margins = torch.from_numpy(1.5 + getattr(rng, kind)(size=(400, 2000)))
    found = margins(drawn_margins, torch.arange(400) % 2)
    spread = float((found.deviation / found.deviation.mean()).std())
    fourth = {"normal": 3, "laplace": 6, "exponential": 9}[kind]
    assert spread == pytest.approx(math.sqrt((fourth - 1) / 400) / 2, rel=0.06)
    assert float(deviation_error(found).median()) == pytest.approx(spread, rel=0.12)


def test_a_single_margin_that_makes_up_the_deviation() -> None:
    margin = torch.zeros(500, 1, dtype=torch.float64)
    margin[7] = 1.0
    assert float(deviation_error(margins(margin, torch.arange(500) % 2))) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("start", [0, 1, GROUP - 1, GROUP, 3 * GROUP + 5])
@pytest.mark.parametrize("n", [1, GROUP - 1, GROUP, 3 * GROUP + 5])
def test_groups_are_consecutive_samples(n: int, start: int) -> None:
    values = torch.arange(2.0 * n, dtype=torch.float64).reshape(n, 2)
    sums = grouped(values, start)
    numbers = (start + torch.arange(n)) // GROUP - start // GROUP
    expected = torch.zeros(int(numbers.max()) + 1, 2, dtype=torch.float64).index_add(0, numbers, values)
    torch.testing.assert_close(sums, expected.T)


@pytest.mark.parametrize("prior", [0.5, 0.35])
def test_counts_without_a_correction_are_counts(prior: float) -> None:
    """What is on the right side of the boundary, before and after an attack, and how far beyond.

    Classes weigh as the prior says, whatever their share of these samples.
    """
    (x, _), (y, _), _ = drawn(150, 5, prior=prior, seed=8)
    eps = (0.0, 0.3, 0.6)
    stats = feature_stats(torch.from_numpy(x), torch.from_numpy(y))
    solved = start_solving(stats, eps, "auto")().solution
    left_out = leave_one_out(torch.from_numpy(x), torch.from_numpy(y), stats, solved.ridge)
    budgets = torch.tensor(eps, dtype=torch.float64)
    seen = margins(left_out.margin, torch.from_numpy(y), prior)
    found = counts(seen, left_out, solved, stats, budgets, prior, corrected=False)
    side = np.where(y == 1, 1.0, -1.0)
    assert abs(y.mean() - prior) > 0.01

    def mean(values: Any) -> float:
        return float(prior * values[y == 1].mean() + (1 - prior) * values[y == 0].mean())

    for e in range(3):
        unit = seen.unit[:, e].numpy()
        t, t_rob = float(solved.t[e]), float(solved.t_rob[e])
        k = math.log((1 - prior) / prior) / 2 / t_rob * float(seen.t[e]) / t
        beyond = unit - side * k
        cost = eps[e] * solved.mean_norm * float(left_out.weight_norm[e] / seen.deviation[e])
        assert float(found.accuracy[e]) == pytest.approx(mean(beyond > 0))
        assert float(found.robust_accuracy[e]) == pytest.approx(mean(beyond > cost))
        reach = max(1.0, mean(np.maximum(0, beyond)) / float(seen.t[e]))
        assert float(found.reach[e]) == pytest.approx(reach)
    assert bool((found.correction == 0).all()) and bool((found.by_t == 0).all())


@pytest.mark.parametrize("estimator", ["consistent", "counted"])
@pytest.mark.parametrize(("share", "prior"), [(0.9, 0.5), (0.2, 0.5), (0.5, 0.9), (0.25, 0.6)])
def test_the_prior_weighs_the_classes_and_not_their_number_of_samples(
    estimator: str, share: float, prior: float
) -> None:
    """Features along and across m, with deviation 2 in class 1 and 1/2 in class 0.

    The pooled covariance is v I with v = 4 share + (1 - share)/4, so that the boundary is at v q/2 in the first feature,
    whose classes have the means 1 and -1.
    """
    v = 4 * share + (1 - share) / 4
    at = v * math.log((1 - prior) / prior) / 2
    expected = prior * norm.cdf((1 - at) / 2) + (1 - prior) * norm.cdf((1 + at) * 2)
    reach = prior * _positive_part(1 - at, 2.0) + (1 - prior) * _positive_part(1 + at, 0.5)
    found, y = [], (np.arange(800) < 800 * share).astype(np.int64)
    for seed in range(24):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((800, 3)) * np.where(y == 1, 2.0, 0.5)[:, None]
        x[:, 0] += 2 * y - 1
        found.append(sb.evaluate_features(x, y, eps=0.0, prior=prior, estimator=estimator))
    accuracies, reaches = (
        np.array([getattr(one, name)[0] for one in found]) for name in ("accuracy", "reach")
    )
    error = float(accuracies.std() / 24**0.5)
    assert abs(accuracies.mean() - expected) < 4 * error + 0.004  # of order 1/N is left
    assert abs(reaches.mean() - reach) < 4 * float(reaches.std() / 24**0.5) + 0.02 * reach
    stated = float(np.mean([one.accuracy_stderr[0] for one in found]))
    assert 0.6 < stated / accuracies.std(ddof=1) < 2.5


def _positive_part(mean: float, deviation: float) -> float:
    """Of a normal number."""
    z = mean / deviation
    return float(mean * norm.cdf(z) + deviation * norm.pdf(z))


def test_rounding_of_a_margin_decides_nothing() -> None:
    """A quarter of the margins is 0 but for rounding, half become it when the midpoint moves by its error."""
    x, y, _ = drawn(64, 4, t=1.0)
    stats = feature_stats(torch.from_numpy(x[0]), torch.from_numpy(y[0]))
    eps = (0.0, 0.3)
    solved = start_solving(stats, eps, "auto")().solution
    labels = torch.from_numpy(y[0])
    left_out = leave_one_out(torch.from_numpy(x[0]), labels, stats, solved.ridge)
    seen = margins(left_out.margin, labels)
    kind, error = torch.arange(64)[:, None] // 2 % 4, math.sqrt(stats.c0)
    unit = torch.where(kind == 0, 0.0, torch.where(kind < 3, error, seen.unit))

    def of(moved: float, corrected: bool) -> Any:
        found = replace(
            seen, unit=unit + moved * (kind < 3) * torch.sign(torch.randn(unit.shape, generator=rng))
        )
        return counts(found, left_out, solved, stats, torch.tensor(eps).double(), 0.5, corrected=corrected)

    rng = torch.Generator().manual_seed(0)
    for corrected in (False, True):
        exact = of(0.0, corrected)
        assert float(exact.jumps[0, 0]) > 0
        for _ in range(3):
            found = of(3e-10, corrected)
            for name in ("accuracy", "reach", "robust_accuracy", "jumps", "by_t", "correction"):
                torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=1e-8, atol=1e-9)
            for one, other in zip(found.influence, exact.influence, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("estimator", ["consistent", "counted"])
def test_counts_of_plenty_of_samples_need_no_correction(estimator: str) -> None:
    """F/N = 2e-4: the correction is far below the error of the count."""
    x, y, _ = drawn(30_000, 6, t=1.2)
    point = sb.evaluate_features(x[0], y[0], eps=(0.0, 0.3), estimator=estimator)
    assert np.all(np.abs(point.counted_accuracy - point.accuracy) < 5e-4)
    plain = sb.evaluate_features(x[0], y[0], eps=(0.0, 0.3), estimator="counted")
    np.testing.assert_allclose(point.accuracy, plain.accuracy, atol=5e-4)
    np.testing.assert_allclose(point.bound, plain.bound, rtol=5e-3)


def cubes(n: int, seed: int) -> tuple[Array, Any]:
    """Heavy-tailed features: cubes of correlated Gaussians."""
    generator = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((16, 10)) / 4
    y = np.arange(n) % 2
    x = generator.standard_normal((n, 16)) + 0.35 * (2 * y[:, None] - 1)
    return (x @ mix) ** 3, y


def test_counting_needs_no_gaussian_margins() -> None:
    """Against the share of 200 000 other samples that the limiting classifiers get right."""
    x, y = cubes(200_000, 1)
    held_x, held_y = cubes(200_000, 2)
    eps = (0.0, 0.3)
    truth = sb.evaluate_features(x, y, held_x, held_y, eps=eps, estimator="paper", group=200_000)
    assumed = sb.evaluate_features(x, y, eps=eps, estimator="gaussian")
    assert np.all(np.abs(assumed.accuracy - truth.accuracy) > 0.008)
    for name in ("consistent", "counted"):
        found = sb.evaluate_features(x, y, eps=eps, estimator=name)
        assert np.all(np.abs(found.accuracy - truth.accuracy) < 0.004)
        assert np.all(np.abs(found.robust_accuracy - truth.robust_accuracy) < 0.01)
        np.testing.assert_allclose(found.bound, truth.bound, rtol=0.01)
        np.testing.assert_array_equal(found.t, assumed.t)
    # And the excess says so: counted minus Gaussian, in many of its errors.
    assert assumed.excess is not None and assumed.excess_stderr is not None
    np.testing.assert_allclose(assumed.accuracy + assumed.excess, truth.accuracy, atol=0.004)
    assert np.all(np.abs(assumed.excess) > 8 * assumed.excess_stderr)


def gaussian_excess(seeds: int) -> Array:
    z = []
    for seed in range(seeds):
        x, y, _ = drawn(400, 12, t=1.2, seed=seed)
        point = sb.evaluate_features(x[0], y[0], eps=(0.0, 0.3), estimator="gaussian")
        assert point.excess is not None and point.excess_stderr is not None
        z.append(point.excess / point.excess_stderr)
    return np.array(z)


def test_the_excess_of_gaussian_margins_is_noise_of_its_error() -> None:
    z = gaussian_excess(150)
    assert np.all(np.abs(z.mean(0)) < 0.35) and np.all((z.std(0) > 0.75) & (z.std(0) < 1.2))


def test_a_correction_is_the_gain_of_the_population_over_n_samples() -> None:
    """White features, F/N = 0.5: counted + correction is Phi(t), and the optimism is as expected."""
    corrected, counted, optimism = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = np.arange(200) % 2
        x = rng.standard_normal((200, 100))
        x[:, 0] += 1.5 * (2 * y - 1)
        point = sb.evaluate_features(x, y, eps=0.0)
        corrected.append(point.accuracy[0])
        counted.append(point.counted_accuracy[0])
        assert point.optimism is not None
        optimism.append(point.optimism[:, 0])
    truth = norm.cdf(1.5)
    assert np.mean(counted) < truth - 0.1
    assert abs(np.mean(corrected) - truth) < 3 * np.std(corrected) / math.sqrt(60) + 0.01
    seen, expected, *attacked = np.mean(optimism, axis=0)
    assert seen == pytest.approx(expected, rel=0.15) and seen > 0.1
    assert attacked == [seen, expected]  # of robust accuracy; at eps 0 that is the accuracy


def test_a_sample_that_alone_makes_up_a_direction_decides_nothing_but_itself() -> None:
    """A bit that is right on all samples but one: without that one it does not vary, and its margin is 0/0."""
    y = torch.arange(512) % 2
    x = torch.randn(512, 9, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 2.0 * y - 1
    x[7, 0] *= -1
    found = sb.evaluate_features(x, y, eps=0.0)
    assert found.accuracy[0] == pytest.approx(511 / 512, abs=1e-3)
    assert found.accuracy_stderr[0] < 0.005 and found.bound[0] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("ones", "zeros", "right"), [(20, 20, 0), (21, 20, 1 / 2), (22, 20, 1)])
def test_a_sample_of_a_code_that_the_others_leave_undecided_counts_half(
    ones: int, zeros: int, right: float
) -> None:
    """One-hot codes: a left-out sample is on the side of most of the others that have its code.

    By hand: of code 0 class 1 has 40 of 50 samples, of code 1 it has 10 of 50. Of 20 and 20 samples of code 2 each is
    outvoted by 20 to 19; of 21 and 20 the others of each of the 21 are 20 and 20, and decide nothing. Over random
    labels of code 2 that is 1/2 on average, which counting half the samples of 20 and 20 would exceed.
    """
    codes = torch.tensor([0] * 50 + [1] * 50 + [2] * (ones + zeros))
    y = torch.tensor(([1] * 40 + [0] * 10) + ([1] * 10 + [0] * 40) + ([1] * ones + [0] * zeros))
    x = torch.nn.functional.one_hot(codes).float()
    found = sb.evaluate_features(x, y, eps=0.0, estimator="counted")
    by_class = (40 + ones * right) / (50 + ones), 40 / (50 + zeros)
    assert found.accuracy[0] == pytest.approx(sum(by_class) / 2, abs=1e-12)
    if ones == zeros:  # margins +v, -v and 0
        assert sb.evaluate_features(x, y, eps=0.0).repeated == pytest.approx(1 - 3 / 140)
