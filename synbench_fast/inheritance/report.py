"""What an inheritance benchmark reports: cells and their summaries, as a document and as a table of cells."""

from __future__ import annotations

import csv
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from synbench_fast.documents import Mismatch, decode, encode, kind_of, parse, write_atomically
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.inheritance.cells import PRETRAINING, Cell
from synbench_fast.inheritance.intervals import Mean, mean_over_seeds
from synbench_fast.inheritance.statistic import CellCorrelations
from synbench_fast.printable import cells
from synbench_fast.results import Environment

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
        score_change: of the SynBench score, mean over i, None where it was not scored.
    """

    encoder: str
    method: str
    ri: dict[str, Mean]
    mri: Mean
    difference: Mean | None
    ood_before: float
    ood_after: Mean
    own_change: Mean
    pretraining_before: float
    pretraining_change: Mean
    same: Mean
    both_correct: Mean
    score_before: float | None
    score_change: Mean | None


@dataclass(frozen=True, kw_only=True)
class InheritanceReport:
    """What fine-tuning left of the encoders' robustness.

    Attributes:
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
    summaries: list[MethodSummary]
    statistic: CellCorrelations | None
    reused: int
    seconds: float
    environment: Environment
    warnings: list[str]
    command: str

    def summary(self, method: str, encoder: str | None = None) -> MethodSummary:
        """The summary of a method, and of an encoder where there are several."""
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

    def matrix(self, method: str, encoder: str | None = None) -> dict[str, dict[str, float]]:
        """`[i][j]`: mean over seeds of the change of accuracy on j after fine-tuning on i; j also "pre-training"."""
        wanted = self.summary(method, encoder).encoder
        made: dict[str, dict[str, float]] = {}
        for row in self.data:
            cells = [
                one
                for one in self.cells
                if (one.method, one.encoder, one.fine_tuned_on) == (method, wanted, row.name)
            ]
            made[row.name] = {
                column.name: statistics.fmean(
                    one.accuracy_after[column.name] - one.accuracy_before[column.name] for one in cells
                )
                for column in self.data
            } | {PRETRAINING: statistics.fmean(one.pretraining_change for one in cells)}
        return made

    def to_json(self) -> str:
        return json.dumps(encode(self), indent=1, ensure_ascii=False, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the document, whole or not at all."""
        return write_atomically(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> InheritanceReport:
        """The report in a file; SynbenchError names the field that does not fit."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SynbenchError(f"{path}: expected a report that can be read, got {error}") from None
        document = parse(text, str(path))
        if not isinstance(document, dict) or document.get("schema") != INHERITANCE_SCHEMA:
            got = kind_of(document.get("schema") if isinstance(document, dict) else document)
            raise SynbenchError(f"{path}: expected a document of schema {INHERITANCE_SCHEMA!r}, got {got}")
        if document.get("schema_version") != INHERITANCE_SCHEMA_VERSION:
            raise SynbenchError(
                f"{path}: expected schema_version {INHERITANCE_SCHEMA_VERSION}, got "
                f"{kind_of(document.get('schema_version'))}"
            )
        try:
            return decode(cls, document)
        except Mismatch as error:
            raise SynbenchError(f"{path}: {error}") from None


def summarise(cells: Sequence[Cell]) -> list[MethodSummary]:
    """Summaries in the order in which encoders and methods first occur.

    Every encoder and method has cells of the same data sets and seeds. Values are paired over seeds: a mean over data
    sets is taken within each seed, and the interval is that of the seeds' values.
    """
    groups: dict[tuple[str, str], dict[int, list[Cell]]] = {}
    for one in cells:
        groups.setdefault((one.encoder, one.method), {}).setdefault(one.seed, []).append(one)
    made: list[MethodSummary] = []
    first: dict[str, list[float]] = {}
    for (encoder, method), by_seed in groups.items():
        runs = list(by_seed.values())
        everything = [one for run in runs for one in run]

        def over(value: dict[int, float], runs: list[list[Cell]] = runs) -> Mean:
            return mean_over_seeds([statistics.fmean(value[id(one)] for one in run) for run in runs])

        mri = over({id(one): one.robustness_improvement for one in everything})
        paired = first.setdefault(encoder, mri.by_seed)
        scores = {
            id(one): one.score_after.score - one.score_before.score
            for one in everything
            if one.score_before is not None and one.score_after is not None
        }
        scored = len(scores) == len(everything)
        sets = list(dict.fromkeys(one.fine_tuned_on for one in everything))
        before = everything[0].score_before
        made.append(
            MethodSummary(
                encoder=encoder,
                method=method,
                ri={
                    name: mean_over_seeds(
                        [one.robustness_improvement for one in everything if one.fine_tuned_on == name]
                    )
                    for name in sets
                },
                mri=mri,
                difference=None
                if paired is mri.by_seed
                else mean_over_seeds([a - b for a, b in zip(mri.by_seed, paired, strict=True)]),
                ood_before=statistics.fmean(one.ood_before for one in runs[0]),
                ood_after=over({id(one): one.ood_after for one in everything}),
                own_change=over(
                    {
                        id(one): one.accuracy_after[one.fine_tuned_on]
                        - one.accuracy_before[one.fine_tuned_on]
                        for one in everything
                    }
                ),
                pretraining_before=everything[0].pretraining_before,
                pretraining_change=over({id(one): one.pretraining_change for one in everything}),
                same=over({id(one): _agreement(one, "same") for one in everything}),
                both_correct=over({id(one): _agreement(one, "both_correct") for one in everything}),
                score_before=before.score if scored and before is not None else None,
                score_change=over(scores) if scored else None,
            )
        )
    return made


def _agreement(cell: Cell, name: str) -> float:
    return statistics.fmean(getattr(cell.agreement[other], name) for other in cell.others)


CSV_COLUMNS = (
    "encoder", "method", "seed", "fine_tuned_on", "evaluated_on", "before", "after", "change", "same",
    "both_correct", "lost", "won", "distance", "score_before", "score_after",
)  # fmt: skip


def write_csv(stream: TextIO, report: InheritanceReport) -> None:
    """One row per cell and data set that it was evaluated on; empty where something was not measured."""
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
