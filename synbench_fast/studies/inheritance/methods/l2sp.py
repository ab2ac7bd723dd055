"""Fine-tuning with an L2 anchor at the original weights (Li et al., L2-SP, arXiv 1802.01483)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from synbench_fast.studies.inheritance.bench import Bench, Method, check_range
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.training import Penalty


@dataclass(frozen=True)
class Anchor(Method):
    """Cross-entropy + weight * sum_k (theta_k - theta0_k)^2, which the published code has under the name of EWC."""

    title: ClassVar[str] = "L2 anchor (published as EWC)"
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_range("l2sp", {"weight": self.weight}, 0)

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        anchor = [one.detach() for one in bench.original.parameters()]

        def penalty(model: Classifier) -> Penalty:
            def value(x: Tensor, logits: Tensor) -> Tensor:
                terms = [(a - b).square().sum() for a, b in zip(model.parameters(), anchor, strict=True)]
                return self.weight * torch.stack(terms).sum()

            return value

        return bench.fit(bench.original, penalty)


METHOD = Anchor
