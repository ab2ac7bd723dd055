"""filter_spectrum: the specification against its definition, the backends against it, and the compiled one to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from checks import Array, refused
from conftest import TOLERANCE
from task_cases import explicit_covariance

from synbench_fast import _core
from synbench_fast.ops.filter_spectrum import filter_spectrum
from synbench_fast.tasks.covariances import PowerRoot, root


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gain_of(space: tuple[int, ...]) -> torch.Tensor:
    """Symmetric and without any other structure: the power spectrum of a real array."""
    return torch.fft.fftn(noise(*space)).abs()


@pytest.mark.parametrize("space", [(1,), (2,), (7,), (12,), (3, 5), (4, 6), (2, 3, 4)])
def test_the_specification_is_its_definition(space: tuple[int, ...]) -> None:
    """Sums over all pairs of positions and frequencies, written out."""
    x, gain = noise(2, 3, *space), gain_of(space)
    matrix = np.ones((1, 1))
    for n in space:
        k = np.arange(n)
        matrix = np.kron(matrix, np.exp(-2j * np.pi * np.outer(k, k) / n))
    modes = x.flatten(2).numpy() @ matrix.T * gain.flatten().numpy()
    expected = (modes @ matrix.conj() / len(matrix)).real
    filter_spectrum(x, gain, backend="torch")
    np.testing.assert_allclose(x.flatten(2).numpy(), expected, atol=1e-11 * gain.max().item())


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (1, 28, 28), (2, 7, 9), (2, 17, 31), (2, 100), (1, 121), (3, 5, 8, 6), (2, 1, 12)]
)
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [
        ("cpp", torch.float32, TOLERANCE["filter_spectrum"]),
        ("fft", torch.float32, TOLERANCE["filter_spectrum"]),
        ("fft", torch.float64, 1e-13),
    ],
)
def test_backends_agree_with_the_specification(
    shape: tuple[int, ...], backend: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Powers of 2, primes, mixed; odd and even numbers of channels."""
    x, gain = noise(3, *shape), gain_of(shape[1:])
    fast = x.to(dtype)
    filter_spectrum(fast, gain, threads=2, backend=backend)
    filter_spectrum(x, gain, backend="torch")
    assert (fast - x).abs().max() < tolerance * x.abs().max()


def test_auto_takes_the_compiled_filter_for_float32_alone() -> None:
    x, gain = noise(4, 2, 6, 10), gain_of((6, 10))
    for dtype, backend in ((torch.float32, "cpp"), (torch.float64, "fft")):
        chosen, named = x.to(dtype), x.to(dtype)
        filter_spectrum(chosen, gain)
        filter_spectrum(named, gain, backend=backend)
        assert torch.equal(chosen, named)
    with refused("one of ['fft', 'torch'] for filter_spectrum", "got 'cpp'"):
        filter_spectrum(x, gain, backend="cpp")


@pytest.mark.parametrize(
    ("x", "gain", "message"),
    [
        (torch.ones(2, 3, 4), torch.ones(5), "x: expected float32 or float64 [N, C, *[5]], got float32 [2, 3, 4]"),
        (torch.ones(2, 4), torch.ones(4), "got float32 [2, 4]"),
        (torch.ones(2, 3, 4).half(), torch.ones(4), "got float16 [2, 3, 4]"),
        (torch.ones(2, 3, 4)[:, ::2], torch.ones(4), "x: expected a contiguous tensor, got strides [12, 8, 1]"),
        (torch.ones(2, 3, 4), torch.ones(4).float(), "gain: expected float64 on the CPU, got float32 on cpu"),
    ],
)  # fmt: skip
def test_refusals(x: torch.Tensor, gain: torch.Tensor, message: str) -> None:
    with refused(message):
        filter_spectrum(x, gain if "got float32 on" in message else gain.double())
    with refused("threads: expected 0 (torch's number) or more, got -1"):
        filter_spectrum(torch.ones(1, 1, 2), torch.ones(2, dtype=torch.float64), threads=-1)


def filter_of(covariance: str, shape: tuple[int, ...]) -> torch.Tensor:
    made = root(covariance, shape)
    assert isinstance(made, PowerRoot)
    return made.gain


