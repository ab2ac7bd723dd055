"""Random words, and the compiled renderers under the names and arguments of the specification."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbench_fast.tasks.families.specification import Array, white

__all__ = ["fields", "normals", "paint", "roll", "view", "white", "words"]


def _core() -> Any:
    """The module, which an installation may lack."""
    import synbench_fast._core as core

    return core


def words(
    seed: int, word: int, stream: int, start: int, count: int, first: int, quads: int
) -> NDArray[np.uint32]:
    """The words of blocks first .. first + quads - 1 of each sample: [count, 4 quads]."""
    result: NDArray[np.uint32] = _core().random_words(seed, word, stream, start, count, first, quads)
    return result


def normals(words: NDArray[np.uint32]) -> Array:
    """One normal per word, of pairs of words (radius, angle) by the transform of Box and Muller."""
    pairs = np.ascontiguousarray(words.reshape(-1, 2).T)
    z: Array = _core().normals_of_words(pairs[0], pairs[1])
    return z.reshape(words.shape[0], -1)


def fields(x: Array, gain: Array, mix: Array, center: float, noise: dict[str, int]) -> None:
    image = _image(x)
    _core().fields(
        image, np.ascontiguousarray(gain).reshape(image.shape[1:]), mix, center,
        seed=noise["seed"], purpose=noise["word"], stream=noise["stream"], start=noise["start"],
        threads=noise["threads"],
    )  # fmt: skip


def roll(x: Array, picture: Array, places: NDArray[np.int64], contrast: Array, threads: int = 1) -> None:
    image = _image(x)
    both = np.zeros((len(places), 2), np.int64)  # no step along the height of a waveform
    both[:, 2 - places.shape[1] :] = places
    _core().roll(image, picture.reshape(image.shape[1:]), both, contrast, threads)


def view(x: Array, scene: NDArray[np.uint8], maps: Array, colours: Array, threads: int = 1) -> None:
    _core().view(x, scene, maps, colours, threads)


def paint(x: Array, ground: Array, strokes: Array, colours: Array, outlines: Array, threads: int = 1) -> None:
    _core().paint(x, ground, strokes, colours, outlines, threads)


def _image(x: Array) -> Array:
    """Waveforms [count, C, L] as images of height 1."""
    return x if x.ndim == 4 else x.reshape(x.shape[0], x.shape[1], 1, -1)
