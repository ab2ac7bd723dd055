"""Features that are not a function of their sample: refused or named, by every way to a score; and buffers."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from pipeline_cases import with_graphs
from torch import Tensor, nn
from torch.nn import functional

import synbench_fast as sb
from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import load_encoder
from synbench_fast.engine.purity import check_drift, check_head, check_purity
from synbench_fast.fleet.executors import InProcess
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.integrations.monitor import Monitor
from synbench_fast.results.records import Result

SHAPE = (3, 8, 8)
OPTIONS: dict[str, Any] = {
    "input_shape": SHAPE,
    "scales": (1.0, 2.0, 4.0),
    "samples": 200,
    "eps": 0.0,
    "thresholds": 0.6,
    "device": "cpu",
}
WEIGHT = torch.randn(192, 8, generator=torch.Generator().manual_seed(0)) / 14
RANDOM = "expected the same features whenever the same batch comes, got one that moves by "
COMPANY = "features: expected each to depend on its own sample alone, got "

Encode = Callable[[Tensor], Tensor]


def flat(x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHT


def scored(encoder: Any, **options: Any) -> tuple[float, list[str]]:
    """The score and what its warnings say of the features."""
    result = sb.score(encoder, **{**OPTIONS, **options})
    return result.scores[0].score, [one for one in result.warnings if one.startswith("features:")]


def moved_by(line: str) -> float:
    return float(line.partition("moves by ")[2].partition(" times its deviation")[0])


# Noise and states


class Trained(nn.Module):
    """Puts a part of itself into train mode in every forward pass."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part.train()(flat(x))  # type: ignore[no-any-return]


class Average:
    """Features less a running mean of all that it has seen."""

    def __init__(self, momentum: float) -> None:
        self.momentum, self.mean = momentum, torch.zeros(8)

    def __call__(self, x: Tensor) -> Tensor:
        features = flat(x)
        self.mean = self.mean.lerp(features.mean(0), self.momentum)
        return features - self.mean


class Previous:
    """Features less those of the batch before."""

    last = torch.zeros(8)

    def __call__(self, x: Tensor) -> Tensor:
        features = flat(x)
        before, self.last = self.last, features[-1]
        return features - before


class Turns:
    """Flips every second batch."""

    calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return flat(x.flip(-1) if self.calls % 2 else x)


OWN = torch.Generator().manual_seed(1)

IMPURE: dict[str, Callable[[], Any]] = {
    "dropout": lambda: lambda x: functional.dropout(flat(x), 0.5),
    "dropout of a module": lambda: Trained(nn.Dropout(0.1)),
    "torch's noise": lambda: lambda x: flat(x) + 0.001 * torch.randn(len(x), 8),
    "little noise": lambda: lambda x: flat(x) + 0.0003 * torch.randn(len(x), 8),
    "NumPy's noise": lambda: lambda x: flat(x) + torch.from_numpy(np.random.rand(len(x), 1)).float(),
    "Python's noise": lambda: lambda x: flat(x) * random.random(),
    "a generator of its own": lambda: lambda x: flat(x) + torch.rand(len(x), 8, generator=OWN),
    "one feature of many": lambda: lambda x: torch.cat([flat(x), torch.rand(len(x), 1)], 1),
    "beside a large feature": lambda: (
        lambda x: torch.cat([1e6 * flat(x)[:, :1], functional.dropout(flat(x))], 1)
    ),
    "a running mean": lambda: Average(0.1),
    "a slow running mean": lambda: Average(0.001),
    "the batch before": lambda: Previous(),
    "every second batch": lambda: Turns(),
}


