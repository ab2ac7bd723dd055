"""`sample_mixture`: labelled Gaussian mixture samples as an encoder reads them, in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.ops.checked import dtype_name, thread_count
from synbench_fast.ops.dispatch import Operation, resolve

__all__ = [
    "Mixture", "UnitPattern", "labels", "sample_mixture", "sample_mixture_cpp", "sample_shaped_mixture",
    "samples_per_part",
]  # fmt: skip

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SAMPLES = 2**32  # sample indices are one 32-bit word of the counter
_ELEMENTS = 2**34  # so are blocks of four elements
_PURPOSE_DATA = 0
_PART = 2**22  # elements that are worked on at a time
_CACHED = 2**20  # likewise of each thread of a CPU


def labels(start: int, count: int, prior: float = 0.5, *, device: str | torch.device = "cpu") -> Tensor:
    """Labels of the samples [start, start + count), uint8 `[count]`: class 1 has frequency `prior`.

    The label of sample i is floor((i + 1) prior) - floor(i prior), computed in float64: a fixed sequence in
    which every stretch of n samples holds n prior ones to within one, so that more samples only append.

    Raises SynbenchError if start or count is negative, start + count exceeds 2^32, or prior is outside (0, 1).
    """
    _check_range(start, count)
    if not 0.0 < prior < 1.0:
        raise SynbenchError(f"prior: expected a number in (0, 1), got {prior}")
    index = torch.arange(start, start + count + 1, dtype=torch.float64, device=device)
    return torch.floor(index * prior).diff().to(torch.uint8)


@dataclass(frozen=True, eq=False)
class UnitPattern:
    """A pattern that was checked once and lies on its device: passing it copies nothing and waits for nothing."""

    values: Tensor  # float32 [D]

    @classmethod
    def of(cls, pattern: Tensor, shape: Sequence[int], device: str | torch.device) -> UnitPattern:
        """`pattern`, [D] or `shape`, on `device`; SynbenchError unless it has length 1."""
        return cls(_check_pattern(pattern, tuple(shape), torch.device(device)))


@dataclass(frozen=True, slots=True)
class Mixture:
    """The checked arguments of one call, as every backend takes them: x [count, *shape] is filled, see `sample_mixture`."""

    x: Tensor
    y: Tensor  # uint8 [count]
    start: int
    scale: float
    seed: int
    stream: int
    center: float
    pattern: Tensor | None  # float32 [D]
    mean: list[float] | None  # per channel, likewise std
    std: list[float] | None
    channels_last: bool
    threads: int
    purpose: int


_backends = Operation[[Mixture], None]("sample_mixture")


def sample_mixture(
    shape: Sequence[int],
    start: int,
    count: int,
    *,
    scale: float,
    seed: int,
    stream: int,
    center: float = 0.5,
    pattern: Tensor | UnitPattern | None = None,
    prior: float = 0.5,
    purpose: int = _PURPOSE_DATA,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    device: str | torch.device = "cpu",
    out: Tensor | None = None,
    threads: int = 0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Samples [start, start + count) of a two-class Gaussian mixture and their labels.

        x[i] = (center + (2 y[i] - 1) scale u + z[i] - mean[c]) / std[c],   z[i] standard normal

    Every sample is a pure function of (seed, stream, its index, shape): how a run is cut into batches, the
    number of threads, the layout and the instruction set change no bit of it, and samples of different
    streams are independent. The normals come from Philox4x32-10 (Salmon et al., SC 2011) with key `seed` and
    counter (element // 4, sample index, stream, purpose), elements in contiguous `shape` order, through the
    transform of Box and Muller, whose single precision values are within 1.2e-6 of exact arithmetic.

    Args:
        shape: shape of one sample, (channels, ...) or (D,).
        start, count: sample indices, 0 <= start and start + count <= 2^32.
        scale: half the distance of the class means, in the units of the raw input (noise variance is 1); 0
            for noise alone.
        seed, stream: 64-bit and 32-bit words that select the random numbers.
        center: midpoint of the class means, in every element.
        pattern: unit vector u, [D] or `shape`; None: the constant 1 / sqrt(D).
        prior: frequency of class 1, see `labels`.
        purpose: another 32-bit word that selects the random numbers, 0 for the published task.
        mean, std: what the encoder's preprocessing subtracts and divides by: one number, or one per channel
            (the elements of a one-dimensional sample are its channels); None: 0 and 1.
        dtype: float32, float64, bfloat16 or float16. The C++ and Triton backends compute in float32 and round once.
        channels_last: lay x out as torch.channels_last; three-dimensional samples only.
        device: torch device of the result.
        out: tensor to fill instead of a new one; must have the result's shape, dtype, layout and device.
        threads: CPU threads; 0: torch.get_num_threads().
        backend: see ops.dispatch; "torch" is the specification, in float64.

    Returns:
        x [count, *shape] of `dtype`, and y uint8 [count].

    Raises:
        SynbenchError: an argument is outside the limits above; the message names it.
    """
    device = torch.device(device)
    shape = _check_shape(shape, channels_last)
    y = labels(start, count, prior, device=device)
    _check_place(scale, center)
    for name, word, bits in (("seed", seed, 64), ("stream", stream, 32), ("purpose", purpose, 32)):
        if not 0 <= word < 2**bits:
            raise SynbenchError(f"{name}: expected an integer in [0, 2^{bits}), got {word}")
    threads = thread_count(threads)
    means, stds = _check_values(dtype, shape, center, scale, mean, std)
    if isinstance(pattern, UnitPattern):
        u: Tensor | None = pattern.values
    else:
        u = None if pattern is None else _check_pattern(pattern, shape, device)
    out = _output(out, (count, *shape), dtype, channels_last, device)
    call = Mixture(
        out, y, start, scale, seed, stream, center, u, means, stds, channels_last, threads, purpose
    )
    _backends.on(device.type, backend)(call)
    return out, y


