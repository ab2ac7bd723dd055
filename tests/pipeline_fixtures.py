"""Fixtures of the tests of the engine."""

from __future__ import annotations

import pytest

from synbench_fast.engine import pipeline
from synbench_fast.engine.probe import Probe


@pytest.fixture
def overlapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in the order of a GPU: batches drawn ahead, scales evaluated later."""
    monkeypatch.setattr(pipeline, "_overlaps", lambda device: True)
    monkeypatch.setattr(Probe, "_evaluated_later", staticmethod(lambda device: True))
