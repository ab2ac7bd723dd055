"""What an inheritance benchmark reports: cells and their summaries, as a document and as a table of cells."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.printable import cells
from synbench_fast.results.documents import Document, nan_field
from synbench_fast.results.records import Environment
from synbench_fast.studies.inheritance.cells import PRETRAINING, Cell, FailedCell
from synbench_fast.studies.inheritance.intervals import Mean, mean_over_seeds
from synbench_fast.studies.inheritance.statistic import CellCorrelations

__all__ = [
    "INHERITANCE_SCHEMA",
    "DataSummary",
    "InheritanceReport",
    "MethodSummary",
    "summarise",
    "write_csv",
]

INHERITANCE_SCHEMA = "synbench-fast/inheritance"
INHERITANCE_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """One data set: sizes of the parts that are fine-tuned on and evaluated on, and its number of classes."""

    name: str
    train: int
    test: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One encoder and method, over data sets and seeds. Fractions; changes are after less before.

    Attributes:
        ri: data set i -> RI_i.
        mri: the mean of RI_i over i.
        difference: mri less that of the report's first method, seed by seed; None for that method.
        ood_before, ood_after: mean over i of the mean accuracy on the others.
        own_change: of accuracy on the data set itself that was fine-tuned on, mean over i.
        pretraining_change: mean over i.
        same, both_correct: agreement on the other data sets, mean over them and i.
        score_change: of the SynBench score, mean over i, of the seeds where every fine-tuning left one; None without.
        matrix: `[i][j]`, mean over seeds of the change of accuracy on j after fine-tuning on i, j also "pre-training";
            None where every fine-tuning on i failed.
        failed: fine-tunings that have no numbers. A mean over data sets is taken of seeds without a failure only, so
            that every value is over the same data sets: `mri.by_seed` has those seeds, and is empty if there is none.
    """

    encoder: str
    method: str
    ri: dict[str, Mean]
    mri: Mean
    difference: Mean | None
    ood_before: float = nan_field()
    ood_after: Mean
    own_change: Mean
    pretraining_before: float = nan_field()
    pretraining_change: Mean
    same: Mean
    both_correct: Mean
    score_before: float | None
    score_change: Mean | None
    matrix: dict[str, dict[str, float | None]]
    failed: int


@dataclass(frozen=True, kw_only=True, repr=False)
class InheritanceReport(Document):
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


def summarise(
    cells: Sequence[Cell], failed: Sequence[FailedCell] = (), methods: Sequence[str] | None = None
) -> list[MethodSummary]:
    """Summaries by encoder and method, `difference` to the first of `methods`.

    Encoders come in the order in which they first occur, and methods in that of `methods`; without it methods come
    in the order in which they first occur, those that only failed last. Every encoder and method has a cell, or a
    failed one, of the same data sets and seeds. Values are paired over seeds: a mean over data sets is taken within
    each seed, and the interval is that of the seeds' values.
    """
    groups: dict[tuple[str, str], tuple[list[Cell], list[FailedCell]]] = {}
    for one in cells:
        groups.setdefault((one.encoder, one.method), ([], []))[0].append(one)
    for lost in failed:
        groups.setdefault((lost.encoder, lost.method), ([], []))[1].append(lost)
    if methods is not None:
        encoders = list(dict.fromkeys(encoder for encoder, _ in groups))
        keys = [(encoder, method) for encoder in encoders for method in methods]
        groups = {key: groups[key] for key in keys if key in groups}
    sets = list(
        dict.fromkeys([*(one.fine_tuned_on for one in cells), *(one.fine_tuned_on for one in failed)])
    )
    made: list[MethodSummary] = []
    first: dict[str, dict[int, float]] = {}
    for (encoder, method), (measured, missing) in groups.items():
        incomplete = {one.seed for one in missing}
        runs: dict[int, list[Cell]] = {}
        for one in measured:
            if one.seed not in incomplete:
                runs.setdefault(one.seed, []).append(one)
        by_seed = {
            seed: _over_sets(run, lambda one: one.robustness_improvement) for seed, run in runs.items()
        }
        paired = first.setdefault(encoder, by_seed)
        scored = {
            seed: run
            for seed, run in runs.items()
            if all(one.score_before and one.score_after for one in run)
        }
        of_encoder = [one for one in cells if one.encoder == encoder]
        before = next((one.score_before for one in of_encoder), None)

        def over(value: Callable[[Cell], float], runs: dict[int, list[Cell]] = runs) -> Mean:
            return mean_over_seeds([_over_sets(run, value) for run in runs.values()])

        made.append(
            MethodSummary(
                encoder=encoder,
                method=method,
                ri={
                    name: mean_over_seeds(
                        [one.robustness_improvement for one in measured if one.fine_tuned_on == name]
                    )
                    for name in sets
                },
                mri=over(lambda one: one.robustness_improvement),
                difference=None
                if paired is by_seed
                else mean_over_seeds(
                    [value - paired[seed] for seed, value in by_seed.items() if seed in paired]
                ),
                ood_before=_ood_before(of_encoder),
                ood_after=over(lambda one: one.ood_after),
                own_change=over(
                    lambda one: one.accuracy_after[one.fine_tuned_on] - one.accuracy_before[one.fine_tuned_on]
                ),
                pretraining_before=of_encoder[0].pretraining_before if of_encoder else math.nan,
                pretraining_change=over(lambda one: one.pretraining_change),
                same=over(lambda one: _agreement(one, "same")),
                both_correct=over(lambda one: _agreement(one, "both_correct")),
                score_before=before.score if scored and before is not None else None,
                score_change=over(_score_change, scored) if scored else None,
                matrix={
                    name: _row([one for one in measured if one.fine_tuned_on == name], sets) for name in sets
                },
                failed=len(missing),
            )
        )
    return made


