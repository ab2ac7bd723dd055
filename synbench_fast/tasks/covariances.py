"""Noise covariances by name, known by their eigenvalues: mean variance 1 per element, whatever the name.

    white          I (the published task)
    channel:RHO    between channels c and d of one position: 1 if c = d, else RHO; positions are independent.
                   Eigenvalues 1 + (C - 1) RHO (the mean over the channels) and 1 - RHO (all differences)
    power:ALPHA    stationary and periodic over the spatial axes, channels independent: the eigenvalue of the
                   Fourier mode of frequency f, in periods per element, is proportional to |f|^-ALPHA, that of
                   f = 0 the same as that of the lowest other frequency. Natural images have ALPHA about 2.

Samples are the symmetric square root of the covariance times white normals. Sources: exchangeable correlation
is textbook matter; power spectra of natural images: Field, J. Opt. Soc. Am. A 4 (1987), 2379.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from synbench_fast.arguments import decimal
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.ops.filter_spectrum import filter_spectrum
from synbench_fast.tasks.patterns import spatial_axes

__all__ = [
    "COVARIANCES",
    "ChannelRoot",
    "PowerRoot",
    "check_covariance",
    "parse_covariance",
    "root",
    "spectrum",
]

COVARIANCES = ("white", "channel:RHO", "power:ALPHA")
_STEEPEST = 4.0  # float32 transforms carry the ratio of the deviations, 1e4 at 224 x 224
_NO_SHARE = 1e-26  # of |u|^2: what rounding leaves in modes that u does not have


def check_covariance(name: str, shape: tuple[int, ...]) -> str:
    """`name` in its one spelling; SynbenchError unless there is such a covariance for inputs of this shape."""
    kind, value = parse_covariance(name)
    got = f"got {name!r} for shape {shape}"
    if kind == "white":
        return name
    if kind == "channel":
        channels = shape[0] if len(shape) > 1 else 1
        if channels < 2:
            raise SynbenchError(
                f"covariance: expected an input of two channels or more for channel:RHO, {got}"
            )
        if not -1 / (channels - 1) < value < 1 or value == 0:
            low = f"{-1 / (channels - 1):g}"
            raise SynbenchError(f"covariance: expected RHO in ({low}, 1) other than 0 (white), {got}")
    else:
        if not 0 < value <= _STEEPEST:
            raise SynbenchError(f"covariance: expected ALPHA in (0, {_STEEPEST:g}], {got}")
        if all(shape[axis] == 1 for axis in spatial_axes(shape)):
            raise SynbenchError(f"covariance: expected a spatial axis, {got}")
    return f"{kind}:{repr(value).removesuffix('.0')}"


def parse_covariance(name: str) -> tuple[str, float]:
    """The covariance's kind and its number; SynbenchError for a name of no such form."""
    kind, colon, text = name.partition(":") if isinstance(name, str) else (repr(name), "", "")
    if kind == "white" and not colon:
        return kind, 0.0
    if kind in ("channel", "power"):
        value = decimal(text)
        if value is not None:
            return kind, value
    kinds = [one.partition(":")[0] for one in COVARIANCES]
    hint = "" if kind in kinds else suggest(kind, kinds)
    raise SynbenchError(f"covariance: expected one of {', '.join(COVARIANCES)}, got {name!r}{hint}")


@dataclass(frozen=True)
class ChannelRoot:
    """z + (sum of z over the channels) * share, times difference: the root of an exchangeable correlation."""

    difference: float  # deviation of differences between channels
    share: float

    def apply(self, z: Tensor, threads: int) -> None:
        """z [B, C, ...] in place; sums in the order of the channels, so that no batching changes a bit."""
        del threads
        total = z[:, 0].clone()
        for channel in range(1, z.shape[1]):
            total += z[:, channel]
        total *= self.share
        z += total[:, None]
        z *= self.difference


@dataclass(frozen=True, eq=False)
class PowerRoot:
    """The Fourier filter of the deviations of the modes."""

    gain: Tensor  # float64 [spatial axes]

    def apply(self, z: Tensor, threads: int) -> None:
        """z [B, C, *space] or [B, L] in place."""
        filter_spectrum(z.view(len(z), -1, *self.gain.shape), self.gain, threads=threads)


@lru_cache(maxsize=8)
def root(name: str, shape: tuple[int, ...]) -> ChannelRoot | PowerRoot | None:
    """The square root of a covariance that `check_covariance` knows for this shape; None for white."""
    kind, value = parse_covariance(name)
    if kind == "white":
        return None
    if kind == "channel":
        difference, mean = math.sqrt(1 - value), math.sqrt(1 + (shape[0] - 1) * value)
        return ChannelRoot(difference, (mean / difference - 1) / shape[0])
    return PowerRoot(_power(value, shape).sqrt())


def _power(alpha: float, shape: tuple[int, ...]) -> Tensor:
    """Eigenvalues of the Fourier modes, float64 over the spatial axes, of mean 1."""
    sizes = [shape[axis] for axis in spatial_axes(shape)]
    like: dict[str, Any] = {"dtype": torch.float64}
    square = torch.zeros(sizes, **like)
    for axis, n in enumerate(sizes):
        square += (
            torch.fft.fftfreq(n, **like).square().view([-1 if a == axis else 1 for a in range(len(sizes))])
        )
    lowest = square[square > 0].min()
    values: Tensor = square.clamp_min(lowest) ** (-alpha / 2)
    return values / values.mean()


def spectrum(name: str, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues d [K], ascending, and the shares a2 [K] of the unit vector `direction` [shape] in their spaces.

    Only those with a share are listed; sum a2 = 1. float64.
    """
    kind, value = parse_covariance(name)
    shape = tuple(direction.shape)
    square = direction.square().sum()
    if kind == "white":
        d, a2 = direction.new_ones(1), square[None]
    elif kind == "channel":
        along = direction.sum(0).square().sum() / shape[0]
        d = direction.new_tensor([1 - value, 1 + (shape[0] - 1) * value])
        a2 = torch.stack([square - along, along]).clamp_min(0)
    else:
        modes = torch.fft.fftn(direction, dim=spatial_axes(shape), norm="ortho")
        share = modes.real.square() + modes.imag.square()
        a2 = (share.sum(0) if len(shape) > 1 else share).flatten()
        d = _power(value, shape).flatten()
    kept = a2 > _NO_SHARE * square
    d, order = d[kept].sort()
    a2 = a2[kept][order]
    return d, a2 / a2.sum()