@pytest.mark.parametrize("batch_size", [2, 32, "auto"])
@pytest.mark.parametrize("name", IMPURE)
def test_noise_and_states_are_refused(name: str, batch_size: Any) -> None:
    with refused("encoder ", RANDOM, " times its deviation from call to call; noise such as dropout"):
        scored(IMPURE[name](), batch_size=batch_size)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_noise_of_a_single_call_is_noise(call: int) -> None:
    """Whichever of the four calls it meets: it is not taken for a feature that depends on its batch."""
    calls, x = [], torch.randn(11, 192, generator=torch.Generator().manual_seed(0))

    def encode(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        return flat(batch) + (len(calls) == call) * torch.rand(len(batch), 8, generator=OWN)

    with refused("encoder one: ", RANDOM, " times its deviation from call to call"):
        check_purity(encode, lambda n: x[:n], 8, spec="one", dtype=torch.float32, tf32=False)
    assert calls == ([8, 8, 3, 8] if call in (1, 4) else [8, 8, 3, 8, 8, 3])


def test_an_encoder_of_its_samples_runs_four_small_batches() -> None:
    calls, x = [], torch.randn(11, 192, generator=torch.Generator().manual_seed(0))

    def encode(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        return flat(batch)

    assert not check_purity(encode, lambda n: x[:n], 8, spec="one", dtype=torch.float32, tf32=False)
    assert calls == [8, 8, 3, 8]


# States that move in the run


class Late:
    """`rule` takes the place of `first` after some calls, and knows how many there were since."""

    def __init__(self, rule: Callable[[Tensor, int], Tensor], after: int = 30, first: Encode = flat) -> None:
        self.rule, self.after, self.first, self.calls = rule, after, first, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.first(x) if self.calls <= self.after else self.rule(x, self.calls - self.after)


def shifted_samples(x: Tensor, calls: int) -> Tensor:
    """One of 16 samples, drawn anew in every call."""
    return flat(x) + (torch.rand(len(x), 1, generator=OWN) < 1 / 16)


DRIFTING: dict[str, Callable[[], Any]] = {
    "noise after 30 calls": lambda: Late(lambda x, _: flat(x) + 0.01 * torch.randn(len(x), 8)),
    "dropout after 30 calls": lambda: Late(lambda x, _: functional.dropout(flat(x))),
    "other weights after 30 calls": lambda: Late(lambda x, _: flat(x.flip(-1))),
    "a very slow running mean": lambda: Average(5e-6),
    "a weight that grows": lambda: Late(lambda x, calls: flat(x) * (1 + 1e-5 * calls), after=0),
}


@pytest.mark.parametrize("batch_size", [2, 5])
@pytest.mark.parametrize("name", DRIFTING)
def test_states_that_move_in_the_run_are_refused(name: str, batch_size: int) -> None:
    """The passes before the run see nothing, and the score would be another one with other batches."""
    encoder = DRIFTING[name]()
    with refused("encoder ", RANDOM, " from the beginning of the run to its end; noise such as dropout"):
        scored(encoder, batch_size=batch_size)


def test_rare_noise_is_found_where_it_meets_the_samples_of_the_check() -> None:
    """Of 24 000 samples 120 are run again, of which one of 16 has another feature: all 120 are spared in 0.04 %."""
    with refused("encoder ", RANDOM, "; noise such as dropout"):
        scored(Late(shifted_samples), batch_size=400, samples=8000)


def test_noise_of_every_second_call_at_the_end() -> None:
    """The whole batch comes between two small ones and has no noise, and the small ones differ."""
    calls, x = [], torch.randn(32, 192, generator=torch.Generator().manual_seed(0))

    def encode(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        return batch @ WEIGHT + (len(calls) % 2) * torch.rand(len(batch), 8, generator=OWN)

    with refused("encoder one: ", RANDOM, " from call to call at the end of the run"):
        check_drift(encode, lambda n: x[:n], x @ WEIGHT, 1000, spec="one", dtype=torch.float32, tf32=False)
    assert calls == [5, 32, 5]


class Gone(Exception):
    """What an encoder raises once a resource of its own is used up."""


def exhausted(x: Tensor) -> Tensor:
    raise Gone("no tokens left")


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (exhausted, "(Gone: no tokens left)"),
        (lambda x: flat(x)[:, :5], "(features [32, 5])"),
        (lambda x: flat(x)[:1], "(features [1, 8])"),
        (lambda x: flat(x).long(), "(features [32, 8])"),
    ],
)
def test_a_batch_that_was_taken_at_the_beginning_fails_at_the_end(rule: Encode, what: str) -> None:
    x = torch.randn(32, 192, generator=torch.Generator().manual_seed(0))
    with refused(
        "encoder one: ", "got a failure at the end of the run ", what, " a state is kept between calls"
    ):
        check_drift(rule, lambda n: x[:n], flat(x), 1000, spec="one", dtype=torch.float32, tf32=False)


def test_a_run_whose_encoder_gives_up_at_its_end() -> None:
    whole = Late(lambda x, _: flat(x), after=0)
    scored(whole, batch_size=50)
    with refused("encoder ", "got a failure at the end of the run (Gone: no tokens left)"):
        scored(Late(lambda x, _: exhausted(x), after=whole.calls - 1), batch_size=50)


def test_no_room_at_the_end_says_nothing() -> None:
    def encode(batch: Tensor) -> Tensor:
        raise MemoryError

    x = torch.randn(32, 192, generator=torch.Generator().manual_seed(0))
    check_drift(encode, lambda n: x[:n], flat(x), 1000, spec="one", dtype=torch.float32, tf32=False)


def test_values_that_are_not_finite_any_more() -> None:
    x = torch.randn(32, 192, generator=torch.Generator().manual_seed(0))
    with refused("encoder one: ", f"{RANDOM}inf times"):
        check_drift(
            lambda batch: batch @ WEIGHT / 0,
            lambda n: x[:n],
            x @ WEIGHT,
            1000,
            spec="one",
            dtype=torch.float32,
            tf32=False,
        )


@pytest.mark.parametrize("run", [0, 399, 6144, 10**6])
def test_the_check_at_the_end_costs_one_of_200_samples(run: int) -> None:
    """At least 2; no more than the first batch."""
    calls, x = [], torch.randn(512, 192, generator=torch.Generator().manual_seed(0))

    def encode(batch: Tensor) -> Tensor:
        calls.append(len(batch))
        return batch @ WEIGHT

    check_drift(encode, lambda n: x[:n], encode(x), run, spec="one", dtype=torch.float32, tf32=False)
    assert calls == [512, min(512, max(2, run // 200))]


# Batches


def whole_groups(group: int) -> Encode:
    """Leaves the samples after the last whole group out, which are zero."""

    def encode(x: Tensor) -> Tensor:
        features, whole = flat(x), len(x) // group * group
        return torch.cat([features[:whole], torch.zeros_like(features[whole:])])

    return encode


def in_groups(group: int) -> Encode:
    """Centres the features of every group of samples; the last one is filled with zeros."""

    def encode(x: Tensor) -> Tensor:
        features = functional.pad(flat(x), (0, 0, 0, -len(x) % group)).view(-1, group, 8)
        return (features - features.mean(1, keepdim=True)).flatten(0, 1)[: len(x)]

    return encode


def quantised(x: Tensor) -> Tensor:
    """As dynamic quantisation: the step follows from the largest value of the batch."""
    features = flat(x)
    step = features.abs().max() / 127
    return (features / step).round() * step


NORM = nn.BatchNorm1d(8, track_running_stats=False).eval()

DEPENDENT: dict[str, Encode] = {
    "mean and deviation": lambda x: (flat(x) - flat(x).mean(0)) / flat(x).std(0),
    "softmax over the batch": lambda x: flat(x).softmax(0),
    "batch normalisation without statistics": lambda x: NORM(flat(x)),
    "batch normalisation in train mode": nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(192, track_running_stats=False), nn.Linear(192, 8)
    ),
    "dynamic quantisation": quantised,
    "groups of 3": in_groups(3),
    "groups of 4": in_groups(4),
    "groups of 8": in_groups(8),
    "groups of 32": in_groups(32),
    "whole groups of 16 only": whole_groups(16),
    "large batches": lambda x: flat(x) - flat(x).mean(0) * (len(x) > 16),
    "size of the batch": lambda x: torch.cat([flat(x), torch.full((len(x), 1), float(len(x)))], 1),
    "place in the batch": lambda x: flat(x) + torch.arange(len(x))[:, None],
    "noise of one seed": lambda x: flat(x) + torch.rand(8, len(x), generator=OWN.manual_seed(2)).T,
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_depends_on_the_batch_is_named_with_its_size(name: str) -> None:
    _, (line,) = scored(DEPENDENT[name], batch_size=32)
    assert line.startswith(COMPANY)
    assert line.endswith(
        " times its deviation with the batch that the sample is in; the score depends on the batch size"
    )
    assert 0.005 < moved_by(line) < 4


def test_the_size_is_that_of_the_movement() -> None:
    """Alternating halves of the batch are shifted by 0.3 of the feature's deviation, which the shift raises a little."""
    x = torch.randn(11, 1, generator=torch.Generator().manual_seed(0)) * 100

    def encode(batch: Tensor) -> Tensor:
        return batch + 30 * (torch.arange(len(batch)) % 2)[:, None]

    (line,) = check_purity(encode, lambda count: x[:count], 8, spec="one", dtype=torch.float32, tf32=False)
    every = torch.cat([encode(x[:8]), encode(x[3:]), encode(x[:3]), encode(x[:8])])
    assert moved_by(line) == pytest.approx(30 / float(every.std(correction=0)), rel=0.05)


def test_a_batch_size_that_fails_is_named() -> None:
    """An encoder of pairs is run in batches of pairs."""
    score, (line,) = scored(lambda x: flat(x).view(-1, 2, 8).flatten(0, 1), batch_size=50)
    assert line.startswith(f"{COMPANY}a failure (RuntimeError: ") and " in a batch of 3; " in line
    assert score == scored(flat, batch_size=50)[0]


def test_a_single_sample_that_loses_its_axis() -> None:
    assert scored(lambda x: flat(x).squeeze(), batch_size=100) == scored(flat, batch_size=100)
    for batch_size in (1, 199):
        with refused("expected output [1, F] for a batch of 1, got [8]"):
            scored(lambda x: flat(x).squeeze(), batch_size=batch_size)


def test_small_batches_that_are_not_finite() -> None:
    _, (line,) = scored(lambda x: flat(x) / (len(x) > 9), batch_size=100)
    assert line.startswith(f"{COMPANY}other values than finite ones in a batch of 8 or fewer")


def test_no_room_for_the_check_of_two() -> None:
    def encode(x: Tensor) -> Tensor:
        if len(x) > 1 and bool(x.any()):  # beyond the first pass, of zeros
            raise MemoryError
        return flat(x)

    score, (line,) = scored(encode, batch_size=1)
    assert line == (
        "features: expected to see whether they depend on their batch, got no room for a batch of 2: MemoryError"
    )
    assert score == pytest.approx(scored(flat, batch_size=1)[0], abs=1e-5)


# What is right


def reordered(x: Tensor) -> Tensor:
    """float32 sums in an order of the batch's size: other last bits, and nothing else."""
    order = torch.randperm(192, generator=torch.Generator().manual_seed(len(x)))
    return x.flatten(1)[:, order] @ WEIGHT[order] + 30


PURE: dict[str, Callable[[], Any]] = {
    "plain": lambda: flat,
    "last bits": lambda: reordered,
    "constant features": lambda: lambda x: functional.pad(flat(x), (2, 2), value=3.0),
    "a large constant": lambda: lambda x: torch.cat([flat(x), torch.full((len(x), 1), 1e6)], 1),
    "bfloat16 inside and out": lambda: lambda x: (x.bfloat16().flatten(1) @ WEIGHT.bfloat16()),
    "float16": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8)).half(),
    "bfloat16": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8)).bfloat16(),
    "signs": lambda: lambda x: flat(x).sign(),
    "dropout in eval mode": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Dropout(), nn.BatchNorm1d(8)),
    "noise of one seed for all": lambda: (
        lambda x: flat(x) + torch.rand(8, generator=torch.Generator().manual_seed(3))
    ),
    "padded to 64": lambda: lambda x: flat(functional.pad(x, (0,) * 7 + (-len(x) % 64,)))[: len(x)],
}  # fmt: skip


