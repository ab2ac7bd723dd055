"""A pipeline that works in the order of a GPU, and made-up CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from synbench_fast.encoders import Encoder
from synbench_fast.engine import forward, pipeline


class Graph:
    """A recorded forward pass: on replay it reads its input buffer and writes its features in place."""

    def __init__(self, encoder: Encoder, x: Tensor, error: float = 0.0) -> None:
        self.encoder, self.x, self.error, self.replays = encoder, x, error, 0
        self.features = encoder(x).clone()

    def replay(self) -> None:
        self.replays += 1
        self.features.copy_(self.encoder(self.x) + self.error)


def with_graphs(monkeypatch: pytest.MonkeyPatch, error: float = 0.0) -> list[Graph]:
    made: list[Graph] = []

    def capture(encoder: Encoder, buffers: Any) -> Any:
        made.extend(Graph(encoder, x, error) for x in buffers)
        return [(one, one.features) for one in made]

    monkeypatch.setattr(forward, "_capture", capture)
    monkeypatch.setattr(pipeline, "graph_repays", lambda *_: True)
    return made
