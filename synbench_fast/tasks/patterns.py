"""Mean patterns: the direction in which the two classes of a task differ, a unit vector by name.

    name             u, before it is made a unit vector
    uniform          1 in every element (the published task)
    channel:K        1 in channel K, 0 in the others
    low              product over the spatial axes of cos(2 pi (i + 1/2) / n): one period per axis
    high             product over the spatial axes of cos(2 pi k (i + 1/2) / n), k = n // 4: four elements per period
    patch            1 in a centred square (segment, cube) of side n // 4, n the shortest spatial axis; else 0
    random:SEED      independent normals of the package's own generator
    classes:K:I:J    classes I and J of K equidistant ones: b_I - b_J, b_k = cos(2 pi k (i + 1/2) / n) along the
                     longest spatial axis, each of unit length (they are orthogonal)

The first axis of an input is its channels, except for a one-dimensional input, which is one channel; all others
are spatial. Spatial axes of length 1 do not count. All channels have the same values where K names none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.ops.generator import normals

__all__ = ["PATTERNS", "Means", "check_pattern", "class_means", "parse_pattern", "spatial_axes"]

PATTERNS = ("uniform", "channel:K", "low", "high", "patch", "random:SEED", "classes:K:I:J")
_PURPOSE_DIRECTION = 1  # of the counter of `random`


@dataclass(frozen=True)
class Means:
    """Class means midpoint + (2y - 1) direction, in units of half their distance; float64 of the input's shape."""

    direction: Tensor  # u, of length 1
    midpoint: Tensor | None  # None: 0


def spatial_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of one sample over which it has positions: all but the first, or the only one."""
    return tuple(range(1, len(shape))) if len(shape) > 1 else (0,)


def check_pattern(name: str, shape: tuple[int, ...]) -> str:
    """`name` in its one spelling; SynbenchError unless there is such a pattern for inputs of this shape."""
    kind, numbers = parse_pattern(name)
    sizes = [shape[axis] for axis in spatial_axes(shape) if shape[axis] > 1]
    got = f"got {name!r} for shape {shape}"
    if kind == "channel":
        channels = shape[0] if len(shape) > 1 else 1
        if channels < 2:
            raise SynbenchError(f"pattern: expected an input of two channels or more for channel:K, {got}")
        if numbers[0] >= channels:
            raise SynbenchError(f"pattern: expected a channel from 0 to {channels - 1}, {got}")
    elif kind in ("low", "high"):
        least = 4 if kind == "low" else 8
        if not sizes or min(sizes) < least:
            raise SynbenchError(f"pattern: expected spatial axes of {least} elements or more, {got}")
    elif kind == "patch" and not sizes:
        raise SynbenchError(f"pattern: expected a spatial axis, {got}")
    elif kind == "classes":
        classes, one, other = numbers
        if not (classes >= 2 and one < other < classes):
            raise SynbenchError(f"pattern: expected classes:K:I:J with I < J < K, got {name!r}")
        if not sizes or max(sizes) < 2 * classes:
            raise SynbenchError(f"pattern: expected a spatial axis of {2 * classes} elements or more, {got}")
    return ":".join([kind, *map(str, numbers)])


def parse_pattern(name: str) -> tuple[str, list[int]]:
    """The pattern's kind and its numbers; SynbenchError for a name of no such form."""
    if isinstance(name, str):
        kind, *words = name.split(":")
        forms = {one.partition(":")[0]: one.count(":") for one in PATTERNS}
        if forms.get(kind) == len(words) and all(re.fullmatch(r"[0-9]{1,18}", word) for word in words):
            return kind, [int(word) for word in words]
    kinds = [one.partition(":")[0] for one in PATTERNS]
    hint = suggest(str(name).partition(":")[0], kinds) if str(name).partition(":")[0] not in kinds else ""
    raise SynbenchError(f"pattern: expected one of {', '.join(PATTERNS)}, got {name!r}{hint}")


@lru_cache(maxsize=8)
def class_means(name: str, shape: tuple[int, ...]) -> Means:
    """The means of a pattern that `check_pattern` knows for this shape."""
    kind, numbers = parse_pattern(name)
    one = torch.ones(shape, dtype=torch.float64)
    axes = [axis for axis in spatial_axes(shape) if shape[axis] > 1]
    midpoint = None
    if kind == "uniform":
        u = one
    elif kind == "channel":
        u = torch.zeros_like(one)
        u[numbers[0]] = 1
    elif kind in ("low", "high"):
        u = one
        for axis in axes:
            u = u * _cosine(shape, axis, 1 if kind == "low" else shape[axis] // 4)
    elif kind == "patch":
        side = max(1, min(shape[axis] for axis in axes) // 4)
        u = one
        for axis in axes:
            start = (shape[axis] - side) // 2
            inside = torch.zeros(shape[axis], dtype=torch.float64)
            inside[start : start + side] = 1
            u = u * _along(inside, shape, axis)
    elif kind == "random":
        u = normals(one.numel(), seed=numbers[0], purpose=_PURPOSE_DIRECTION).view(shape)
    else:
        axis = max(axes, key=lambda one: (shape[one], one))
        vertices = [one * _cosine(shape, axis, k) for k in range(numbers[0])]
        vertices = [b / b.norm() for b in vertices]
        first, second = vertices[numbers[1]], vertices[numbers[2]]
        u = second - first
        # Class means sqrt(2) (b_k - their mean) are two units apart, and centred on 0 all together.
        midpoint = (first + second) / math.sqrt(2) - math.sqrt(2) / numbers[0] * torch.stack(vertices).sum(0)
    return Means(u / u.norm(), midpoint)


def _cosine(shape: tuple[int, ...], axis: int, cycles: int) -> Tensor:
    n = shape[axis]
    place = torch.arange(n, dtype=torch.float64) + 0.5
    return _along(torch.cos(2 * math.pi * cycles / n * place), shape, axis)


def _along(values: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    return values.view([-1 if a == axis else 1 for a in range(len(shape))])
