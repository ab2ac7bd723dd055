"""Vanilla fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from synbench_fast.studies.inheritance.bench import Bench, Method
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.model import Classifier


@dataclass(frozen=True)
class FineTuning(Method):
    """Cross-entropy on all weights."""

    title: ClassVar[str] = "fine-tuning"

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        return bench.fit(bench.original)


METHOD = FineTuning
