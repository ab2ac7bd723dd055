"""sample_mixture against an independent NumPy implementation in float64, value by value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from philox import philox

from synbench_fast import _core
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.generator import philox4x32
from synbench_fast.ops.sample_mixture import (
    Mixture,
    labels,
    sample_mixture,
    sample_mixture_cpp,
    sample_shaped_mixture,
)
from synbench_fast.ops.sample_mixture_torch import sample_mixture_torch

LEVELS = _core.simd_levels()
NORMAL_ERROR = 1.2e-6  # of a float32 normal against the formula in exact arithmetic
SHAPES = [(1,), (63,), (1271,), (7, 9), (1, 6, 5), (5, 1, 1), (3, 5, 7), (3, 40, 41), (70, 3, 3)]
KNOWN_ANSWERS = [  # Random123, kat_vectors: counter, key, output
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def box_muller(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    r = np.sqrt(-2.0 * np.log((radius.astype(np.float64) + 0.5) / 2.0**32))
    phi = 2.0 * np.pi * (angle.astype(np.float64) / 2.0**32)
    return np.stack([r * np.cos(phi), r * np.sin(phi)], axis=-1)


def oracle_normals(dim: int, start: int, count: int, seed: int, stream: int, purpose: int = 0) -> np.ndarray:
    index = np.arange(start, start + count, dtype=np.uint64)[:, None]
    w = philox([np.arange((dim + 3) // 4)[None], index, stream, purpose], seed)
    quads = np.concatenate([box_muller(w[0], w[1]), box_muller(w[2], w[3])], axis=-1)
    return quads.reshape(count, -1)[:, :dim]


def oracle_labels(start: int, count: int, prior: float) -> np.ndarray:
    return np.diff([math.floor(i * prior) for i in range(start, start + count + 1)]).astype(np.uint8)


def oracle(shape: tuple[int, ...], start: int, count: int, **kw: Any) -> np.ndarray:
    dim, channels = math.prod(shape), shape[0] if len(shape) > 1 else 1
    u = np.full(dim, dim**-0.5) if kw.get("pattern") is None else kw["pattern"].double().numpy().ravel()
    sign = 2.0 * oracle_labels(start, count, kw.get("prior", 0.5)) - 1.0
    z = oracle_normals(dim, start, count, kw["seed"], kw["stream"])
    raw = kw.get("center", 0.5) + sign[:, None] * kw["scale"] * u + z
    mean, std = (
        np.resize(kw.get(name) or default, channels) for name, default in (("mean", 0.0), ("std", 1.0))
    )
    return ((raw.reshape(count, channels, -1) - mean[:, None]) / std[:, None]).reshape(count, *shape)


def unit_pattern(shape: tuple[int, ...]) -> torch.Tensor:
    u = torch.linspace(-1.0, 2.0, math.prod(shape), dtype=torch.float64).view(shape)
    return (u / u.norm()).float()


def arguments(shape: tuple[int, ...], patterned: bool = True) -> dict[str, Any]:
    channels = shape[0] if len(shape) > 1 else 1
    return {
        "scale": 3.0,
        "seed": 0xFEDCBA9876543210,
        "stream": 0x80000005,
        "center": 0.25,
        "prior": 0.3,
        "pattern": unit_pattern(shape) if patterned else None,
        "mean": [0.1 + 0.05 * c for c in range(channels)],
        "std": [0.5 + 0.01 * c for c in range(channels)],
    }


def mixture(x: torch.Tensor, y: torch.Tensor, start: int, kw: dict[str, Any]) -> Mixture:
    kw = {name: value for name, value in kw.items() if name != "prior"}
    if kw["pattern"] is not None:
        kw["pattern"] = kw["pattern"].view(-1)
    return Mixture(x, y, start, **{"channels_last": False, "threads": 1, "purpose": 0, **kw})


def at_level(
    level: str, x: torch.Tensor, y: torch.Tensor, start: int, kw: dict[str, Any], **more: Any
) -> torch.Tensor:
    sample_mixture_cpp(mixture(x.fill_(float("nan")), y, start, kw | more), level)
    return x


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: str, key: str, expected: str) -> None:
    words, keys, answer = ([int(word, 16) for word in text.split()] for text in (counter, key, expected))
    seed = keys[0] | keys[1] << 32
    assert _core.philox4x32(seed, words) == answer
    assert [int(word) for word in philox(words, seed)] == answer
    assert [int(word) for word in philox4x32(seed, *words)] == answer


@pytest.mark.parametrize("level", LEVELS)
def test_normals_of_words(level: str) -> None:
    """Powers of two of the radius and octants of the angle, with their neighbours, and random words."""
    near = np.arange(-2, 3)
    radius = (2 ** np.arange(33, dtype=np.int64)[:, None] + near) % 2**32
    angle = (2**29 * np.arange(8, dtype=np.int64)[:, None] + near) % 2**32
    words = np.stack(np.meshgrid(radius, angle), -1).reshape(-1, 2)
    words = np.concatenate([words, np.random.default_rng(0).integers(0, 2**32, (200_000, 2))]).astype(
        np.uint32
    )
    radius, angle = np.ascontiguousarray(words.T)
    z = _core.normals_of_words(radius, angle, level=level)
    expected = box_muller(radius, angle)
    r = np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(z - expected).max() <= NORMAL_ERROR
    assert (np.abs(z - expected) / r).max() <= 2.6e-7
    assert np.abs(z).max() > 6.7
    assert z.tobytes() == _core.normals_of_words(radius, angle, level="baseline").tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("patterned", [False, True])
@pytest.mark.parametrize("start", [0, 2**32 - 7])
@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_values(shape: tuple[int, ...], patterned: bool, start: int, backend: str) -> None:
    kw = arguments(shape, patterned)
    dtype = torch.float32 if backend == "cpp" else torch.float64
    out = torch.full((7, *shape), float("nan"), dtype=dtype)
    x, y = sample_mixture(shape, start, 7, **kw, dtype=dtype, out=out, backend=backend)
    assert x is out
    np.testing.assert_array_equal(y.numpy(), oracle_labels(start, 7, 0.3))
    # float32: a normal, its gain, and three roundings of values up to 16.
    np.testing.assert_allclose(
        x.numpy(), oracle(shape, start, 7, **kw), rtol=0, atol=5e-6 if backend == "cpp" else 1e-13
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_levels_agree_bit_for_bit(level: str, shape: tuple[int, ...]) -> None:
    for patterned in (False, True):
        kw = arguments(shape, patterned)
        x, y = sample_mixture(shape, 5, 4, **kw)
        assert torch.equal(at_level(level, torch.empty_like(x), y, 5, kw), x)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 3], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_holds_the_same_values(level: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for patterned in (False, True):
        kw = arguments(shape, patterned)
        planar, y = sample_mixture(shape, 0, 3, **kw, dtype=dtype)
        x = torch.empty((3, *shape), dtype=dtype).to(memory_format=torch.channels_last)
        assert torch.equal(at_level(level, x, y, 0, kw, channels_last=True), planar)


def test_channels_last_layout() -> None:
    x, _ = sample_mixture((3, 4, 5), 0, 2, scale=1.0, seed=0, stream=0, channels_last=True)
    assert x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    spec, _ = sample_mixture(
        (3, 4, 5), 0, 2, scale=1.0, seed=0, stream=0, channels_last=True, backend="torch"
    )
    assert spec.stride() == x.stride()
    torch.testing.assert_close(x, spec, rtol=0, atol=2e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("deviation", [1e-4, 1.0, 1e5, 1e9], ids="std={}".format)
def test_cast_rounds_to_nearest_even(level: str, dtype: torch.dtype, deviation: float) -> None:
    """Against torch's cast of the float32 result; the deviations reach float16's subnormals and its zero."""
    kw = arguments((3, 41, 31)) | {"std": [deviation] * 3, "scale": 1.0}
    reference, y = sample_mixture((3, 41, 31), 0, 4, **kw)
    x = at_level(level, torch.empty(4, 3, 41, 31, dtype=dtype), y, 0, kw)
    assert torch.equal(x, reference.to(dtype))
    if dtype == torch.float16 and deviation == 1e5:
        assert int((x.abs() < torch.finfo(dtype).smallest_normal).sum()) > 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cast_of_ties_and_limits(level: str, dtype: torch.dtype) -> None:
    """Noise too small to be seen leaves the shift of each channel: values that random data never hits."""
    steps = [torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps]
    ties = [1.0 + (k + 0.5) * steps[0] for k in range(4)] + [65519.0, 65520.0, 65536.0, 3.4e38]
    if dtype == torch.float16:
        ties += [(k + 0.5) * steps[1] for k in range(4)]
    values = torch.tensor([sign * tie for tie in ties for sign in (1, -1)], dtype=torch.float32)
    mean = [-float(value) * 2.0**60 for value in values]
    kw = {"scale": 1e-30, "seed": 0, "stream": 0, "center": 0.0, "pattern": None}
    kw |= {"mean": mean, "std": [2.0**60] * len(mean)}
    y = labels(0, 3)
    full = at_level(level, torch.empty(3, len(mean), 5), y, 0, kw)
    assert torch.equal(full, values.view(-1, 1).expand(3, -1, 5))
    assert torch.equal(at_level(level, full.to(dtype), y, 0, kw), full.to(dtype))


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("shape", [(1271,), (3, 40, 41)], ids=str)
def test_batches_change_nothing(shape: tuple[int, ...], backend: str) -> None:
    kw = arguments(shape) | {"backend": backend}
    whole, y = sample_mixture(shape, 100, 11, **kw)
    for size in (1, 3, 11):
        parts = [sample_mixture(shape, 100 + i, min(size, 11 - i), **kw) for i in range(0, 11, size)]
        assert torch.equal(torch.cat([x for x, _ in parts]), whole)
        assert torch.equal(torch.cat([y for _, y in parts]), y)


@pytest.mark.parametrize("channels_last", [False, True])
def test_threads_change_nothing(channels_last: bool) -> None:
    kw = arguments((3, 97, 89)) | {"channels_last": channels_last}
    reference, _ = sample_mixture((3, 97, 89), 0, 5, **kw, threads=1)
    for threads in (0, 2, 3):
        assert torch.equal(sample_mixture((3, 97, 89), 0, 5, **kw, threads=threads)[0], reference)


def test_constant_pattern_is_the_default() -> None:
    kw = arguments((3, 8, 8), patterned=False)
    x, _ = sample_mixture((3, 8, 8), 0, 4, **kw)
    explicit, _ = sample_mixture((3, 8, 8), 0, 4, **kw | {"pattern": torch.full((192,), 192**-0.5)})
    torch.testing.assert_close(explicit, x, rtol=0, atol=2e-6)


def test_pattern_shape_and_precision() -> None:
    u = unit_pattern((3, 5, 7))
    kw = arguments((3, 5, 7))
    reference, _ = sample_mixture((3, 5, 7), 0, 4, **kw)
    for same in (u.view(-1), u.double(), u.permute(2, 0, 1).contiguous().permute(1, 2, 0)):
        assert torch.equal(sample_mixture((3, 5, 7), 0, 4, **kw | {"pattern": same})[0], reference)


def test_scalar_mean_and_std_serve_every_channel() -> None:
    kw = {"scale": 1.0, "seed": 1, "stream": 2}
    x, _ = sample_mixture((3, 5, 7), 0, 4, **kw, mean=0.5, std=0.25)
    assert torch.equal(x, sample_mixture((3, 5, 7), 0, 4, **kw, mean=[0.5] * 3, std=[0.25] * 3)[0])


@pytest.mark.parametrize("level", LEVELS)
def test_purpose_selects_other_numbers(level: str) -> None:
    kw = {"scale": 1e-9, "seed": 3, "stream": 4, "center": 0.0, "pattern": None, "mean": None, "std": None}
    y = labels(0, 5)
    x = at_level(level, torch.empty(5, 1271), y, 0, kw, purpose=7)
    np.testing.assert_allclose(
        x.numpy(), oracle_normals(1271, 0, 5, 3, 4, purpose=7), rtol=0, atol=NORMAL_ERROR
    )
    spec = torch.empty(5, 1271, dtype=torch.float64)
    sample_mixture_torch(mixture(spec, y, 0, kw | {"purpose": 7}))
    np.testing.assert_allclose(spec.numpy(), oracle_normals(1271, 0, 5, 3, 4, purpose=7), rtol=0, atol=1e-9)


def test_no_samples() -> None:
    for backend in ("cpp", "torch"):
        x, y = sample_mixture((3, 4, 4), 2**32, 0, scale=1.0, seed=0, stream=0, backend=backend)
        assert x.shape == (0, 3, 4, 4) and y.shape == (0,)


@pytest.mark.parametrize("prior", [0.5, 0.3, 1 / 3, 0.999, 1e-3])
@pytest.mark.parametrize("start", [0, 12_345, 2**32 - 5000])
def test_labels(prior: float, start: int) -> None:
    y = labels(start, 5000, prior)
    assert y.dtype == torch.uint8
    np.testing.assert_array_equal(y.numpy(), oracle_labels(start, 5000, prior))
    running = np.cumsum(y.numpy().astype(float)) - prior * np.arange(1, 5001)
    assert np.abs(running).max() <= 1.0 + 1e-6
    assert torch.equal(torch.cat([labels(start, 7, prior), labels(start + 7, 4993, prior)]), y)


def test_labels_of_an_even_prior_alternate() -> None:
    assert labels(0, 6).tolist() == [0, 1, 0, 1, 0, 1]


GOOD: dict[str, Any] = {"shape": (3, 4, 5), "start": 0, "count": 2, "scale": 1.0, "seed": 0, "stream": 0}
U = torch.full((60,), 60**-0.5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"shape": ()}, r"shape: expected positive sizes with a product .*, got \(\)"),
        ({"shape": (3, 0, 5)}, r"shape: expected positive sizes .*, got \(3, 0, 5\)"),
        ({"shape": (2**18, 2**17)}, r"shape: .* at most 2\^34, got \(262144, 131072\)"),
        ({"start": -1}, "start: expected 0 or more, got -1"),
        ({"count": -2}, "count: expected 0 or more, got -2"),
        ({"start": 2**32 - 1}, r"count: expected start \+ count of at most 2\^32, got 4294967295 \+ 2"),
        ({"scale": -0.5}, "scale: expected a finite number of at least 0, got -0.5"),
        ({"purpose": -1}, r"purpose: expected an integer in \[0, 2\^32\), got -1"),
        ({"scale": math.inf}, "scale: expected a finite number of at least 0, got inf"),
        ({"scale": math.nan}, "scale: expected a finite number of at least 0, got nan"),
        ({"center": math.nan}, "center: expected a finite number, got nan"),
        ({"seed": -1}, r"seed: expected an integer in \[0, 2\^64\), got -1"),
        ({"seed": 2**64}, r"seed: expected an integer in \[0, 2\^64\), got 18446744073709551616"),
        ({"stream": -1}, r"stream: expected an integer in \[0, 2\^32\), got -1"),
        ({"stream": 2**32}, r"stream: expected an integer in \[0, 2\^32\), got 4294967296"),
        ({"prior": 0.0}, r"prior: expected a number in \(0, 1\), got 0.0"),
        ({"prior": 1.0}, r"prior: expected a number in \(0, 1\), got 1.0"),
        ({"prior": math.nan}, r"prior: expected a number in \(0, 1\), got nan"),
        ({"threads": -1}, r"threads: expected 0 \(torch's number\) or more, got -1"),
        ({"mean": [0.5]}, "mean: expected 3 numbers, one per channel, got 1"),
        ({"std": [0.5, 0.5]}, "std: expected 3 numbers, one per channel, got 2"),
        ({"shape": (60,), "mean": [0.5, 0.5]}, "mean: expected 60 numbers, one per channel, got 2"),
        ({"mean": [0.5, math.inf, 0.5]}, r"mean: expected finite numbers, got \[0.5, inf, 0.5\]"),
        ({"std": [0.5, 0.0, 0.5]}, r"std: expected positive finite numbers, got \[0.5, 0.0, 0.5\]"),
        ({"std": -1.0}, r"std: expected positive finite numbers, got \[-1.0, -1.0, -1.0\]"),
        ({"scale": 1e39}, r"dtype: expected one that holds samples up to 1e\+39, got torch.float32"),
        ({"std": 1e-5, "dtype": torch.float16}, r"dtype: .* samples up to 8.5e\+05, got torch.float16"),
        ({"pattern": U[1:]}, r"pattern: expected floating point \[60\] or \[3, 4, 5\], got .* \[59\]"),
        ({"pattern": U.view(5, 4, 3)}, r"pattern: expected floating point .*, got torch.float32 \[5, 4, 3\]"),
        ({"pattern": U.long()}, r"pattern: expected floating point .*, got torch.int64 \[60\]"),
        ({"pattern": 2 * U}, "pattern: expected a vector of length 1, got length 2"),
        ({"pattern": math.nan * U}, "pattern: expected a vector of length 1, got length nan"),
        (
            {"shape": (60,), "channels_last": True},
            r"channels_last: expected a \(channels, height, width\) sample, .* \(60,\)",
        ),
        ({"out": torch.empty(2, 3, 4, 5).double()}, r"out: expected torch.float32 .*, got torch.float64 .*"),
        ({"out": torch.empty(1, 3, 4, 5)}, r"out: expected .* \[2, 3, 4, 5\], .*, got .* \[1, 3, 4, 5\], .*"),
        (
            {"out": torch.empty(2, 60)},
            r"out: expected .* \[2, 3, 4, 5\], .*, got torch.float32 \[2, 60\], .*",
        ),
        (
            {"out": torch.empty(2, 3, 4, 10)[..., ::2]},
            r"out: .* contiguous_format, .* strides \[120, 40, 10, 2\], on cpu",
        ),
        (
            {"out": torch.empty(2, 3, 4, 5), "channels_last": True},
            r"out: .* channels_last, .* strides \[60, 20, 5, 1\], .*",
        ),
        ({"out": torch.empty(2, 3, 4, 5, device="meta")}, r"out: expected .* on cpu, got .* on meta"),
        ({"backend": "cuda"}, r"backend: expected 'auto' or one of \['cpp', 'torch'\] .*, got 'cuda'"),
    ],
)
def test_wrong_arguments(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        sample_mixture(**GOOD | bad)
    if "pattern" not in bad:
        with pytest.raises(ValueError, match=f"^{message}$"):
            sample_shaped_mixture(**{"direction": U.view(3, 4, 5)} | GOOD | bad)


def test_wrong_dtype() -> None:
    with pytest.raises(SynbenchError, match=r"^dtype: expected one of torch.float32, .*, got torch.int8$"):
        sample_mixture(**GOOD | {"dtype": torch.int8})


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


CORE: dict[str, Any] = {
    "x": np.full((2, 60), np.nan, np.float32), "labels": np.zeros(2, np.uint8), "type": "float32", "start": 0,
    "seed": 0, "stream": 0, "channels": 3, "pixels": 20, "center": 0.0, "scale": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"x": np.empty((2, 120), np.float32)[:, ::2]},
            r"x: expected C-contiguous .*, got non-contiguous float32 \[2, 60\]",
        ),
        ({"x": np.empty((2, 60))}, r"x: expected C-contiguous float32 \[2, 60\], got float64 \[2, 60\]"),
        (
            {"x": np.empty((2, 59), np.float32)},
            r"x: expected C-contiguous float32 \[2, 60\], got float32 \[2, 59\]",
        ),
        (
            {"x": read_only(np.empty((2, 60), np.float32))},
            "x: expected a writable array, got a read-only one",
        ),
        ({"type": "float64"}, r"x: expected C-contiguous float64 \[2, 60\], got float32 \[2, 60\]"),
        ({"type": "bfloat16"}, r"x: expected C-contiguous uint16 \[2, 60\], got float32 \[2, 60\]"),
        ({"type": "float16"}, r"x: expected C-contiguous uint16 \[2, 60\], got float32 \[2, 60\]"),
        ({"type": "int8"}, "type: expected 'float32', 'float64', 'bfloat16' or 'float16', got 'int8'"),
        ({"labels": np.zeros(2, np.int64)}, r"labels: expected C-contiguous uint8 \[any\], got int64 \[2\]"),
        (
            {"labels": np.zeros((2, 1), np.uint8)},
            r"labels: expected C-contiguous uint8 \[any\], got uint8 \[2, 1\]",
        ),
        ({"labels": np.array([0, 2], np.uint8)}, "labels: expected 0 or 1, got 2"),
        ({"start": -1}, r"start: expected start >= 0 and start \+ count <= 2\^32, got -1 and count 2"),
        ({"start": 2**32 - 1}, r"start: expected start >= 0 and .*, got 4294967295 and count 2"),
        ({"channels": 0}, r"channels, pixels: expected a product in \[1, 2\^34\], got 0, 20"),
        ({"pixels": 2**33}, r"channels, pixels: expected a product in \[1, 2\^34\], got 3, 8589934592"),
        ({"mean": [0.0]}, "mean, std: expected none or 3 values, got 1"),
        ({"std": [1.0]}, "mean, std: expected none or 3 values, got 1"),
        ({"pattern": np.zeros(60)}, r"pattern: expected C-contiguous float32 \[60\], got float64 \[60\]"),
        ({"level": "avx"}, "level: expected one of 'auto', 'baseline'.*, got 'avx'"),
    ],
)
def test_core_refuses(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        _core.sample_mixture(**CORE | bad)
    assert np.isnan(CORE["x"]).all()


def test_core_refuses_words() -> None:
    words = np.zeros(4, np.uint32)
    with pytest.raises(ValueError, match=r"^radius: expected C-contiguous uint32 \[any\], got int64 \[4\]$"):
        _core.normals_of_words(words.astype(np.int64), words)
    with pytest.raises(ValueError, match=r"^angle: expected C-contiguous uint32 \[4\], got uint32 \[3\]$"):
        _core.normals_of_words(words, words[:3])


@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_a_vector_is_normalised_alike_or_element_by_element(backend: str) -> None:
    options = {"scale": 1.0, "seed": 3, "stream": 5, "backend": backend}
    plain, _ = sample_mixture((63,), 0, 20, **options)
    alike, _ = sample_mixture((63,), 0, 20, mean=[0.5], std=[2.0], **options)
    torch.testing.assert_close(alike, (plain - 0.5) / 2.0, rtol=0, atol=1e-6)
    mean, std = torch.linspace(-1, 1, 63), torch.linspace(0.5, 3, 63)
    each, _ = sample_mixture((63,), 0, 20, mean=mean.tolist(), std=std.tolist(), **options)
    torch.testing.assert_close(each, (plain - mean) / std, rtol=0, atol=1e-5)
    mixed, _ = sample_mixture((63,), 0, 20, mean=mean.tolist(), std=[2.0], **options)
    torch.testing.assert_close(mixed, (plain - mean) / 2.0, rtol=0, atol=1e-5)
