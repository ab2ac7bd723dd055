"""Suite results on standard output as a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from typing import TextIO

from synbench_fast.printable import named_cells, print_table, printable
from synbench_fast.results.records import CSV_COLUMNS, with_error
from synbench_fast.results.suite import SuiteResult, SuiteScore

__all__ = ["SUITE_CSV_COLUMNS", "SuiteSink", "suite_sink"]

SUITE_CSV_COLUMNS = ("task", "pattern", "covariance", *CSV_COLUMNS)


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


def suite_sink(kind: str, stream: TextIO, *, every_threshold: bool = False) -> SuiteSink:
    """The sink of one of display.FORMATS. A table shows the lowest threshold, or every one."""
    if kind == "table":
        return _Table(stream, every_threshold)
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
    """Per encoder one row for each task, one for their mean, one for the worst with its 95 % interval."""

    def __init__(self, stream: TextIO, every_threshold: bool) -> None:
        super().__init__(stream)
        self._every_threshold = every_threshold
        self._suites: list[SuiteResult] = []

    def add(self, result: SuiteResult) -> None:
        self._suites.append(result)

    def close(self) -> None:
        if not self._suites:
            return
        first = self._suites[0].results[0]
        thresholds = first.thresholds if self._every_threshold else [min(first.thresholds)]
        shown = [(eps, threshold) for eps in first.eps for threshold in thresholds]
        columns = ["encoder", "task"]
        columns += [f"score eps={e:g}" + (f" a={a:g}" if len(thresholds) > 1 else "") for e, a in shown]
        rows = []
        for suite in self._suites:
            title = suite.encoder.title
            for name, result in zip(suite.tasks, suite.results, strict=True):
                scores = [result.score(*key) for key in shown]
                rows.append([title, name, *(with_error(one.score, one.stderr) for one in scores)])
            both = [suite.score(*key) for key in shown]
            rows.append([title, "mean", *(with_error(one.mean, one.mean_stderr) for one in both)])
            rows.append([title, "worst", *(_worst(one) for one in both)])
        print_table(self._stream, columns, rows, left=2)
        drawn = [count for suite in self._suites for count in suite.results[0].task.samples]
        task = replace(first.task, samples=drawn)
        above = "" if len(thresholds) > 1 else f" above accuracy {thresholds[0]:g}"
        self._stream.write(
            f"score{above}, ± one standard error, worst with its 95 % interval; suite {printable(self._suites[0].suite)}, "
            f"{first.estimator}, {task.size()}, {first.cost.dtype} on {first.cost.device}\n"
        )
        self._stream.flush()


def _worst(one: SuiteScore) -> str:
    """The worst task, its score, and the interval of the smallest true score where every task has one."""
    interval = f" [{one.worst_ci95_low:.4f}, {one.worst_ci95_high:.4f}]"
    return f"{one.worst_task} {one.worst:.4f}{interval if math.isfinite(one.worst_ci95_low) else ''}"
