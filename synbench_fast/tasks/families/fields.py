"""Families of stationary Gaussian noise: `texture`, and `shift`, a picture at an unknown place in noise."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from synbench_fast.checks import check_integer, check_seed
from synbench_fast.errors import SynbenchError
from synbench_fast.tasks.families.base import Call, Draws, Family, Floats, check_backend, definition, unit
from synbench_fast.tasks.families.optimum import Optimum, compared, evidence, simulated

__all__ = ["Shift", "Texture"]

_CENTER, _DEVIATION = 0.5, 0.2  # of every element
_SHARED = 0.9  # correlation of two channels of the common spectrum
_HIGHEST = 16.0  # centres of bands, cycles per shorter side


class _Fields(Family):
    """A family of samples [C, H, W] or [C, L] of any number of channels."""

    def check_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        sizes = tuple(shape) if isinstance(shape, tuple | list | torch.Size) else ()
        good = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) and n > 0 for n in sizes)
        if not (
            good
            and len(sizes) in (2, 3)
            and sizes[0] <= 64
            and min(sizes[1:]) >= 8
            and math.prod(sizes) <= 2**26
        ):
            raise SynbenchError(
                f"shape: expected (channels, length) or (channels, height, width) with 1 to 64 channels, axes of 8 "
                f"elements or more and at most 2^26 in all for the family {self.name}, got {shape!r}"
            )
        return tuple(int(n) for n in sizes)


@dataclass(frozen=True)
class Texture(_Fields):
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
        _check_pair(self, i, j)
        (gain, mix), (other_gain, other_mix) = (self.spectrum(shape, seed, one) for one in (i, j))
        channels = gain.shape[0]
        gain, other_gain = gain.reshape(channels, -1), other_gain.reshape(channels, -1)
        # With x = mix gain z of class i, the second density sees z' T'T z, T = gain_j^-1 mix_j^-1 mix_i gain_i.
        between = np.linalg.solve(other_mix, mix)
        t = between[None] * gain.T[:, None, :] / other_gain.T[:, :, None]
        return compared(np.linalg.svd(t, compute_uv=False).astype(np.float64).ravel() ** 2)

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

    def _render(self, x: NDArray[np.float32], call: Call) -> None:
        gain, mix = _texture(call.shape, call.backend, call.seed, call.words[0], call.class_, self.strength)
        noise = call.noise(_normals(call.shape))
        call.render.fields(x, gain.astype(np.float32), mix.astype(np.float32), _CENTER, noise)


@dataclass(frozen=True)
class Shift(_Fields):
    """A class is one random picture with a 1/f spectrum; a sample shows it anywhere on the torus, in 1/f noise.

    x = 1/2 + contrast roll(m_k, place) + noise, with the place uniform over all elements and the contrast uniform in
    1 / (1 + level u). Noise and picture have the same spectrum and colours, but that the mean of the picture is 0; their
    deviations have the ratio 2 level, and together
    0.2 at contrast 1.
    """

    name: ClassVar[str] = "shift"

    def optimum(
        self, shape: tuple[int, ...], i: int, j: int, seed: int = 0, *, samples: int = 400
    ) -> Optimum:
        """The accuracy of the ideal observer of classes i and j with equal priors, over `samples` samples of each.

        It knows both pictures and adds the likelihoods of all places and of 64 contrasts. See `simulated`.
        """
        shape, seed = self.check_shape(shape), check_seed(seed)
        _check_pair(self, i, j)
        samples = check_integer("samples", samples, 2, "an integer of at least 2")
        picture_deviation, deviation = self._deviations()
        if deviation == 0:
            return Optimum(0.0)
        gain, mix = _pink(shape)
        backend, axes = check_backend("auto"), tuple(range(1, len(shape)))

        def whitened(
            x: Floats,
        ) -> NDArray[np.complex128]:  # [C, *places] in noise of deviation 1 per frequency
            own = np.linalg.solve(mix, x.reshape(shape[0], -1)).reshape(shape)
            found: NDArray[np.complex128] = np.fft.fftn(own, axes=axes, norm="forward") / (gain * deviation)
            return found

        pictures = [
            whitened(
                picture_deviation * _unit_picture(shape, seed, self.words[0], one, backend).astype(np.float64)
            )
            for one in (i, j)
        ]
        contrasts = 1 / (1 + self.level * (np.arange(64) + 0.5) / 64)
        differences = []
        for one in (i, j):
            x = self.draw(shape, seed, one, 0, samples).numpy().astype(np.float64) - _CENTER
            z = np.stack([whitened(sample) for sample in x])
            differences.append(evidence(z, pictures[0], contrasts) - evidence(z, pictures[1], contrasts))
        return simulated(np.concatenate(differences))

    def _deviations(self) -> tuple[float, float]:
        """Of picture and noise."""
        ratio = 2.0 * self.level
        picture = _DEVIATION / math.sqrt(1 + ratio * ratio)
        return picture, picture * ratio

    def _render(self, x: NDArray[np.float32], call: Call) -> None:
        gain, mix = _pink(call.shape)
        draws, (picture, deviation) = call.nuisance(), self._deviations()
        contrast = picture / (1 + self.level * draws.uniform())
        places = np.array(call.shape[1:])
        place = (draws.uniform(len(places)) * places).astype(np.int64)
        noise = call.noise(_normals(call.shape))
        scaled = (gain * deviation).astype(np.float32)
        call.render.fields(x, scaled, mix.astype(np.float32), _CENTER, noise)
        unit_picture = _unit_picture(call.shape, call.seed, call.words[0], call.class_, call.backend)
        call.render.roll(x, unit_picture, place, contrast.astype(np.float32), call.threads)


def _check_pair(family: Family, i: int, j: int) -> None:
    for one in (i, j):
        check_integer("class", one, 0, f"an integer from 0 to {family.classes - 1}", family.classes)
    if i == j:
        raise SynbenchError(f"class: expected two different classes, got {i} twice")


def exp(x: Floats) -> Floats:
    """exp(x) to 1e-13 in steps that are rounded alike everywhere, which those of a library need not be: |x| <= 100."""
    y = x / 1024.0
    series = 1.0 + y * (1.0 + y / 2 * (1.0 + y / 3 * (1.0 + y / 4 * (1.0 + y / 5 * (1.0 + y / 6)))))
    for _ in range(10):
        series = series * series
    return series


@lru_cache(maxsize=16)
def _frequencies(places: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
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


def _total(values: Floats) -> float:
    """The sum, rounded once: its order, which differs between machines, does not matter."""
    return math.fsum(values.ravel().tolist())


def _amplitude(size: Floats) -> Floats:
    """a(f) = 1 / max(|f|, 1), times what makes the sum of its squares 1."""
    a = 1 / np.maximum(size, 1.0)
    return a / math.sqrt(_total(a * a))


def _colour_root(channels: int) -> Floats:
    """The symmetric root of S = 0.04 (0.1 I + 0.9 1 1'), [C, C]."""
    own, all_ = math.sqrt(1 - _SHARED), math.sqrt(1 - _SHARED + _SHARED * channels)
    return _DEVIATION * (own * np.eye(channels) + (all_ - own) / channels)


def _product(a: Floats, b: Floats) -> Floats:
    """a b, summed in order: a library's product is rounded differently on different machines."""
    total = a[:, :1] * b[:1]
    for k in range(1, a.shape[1]):
        total = total + a[:, k : k + 1] * b[k : k + 1]
    return total


def _orthogonal(draws: Draws, n: int) -> Floats:
    """A uniform orthogonal matrix [n, n]: normals made orthonormal row by row."""
    rows: Floats = draws.normal(n, n)[0]
    for k in range(n):
        for done in range(k):
            rows[k] = rows[k] - _product(rows[k : k + 1], rows[done][:, None]) * rows[done]
        rows[k] = unit(rows[k])
    return rows


def _cholesky(a: Floats) -> Floats:
    """Lower L, a = L L'."""
    n = len(a)
    low = np.zeros((n, n))
    for j in range(n):
        for i in range(j, n):
            rest = a[i, j] - math.fsum((low[i, :j] * low[j, :j]).tolist())
            low[i, j] = math.sqrt(rest) if i == j else rest / low[j, j]
    return low


def _lower_solve(low: Floats, b: Floats) -> Floats:
    """L^-1 b."""
    x = b.copy()
    for i in range(len(low)):
        for k in range(i):
            x[i] = x[i] - low[i, k] * x[k]
        x[i] = x[i] / low[i, i]
    return x


@lru_cache(maxsize=64)
def _pink(shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Gains and mix of 1/f noise of deviation 1 whose channels are coupled as S."""
    size = _frequencies(shape[1:])[0]
    gain = np.broadcast_to(_amplitude(size), shape)
    return gain, _colour_root(shape[0]) / _DEVIATION


@lru_cache(maxsize=64)
def _texture(
    shape: tuple[int, ...], backend: str, seed: int, word: int, class_: int, strength: float
) -> tuple[Floats, Floats]:
    size, cosine, sine = _frequencies(shape[1:])
    channels, draws = shape[0], definition(backend, seed, word, class_)
    root = _product(_colour_root(channels), _orthogonal(draws, channels))
    amplitude = _amplitude(size)
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
    square = sum(_total(pattern * pattern) for pattern in patterns) / (len(patterns) * size.size)
    half = 0.5 * strength / math.sqrt(square)
    gain = np.stack([amplitude * exp(half * pattern) for pattern in patterns])
    # M = chol(S) chol(P)^-1, P the covariance of a pixel before.
    variance = np.array([_total(one * one) for one in gain])
    pixel = _product(root * variance, root.T)
    target = _cholesky(_product(_colour_root(channels), _colour_root(channels)))
    mix = _product(target, _lower_solve(_cholesky(pixel), root))
    for array in (gain, mix):
        array.flags.writeable = False
    return gain, mix


@lru_cache(maxsize=64)
def _unit_picture(
    shape: tuple[int, ...], seed: int, word: int, class_: int, backend: str
) -> NDArray[np.float32]:
    """The picture of a class of `Shift`, float32 [C, *places].

    Its mean is 0 and the covariance of its pixels S / 0.04, so that no statistic of single pixels names the class.
    """
    call = Call(shape, seed, (word, word), class_, 0, 1, 1, backend)
    channels = shape[0]
    gain = np.array(_pink(shape)[0], np.float32)
    gain.reshape(channels, -1)[:, 0] = 0  # no mean of its own
    x = np.empty((1, *shape), np.float32)
    call.render.fields(x, gain, np.eye(channels, dtype=np.float32), 0.0, call.noise(_normals(shape)))
    picture = x.reshape(channels, -1).astype(np.float64)
    covariance = np.array([[_total(one * other) for other in picture] for one in picture]) / picture.shape[1]
    alike = _lower_solve(_cholesky(covariance), picture)
    result: NDArray[np.float32] = _product(_pink(shape)[1], alike).reshape(shape).astype(np.float32)
    result.flags.writeable = False
    return result


def _normals(shape: tuple[int, ...]) -> int:
    """How many normals `fields` draws for a sample."""
    return 2 * ((shape[0] + 1) // 2) * math.prod(shape[1:])
