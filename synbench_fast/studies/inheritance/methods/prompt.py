"""Visual prompting (Bahng et al., arXiv 2203.17274): a trained border on the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from synbench_fast.studies.inheritance.bench import Bench, Method, check_range
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.training import fit


class Prompted(nn.Module):
    """An encoder that adds a trained border to its normalised input."""

    def __init__(self, encoder: nn.Module, border: Tensor, frame: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.border = nn.Parameter(border)
        self.frame: Tensor
        self.register_buffer("frame", frame)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.encoder(x + self.border * self.frame)
        return features


@dataclass(frozen=True)
class VisualPrompt(Method):
    """x + border, where the border is `share` of the image's width on every side, and the network is held.

    The border starts from N(0, 1) in units of the normalised input; the network stays in eval mode.
    """

    title: ClassVar[str] = "visual prompt"
    averages: ClassVar[bool] = False
    share: float = 30 / 224

    def __post_init__(self) -> None:
        check_range("prompt", {"share": self.share}, 0, 0.5)

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        model = bench.original.clone()
        channels, height, width = model.input_shape
        frame = torch.ones(1, height, width)
        y, x = (max(1, round(self.share * size)) for size in (height, width))
        frame[:, y : height - y, x : width - x] = 0
        border = torch.randn(channels, height, width, generator=torch.Generator().manual_seed(bench.seed))
        prompted = Prompted(model.body, border, frame).to(model.device)
        model.body = prompted
        summary = fit(
            model,
            bench.part,
            bench.training,
            parameters=[prompted.border],
            seed=bench.seed,
            evaluating=[model],
        )
        return model, summary


METHOD = VisualPrompt
