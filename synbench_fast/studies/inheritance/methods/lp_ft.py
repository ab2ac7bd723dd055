"""Linear probing, then fine-tuning (Kumar et al., arXiv 2202.10054)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from synbench_fast.studies.inheritance.bench import Bench, Method
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.model import Classifier


@dataclass(frozen=True)
class LinearProbingFineTuning(Method):
    """Linear probing, then fine-tuning of all weights with the same settings."""

    title: ClassVar[str] = "linear probing, then fine-tuning"

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        start, first = bench.tune("lp")
        model, second = bench.fit(start)
        return model, replace(
            second, steps=first.steps + second.steps, seconds=first.seconds + second.seconds
        )


METHOD = LinearProbingFineTuning
