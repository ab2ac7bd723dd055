"""The compiled `renderers`."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast import _core
from synbench_fast.ops.renderers import Array, Noise, Under, Words

__all__ = ["fields_cpp", "normals_of_words_cpp", "paint_cpp", "random_words_cpp", "roll_cpp", "view_cpp"]


def random_words_cpp(
    seed: int, word: int, stream: int, start: int, count: int, first: int, quads: int
) -> Words:
    return _core.random_words(seed, word, stream, start, count, first, quads)


def normals_of_words_cpp(words: Words) -> Array:
    pairs = np.ascontiguousarray(words.reshape(-1, 2).T)
    return _core.normals_of_words(pairs[0], pairs[1]).reshape(words.shape[0], -1)


def fields_cpp(x: Tensor, gain: Array, mix: Array, center: float, noise: Noise) -> None:
    image = _image(x)
    _core.fields(
        image, np.ascontiguousarray(gain).reshape(image.shape[1:]), mix, center,
        seed=noise.seed, purpose=noise.word, stream=noise.stream, start=noise.start, threads=noise.threads,
    )  # fmt: skip


def roll_cpp(x: Tensor, picture: Array, places: NDArray[np.int64], contrast: Array, threads: int) -> None:
    image = _image(x)
    both = np.zeros((len(places), 2), np.int64)  # no step along the height of a waveform
    both[:, 2 - places.shape[1] :] = places
    _core.roll(image, picture.reshape(image.shape[1:]), both, contrast, threads)


def view_cpp(
    x: Tensor, scene: NDArray[np.uint8], maps: Array, colours: Array, threads: int, under: Under
) -> None:
    _core.view(_image(x), scene, maps, colours, threads, **_noise(x, under))


def paint_cpp(
    x: Tensor, ground: Array, strokes: Array, colours: Array, outlines: Array, threads: int, under: Under
) -> None:
    _core.paint(_image(x), ground, strokes, colours, outlines, threads, **_noise(x, under))


class _Laid(TypedDict, total=False):
    seed: int
    purpose: int
    stream: int
    start: int
    deviation: float


def _noise(x: Tensor, under: Under) -> _Laid:
    if under is None:
        return {}
    deviation, noise = under
    assert len(x) == noise.count and x.numel() == noise.count * noise.elements
    return {
        "seed": noise.seed, "purpose": noise.word, "stream": noise.stream, "start": noise.start,
        "deviation": 1 / (1 / deviation),  # rounded as by `white`
    }  # fmt: skip


def _image(x: Tensor) -> Array:
    """The memory of x; waveforms [count, C, L] are images of height 1."""
    own: Array = x.numpy()
    return own if x.ndim == 4 else own.reshape(x.shape[0], x.shape[1], 1, -1)