@pytest.mark.parametrize("name", PURE)
def test_pure_encoders_have_no_warning_at_any_batch_size(name: str) -> None:
    encoder = PURE[name]()
    found = [scored(encoder, batch_size=size) for size in (1, 3, 32, 200)]
    assert all(lines == [] for _, lines in found)
    assert max(score for score, _ in found) - min(score for score, _ in found) < 2e-3


def test_zeros_but_for_rounding_are_no_dependence() -> None:
    """Features of 1e-7 beside others of 30, which another batch size gives other values."""

    def encode(x: Tensor) -> Tensor:
        return torch.cat([reordered(x), reordered(x) - 30 - flat(x)], 1)

    x = torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(encode(x)[:33, 8:], encode(x[:33])[:, 8:])
    assert scored(encode)[1] == []


@pytest.mark.parametrize("spec", ["builtin:identity", "builtin:linear?dim=32", "builtin:conv?dim=8"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_reference_encoders_are_pure(spec: str, dtype: str) -> None:
    assert scored(spec, dtype=dtype)[1] == []


# Buffers


class Keeps(nn.Module):
    """Halves the input that it was given the time before."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is not None:
            self.kept.mul_(0.5)
        self.kept = x
        return flat(x)


class Shares(Keeps):
    """The same through NumPy, which torch does not see."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is not None:
            self.kept.numpy()[...] *= 0.5
        self.kept = x
        return flat(x)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return flat(x.sub_(0.25).mul_(2))


class Returns(nn.Module):
    """Writes features into one buffer and returns that every time."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = torch.empty(4096, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x.flatten(1), WEIGHT, out=self.buffer[-len(x) :])


@pytest.mark.parametrize("kind", [Keeps, Shares, InPlace, Returns])
@pytest.mark.parametrize("way", ["plain", "ahead", "compiled", "graph"])
def test_inputs_that_are_kept_or_changed_score_as_others(
    kind: type[nn.Module],
    way: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole batches and smaller ones, in one buffer, two, compiled, and recorded."""
    clean: Encode = (lambda x: flat((x - 0.25) * 2)) if kind is InPlace else flat
    options: dict[str, Any] = {**OPTIONS, "batch_size": 64, "estimator": "paper"}
    expected = sb.score(clean, **options)
    if way in ("ahead", "graph"):
        request.getfixturevalue("overlapping")
    if way == "graph":
        with_graphs(monkeypatch)
    if way == "compiled":
        monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
        options["compile"] = True
    found = sb.score(kind(), **options)
    assert (found.scores, found.curve, found.warnings) == (expected.scores, expected.curve, expected.warnings)


@pytest.mark.parametrize("kind", [InPlace, Returns])
def test_the_comparison_with_float32_has_the_features_of_every_batch(kind: type[nn.Module]) -> None:
    """Of 256 samples, 200 here, in batches of 64."""
    plain: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    (expected,) = sb.score(plain, **OPTIONS, dtype="bfloat16", batch_size=64).arithmetic.checks

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.buffer = plain, None

        def forward(self, x: Tensor) -> Tensor:
            made = self.plain(x)
            if kind is InPlace:
                x.zero_()
                return made  # type: ignore[no-any-return]
            if self.buffer is None or self.buffer.dtype != made.dtype:
                self.buffer = torch.empty(4096, 8, dtype=made.dtype)
            return self.buffer[: len(x)].copy_(made)  # type: ignore[no-any-return]

    (check,) = sb.score(Wrapped(), **OPTIONS, dtype="bfloat16", batch_size=64).arithmetic.checks
    assert check.points == expected.points


def test_the_input_of_a_caller_stays_as_it_is() -> None:
    encoder = load_encoder(InPlace(), input_shape=SHAPE)
    x = torch.rand(4, *SHAPE)
    before = x.clone()
    with encoder.scoring():
        first = encoder(x)
    assert torch.equal(x, before) and torch.equal(first, flat((before - 0.25) * 2))


# Every way to a score


FACTORIES = """
import torch
from torch.nn import functional

torch.manual_seed(0)
WEIGHT = torch.randn(192, 8) / 14


def noisy():
    return lambda x: functional.dropout(x.flatten(1) @ WEIGHT)


def centred():
    return lambda x: x.flatten(1) @ WEIGHT - (x.flatten(1) @ WEIGHT).mean(0)


def drifting():
    calls = []

    def encode(x):
        calls.append(1)
        return x.flatten(1) @ WEIGHT * (1 + 1e-5 * len(calls))

    return encode
"""


@pytest.fixture
def factories(tmp_path: Path) -> Path:
    file = tmp_path / "factories.py"
    file.write_text(FACTORIES)
    return file


def test_run(factories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from synbench_fast.cli.main import main

    words = ["run", f"python:{factories}:noisy", f"python:{factories}:centred", "--input-shape", "3,8,8"]
    words += ["--scales", "1.0,2.0", "--samples", "100", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 1
    errors = capsys.readouterr().err.replace("\n", " ")
    assert RANDOM in errors and COMPANY in errors
    (path,) = (tmp_path / "out").glob("*.json")
    assert any(one.startswith(COMPANY) for one in Result.load(path).warnings)


def test_fleets_and_their_stores(factories: Path, tmp_path: Path) -> None:
    """A store that is complete gives the warning again; one that is not scores nothing of an impure encoder."""
    models = [f"python:{factories}:noisy", f"python:{factories}:centred", "builtin:identity"]
    options = {**OPTIONS, "scales": (1.0, 2.0), "samples": 100}
    del options["device"]
    for _ in range(2):
        jobs = run_fleet(models, tmp_path / "store", config=ScoreConfig(**options), executor=InProcess())
        assert [job.state for job in jobs] == ["failed", "done", "done"]
        assert RANDOM in str(jobs[0].reason)
        found = [Result.load(tmp_path / "store" / "results" / str(job.result)) for job in jobs[1:]]
        assert [sum(one.startswith(COMPANY) for one in result.warnings) for result in found] == [1, 0]


def test_a_state_that_moves_in_a_fleet(factories: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "batch_size": 1}
    del options["device"]
    models = [f"python:{factories}:drifting", "builtin:identity"]
    jobs = run_fleet(models, tmp_path / "store", config=ScoreConfig(**options), executor=InProcess())
    assert [job.state for job in jobs] == ["failed", "done"]
    assert RANDOM in str(jobs[0].reason) and "from the beginning of the run to its end" in str(jobs[0].reason)


def test_suites(tmp_path: Path) -> None:
    result = sb.score_suite(DEPENDENT["softmax over the batch"], tasks="priors", **OPTIONS)
    assert all(any(COMPANY in line for line in one.warnings) for one in result.results)
    with refused(RANDOM):
        sb.score_suite(IMPURE["dropout"](), tasks="priors", **OPTIONS)
    with refused(RANDOM, "to its end"):
        sb.score_suite(DRIFTING["a weight that grows"](), tasks="priors", **OPTIONS, batch_size=2)


def test_monitors_of_trainings(caplog: pytest.LogCaptureFixture) -> None:
    def measured(encoder: Encode) -> tuple[Any, list[str]]:
        caplog.clear()
        monitor = Monitor(lambda _: encoder, SHAPE, scales=(1.0, 2.0), samples=64)
        with caplog.at_level(logging.WARNING, "synbench_fast"):
            return monitor.measure(nn.Identity(), 3), list(caplog.messages)

    numbers, lines = measured(flat)
    assert numbers and lines == []
    numbers, (line,) = measured(DEPENDENT["mean and deviation"])
    assert numbers and line.startswith(f"synbench: {COMPANY}")
    numbers, (line,) = measured(IMPURE["dropout"]())
    assert numbers is None and line.startswith("synbench: no score at step 3: encoder ") and RANDOM in line
    numbers, (line,) = measured(Late(lambda x, _: flat(x.flip(-1)), after=6))
    assert numbers is None and RANDOM in line and "to its end" in line


def test_language_models(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed", exc_type=ImportError)
    from synbench_fast.integrations import lm_eval

    class Model(nn.Module):
        """Reads embeddings; `last` makes hidden states of them."""

        def __init__(self, last: Encode) -> None:
            super().__init__()
            self.embeddings, self.last, self.config = nn.Embedding(50, 6), last, nn.Identity()

        def get_input_embeddings(self) -> nn.Module:
            return self.embeddings

        def forward(self, inputs_embeds: Tensor, output_hidden_states: bool, **_: Any) -> Any:
            return SimpleNamespace(hidden_states=[self.last(inputs_embeds)])

    def lines(last: Encode) -> list[str]:
        caplog.clear()
        with torch.no_grad(), caplog.at_level(logging.WARNING, "synbench_fast"):
            lm_eval._probe(
                lm_eval.EmbeddingEncoder(Model(last)),
                lm_eval.Settings.of({"tokens": 2, "samples": 64, "scales": 2}),
            )
        return list(caplog.messages)

    assert lines(torch.tanh) == []
    (line,) = lines(lambda x: x - x.mean(0))
    assert line.startswith(f"synbench: {COMPANY}")
    with refused("encoder Model: ", RANDOM):
        lines(lambda x: functional.dropout(x))

    def answers(last: Encode) -> int:
        """To requests of two scales in a process of its own, as the harness makes them."""
        settings = lm_eval.Settings.of({"tokens": 2, "samples": 64, "scales": 2})
        requests = [SimpleNamespace(args=("", number, json.dumps(settings.to_dict()))) for number in range(2)]
        return len(lm_eval._answer(SimpleNamespace(model=Model(last)), requests))

    assert answers(torch.tanh) == 2
    # The passes before the last one tell the width, check the model, and are one batch of the run.
    with refused("encoder Model: ", RANDOM, "to its end"):
        answers(Late(lambda x, _: torch.tanh(x) ** 2, after=6, first=torch.tanh))


def test_probes_of_labelled_data() -> None:
    """The data are as before, too."""
    generator = torch.Generator().manual_seed(0)
    y = np.arange(80) % 2
    x = torch.rand(80, *SHAPE, generator=generator).numpy() * 0.8 + 0.2 * y[:, None, None, None].astype(
        "float32"
    )
    given = x.copy()
    options: dict[str, Any] = {"eps": (0.0,), "attack": False, "batch_size": 20}
    expected = sb.studies.robust_linear_probe(lambda x: flat((x - 0.25) * 2), (x, y), **options)
    changed = sb.studies.robust_linear_probe(InPlace(), (x, y), **options)
    reused = sb.studies.robust_linear_probe(Returns(), (x, y), **options)
    assert np.array_equal(x, given)
    assert changed.probes == expected.probes and changed.data == expected.data and expected.warnings == []
    assert reused.probes == sb.studies.robust_linear_probe(flat, (x, y), **options).probes
    (line,) = sb.studies.robust_linear_probe(DEPENDENT["groups of 3"], (x, y), **options).warnings
    assert line.startswith(COMPANY)
    with refused(RANDOM):
        sb.studies.robust_linear_probe(IMPURE["dropout"](), (x, y), **options)
    with refused(RANDOM, "to its end"):
        sb.studies.robust_linear_probe(Late(lambda x, _: flat(x.flip(-1)), after=6), (x, y), **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [2, 10, 1000, 21_000])
def test_a_head_of_probabilities_is_named(dtype: torch.dtype, width: int) -> None:
    logits = 3 * torch.randn(64, width, generator=torch.Generator().manual_seed(width))
    probabilities = logits.softmax(1).to(dtype)
    (line,) = check_head(probabilities)
    assert "add up to 1, as a classifier's probabilities do; choose a tensor before the head" in line
    assert check_head(logits.to(dtype)) == [] and check_head(logits.relu().to(dtype)) == []
    one_row = probabilities.clone()
    one_row[5] *= 0.5
    assert check_head(one_row) == []
    assert check_head(probabilities - 1e-3) == []
    assert check_head(probabilities[:, :1]) == [] and check_head(logits.argmax(1)) == []


def test_a_run_says_that_its_features_are_probabilities() -> None:
    weight = torch.randn(192, 6, generator=torch.Generator().manual_seed(0))

    def found(head: bool) -> list[str]:
        def encode(x: Tensor) -> Tensor:
            z = x.flatten(1) @ weight
            return z.softmax(1) if head else z

        result = sb.score(encode, input_shape=(3, 8, 8), samples=64, scales=(1.0, 2.0))
        return [one for one in result.warnings if "classifier's probabilities" in one]

    assert len(found(True)) == 1 and found(False) == []
