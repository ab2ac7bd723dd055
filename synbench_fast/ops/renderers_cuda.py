"""The `renderers` on an NVIDIA GPU: the bits of the compiled core, enqueued without waiting for the device.

What a renderer is told comes from NumPy and is copied to the device: a few kilobytes per image, and what all images of a
class share, which has about the size of one image. The images stay on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.kernels import launch
from synbench_fast.ops.renderers import HARMONICS, STROKE, Array, Noise, Under, lay, white

__all__ = ["fields_cuda", "paint_cuda", "roll_cuda", "view_cuda"]

THREADS = 256
TILE_WIDTH, TILE_HEIGHT, CHANNELS_TOGETHER = 32, 8, 4  # as in csrc/renderers_cuda.cu
MOST_IMAGES = 65_535  # the second axis of a grid
MOST_ELEMENTS = 2**31  # of an image: kernels count them in 32 bits
WORKSPACE = 2**28  # bytes of the planes of a transform, or those of one image where it needs more


def fields_cuda(x: Tensor, gain: Array, mix: Array, center: float, noise: Noise) -> None:
    count, channels, height, width = _image_shape(x)
    pairs, pixels = (channels + 1) // 2, height * width
    _check(
        2 * pairs * pixels < MOST_ELEMENTS,
        f"x: expected fewer than 2^31 normals per image, got {list(x.shape)}",
    )
    spectrum, colours = _told(x, "gain", gain, x.shape[1:]), _told(x, "mix", mix, (channels, channels))
    axes = [(height, width), (width, 1)]  # length, and elements from one of it to the next
    elements = 2 * pairs * pixels
    together = max(1, min(count, WORKSPACE // (8 * elements), MOST_IMAGES // pairs))
    planes, others = (torch.empty(together, elements, dtype=torch.float32, device=x.device) for _ in range(2))
    for first in range(0, count, together):
        some = min(together, count - first)
        one, other = planes[:some], others[:some]
        white(other, 1.0, replace(noise, start=noise.start + first, count=some))
        _launch(
            "render_spectrum_kernel", x, pairs * pixels, some, (other, spectrum, channels, height, width, one)
        )
        for length, inner in axes:
            for radix, stride, roots, small in _stages(length, x.device):
                items = pixels // radix if radix in (2, 4) else pixels
                _launch(
                    "render_fourier_kernel", x, items, some * pairs,
                    (one, pairs, pixels, length, inner, radix, stride, roots, small, other),
                )  # fmt: skip
                one, other = other, one
        _launch(
            "render_mix_kernel", x, pixels, some,
            (one, colours, float(np.float32(center)), channels, pixels, x[first : first + some]),
        )  # fmt: skip


def roll_cuda(x: Tensor, picture: Array, places: NDArray[np.int64], contrast: Array, threads: int) -> None:
    count, channels, height, width = _image_shape(x)
    both = np.zeros((count, 2), np.int64)  # no step along the height of a waveform
    both[:, 2 - places.shape[1] :] = places
    inside = (both >= 0) & (both < np.array([height, width]))
    _check(bool(inside.all()), "places: expected a place in the picture, got another one")
    moved, source = _told(x, "places", both, (count, 2), np.int64), _told(x, "picture", picture, x.shape[1:])
    factor = _told(x, "contrast", contrast, (count,))
    for some in _batches(count):
        _launch(
            "render_roll_kernel", x, picture.size, some.stop - some.start,
            (x[some], source, moved[some], factor[some], channels, height, width),
        )  # fmt: skip


def view_cuda(
    x: Tensor, scene: NDArray[np.uint8], maps: Array, colours: Array, threads: int, under: Under
) -> None:
    count, channels, height, width = _image_shape(x)
    side = len(scene)
    _check(
        0 < side <= 2**14 and side & (side - 1) == 0,
        f"scene: expected a power of two up to 2^14, got side {side}",
    )
    texels, places = _told(x, "scene", scene, (side, side, 4), np.uint8), _told(x, "maps", maps, (count, 6))
    factors = _told(x, "colours", colours, (count, channels, 4))
    reach = np.abs(maps.reshape(-1, 3)) @ np.array([1, width + 16, height], np.float32)
    _check(bool((reach < 2**20).all()), "maps: expected places within 2^20 of 0, got others")
    lay(x, under)
    for some in _batches(count):
        _launch(
            "render_view_kernel", x, height * width, some.stop - some.start,
            (x[some], texels, side, places[some], factors[some], channels, height, width),
        )  # fmt: skip


def paint_cuda(
    x: Tensor, ground: Array, strokes: Array, colours: Array, outlines: Array, threads: int, under: Under
) -> None:
    count, channels, height, width = _image_shape(x)
    number = strokes.shape[1]
    told = (
        _told(x, "ground", ground, (count, channels)),
        _told(x, "strokes", strokes, (count, number, len(STROKE))),
        _told(x, "colours", colours, (count, number, 2, channels)),
        _told(x, "outlines", outlines, (count, number, 2 * len(HARMONICS))),
    )
    _check(
        _paintable(strokes),
        "strokes: expected finite places within 2^20 of 0, unit vectors, half axes from 1e-6 on and at most eight cycles "
        "per element, got others",
    )
    lay(x, under)
    tiles = -(-width // TILE_WIDTH) * -(-height // TILE_HEIGHT)
    for some in _batches(count):
        launch(
            "render_paint_kernel", (tiles, some.stop - some.start, -(-channels // CHANNELS_TOGETHER)),
            TILE_WIDTH * TILE_HEIGHT, x.device,
            (x[some], *(one[some] for one in told), number, channels, height, width),
        )  # fmt: skip


def _image_shape(x: Tensor) -> tuple[int, int, int, int]:
    """(count, channels, height, width); waveforms [count, C, L] are images of height 1."""
    sizes = (x.shape[0], x.shape[1], *([1] if x.ndim == 3 else []), *x.shape[2:])
    _check(
        math.prod(sizes[1:]) < MOST_ELEMENTS,
        f"x: expected fewer than 2^31 elements per image, got {list(x.shape)}",
    )
    return sizes[0], sizes[1], sizes[2], sizes[3]


def _check(good: bool, message: str) -> None:
    if not good:
        raise SynbenchError(message)


def _paintable(strokes: Array) -> bool:
    """As the compiled core has it: finite, with half axes above 0 and numbers that integers of 32 bits can count."""
    far = np.float32(2**20)
    most = np.array([np.inf, far, far, 1.001, 1.001, far, far, 8, 8, far, far], np.float32)
    least = strokes[..., STROKE.index("a") : STROKE.index("b") + 1]
    return bool((np.abs(strokes) <= most).all() and (least >= 1e-6).all())


def _batches(count: int) -> Iterator[slice]:
    """Images that one grid holds."""
    for first in range(0, count, MOST_IMAGES):
        yield slice(first, min(count, first + MOST_IMAGES))


def _launch(name: str, x: Tensor, items: int, images: int, arguments: tuple[Any, ...]) -> None:
    launch(name, (-(-items // THREADS), images), THREADS, x.device, arguments)


def _told(
    x: Tensor, name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: type[np.generic] = np.float32
) -> Tensor:
    """A copy of what a renderer is told, on the device of x; SynbenchError for another shape or dtype."""
    _check(
        array.shape == tuple(shape) and array.dtype == dtype,
        f"{name}: expected {dtype.__name__} {list(shape)}, got {array.dtype} {list(array.shape)}",
    )
    own = torch.from_numpy(np.array(array, order="C"))  # of its own: the caller's may be read-only, or change
    if not x.is_cuda:
        return own
    return own.pin_memory().to(x.device, non_blocking=True)  # pageable memory would wait for the GPU


@lru_cache(maxsize=32)
def _stages(length: int, device: torch.device) -> list[tuple[int, int, Tensor, Tensor]]:
    """Radix, stride, roots of the remaining length and roots of the radix of every step, as the compiled core has them."""
    radices, rest, factor = [], length, 5
    for radix in (4, 2, 3):
        while rest % radix == 0:
            radices.append(radix)
            rest //= radix
    while rest > 1:
        factor = rest if factor * factor > rest else factor
        while rest % factor == 0:
            radices.append(factor)
            rest //= factor
        factor += 2
    found, stride = [], 1
    for radix in radices:
        roots = [_roots(n).to(device) for n in (length // stride, radix)]
        found.append((radix, stride, roots[0], roots[1]))
        stride *= radix
    return found


def _roots(n: int) -> Tensor:
    """float32 [2, n] cos and sin of -2 pi k / n, rounded from those of the C library: NumPy's may differ in the last bit."""
    angles = [-2.0 * math.pi * k / n for k in range(n)]
    both = [[math.cos(one) for one in angles], [math.sin(one) for one in angles]]
    return torch.tensor(both, dtype=torch.float64).float()
