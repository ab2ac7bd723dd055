"""Elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.global_state import tf32_allowed
from synbench_fast.studies.inheritance.bench import Bench, Method, check_range
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.data import DataSuite, Part
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.training import Penalty


@dataclass(frozen=True)
class ElasticWeights(Method):
    """Cross-entropy + weight / 2 * sum_k F_k (theta_k - theta0_k)^2, F the diagonal of the Fisher information.

    F is that of the original classifier on `samples` images of the pre-training data's training part.
    """

    title: ClassVar[str] = "elastic weight consolidation"
    weight: float = 400.0
    samples: int = 512

    def __post_init__(self) -> None:
        check_range("ewc", {"weight": self.weight}, 0)
        check_range("ewc", {"samples": self.samples}, 1)

    def check(self, original: Classifier, suite: DataSuite) -> None:
        _images(suite.pretraining_train)

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        part = _images(bench.pretraining_train)
        anchor = [one.detach() for one in bench.original.parameters()]
        information = fisher(bench.original, part, self.samples, bench.seed)

        def penalty(model: Classifier) -> Penalty:
            def value(x: Tensor, logits: Tensor) -> Tensor:
                held = zip(model.parameters(), anchor, information, strict=True)
                return self.weight / 2 * torch.stack([(f * (a - b).square()).sum() for a, b, f in held]).sum()

            return value

        return bench.fit(bench.original, penalty)


def _images(part: Part | None) -> Part:
    if part is None:
        raise SynbenchError(
            "methods: expected images of the pre-training data's training part for ewc, whose Fisher "
            "information is theirs, got none; pretraining_train= gives them, and l2sp needs none"
        )
    return part


def fisher(original: Classifier, part: Part, samples: int, seed: int) -> list[Tensor]:
    """F_k = E_x E_{c ~ p(c|x)} (d log p(c|x) / d theta_k)^2, one tensor per parameter.

    The labels are drawn from the classifier's own predictions: those of the data would give the empirical Fisher
    matrix, which is another quantity. Images are drawn without replacement.
    """
    model = original.clone()
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(part), generator=generator)[:samples]
    sums = [torch.zeros_like(one) for one in parameters]
    with tf32_allowed(model.device, False):
        for row in rows:
            logs = part.restrict(model(part.load(row[None]).to(model.device))).log_softmax(1)[0]
            label = int(torch.multinomial(logs.detach().cpu().exp(), 1, generator=generator))
            gradients = torch.autograd.grad(logs[label], parameters, allow_unused=True)
            for total, one in zip(sums, gradients, strict=True):
                if one is not None:
                    total += one.square()
    return [total / len(rows) for total in sums]


METHOD = ElasticWeights
