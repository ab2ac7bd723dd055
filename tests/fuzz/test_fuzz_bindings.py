"""Arrays of every kind into the compiled module and the operations: a right answer or one line, nothing in between."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synbench_fast import _core
from synbench_fast.engine.features import evaluate_features
from synbench_fast.errors import SynbenchError
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.ops.robust_solve import robust_solve
from synbench_fast.ops.sample_mixture import sample_mixture
from synbench_fast.ops.score_auc import score_auc
from synbench_fast.ops.score_sweep import score_sweep

quick = settings(
    deadline=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.too_slow],
)
GUARD = 64  # bytes on either side of an output


# ---------------------------------------------------------------- NumPy arrays that the module may be handed


def reversed_(a: Any) -> Any:
    return a[::-1] if a.ndim else a


def strided(a: Any) -> Any:
    """The same values with a gap after each."""
    if a.ndim == 0:
        return a
    wide = np.empty((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def broadcast(a: Any) -> Any:
    return np.broadcast_to(a[:1], a.shape) if a.ndim and len(a) else a


def transposed(a: Any) -> Any:
    return np.asfortranarray(a)


def swapped(a: Any) -> Any:
    return a.astype(a.dtype.newbyteorder())


def read_only(a: Any) -> Any:
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a: Any) -> Any:
    if not a.nbytes or a.dtype == object:
        return a
    made = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    made[...] = a
    return made


def objects(a: Any) -> Any:
    return a.astype(object)


def scalar(a: Any) -> Any:
    return a.ravel()[:1].reshape(()) if a.size else a


def emptied(a: Any) -> Any:
    return a[:0] if a.ndim else a


def endless(a: Any) -> Any:
    """More elements than any memory has, all the same one."""
    return np.broadcast_to(np.zeros(1, a.dtype), (2**40, *a.shape[1:])) if a.ndim else a


def deeper(a: Any) -> Any:
    return a[None]


def longer(a: Any) -> Any:
    return np.concatenate([a, a]) if a.ndim else a


def narrow(a: Any) -> Any:
    return a.astype(np.float32 if a.dtype == np.float64 else np.float64)


def listed(a: Any) -> Any:
    return a.tolist()


def subclass(a: Any) -> Any:
    return np.ma.masked_array(a)


def nan(a: Any) -> Any:
    return np.full_like(a, np.nan) if a.dtype.kind == "f" else np.full_like(a, 255)


SHAPES: list[Callable[[Any], Any]] = [
    reversed_, strided, broadcast, transposed, swapped, read_only, unaligned, objects, scalar, emptied, endless, deeper,
    longer, narrow, listed, subclass, nan, np.copy,
]  # fmt: skip
chosen = st.lists(st.sampled_from(SHAPES), min_size=0, max_size=2)


def odd(draw: Any, a: Any) -> Any:
    for change in draw(chosen):
        if isinstance(a, np.ndarray) and a.size < 10**6:  # nothing is made of an endless one
            a = change(a)
    return a


def guarded(shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any]:
    """An array and the bytes around and under it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.full(size + 2 * GUARD, 0xA5, np.uint8)
    return room[GUARD : GUARD + size].view(dtype).reshape(shape), room


def attempt(call: Callable[[], Any]) -> Any:
    """The result, or None where the call was refused in a way that a caller can act on."""
    try:
        return call()
    except (TypeError, ValueError, OverflowError) as error:
        assert str(error)
        return None


def equal(found: Any, expected: Any) -> None:
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found:
            equal(found[name], expected[name])
        return
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def plain(a: Any) -> Any:
    return np.ascontiguousarray(np.asarray(a))


small = st.integers(0, 5)
threads = st.sampled_from([1, 2, 3, 0, -1, 10**6, 2**31 - 1, 2**31])


