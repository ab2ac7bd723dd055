"""Families whose classes are an outline, or how many things there are and how they lie.

All paint strokes: random colours, so that no colour belongs to a class, on a ground of dead leaves whose contrast grows
with the level, with white noise of deviation 0.02 + 0.06 level. Their optimum's accuracy is 1 up to what overlaps hide.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from torch import Tensor

from synbench_fast.ops.renderers import HARMONICS, paint
from synbench_fast.tasks.families.base import Call, Draws, Family, Floats, definition, unit
from synbench_fast.tasks.families.strokes import (
    ELLIPSE,
    OUTLINE,
    RECTANGLE,
    flat,
    join,
    leaves,
    no_outlines,
    stroke,
)

__all__ = ["Count", "Relations", "Shapes", "Symmetry"]

Layer = tuple[Floats, Floats]  # strokes and colours
_CLUTTER = 24  # leaves behind the things of a class


class _Painted(Family):
    """A family of pictures made of strokes."""

    clutter: ClassVar[float] = 0.4  # contrast of the leaves behind, at level 1

    def _render(self, x: Tensor, call: Call) -> None:
        draws = call.nuisance()
        ground, clutter = self._ground(call, draws)
        layers, outlines = self._things(call, draws, ground)
        strokes, colours = join(clutter, layers)
        lines = no_outlines(strokes)
        if outlines is not None:
            lines[:, _CLUTTER : _CLUTTER + outlines.shape[1]] = outlines
        under = (0.02 + 0.06 * self.level, call.noise(x[0].numel()))
        paint(x, ground.astype(np.float32), strokes, colours, lines, call.threads, call.backend, under)

    def _ground(self, call: Call, draws: Draws) -> tuple[Floats, Layer]:
        """The ground's colour [count, C], and leaves whose colours differ from it the more the higher the level."""
        channels, height, width = call.shape
        ground = draws.uniform(channels, low=0.2, high=0.8)
        strokes = leaves(draws, _CLUTTER, (width, height), 0.06 * call.side, 0.4 * call.side)
        contrast = self.clutter * min(1.0, self.level)
        colours = ground[:, None] + contrast * (draws.uniform(_CLUTTER, channels) - ground[:, None])
        return ground, (strokes, flat(colours))

    @abstractmethod
    def _things(self, call: Call, draws: Draws, ground: Floats) -> tuple[Layer, Floats | None]:
        """The strokes of the objects on the ground and their colours, and the outlines that they refer to, if any."""


def distinct(draws: Draws, ground: Floats, number: int) -> Floats:
    """Colours [count, number, C] at a distance of at least about 0.35 from the ground: moved away where they are near."""
    colours = draws.uniform(number, ground.shape[-1])
    away = colours - ground[:, None]
    square = away[..., 0] ** 2
    for c in range(1, away.shape[-1]):
        square = square + away[..., c] ** 2
    length = np.sqrt(square) + 1e-6
    return ground[:, None] + away / length[..., None] * np.maximum(length, 0.35)[..., None]


def centre_of(call: Call, draws: Draws, freedom: float) -> Floats:
    """A place [count, 2] around the middle of the image, up to `freedom` sides from it along each axis."""
    _, height, width = call.shape
    return np.array([width / 2, height / 2]) + call.side * draws.uniform(2, low=-freedom, high=freedom)


