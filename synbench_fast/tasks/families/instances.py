"""`instances`: which of K pictures is it, seen from elsewhere and in other light?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.ops.renderers import paint, view
from synbench_fast.tasks.families.base import Call, Family, Floats, unit
from synbench_fast.tasks.families.strokes import flat, leaves, no_outlines, periodic

__all__ = ["Instances"]

_LEAVES = 900  # cover the scene about four times
_PERIOD = 2.0  # of the scene, in sides of the image


@dataclass(frozen=True)
class Instances(Family):
    """A class is one dead-leaves picture: discs and rectangles of radii with density r^-3 that hide one another.

    Each sample shows it shifted, scaled, turned and mirrored, with contrast, brightness and white noise of its own, and
    with its colours turned by a uniform rotation of the colour cube. The mean image of every class is therefore the same
    grey, and no linear map of the pixels tells classes apart. One channel is the first of the turned colours. This is
    instance discrimination, the task of self-supervised learning, on pictures that nobody took. The optimum's accuracy
    is 1.

    At level 1 a sample is moved by up to 0.35 of its side, scaled by up to 1.35 either way, turned by about 15 degrees,
    mirrored half of the time, its contrast down to 1/1.8, its brightness shifted by up to 0.2, and the noise has
    deviation 0.1. At level 0 all this is absent but noise of 0.02.
    """

    name: ClassVar[str] = "instances"

    def pair_optimum(self, shape: tuple[int, ...], seed: int = 0) -> float:
        """1: whatever is done to a picture, it is no other one."""
        return 1.0

    def _render(self, x: Tensor, call: Call) -> None:
        scene = _scene(call)
        level, draws, side = self.level, call.nuisance(), call.side
        count, channels, height, width = x.shape
        per_element = scene.shape[0] / _PERIOD / side
        shift = (
            draws.uniform(2, low=-0.35 * level, high=0.35 * level) * side * per_element + scene.shape[0] / 2
        )
        zoom = (1 + 0.35 * level * draws.uniform()) / (1 + 0.35 * level * draws.uniform()) * per_element
        turn = draws.direction(spread=0.35 * level) * zoom[:, None]
        flip = np.where(draws.uniform() < min(0.5, level), -1.0, 1.0)
        # The centre of the image is at `shift`; (column, row) go there through flip, then turn and zoom.
        h = np.stack([turn[:, 0] * flip, -turn[:, 1]], -1)
        v = np.stack([turn[:, 1] * flip, turn[:, 0]], -1)
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        maps = np.empty((count, 6))
        for k, (to, row) in enumerate(((shift[:, 0], h), (shift[:, 1], v))):
            maps[:, 3 * k] = to - row[:, 0] * centre[0] - row[:, 1] * centre[1]
            maps[:, 3 * k + 1 : 3 * k + 3] = row

        contrast = 1 / (1 + 0.8 * level * draws.uniform())
        brightness = draws.uniform(low=-0.2 * level, high=0.2 * level)
        turned = rotations(draws.normal(4))[:, :channels]
        colours = np.empty((count, channels, 4))
        for c in range(channels):
            row = turned[:, c] * contrast[:, None]
            colours[:, c, :3] = row / 255.0
            colours[:, c, 3] = 0.5 + brightness - 0.5 * (row[:, 0] + row[:, 1] + row[:, 2])

        under = (0.02 + 0.08 * level, call.noise(channels * height * width))
        view(x, scene, maps.astype(np.float32), colours.astype(np.float32), call.threads, call.backend, under)


def rotations(quaternions: Floats) -> Floats:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] of any length; normal ones give uniform rotations."""
    w, x, y, z = np.moveaxis(unit(quaternions), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _scene(call: Call) -> NDArray[np.uint8]:
    size = 16
    while size < _PERIOD * call.side:
        size *= 2
    return _painted(size, call.seed, call.words[0], call.class_, call.numbers)


@lru_cache(maxsize=128)
def _painted(size: int, seed: int, word: int, class_: int, backend: str) -> NDArray[np.uint8]:
    """The class's scene, uint8 [size, size, 4] as `view` reads it."""
    call = Call((3, size, size), seed, (word, word), class_, 0, 1, 1, backend)
    draws = call.definition()
    side = size / _PERIOD
    strokes = leaves(draws, _LEAVES, (size, size), 0.03 * side, 0.6 * side)[0]
    colours = flat(draws.uniform(_LEAVES, 3))[0]
    strokes, colours = periodic(strokes, colours, size)
    x = np.zeros((1, 3, size, size), np.float32)
    shapes = strokes[None].astype(np.float32)
    ground, colours = np.full((1, 3), 0.5, np.float32), colours[None].astype(np.float32)
    paint(x, ground, shapes, colours, no_outlines(shapes), torch.get_num_threads(), backend)
    scene = np.zeros((size, size, 4), np.uint8)
    x *= np.float32(
        255
    )  # in place: new memory of megabytes is mapped anew, which takes longer than the arithmetic
    x += np.float32(0.5)
    for c in range(3):
        scene[..., c] = x[0, c]
    scene.flags.writeable = False
    return scene
