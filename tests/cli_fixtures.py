"""Fixtures of the tests of the command line."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import pytest
from result_example import example

from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError
from synbench_fast.results.records import Result


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ScoreConfig]]:
    """Replaces score() by one that records its configuration; `bad:*` cannot be scored, `bug:*` is a bug."""
    seen: list[tuple[str, ScoreConfig]] = []

    def score(spec: str, *, config: ScoreConfig, progress: Callable[[int, int, str], None]) -> Result:
        seen.append((spec, config))
        print("a library talks")
        progress(0, 100, "encode")
        progress(100, 100, "solve")
        if spec.startswith("bad:"):
            raise SynbenchError("encoder: expected a known source, got 'bad'")
        if spec.startswith("bug:"):
            raise RuntimeError("shapes (3,)\n and (4,) differ")
        return example(spec, eps=list(config.eps), warnings=[])

    module = types.ModuleType("synbench_fast.engine.score")
    vars(module)["score"] = score
    monkeypatch.setitem(sys.modules, "synbench_fast.engine.score", module)
    monkeypatch.setattr("synbench_fast.encoders.early.mistakes", lambda named: [])  # these specs are made up
    return seen
