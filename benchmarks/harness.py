"""Pairs of timings behind a parity gate."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Run = Callable[[], Any]


@dataclass
class Case:
    """One comparison: `ours` against `baseline` in the same process, alternating.

    `parity` returns (error, tolerance) and is checked first: nothing is timed for a wrong result. `target` is
    compared with the ratio of medians baseline/ours (`at_least`), or ours/baseline (`at_most`).
    """

    unit: str  # what `work` counts
    work: float
    parity: Callable[[], tuple[float, float]]
    ours: Run
    baseline: Run
    baseline_name: str
    target: float | None = None
    kind: str = "at_least"
    repeat: int = 7
    note: str = ""
    name: str = ""


@dataclass
class Row:
    case: str
    ratio: float | None
    target: float | None
    kind: str
    met: bool | None
    ours_seconds: float | None
    baseline_seconds: float | None
    baseline: str
    ours_per_unit_ns: float | None
    unit: str
    parity_error: float
    parity_tolerance: float
    pairs: list[tuple[float, float]] = field(default_factory=list)
    note: str = ""

    def document(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def measure(case: Case, repeat: int | None = None) -> Row:
    """Parity, one warm-up of each arm, then `repeat` alternating pairs; medians, and the median of ratios."""
    error, tolerance = case.parity()
    row = Row(
        case=case.name,
        ratio=None,
        target=case.target,
        kind=case.kind,
        met=None,
        ours_seconds=None,
        baseline_seconds=None,
        baseline=case.baseline_name,
        ours_per_unit_ns=None,
        unit=case.unit,
        parity_error=error,
        parity_tolerance=tolerance,
        note=case.note,
    )
    if not error <= tolerance:
        row.met = False
        return row
    case.ours()
    case.baseline()
    for _ in range(repeat or case.repeat):
        row.pairs.append((_seconds(case.ours), _seconds(case.baseline)))
    row.ours_seconds = statistics.median(ours for ours, _ in row.pairs)
    row.baseline_seconds = statistics.median(baseline for _, baseline in row.pairs)
    row.ours_per_unit_ns = 1e9 * row.ours_seconds / case.work
    if case.kind == "at_least":
        row.ratio = statistics.median(baseline / ours for ours, baseline in row.pairs)
        row.met = None if case.target is None else row.ratio >= case.target
    else:
        row.ratio = statistics.median(ours / baseline for ours, baseline in row.pairs)
        row.met = None if case.target is None else row.ratio <= case.target
    return row


def _seconds(run: Run) -> float:
    """Wall time of one run; a run that times itself returns its seconds."""
    begun = time.perf_counter()
    own = run()
    return own if isinstance(own, float) else time.perf_counter() - begun
