"""Common corruptions of images, after ImageNet-C (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.optional import optional
from synbench_fast.studies.linear_probe.report import Z95, Corrupted, Corruptions, Measure, share

__all__ = ["CONSTANTS", "corrupt", "corruption_accuracy", "defocus_kernel", "published_set"]

# Of severities 1 to 5, by the set of corrupted images that was published with them.
CONSTANTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "CIFAR-10-C": {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": (80, 65, 58, 50, 40),
    },
    "Tiny-ImageNet-C": {
        "gaussian_noise": (0.04, 0.08, 0.12, 0.15, 0.18),
        "shot_noise": (250, 100, 50, 30, 15),
        "impulse_noise": (0.01, 0.02, 0.05, 0.08, 0.14),
        "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "pixelate": (0.9, 0.8, 0.7, 0.6, 0.5),
        "jpeg_compression": (65, 58, 50, 40, 25),
    },
    "ImageNet-C": {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (25, 18, 15, 10, 7),
    },
}


def published_set(height: int, width: int) -> str:
    """The set whose images, of side 32, 64 or 224, are nearest to the shorter side, by the ratio of the two."""
    side = min(height, width)
    sides = {"CIFAR-10-C": 32, "Tiny-ImageNet-C": 64, "ImageNet-C": 224}
    return min(sides, key=lambda name: abs(math.log(side / sides[name])))


def defocus_kernel(radius: float, blur: float) -> NDArray[np.float64]:
    """A disk of that radius in pixels, smoothed by a Gaussian of deviation `blur` (3 or 5 taps).

    The smoothing reflects at the border, as the published one: disks that touch it have a sum that is not quite 1.
    """
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    steps = np.arange(-reach, reach + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    gauss = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * blur**2))
    gauss /= gauss.sum()
    for _ in range(2):  # along one axis, then along the other
        padded = np.pad(disk, ((taps, taps), (0, 0)), mode="reflect")
        rows = np.arange(len(disk))[:, None] + np.arange(len(gauss))
        disk = np.einsum("ikj,k->ji", padded[rows], gauss)
    return disk


def corrupt(x: Tensor, name: str, constant: Any, random: np.random.Generator) -> Tensor:
    """Images x [n, C, H, W] in [0, 1], C 1 or 3, under the corruption of that name: float32 in [0, 1].

    `constant` is that of one severity in `CONSTANTS`. Only pixelate and jpeg_compression round to 8 bits, whereas all
    published images are stored in 8 bits. The noises draw from `random` image after image.
    """
    made = x.double().numpy()
    if name == "gaussian_noise":
        made = made + constant * random.standard_normal(made.shape)
    elif name == "shot_noise":
        made = random.poisson(made * constant) / constant
    elif name == "impulse_noise":
        drawn = random.random(made.shape)
        made = np.where(drawn < constant / 2, 0.0, np.where(drawn < constant, 1.0, made))
    elif name == "defocus_blur":
        kernel = defocus_kernel(*constant)
        reach = len(kernel) // 2
        edges = ((0, 0), (0, 0), (reach, reach), (reach, reach))
        wide = torch.from_numpy(np.pad(made, edges, mode="reflect")).flatten(0, 1)[:, None]
        made = functional.conv2d(wide, torch.from_numpy(kernel)[None, None])[:, 0].numpy().reshape(made.shape)
    elif name == "brightness":  # of the HSV colour, whose value is the largest channel
        value = made.max(1, keepdims=True)
        up = np.minimum(value + constant, 1.0)
        made = np.where(value > 0, made * up / np.where(value > 0, value, 1.0), up)
    elif name == "contrast":
        mean = made.mean((2, 3), keepdims=True)
        made = (made - mean) * constant + mean
    else:
        by_image = {"pixelate": _pixelate, "jpeg_compression": _jpeg}[name]
        made = np.stack([by_image(one, constant) for one in made])
    return torch.from_numpy(np.clip(made, 0.0, 1.0).astype(np.float32))


def _through(image: NDArray[Any], change: Callable[[Any, Any], Any]) -> NDArray[np.float64]:
    """An image [C, H, W] in 8 bits, changed by Pillow."""
    images = optional("PIL.Image", "pillow", "torchvision")
    pixels = np.round(255 * image).astype(np.uint8)
    opened = images.fromarray(
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )
    found = np.asarray(change(images, opened), dtype=np.float64) / 255
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


def _pixelate(image: NDArray[Any], part: float) -> NDArray[np.float64]:
    height, width = image.shape[1:]
    small = max(1, int(width * part)), max(1, int(height * part))
    return _through(
        image,
        lambda library, x: x.resize(small, library.Resampling.BOX).resize(
            (width, height), library.Resampling.BOX
        ),
    )


def _jpeg(image: NDArray[Any], quality: int) -> NDArray[np.float64]:
    def change(library: Any, x: Any) -> Any:
        stored = io.BytesIO()
        x.save(stored, "JPEG", quality=quality)
        return library.open(stored)

    return _through(image, change)


def corruption_accuracy(
    x: Tensor, y: Tensor, answer: Callable[[Tensor], Tensor], *, seed: int, batch_size: int
) -> Corruptions:
    """Accuracy of `answer`, from images to classes, under each corruption and severity, and the mean of all.

    The interval of the mean is 95 %, by the normal law, from each image's share of right answers over all corruptions
    and severities; where all shares agree it is that of 3 deviating images (the rule of three).
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise SynbenchError(
            f"corruptions: expected images of 1 or 3 channels, height and width, got {tuple(x.shape[1:])}"
        )
    chosen = published_set(*x.shape[2:])
    cells, rows = [], []
    for place, (name, constants) in enumerate(CONSTANTS[chosen].items()):
        for severity, constant in enumerate(constants, 1):
            random = np.random.default_rng([seed, place, severity])
            found = [answer(corrupt(one, name, constant, random)) for one in torch.split(x, batch_size)]
            right = torch.cat(found) == y
            rows.append(right.double())
            accuracy = share(int(right.sum()), len(y))
            cells.append(Corrupted(corruption=name, severity=severity, accuracy=accuracy))
    each = torch.stack(rows).mean(0)
    value, deviation = float(each.mean()), float(each.std()) if len(each) > 1 else 0.0
    half = Z95 * deviation / math.sqrt(len(each)) if deviation > 0 else 3 / len(each)
    mean = Measure(value=value, ci95_low=max(0.0, value - half), ci95_high=min(1.0, value + half))
    return Corruptions(constants=chosen, cells=cells, mean=mean)
