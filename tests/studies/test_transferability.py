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

from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import load_encoder
from synbench_fast.studies.validity.baselines import TRANSFERABILITY
from synbench_fast.studies.validity.fisher import COMBINED, combine, etran_terms, ncti_terms, ped, sfda
from synbench_fast.studies.validity.head import head_of
from synbench_fast.studies.validity.leep import leep, nleep
from synbench_fast.studies.validity.measure import Measured, combine_terms
from synbench_fast.studies.validity.transferability import gbc, h_score, transrate

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


def given(scale: float, width: int) -> tuple[Array, NDArray[np.int64]]:
    """The matrices that the authors' code was run on."""
    random = np.random.RandomState(7)  # whose numbers NumPy never changes
    y = np.arange(150) % 4
    means = random.standard_normal((4, width))
    noise = random.standard_normal((150, width)) * np.linspace(0.3, 2.0, width)
    return scale * (means[y] + noise + 3.0), y


def discriminant(z: Array, y: NDArray[np.int64], shrinkage: float) -> Array:
    """Probabilities of scikit-learn's discriminant."""
    made = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    found: Array = made(solver="lsqr", shrinkage=shrinkage).fit(z, y).predict_proba(z)
    return found


def of_slope(z: Array, y: NDArray[np.int64]) -> float:
    """exp(-5 l), l the largest eigenvalue of the covariance within the classes."""
    classes = int(y.max()) + 1
    within = sum((y == k).mean() * np.cov(z[y == k].T, bias=True) for k in range(classes))
    return max(math.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)


def test_leep_is_its_sum() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(7), 40)
    y = random.integers(0, 3, 40)
    total = 0.0
    for i in range(40):
        chance = 0.0
        for z in range(7):
            joint = sum(p[j, z] for j in range(40) if y[j] == y[i]) / 40
            chance += joint / (sum(p[j, z] for j in range(40)) / 40) * p[i, z]
        total += math.log(chance) / 40
    assert of(leep, p, y) == pytest.approx(total, rel=1e-12)
    shares = np.bincount(y) / 40
    assert of(leep, np.ones((40, 1)), y) == pytest.approx(float(np.sum(shares * np.log(shares))), rel=1e-12)
    assert of(leep, np.eye(3)[y], y) == pytest.approx(0, abs=1e-12)
    with_nothing = np.concatenate([p, np.zeros((40, 2))], axis=1)
    assert of(leep, with_nothing, y) == pytest.approx(total, rel=1e-12)
    for bad in (p * 2, np.concatenate([p[:, :1] * 2, p[:, 1:] - p[:, :1] / 6], axis=1) * [[-1] + [1] * 6]):
        with refused("probabilities: expected rows of at least 0 that sum to 1, got others"):
            of(leep, bad, y)


def test_nleep_is_leep_of_the_clusters() -> None:
    """Of 10 clusters far apart, two for each class, every sample knows its class; of 10 that share classes, half."""
    random = np.random.default_rng(0)
    cluster = np.repeat(np.arange(10), 30)
    z = 50.0 * random.standard_normal((10, 6))[cluster] + random.standard_normal((300, 6))
    assert of(nleep, z, cluster % 2) == pytest.approx(0, abs=1e-6)
    coin = np.arange(300) % 2
    assert of(nleep, z, coin) == pytest.approx(-math.log(2), abs=1e-6)


def test_nleep_of_large_features_is_that_of_smaller_ones() -> None:
    """15 Gaussians of 60 samples: scikit-learn fails on the large ones, whose covariances it cannot invert."""
    z, y = sample(60, 5, 3)
    assert of(nleep, 1e6 * z, y) == pytest.approx(of(nleep, z, y), abs=1e-3)


def test_nleep_keeps_four_fifths_of_the_variance() -> None:
    decomposition, mixture = (pytest.importorskip(f"sklearn.{name}") for name in ("decomposition", "mixture"))
    z, y = sample(200, 9, 3, seed=3)
    kept = decomposition.PCA(n_components=0.8, svd_solver="full").fit_transform(z)
    model = mixture.GaussianMixture(15, random_state=0).fit(kept)
    assert of(nleep, z, y) == pytest.approx(of(leep, model.predict_proba(kept), y), abs=0.02)


@pytest.mark.parametrize("width", [12, 40])
@pytest.mark.parametrize("scale", [0.2, 0.5, 3.0])
def test_sfda_is_two_discriminants_of_scikit_learn(scale: float, width: int) -> None:
    z, y = given(scale, width)
    shrinkage = of_slope(z, y)
    q = np.exp(discriminant(z, y, shrinkage))
    mine = (q / q.sum(1, keepdims=True))[np.arange(150), y][:, None]
    means = np.stack([z[y == k].mean(0) for k in range(4)])
    others = np.stack([np.delete(means, k, axis=0).mean(0) for k in range(4)])
    again = discriminant(mine * z + (1 - mine) * others[y], y, shrinkage)
    assert of(sfda, z, y) == pytest.approx(again[np.arange(150), y].mean(), rel=1e-6)


