"""`texture`: classes of stationary noise that differ in their spectrum, orientation and colour coupling alone."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from torch import Tensor

from synbench_fast.checks import check_seed
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.renderers import fields
from synbench_fast.tasks.families.base import Call, Floats, check_backend, definition
from synbench_fast.tasks.families.optimum import Optimum, compared
from synbench_fast.tasks.families.stationary import (
    CENTER,
    FieldFamily,
    amplitude,
    check_pair,
    cholesky,
    colour_root,
    exp,
    fill_even,
    frequencies,
    half_of,
    lower_solve,
    normals_of,
    orthogonal,
    product,
    total_of_even,
)  # fmt: skip

__all__ = ["Texture"]

_HIGHEST = 16.0  # centres of bands, cycles per shorter side


@dataclass(frozen=True)
class Texture(FieldFamily):
    """Classes x | k ~ N(1/2, Sigma_k) that differ in their covariance alone: spectrum, orientation, colour coupling.

    Sigma_k is stationary on the torus. At frequency f, with a(f) = 1 / max(|f|, 1) and f in cycles per shorter side,

        Sigma_k(f) = a(f)^2 W_k diag(exp(A g_kc(f))) W_k',   W_k = M_k S^(1/2) Q_k

    S couples the channels by 0.9, Q_k is a random rotation of the colour axes c, and the patterns g_kc are random sums
    of orientation, a band and the slope of the spectrum, with mean square 1. M_k makes the covariance of a single pixel
    0.04 S for every class: neither a linear map of the pixels nor any statistic of single pixels tells classes apart.
    The strength is A = 2 exp(-4 level).
    """

    name: ClassVar[str] = "texture"

    @property
    def strength(self) -> float:
        """A."""
        return 2.0 * float(exp(np.array(-4.0 * self.level)))

    def spectrum(self, shape: tuple[int, ...], seed: int, class_: int) -> tuple[Floats, Floats]:
        """Gains [C, *places] and colour mix [C, C] of a class: Sigma_k(f) = mix diag(gain(f)^2) mix'.

        They are normalised to sum_f Sigma_k(f) = 0.04 S, the covariance of a pixel.
        """
        shape, backend = self.check_shape(shape), check_backend("auto")
        return _texture(shape, backend, check_seed(seed), self.words[0], class_, self.strength)

    def optimum(self, shape: tuple[int, ...], i: int, j: int, seed: int = 0) -> Optimum:
        """The exact accuracy of the optimum classifier of classes i and j with equal priors, see `compared`."""
        check_pair(self, i, j)
        (gain, mix), (other_gain, other_mix) = (self.spectrum(shape, seed, one) for one in (i, j))
        channels = gain.shape[0]
        gain, other_gain = gain.reshape(channels, -1), other_gain.reshape(channels, -1)
        # With x = mix gain z of class i, the second density sees z' T'T z, T = gain_j^-1 mix_j^-1 mix_i gain_i.
        between = np.linalg.solve(other_mix, mix)
        t = between[None] * gain.T[:, None, :] / other_gain.T[:, :, None]
        return compared(np.linalg.svd(t, compute_uv=False).astype(np.float64).ravel() ** 2)

    def pair_optimum(self, shape: tuple[int, ...], seed: int = 0) -> float:
        """Exact, over the classes 0 and 1, 2 and 3, to the twentieth pair at most; NaN for more than 2^14 elements.

        For these `optimum` has it, which takes 0.1 s for a pair at 3 x 224 x 224 and 0.01 s at 3 x 64 x 64.
        """
        if math.prod(self.check_shape(shape)) > 2**14:
            return math.nan
        pairs = range(0, min(self.classes, 40) - 1, 2)
        return math.fsum(self.optimum(shape, k, k + 1, seed).accuracy for k in pairs) / len(pairs)

    @classmethod
    def of_scale(cls, shape: tuple[int, ...], scale: float, *, classes: int = 20, seed: int = 0) -> Texture:
        """The level at which the mean scale of neighbouring classes (k, k + 1) is `scale`, to 0.1 %.

        Raises SynbenchError where no level from 0 to 4 has it.
        """

        def excess(level: float) -> float:
            family = cls(classes, level)
            scales = [family.optimum(shape, k, (k + 1) % classes, seed).scale for k in range(classes)]
            return math.log(math.fsum(scales) / classes / scale)

        if not (isinstance(scale, numbers.Real) and math.isfinite(scale) and scale > 0):
            raise SynbenchError(f"scale: expected a finite number above 0, got {scale!r}")
        low, high = 0.0, 4.0
        at_low, at_high = excess(low), excess(high)
        if at_low < 0 or at_high > 0:
            ends = [scale * math.exp(value) for value in (at_high, at_low)]
            raise SynbenchError(
                f"scale: expected {ends[0]:.3g} to {ends[1]:.3g} for shape {shape}, got {scale}"
            )
        for _ in range(40):
            middle = (low + high) / 2
            at = excess(middle)
            if abs(at) < 1e-3:
                break
            low, high = (middle, high) if at > 0 else (low, middle)
        return cls(classes, middle)

    def _render(self, x: Tensor, call: Call) -> None:
        gain, mix = _texture(call.shape, call.numbers, call.seed, call.words[0], call.class_, self.strength)
        noise = call.noise(normals_of(call.shape))
        fields(x, gain.astype(np.float32), mix.astype(np.float32), CENTER, noise, call.backend)


@lru_cache(maxsize=64)
def _texture(
    shape: tuple[int, ...], backend: str, seed: int, word: int, class_: int, strength: float
) -> tuple[Floats, Floats]:
    length = shape[1]
    size, cosine, sine = (half_of(one) for one in frequencies(shape[1:]))  # every pattern is even in f
    channels, draws = shape[0], definition(backend, seed, word, class_)
    root = product(colour_root(channels), orthogonal(draws, channels))
    common_gain = half_of(amplitude(shape[1:]))
    highest = _HIGHEST if len(shape) == 3 else min(shape[1:]) / 4
    patterns = []
    common = draws.normal(4)[0]
    for _ in range(channels):
        own, angle = draws.normal(4)[0], draws.direction()[0]
        weight = common + own
        band = 1.5 + (highest - 1.5) * draws.uniform(2)[0] ** 2
        q = (size / band[0]) ** 2
        slope = (size**2 - band[1] ** 2) / (size**2 + band[1] ** 2)
        oriented = cosine * angle[0] + sine * angle[1] if len(shape) == 3 else 0.0
        pattern = weight[0] * oriented + weight[1] * (4 * q / (1 + q) ** 2 - 0.5) + weight[2] * slope
        patterns.append(np.where(size == 0, 0.0, pattern))
    square = sum(total_of_even(pattern * pattern, length) for pattern in patterns)
    square /= channels * math.prod(shape[1:])
    half = 0.5 * strength / math.sqrt(square)
    gain, variance = np.empty(shape), np.empty(channels)
    for c, pattern in enumerate(patterns):
        own = half_of(gain[c])
        np.multiply(common_gain, exp(half * pattern), out=own)
        variance[c] = total_of_even(own * own, length)
        fill_even(gain[c])
    # M = chol(S) chol(P)^-1, P the covariance of a pixel before.
    pixel = product(root * variance, root.T)
    target = cholesky(product(colour_root(channels), colour_root(channels)))
    mix = product(target, lower_solve(cholesky(pixel), root))
    for array in (gain, mix):
        array.flags.writeable = False
    return gain, mix
