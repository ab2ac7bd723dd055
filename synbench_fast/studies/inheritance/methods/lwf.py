"""Learning without forgetting (Li and Hoiem, arXiv 1606.09282)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from synbench_fast.studies.inheritance.bench import Bench, Method, check_range
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.training import Penalty


@dataclass(frozen=True)
class WithoutForgetting(Method):
    """Cross-entropy + weight * KL(softmax(old / T) || softmax(new / T)), mean over the batch, without a factor T^2.

    Old and new are the logits of the original and of the trained classifier on the same images, both over the classes
    of the data set.
    """

    title: ClassVar[str] = "learning without forgetting"
    weight: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_range("lwf", {"weight": self.weight}, 0)
        check_range("lwf", {"temperature": self.temperature}, 1e-3)

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        old = bench.original.clone().requires_grad_(False)

        def penalty(model: Classifier) -> Penalty:
            def value(x: Tensor, logits: Tensor) -> Tensor:
                with torch.no_grad():
                    before = bench.part.restrict(old(x).float())  # as the logits of the trained one
                return self.weight * functional.kl_div(
                    (logits / self.temperature).log_softmax(1),
                    (before / self.temperature).log_softmax(1),
                    reduction="batchmean",
                    log_target=True,
                )

            return value

        return bench.fit(bench.original, penalty)


METHOD = WithoutForgetting