@dataclass(frozen=True)
class Shapes(_Painted):
    """A class is the outline of an object, r(t) = a (1 + sum_k (c_k cos k t + s_k sin k t)), and its filling.

    The filling are stripes of two colours, of 0.5 to 2.5 periods over the object's radius. Each sample has its own place,
    size, angle and colours, the clutter behind it, and at levels above 0 up to three leaves that hide part of it.
    At level 1 the angle is uniform, the radius from 0.2 to 0.35 sides, the centre up to 0.25 sides from the middle.
    """

    name: ClassVar[str] = "shapes"
    clutter: ClassVar[float] = 1.0

    def _things(self, call: Call, draws: Draws, ground: Floats) -> tuple[Layer, Floats | None]:
        outline, wave, reach = _outline(call.numbers, call.seed, call.words[0], call.class_)
        level = min(1.0, self.level)
        size = call.side * 0.35 / (1 + 0.75 * level * draws.uniform(1))
        place = centre_of(call, draws, 0.05 + 0.2 * level)[:, None]
        axis = draws.direction(1, spread=level)
        thing = stroke(OUTLINE, place, axis, size, size, wave / size[..., None], reach)
        colours = distinct(draws, ground, 2)[:, None]
        hidden = 3
        extent = (call.shape[2], call.shape[1])
        before = leaves(draws, hidden, extent, 0.05 * call.side, (0.05 + 0.1 * level) * call.side + 1e-3)
        strokes = np.concatenate([thing, before], axis=1)
        above = flat(distinct(draws, ground, hidden))
        return (strokes, np.concatenate([colours, above], axis=1)), np.broadcast_to(
            outline, (call.count, 1, outline.size)
        )


@lru_cache(maxsize=256)
def _outline(backend: str, seed: int, word: int, class_: int) -> tuple[Floats, Floats, float]:
    """Coefficients (c, s), the filling's cycles per radius along both axes, and the largest r(t) / a."""
    draws = definition(backend, seed, word, class_)
    order = np.array(HARMONICS, np.float64)
    coefficients = draws.normal(2, len(HARMONICS))[0] / order
    bend = np.sqrt(math.fsum((coefficients**2).ravel().tolist()))
    coefficients = coefficients * (0.32 / bend)
    wave = draws.direction()[0] * draws.uniform(1, low=0.5, high=2.5)[0]
    reach = 1 + math.fsum(np.abs(coefficients).ravel().tolist())
    return coefficients.ravel(), wave, reach


@dataclass(frozen=True)
class Relations(_Painted):
    """A class is where four parts lie to one another: a constellation of points, at least 0.45 apart in a unit disc.

    Each sample has its own place and size of the whole, and kind, size, angle and colour of every part. At level 1
    the whole is turned by about 30 degrees, and each part is moved by up to 0.15.
    """

    name: ClassVar[str] = "relations"

    def _things(self, call: Call, draws: Draws, ground: Floats) -> tuple[Layer, Floats | None]:
        level = min(1.0, self.level)
        points = _constellation(call.numbers, call.seed, call.words[0], call.class_)
        number = len(points)
        size = call.side * 0.34 / (1 + 0.5 * level * draws.uniform(1))
        c, s = np.moveaxis(draws.direction(1, spread=0.5 * level), -1, 0)
        spots = points + draws.uniform(number, 2, low=-0.15 * level, high=0.15 * level)
        x = c * spots[..., 0] - s * spots[..., 1]
        y = s * spots[..., 0] + c * spots[..., 1]
        place = centre_of(call, draws, 0.05 + 0.1 * level)[:, None] + np.stack([x, y], -1) * size[..., None]
        radius = call.side * draws.uniform(number, low=0.06, high=0.1)
        kind = np.where(draws.uniform(number) < 0.5, ELLIPSE, RECTANGLE)
        narrow = draws.uniform(number, low=0.5)
        parts = stroke(kind, place, draws.direction(number), radius, radius * narrow)
        return (parts, flat(distinct(draws, ground, number))), None


@lru_cache(maxsize=256)
def _constellation(backend: str, seed: int, word: int, class_: int) -> Floats:
    """Four points [4, 2] of the unit disc: the first of random ones that are not near an earlier one."""
    draws = definition(backend, seed, word, class_)
    chosen: list[Floats] = []
    while len(chosen) < 4:
        for point in draws.uniform(32, 2, low=-1.0)[0]:
            near = any((point[0] - q[0]) ** 2 + (point[1] - q[1]) ** 2 < 0.45**2 for q in chosen)
            if len(chosen) < 4 and not near and point[0] ** 2 + point[1] ** 2 <= 1:
                chosen.append(point)
    points: Floats = np.array(chosen)
    middle: Floats = (points[0] + points[1] + points[2] + points[3]) / 4
    return points - middle