@quick
@given(st.data(), small, st.integers(1, 4), st.integers(1, 7), threads)
def test_sample_mixture_of_the_module(
    data: Any, count: int, channels: int, pixels: int, threads: int
) -> None:
    kind, dtype = data.draw(
        st.sampled_from(
            [
                ("float32", np.float32),
                ("float64", np.float64),
                ("bfloat16", np.uint16),
                ("float16", np.uint16),
            ]
        )
    )
    x, room = guarded((count, channels * pixels), dtype)
    labels = np.arange(count, dtype=np.uint8) % 2
    pattern = np.full(channels * pixels, (channels * pixels) ** -0.5, np.float32)
    options = {
        "type": kind, "start": data.draw(st.sampled_from([0, 1, 2**32 - 5, 2**32, -1, 2**63 - 1])),
        "seed": data.draw(st.sampled_from([0, 2**64 - 1])), "stream": 3, "channels": channels, "pixels": pixels,
        "center": 0.5, "scale": 2.0, "mean": data.draw(st.sampled_from([[], [0.5] * channels, [0.5] * 9])),
        "channels_last": data.draw(st.booleans()), "level": data.draw(st.sampled_from(["auto", "baseline", "none"])),
    }  # fmt: skip
    given_x, given_labels, given_pattern = odd(data.draw, x), odd(data.draw, labels), odd(data.draw, pattern)
    attempt(
        lambda: _core.sample_mixture(given_x, given_labels, pattern=given_pattern, threads=threads, **options)
    )
    assert (room[:GUARD] == 0xA5).all() and (room[len(room) - GUARD :] == 0xA5).all()
    if isinstance(given_x, np.ndarray) and not np.shares_memory(given_x, x):
        return
    accepted = attempt(
        lambda: (
            _core.sample_mixture(x, given_labels, pattern=given_pattern, threads=threads, **options) or True
        )
    )
    if accepted and x.size:
        clean = np.zeros_like(x)
        _core.sample_mixture(
            clean, plain(given_labels).astype(np.uint8), pattern=plain(given_pattern), threads=1, **options
        )
        np.testing.assert_array_equal(x, clean)
        if x.dtype.kind == "f" and np.isfinite(given_pattern).all():
            assert np.isfinite(x).all()


@quick
@given(st.data(), small, small, st.lists(st.integers(1, 6), min_size=1, max_size=3), threads)
def test_filter_spectrum_of_the_module(
    data: Any, count: int, channels: int, shape: list[int], threads: int
) -> None:
    x, room = guarded((count, channels, math.prod(shape)), np.float32)
    x[...] = 1.0
    gain = np.ones(shape, np.float32)
    given_x, given_gain = odd(data.draw, x), odd(data.draw, gain)
    accepted = attempt(lambda: _core.filter_spectrum(given_x, given_gain, threads=threads) or True)
    if accepted and np.shares_memory(given_x, x) and np.isfinite(np.asarray(given_gain)).all():
        np.testing.assert_allclose(x, 1.0, atol=1e-5)  # a constant is the frequency 0, whose gain is 1
    assert (room[:GUARD] == 0xA5).all() and (room[len(room) - GUARD :] == 0xA5).all()


@quick
@given(st.data(), small)
def test_normals_and_words_of_the_module(data: Any, count: int) -> None:
    words = np.arange(count, dtype=np.uint32) * 12345
    radius, angle = odd(data.draw, words), odd(data.draw, words)
    found = attempt(lambda: _core.normals_of_words(radius, angle))
    if found is not None:
        equal(found, _core.normals_of_words(plain(radius), plain(angle)))
        assert np.isfinite(found).all()
    attempt(
        lambda: _core.philox4x32(data.draw(st.integers(-5, 2**65)), data.draw(st.lists(small, max_size=5)))
    )


@quick
@given(st.data(), st.integers(0, 9), st.integers(0, 4), small, threads)
def test_score_sweep_of_the_module(data: Any, n: int, features: int, budgets: int, threads: int) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    x = np.arange(n * features, dtype=dtype).reshape(n, features) % 5 - 2
    arrays = [
        x, np.arange(n, dtype=np.uint8) % 2, np.ones((budgets, features)), np.zeros(features), np.ones(budgets),
        np.full(budgets, 0.25),
    ]  # fmt: skip
    arrays = [odd(data.draw, one) for one in arrays]
    group = data.draw(st.sampled_from([1, 3, 256, 2**62, 0, -1]))
    found = attempt(lambda: _core.score_sweep(*arrays, 0.5, group, threads))
    if found is not None:
        clean = [plain(one) for one in arrays]
        equal(found, _core.score_sweep(*clean, 0.5, group, 1))
        assert (found["correct"] >= 0).all() and (found["correct"] <= len(clean[0])).all()


@quick
@given(st.data(), small, st.integers(0, 4), small, threads)
def test_score_auc_of_the_module(data: Any, replicates: int, scales: int, count: int, threads: int) -> None:
    arrays = [np.full((replicates, scales), 0.9), np.ones((replicates, scales)), np.linspace(0.5, 0.8, count)]
    arrays = [odd(data.draw, one) for one in arrays]
    grid = data.draw(st.booleans())
    found = attempt(lambda: _core.score_auc(*arrays, grid, threads))
    if found is not None:
        equal(found, _core.score_auc(*(plain(one) for one in arrays), grid, 1))
        assert np.isfinite(found).all() or not all(np.isfinite(one).all() for one in arrays)


