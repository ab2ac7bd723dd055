"""The discriminant of K classes: left-out distances equal those of refitting, and its accuracy and errors are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from checks import refused
from torch import Tensor

from synbench_fast.stats.discriminant import (
    class_accuracy,
    in_deviations,
    left_out_distances,
    trained_variance,
    worst_pair,
)


def drawn(
    classes: int, each: int, width: int, apart: float = 0.6, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of Gaussian classes with unit covariance, their labels and means."""
    generator = torch.Generator().manual_seed(seed)
    means = apart * torch.randn(classes, width, generator=generator, dtype=torch.float64)
    labels = torch.arange(classes).repeat_interleave(each)
    noise = torch.randn(classes * each, width, generator=generator, dtype=torch.float64)
    return means[labels] + noise, labels, means


def scatter(x: Tensor, labels: Tensor) -> Tensor:
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for one in labels.unique():
        inside = x[labels == one] - x[labels == one].mean(0)
        total += inside.T @ inside
    return total


@pytest.mark.parametrize("width", [1, 5, 53, 54, 300])
def test_left_out_distances_equal_refitting(width: int) -> None:
    x, labels, _ = drawn(6, 9, width)
    n, ridges = len(x), (0.01, 0.3, 5.0)
    found = left_out_distances(x, labels, ridges)
    trace = scatter(x, labels).trace() / (n - 6)
    for g, ridge in enumerate(ridges):
        eye = ridge * trace / width * torch.eye(width, dtype=torch.float64)
        for i in range(0, n, 5):
            keep = torch.arange(n) != i
            inverse = torch.linalg.inv(scatter(x[keep], labels[keep]) / (n - 6) + eye)
            for k in range(6):
                d = x[i] - x[keep][labels[keep] == k].mean(0)
                assert float(found.distances[g, i, k]) == pytest.approx(float(d @ inverse @ d), rel=1e-9)


@pytest.mark.parametrize("width", [1, 5, 53, 54, 300])
def test_one_ridge_alone_gives_what_it_gives_among_others(width: int) -> None:
    """One ridge is factored by Cholesky, several by the spectrum: also where features or samples repeat or lie far off."""
    x, labels, _ = drawn(6, 9, width)
    x[10] = x[11]
    x = torch.cat([x, 2 * x[:, :1], x[:, :1] + 1e4], 1)
    one, several = left_out_distances(x, labels, (0.3,)), left_out_distances(x, labels, (0.3, 2.0))
    torch.testing.assert_close(one.distances[0], several.distances[0], rtol=1e-8, atol=1e-8)
    left, right = ((f.samples[0] - f.means[0][labels]) @ f.means[0].T for f in (one, several))
    left, right = (side - side.mean(1, keepdim=True) for side in (left, right))  # whatever the origin is
    torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-7)
    assert trained_variance(one) == pytest.approx(trained_variance(several), rel=1e-6, abs=1e-12)


def test_classes_of_different_sizes() -> None:
    x, labels, _ = drawn(3, 20, 7)
    keep = torch.cat([torch.arange(0, 4), torch.arange(20, 40), torch.arange(40, 42)])
    x, labels = x[keep], labels[keep]
    found = left_out_distances(x, labels, (0.3,))
    rest = torch.arange(len(x)) != 1
    eye = 0.3 * scatter(x, labels).trace() / (len(x) - 3) / 7 * torch.eye(7, dtype=torch.float64)
    inverse = torch.linalg.inv(scatter(x[rest], labels[rest]) / (len(x) - 3) + eye)
    d = x[1] - x[rest][labels[rest] == 0].mean(0)
    assert float(found.distances[0, 1, 0]) == pytest.approx(float(d @ inverse @ d), rel=1e-10)


def test_accuracy_is_that_on_new_samples() -> None:
    """The mean over many sets of samples equals the accuracy on new ones of a discriminant from one sample less."""
    left, new = [], []
    for seed in range(60):
        x, labels, means = drawn(5, 12, 10, 0.7, seed=seed)
        left.append(class_accuracy(x, labels).accuracy)
        generator = torch.Generator().manual_seed(1000 + seed)
        fresh = means[labels] + torch.randn(x.shape, generator=generator, dtype=torch.float64)
        deviation = x.std(0)
        inside = scatter(x / deviation, labels) / (len(x) - 5)
        inside += 0.3 * inside.trace() / 10 * torch.eye(10, dtype=torch.float64)
        middle = torch.stack([x[labels == k].mean(0) for k in range(5)])
        gaps = (fresh[:, None] - middle) / deviation
        distance = torch.einsum("nkf,fg,nkg->nk", gaps, torch.linalg.inv(inside), gaps)
        new.append(float((distance.argmin(1) == labels).double().mean()))
    error = math.hypot(np.std(left) / math.sqrt(60), np.std(new) / math.sqrt(60))
    assert abs(np.mean(left) - np.mean(new)) < 3 * error


@pytest.mark.parametrize("distance", [0.2, 0.5])
def test_stated_error_is_the_spread_over_samples(distance: float) -> None:
    """The errors of independent indicators alone would be 16 % too small at the smaller distance."""
    means = drawn(8, 1, 20, distance)[2]
    labels = torch.arange(8).repeat_interleave(26)
    found, independent = [], []
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        x = means[labels] + torch.randn(len(labels), 20, generator=generator, dtype=torch.float64)
        found.append(class_accuracy(x, labels))
        share = found[-1].by_class
        independent.append(math.sqrt((share * (1 - share) / 25).sum()) / 8)
    spread = float(np.std([one.accuracy for one in found], ddof=1))
    stated = float(np.mean([one.stderr for one in found]))
    assert stated == pytest.approx(spread, rel=0.12)  # the spread of 300 is known to 4 %
    assert np.mean(independent) < 0.95 * spread