@dataclass(frozen=True)
class Count(_Painted):
    """Class k has k + 1 things in cells of a grid, each of its own kind, size, angle and colour.

    At level 1 their sizes vary by 2, at level 0 not at all; a common size of each sample varies by 1.5 anyway.
    """

    name: ClassVar[str] = "count"
    most_classes: ClassVar[int] = 20
    classes: int = 10

    def _things(self, call: Call, draws: Draws, ground: Floats) -> tuple[Layer, Floats | None]:
        number, cells, (_, height, width) = call.class_ + 1, 5, call.shape
        # The first `number` of the cells in random order; equal words, one in 2^32, keep their order.
        order = np.argsort(draws.uniform(cells * cells), axis=1, kind="stable")[:, :number]
        loose = 0.05 + 0.1 * min(1.0, self.level)
        corner = np.stack([order % cells, order // cells], -1)
        place = (
            (corner + draws.uniform(number, 2, low=0.5 - loose, high=0.5 + loose))
            / cells
            * np.array([width, height])
        )
        common = draws.uniform(1, low=0.04, high=0.06)
        radius = call.side * common / (1 + min(1.0, self.level) * draws.uniform(number))
        kind = np.where(draws.uniform(number) < 0.5, ELLIPSE, RECTANGLE)
        narrow = draws.uniform(number, low=0.6)
        things = stroke(kind, place, draws.direction(number), radius, radius * narrow)
        return (things, flat(distinct(draws, ground, number))), None


@dataclass(frozen=True)
class Symmetry(_Painted):
    """A class is a symmetry of 60 discs and rectangles: none, mirrors at 8 angles, rotations of order 2 to 6.

    A group of m maps copies 60 / m random strokes, so that every class has as many. At level 1 each copy is moved by
    up to 0.03 sides, and the centre of the symmetry by up to 0.1 sides.
    """

    name: ClassVar[str] = "symmetry"
    most_classes: ClassVar[int] = 14
    classes: int = 14

    def _things(self, call: Call, draws: Draws, ground: Floats) -> tuple[Layer, Floats | None]:
        maps = _group(call.class_)
        order, channels, number = len(maps), call.shape[0], 60 // len(maps)
        spots = unit(draws.normal(number, 2)) * np.sqrt(draws.uniform(number))[..., None] * 0.45 * call.side
        axis = draws.direction(number)
        radius = call.side * draws.uniform(number, low=0.025, high=0.08)
        kind = np.where(draws.uniform(number) < 0.5, ELLIPSE, RECTANGLE)
        narrow = draws.uniform(number, low=0.35)
        colours = draws.uniform(number, channels)

        def turned(vectors: Floats) -> Floats:  # [count, number, order, 2]
            x, y = vectors[..., None, 0], vectors[..., None, 1]
            return np.stack(
                [maps[:, 0, 0] * x + maps[:, 0, 1] * y, maps[:, 1, 0] * x + maps[:, 1, 1] * y], -1
            )

        moved = min(1.0, self.level) * call.side
        place = centre_of(call, draws, 0.1 * min(1.0, self.level))[:, None, None] + turned(spots)
        place = place + moved * draws.uniform(number, order, 2, low=-0.03, high=0.03)
        copies = stroke(
            kind[..., None], place, turned(axis), radius[..., None], (radius * narrow)[..., None]
        ).reshape(call.count, 60, -1)
        return (copies, flat(np.repeat(colours, order, axis=1))), None


def _group(class_: int) -> Floats:
    """The orthogonal matrices [m, 2, 2] of a class."""
    if class_ == 0:
        return np.eye(2)[None]

    def matrix(angle: float, mirror: bool) -> Floats:  # rounded, so that no library's last bit is seen
        c, s = round(math.cos(angle), 12), round(math.sin(angle), 12)
        return np.array([[c, s], [s, -c]] if mirror else [[c, -s], [s, c]])

    if class_ <= 8:
        return np.stack([np.eye(2), matrix(2 * math.pi * (class_ - 1) / 8, True)])
    order = class_ - 7
    return np.stack([matrix(2 * math.pi * k / order, False) for k in range(order)])
