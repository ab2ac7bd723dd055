"""The specification of `renderers` in NumPy: single-precision steps in the order of the compiled ones."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.ops.generator import box_muller, philox4x32
from synbench_fast.ops.renderers import HARMONICS, Array, Noise, Under, Words, lay, white

__all__ = [
    "fields_numpy",
    "normals_of_words_numpy",
    "paint_numpy",
    "random_words_numpy",
    "roll_numpy",
    "view_numpy",
]

_MARGIN = np.float32(1.5)


def random_words_numpy(
    seed: int, word: int, stream: int, start: int, count: int, first: int, quads: int
) -> Words:
    index = torch.arange(start, start + count)[:, None]
    parts = philox4x32(seed, torch.arange(first, first + quads), index, stream, word)
    blocks = torch.stack([part.broadcast_to(count, quads) for part in parts], -1)
    return blocks.reshape(count, 4 * quads).numpy().astype(np.uint32)


def normals_of_words_numpy(words: Words) -> Array:
    pairs = torch.from_numpy(words.astype(np.int64)).reshape(-1, 2)
    z = torch.stack(box_muller(pairs[:, 0], pairs[:, 1]), -1)
    return z.reshape(words.shape).numpy().astype(np.float32)


def fields_numpy(x: Tensor, gain: Array, mix: Array, center: float, noise: Noise) -> None:
    channels, places = gain.shape[0], gain.shape[1:]
    axes = tuple(range(2, 2 + len(places)))
    pairs = (channels + 1) // 2
    padded = np.zeros((2 * pairs, *places), np.float32)
    padded[:channels] = gain
    plus = (padded[0::2] + padded[1::2]) * np.float32(0.5)
    minus = (padded[0::2] - padded[1::2]) * np.float32(0.5)
    step = max(1, 2**22 // (2 * pairs * math.prod(places)))
    for first in range(0, noise.count, step):
        some = min(step, noise.count - first)
        drawn = torch.empty(some, noise.elements)
        white(drawn, 1.0, replace(noise, start=noise.start + first, count=some))
        z = drawn.numpy().reshape(some, 2, pairs, *places)
        w = z[:, 0] + 1j * z[:, 1]
        opposite = np.roll(np.flip(w, axes), 1, axes)
        y = np.fft.ifftn(plus * w + minus * np.conj(opposite), axes=axes, norm="forward")
        u = np.stack([y.real, y.imag], 2).reshape(some, 2 * pairs, -1)[:, :channels]
        part = np.matmul(mix.astype(np.float64), u).reshape(some, channels, *places)
        x.numpy()[first : first + some] = center + part


def roll_numpy(x: Tensor, picture: Array, places: NDArray[np.int64], contrast: Array, threads: int) -> None:
    axes, images = tuple(range(1, picture.ndim)), x.numpy()
    for i in range(x.shape[0]):
        images[i] += contrast[i] * np.roll(picture, tuple(places[i]), axes)


def view_numpy(
    x: Tensor, scene: NDArray[np.uint8], maps: Array, colours: Array, threads: int, under: Under
) -> None:
    lay(x, under)
    side, images = scene.shape[0], x.numpy()
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
            images[i, c] += ((k[3] + k[0] * read[0]) + k[1] * read[1]) + k[2] * read[2]


def paint_numpy(
    x: Tensor, ground: Array, strokes: Array, colours: Array, outlines: Array, threads: int, under: Under
) -> None:
    lay(x, under)
    images: Array = x.numpy()
    height, width = images.shape[2:]
    for i in range(x.shape[0]):
        picture = np.empty(images.shape[1:], np.float32)
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
        images[i] += picture


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
