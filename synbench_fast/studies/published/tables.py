"""Tables of accuracies that others measured: those of timm and CLIP_benchmark as they are published, and plain ones."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from synbench_fast.arguments import decimal
from synbench_fast.errors import SynbenchError
from synbench_fast.results.files import read_text

__all__ = ["CsvRow", "Measurement", "csv_rows", "read_measurements"]

# Names of the second kind are those of other papers and libraries.
_TIMM_DATA = {"sketch": "imagenet-sketch", "inv2-matched-frequency": "imagenetv2-matched-frequency"}
_TIMM_METRICS = ("top1", "top5")
_CLIP_OTHERS = ("dataset", "model", "pretrained", "task", "language", "model_fullname")
_DEFAULT_METRICS = ("top1", "acc1", "lp_acc1")
_DATA = ("data set", "data_set", "dataset", "data")
_PLAIN = ("encoder", *_DATA, "metric", "value", "error")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One value that others measured of one encoder.

    Attributes:
        encoder: its name in the table; of timm `timm:MODEL`, of CLIP_benchmark `open_clip:MODEL/PRETRAINED`.
        data, metric: the data set and what was measured on it.
        value: accuracies of timm as fractions; others as they are in the table.
        error: standard error, in the units of the value; None where the table has none. The column `top1_err` of timm
            is no standard error but 100 - top1, and is not read.
        parameters: number of parameters in the table, None where it has none.
        size: side of the images that the encoder was measured on, None where the table does not say it.
        file: the table.
    """

    encoder: str
    data: str
    metric: str
    value: float
    error: float | None
    parameters: float | None
    size: int | None
    file: str