def test_variance_of_training_is_its_formula() -> None:
    """Term by term, as the docstring has it, of classes of different sizes in any order."""
    x, labels, _ = drawn(4, 8, 6, 0.8)
    order = torch.randperm(29, generator=torch.Generator().manual_seed(1))
    x, labels = x[order], labels[order]
    found = left_out_distances(x, labels, (0.3,))
    z, m, distance, y = found.samples[0], found.means[0], found.distances[0], labels.tolist()
    n, classes, count = len(x), 4, torch.bincount(labels).tolist()
    rivals = [min((k for k in range(classes) if k != y[i]), key=lambda k: distance[i, k]) for i in range(n)]
    margin = torch.stack([distance[i, rivals[i]] - distance[i, y[i]] for i in range(n)])
    low, high = torch.quantile(margin, torch.tensor([0.25, 0.75], dtype=torch.float64))
    width = 1.06 * min(float(high - low) / 1.349, float(margin.std())) * n**-0.2
    density = torch.exp(-((margin / width) ** 2) / 2) / (width * math.sqrt(2 * math.pi))
    w_j = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            e, c = z[j] - m[y[j]], rivals[i]
            near, far = float((z[i] - m[y[i]]) @ e), float((z[i] - m[c]) @ e)
            change = (near**2 - far**2) / (n - classes)
            change += 2 * near / count[y[i]] * (y[j] == y[i]) - 2 * far / count[c] * (y[j] == c)
            w_j[i, j] = (i != j) * density[i] / (count[y[i]] * classes) * change
    right = (margin > 0).double()
    o = torch.stack([(right[j] - right[labels == y[j]].mean()) / (count[y[j]] * classes) for j in range(n)])
    for k in range(classes):
        w_j[:, labels == k] -= w_j[:, labels == k].mean(1, keepdim=True)
    t = w_j.sum(0)
    part = 2 * o * t + t**2 - (w_j**2).sum(0) - (w_j * w_j.T).sum(0)
    unbiased = torch.tensor([count[k] / (count[k] - 1) for k in y], dtype=torch.float64)
    assert trained_variance(found) == pytest.approx(float((part * unbiased).sum()), rel=1e-9)


def test_separate_classes_and_no_classes() -> None:
    x, labels, _ = drawn(4, 10, 6)
    apart = class_accuracy(x + 100.0 * torch.nn.functional.one_hot(labels, 6), labels)
    assert apart.accuracy == 1 and apart.skill == 1 and worst_pair(apart.pairs)[2] == 1 and apart.stderr > 0
    same = class_accuracy(torch.ones(40, 3), labels)
    assert same.accuracy == pytest.approx(0.25) and same.skill == pytest.approx(0)
    assert same.pair_accuracy == pytest.approx(0.5)


def test_pairs() -> None:
    """With two classes the pair is all there is; the worst of several is found."""
    x, labels, _ = drawn(2, 30, 4, 1.0)
    two = class_accuracy(x, labels)
    assert two.pair_accuracy == pytest.approx(two.accuracy) and worst_pair(two.pairs)[:2] == (0, 1)
    x, labels, means = drawn(4, 30, 6, 2.0)
    x = x - means[labels] + torch.where(labels == 3, 2, labels)[:, None] * 10.0
    found = class_accuracy(x, labels)
    assert worst_pair(found.pairs)[:2] == (2, 3) and worst_pair(found.pairs)[2] < 0.7
    assert np.isnan(np.diag(found.pairs)).all() and found.pairs[0, 1] == 1


def test_units_of_a_feature_do_not_matter() -> None:
    x, labels, _ = drawn(4, 12, 9)
    factors = torch.logspace(-6, 6, 9, dtype=torch.float64)
    one, other = class_accuracy(x, labels), class_accuracy((x + 3) * factors, labels)
    np.testing.assert_allclose(one.by_class, other.by_class)
    dead = class_accuracy(torch.cat([x, torch.full((48, 5), 7.0)], 1), labels)
    np.testing.assert_allclose(one.by_class, dead.by_class)


def test_refusals() -> None:
    x, labels, _ = drawn(3, 4, 5)
    with refused("labels: expected at least 2 classes with at least 2 samples each"):
        class_accuracy(x, torch.zeros(12))
    with refused("labels: expected at least 2 classes with at least 2 samples each"):
        class_accuracy(x[:9], labels[:9])
    with refused("features: expected finite values, got NaN or infinity"):
        left_out_distances(x.index_fill(0, torch.tensor([3]), math.nan), labels, (0.3,))
    for value in (math.nan, math.inf):  # one feature, which must not pass for a constant one
        with refused("features: expected finite values, got NaN or infinity"):
            class_accuracy(x.index_fill(1, torch.tensor([2]), value), labels)
    with refused("ridges: expected numbers of at least 0, got [-0.1]"):
        left_out_distances(x, labels, (-0.1,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int16])
def test_features_of_every_dtype_keep_what_varies(dtype: torch.dtype) -> None:
    """A column that varies by a hundredth of its size is live, in types of few digits too, and a constant one is not."""
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 64 + (x[:, 1] > 0) / 2
    x[:, 2] = 7
    found = in_deviations((2 * x).to(dtype))
    assert found.shape == (60, 2) and found.dtype == torch.float64
