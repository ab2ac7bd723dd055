"""Averaging weights with the original's (WiSE-FT, Wortsman et al., arXiv 2109.01903)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from synbench_fast.studies.inheritance.bench import Bench, Method, check_range
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.model import Classifier, weighted_mean


@dataclass(frozen=True)
class WeightAverage(Method):
    """(1 - alpha) * original + alpha * fine-tuned: the original at 0, vanilla fine-tuning at 1."""

    title: ClassVar[str] = "average of original and fine-tuned weights"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        check_range("wise", {"alpha": self.alpha}, 0, 1)

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        tuned, summary = bench.tune("ft")
        return weighted_mean([bench.original, tuned], [1 - self.alpha, self.alpha]), summary


METHOD = WeightAverage
