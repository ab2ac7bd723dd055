"""What all families share: parameters, random numbers, and `Family.draw`."""

from __future__ import annotations

import hashlib
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.checks import check_integer, check_seed
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.dispatch import IMAGES, NUMBERS, OPERATIONS, resolve
from synbench_fast.ops.renderers import Noise, normals_of_words, random_words

__all__ = ["Call", "Draws", "Family", "blend", "definition", "draws_on", "parse", "unit"]

Floats = NDArray[np.float64]
_SAMPLES = 2**32  # the index of a sample is one word of the counter
_CLASSES = 2**20
_DEFINITION, _NUISANCE, _NOISE = 0, 1, 2  # parts of a class's random numbers; its streams are 4 class + part


class Draws:
    """Random numbers of the samples start .. start + count - 1: each call returns the next ones, [count, *shape].

    They are Philox words under the counter (running number, sample, stream, word) and the key `seed`. All arithmetic
    on them is +, -, *, / and sqrt of float64, which IEEE 754 rounds alike on every machine: what a renderer is told
    is the same to the bit everywhere.
    """

    def __init__(self, backend: str, seed: int, word: int, stream: int, start: int, count: int) -> None:
        self._backend = backend
        self._key = (seed, word, stream, start, count)
        self._quads = 0
        self.count = count

    def _words(self, number: int) -> NDArray[np.uint32]:
        quads = (number + 3) // 4
        words: NDArray[np.uint32] = random_words(*self._key, self._quads, quads, self._backend)
        self._quads += quads
        return words

    def uniform(self, *shape: int, low: float | Floats = 0.0, high: float | Floats = 1.0) -> Floats:
        """Uniform in (low, high): (word + 1/2) / 2^32 between them."""
        number = math.prod(shape)
        words = self._words(number)[:, :number].reshape(self.count, *shape)
        return low + (words.astype(np.float64) + 0.5) * 2.0**-32 * (high - low)

    def normal(self, *shape: int) -> Floats:
        """Standard normals, of single precision."""
        number = math.prod(shape)
        words = self._words(2 * ((number + 1) // 2))
        z: NDArray[np.float32] = normals_of_words(words, self._backend)
        return z[:, :number].reshape(self.count, *shape).astype(np.float64)

    def direction(self, *shape: int, spread: float = 1.0) -> Floats:
        """Unit vectors [count, *shape, 2]: uniform for spread 1, all (1, 0) for spread 0."""
        return unit(blend(self.normal(*shape, 2), spread))


def blend(normals: Floats, spread: float) -> Floats:
    """Normals [..., n] for spread 1, (2, 0, ..., 0) for spread 0, and between them what lies between."""
    spread = min(spread, 1.0)
    first = np.zeros(normals.shape[-1])
    first[0] = 2.0 * (1.0 - spread)
    return first + spread * normals


def unit(vectors: Floats) -> Floats:
    """Each vector [..., n] divided by its length; the sum is taken in order."""
    squares = vectors[..., 0] ** 2
    for k in range(1, vectors.shape[-1]):
        squares = squares + vectors[..., k] ** 2
    return vectors / np.sqrt(squares)[..., None]


def definition(backend: str, seed: int, word: int, class_: int) -> Draws:
    """The numbers that define a class."""
    return Draws(backend, seed, word, 4 * class_ + _DEFINITION, 0, 1)


@dataclass(frozen=True)
class Call:
    """One call of `Family.draw`, after its arguments were checked."""

    shape: tuple[int, ...]
    seed: int
    words: tuple[int, int]  # of the classes and of the samples, see Family.words
    class_: int
    start: int
    count: int
    threads: int
    backend: str  # of the images

    @property
    def numbers(self) -> str:
        """The backend of the numbers that NumPy computes with: they are drawn on the CPU, whatever draws the images."""
        return resolve(NUMBERS[0], "cpu", self.backend if self.backend in OPERATIONS[NUMBERS[0]] else "auto")

    @property
    def side(self) -> int:
        """The shortest spatial axis, in elements: the unit of every length."""
        return min(self.shape[1:])

    def definition(self) -> Draws:
        """Numbers that define the class: one sample of them, the same in every call and at every level."""
        return definition(self.numbers, self.seed, self.words[0], self.class_)

    def nuisance(self) -> Draws:
        """Numbers that every sample has of its own."""
        return Draws(
            self.numbers, self.seed, self.words[1], 4 * self.class_ + _NUISANCE, self.start, self.count
        )

    def noise(self, elements: int) -> Noise:
        """Which white noise a renderer draws, so many elements per sample."""
        return Noise(
            self.seed, self.words[1], 4 * self.class_ + _NOISE, self.start, self.count, elements, self.threads
        )


@dataclass(frozen=True)
class Family(ABC):
    """`classes` classes of synthetic samples whose means are equal, or nearly, at every pixel.

    A sample is a pure function of (seed, name, level, its class, its index, shape): neither the number of classes, nor
    how a run is cut into calls, nor the number of threads or the instruction set changes one bit of it. The classes of
    one seed are the same at every level; the samples of different levels are independent given the classes.

    Args:
        classes: K, 2 to 2^20.
        level: difficulty, from 0 (easy) on; 1 is hard. Families say what it does.

    Raises:
        SynbenchError: any value outside these.
    """

    name: ClassVar[str]
    most_classes: ClassVar[int] = _CLASSES

    classes: int = 20
    level: float = 0.5

    def __post_init__(self) -> None:
        most = self.most_classes
        classes = check_integer("classes", self.classes, 2, f"an integer from 2 to {most}", most + 1)
        level = self.level
        if isinstance(level, bool) or not isinstance(level, numbers.Real) or not 0 <= level <= 4:
            raise SynbenchError(f"level: expected a number in [0, 4], got {level!r}")
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "level", float(level))

    def parameters(self) -> dict[str, Any]:
        """The TOML table or JSON object that `family` reads: {"family": name, "classes": K, "level": level}."""
        return {"family": self.name, "classes": self.classes, "level": self.level}

    @property
    def words(self) -> tuple[int, int]:
        """Words of the random numbers' counter: of the classes, by the name; of the samples, by the name and level."""
        return _word(self.name), _word(f"{self.name} {self.level!r}")

    def check_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """`shape` as a tuple of int; SynbenchError unless the family has samples of it."""
        sizes = tuple(shape) if isinstance(shape, tuple | list | torch.Size) else ()
        good = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) and n > 0 for n in sizes)
        if not (
            good and len(sizes) == 3 and sizes[0] in (1, 3) and min(sizes[1:]) >= 8 and max(sizes) <= 4096
        ):
            raise SynbenchError(
                f"shape: expected (channels, height, width) with 1 or 3 channels and sides from 8 to 4096 for the "
                f"family {self.name}, got {shape!r}"
            )
        return tuple(int(n) for n in sizes)

    def draw(
        self,
        shape: tuple[int, ...],
        seed: int,
        class_: int,
        start: int,
        count: int,
        out: Tensor | None = None,
        *,
        device: torch.device | str = "cpu",
        threads: int = 0,
        backend: str = "auto",
    ) -> Tensor:
        """Samples start .. start + count - 1 of one class: float32 [count, *shape], about in [0, 1].

        Args:
            shape: of one sample, channels first.
            seed: of the classes and the samples, in [0, 2^64).
            class_: 0 to classes - 1.
            start, count: indices of the samples, start + count at most 2^32. The samples of one class and seed are
                independent given the class; classes of different seeds are independent.
            out: a contiguous float32 tensor [count, *shape] on `device` to fill and return, instead of a new one.
            device: "cpu", or a GPU that `draws_on` names, which gives the same bits.
            threads: CPU threads; 0: torch's number.
            backend: "cpp" (compiled), "cuda" (on a GPU), "numpy" (the specification, about 100 times slower, whose normals
                are of double precision: images agree to 1e-5), or "auto" for the first that serves the device.

        Raises:
            SynbenchError: any value outside these.
        """
        shape = self.check_shape(shape)
        seed = check_seed(seed)
        class_ = check_integer("class_", class_, 0, f"an integer from 0 to {self.classes - 1}", self.classes)
        start = check_integer("start", start, 0, "an integer of at least 0")
        count = check_integer("count", count, 0, "an integer of at least 0")
        if start + count > _SAMPLES:
            raise SynbenchError(f"count: expected start + count of at most 2^32, got {start} + {count}")
        threads = check_integer("threads", threads, 0, "0 (torch's number) or more", 2**20)
        place = torch.device(device)
        backend = check_backend(backend, place.type)
        if out is None:
            out = torch.empty((count, *shape), dtype=torch.float32, device=place)
        elif not (
            isinstance(out, Tensor) and out.shape == (count, *shape) and out.dtype == torch.float32
            and out.device.type == place.type and place.index in (None, out.device.index) and out.is_contiguous()
        ):  # fmt: skip
            raise SynbenchError(f"out: expected a contiguous float32 tensor {[count, *shape]} on {place}")
        if count:
            threads = threads or torch.get_num_threads()
            call = Call(shape, seed, self.words, class_, start, count, threads, backend)
            self._render(out.detach(), call)
        return out

    def pair_optimum(self, shape: tuple[int, ...], seed: int = 0) -> float:
        """Accuracy of the best possible classifier of two classes with equal priors, the mean over pairs of classes.

        NaN where the family does not know it exactly, or only after long computation.
        """
        return math.nan

    @abstractmethod
    def _render(self, x: Tensor, call: Call) -> None:
        """Writes the samples of `call` to x [count, *shape]."""


def check_backend(backend: str, device: str = "cpu") -> str:
    """The name of a backend that draws images on this type of device."""
    return resolve(IMAGES[0], device, backend)


def draws_on(device: torch.device) -> bool:
    """Whether images are drawn on this device: on the CPU, and on a GPU with the kernels of images and of normals."""
    try:
        for operation in ("sample_mixture", *IMAGES):
            resolve(operation, device.type)
    except SynbenchError:
        return False
    return True


def _word(text: str) -> int:
    """A word by a text; 0 and 1 belong to other tasks."""
    digest = hashlib.sha256(f"family {text}".encode()).digest()
    return 2 + int.from_bytes(digest[:8], "big") % (2**32 - 2)


def parse(families: Mapping[str, type[Family]], given: Mapping[str, Any]) -> Family:
    """The family of a table as `Family.parameters` makes it."""
    values = dict(given)
    name = values.pop("family", None)
    if name not in families:
        raise SynbenchError(f"family: expected one of {', '.join(families)}, got {name!r}")
    unknown = set(values) - {"classes", "level"}
    if unknown:
        raise SynbenchError(
            f"family {name}: expected the keys classes and level, got {min(unknown, key=str)!r}"
        )
    return families[name](**values)
