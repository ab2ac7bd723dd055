"""What draws the images of the task families: random words, and renderers, with their contracts.

    random_words, normals_of_words   numbers of the samples, by Philox and by Box and Muller
    fields                           stationary Gaussian noise, mixed over channels
    roll                             a picture moved on the torus
    view                             a picture seen through an affine map, its colours turned
    paint                            strokes one over the other: ellipses, rectangles and outlines with edges and a filling

A renderer is told what NumPy has computed. Every x is float32 [count, C, H, W], an array or a tensor of any device;
`fields` writes it, the others add to it. Backends are "cpp", compiled, "cuda", which gives the same bits on a GPU, and
"numpy", the specification: `random_words`, `roll`, `view` and `paint` give the same bits there, normals and transforms
are of double precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.ops.dispatch import Operation
from synbench_fast.ops.sample_mixture import sample_mixture

__all__ = [
    "HARMONICS",
    "STROKE",
    "Noise",
    "Under",
    "fields",
    "lay",
    "normals_of_words",
    "paint",
    "random_words",
    "roll",
    "view",
    "white",
]

Array = NDArray[np.float32]
Words = NDArray[np.uint32]

# Of a stroke: kind (0 ellipse, 1 rectangle, 2 outline), centre x and y, unit vector of its first axis, half axes a and b,
# cycles of the filling per element along both axes, half width and half height of what it may cover. Lengths are in
# elements of the image; the centre of element (row, column) is (column + 1/2, row + 1/2).
STROKE = ("kind", "cx", "cy", "ux", "uy", "a", "b", "fx", "fy", "ex", "ey")
HARMONICS = (2, 3, 4, 5, 6, 7)  # of an outline r(t) = a (1 + sum_k (c_k cos k t + s_k sin k t))


@dataclass(frozen=True)
class Noise:
    """Which standard normals: those of `sample_mixture` under (seed, stream, word), so many `elements` per sample."""

    seed: int
    word: int
    stream: int
    start: int
    count: int
    elements: int
    threads: int


Under = (
    tuple[float, Noise] | None
)  # white noise under a picture: its deviation, and which; None leaves x as it is

_random_words = Operation[[int, int, int, int, int, int, int], Words]("random_words")
_normals_of_words = Operation[[Words], Array]("normals_of_words")
_fields = Operation[[Tensor, Array, Array, float, Noise], None]("fields")
_roll = Operation[[Tensor, Array, NDArray[np.int64], Array, int], None]("roll")
_view = Operation[[Tensor, NDArray[np.uint8], Array, Array, int, Under], None]("view")
_paint = Operation[[Tensor, Array, Array, Array, Array, int, Under], None]("paint")


def random_words(
    seed: int, word: int, stream: int, start: int, count: int, first: int, quads: int, backend: str = "auto"
) -> Words:
    """The four words of the Philox blocks with counter (first .. first + quads - 1, sample, stream, word): [count, 4 quads]."""
    return _random_words.on("cpu", backend)(seed, word, stream, start, count, first, quads)


def normals_of_words(words: Words, backend: str = "auto") -> Array:
    """One normal per word, of pairs of words (radius, angle) by the transform of Box and Muller."""
    return _normals_of_words.on("cpu", backend)(words)


def fields(
    x: Array | Tensor, gain: Array, mix: Array, center: float, noise: Noise, backend: str = "auto"
) -> None:
    """x[c] = center + sum_d mix[c, d] u_d, u_d = sum_f gain_d(f) z_d(f) exp(2 pi i f place), independent real noise.

    Two fields come from one transform. With w(f) = a + i b, two independent standard normals at every f,

        Y(f) = (g_0 + g_1)(f) / 2 w(f) + (g_0 - g_1)(f) / 2 conj(w(-f)),     u_0 + i u_1 = sum_f Y(f) exp(...)

    gives fields of the variance sum_f g(f)^2. Normals are in the order of [2 (a, b), pairs, frequencies].

    Args:
        x: [count, C, *places], written.
        gain: [C, *places], even in f: gain(-f) = gain(f).
        mix: [C, C].
        noise: of the normals, 2 places * ceil(C / 2) elements.
    """
    images = _images(x)
    _fields.on(images.device.type, backend)(images, gain, mix, center, noise)


def roll(
    x: Array | Tensor,
    picture: Array,
    places: NDArray[np.int64],
    contrast: Array,
    threads: int = 1,
    backend: str = "auto",
) -> None:
    """x[i] += contrast[i] picture, moved by places[i] elements along each axis of the torus.

    Args:
        x: [count, C, *places], added to.
        picture: [C, *places].
        places: int64 [count, axes], from 0 to the length of the axis less 1.
        contrast: [count].
    """
    images = _images(x)
    _roll.on(images.device.type, backend)(images, picture, places, contrast, threads)


def view(
    x: Array | Tensor,
    scene: NDArray[np.uint8],
    maps: Array,
    colours: Array,
    threads: int = 1,
    backend: str = "auto",
    under: Under = None,
) -> None:
    """x[i, c] += colours[i, c, 3] + sum_d colours[i, c, d] p_d(place), a bilinear reading p of the scene.

    Args:
        x: [count, C, H, W], added to.
        scene: uint8 [T, T, 4], three colours and one byte that is not read; T a power of two; periodic.
        maps: [count, 6]; the place of element (row, column) is, in elements of the scene,
            (m0 + m1 column + m2 row, m3 + m4 column + m5 row), between -2^20 and 2^20.
        colours: [count, C, 4], for colours from 0 to 255.
        under: white noise that x is before.
    """
    images = _images(x)
    _view.on(images.device.type, backend)(images, scene, maps, colours, threads, under)


def paint(
    x: Array | Tensor,
    ground: Array,
    strokes: Array,
    colours: Array,
    outlines: Array,
    threads: int = 1,
    backend: str = "auto",
    under: Under = None,
) -> None:
    """x[i] += a picture: the ground's colour, then the strokes of sample i, one over the other.

    A stroke covers an element by clamp(1/2 + distance to its edge inside, 0, 1). Its colour is the first where the
    filling |2 frac(phase) - 1| is 1/4 or less, the second from 3/4 on, and in between what lies between.

    Args:
        x: [count, C, H, W], added to.
        ground: [count, C].
        strokes: [count, S, len(STROKE)].
        colours: [count, S, 2, C].
        outlines: [count, S, 2 len(HARMONICS)], c_k and then s_k; not read for other kinds.
        under: white noise that x is before.
    """
    images = _images(x)
    _paint.on(images.device.type, backend)(images, ground, strokes, colours, outlines, threads, under)


def white(x: Tensor, deviation: float, noise: Noise) -> None:
    """x [count, elements] = deviation z, drawn by `sample_mixture`."""
    assert x.shape == (noise.count, noise.elements)
    sample_mixture(  # one channel: a vector would be as many channels as it has elements, and each std is checked
        (1, noise.elements), noise.start, noise.count,
        scale=0.0, center=0.0, std=1 / deviation, seed=noise.seed, stream=noise.stream, purpose=noise.word,
        threads=noise.threads, device=x.device, out=x[:, None],
    )  # fmt: skip


def lay(x: Tensor, under: Under) -> None:
    """x [count, ...] = the noise under a picture, if there is one."""
    if under is not None:
        white(x.reshape(len(x), -1), *under)


def _images(x: Array | Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else torch.from_numpy(x)
