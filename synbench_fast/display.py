"""Results on standard output as a table, JSON lines or CSV, and standard output kept free of all else."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from synbench_fast.errors import SynbenchError
from synbench_fast.messages import NO_ROOM
from synbench_fast.printable import PrintableStream, named_cells, printable
from synbench_fast.results import CSV_COLUMNS, Result, with_error

if TYPE_CHECKING:
    from synbench_fast.compare import Comparison

__all__ = ["FORMATS", "Sink", "print_comparison", "print_json", "print_table", "result_stream", "sink"]

FORMATS = ("table", "json", "csv")


@contextmanager
def result_stream() -> Iterator[TextIO]:
    """The real standard output; whatever else prints meanwhile, native code too, goes to standard error.

    Encoder libraries and users' factories print as they please, and one line of theirs makes JSON unreadable.
    """
    python_out = sys.stdout
    try:
        python_out.flush()
        descriptor, error_descriptor = python_out.fileno(), sys.stderr.fileno()
    except (OSError, ValueError):  # objects that are no files: only Python can print to them
        with redirect_stdout(sys.stderr):
            yield python_out
        return
    raw = io.BufferedWriter(_Output(os.dup(descriptor), "w"))
    kind, live = (PrintableStream, True) if os.isatty(descriptor) else (io.TextIOWrapper, False)
    with kind(
        raw, encoding=python_out.encoding, errors="backslashreplace", newline="\n", line_buffering=live
    ) as stream:
        os.dup2(error_descriptor, descriptor)
        try:
            with redirect_stdout(sys.stderr):
                yield stream
        finally:
            # what C code printed sits in its own buffer and must leave before the descriptor is real again
            with suppress(OSError, AttributeError, TypeError):
                ctypes.CDLL(None).fflush(None)
            os.dup2(stream.fileno(), descriptor)


class _Output(io.FileIO):
    """A descriptor for results. A reader that has gone, as in `| head`, is no mistake; a full disk is one line."""

    def write(self, data: Any) -> Any:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SynbenchError(NO_ROOM + str(error.strerror)) from error


class Sink(Protocol):
    """Takes results as they come; `close` is called once, also after Ctrl-C."""

    def add(self, result: Result) -> None: ...

    def close(self) -> None: ...


def sink(kind: str, stream: TextIO, *, every_threshold: bool = False) -> Sink:
    """The sink of one of FORMATS. A table shows the lowest threshold, or every one."""
    if kind == "table":
        return _Table(stream, every_threshold)
    return _Lines(stream) if kind == "json" else _Csv(stream)


class _Lines:
    """One JSON document per line, out as soon as it is known."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, result: Result) -> None:
        self._stream.write(result.to_json() + "\n")
        self._stream.flush()

    def close(self) -> None:
        pass


class _Csv:
    """A header, then one row per encoder, eps and threshold; an empty cell where a value is not finite."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
        self._started = False

    def add(self, result: Result) -> None:
        if not self._started:
            self._writer.writeheader()
            self._started = True
        self._writer.writerows(named_cells(row) for row in result.rows())
        self._stream.flush()

    def close(self) -> None:
        pass


class _Table:
    """One row per encoder, printed at the end because its columns are only then as wide as they must be."""

    def __init__(self, stream: TextIO, every_threshold: bool) -> None:
        self._stream = stream
        self._every_threshold = every_threshold
        self._results: list[Result] = []

    def add(self, result: Result) -> None:
        self._results.append(result)

    def close(self) -> None:
        if not self._results:
            return
        first = self._results[0]
        thresholds = first.thresholds if self._every_threshold else [min(first.thresholds)]
        shown = [(eps, threshold) for eps in first.eps for threshold in thresholds]
        columns = ["encoder", "F", "parameters"]
        columns += [f"score eps={e:g}" + (f" a={a:g}" if len(thresholds) > 1 else "") for e, a in shown]
        columns += ["robust area", "of raw", "images/s"]
        rows = []
        for one in self._results:
            scores = [one.score(*key) for key in shown]
            area = one.robust_area
            rows.append(
                [
                    one.encoder.title,
                    one.width,
                    "-" if one.encoder.parameters is None else str(one.encoder.parameters),
                    *(with_error(score.score, score.stderr) for score in scores),
                    with_error(area.value, area.stderr),
                    f"{area.ratio:.1%}" if math.isfinite(area.ratio) else "-",
                    f"{one.cost.images_per_second:.1f}",
                ]
            )
        print_table(self._stream, columns, rows, left=1)
        above = "" if len(thresholds) > 1 else f" above accuracy {thresholds[0]:g}"
        drawn = [count for one in self._results for count in one.task.samples]
        task = replace(first.task, samples=drawn)  # wide encoders draw more
        self._stream.write(
            f"score{above}, ± one standard error; {first.estimator}, "
            f"{task.size()}, {first.cost.dtype} on {first.cost.device}\n"
        )
        for one in self._results:
            for check in one.precision.checks:
                if check.used:
                    self._stream.write(printable(f"{one.encoder.title}: {check.summary()}") + "\n")
        self._stream.flush()


def print_table(stream: TextIO, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> None:
    """A table of text, the first `left` columns left-aligned, the others right.

    A row is one line however long it is: a terminal wraps it, and nothing is ever cut.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = stream.isatty()
    rows = [[printable(one) for one in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(one) for one in row))
    width = sum(max(len(one) for one in column) + 4 for column in zip(columns, *rows, strict=True))
    console = Console(file=stream, width=width, color_system="auto" if terminal else None)
    with console.capture() as capture:
        console.print(table)
    stream.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))
    stream.flush()


def print_json(stream: TextIO, document: Any) -> None:
    """An indented JSON document for `ls` and `info`."""
    stream.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    stream.flush()


def print_comparison(stream: TextIO, comparison: Comparison, kind: str) -> None:
    """Differences of pairs; of more than two encoders as a table also the ranking, which comes first."""
    if kind == "json":
        print_json(stream, comparison.to_dict())
        return
    if kind == "csv":
        rows = [named_cells(one) for one in comparison.to_dict()["differences"]]
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    if len({one.encoder for one in comparison.ranking}) > 2:
        print_table(
            stream,
            ["eps", "above", "rank", "encoder", "score"],
            [
                [
                    f"{one.eps:g}",
                    f"{one.threshold:g}",
                    f"{one.best_rank}"
                    if one.best_rank == one.worst_rank
                    else f"{one.best_rank}-{one.worst_rank}",
                    one.encoder,
                    with_error(one.score, one.stderr),
                ]
                for one in comparison.ranking
            ],
            left=4,
        )
        stream.write("\n")
    print_table(
        stream,
        ["eps", "above", "difference", "95 % interval", "p", "verdict"],
        [
            [
                f"{one.eps:g}",
                f"{one.threshold:g}",
                f"{one.first} - {one.second}",
                f"{one.difference:+.4f}"
                + ("" if one.withheld else f" ({one.ci95_low:+.4f} to {one.ci95_high:+.4f})"),
                "" if one.withheld else f"{one.p_value:.2g}",
                one.verdict,
            ]
            for one in comparison.differences
        ],
        left=4,
    )
    for note in comparison.notes:
        stream.write(f"\nnote: {note}\n")