def _over_sets(run: Sequence[Cell], value: Callable[[Cell], float]) -> float:
    return statistics.fmean(value(one) for one in run)


def _ood_before(cells: Sequence[Cell]) -> float:
    """Mean over data sets i of the mean accuracy on the others, before; every cell of an encoder has them all."""
    if not cells:
        return math.nan
    accuracy = cells[0].accuracy_before
    return statistics.fmean(
        statistics.fmean(value for other, value in accuracy.items() if other != name) for name in accuracy
    )


def _score_change(cell: Cell) -> float:
    assert cell.score_before is not None and cell.score_after is not None
    return cell.score_after.score - cell.score_before.score


def _row(cells: Sequence[Cell], sets: Sequence[str]) -> dict[str, float | None]:
    """Mean over seeds of the change on every data set and on the pre-training data; None without a cell."""
    if not cells:
        return dict.fromkeys((*sets, PRETRAINING))
    changes: dict[str, float | None] = {
        name: statistics.fmean(one.accuracy_after[name] - one.accuracy_before[name] for one in cells)
        for name in cells[0].accuracy_before
    }
    return changes | {PRETRAINING: statistics.fmean(one.pretraining_change for one in cells)}


def _agreement(cell: Cell, name: str) -> float:
    return statistics.fmean(getattr(cell.agreement[other], name) for other in cell.others)


CSV_COLUMNS = (
    "encoder", "method", "seed", "fine_tuned_on", "evaluated_on", "before", "after", "change", "same",
    "both_correct", "lost", "won", "distance", "score_before", "score_after",
)  # fmt: skip


def write_csv(stream: TextIO, report: InheritanceReport) -> None:
    """One row per cell and data set that it was evaluated on; empty where something was not measured.

    A fine-tuning that failed is one row without numbers.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in report.cells:
        before = one.accuracy_before | {PRETRAINING: one.pretraining_before}
        after = one.accuracy_after | {PRETRAINING: one.pretraining_after}
        for name, value in before.items():
            agreement = one.agreement[name]
            writer.writerow(
                cells(
                    [
                        one.encoder,
                        one.method,
                        one.seed,
                        one.fine_tuned_on,
                        name,
                        value,
                        after[name],
                        after[name] - value,
                        agreement.same,
                        agreement.both_correct,
                        agreement.lost,
                        agreement.won,
                        (one.distance or {}).get(name, ""),
                        "" if one.score_before is None else one.score_before.score,
                        "" if one.score_after is None else one.score_after.score,
                    ]
                )
            )
    for lost in report.failed:
        words = [lost.encoder, lost.method, lost.seed, lost.fine_tuned_on]
        writer.writerow(cells([*words, *[""] * (len(CSV_COLUMNS) - len(words))]))
