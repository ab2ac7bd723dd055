"""Encoders that nobody trained and that say nothing of shapes: a score under which they win measures something else."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def colour_means(x: Tensor) -> Tensor:
    """Mean of each channel: 3."""
    return x.mean((2, 3))


def colour_histogram(x: Tensor) -> Tensor:
    """Shares of pixels in 4 x 4 x 4 boxes of the colour cube: 64."""
    box = (x.clamp(0, 1) * 4).long().clamp(max=3)
    index = (box[:, 0] * 16 + box[:, 1] * 4 + box[:, 2]).flatten(1)
    return (
        torch.zeros(len(x), 64).scatter_add_(1, index, torch.ones_like(index, dtype=x.dtype)) / index.shape[1]
    )


def blocks(x: Tensor, count: int) -> Tensor:
    """Means over count x count blocks: 3 * count^2."""
    return F.adaptive_avg_pool2d(x, count).flatten(1)


def random_projections(x: Tensor) -> Tensor:
    """256 Gaussian projections of the pixels, always the same ones for a size."""
    pixels = x.flatten(1)
    matrix = torch.randn(pixels.shape[1], 256, generator=torch.Generator().manual_seed(256))
    return pixels @ matrix / pixels.shape[1] ** 0.5


TRIVIAL: dict[str, Callable[[Tensor], Tensor]] = {
    "colour-means": colour_means,
    "colour-histogram": colour_histogram,
    "blocks-4x4": lambda x: blocks(x, 4),
    "blocks-8x8": lambda x: blocks(x, 8),
    "random-projections": random_projections,
    "pixels-32x32": lambda x: blocks(x, 32),
}
