"""Real images for the demo: a digit beside two patches of photographs, with a label for each of the three.

An image is 1 x 8 x 24, grey in [0, 1]: three groups of 8 x 8 pixels. `digit` is one of scikit-learn's 1797
digits; `fine` and `coarse` are patches of its two sample photographs, reduced by 2 and by 8. Labels are the
digit, and which photograph a patch is from. No digit and no pixel of a photograph is in both train and test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.minimax.separation import patch_regions
from synbench_fast.runtime.optional import optional

GROUPS = ("digit", "fine", "coarse")
TASKS = (*GROUPS, "mixed")
SHAPE = (1, 8, 24)
PATCH = 4
_SIDE = 8
_REDUCTIONS = {"fine": 2, "coarse": 8}
_STRIPE = 16  # pixels of a reduced photograph, across; they go to train and test in turn


@dataclass(frozen=True)
class Part:
    """x [n, 1, 8, 24] and labels [n] by task.

    Over the train part every pixel has mean 0 and every group of pixels mean square 1, so that a loss is the
    share of a group's variance that is not predicted.
    """

    x: Tensor
    labels: dict[str, NDArray[np.int64]]


def load(seed: int, train: int, test: int) -> tuple[Part, Part]:
    """Train and test images, composed at random from the seed."""
    datasets = optional("sklearn.datasets", "scikit-learn", "demo")
    images, digits = datasets.load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, _SIDE, _SIDE)
    photos = datasets.load_sample_images().images
    order = np.random.default_rng([seed, 2]).permutation(len(images))
    parts = []
    for part, count in enumerate((train, test)):
        draw = np.random.default_rng([seed, part])
        chosen = draw.choice(
            order[: 2 * len(order) // 3] if part == 0 else order[2 * len(order) // 3 :], count
        )
        blocks, labels = [images[chosen]], {"digit": digits[chosen].astype(np.int64)}
        for name, reduction in _REDUCTIONS.items():
            block, labels[name] = _patches([_reduced(one, reduction) for one in photos], count, part, draw)
            blocks.append(block)
        # A label that needs two groups: whether the digit is below 5, and the photograph of the coarse patch.
        labels["mixed"] = 2 * (labels["digit"] >= 5) + labels["coarse"]
        parts.append((np.stack(blocks, 1), labels))
    first = parts[0][0]
    mean = first.mean(0)
    deviation = (first - mean).std((0, 2, 3), keepdims=True)
    made = []
    for block, labels in parts:
        x = ((block - mean) / deviation).transpose(0, 2, 1, 3).reshape(-1, *SHAPE)
        made.append(Part(torch.from_numpy(np.ascontiguousarray(x)), labels))
    return made[0], made[1]


def patches(x: Tensor) -> Tensor:
    """Images [B, 1, 8, 24] as patches [B, 12, 16], row by row."""
    height, width = SHAPE[1] // PATCH, SHAPE[2] // PATCH
    cut = x.reshape(len(x), height, PATCH, width, PATCH).transpose(2, 3)
    return cut.reshape(len(x), height * width, PATCH * PATCH)


def patch_groups() -> Tensor:
    """Group of each of the 12 patches, the index in GROUPS."""
    return patch_regions(SHAPE[1] // PATCH, SHAPE[2] // PATCH, "columns", len(GROUPS))


def _reduced(image: NDArray[np.uint8], by: int) -> NDArray[np.float32]:
    grey = image.astype(np.float32).mean(2) / 255
    height, width = (n // by for n in grey.shape)
    found: NDArray[np.float32] = grey[: height * by, : width * by].reshape(height, by, width, by).mean((1, 3))
    return found


def _patches(
    photos: list[NDArray[np.float32]], count: int, part: int, draw: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    label = draw.integers(len(photos), size=count)
    height, width = photos[0].shape
    top = draw.integers(height - _SIDE + 1, size=count)
    stripe = part + 2 * draw.integers((width // _STRIPE - part + 1) // 2, size=count)
    left = stripe * _STRIPE + draw.integers(_STRIPE - _SIDE + 1, size=count)
    found = [photos[i][a : a + _SIDE, b : b + _SIDE] for i, a, b in zip(label, top, left, strict=True)]
    return np.stack(found), label.astype(np.int64)
