"""Uniform soups (Wortsman et al., arXiv 2203.05482)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from synbench_fast.errors import SynbenchError
from synbench_fast.studies.inheritance.bench import Bench, Method, check_range, find
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.data import DataSuite
from synbench_fast.studies.inheritance.model import Classifier, weighted_mean

_ORIGINAL = "pre"


@dataclass(frozen=True)
class Soup(Method):
    """The mean of the weights of several classifiers.

    of: methods, joined by "+", each with its defaults; "pre" is the original, so that "pre+ft" with one run is WiSE-FT
        at 0.5.
    runs: of every method, each with another seed of its own.
    """

    title: ClassVar[str] = "uniform soup"
    of: str = "ft"
    runs: int = 3

    def __post_init__(self) -> None:
        check_range("soup", {"runs": self.runs}, 1)
        for name in self.of.split("+"):
            if name != _ORIGINAL and (name == "soup" or not find(name).averages):
                raise SynbenchError(
                    f"methods: expected pre and methods that keep the weights' shapes in a soup, got {name!r}"
                )

    def check(self, original: Classifier, suite: DataSuite) -> None:
        for name in self.of.split("+"):
            if name != _ORIGINAL:
                find(name).check(original, suite)

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        members, steps, seconds, losses = [], 0, 0.0, []
        for name in self.of.split("+"):
            if name == _ORIGINAL:
                members.append(bench.original)
                continue
            for number in range(self.runs):
                model, one = bench.rerun(number).tune(name)
                members.append(model)
                steps, seconds = steps + one.steps, seconds + one.seconds
                losses.append(one.loss)
        made = weighted_mean(members, [1 / len(members)] * len(members))
        loss = sum(losses) / len(losses) if losses else float("nan")
        return made, TrainingSummary(steps=steps, loss=loss, seconds=seconds)


METHOD = Soup
