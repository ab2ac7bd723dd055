"""Linear probing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from synbench_fast.studies.inheritance.bench import Bench, Method
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.training import fit


@dataclass(frozen=True)
class LinearProbing(Method):
    """Cross-entropy on the head alone, from the head of the pre-training; the body stays in eval mode."""

    title: ClassVar[str] = "linear probing"

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        model = bench.original.clone()
        summary = fit(
            model,
            bench.part,
            bench.training,
            parameters=model.head.parameters(),
            seed=bench.seed,
            evaluating=[model.body],
        )
        return model, summary


METHOD = LinearProbing
