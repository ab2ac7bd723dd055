"""Suite results on standard output as a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

from synbench_fast.printable import named_cells, print_table, printable
from synbench_fast.report.terminal import largest_first, structure_cell, structure_notes, structure_of
from synbench_fast.report.verdict import verdict
from synbench_fast.results.records import CSV_COLUMNS, with_error
from synbench_fast.results.suite import SUITE_COLUMNS, SuiteResult, SuiteScore

__all__ = ["SUITE_CSV_COLUMNS", "SuiteSink", "suite_sink"]

SUITE_CSV_COLUMNS = (*SUITE_COLUMNS, *CSV_COLUMNS)


class SuiteSink:
    """Takes suite results as they come; `close` is called once, also after Ctrl-C."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, result: SuiteResult) -> None:
        """One JSON document per line, out as soon as it is known."""
        self._stream.write(result.to_json() + "\n")
        self._stream.flush()

    def close(self) -> None:
        pass


def suite_sink(kind: str, stream: TextIO, *, every_threshold: bool = False, wide: bool = False) -> SuiteSink:
    """The sink of one of display.FORMATS. A table shows the lowest threshold, or every one; `wide`: all columns."""
    if kind == "table":
        return _Table(stream, every_threshold, wide)
    return SuiteSink(stream) if kind == "json" else _Csv(stream)


class _Csv(SuiteSink):
    """A header, then one row per encoder, task, eps and threshold; an empty cell where a value is not finite."""

    _writer: csv.DictWriter[str] | None = None

    def add(self, result: SuiteResult) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._stream, SUITE_CSV_COLUMNS, lineterminator="\n")
            self._writer.writeheader()
        self._writer.writerows(named_cells(row) for row in result.rows())
        self._stream.flush()


class _Table(SuiteSink):
    """Per encoder a row for each task, for their mean, and for the worst with its 95 % interval.

    The column `structure` has the structure score in a row of that name, and the scores of the tasks of families.
    """

    def __init__(self, stream: TextIO, every_threshold: bool, wide: bool) -> None:
        super().__init__(stream)
        self._every_threshold = every_threshold
        self._wide = wide
        self._suites: list[SuiteResult] = []

    def add(self, result: SuiteResult) -> None:
        self._suites.append(result)

    def close(self) -> None:
        if not self._suites:
            return
        scored = any(one.results[0].structure is not None for one in self._suites)
        suites = largest_first(
            self._suites, lambda one: structure_of(one.results[0]) if scored else one.family_mean[0]
        )
        firsts = [one.results[0] for one in suites]
        first = firsts[0]
        thresholds = first.thresholds if self._every_threshold else [min(first.thresholds)]
        shown = [(eps, threshold) for eps in first.eps for threshold in thresholds]
        structured = scored or any(one.families for one in suites)
        columns = ["encoder", "task", *(["structure"] if structured else [])]
        columns += [f"score eps={e:g}" + (f" a={a:g}" if len(thresholds) > 1 else "") for e, a in shown]
        rows = []
        for suite in suites:
            for name, structure, scores in _rows(suite, shown, scored):
                rows.append([suite.encoder.title, name, *([structure] if structured else []), *scores])
        further = columns[3 + structured :][::-1]  # the first score stays
        print_table(self._stream, columns, rows, left=2, drop=() if self._wide else further)
        for line in structure_notes(firsts) if scored else ():
            self._stream.write(line + "\n")
        if any(one.families for one in suites):
            self._stream.write(
                "families: mean of the tasks above it that have no budget, in the column structure\n"
            )
        drawn = [count for suite in suites for count in suite.results[0].task.samples]
        task = replace(first.task, samples=drawn)
        above = "" if len(thresholds) > 1 else f" above accuracy {thresholds[0]:g}"
        self._stream.write(
            f"score{above}, ± one standard error, worst with its 95 % interval; suite {printable(suites[0].suite)}, "
            f"{first.estimator}, {task.size()}, {first.cost.dtype} on {first.cost.device}\n"
        )
        for line in verdict(suites):
            self._stream.write(line + "\n")
        self._stream.flush()


def _worst(one: SuiteScore) -> str:
    """The worst task, its score, and the interval of the smallest true score where every task has one."""
    interval = f" [{one.worst_ci95_low:.4f}, {one.worst_ci95_high:.4f}]"
    return f"{one.worst_task} {one.worst:.4f}{interval if math.isfinite(one.worst_ci95_low) else ''}"


def _rows(
    suite: SuiteResult, shown: list[tuple[float, float]], scored: bool
) -> Iterator[tuple[str, str, list[str]]]:
    """Task, structure and the scores at the budgets and thresholds shown. `scored`: an encoder has a structure score."""
    nothing = ["-"] * len(shown)
    if scored:
        yield "structure", structure_cell(suite.results[0]), nothing
    for name, result in zip(suite.tasks, suite.results, strict=True):
        scores = [result.score(*key) for key in shown]
        yield name, "-", [with_error(one.score, one.stderr) for one in scores]
    both = [suite.score(*key) for key in shown]
    yield "mean", "-", [with_error(one.mean, one.mean_stderr) for one in both]
    yield "worst", "-", [_worst(one) for one in both]
    for family in suite.families:
        yield family.task, with_error(family.score, family.stderr), nothing
    if suite.families:
        yield "families", with_error(*suite.family_mean), nothing
