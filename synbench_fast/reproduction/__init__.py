"""Published tables, measured again: the same models and protocol, what was published, and what comes out here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synbench_fast.lazy import attach

if TYPE_CHECKING:
    from synbench_fast.reproduction.report import Comparison, Reproduction
    from synbench_fast.reproduction.run import reproduce
    from synbench_fast.reproduction.tables import TABLES, PublishedTable

__all__ = ["TABLES", "Comparison", "PublishedTable", "Reproduction", "reproduce"]

_HOMES = {
    "TABLES": "tables",
    "Comparison": "report",
    "PublishedTable": "tables",
    "Reproduction": "report",
    "reproduce": "run",
}

_load, __dir__ = attach(__name__, _HOMES)

if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__ = _load
