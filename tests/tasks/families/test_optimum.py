"""The optimum of `texture` and `shift` against closed forms, explicit densities and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from synbench_fast.tasks.families import Optimum, Shift, Texture
from synbench_fast.tasks.families.optimum import compared


@pytest.mark.parametrize("count", [20, 100, 3000])
@pytest.mark.parametrize("ratio", [1.0 + 1e-7, 1.02, 1.2, 2.0])
def test_white_noise_of_two_deviations(count: int, ratio: float) -> None:
    """L > 0 is chi^2 above a threshold: (P(chi^2 < n log l / (l - 1)) + P(chi^2 > n l log l / (l - 1))) / 2."""
    at = count * math.log(ratio) / (ratio - 1)
    want = (stats.chi2.cdf(at, count) + stats.chi2.sf(ratio * at, count)) / 2
    found = compared(np.full(count, ratio))
    assert found.error == pytest.approx(want, rel=1e-9)
    assert compared(np.full(count, 1 / ratio)).error == pytest.approx(want, rel=1e-9)
    assert found.scale == pytest.approx(stats.norm.isf(want), rel=1e-9)


def test_two_deviations_in_equal_numbers() -> None:
    """l for n elements and 1/l for n others: L is a difference of two chi^2, integrated by quadrature."""
    count, ratio = 30, 1.5
    # Under the first class L = ((l - 1) X - (1 - 1/l) Y) / 2, X and Y chi^2 of n degrees; the second class mirrors it.
    # L < 0 is X / Y < 1 / l, an F distribution of (n, n) degrees.
    want = stats.f.cdf(1 / ratio, count, count)
    assert compared(np.repeat([ratio, 1 / ratio], count)).error == pytest.approx(want, rel=1e-9)


def test_one_class_is_chance() -> None:
    assert compared(np.ones(10)) == Optimum(0.5)
    assert compared(np.ones(10)).scale == 0


def covariance(family: Texture, shape: tuple[int, ...], seed: int, class_: int) -> np.ndarray:
    """Dense [D, D], entry by entry from its definition: cov(x_c(p), x_d(q)) = sum_f Sigma(f)_cd cos(2 pi f (p - q))."""
    gain, mix = family.spectrum(shape, seed, class_)
    places = list(itertools.product(*map(range, shape[1:])))
    sigma = np.einsum("ce,ef,de->fcd", mix, gain.reshape(shape[0], -1) ** 2, mix)
    apart = np.array(
        [[[(a - b) / n for a, b, n in zip(p, q, shape[1:], strict=True)] for q in places] for p in places]
    )
    waves = np.cos(2 * np.pi * np.einsum("fa,pqa->fpq", np.array(places), apart))
    return np.einsum("fcd,fpq->cpdq", sigma, waves).reshape(2 * (math.prod(shape),))


@pytest.mark.parametrize(
    ("shape", "level"), [((1, 12), 0.2), ((2, 9), 0.1), ((1, 8, 8), 0.4), ((3, 8, 9), 0.6)]
)
def test_samples_have_the_densities_that_the_optimum_is_for(shape: tuple[int, ...], level: float) -> None:
    """The classifier of the dense densities errs on drawn samples as often as the optimum says."""
    family, count, seed = Texture(classes=3, level=level), 4000, 6
    dense = [covariance(family, shape, seed, k) for k in (0, 2)]
    densities = [stats.multivariate_normal(np.full(len(one), 0.5), one) for one in dense]
    wrong = []
    for mine, other, k in ((0, 1, 0), (1, 0, 2)):
        x = family.draw(shape, seed, k, 0, count).numpy().reshape(count, -1).astype(np.float64)
        wrong.append(densities[mine].logpdf(x) < densities[other].logpdf(x))
    optimum = family.optimum(shape, 0, 2, seed)
    assert 0.02 < optimum.error < 0.45 and optimum.standard_error == 0
    error = math.sqrt(optimum.error * optimum.accuracy / (2 * count))
    assert float(np.mean(wrong)) == pytest.approx(optimum.error, abs=4 * error)
    assert family.optimum(shape, 2, 0, seed).error == pytest.approx(optimum.error, rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 64), (5, 33), (3, 16, 20), (1, 15, 9)])
def test_classes_share_the_covariance_of_a_pixel(shape: tuple[int, ...]) -> None:
    want = 0.04 * (0.1 * np.eye(shape[0]) + 0.9)
    for k in range(3):
        gain, mix = Texture(level=0.0).spectrum(shape, 3, k)
        axes = tuple(range(1, gain.ndim))
        np.testing.assert_allclose(gain, np.roll(np.flip(gain, axes), 1, axes), rtol=1e-12)
        pixel = mix @ np.diag((gain**2).reshape(shape[0], -1).sum(1)) @ mix.T
        np.testing.assert_allclose(pixel, want, atol=1e-12)


def test_a_level_for_a_scale() -> None:
    shape = (3, 16, 16)
    family = Texture.of_scale(shape, 2.0, classes=3, seed=3)
    scales = [family.optimum(shape, k, (k + 1) % 3, 3).scale for k in range(3)]
    assert float(np.mean(scales)) == pytest.approx(2.0, rel=1e-3)


def test_errors_beyond_double_precision_have_a_scale() -> None:
    optimum = Texture(level=0.5).optimum((3, 64, 64), 0, 1)
    assert optimum.accuracy == 1 and 0 < optimum.error < 1e-30
    assert optimum.scale == pytest.approx(stats.norm.isf(optimum.error), rel=1e-9)


@pytest.mark.parametrize(("shape", "level"), [((1, 24), 1.0), ((2, 8, 8), 1.5)])
def test_the_ideal_observer_of_a_shift(shape: tuple[int, ...], level: float) -> None:
    """Against dense densities: the noise's covariance, every place by rolling the picture, and 400 contrasts."""
    family, count, seed = Shift(classes=2, level=level), 300, 4
    deviation = 0.2 / math.sqrt(1 + 4 * level**2)
    noise = Shift(classes=2, level=4.0).draw(shape, 0, 0, 0, 1)  # its shape only
    dim = noise[0].numel()
    # With level 0 nothing but the picture is drawn, at contrast 1 and deviation 0.2, somewhere.
    pictures = [
        (Shift(classes=2, level=0.0).draw(shape, seed, k, 0, 1)[0].numpy().astype(np.float64) - 0.5) / 0.2
        for k in (0, 1)
    ]
    flat = Texture(level=4.0)  # A = 2 exp(-16): the common spectrum to 1e-6
    sigma = covariance(flat, shape, 0, 0) / 0.04 * (2 * level * deviation) ** 2
    root = np.linalg.inv(np.linalg.cholesky(sigma))
    axes = tuple(range(1, len(shape)))
    means = [
        np.stack([
            root @ np.roll(picture, to, axes).ravel() * deviation
            for to in itertools.product(*map(range, shape[1:]))
        ])
        for picture in pictures
    ]  # fmt: skip
    contrasts = 1 / (1 + level * (np.arange(400) + 0.5) / 400)
    wrong = []
    for k in (0, 1):
        x = family.draw(shape, seed, k, 0, count).numpy().reshape(count, dim).astype(np.float64) - 0.5
        z = x @ root.T
        evidence = []
        for mean in means:
            fit = z @ mean.T
            exponent = contrasts * fit[..., None] - 0.5 * contrasts**2 * (mean**2).sum(1)[:, None]
            evidence.append(np.logaddexp.reduce(exponent.reshape(count, -1), axis=1))
        wrong.append(evidence[k] < evidence[1 - k])
    optimum = family.optimum(shape, 0, 1, seed)
    assert 0.01 < optimum.error < 0.45
    spread = math.sqrt(optimum.error * optimum.accuracy / (2 * count) + optimum.standard_error**2)
    assert float(np.mean(wrong)) == pytest.approx(optimum.error, abs=4 * spread)
    assert family.optimum(shape, 0, 1, seed, samples=count) == family.optimum(
        shape, 0, 1, seed, samples=count
    )


def test_a_shift_without_noise_is_certain() -> None:
    assert Shift(level=0.0).optimum((3, 16, 16), 0, 1) == Optimum(0.0)
