"""Common corruptions of test images, against SciPy, colorsys, Pillow, direct loops and known moments."""

from __future__ import annotations

import colorsys
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

import synbench_fast as sb
from synbench_fast.studies.linear_probe.corruptions import (
    CONSTANTS,
    corrupt,
    corruption_accuracy,
    defocus_kernel,
    published_set,
)
from synbench_fast.studies.linear_probe.report import LinearProbeReport

SETS = sorted(CONSTANTS)


def images(count: int = 3, channels: int = 3, height: int = 20, width: int = 24, seed: int = 0) -> Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (count, channels, height, width)) / 255).float()


def changed(x: Tensor, name: str, constant: Any, seed: int = 0) -> NDArray[Any]:
    return corrupt(x, name, constant, np.random.default_rng(seed)).double().numpy()


@pytest.mark.parametrize("chosen", SETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_range_and_repetition(chosen: str, channels: int) -> None:
    x = images(channels=channels)
    before = x.clone()
    for name, constants in CONSTANTS[chosen].items():
        assert len(constants) == 5
        for constant in (constants[0], constants[-1]):
            found = corrupt(x, name, constant, np.random.default_rng(1))
            assert found.shape == x.shape and found.dtype == torch.float32
            assert float(found.min()) >= 0 and float(found.max()) <= 1
            assert torch.equal(found, corrupt(x, name, constant, np.random.default_rng(1)))
        assert not torch.equal(found, x)
    assert torch.equal(x, before)


def test_noises_have_the_published_moments() -> None:
    """Of a constant grey far from 0 and 1."""
    x = torch.full((4, 3, 120, 120), 0.4)
    count = x.numel()
    gaussian = changed(x, "gaussian_noise", 0.08)
    assert gaussian.mean() == pytest.approx(0.4, abs=5 * 0.08 / math.sqrt(count))
    assert gaussian.std() == pytest.approx(0.08, rel=5 / math.sqrt(2 * count))
    shot = changed(x, "shot_noise", 250)
    assert shot.mean() == pytest.approx(0.4, abs=5 * math.sqrt(0.4 / 250 / count))
    assert shot.var() == pytest.approx(0.4 / 250, rel=0.02)
    assert np.allclose(shot * 250, np.round(shot * 250), atol=1e-4)
    impulse = changed(x, "impulse_noise", 0.2)
    for value, share in ((0.0, 0.1), (1.0, 0.1), (0.4, 0.8)):
        error = math.sqrt(share * (1 - share) / count)
        assert np.isclose(impulse, value).mean() == pytest.approx(share, abs=5 * error)


@pytest.mark.parametrize(("radius", "blur"), [(0.3, 0.4), (1.5, 0.1), (3, 0.1), (8, 0.5), (10, 0.5)])
def test_defocus_is_a_correlation_with_a_smoothed_disk(radius: float, blur: float) -> None:
    reach, taps = (8, 1) if radius <= 8 else (10, 2)
    disk = np.zeros((2 * reach + 1, 2 * reach + 1))
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            disk[i, j] = math.hypot(i - reach, j - reach) <= radius
    gauss = np.array([math.exp(-(k**2) / (2 * blur**2)) for k in range(-taps, taps + 1)])
    kernel = ndimage.correlate(disk / disk.sum(), np.outer(gauss, gauss) / gauss.sum() ** 2, mode="mirror")
    assert defocus_kernel(radius, blur) == pytest.approx(kernel, abs=1e-12)
    x = images()
    expected = [
        [ndimage.correlate(one, kernel, mode="mirror") for one in image] for image in x.double().numpy()
    ]
    assert changed(x, "defocus_blur", (radius, blur)) == pytest.approx(
        np.array(expected).clip(0, 1), abs=1e-6
    )
    small = images(channels=1, height=8, width=8).double().numpy()[0, 0]  # smaller than the kernel
    found = changed(torch.from_numpy(small)[None, None], "defocus_blur", (radius, blur))[0, 0]
    assert found == pytest.approx(ndimage.correlate(small, kernel, mode="mirror").clip(0, 1), abs=1e-6)


@pytest.mark.parametrize("constant", [0.05, 0.5])
def test_brightness_raises_the_value_of_hsv(constant: float) -> None:
    x = images(count=1, height=8, width=8)
    x[0, :, 0, 0] = 0.0
    found = changed(x, "brightness", constant)
    for i in range(8):
        for j in range(8):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
            expected = colorsys.hsv_to_rgb(h, s, min(1.0, v + constant))
            assert found[0, :, i, j] == pytest.approx(expected, abs=1e-6)
    grey = images(channels=1)
    assert changed(grey, "brightness", constant) == pytest.approx(
        np.minimum(grey.numpy() + constant, 1), abs=1e-6
    )


def test_contrast_shrinks_towards_each_channels_mean() -> None:
    x = images()
    for image, found in zip(x.double().numpy(), changed(x, "contrast", 0.3), strict=True):
        for before, after in zip(image, found, strict=True):
            assert after.mean() == pytest.approx(before.mean(), abs=1e-6)
            assert after - after.mean() == pytest.approx(0.3 * (before - before.mean()), abs=1e-6)


def test_pixelate_has_the_means_of_blocks() -> None:
    x = images(height=16, width=24)
    blocks = x.double().numpy().reshape(3, 3, 8, 2, 12, 2).mean((3, 5))
    expected = blocks.repeat(2, 2).repeat(2, 3)
    # Each of the two directions is rounded to 8 bits.
    assert changed(x, "pixelate", 0.5) == pytest.approx(expected, abs=1 / 255 + 1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(channels: int) -> None:
    library = pytest.importorskip("PIL.Image")
    x = images(channels=channels)
    found = changed(x, "jpeg_compression", 25)
    for image, after in zip(x.numpy(), found, strict=True):
        pixels = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
        stored = io.BytesIO()
        library.fromarray(pixels.squeeze()).save(stored, "JPEG", quality=25)
        back = np.asarray(library.open(stored)).reshape(*pixels.shape).transpose(2, 0, 1)
        assert after == pytest.approx(back / 255, abs=1e-6)


def test_the_set_is_that_of_the_nearest_size() -> None:
    sizes = {
        8: "CIFAR-10-C",
        32: "CIFAR-10-C",
        45: "CIFAR-10-C",
        46: "Tiny-ImageNet-C",
        64: "Tiny-ImageNet-C",
    }
    sizes |= {119: "Tiny-ImageNet-C", 120: "ImageNet-C", 224: "ImageNet-C", 384: "ImageNet-C"}
    assert {side: published_set(side, side + 5) for side in sizes} == sizes


def test_the_mean_and_its_interval() -> None:
    x, y = images(count=12), torch.arange(12) % 3
    told = []

    def answer(batch: Tensor) -> Tensor:
        told.append(len(batch))
        return torch.zeros(len(batch), dtype=torch.int64)

    found = corruption_accuracy(x, y, answer, seed=0, batch_size=5)
    assert len(found.cells) == 40 and told == [5, 5, 2] * 40
    assert all(one.accuracy.count == 4 for one in found.cells)
    half = 1.959964 * np.std([1.0] * 4 + [0.0] * 8, ddof=1) / math.sqrt(12)
    ends = [found.mean.value, found.mean.ci95_low, found.mean.ci95_high]
    assert ends == pytest.approx([1 / 3, 1 / 3 - half, 1 / 3 + half], abs=1e-6)
    sure = corruption_accuracy(x, y * 0, answer, seed=0, batch_size=12).mean
    assert (sure.value, sure.ci95_low, sure.ci95_high) == (1.0, 0.75, 1.0)


def test_the_study_reports_them() -> None:
    random = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = np.clip(0.4 + 0.2 * y[:, None, None, None] + 0.1 * random.standard_normal((80, 1, 4, 4)), 0, 1)
    data, options = (x.astype(np.float32), y), {"attack": False, "input_shape": (1, 4, 4), "eps": (0.0,)}
    report = sb.studies.robust_linear_probe("builtin:linear?dim=5", data, **options, corruptions=True)
    made = report.corruptions
    assert made is not None and made.constants == "CIFAR-10-C" and len(made.cells) == 40
    assert made.mean.value == pytest.approx(np.mean([one.accuracy.value for one in made.cells]))
    assert LinearProbeReport.from_json(report.to_json()) == report
    quantities = [row["quantity"] for row in report.rows()]
    assert quantities[2] == "gaussian_noise 1" and quantities[-1] == "mean corruption accuracy"
    assert list(report.tables())[-1].columns[0] == "CIFAR-10-C"  # type: ignore[union-attr]
    batches = sb.studies.robust_linear_probe(
        "builtin:linear?dim=5", data, **options, corruptions=True, batch_size=7
    )
    assert batches.corruptions == made
    with refused("corruptions: expected images of 1 or 3 channels, height and width, got (16,)"):
        sb.studies.robust_linear_probe(
            "builtin:linear?dim=5",
            (data[0].reshape(80, 16), y),
            **options | {"input_shape": (16,)},
            corruptions=True,
        )
