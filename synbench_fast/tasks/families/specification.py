"""The random words and renderers in NumPy: what the compiled ones compute.

`roll`, `view` and `paint` take the same single-precision steps in the same order, and give the same bits; normals and
transforms are those of double precision.

    white    x = deviation z, z one standard normal per element
    fields   stationary Gaussian noise, mixed over channels
    roll     a picture moved on the torus
    view     a picture seen through an affine map, its colours turned
    paint    strokes one over the other: ellipses, rectangles and outlines with soft edges and a filling

Every x is float32 [count, C, H, W]. `white` and `fields` write, the others add.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from synbench_fast.ops.generator import box_muller, philox4x32
from synbench_fast.ops.sample_mixture import sample_mixture

__all__ = ["HARMONICS", "STROKE", "fields", "normals", "paint", "roll", "view", "white", "words"]

Array = NDArray[np.float32]

# Of a stroke: kind (0 ellipse, 1 rectangle, 2 outline), centre x and y, unit vector of its first axis, half axes a and b,
# cycles of the filling per element along both axes, half width and half height of what it may cover. Lengths are in
# elements of the image; the centre of element (row, column) is (column + 1/2, row + 1/2).
STROKE = ("kind", "cx", "cy", "ux", "uy", "a", "b", "fx", "fy", "ex", "ey")
HARMONICS = (2, 3, 4, 5, 6, 7)  # of an outline r(t) = a (1 + sum_k (c_k cos k t + s_k sin k t))
_MARGIN = np.float32(1.5)


def words(
    seed: int, word: int, stream: int, start: int, count: int, first: int, quads: int
) -> NDArray[np.uint32]:
    """The four words of the Philox blocks with counter (first .. first + quads - 1, sample, stream, word): [count, 4 quads]."""
    index = torch.arange(start, start + count)[:, None]
    parts = philox4x32(seed, torch.arange(first, first + quads), index, stream, word)
    blocks = torch.stack([part.broadcast_to(count, quads) for part in parts], -1)
    return blocks.reshape(count, 4 * quads).numpy().astype(np.uint32)


def normals(words: NDArray[np.uint32]) -> Array:
    """One normal per word, of pairs of words (radius, angle) by the transform of Box and Muller."""
    pairs = torch.from_numpy(words.astype(np.int64)).reshape(-1, 2)
    z = torch.stack(box_muller(pairs[:, 0], pairs[:, 1]), -1)
    return z.reshape(words.shape).numpy().astype(np.float32)


def white(
    x: Array, deviation: float, *, seed: int, word: int, stream: int, start: int, count: int, elements: int, threads: int
) -> None:  # fmt: skip
    """x [count, elements] = deviation z, the normals of `ops.sample_mixture` under (seed, stream, word)."""
    assert x.shape == (count, elements)
    sample_mixture(
        (elements,), start, count,
        scale=0.0, center=0.0, std=1 / deviation, seed=seed, stream=stream, purpose=word, threads=threads,
        out=torch.from_numpy(x),
    )  # fmt: skip


def fields(x: Array, gain: Array, mix: Array, center: float, noise: dict[str, int]) -> None:
    """x[c] = center + sum_d mix[c, d] u_d, u_d = sum_f gain_d(f) z_d(f) exp(2 pi i f place), independent real noise.

    Two fields come from one transform. With w(f) = a + i b, two independent standard normals at every f,

        Y(f) = (g_0 + g_1)(f) / 2 w(f) + (g_0 - g_1)(f) / 2 conj(w(-f)),     u_0 + i u_1 = sum_f Y(f) exp(...)

    gives fields of the variance sum_f g(f)^2. Normals are in the order of [2 (a, b), pairs, frequencies].

    Args:
        x: [count, C, *places], written.
        gain: [C, *places], even in f: gain(-f) = gain(f).
        mix: [C, C].
        noise: `Call.noise` of the normals, 2 places * ceil(C / 2) elements.
    """
    channels, places = gain.shape[0], gain.shape[1:]
    axes = tuple(range(2, 2 + len(places)))
    pairs = (channels + 1) // 2
    padded = np.zeros((2 * pairs, *places), np.float32)
    padded[:channels] = gain
    plus = (padded[0::2] + padded[1::2]) * np.float32(0.5)
    minus = (padded[0::2] - padded[1::2]) * np.float32(0.5)
    step = max(1, 2**22 // (2 * pairs * math.prod(places)))
    for first in range(0, noise["count"], step):
        some = min(step, noise["count"] - first)
        z = np.empty((some, noise["elements"]), np.float32)
        white(z, 1.0, **{**noise, "start": noise["start"] + first, "count": some})
        z = z.reshape(some, 2, pairs, *places)
        w = z[:, 0] + 1j * z[:, 1]
        opposite = np.roll(np.flip(w, axes), 1, axes)
        y = np.fft.ifftn(plus * w + minus * np.conj(opposite), axes=axes, norm="forward")
        u = np.stack([y.real, y.imag], 2).reshape(some, 2 * pairs, -1)[:, :channels]
        part = np.matmul(mix.astype(np.float64), u).reshape(some, channels, *places)
        x[first : first + some] = center + part


def roll(x: Array, picture: Array, places: NDArray[np.int64], contrast: Array, threads: int = 1) -> None:
    """x[i] += contrast[i] picture, moved by places[i] elements along each axis of the torus.

    Args:
        x: [count, C, *places], added to.
        picture: [C, *places].
        places: int64 [count, axes], from 0 to the length of the axis less 1.
        contrast: [count].
    """
    axes = tuple(range(1, picture.ndim))
    for i in range(x.shape[0]):
        x[i] += contrast[i] * np.roll(picture, tuple(places[i]), axes)


def view(x: Array, scene: NDArray[np.uint8], maps: Array, colours: Array, threads: int = 1) -> None:
    """x[i, c] += colours[i, c, 3] + sum_d colours[i, c, d] p_d(place), a bilinear reading p of the scene.

    Args:
        x: [count, C, H, W], added to.
        scene: uint8 [T, T, 4], three colours and one byte that is not read; T a power of two; periodic.
        maps: [count, 6]; the place of element (row, column) is, in elements of the scene,
            (m0 + m1 column + m2 row, m3 + m4 column + m5 row), between -2^20 and 2^20.
        colours: [count, C, 4], for colours from 0 to 255.
    """
    side = scene.shape[0]
    rows = np.arange(x.shape[2], dtype=np.float32)[:, None]
    columns = np.arange(x.shape[3], dtype=np.float32)[None, :]
    flat = scene.reshape(-1, 4).astype(np.float32)
    one = np.float32(1)
    for i in range(x.shape[0]):
        m = maps[i]
        horizontal = (m[0] + m[2] * rows) + m[1] * columns
        vertical = (m[3] + m[5] * rows) + m[4] * columns
        left, top = np.floor(horizontal), np.floor(vertical)
        s, t = horizontal - left, vertical - top
        x0, y0 = left.astype(np.int64) % side, top.astype(np.int64) % side
        x1, y1 = (x0 + 1) % side, (y0 + 1) % side
        read = []
        for d in range(3):
            corner = flat[:, d]
            upper = corner[y0 * side + x0] * (one - s) + corner[y0 * side + x1] * s
            lower = corner[y1 * side + x0] * (one - s) + corner[y1 * side + x1] * s
            read.append(upper * (one - t) + lower * t)
        for c in range(x.shape[1]):
            k = colours[i, c]
            x[i, c] += ((k[3] + k[0] * read[0]) + k[1] * read[1]) + k[2] * read[2]


def paint(x: Array, ground: Array, strokes: Array, colours: Array, outlines: Array, threads: int = 1) -> None:
    """x[i] += a picture: the ground's colour, then the strokes of sample i, one over the other.

    A stroke covers an element by clamp(1/2 + distance to its edge inside, 0, 1). Its colour is the first where the
    filling |2 frac(phase) - 1| is 1/4 or less, the second from 3/4 on, and in between what lies between.

    Args:
        x: [count, C, H, W], added to.
        ground: [count, C].
        strokes: [count, S, len(STROKE)].
        colours: [count, S, 2, C].
        outlines: [count, S, 2 len(HARMONICS)], c_k and then s_k; not read for other kinds.
    """
    height, width = x.shape[2:]
    for i in range(x.shape[0]):
        picture = np.empty(x.shape[1:], np.float32)
        picture[:] = ground[i][:, None, None]
        for s in range(strokes.shape[1]):
            _, cx, cy, *_, ex, ey = strokes[i, s]
            x0, x1 = _span(cx, ex, width)
            y0, y1 = _span(cy, ey, height)
            if x0 >= x1 or y0 >= y1:
                continue
            cover, filling = _stroke(strokes[i, s], outlines[i, s], y0, y1, x0, x1)
            part = picture[:, y0:y1, x0:x1]
            first, second = colours[i, s, 0], colours[i, s, 1]
            for c in range(x.shape[1]):
                colour = first[c] + filling * (second[c] - first[c])
                part[c] += cover * (colour - part[c])
        x[i] += picture


def _span(centre: np.float32, half: np.float32, size: int) -> tuple[int, int]:
    """Elements [first, last) of an axis that a stroke may cover."""
    low = np.floor(centre - half - _MARGIN)
    high = np.ceil(centre + half + _MARGIN)
    return int(min(max(low, 0), size)), int(min(max(high, 0), size))


def _stroke(stroke: Array, outline: Array, y0: int, y1: int, x0: int, x1: int) -> tuple[Array, Array]:
    """Cover and filling of the elements [y0, y1) x [x0, x1)."""
    kind, cx, cy, ux, uy, a, b, fx, fy, *_ = stroke
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    dy = (np.arange(y0, y1, dtype=np.float32) + half - cy)[:, None]
    dx = (np.arange(x0, x1, dtype=np.float32) + half - cx)[None, :]
    p, q = dx * ux + dy * uy, dy * ux - dx * uy
    if kind == 0:
        f, g = p * (one / a), q * (one / b)
        inside = (one - np.sqrt(f * f + g * g)) * min(a, b)
    elif kind == 1:
        inside = np.minimum(a - np.abs(p), b - np.abs(q))
    else:
        radius = np.sqrt(p * p + q * q + np.float32(1e-12))
        cosine, sine = p / radius, q / radius
        re, im = cosine * cosine - sine * sine, two * cosine * sine
        sum_ = np.ones_like(radius)
        for k in range(len(HARMONICS)):
            sum_ = sum_ + (outline[k] * re + outline[len(HARMONICS) + k] * im)
            re, im = re * cosine - im * sine, re * sine + im * cosine
        inside = a * sum_ - radius
    cover = np.minimum(np.maximum(inside + half, np.float32(0)), one)
    phase = np.abs(p * fx + q * fy)
    phase = phase - phase.astype(np.int32).astype(np.float32)
    filling = np.minimum(np.maximum(two * np.abs(two * phase - one) - half, np.float32(0)), one)
    return cover, filling
