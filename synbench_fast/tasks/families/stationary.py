"""Stationary fields: frequencies, the common 1/f spectrum and colours, and arithmetic that is rounded alike everywhere.

What a class is must not depend on the machine. A library's exp, sums and matrix products may be rounded one way with one
instruction set and another way with the next; those here consist of +, -, *, / and sqrt in a fixed order.
"""

from __future__ import annotations

import math
import numbers
from functools import lru_cache

import numpy as np
import torch

from synbench_fast.checks import check_integer
from synbench_fast.errors import SynbenchError
from synbench_fast.tasks.families.base import Draws, Family, Floats, unit

__all__ = [
    "CENTER", "DEVIATION", "FieldFamily", "amplitude", "check_pair", "cholesky", "colour_root", "exp", "fill_even", "frequencies", "half_of",
    "lower_solve", "normals_of", "orthogonal", "pink", "product", "total", "total_of_even",
]  # fmt: skip

CENTER, DEVIATION = 0.5, 0.2  # of every element
_SHARED = 0.9  # correlation of two channels of the common spectrum


class FieldFamily(Family):
    """A family of samples [C, H, W] or [C, L] of any number of channels."""

    def check_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = tuple(shape) if isinstance(shape, tuple | list | torch.Size) else ()
        good = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) and n > 0 for n in sizes)
        good = good and len(sizes) in (2, 3) and sizes[0] <= 64 and min(sizes[1:]) >= 8
        if not (good and 2 * sizes[0] <= math.prod(sizes[1:]) and math.prod(sizes) <= 2**22):
            raise SynbenchError(
                f"shape: expected (channels, length) or (channels, height, width) with 1 to 64 channels, axes of 8 "
                f"elements or more, two places per channel, and at most 2^22 elements for the family {self.name}, "
                f"got {shape!r}"
            )
        return tuple(int(n) for n in sizes)


def check_pair(family: Family, i: int, j: int) -> None:
    for one in (i, j):
        check_integer("class", one, 0, f"an integer from 0 to {family.classes - 1}", family.classes)
    if i == j:
        raise SynbenchError(f"class: expected two different classes, got {i} twice")


def normals_of(shape: tuple[int, ...]) -> int:
    """How many normals `fields` draws for a sample."""
    return 2 * ((shape[0] + 1) // 2) * math.prod(shape[1:])


def exp(x: Floats) -> Floats:
    """exp(x) to 1e-12 for |x| <= 20, in steps that are rounded alike everywhere, which those of a library need not be."""
    y = x / 1024.0
    series = 1.0 + y / 6
    for k in (5, 4, 3, 2):  # y (1 + y/2 (1 + ...)), in place: most of the time goes to memory otherwise
        series *= y / k
        series += 1.0
    series *= y
    series += 1.0
    for _ in range(10):
        series *= series
    return series


@lru_cache(maxsize=16)
def frequencies(places: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """Of each frequency, [*places]: |f| in cycles per shorter side, and cos and sin of twice its angle (1, 0 in 1-D).

    Where an axis is at half its sampling rate, f and -f are one, and the sine, which is odd in each coordinate, is 0.
    """
    side = min(places)
    sizes, signed = [], []
    for axis, n in enumerate(places):
        index = np.arange(n)
        along = np.where(2 * index <= n, index, index - n) * (side / n)
        view = [-1 if a == axis else 1 for a in range(len(places))]
        sizes.append(np.abs(along).reshape(view))
        signed.append(np.where(2 * index == n, 0.0, along).reshape(view))
    if len(places) == 1:
        return sizes[0], np.ones(places), np.zeros(places)
    square = sizes[0] ** 2 + sizes[1] ** 2
    safe = np.maximum(square, 1e-9)
    return np.sqrt(square), (sizes[1] ** 2 - sizes[0] ** 2) / safe, 2 * signed[1] * signed[0] / safe


def total(values: Floats) -> float:
    """The sum, rounded once: its order, which differs between machines, does not matter.

    Each round takes from every value its multiple of one unit, so large that the multiples add up without rounding in
    any order (Rump, Ogita and Oishi, Accurate floating-point summation, SIAM J. Sci. Comput. 31, 2008).
    """
    rest, parts = np.array(values, np.float64), []
    while most := float(np.abs(rest).max()):
        above = math.ldexp(1.0, math.frexp(most)[1] + (rest.size + 1).bit_length())
        high = (above + rest) - above
        parts.append(float(high.sum()))
        rest -= high
    return math.fsum(parts)


def half_of(values: Floats) -> Floats:
    """Every f or -f of an array over frequencies [*places]: the first half of its first axis, and one more."""
    return values[: len(values) // 2 + 1]


def fill_even(values: Floats) -> None:
    """Gives an array over frequencies, whose `half_of` is there, the values of -f in the rest."""
    axes = tuple(range(values.ndim))
    rest = values[1 : (len(values) + 1) // 2]
    values[len(values) // 2 + 1 :] = np.roll(np.flip(rest, axes), 1, axes[1:])


def total_of_even(half: Floats, length: int) -> float:
    """`total` of the array [length, ...] of even values whose `half_of` is given: the sum is exact, so it is the same."""
    twice = half * 2.0
    twice[0] = half[0]
    if length % 2 == 0:
        twice[-1] = half[-1]
    return total(twice)


@lru_cache(maxsize=16)
def amplitude(places: tuple[int, ...]) -> Floats:
    """a(f) = 1 / max(|f|, 1), times what makes the sum of its squares 1."""
    a = 1 / np.maximum(frequencies(places)[0], 1.0)
    a = a / math.sqrt(total(a * a))
    a.flags.writeable = False
    return a


def colour_root(channels: int) -> Floats:
    """The symmetric root of S = 0.04 (0.1 I + 0.9 1 1'), [C, C]."""
    own, all_ = math.sqrt(1 - _SHARED), math.sqrt(1 - _SHARED + _SHARED * channels)
    return DEVIATION * (own * np.eye(channels) + (all_ - own) / channels)


def product(a: Floats, b: Floats) -> Floats:
    """a b, summed in order: a library's product is rounded differently on different machines."""
    result = a[:, :1] * b[:1]
    for k in range(1, a.shape[1]):
        result = result + a[:, k : k + 1] * b[k : k + 1]
    return result


def orthogonal(draws: Draws, n: int) -> Floats:
    """A uniform orthogonal matrix [n, n]: normals made orthonormal row by row."""
    rows: Floats = draws.normal(n, n)[0]
    for k in range(n):
        for done in range(k):
            rows[k] = rows[k] - product(rows[k : k + 1], rows[done][:, None]) * rows[done]
        rows[k] = unit(rows[k])
    return rows


def cholesky(a: Floats) -> Floats:
    """Lower L, a = L L'."""
    n = len(a)
    low = np.zeros((n, n))
    for j in range(n):
        for i in range(j, n):
            rest = a[i, j] - math.fsum((low[i, :j] * low[j, :j]).tolist())
            low[i, j] = math.sqrt(rest) if i == j else rest / low[j, j]
    return low


def lower_solve(low: Floats, b: Floats) -> Floats:
    """L^-1 b."""
    x = b.copy()
    for i in range(len(low)):
        for k in range(i):
            x[i] = x[i] - low[i, k] * x[k]
        x[i] = x[i] / low[i, i]
    return x


@lru_cache(maxsize=64)
def pink(shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Gains and mix of 1/f noise of deviation 1 whose channels are coupled as S."""
    gain = np.broadcast_to(amplitude(shape[1:]), shape)
    return gain, colour_root(shape[0]) / DEVIATION
