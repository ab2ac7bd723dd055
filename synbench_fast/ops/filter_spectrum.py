"""filter_spectrum: real arrays filtered over their spatial axes, which colours white noise."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.checked import dtype_name, kind, thread_count
from synbench_fast.ops.dispatch import Operation
from synbench_fast.ops.sample_mixture import samples_per_part

__all__ = ["filter_spectrum", "filter_spectrum_cpp", "filter_spectrum_fft"]

_LARGEST_PART = 256  # samples of one transform: a power of two

# x, gain, threads
_backends = Operation[[Tensor, Tensor, int], None]("filter_spectrum")


def filter_spectrum(x: Tensor, gain: Tensor, *, threads: int = 0, backend: str = "auto") -> None:
    """Filter every sample and channel over its spatial axes, in place.

        x = F^-1 (gain F x),   F the discrete Fourier transform over the last axes

    The bits of a sample depend neither on the batch that it is in nor on the number of threads.

    Args:
        x: [N, C, *space], float32 or float64, contiguous.
        gain: float64 [*space] on the CPU; real, with gain[-f] = gain[f], so that a real x stays real.
        threads: 0 for torch's number of threads ("cpp" only).
        backend: "auto", "cpp" (float32 on the CPU), "fft" (torch's transforms in the dtype of x, any device) or "torch"
            (float64 specification, any device).

    Raises:
        SynbenchError: shapes, dtypes, strides or devices that do not fit, threads < 0.

    Source: textbook matter; sampling of stationary Gaussian fields: docs/tasks.md.
    """
    if x.dtype not in (torch.float32, torch.float64) or x.shape[2:] != gain.shape or not gain.ndim:
        raise SynbenchError(f"x: expected float32 or float64 [N, C, *{list(gain.shape)}], got {kind(x)}")
    if not x.is_contiguous():
        raise SynbenchError(f"x: expected a contiguous tensor, got strides {list(x.stride())}")
    if gain.dtype != torch.float64 or gain.device.type != "cpu":
        raise SynbenchError(f"gain: expected float64 on the CPU, got {dtype_name(gain)} on {gain.device}")
    threads = thread_count(threads)
    _backends.on(x.device.type, backend, dtype_name(x))(x.detach(), gain, threads)


def filter_spectrum_cpp(x: Tensor, gain: Tensor, threads: int) -> None:
    from synbench_fast import _core

    _core.filter_spectrum(x.flatten(2).numpy(), gain.to(torch.float32).numpy(), threads=threads)


def filter_spectrum_fft(x: Tensor, gain: Tensor, threads: int) -> None:
    """Always the same number of samples, filled up with zeros: the bits of torch's transforms depend on how many."""
    del threads
    axes = tuple(range(2, x.ndim))
    half = _half_on(gain, x.device, x.dtype)
    step = min(_LARGEST_PART, samples_per_part(tuple(x.shape[1:])))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        whole = part
        if len(part) < step:
            whole = torch.zeros(step, *x.shape[1:], dtype=x.dtype, device=x.device)
            whole[: len(part)] = part
        modes = torch.fft.rfftn(whole, dim=axes)
        modes *= half
        part.copy_(torch.fft.irfftn(modes, s=gain.shape, dim=axes)[: len(part)])


@lru_cache(maxsize=8)
def _half_on(gain: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The half of the gain that a real transform needs; tensors are told apart by identity."""
    half = gain.shape[-1] // 2 + 1
    return gain[..., :half].to(device, dtype)
