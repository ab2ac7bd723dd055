"""Which arithmetic a run takes: names, candidates, switches, and the measured difference to float32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import Encoder, load_encoder
from synbench_fast.engine.arithmetic import (
    DTYPES,
    Arithmetic,
    candidates,
    compare,
    margin_ratio,
)
from synbench_fast.engine.probe import Probe
from synbench_fast.engine.run import Run, run_encoder
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.results.records import WITHHELD, Result
from synbench_fast.stats import gaussian

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SMALL: dict[str, Any] = {"input_shape": (3, 8, 8), "scales": (1.0, 2.0, 3.0), "samples": 1024}


class Offset(nn.Module):
    """ReLU features around a constant: the larger it is, the coarser are half-precision features."""

    def __init__(self, offset: float, features: int = 48) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(features, 192, generator=generator) / math.sqrt(192) + 0.03)
        self.register_buffer("offset", torch.tensor(offset))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight.T).relu() + self.offset


# Names and candidates


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("auto", "auto"), ("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16"), ("fp64", "float64"),
        ("tf32", "tf32"), ("float16", "float16"), (torch.bfloat16, "bfloat16"), (torch.float32, "float32"),
    ],
)  # fmt: skip
def test_one_name_for_each(given: Any, name: str) -> None:
    assert ScoreConfig(dtype=given).dtype == name


def test_reduced_is_what_is_coarser_than_float32() -> None:
    assert [name for name, one in DTYPES.items() if one.reduced] == ["tf32", "bfloat16", "float16"]


def names(found: list[Arithmetic]) -> list[str]:
    return [one.name for one in found]


def test_candidates() -> None:
    none, v100, h200 = (0, 0), (7, 0), (9, 0)
    assert names(candidates("auto", None, True, CPU, none)) == ["float32"]
    assert names(candidates("auto", None, True, GPU, h200)) == ["bfloat16", "tf32", "float32"]
    assert names(candidates("auto", None, True, GPU, (8, 0))) == ["bfloat16", "tf32", "float32"]
    assert names(candidates("auto", None, True, GPU, v100)) == ["float32"]
    assert names(candidates("auto", None, False, GPU, h200)) == ["float32"]  # no weights to convert
    assert names(candidates("auto", torch.bfloat16, True, GPU, h200)) == ["bfloat16"]  # a caller's own
    for name in ("float32", "bfloat16", "float16", "float64"):
        assert names(candidates(name, torch.float32, True, CPU, none)) == [name]
    assert names(candidates("tf32", None, True, GPU, h200)) == ["tf32"]


@pytest.mark.parametrize(("device", "found"), [(CPU, (0, 0)), (GPU, (7, 5))])
def test_tf32_where_there_is_none(device: torch.device, found: tuple[int, int]) -> None:
    got = "cpu" if device is CPU else "cuda (compute capability 7.5)"
    with refused("dtype: expected one that the device computes in; tf32 needs a CUDA GPU", f"got {got}"):
        candidates("tf32", None, True, device, found)
    if device is CPU:
        for encoder in ("builtin:identity", nn.Flatten()):
            with refused("dtype: expected one that the device computes in; tf32 needs", "got cpu"):
                sb.score(encoder, **SMALL, dtype="tf32", device="cpu")


# Switches


# The difference


def test_margin_ratio_and_its_influences() -> None:
    """By NumPy, and the influences as the change that leaving each sample out makes, to first order."""
    rng = np.random.default_rng(0)
    y = torch.arange(400) % 2
    u = torch.from_numpy(rng.standard_normal((400, 2))) + 1.3 * (2 * y[:, None] - 1)
    t, influence = margin_ratio(u, y)
    a, b = u[y == 1].numpy(), u[y == 0].numpy()
    pooled = np.sqrt((a.var(0) * 200 + b.var(0) * 200) / 398)
    np.testing.assert_allclose(t, (a.mean(0) - b.mean(0)) / 2 / pooled, rtol=1e-12)
    # 50 copies of everything: leaving one sample out moves t by a fiftieth of its influence, to first order.
    many, labels = u.repeat(50, 1), y.repeat(50)
    for i in (0, 1, 39, 200, 399):
        moved = (
            margin_ratio(many, labels)[0]
            - margin_ratio(many[torch.arange(len(many)) != i], labels[torch.arange(len(many)) != i])[0]
        )
        np.testing.assert_allclose(influence[i], 50 * moved, rtol=0.02, atol=5e-5)  # of about 2.5e-3
    assert margin_ratio(torch.ones(6, 1), torch.arange(6) % 2)[0].tolist() == [0.0]


def compared(noise: float, seed: int = 0, **changes: Any) -> Any:
    """A scale of two Gaussian features against itself with more noise: (check, t without, t with noise)."""
    generator = torch.Generator().manual_seed(seed)
    n = 4096
    y = torch.arange(n) % 2
    exact = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    exact[:, 0] += 1.5 * (2 * y - 1)
    rough = exact + noise * torch.randn(n, 6, generator=generator, dtype=torch.float64)
    point = sb.evaluate_features(rough, y, eps=(0.0, 0.3), estimator="consistent")
    options = {
        "eps": (0.0, 0.3), "scale": 1.5, "scales": 4, "prior": 0.5, "threshold": 0.6, "raw_terms": (0.4, 0.4),
    } | changes  # fmt: skip
    check = compare(
        DTYPES["bfloat16"], feature_stats(rough, y), point, rough[:1024], exact[:1024], y[:1024], **options
    )
    return check, point


def test_the_difference_is_what_noise_costs() -> None:
    """Noise of deviation r on features of deviation 1 lowers t from s to s / sqrt(1 + r^2)."""
    found, errors = [], []
    for seed in range(160):
        check, _ = compared(0.4, seed)
        found.append([one.t_difference for one in check.points])
        errors.append([one.t_difference_stderr for one in check.points])
    expected = 1.5 / math.sqrt(1.16) - 1.5
    mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
    assert np.all(np.abs(mean - expected) < 4 * spread / math.sqrt(160))
    np.testing.assert_allclose(np.mean(errors, axis=0), spread, rtol=0.2)
    assert not check.used and check.reason.startswith("t differs from float32 by more than stderr(t)")


def test_small_differences_are_accepted_in_proportion_to_the_scales() -> None:
    check, point = compared(0.0)
    assert check.used and check.reason == ""
    assert [one.t_difference for one in check.points] == [0.0, 0.0]
    noisy, point = compared(0.05)
    worst = max(max(abs(one.t_difference), one.t_difference_stderr) for one in noisy.points)
    allowed = (point.stderr[:2].min() / worst) ** 2
    assert compared(0.05, scales=max(1, int(allowed * 0.5)))[0].used
    assert not compared(0.05, scales=int(allowed * 4) + 2)[0].used


def test_a_difference_that_is_not_known_is_not_accepted() -> None:
    """Among many seeds some find a small difference by chance; its own error tells."""
    scales = 40
    checks = [compared(0.2, seed, scales=scales)[0] for seed in range(60)]
    assert not any(one.used for one in checks)
    small = [
        one
        for one in checks
        if all(abs(point.t_difference) * scales**0.5 <= point.t_stderr for point in one.points)
    ]
    assert small
    for one in small:
        assert one.reason.startswith("the difference of t to float32 is not known")


def test_score_difference_is_that_of_the_term() -> None:
    check, point = compared(0.4)
    for e, one in enumerate(check.points):
        t, zero = torch.tensor([point.t[e]]), torch.zeros(1)
        h = [
            float(gaussian.bound(x, zero, 0.5) * (gaussian.accuracy(x, zero, 0.5) - 0.6))
            for x in (t, t - one.t_difference)
        ]
        assert one.score_difference == pytest.approx((h[0] - h[1]) / 0.4)
    assert all(math.isnan(one.score_difference) for one in compared(0.4, raw_terms=(0.0, 0.0))[0].points)


def test_samples_of_one_class_tell_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 4, generator=generator), torch.arange(64) % 2
    point = sb.evaluate_features(x, y, eps=0.0, estimator="consistent")
    ones = y == 1
    check = compare(
        DTYPES["float16"], feature_stats(x, y), point, x[ones], x[ones], y[ones],
        eps=(0.0,), scale=1.0, scales=1, prior=0.5, threshold=0.6, raw_terms=(1.0,),
    )  # fmt: skip
    assert not check.used and check.reason == "t of float32 is unknown: 32 samples do not hold both classes"


# Runs


def run_in(model: nn.Module | str, *arithmetics: str, estimator: str = "consistent", **options: Any) -> Run:
    """`run_encoder` with these candidates, as on a GPU."""
    encoder = load_encoder(model, input_shape=SMALL["input_shape"])
    task = sb.GaussianTask(SMALL["input_shape"], SMALL["scales"])

    def make_probe(dtype: torch.dtype, channels_last: bool) -> Probe:
        return Probe(
            task, samples=SMALL["samples"], dtype=dtype, channels_last=channels_last, estimator=estimator
        )

    with encoder.scoring():
        return run_encoder(encoder, make_probe, [DTYPES[one] for one in arithmetics], **options)


@pytest.mark.parametrize("estimator", ["consistent", "paper"])
def test_the_first_arithmetic_that_is_accurate_enough_is_taken(estimator: str) -> None:
    plain = run_in(Offset(0.0), "bfloat16", "tf32", "float32", estimator=estimator)
    assert plain.arithmetic.name == "bfloat16"
    assert [(one.dtype, one.used, one.scale, one.samples) for one in plain.checks] == [
        ("bfloat16", True, 2.0, 256)
    ]
    assert plain.curve == run_in(Offset(0.0), "bfloat16", estimator=estimator).curve

    far = run_in(Offset(1000.0), "bfloat16", "float32", estimator=estimator)
    assert far.arithmetic.name == "float32"
    assert [(one.dtype, one.used) for one in far.checks] == [("bfloat16", False)]
    assert far.checks[0].reason and len(far.checks[0].points) == 2
    assert far.curve == run_in(Offset(1000.0), "float32", estimator=estimator).curve  # from exact weights
    assert far.seconds["check"] > 0 and far.warnings == []


def test_an_exact_arithmetic_differs_by_nothing() -> None:
    """TF32 is float32 on a CPU: same samples, same weights, same batches."""
    done = run_in(Offset(3.0), "tf32", "float32", size=256)
    assert done.arithmetic.name == "tf32"
    assert [one.t_difference for one in done.checks[0].points] == [0.0, 0.0]


def test_an_arithmetic_that_does_not_run_is_passed_over() -> None:
    class Strict(Offset):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise RuntimeError('"mystery_op" not implemented for this dtype\nsecond line')
            return super().forward(x)

    done = run_in(Strict(0.0), "bfloat16", "float32")
    assert done.arithmetic.name == "float32"
    assert done.checks[0].points == []
    reason = done.checks[0].reason
    assert reason.startswith("it does not run: encoder module:Strict: forward failed") and "\n" not in reason
    assert 'RuntimeError: "mystery_op" not implemented for this dtype' in reason
    with refused("mystery_op"):
        run_in(Strict(0.0), "bfloat16")


def test_overflow_in_float16_is_passed_over() -> None:
    done = run_in(Offset(70_000.0), "float16", "float32")
    assert done.arithmetic.name == "float32"
    assert "features: expected finite values, got inf" in done.checks[0].reason


def test_images_are_counted_without_falling_back() -> None:
    steps: list[int] = []
    run_in(
        Offset(1000.0),
        "bfloat16",
        "float32",
        size=256,
        progress=lambda done, total, phase: steps.append(done),
    )
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == 3 * 1024


def test_a_module_is_given_back_as_it_was() -> None:
    model = Offset(2.0)
    before = {name: (value, value.clone(), value.data_ptr()) for name, value in model.state_dict().items()}
    for arithmetics in (("bfloat16",), ("bfloat16", "tf32", "float32")):
        run_in(model, *arithmetics)
        for name, value in model.state_dict().items():
            _, copy, address = before[name]
            assert value.dtype == torch.float32 and value.data_ptr() == address and torch.equal(value, copy)


# Results


@pytest.mark.parametrize("name", ["bf16", "bfloat16", torch.bfloat16])
def test_a_dtype_that_was_asked_for_is_measured_and_kept(name: Any) -> None:
    result = sb.score("builtin:conv?dim=16", **SMALL, dtype=name)
    assert result.arithmetic.requested == result.arithmetic.dtype == result.cost.dtype == "bfloat16"
    check = result.arithmetic.checks[0]
    assert (check.used, check.scale, check.samples) == (True, 2.0, 256)
    assert [one.eps for one in check.points] == [0.0, 0.2]
    assert all(0 < abs(one.t_difference) < one.t_stderr for one in check.points)
    assert "bfloat16 against float32 at scale 2: t differs by " in result.summary()
    assert Result.from_json(result.to_json()) == result
    assert result.warnings == [] and "check" in result.cost.seconds


@pytest.mark.parametrize("own", [False, True])
def test_a_difference_above_one_standard_error_is_warned_of(own: bool) -> None:
    """Also for a Module that came in bfloat16."""
    model = Offset(600.0)
    if own:
        model.bfloat16()
    result = sb.score(model, **SMALL, dtype="auto" if own else "bfloat16")
    assert result.arithmetic.dtype == "bfloat16"
    assert len(result.warnings) >= 1
    assert result.warnings[0].startswith("bfloat16 against float32 at scale 2: t differs by ")
    assert result.warnings[0].endswith("more than one standard error")


def test_float32_and_finer_need_no_comparison() -> None:
    for dtype in ("auto", "float32", "float64"):
        result = sb.score("builtin:conv?dim=16", **SMALL, dtype=dtype)
        assert result.arithmetic.checks == [] and "check" not in result.cost.seconds
        assert (
            result.arithmetic.dtype == result.cost.dtype == ("float64" if dtype == "float64" else "float32")
        )


def test_a_callable_cannot_be_compared() -> None:
    result = sb.score(lambda x: x.flatten(1).float()[:, :20], **SMALL, dtype="float16")
    assert result.arithmetic.checks == []
    unknown, *others = result.warnings
    assert unknown == "float16: the difference to float32 is unknown, the arithmetic of a callable is its own"
    assert all(one.startswith(WITHHELD) for one in others)


def test_a_module_that_float32_breaks_is_scored_with_a_warning() -> None:
    class Half(Offset):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).bfloat16() @ self.weight.T

    result = sb.score(Half(0.0).bfloat16(), **SMALL)
    assert result.arithmetic.dtype == "bfloat16"
    assert result.warnings[0].startswith(
        "bfloat16 against float32 at scale 2: float32 does not run: RuntimeError"
    )


def test_weights_that_fit_in_half_precision_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dtype that was asked for runs; float32 is out of reach for the comparison as well."""
    real = Encoder.to

    def limited(encoder: Encoder, device: Any = None, dtype: torch.dtype | None = None) -> Encoder:
        if dtype == torch.float32 and device is not None and str(device) == "cpu" and full[0]:
            full[0] = False
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(encoder, device, dtype)

    @contextmanager
    def in_float32(encoder: Encoder) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        yield

    full = [True]
    monkeypatch.setattr(Encoder, "to", limited)
    monkeypatch.setattr(Encoder, "in_float32", in_float32)
    result = sb.score("builtin:conv?dim=16", **SMALL, dtype="bf16", device="cpu")
    assert full == [False] and result.arithmetic.dtype == "bfloat16"
    assert result.warnings == [
        "bfloat16 against float32 at scale 2: float32 does not run: OutOfMemoryError: CUDA out of memory. "
        "Tried to allocate 20.00 GiB"
    ]


def test_no_room_for_both_kinds_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def recast(encoder: Encoder, dtype: torch.dtype, *, channels_last: bool = False) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Encoder, "recast", recast)
    with refused("memory: expected room for the encoder in float32 and in float16, got OutOfMemoryError"):
        sb.score("builtin:conv?dim=16", **SMALL, dtype="fp16")


def test_margins_that_do_not_vary_have_no_influence() -> None:
    """One budget without any margin beside one that has them."""
    y = torch.arange(6) % 2
    u = torch.stack([torch.full((6,), 3.0), torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0, 4.0])], 1)
    t, influence = margin_ratio(u, y)
    assert float(t[0]) == 0.0 and influence[:, 0].tolist() == [0.0] * 6
    assert float(t[1]) > 0 and bool((influence[:, 1] != 0).all())


def test_without_a_signal_a_scale_adds_nothing_to_the_score() -> None:
    """Also where the commoner class alone exceeds the threshold, with a bound next to infinite."""
    from synbench_fast.engine.arithmetic import _term

    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    k = gaussian.threshold_shift(gaussian.log_prior_offset(0.3), t.square())
    none, some = _term(t, k, 0.3, 0.6).tolist()
    assert none == 0.0 and some > 0
