"""Real images of the demo, and the encoders that it trains on them: digits on patches of photographs.

A digit of 8x8 pixels in the middle of a black image asks next to nothing of an encoder. Here it has a random place,
size and ink, and lies on a random patch of one of scikit-learn's two photographs, in 32x32 grey pixels from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from synbench_fast.runtime.optional import optional
from synbench_fast.studies.digits import CLASSES, FEATURES, KINDS, DigitClassifier, Digits, fit
from synbench_fast.studies.digits import load as load_digits

__all__ = ["KINDS", "SHAPE", "Scenes", "draw", "load", "train"]

SIDE = 32
SHAPE = (1, SIDE, SIDE)
_SIZES = (14, 24)  # of a digit, in pixels
_PATCHES = (32, 96)  # of a photograph, in its own pixels


@dataclass(frozen=True)
class Scenes(Digits):
    """One scene [1, 32, 32] for every digit; `digits` and `photographs` [H, W] are what new ones are made of."""

    digits: Digits
    photographs: tuple[Tensor, ...]


def load(seed: int) -> Scenes:
    """scikit-learn's digits, a third of every class held out, each in one scene; all depends on `seed` alone."""
    digits = load_digits(seed)
    images = optional("sklearn.datasets", "scikit-learn", "demo").load_sample_images().images
    photographs = tuple(torch.tensor(one, dtype=torch.float32).mean(dim=2) / 255 for one in images)
    generator = torch.Generator().manual_seed(seed)
    train_x, test_x = (draw(x, photographs, generator) for x in (digits.train_x, digits.test_x))
    return Scenes(
        train_x, digits.train_y, test_x, digits.test_y, float(train_x.mean()), float(train_x.std()),
        digits=digits, photographs=photographs,
    )  # fmt: skip


def draw(digits: Tensor, photographs: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    """A new scene [n, 1, 32, 32] for each digit [n, 1, 8, 8] in [0, 1]."""
    return torch.stack([_scene(one, photographs, generator) for one in digits])


def _scene(digit: Tensor, photographs: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    photograph, side = photographs[integer(0, len(photographs) - 1)], integer(*_PATCHES)
    top, left = (integer(0, length - side) for length in photograph.shape)
    patch = photograph[top : top + side, left : left + side]
    scene = functional.interpolate(patch[None, None], (SIDE, SIDE), mode="area")[0]
    # Half of the contrast, and any brightness: the ink is darker or lighter than nearly all of the patch.
    scene = ((scene - scene.mean()) / 2 + 0.3 + 0.4 * torch.rand((), generator=generator)).clamp(0, 1)
    size, ink = integer(*_SIZES), float(integer(0, 1))
    shape = functional.interpolate(digit[None], (size, size), mode="bilinear", align_corners=False)[0]
    shape = shape.clamp(0, 1)  # rounding leaves the interval
    y, x = integer(0, SIDE - size), integer(0, SIDE - size)
    under = scene[:, y : y + size, x : x + size]
    under.copy_(under * (1 - shape) + ink * shape)
    return scene


def train(kind: str, data: Scenes, *, seed: int, epochs: int, radius: float, steps: int) -> nn.Module:
    """An encoder [B, 1, 32, 32] -> [B, 64] in eval mode; one seed starts every `kind` from the same weights.

    "untrained" returns those weights, "standard" minimises cross-entropy on new scenes of the training digits in every
    epoch, "adversarial" on scenes moved by `steps` of l2 PGD within `radius` (Madry et al., arXiv 1706.06083).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(
            *_block(1, 16, 2),
            *_block(16, 32, 2),
            *_block(32, FEATURES, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        model = DigitClassifier(encoder, nn.Linear(FEATURES, CLASSES), data.mean, data.std)
    if kind != "untrained":

        def scenes(generator: torch.Generator) -> Tensor:
            return draw(data.digits.train_x, data.photographs, generator)

        within = (radius, steps) if kind == "adversarial" else None
        fit(model, scenes, data.train_y, seed=seed, epochs=epochs, rate=1e-2, within=within)
    return encoder.eval().requires_grad_(False)


def _block(before: int, after: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.GroupNorm(8, after), nn.ReLU()
