"""Cases of what surrounds a score: suites of tasks, standard errors, comparisons of stored results."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from harness import Case
from material import IMAGENET_MEAN, IMAGENET_STD, SmallEncoder
from torch import Tensor, nn

from synbench_fast.engine.score import score
from synbench_fast.engine.suite import score_suite
from synbench_fast.ops import robust_solve_solution
from synbench_fast.report.comparison import Comparison, compare
from synbench_fast.results.records import Result
from synbench_fast.stats import estimators

LIMIT = 1.0  # seconds


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


class WideEncoder(nn.Sequential):
    """SmallEncoder with three times the channels in its first layers: several milliseconds per 160x160 image; F = 160."""

    def __init__(self, widths: tuple[int, ...] = (3, 48, 120, 160, 160)) -> None:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def suite(make: Callable[[], nn.Module], scales: int, samples: int, side: int = 160) -> Case:
    """The eight tasks of `full` against the published task alone, everything but imports counted."""
    encoder = seeded(make)
    options: dict[str, Any] = {
        "input_shape": (3, side, side), "scales": scales, "samples": samples, "batch_size": 64,
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
    }  # fmt: skip

    def parity() -> tuple[float, float]:
        few = {**options, "scales": 1}
        one, eight = score(encoder, **few), score_suite(encoder, tasks="full", **few)
        same = eight.result("published")
        return max(abs(a.t - b.t) for a, b in zip(one.curve, same.curve, strict=True)), 1e-9

    return Case(
        unit="image",
        work=8 * scales * samples,
        parity=parity,
        ours=lambda: score_suite(encoder, tasks="full", **options),
        baseline=lambda: score(encoder, **options),
        baseline_name="the published task alone",
        target=8.0,
        kind="at_most",
        repeat=3,
        note=f"8 tasks of {scales} scales x {samples} images of 3x{side}x{side}, batches of 64, {make.__name__}",
    )


@contextlib.contextmanager
def no_errors() -> Iterator[None]:
    """A run without what its errors need: covariances of t, influences of the samples, points of their halves."""

    def no_covariances(moments: Any, kappa: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        zeros = torch.zeros(len(kappa), len(kappa), dtype=torch.float64)
        return zeros, zeros, zeros

    with (
        mock.patch.object(robust_solve_solution, "sampling_covariances", no_covariances),
        mock.patch.object(estimators, "_looked_at", lambda *rest: {}),
        mock.patch.object(estimators.Consistent, "_drift", lambda *rest: None),
    ):
        yield


def errors(
    make: Callable[[], nn.Module], shape: tuple[int, ...], scales: int, samples: int, features: int
) -> Case:
    """A whole run against the same run with its error computations replaced by zeros."""
    encoder = seeded(make)
    options: dict[str, Any] = {
        "input_shape": shape, "scales": scales, "samples": samples, "batch_size": 64,
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
    }  # fmt: skip

    def run() -> Result:
        return score(encoder, **options)

    def seconds(result: Result) -> float:
        return result.cost.seconds["total"] - result.cost.seconds["load"]

    def baseline() -> float:
        with no_errors():
            return seconds(run())

    def parity() -> tuple[float, float]:
        full = run()
        with no_errors():
            bare = run()
        if bare.influence is not None:
            return float("inf"), 1e-12
        return max(abs(a.score - b.score) for a, b in zip(full.scores, bare.scores, strict=True)), 1e-12

    return Case(
        unit="image",
        work=scales * samples,
        parity=parity,
        ours=lambda: seconds(run()),
        baseline=baseline,
        baseline_name="the same run without its errors",
        target=1.1,
        kind="at_most",
        repeat=5,
        note=f"{scales} scales x {samples} images of {'x'.join(map(str, shape))}, F = {features}, loading left "
        "out; errors: covariances of t, influences of the samples, points of their halves",
    )


def projection() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 768, bias=False))


def stored(count: int, scales: int = 25, samples: int = 1024) -> Case:
    """Decoding and comparing stored results, every pair, against a limit."""
    mix = torch.randn(32, 16, generator=torch.Generator().manual_seed(0)) / 4

    def encoder(shift: float) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.relu(x @ mix + shift)

    results = [
        score(encoder(0.2 * number), input_shape=(32,), scales=scales, samples=samples)
        for number in range(count)
    ]
    documents = [one.to_json() for one in results]

    def ours() -> Comparison:
        return compare(*(Result.from_json(text) for text in documents))

    def parity() -> tuple[float, float]:
        expected = [
            a.score(eps).score - b.score(eps).score
            for eps in results[0].eps
            for a, b in itertools.combinations(results, 2)
        ]
        found = [one.difference for one in ours().differences]
        return max(abs(a - b) for a, b in zip(found, expected, strict=True)), 1e-12

    return Case(
        unit="result",
        work=count,
        parity=parity,
        ours=ours,
        baseline=lambda: LIMIT,
        baseline_name=f"limit of {LIMIT:g} s",
        target=1.0,
        kind="at_most",
        repeat=7,
        note=f"{count} documents of {scales} scales x {samples} samples, 2 budgets; decoding the JSON included",
    )


def cases() -> dict[str, Callable[[], Case]]:
    """By name, built lazily."""
    return {
        "suite_full[160x160]": lambda: suite(SmallEncoder, 2, 512),
        "suite_full[160x160, wide]": lambda: suite(WideEncoder, 1, 512),
        "errors_whole_run[160x160]": lambda: errors(SmallEncoder, (3, 160, 160), 4, 1024, 160),
        "errors_whole_run[32x32, F=768]": lambda: errors(projection, (3, 32, 32), 4, 2048, 768),
        "compare_stored[2]": lambda: stored(2),
        "compare_stored[20]": lambda: stored(20),
    }