@dataclass(frozen=True)
class CsvRow:
    """A row of a file: its cells by column, and where it stands for messages."""

    place: str
    cells: Mapping[str, str]

    def number(self, column: str) -> float | None:
        """The finite number in a column, None where the cell is empty or says nan; thousands may have commas."""
        text = self.cells.get(column, "").strip()
        if text.lower() in ("", "nan", "-"):
            return None
        # A comma elsewhere may be that of a decimal: 0,85 is not 85.
        grouped = re.fullmatch(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?", text)
        found = decimal(text.replace(",", "") if grouped else text)
        if found is None:
            raise SynbenchError(f"{self.place}: {column}: expected a finite number, got {text!r}")
        return found

    def word(self, column: str) -> str:
        """The text in a column, which may not be empty."""
        text = self.cells[column].strip()
        if not text:
            raise SynbenchError(f"{self.place}: {column}: expected a name, got an empty cell")
        return text


def csv_rows(path: str | Path) -> tuple[list[str], list[CsvRow]]:
    """Columns and rows of a CSV file with one header; empty lines are left out.

    Raises:
        SynbenchError: one line that names the file: not readable, no rows, a column twice, a row of another length.
    """
    text = read_text(path, "CSV", regular=True).removeprefix("\ufeff")
    try:
        lines = csv.reader(io.StringIO(text), strict=True)
        filled = [(lines.line_num, line) for line in lines if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise SynbenchError(f"{path}: expected a CSV file, got one that is not: {error}") from None
    if len(filled) < 2:
        raise SynbenchError(f"{path}: expected a header and at least one row, got {len(filled)} lines")
    header = [one.strip() for one in filled[0][1]]
    for one in header:
        if header.count(one) > 1:
            raise SynbenchError(f"{path}: expected every column once, got {one!r} twice")
    rows = []
    for number, cells in filled[1:]:
        if len(cells) != len(header):
            raise SynbenchError(
                f"{path}: line {number}: expected {len(header)} cells as the header has, got {len(cells)}"
            )
        rows.append(CsvRow(f"{path}: line {number}", dict(zip(header, cells, strict=True))))
    return header, rows


def read_measurements(path: str | Path, metrics: Sequence[str] | None = None) -> list[Measurement]:
    """What a table of accuracies says, in its order.

    The columns tell the layout:

    - `model, top1, ...`: a file of `results/` of timm. Its name is that of the data set: `results-imagenet-a.csv` is
      imagenet-a. Accuracies are made fractions, and `param_count` (millions) the number of parameters.
    - `dataset, model, pretrained, ...`: a file of CLIP_benchmark. Every other column of numbers is a metric.
    - `encoder, data set, metric, value` and, if wanted, `error`: a plain table; the second column may be called
      data_set, dataset or data.

    Args:
        path: of a CSV file in UTF-8. Rows without a value are left out.
        metrics: those to read; None for the ordinary accuracy (top1, acc1, lp_acc1), of a plain table for all.

    Raises:
        SynbenchError: one line that names the file, and where it can the line: other columns, text that is no number,
            no row of these metrics.
    """
    header, rows = csv_rows(path)
    if {"dataset", "model", "pretrained"} <= set(header):
        found = list(_clip(str(path), header, rows, metrics or _DEFAULT_METRICS))
    elif {"model", "top1"} <= set(header):
        found = list(_timm(Path(path), header, rows, metrics or _DEFAULT_METRICS))
    elif {"encoder", "metric", "value"} <= set(header) and any(one in header for one in _DATA):
        found = list(_plain(str(path), header, rows, metrics))
    else:
        raise SynbenchError(
            f"{path}: expected the columns of timm (model, top1, ...), of CLIP_benchmark (dataset, model, pretrained, "
            f"...) or encoder, data set, metric, value, got {', '.join(header)[:200]}"
        )
    if not found:
        wanted = "a value" if metrics is None else f"values of {', '.join(metrics)}"
        raise SynbenchError(f"{path}: expected {wanted}, got none in {len(rows)} rows")
    return found


def _timm(
    path: Path, header: Sequence[str], rows: Sequence[CsvRow], metrics: Sequence[str]
) -> Iterator[Measurement]:
    data = path.stem.removeprefix("results-")
    for row in rows:
        millions, size = row.number("param_count"), row.number("img_size")
        for metric in _TIMM_METRICS:
            percent = row.number(metric) if metric in metrics and metric in header else None
            if percent is not None:
                yield Measurement(
                    encoder=f"timm:{row.word('model')}",
                    data=_TIMM_DATA.get(data, data),
                    metric=metric,
                    value=percent / 100,
                    error=None,
                    parameters=None if millions is None else millions * 1e6,
                    size=None if size is None else round(size),
                    file=str(path),
                )


def _clip(
    path: str, header: Sequence[str], rows: Sequence[CsvRow], metrics: Sequence[str]
) -> Iterator[Measurement]:
    for row in rows:
        language = row.cells.get("language", "").strip()
        data = row.word("dataset") + (f" {language}" if language not in ("", "en") else "")
        for metric in header:
            value = row.number(metric) if metric in metrics and metric not in _CLIP_OTHERS else None
            if value is not None:
                yield Measurement(
                    encoder=f"open_clip:{row.word('model')}/{row.word('pretrained')}",
                    data=data,
                    metric=metric,
                    value=value,
                    error=None,
                    parameters=None,
                    size=None,
                    file=path,
                )


def _plain(
    path: str, header: Sequence[str], rows: Sequence[CsvRow], metrics: Sequence[str] | None
) -> Iterator[Measurement]:
    column = next(one for one in _DATA if one in header)
    for one in header:
        if one not in _PLAIN or (one in _DATA and one != column):
            raise SynbenchError(
                f"{path}: expected the columns encoder, {column}, metric, value and error, got {one!r}"
            )
    for row in rows:
        metric, value, error = row.word("metric"), row.number("value"), row.number("error")
        if error is not None and error < 0:
            raise SynbenchError(f"{row.place}: error: expected a number of at least 0, got {error:g}")
        if value is not None and (metrics is None or metric in metrics):
            yield Measurement(
                encoder=row.word("encoder"),
                data=row.word(column),
                metric=metric,
                value=value,
                error=error,
                parameters=None,
                size=None,
                file=path,
            )
