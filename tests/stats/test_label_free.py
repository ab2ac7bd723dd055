"""Label-free metrics: each by its paper's formula in NumPy and SciPy, values that are known, and what errors mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from checks import refused
from numpy.typing import NDArray
from scipy import linalg, spatial

from synbench_fast.stats import label_free as own
from synbench_fast.stats.label_free import METRICS, label_free, lidar

Array = NDArray[np.float64]


def features(count: int, width: int, seed: int = 0, decay: float = 1.0, shift: float = 0.5) -> Array:
    random = np.random.default_rng(seed)
    scales = np.arange(1, width + 1) ** (-decay / 2)
    turn = linalg.qr(random.standard_normal((width, width)))[0]
    return np.asarray((shift + random.standard_normal((count, width)) * scales) @ turn)


def spectrum(z: Array) -> Array:
    return np.asarray(linalg.eigvalsh(np.cov(z.T, bias=True))[::-1].clip(0))


# The papers' formulas, with their small constants where they have some.


def rankme_of(z: Array) -> float:
    sigma = linalg.svdvals(z)
    p = sigma / sigma.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def effective_rank_of(z: Array) -> float:
    p = spectrum(z)[: min(z.shape[1], len(z) - 1)]
    p = p / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def alpha_of(z: Array) -> float:
    """The normal equations of the fit to eigenvalues 11 to 100, weighted by 1 / i."""
    found = spectrum(z)[: min(z.shape[1], len(z) - 1, 100)]
    i = np.arange(1, len(found) + 1)[10:]
    design = np.stack([-np.log(i), np.ones(len(i))], axis=1)
    w = 1 / i[:, None]
    return float(np.linalg.solve(design.T @ (design * w), (w * design).T @ np.log(found[10:]))[0])


def isoscore_of(z: Array) -> float:
    """The five steps of the paper."""
    n = z.shape[1]
    variances = spectrum(z)  # those of the principal components
    scaled = math.sqrt(n) * variances / linalg.norm(variances)
    defect = linalg.norm(scaled - 1) / math.sqrt(2 * (n - math.sqrt(n)))
    used = (n - defect**2 * (n - math.sqrt(n))) ** 2 / n**2
    return float((n * used - 1) / (n - 1))


def uniformity_of(z: Array) -> float:
    u = z / linalg.norm(z, axis=1)[:, None]
    return float(np.log(np.exp(-2 * spatial.distance.pdist(u, "sqeuclidean")).mean()))


def twonn_of(z: Array) -> float:
    nearest = spatial.cKDTree(z).query(z, 3)[0][:, 1:]
    mu = np.sort(nearest[:, 1] / nearest[:, 0])
    n = len(mu)
    kept = int(n * 0.9)
    x, y = np.log(mu[:kept]), -np.log(1 - np.arange(1, kept + 1) / n)
    return float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])


def lidar_of(z: Array, picture: Array) -> float:
    """With the square root of the within-class matrix, as written."""
    names = np.unique(picture)
    means = np.stack([z[picture == one].mean(0) for one in names])
    between = np.mean([np.outer(m, m) for m in means - means.mean(0)], axis=0)
    within = np.mean([np.cov(z[picture == one].T, bias=True) for one in names], axis=0) + 1e-4 * np.eye(
        z.shape[1]
    )
    root = linalg.inv(linalg.sqrtm(within).real)
    p = linalg.eigvalsh(root @ between @ root).clip(0)
    p = p / p.sum() + 1e-12
    return float(np.exp(-(p * np.log(p)).sum()))


ORACLES = {
    "rankme": rankme_of,
    "effective_rank": effective_rank_of,
    "alpha_req": alpha_of,
    "nesum": lambda z: float(spectrum(z).sum() / spectrum(z)[0]),
    "isotropy": isoscore_of,
    "uniformity": uniformity_of,
    "twonn": twonn_of,
}


@pytest.mark.parametrize("shape", [(200, 24), (60, 140)], ids=["tall", "wide"])
@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_those_of_the_papers(name: str, shape: tuple[int, int]) -> None:
    z = features(*shape, seed=3)
    assert METRICS[name](torch.from_numpy(z)) == pytest.approx(ORACLES[name](z), rel=2e-4)
    assert label_free(torch.from_numpy(z))[name].value == pytest.approx(
        METRICS[name](torch.from_numpy(z)), rel=1e-9
    )


@pytest.mark.parametrize("shape", [(200, 24), (60, 140)], ids=["tall", "wide"])
def test_lidar_is_that_of_the_paper(shape: tuple[int, int]) -> None:
    z = features(*shape, seed=4)
    picture = np.arange(len(z)) % 9
    z = z + 2 * np.random.default_rng(5).standard_normal((9, shape[1]))[picture]
    expected = lidar_of(z, picture)
    found = lidar(torch.from_numpy(z), torch.from_numpy(picture))
    assert found == pytest.approx(expected, rel=1e-5) and 1 < found <= 8
    order = np.random.default_rng(6).permutation(len(z))
    assert lidar(torch.from_numpy(z[order]), torch.from_numpy(picture[order] * 3)) == pytest.approx(found)


def test_known_values() -> None:
    random = np.random.default_rng(0)
    q = linalg.qr(random.standard_normal((50, 6)), mode="economic")[0]
    q = q - q.mean(0)
    white = torch.from_numpy(linalg.qr(q, mode="economic")[0] * 3)  # six equal variances
    for name in ("effective_rank", "nesum"):
        assert METRICS[name](white) == pytest.approx(6)
    assert own.isotropy(white) == pytest.approx(1)
    line = torch.from_numpy(np.outer(random.standard_normal(50), [1.0, 2.0, 3.0]))
    assert own.isotropy(line) == pytest.approx(0, abs=1e-12)
    assert own.effective_rank(line) == pytest.approx(1) and own.nesum(line) == pytest.approx(1)
    # n points on the coordinate axes are at squared distance 2 of each other.
    assert own.uniformity(5 * torch.eye(7)) == pytest.approx(-4)
    power = np.arange(1, 151) ** (-0.7 / 2)  # eigenvalues i^-0.7 to the digit
    axes = np.eye(150)
    exact = np.concatenate([axes * power, -axes * power])
    assert own.alpha_req(torch.from_numpy(exact)) == pytest.approx(0.7)


@pytest.mark.parametrize("dimension", [2, 5])
def test_twonn_finds_the_dimension_of_a_flat_sheet(dimension: int) -> None:
    random = np.random.default_rng(dimension)
    turn = linalg.qr(random.standard_normal((20, 20)))[0][:dimension]
    z = torch.from_numpy(random.random((1500, dimension)) @ turn)
    one = label_free(z)["twonn"]
    assert one.value == pytest.approx(dimension, rel=0.1)  # less, since the sheet has edges
    copies = torch.cat([z, z[:500]])
    assert own.twonn(copies) == pytest.approx(one.value)


def test_what_is_not_defined_is_nan() -> None:
    constant = torch.ones(20, 4)
    for name in ("effective_rank", "nesum", "isotropy", "alpha_req", "twonn"):
        assert math.isnan(METRICS[name](constant)), name
    assert own.uniformity(constant) == 0 and own.rankme(constant) == pytest.approx(1)
    assert math.isnan(own.alpha_req(torch.randn(100, 12))) and math.isnan(own.isotropy(torch.randn(9, 1)))
    found = label_free(torch.randn(100, 12, generator=torch.Generator().manual_seed(0)))
    assert math.isnan(found["alpha_req"].stderr) and found["rankme"].stderr > 0
    with refused("features: expected some that are not 0, got zeros only"):
        label_free(torch.zeros(20, 3))
    with refused("features: expected finite features, got others"):
        label_free(torch.full((20, 3), math.inf))
    with refused("features: expected features [N, F], got [3]"):
        label_free(torch.ones(3))
    with refused("labels: expected those of 4 samples of at least 2 pictures, got 1"):
        lidar(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))


def test_errors_are_the_spread_over_other_samples() -> None:
    """Of 60 repeats; the jackknife's error has a spread of its own, of which the root mean square has little."""
    width, pictures = 20, 12
    means = 2 * np.random.default_rng(1).standard_normal((pictures, width))
    picture = torch.arange(240) % pictures
    runs = []
    for seed in range(60):
        noise = np.random.default_rng(seed).standard_normal((240, width)) * np.linspace(0.5, 2, width)
        z = means[picture.numpy()] + noise
        group = torch.arange(240) // pictures % own.GROUPS
        runs.append(label_free(torch.from_numpy(z), pictures=picture, group=group))
    for name in runs[0]:
        values = np.array([one[name].value for one in runs])
        errors = np.array([one[name].stderr for one in runs])
        ratio = float(np.sqrt((errors**2).mean()) / values.std(ddof=1))
        assert 0.7 < ratio < 1.6, (name, ratio)
