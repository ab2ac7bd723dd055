"""What an inheritance benchmark reports: cells and their summaries, as a document and as tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.records import Environment
from synbench_fast.studies.base import Report, Table, finite
from synbench_fast.studies.inheritance.cells import PRETRAINING, Cell, FailedCell
from synbench_fast.studies.inheritance.statistic import CellCorrelations
from synbench_fast.studies.inheritance.summaries import MethodSummary, change, points, share

__all__ = ["INHERITANCE_SCHEMA", "DataSummary", "InheritanceReport"]

INHERITANCE_SCHEMA = "synbench-fast/inheritance"
INHERITANCE_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """One data set: sizes of the parts that are fine-tuned on and evaluated on, and its number of classes."""

    name: str
    train: int
    test: int
    classes: int


@dataclass(frozen=True, kw_only=True, repr=False)
class InheritanceReport(Report):
    """What fine-tuning left of the encoders' robustness.

    Attributes:
        failed: cells without numbers, and why.
        statistic: correlation of distance and score with it over the cells, None where nothing varies.
        reused: cells that were read, not measured.
        training: of all methods.
        command: repeats the run from a shell, empty where none can.
    """

    schema: str = INHERITANCE_SCHEMA
    schema_version: int = INHERITANCE_SCHEMA_VERSION
    suite: str
    suite_sha256: str
    data: list[DataSummary]
    encoders: list[str]
    methods: list[str]
    seeds: list[int]
    training: dict[str, float]
    cells: list[Cell]
    failed: list[FailedCell]
    summaries: list[MethodSummary]
    statistic: CellCorrelations | None
    reused: int
    seconds: float
    environment: Environment
    warnings: list[str]
    command: str

    def summary(self) -> str:
        """A line for the suite, and one per encoder and method: mRI and the change on the pre-training data."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        lines = [
            f"inherit, suite {self.suite}: {len(self.cells)} fine-tunings{failed}, changes of accuracy in points"
        ]
        for one in self.summaries:
            mean = one.mri
            if math.isnan(mean.value):
                lines.append(
                    f"  {one.encoder} {one.method}: failed, {one.failed} of its fine-tunings have no numbers"
                )
                continue
            ends = (
                f" ({100 * mean.ci95_low:+.1f} to {100 * mean.ci95_high:+.1f})"
                if math.isfinite(mean.ci95_low)
                else ""
            )
            lines.append(
                f"  {one.encoder} {one.method}: others {100 * mean.value:+.1f}{ends}, "
                f"pre-training {100 * one.pretraining_change.value:+.1f} of {100 * one.pretraining_before:.1f}"
            )
        return "\n".join(lines)

    def of(self, method: str, encoder: str | None = None) -> MethodSummary:
        """The numbers of a method, and of an encoder where there are several."""
        wanted = encoder or self.encoders[0]
        for name, value, known in (
            ("method", method, self.methods),
            ("encoder", wanted, self.encoders),
        ):
            if value not in known:
                raise SynbenchError(
                    f"{name}: expected one of {', '.join(known)}, got {value!r}{suggest(value, known)}"
                )
        return next(one for one in self.summaries if (one.method, one.encoder) == (method, wanted))

    def matrix(self, method: str, encoder: str | None = None) -> dict[str, dict[str, float | None]]:
        """`[i][j]`: mean over seeds of the change of accuracy on j after fine-tuning on i; j also "pre-training"."""
        return self.of(method, encoder).matrix

    def rows(self) -> list[dict[str, Any]]:
        """One row per cell and data set that it was evaluated on; None where something was not measured.

        A fine-tuning that failed is one row without numbers.
        """
        found = []
        for one in self.cells:
            before = one.accuracy_before | {PRETRAINING: one.pretraining_before}
            after = one.accuracy_after | {PRETRAINING: one.pretraining_after}
            for name, value in before.items():
                agreement = one.agreement[name]
                found.append(
                    _row(
                        one,
                        evaluated_on=name,
                        before=value,
                        after=after[name],
                        change=after[name] - value,
                        same=agreement.same,
                        both_correct=agreement.both_correct,
                        lost=agreement.lost,
                        won=agreement.won,
                        distance=(one.distance or {}).get(name),
                        score_before=None if one.score_before is None else one.score_before.score,
                        score_after=None if one.score_after is None else one.score_after.score,
                    )
                )
        return found + [_row(one) for one in self.failed]

    def tables(self) -> Iterator[Table | str]:
        """Summaries of the methods, then RI of every data set, in points."""
        several = len(self.encoders) > 1
        names = [f"{one.encoder} {one.method}" if several else one.method for one in self.summaries]
        yield Table(
            ["method", "mRI", f"less {self.methods[0]}", "own data set", "pre-training", "same", "score"],
            [
                [
                    name,
                    points(one.mri),
                    "-" if one.difference is None else points(one.difference),
                    points(one.own_change),
                    points(one.pretraining_change),
                    share(one.same.value),
                    one.score_text,
                ]
                for name, one in zip(names, self.summaries, strict=True)
            ],
        )
        yield ""
        sets = [one.name for one in self.data]
        yield Table(
            ["RI after fine-tuning on", *sets],
            [
                [name, *(change(one.ri[data].value) for data in sets)]
                for name, one in zip(names, self.summaries, strict=True)
            ],
        )
        first = self.summaries[0]
        before = (
            f"{100 * first.ood_before:.1f} % on the other data sets and {100 * first.pretraining_before:.1f} % on "
            f"pre-training before{f' ({first.encoder})' if several else ''}; "
        )
        yield (
            f"suite {self.suite}; {'' if math.isnan(first.ood_before) else before}points, "
            f"{'one seed' if len(self.seeds) == 1 else f'95 % t intervals over {len(self.seeds)} seeds'}"
        )
        if self.failed:
            yield ""
            yield f"{len(self.failed)} failed, in no number above:"
            yield from map(str, self.failed)
        if self.statistic is not None:
            yield ""
            yield from self.statistic.tables()


CSV_COLUMNS = (
    "encoder", "method", "seed", "fine_tuned_on", "evaluated_on", "before", "after", "change", "same",
    "both_correct", "lost", "won", "distance", "score_before", "score_after",
)  # fmt: skip


def _row(one: Cell | FailedCell, **measured: Any) -> dict[str, Any]:
    known = {
        "encoder": one.encoder, "method": one.method, "seed": one.seed, "fine_tuned_on": one.fine_tuned_on,
    } | measured  # fmt: skip
    return {name: finite(known.get(name)) for name in CSV_COLUMNS}