def test_sfda_and_ped_are_those_of_the_authors() -> None:
    """Their code at 3b7edf7 (TencentARC/SFDA) and e5af6e7 (lixiaotong97/PED), where its largest eigenvalue is exact."""
    z, y = given(3.0, 12)
    assert of(sfda, z, y) == pytest.approx(0.9105928968301562, rel=1e-9)
    assert of(ped, z, y) == pytest.approx(0.91234278278082, rel=1e-9)
    found = ped(torch.from_numpy(z), torch.from_numpy(y), torch.from_numpy(z[::3] ** 2))
    assert found == pytest.approx(0.9116863369920922, rel=1e-9)


def test_classes_far_apart_do_not_push() -> None:
    z, y = sample(200, 6, 3, apart=60.0)
    assert of(ped, z, y) == of(sfda, z, y)


@pytest.mark.parametrize(("scale", "nuclear"), [(0.2, 261.24372078701265), (3.0, 263.29682219703034)])
def test_ncti_has_the_terms_of_the_authors(scale: float, nuclear: float) -> None:
    """Their code at b18d395 (BUserName/NCTI), with and without shrinkage."""
    z, y = given(scale, 80)
    terms = ncti_terms(torch.from_numpy(z), torch.from_numpy(y))
    assert terms == pytest.approx((nuclear, 1.0, 3.198442603904223), rel=1e-7)


@pytest.mark.parametrize("scale", [0.05, 3.0])
def test_ncti_is_that_of_the_discriminant_of_scikit_learn(scale: float) -> None:
    """On features that overlap, where no probability is 1."""
    made = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    z, y = given(scale, 12)
    spread = float(np.var(z, axis=0, ddof=1).sum())
    shrinkage = math.exp(-spread)
    model = made(solver="eigen", shrinkage=shrinkage) if shrinkage > 1e-10 else made(solver="svd")
    axes = np.linalg.svd(z - z.mean(0), full_matrices=False)[2]
    low = model.fit_transform((z - z.mean(0)) @ axes.T, y)
    p = model.predict_proba((z - z.mean(0)) @ axes.T)
    norms = sum(np.linalg.norm(p[y == k], "nuc") for k in range(4))
    expected = (np.linalg.norm(low - low.mean(0), "nuc"), p[np.arange(150), y].mean(), math.log(norms))
    assert ncti_terms(torch.from_numpy(z), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-6)


def test_etran_has_the_energy_of_the_authors_and_a_discriminant() -> None:
    """The energy by their code at d4551ed (mgholamikn/ETran); its discriminant is another, see `etran_terms`."""
    for scale, width, energy in ((0.2, 12, 2.8760895684360883), (3.0, 80, 16.969607284040787)):
        z, y = given(scale, width)
        four = np.tile(z, (4, 1)), np.tile(y, 4)
        assert etran_terms(*map(torch.from_numpy, four))[0] == pytest.approx(energy, rel=1e-9)
        share = discriminant(z, y, of_slope(z, y))[np.arange(150), y].mean()
        assert etran_terms(torch.from_numpy(z), torch.from_numpy(y))[1] == pytest.approx(share, rel=1e-6)


def test_terms_are_scaled_over_the_encoders() -> None:
    assert combine([(1.0, 5.0), (3.0, 5.0), (2.0, 5.0)], (1.0, -1.0)) == [0.0, 1.0, 0.5]
    assert COMBINED["etran"][1] == (0.15, 0.85)
    three = [Measured(name) for name in "abc"]
    for one, (first, second) in zip(three, ((1.0, 0.0), (2.0, 4.0), (3.0, 1.0)), strict=True):
        one.terms = {
            "ncti": [(first, 0.0, 0.0), (0.0, 0.0, second)],
            "etran": [(first, second), (second, first)],
        }
    combine_terms(three)
    assert [one.baselines["ncti"] for one in three] == [[0.0, 0.0], [0.5, -1.0], [1.0, -0.25]]
    assert three[1].baselines["etran"] == pytest.approx([0.15 / 2 + 0.85, 0.15 + 0.85 / 2])


@pytest.mark.parametrize("spec", ["timm:resnet10t", "torchvision:squeezenet1_1"])
def test_heads_of_networks(spec: str) -> None:
    """The answers are those of the whole network on what its encoder sees."""
    source, _, name = spec.partition(":")
    library = pytest.importorskip("timm" if source == "timm" else "torchvision")
    config = ScoreConfig(random_init=True, seed=3)
    found = head_of(load_encoder(spec, random_init=True, seed=3, input_shape=(3, 64, 64)), config)
    assert found is not None
    x = torch.rand(2, 3, 64, 64)
    probabilities = found(x)
    assert probabilities.shape == (2, 1000)
    assert torch.allclose(probabilities.sum(1), torch.ones(2, dtype=torch.float64))
    torch.manual_seed(3)
    module = library.create_model(name) if source == "timm" else library.models.get_model(name, weights=None)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        expected = module.eval()((x - mean) / std).double().softmax(1)
    assert torch.allclose(probabilities, expected, rtol=1e-4, atol=1e-9)


def test_other_encoders_have_no_head() -> None:
    assert head_of(load_encoder("builtin:conv", input_shape=(3, 8, 8)), ScoreConfig()) is None


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
