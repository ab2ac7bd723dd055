"""Published tables, measured again: the same models and protocol, what was published, and what comes out here."""

from __future__ import annotations

from synbench_fast.reproduction.report import Comparison, Reproduction
from synbench_fast.reproduction.run import reproduce
from synbench_fast.reproduction.tables import TABLES, PublishedTable

__all__ = ["TABLES", "Comparison", "PublishedTable", "Reproduction", "reproduce"]