def test_transforms_off_the_cpu_are_filled_up_to_one_size() -> None:
    """The path of GPUs, here in float64: a part is transformed as if it stood in a whole one."""
    gain = filter_of("power:2", (3, 8, 9))
    z = torch.randn(300, 3, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole, pieces = z.clone(), z.clone()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        filter_spectrum(whole, gain, backend="fft")
        for start, stop in ((0, 1), (1, 200), (200, 300)):
            filter_spectrum(pieces[start:stop], gain, backend="fft")
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(whole, pieces, rtol=0, atol=1e-13)
    sigma = explicit_covariance("power:2", (3, 8, 9))
    values, vectors = np.linalg.eigh(sigma)
    dense = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    np.testing.assert_allclose(whole.flatten(1).numpy(), z.flatten(1).numpy() @ dense, atol=1e-9)


def test_the_compiled_filter_checks_its_arrays() -> None:
    x, gain = np.zeros((2, 3, 12), np.float32), np.ones((3, 4), np.float32)
    _core.filter_spectrum(x, gain, threads=1)
    with pytest.raises(ValueError, match=r"x: expected C-contiguous float32 \[any, any, 12\], got"):
        _core.filter_spectrum(x[:, :, :6], gain, threads=1)
    with pytest.raises(ValueError, match="gain: expected C-contiguous float32 with at least one element"):
        _core.filter_spectrum(x, gain.astype(np.float64), threads=1)


def in_steps(re: Array, im: Array) -> tuple[Array, Array]:
    """The filter's transform along the first axis in float32, one operation after the other as its source has them."""
    length, zero = len(re), np.float32(0)
    radices, rest = [], length
    for radix in (4, 2, 3, *range(5, length + 1, 2)):
        while rest % radix == 0:
            radices.append(radix)
            rest //= radix

    def root(k: int, n: int) -> tuple[np.float32, np.float32]:
        angle = -2.0 * math.pi * (k % n) / n
        return np.float32(math.cos(angle)), np.float32(math.sin(angle))

    stride, left = 1, length
    for radix in radices:
        parts = left // radix
        xr, xi = (one.reshape(radix, parts, stride, -1) for one in (re, im))
        yr, yi = (np.empty((parts, radix, stride, xr.shape[-1]), np.float32) for _ in range(2))
        for p in range(parts):
            if radix == 4:
                (sr, tr, ur, zr), (si, ti, ui, zi) = (
                    (x[0, p] + x[2, p], x[0, p] - x[2, p], x[1, p] + x[3, p], x[1, p] - x[3, p])
                    for x in (xr, xi)
                )
                sums = [(sr + ur, si + ui), (tr + zi, ti - zr), (sr - ur, si - ui), (tr - zi, ti + zr)]
            elif radix == 2:
                sums = [
                    (xr[0, p] + xr[1, p], xi[0, p] + xi[1, p]),
                    (xr[0, p] - xr[1, p], xi[0, p] - xi[1, p]),
                ]
            else:
                sums = []
                for k in range(radix):
                    r, i = zero + xr[0, p], zero + xi[0, p]
                    for j in range(1, radix):
                        wr, wi = root(j * k, radix)
                        r, i = r + (xr[j, p] * wr - xi[j, p] * wi), i + (xr[j, p] * wi + xi[j, p] * wr)
                    sums.append((r, i))
            for k, (r, i) in enumerate(sums):
                wr, wi = root(p * k, left)
                plain = k == 0 or (p == 0 and radix not in (2, 4))
                yr[p, k], yi[p, k] = (r, i) if plain else (r * wr - i * wi, r * wi + i * wr)
        re, im = yr, yi
        stride, left = stride * radix, parts
    return re.reshape(length, -1), im.reshape(length, -1)


@pytest.mark.parametrize(
    ("count", "channels", "space"),
    [(5, 3, (7, 9)), (9, 2, (6, 35)), (1, 3, (16, 20)), (2, 4, (3, 5, 8)), (3, 1, (32,)), (11, 2, (22,)),
     (1, 1, (1040,)), (2, 3, (1, 12)), (2, 1, (1,)), (1, 2, (33, 3))],
)  # fmt: skip
def test_the_filter_to_the_bit(count: int, channels: int, space: tuple[int, ...]) -> None:
    """Results do not depend on what a processor does side by side, so they can be written down."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((count, channels, *space), dtype=np.float32)
    gain = generator.random(space, dtype=np.float32)
    expected = np.empty_like(x)
    scale = np.float32(1 / math.prod(space))
    for sample in range(count):
        for first in range(0, channels, 2):
            two = first + 1 < channels
            re, im = x[sample, first], x[sample, first + 1] if two else np.zeros(space, np.float32)
            for step in range(2):
                for axis in range(len(space)):
                    moved = [np.moveaxis(one, axis, 0) for one in (re, im)]
                    shape = moved[0].shape
                    flat = in_steps(*(np.ascontiguousarray(one).reshape(len(one), -1) for one in moved))
                    re, im = (np.moveaxis(one.reshape(shape), 0, axis) for one in flat)
                if step == 0:
                    re, im = im * (gain * scale), re * (gain * scale)
            expected[sample, first] = im
            if two:
                expected[sample, first + 1] = re
    _core.filter_spectrum(x.reshape(count, channels, -1), gain, threads=1)
    assert x.tobytes() == expected.tobytes()
