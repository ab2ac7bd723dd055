"""What the cases of several files measure with: features, an encoder, budgets and the usual normalisation."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPS = tuple(i / 17 for i in range(16))


def features(n: int, f: int, seed: int) -> tuple[Tensor, Tensor]:
    """Correlated features whose spectrum falls off as an encoder's does, with a class difference."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(f, f, generator=mix, dtype=torch.float64))[0]
    root = (torch.arange(1, f + 1, dtype=torch.float64) ** -0.5)[:, None] * basis
    direction = torch.randn(f, generator=mix, dtype=torch.float64) / f
    y = torch.arange(n) % 2
    x = (
        torch.randn(n, f, generator=generator, dtype=torch.float64) @ root
        + (2.0 * y - 1)[:, None] * direction
    )
    return x.float(), y.to(torch.uint8)


class SmallEncoder(nn.Sequential):
    """About a millisecond per 160x160 image on two AVX-512 cores; F = 160."""

    def __init__(self) -> None:
        widths = (3, 16, 40, 80, 160)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