@quick
@given(st.data(), st.integers(0, 5), small, threads)
def test_robust_solve_of_the_module(data: Any, features: int, budgets: int, threads: int) -> None:
    m, covariance = np.ones(features), np.eye(features) + 0.5
    arrays = [odd(data.draw, one) for one in (m, covariance, np.linspace(0, 0.9, budgets))]
    odd_number = st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e300])
    dof, c0, cut = (data.draw(st.just(one) | odd_number) for one in (100.0, 0.01, 1e-12))
    known, weights = data.draw(st.booleans()), data.draw(st.booleans())
    found = attempt(lambda: _core.robust_solve(*arrays, known, dof, c0, cut, weights, threads))
    if found is not None:
        equal(found, _core.robust_solve(*(plain(one) for one in arrays), known, dof, c0, cut, weights, 1))
        assert np.isfinite(found["weights"]).all()


@pytest.mark.parametrize("entry", [math.nan, math.inf, 1e308])
def test_no_covariance_is_no_answer(entry: float) -> None:
    covariance = np.full((4, 4), entry) * (1 - np.eye(4)) if entry == 1e308 else np.full((4, 4), entry)
    with pytest.raises(ValueError, match="covariance: expected finite numbers near those of its diagonal"):
        _core.robust_solve(np.ones(4), covariance, np.array([0.0]), True, 10.0, 0.0, 0.0, True, 1)


def test_what_is_written_is_not_what_is_read() -> None:
    room = np.zeros(64, np.uint8)
    x, labels = room.view(np.float32).reshape(4, 4), room[:4]
    options = {
        "type": "float32",
        "start": 0,
        "seed": 0,
        "stream": 0,
        "channels": 1,
        "pixels": 4,
        "center": 0.0,
        "scale": 1.0,
    }
    with pytest.raises(ValueError, match="x: expected memory of its own, got that of labels"):
        _core.sample_mixture(x, labels, **options)
    with pytest.raises(ValueError, match="x: expected memory of its own, got that of pattern"):
        _core.sample_mixture(x, np.zeros(4, np.uint8), pattern=x[0], **options)
    same = np.ones((1, 1, 4), np.float32)
    with pytest.raises(ValueError, match="x: expected memory of its own, got that of gain"):
        _core.filter_spectrum(same, same[0, 0])


def test_unaligned_arrays_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"accuracy: expected C-contiguous float64 \[2, 3\], got unaligned float64"
    ):
        _core.score_auc(unaligned(np.ones((2, 3))), np.ones((2, 3)), np.zeros(1), False, 1)


def test_a_sample_of_nothing_makes_no_table_of_its_channels() -> None:
    x, y = sample_mixture((2**34, 1), 0, 0, scale=1.0, seed=0, stream=0)
    assert x.shape == (0, 2**34, 1) and y.shape == (0,)


def test_a_million_threads() -> None:
    """More than a thread library can make ends the process there."""
    one, many = (
        sample_mixture((4096,), 0, 64, scale=1.0, seed=0, stream=0, backend="cpp", threads=threads)[0]
        for threads in (1, 10**6)
    )
    assert torch.equal(one, many)


# ---------------------------------------------------------------- tensors into the operations

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


@st.composite
def tensors(draw: Any, axes: int, dtype: Any = None) -> torch.Tensor:
    """A tensor of mostly `axes` axes, of any layout and dtype."""
    count = draw(st.just(axes) | st.integers(0, 3))
    shape = draw(st.lists(st.sampled_from([3, 0, 1, 2, 4]), min_size=count, max_size=count))
    kind = draw(st.just(dtype or torch.float64) | st.sampled_from(DTYPES))
    made = (torch.arange(math.prod(shape)) % 7).reshape(shape).to(kind)
    layout = draw(
        st.sampled_from(["plain", "transposed", "expanded", "gaps", "offset", "grad", "nan", "huge"])
    )
    if layout == "transposed" and made.ndim > 1:
        made = made.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "expanded" and made.ndim and len(made):
        made = made[:1].expand(made.shape)
    elif layout == "gaps" and made.ndim:
        made = torch.stack([made, made], -1).flatten(-2)[..., ::2]
    elif layout == "offset" and made.ndim:
        made = torch.cat([made[:0], made])[0:]
    elif layout == "grad" and made.is_floating_point():
        made = made.requires_grad_(True)
    elif layout in ("nan", "huge") and made.is_floating_point() and made.numel():
        made = made.clone()
        made.view(-1)[0] = math.nan if layout == "nan" else torch.finfo(made.dtype).max
    return made


