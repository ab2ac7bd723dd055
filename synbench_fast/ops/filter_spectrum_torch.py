"""The specification of filter_spectrum: complex transforms of everything at once, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["filter_spectrum_torch"]


def filter_spectrum_torch(x: Tensor, gain: Tensor, threads: int) -> None:
    del threads
    axes = tuple(range(2, x.ndim))
    modes = torch.fft.fftn(x.double(), dim=axes) * gain.to(x.device)
    x.copy_(torch.fft.ifftn(modes, dim=axes).real)
