"""`shift`: which of K pictures is it, somewhere on the torus and in noise of the same spectrum?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.checks import check_integer, check_seed
from synbench_fast.ops.renderers import fields, roll
from synbench_fast.tasks.families.base import Call, Floats, check_backend
from synbench_fast.tasks.families.optimum import Optimum, evidence, simulated
from synbench_fast.tasks.families.stationary import (
    CENTER,
    DEVIATION,
    FieldFamily,
    check_pair,
    cholesky,
    lower_solve,
    normals_of,
    pink,
    product,
    total,
)  # fmt: skip

__all__ = ["Shift"]


@dataclass(frozen=True)
class Shift(FieldFamily):
    """A class is one random picture with a 1/f spectrum; a sample shows it anywhere on the torus, in 1/f noise.

    x = 1/2 + contrast roll(m_k, place) + noise, with the place uniform over all elements and the contrast uniform in
    1 / (1 + level u). Noise and picture have the same spectrum and colours, but that the mean of the picture is 0;
    their deviations have the ratio 2 level, and together 0.2 at contrast 1.
    """

    name: ClassVar[str] = "shift"

    def optimum(
        self, shape: tuple[int, ...], i: int, j: int, seed: int = 0, *, samples: int = 400
    ) -> Optimum:
        """The accuracy of the ideal observer of classes i and j with equal priors, over `samples` samples of each.

        It knows both pictures and adds the likelihoods of all places and of 64 contrasts. See `simulated`.
        """
        shape, seed = self.check_shape(shape), check_seed(seed)
        check_pair(self, i, j)
        samples = check_integer("samples", samples, 2, "an integer of at least 2")
        picture_deviation, deviation = self._deviations()
        if deviation == 0:
            return Optimum(0.0)
        gain, mix = pink(shape)
        backend, axes = check_backend("auto"), tuple(range(1, len(shape)))

        def whitened(x: Floats) -> NDArray[np.complex128]:
            """Transform of [C, *places] in units in which the noise has deviation 1 at every frequency."""
            own = np.linalg.solve(mix, x.reshape(shape[0], -1)).reshape(shape)
            found: NDArray[np.complex128] = np.fft.fftn(own, axes=axes, norm="forward") / (gain * deviation)
            return found

        units = [_unit_picture(shape, seed, self.words[0], one, backend) for one in (i, j)]
        pictures = [whitened(picture_deviation * unit_picture.astype(np.float64)) for unit_picture in units]
        contrasts = 1 / (1 + self.level * (np.arange(64) + 0.5) / 64)
        differences = []
        for one in (i, j):
            x = self.draw(shape, seed, one, 0, samples).numpy().astype(np.float64) - CENTER
            z = np.stack([whitened(sample) for sample in x])
            differences.append(evidence(z, pictures[0], contrasts) - evidence(z, pictures[1], contrasts))
        return simulated(np.concatenate(differences))

    def _deviations(self) -> tuple[float, float]:
        """Of picture and noise."""
        ratio = 2.0 * self.level
        picture = DEVIATION / math.sqrt(1 + ratio * ratio)
        return picture, picture * ratio

    def _render(self, x: Tensor, call: Call) -> None:
        gain, mix = pink(call.shape)
        draws, (picture, deviation) = call.nuisance(), self._deviations()
        contrast = picture / (1 + self.level * draws.uniform())
        places = np.array(call.shape[1:])
        place = (draws.uniform(len(places)) * places).astype(np.int64)
        noise = call.noise(normals_of(call.shape))
        scaled = (gain * deviation).astype(np.float32)
        fields(x, scaled, mix.astype(np.float32), CENTER, noise, call.backend)
        unit_picture = _unit_picture(call.shape, call.seed, call.words[0], call.class_, call.numbers)
        roll(x, unit_picture, place, contrast.astype(np.float32), call.threads, call.backend)


@lru_cache(maxsize=64)
def _unit_picture(
    shape: tuple[int, ...], seed: int, word: int, class_: int, backend: str
) -> NDArray[np.float32]:
    """The picture of a class of `Shift`, float32 [C, *places].

    Its mean is 0 and the covariance of its pixels S / 0.04, so that no statistic of single pixels names the class.
    """
    call = Call(shape, seed, (word, word), class_, 0, 1, 1, backend)
    channels = shape[0]
    gain = np.array(pink(shape)[0], np.float32)
    gain.reshape(channels, -1)[:, 0] = 0  # no mean of its own
    x = np.empty((1, *shape), np.float32)
    fields(x, gain, np.eye(channels, dtype=np.float32), 0.0, call.noise(normals_of(shape)), call.backend)
    picture = x.reshape(channels, -1).astype(np.float64)
    covariance = np.array([[total(one * other) for other in picture] for one in picture]) / picture.shape[1]
    alike = lower_solve(cholesky(covariance), picture)
    result: NDArray[np.float32] = product(pink(shape)[1], alike).reshape(shape).astype(np.float32)
    result.flags.writeable = False
    return result