def answered(call: Callable[[], Any]) -> Any:
    """The result, or None where it was refused in one line."""
    try:
        return call()
    except SynbenchError as error:
        assert "\n" not in str(error) and ": expected" in str(error)
    return None


@quick
@given(tensors(2), tensors(2), tensors(1), st.sampled_from(["exact", "grid", "none"]))
def test_score_auc_of_any_tensors(accuracy: Any, bound: Any, thresholds: Any, integral: Any) -> None:
    def area(backend: str) -> Any:
        return answered(lambda: score_auc(accuracy, bound, thresholds, integral=integral, backend=backend))

    found, expected = area("cpp"), area("torch")
    assert (found is None) == (expected is None)
    if found is not None:
        torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12, equal_nan=True)


@quick
@given(tensors(2), tensors(1, torch.int64), tensors(2), tensors(1), st.sampled_from([1, 2, 300, 0]))
def test_score_sweep_of_any_tensors(x: Any, y: Any, weights: Any, center: Any, group: int) -> None:
    budgets = len(weights) if weights.ndim else 0
    ones = torch.ones(budgets, dtype=torch.float64)

    def totals(backend: str) -> Any:
        return answered(
            lambda: score_sweep(
                x, y, weights, center, signal=ones, robust_margin=ones, group=group, backend=backend
            )
        )

    found, expected = totals("cpp"), totals("torch")
    assert (found is None) == (expected is None)
    if found is not None and all(bool(torch.isfinite(one).all()) for one in (x, weights, center)):
        assert torch.equal(found.correct, expected.correct)
        torch.testing.assert_close(found.bound_sum, expected.bound_sum.detach(), rtol=1e-9, atol=1e-9)


@quick
@given(
    tensors(1),
    tensors(2),
    st.sampled_from([(0.0,), (0.0, 0.5), (0.999999,), (1.0,), (-0.1,), (math.nan,), ()]),
)
def test_robust_solve_of_any_tensors(m: Any, covariance: Any, eps: Any) -> None:
    def solution(backend: str) -> Any:
        return answered(
            lambda: robust_solve(
                m,
                covariance,
                torch.tensor(eps, dtype=torch.float64),
                moments="known",
                dof=10,
                backend=backend,
            )
        )

    found, expected = solution("cpp"), solution("torch")
    if found is not None and expected is not None and found.rank == expected.rank:
        assert bool(torch.isfinite(found.t).all())


@quick
@given(tensors(2), tensors(1, torch.int64))
def test_feature_stats_of_any_tensors(x: Any, y: Any) -> None:
    found, expected = (
        answered(lambda backend=backend: feature_stats(x, y, backend=backend))
        for backend in ("blas", "torch")
    )
    assert (found is None) == (expected is None)
    if found is not None and bool((x.detach().abs() < 100).all()):
        torch.testing.assert_close(found.mean, expected.mean)
        torch.testing.assert_close(found.scatter, expected.scatter)


@quick
@given(st.data(), tensors(2), tensors(1, torch.int64))
def test_features_of_any_library(data: Any, x: Any, y: Any) -> None:
    """NumPy, Torch, DLPack and what is none of them."""

    class Foreign:
        def __init__(self, held: torch.Tensor) -> None:
            self.held = held

        def __dlpack__(self, **options: Any) -> Any:
            return self.held.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.held.__dlpack_device__()

    def other(value: torch.Tensor) -> Any:
        kind = data.draw(
            st.sampled_from(["torch", "numpy", "dlpack", "list", "object", "swapped", "reversed"])
        )
        if kind == "dlpack":
            return Foreign(value)
        if kind == "torch" or value.dtype == torch.bfloat16 or value.requires_grad:
            return value
        a = value.numpy()
        return {
            "numpy": a, "list": a.tolist(), "object": a.astype(object), "swapped": swapped(a), "reversed": reversed_(a),
        }[kind]  # fmt: skip

    found = answered(lambda: evaluate_features(other(x), other(y), estimator="consistent", eps=(0.0,)))
    if found is not None:
        assert np.isfinite(found.t).all()