class NoiseRoot(Protocol):
    """A square root of a covariance: white normals [B, *shape] in, coloured ones in their place."""

    def apply(self, z: Tensor, threads: int) -> None: ...


def sample_shaped_mixture(
    shape: Sequence[int],
    start: int,
    count: int,
    *,
    direction: Tensor,
    midpoint: Tensor | None = None,
    root: NoiseRoot | None = None,
    scale: float,
    seed: int,
    stream: int,
    center: float = 0.5,
    prior: float = 0.5,
    purpose: int = _PURPOSE_DATA,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    device: str | torch.device = "cpu",
    out: Tensor | None = None,
    threads: int = 0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Samples of a Gaussian mixture whose noise is coloured, or whose midpoint is not the same everywhere.

        x[i] = (center + scale (midpoint + (2 y[i] - 1) direction) + A z[i] - mean[c]) / std[c]

    with the white normals z of `sample_mixture` and A the root. They are drawn by that operation and worked on
    in float32 ("torch": float64) where they lie; the cast to `dtype` is the last step. What holds there of
    batches, threads and layout holds here, on each device by itself.

    Args:
        direction: u, of length 1, [*shape] on `device`, float32 or float64; midpoint likewise, of any length.
        root: None for white noise.
        Everything else as in `sample_mixture`, as are the results and the errors.

    Memory: the result, the normals unless the result itself is contiguous float32, and of one part of the
    batch at a time (4 M elements or one sample) what the root needs and as much again.
    """
    device, shape = torch.device(device), _check_shape(shape, channels_last)
    _check_range(start, count)
    _check_place(scale, center)
    wide = torch.float64 if resolve("sample_mixture", device.type, backend) == "torch" else torch.float32
    means, stds = _check_values(dtype, shape, center, scale * (1.0 if midpoint is None else 3.0), mean, std)
    out = _output(out, (count, *shape), dtype, channels_last, device)
    z, y = sample_mixture(
        shape, start, count,
        scale=0.0, seed=seed, stream=stream, center=0.0, prior=prior, purpose=purpose, dtype=wide, device=device,
        out=out if dtype == wide and not channels_last else None, threads=threads, backend=backend,
    )  # fmt: skip
    gain, base = _affine_on(tuple(means or ()), tuple(stds or ()), center, len(shape), device, wide)
    amplitude = scale * gain
    u = direction.to(wide) * amplitude
    middle = base if midpoint is None else base + midpoint.to(wide) * amplitude
    class_mean = torch.stack([(middle - u).expand(shape), (middle + u).expand(shape)])
    threads = thread_count(threads)
    # The compiled root takes any number of samples: what fits into the caches of the threads is fastest.
    cached = device.type == "cpu" and wide == torch.float32
    step = samples_per_part(shape, min(_PART, threads * _CACHED) if cached else _PART)
    for first in range(0, count, step):
        part = z[first : first + step]
        if root is not None:
            root.apply(part, threads)
        part *= gain
        part += class_mean[y[first : first + step].long()]
    if z is not out:
        out.copy_(z)
    return out, y


def samples_per_part(shape: Sequence[int], elements: int = _PART) -> int:
    """How many samples are worked on at a time: a power of two of at most that many elements together, or one."""
    return 1 << max(0, (elements // math.prod(shape)).bit_length() - 1)


@lru_cache(maxsize=8)
def _affine_on(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    center: float,
    axes: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """1/std and (center - mean)/std as tensors that broadcast over a sample."""
    gain = 1.0 / torch.tensor(std or (1.0,), dtype=torch.float64)
    base = (center - torch.tensor(mean or (0.0,), dtype=torch.float64)) * gain
    per_channel = (-1, *(1 for _ in range(axes - 1)))
    return gain.view(per_channel).to(device, dtype), base.view(per_channel).to(device, dtype)


def _check_range(start: int, count: int) -> None:
    if start < 0:
        raise SynbenchError(f"start: expected 0 or more, got {start}")
    if count < 0:
        raise SynbenchError(f"count: expected 0 or more, got {count}")
    if start + count > _SAMPLES:
        raise SynbenchError(f"count: expected start + count of at most 2^32, got {start} + {count}")


def _check_place(scale: float, center: float) -> None:
    if not (math.isfinite(scale) and scale >= 0.0):
        raise SynbenchError(f"scale: expected a finite number of at least 0, got {scale}")
    if not math.isfinite(center):
        raise SynbenchError(f"center: expected a finite number, got {center}")


def _check_shape(shape: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    shape = tuple(shape)
    if not shape or min(shape) < 1 or math.prod(shape) > _ELEMENTS:
        raise SynbenchError(f"shape: expected positive sizes with a product of at most 2^34, got {shape}")
    if channels_last and len(shape) != 3:
        raise SynbenchError(f"channels_last: expected a (channels, height, width) sample, got shape {shape}")
    return shape


def _check_channels(
    name: str, values: float | Sequence[float] | None, shape: tuple[int, ...]
) -> list[float] | None:
    """One number per channel; of a vector, whose elements are its channels, also one number for all."""
    if values is None:
        return None
    numbers = [float(values)] if isinstance(values, int | float) else [float(v) for v in values]
    if len(numbers) == 1 and (len(shape) == 1 or isinstance(values, int | float)):
        numbers *= shape[0]
    if len(numbers) != shape[0]:
        raise SynbenchError(f"{name}: expected {shape[0]} numbers, one per channel, got {len(numbers)}")
    if not all(math.isfinite(v) and (v > 0.0 or name != "std") for v in numbers):
        raise SynbenchError(f"{name}: expected {'positive ' * (name == 'std')}finite numbers, got {numbers}")
    return numbers


def _check_values(
    dtype: torch.dtype,
    shape: tuple[int, ...],
    center: float,
    scale: float,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
) -> tuple[list[float] | None, list[float] | None]:
    """Mean and std per channel; SynbenchError unless the dtype holds what comes of them."""
    if dtype not in _DTYPES:
        raise SynbenchError(f"dtype: expected one of {', '.join(map(str, _DTYPES))}, got {dtype}")
    means, stds = _check_channels("mean", mean, shape), _check_channels("std", std, shape)
    # The arithmetic is float32 at most; 7 sigma is more noise than there is.
    limit = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
    largest = (abs(center) + scale + max(map(abs, means or [0.0])) + 7.0) / min(1.0, *(stds or [1.0]))
    if largest > limit:
        raise SynbenchError(f"dtype: expected one that holds samples up to {largest:.3g}, got {dtype}")
    return means, stds


def _check_pattern(pattern: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    dim = math.prod(shape)
    if tuple(pattern.shape) not in (shape, (dim,)) or not pattern.is_floating_point():
        got = f"{pattern.dtype} {list(pattern.shape)}"
        raise SynbenchError(f"pattern: expected floating point [{dim}] or {list(shape)}, got {got}")
    norm = float(torch.linalg.vector_norm(pattern.detach(), dtype=torch.float64))
    if not abs(norm - 1.0) <= 1e-3:
        raise SynbenchError(f"pattern: expected a vector of length 1, got length {norm:.6g}")
    return pattern.detach().to(device, torch.float32).contiguous().view(dim)


def _output(
    out: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, device: torch.device
) -> Tensor:
    """A new tensor, or the given one; SynbenchError unless it is as the new one would be."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if out is None:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)
    # torch takes "cpu:0" for the CPU, whose tensors have no index.
    anywhere = device.type == "cpu" or device.index in (None, out.device.index)
    same_device = out.device.type == device.type and anywhere
    contiguous = out.is_contiguous(memory_format=layout) if out.dim() == len(shape) else False
    if tuple(out.shape) != shape or out.dtype != dtype or not same_device or not contiguous:
        raise SynbenchError(
            f"out: expected {dtype} {list(shape)}, {str(layout).removeprefix('torch.')}, on {device}, "
            f"got {out.dtype} {list(out.shape)}, strides {list(out.stride())}, on {out.device}"
        )
    return out


def sample_mixture_cpp(call: Mixture, level: str = "auto") -> None:
    """level: the instruction set, see `_core.simd_levels`; it changes no bit."""
    from synbench_fast import _core

    x, mean, std = call.x, call.mean, call.std
    count, dim = x.shape[0], math.prod(x.shape[1:])
    # A vector normalised alike throughout is one long channel, which is the fast way to write it.
    alike = all(len(set(values or ())) <= 1 for values in (mean, std))
    channels = 1 if x.dim() == 2 and alike else x.shape[1]
    if channels == 1:
        mean, std = (values[:1] if values else None for values in (mean, std))
    rows = (x.permute(0, 2, 3, 1) if call.channels_last else x).detach().view(count, dim)
    if x.element_size() == 2:
        rows = rows.view(torch.uint16)
    _core.sample_mixture(
        rows.numpy(), call.y.numpy(),
        type=dtype_name(x), start=call.start, seed=call.seed, stream=call.stream, purpose=call.purpose,
        channels=channels, pixels=dim // channels, center=call.center, scale=call.scale,
        pattern=None if call.pattern is None else call.pattern.numpy(), mean=mean or [], std=std or [],
        channels_last=call.channels_last, threads=call.threads, level=level,
    )  # fmt: skip
