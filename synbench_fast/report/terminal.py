"""Results on standard output as a table, JSON lines or CSV, and standard output kept free of all else."""

from __future__ import annotations

import csv
import ctypes
import io
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from typing import Any, Protocol, TextIO, TypeVar

from synbench_fast.errors import SynbenchError
from synbench_fast.printable import PrintableStream, distinct, named_cells, print_table, printable
from synbench_fast.report.verdict import verdict
from synbench_fast.results.records import CSV_COLUMNS, Result, with_error
from synbench_fast.results.structure import LABEL_FREE, are_images, metric_cells
from synbench_fast.runtime.messages import NO_ROOM

__all__ = [
    "FORMATS",
    "Sink",
    "largest_first",
    "result_stream",
    "sink",
    "structure_cell",
    "structure_notes",
    "structure_of",
]

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


def sink(
    kind: str, stream: TextIO, *, every_threshold: bool = False, ordered: bool = True, wide: bool = False
) -> Sink:
    """The sink of one of FORMATS. A table shows the lowest threshold, or every one, the best structure score first.

    `ordered`: False for a table of results in the order in which they come. `wide`: a table has all columns on a narrow
    terminal too.
    """
    if kind == "table":
        return _Table(stream, every_threshold, ordered, wide)
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

    def __init__(self, stream: TextIO, every_threshold: bool, ordered: bool, wide: bool) -> None:
        self._stream = stream
        self._every_threshold = every_threshold
        self._ordered = ordered
        self._wide = wide
        self._results: list[Result] = []

    def add(self, result: Result) -> None:
        self._results.append(result)

    def close(self) -> None:
        if not self._results:
            return
        first = self._results[0]
        thresholds = first.thresholds if self._every_threshold else [min(first.thresholds)]
        shown = [(eps, threshold) for eps in first.eps for threshold in thresholds]
        structured = any(one.structure is not None for one in self._results)
        if self._ordered:
            self._results = largest_first(
                self._results, structure_of if structured else lambda one: one.score(*shown[0]).score
            )
        columns = ["encoder", *(["structure"] if structured else []), "F", "parameters"]
        columns += [f"score eps={e:g}" + (f" a={a:g}" if len(thresholds) > 1 else "") for e, a in shown]
        columns += ["robust area", "of raw", "images/s"]
        rows = []
        names = distinct([one.encoder.title for one in self._results])
        for one, name in zip(self._results, names, strict=True):
            scores = [one.score(*key) for key in shown]
            area = one.robust_area
            rows.append(
                [
                    name,
                    *([structure_cell(one)] if structured else []),
                    one.width,
                    "-" if one.encoder.parameters is None else str(one.encoder.parameters),
                    *(with_error(score.score, score.stderr) for score in scores),
                    with_error(area.value, area.stderr),
                    f"{area.ratio:.1%}" if math.isfinite(area.ratio) else "-",
                    f"{one.cost.images_per_second:.1f}",
                ]
            )
        # The structure score and the first published one stay; what costs least to miss goes first.
        drop = [
            "parameters",
            "F",
            "of raw",
            "images/s",
            "robust area",
            *columns[columns.index("parameters") + 2 : -3][::-1],
        ]
        print_table(self._stream, columns, rows, left=1, drop=() if self._wide else drop)
        for line in structure_notes(self._results):
            self._stream.write(line + "\n")
        _print_metrics(self._stream, self._results)
        above = "" if len(thresholds) > 1 else f" above accuracy {thresholds[0]:g}"
        drawn = [count for one in self._results for count in one.task.samples]
        task = replace(first.task, samples=drawn)  # wide encoders draw more
        self._stream.write(
            f"score{above}, ± one standard error; {first.estimator}, "
            f"{task.size()}, {first.cost.dtype} on {first.cost.device}\n"
        )
        for one in self._results:
            for check in one.arithmetic.checks:
                if check.used:
                    self._stream.write(printable(f"{one.encoder.title}: {check.summary()}") + "\n")
        for line in verdict(self._results):
            self._stream.write(line + "\n")
        self._stream.flush()


def _print_metrics(stream: TextIO, results: Sequence[Result]) -> None:
    """Label-free metrics with their standard errors, a row for each encoder that has some."""
    found = [(one, metric_cells(one.structure)) for one in results if one.structure and one.structure.metrics]
    if not found:
        return
    stream.write("\n")
    rows = [
        [
            one.encoder.title,
            *(
                "-"
                if (value := cells[name]) is None
                else f"{value:.4g} ± {cells[f'{name}_stderr'] or math.nan:.2g}"
                for name in LABEL_FREE
            ),
        ]
        for one, cells in found
    ]
    print_table(stream, ["label-free", *(name.replace("_", " ") for name in LABEL_FREE)], rows, left=1)


_Scored = TypeVar("_Scored")


def largest_first(scored: Sequence[_Scored], score: Callable[[_Scored], float]) -> list[_Scored]:
    """The largest score first; what has none, NaN, comes last, as it came."""

    def key(one: _Scored) -> float:
        found = score(one)
        return math.inf if math.isnan(found) else -found

    return sorted(scored, key=key)


def structure_of(result: Result) -> float:
    """The structure score; NaN where there is none."""
    return math.nan if result.structure is None else result.structure.score


def structure_cell(result: Result) -> str:
    """The structure score with its standard error."""
    found = result.structure
    return "-" if found is None else with_error(found.score, found.stderr)


def structure_notes(results: Sequence[Result]) -> list[str]:
    """Lines under a table: what the column `structure` is, and who has none and why.

    Without such a column there is no line, unless an input shape looks like that of an image with its channels last.
    """
    found = [one.structure for one in results if one.structure is not None]
    if not found:
        shapes = dict.fromkeys(one.task.shape for one in results)
        return [
            f"structure: none, because {'x'.join(map(str, shape))} is no image; channels come first, such as "
            f"--input-shape {','.join(map(str, turned))}"
            for shape in shapes
            if not are_images(shape) and are_images(turned := (*shape[-1:], *shape[:-1]))
        ]
    images = max((one.images for one in found), default=0)
    lines = [
        f"structure: classes that no linear map of the pixels separates, 0 chance, 1 no error; {images} images"
    ]
    for one in results:
        if one.structure is None:
            lines.append(printable(f"structure: {one.encoder.title} has none: {one.structure_missing}"))
    return lines
