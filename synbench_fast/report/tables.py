"""The leaderboard: boards of rows with equal columns, and the tables, CSV, Markdown and Parquet made of them."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.printable import cells, printable
from synbench_fast.report.collection import Board, Collection, Item, boards, samples_text
from synbench_fast.report.ranking import BOUND_LIMIT, Ranking, rank
from synbench_fast.report.verdict import verdict
from synbench_fast.results.files import write_atomically
from synbench_fast.results.structure import metric_cells

__all__ = ["Leaderboard", "Table", "leaderboard", "write_csv", "write_markdown", "write_parquet"]

Cell = str | int | float | None

# Sorted from the largest down; the others from the smallest up.
_MORE_IS_BETTER = (
    "score", "mean", "worst", "ci95", "structure", "family_", "robust_area", "images_per_second",
)  # fmt: skip
_METHODS = {
    "pairs": "ranks hold together with 95 % (simulated over all pairs)",
    "bound": "ranks hold together with at least 95 % (all pairs, Sidak's bound)",
    "separate": "ranks hold together with at least 95 % (separate intervals, Bonferroni)",
    "none": "no ranks",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """One board: `points` are its (eps, threshold), `rows` have every column, None where there is nothing."""

    board: Board
    points: list[tuple[float, float]]
    rankings: list[Ranking]
    rows: list[dict[str, Cell]]
    order: list[int]

    def note(self) -> str:
        """What the numbers are and how the ranks were made."""
        methods = list(dict.fromkeys(_METHODS[one.method] for one in self.rankings))
        notes = list(dict.fromkeys(one.note for one in self.rankings if one.note))
        what = "mean over the tasks" if self.board.suite else "score"
        missing = dict.fromkeys(one.first.structure_missing for one in self.board.members)
        none = [f"structure -: {one}" for one in missing if one and "" in missing]  # some have one
        return "; ".join([f"{what} ± one standard error", *methods, *notes, *none])

    def verdict(self) -> list[str]:
        """The sentences of `verdict`, at the budgets and the lowest threshold shown; of at most BOUND_LIMIT members."""
        if not self.points or len(self.rows) > BOUND_LIMIT:
            return []
        return verdict(
            [one.document for one in self.board.members],
            eps=list(dict.fromkeys(eps for eps, _ in self.points)),
            thresholds=[min(threshold for _, threshold in self.points)],
        )


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Tables of what can be compared, and what failed. `columns`: of every row, in order."""

    collection: Collection
    tables: list[Table]
    columns: list[str]

    def rows(self) -> list[dict[str, Cell]]:
        """All rows in order, failures last."""
        found = [table.rows[i] for table in self.tables for i in table.order]
        for one in self.collection.failures:
            failed: dict[str, Cell] = {"encoder": one.encoder, "status": "failed", "reason": one.reason}
            found.append({**dict.fromkeys(self.columns), **failed})
        return found


def leaderboard(
    collection: Collection,
    *,
    eps: Sequence[float] | None = None,
    thresholds: Sequence[float] | None = None,
    sort: str | None = None,
    reverse: bool = False,
) -> Leaderboard:
    """Rows of a collection, board by board, and their ranks.

    Args:
        eps: budgets to show; default all that a board has.
        thresholds: likewise; default the lowest of each board.
        sort: column; default `structure` on a board that has structure scores, as the verdict goes by it, else `score`.
            `score`, `rank` and `worst` are short for those at the first budget and threshold.
        reverse: turn the order round. Empty cells come last either way.

    Raises:
        SynbenchError: a budget or threshold that no board has; an unknown column.
    """
    found = boards(collection.items)
    for name, wanted, known in (
        ("eps", eps, sorted({one for board in found for one in board.eps})),
        ("thresholds", thresholds, sorted({one for board in found for one in board.thresholds})),
    ):
        for one in wanted or ():
            if one not in known:
                listed = ", ".join(f"{value:g}" for value in known)
                raise SynbenchError(f"{name}: expected values that results have ({listed}), got {one:g}")
    tables: list[Table] = []
    problems = [*collection.problems]
    for board in found:
        points = [
            (e, a)
            for e in (board.eps if eps is None else [one for one in eps if one in board.eps])
            for a in (
                board.thresholds[:1]
                if thresholds is None
                else [one for one in thresholds if one in board.thresholds]
            )
        ]
        rankings = rank(board, points, problems=problems)
        rows = _rows(len(tables) + 1, board, points, rankings)
        tables.append(
            Table(board=board, points=points, rankings=rankings, rows=rows, order=list(range(len(rows))))
        )
    columns = _columns(tables)
    sorting = _sort_column(sort, columns)
    tables = [
        Table(
            board=table.board,
            points=table.points,
            rankings=table.rankings,
            rows=[{**dict.fromkeys(columns), **row} for row in table.rows],
            order=_ordered(table, sorting, reverse),
        )
        for table in tables
    ]
    return Leaderboard(collection=replace(collection, problems=problems), tables=tables, columns=columns)


def point_name(eps: float, threshold: float) -> str:
    """How columns name a budget and threshold."""
    return f"eps{eps:g}_a{threshold:g}"


def _columns(tables: Sequence[Table]) -> list[str]:
    """Every column of any row: those of budgets stand where the first row has them."""
    head = ["board", "encoder", "configuration"]
    tail = [
        "structure",
        "structure_stderr",
        "robust_area",
        "robust_area_stderr",
        "robust_area_ratio",
        "images_per_second",
        "seconds",
        "images",
        "parameters",
        "feature_dim",
        "dropped",
        "peak_memory_bytes",
        "device",
        "dtype",
        "samples",
        "warnings",
        "status",
        "reason",
        "file",
    ]
    middle = dict.fromkeys(key for table in tables for row in table.rows for key in row)
    return [*head, *(key for key in middle if key not in head and key not in tail), *tail]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rows(
    number: int, board: Board, points: Sequence[tuple[float, float]], rankings: Sequence[Ranking]
) -> list[dict[str, Cell]]:
    rows = []
    for i, item in enumerate(board.members):
        cells: dict[str, Cell] = {
            "board": number,
            "encoder": item.first.encoder.spec,
            "configuration": board.configurations[i],
        }
        for (eps, threshold), ranking in zip(points, rankings, strict=True):
            name = point_name(eps, threshold)
            cells |= {f"{key}_{name}": value for key, value in _numbers(item, eps, threshold).items()}
            cells[f"best_rank_{name}"], cells[f"worst_rank_{name}"] = ranking.ranks[i] or (None, None)
        for family in item.suite.families if item.suite is not None else ():
            cells[f"family_{family.task}"] = _finite(family.score)
            cells[f"family_{family.task}_stderr"] = _finite(family.stderr)
        cells |= _costs(item)
        rows.append(cells)
    return rows


def _numbers(item: Item, eps: float, threshold: float) -> dict[str, Cell]:
    """The score, of a suite the mean and the worst, at one budget and threshold."""
    place = item.first.place(eps, threshold)
    if item.suite is None:
        one = None if place is None else item.first.scores[place]
        return {
            name: None if one is None else _finite(getattr(one, name))
            for name in ("score", "stderr", "ci95_low", "ci95_high")
        }
    both = None if place is None else item.suite.scores[place]
    found: dict[str, Cell] = {
        column: None if both is None else _finite(getattr(both, name))
        for column, name in (
            ("score", "mean"),
            ("stderr", "mean_stderr"),
            ("ci95_low", "mean_ci95_low"),
            ("ci95_high", "mean_ci95_high"),
            *((name, name) for name in ("worst", "worst_ci95_low", "worst_ci95_high")),
        )
    }
    return {**found, "worst_task": "" if both is None else both.worst_task}


def _costs(item: Item) -> dict[str, Cell]:
    """What follows the scores. Of a suite: sums over the tasks, the mean robust area, the largest memory."""
    results, first = item.results, item.first
    areas = [one.robust_area for one in results]
    seconds = sum(one.cost.seconds.get("total", math.nan) for one in results)
    images = sum(one.cost.images for one in results)
    # A suite's forward passes take their own time each; the rate is over all of them.
    busy = sum(one.cost.images / one.cost.images_per_second for one in results) if images else math.nan
    single = len(results) == 1
    structure = first.structure
    return {
        "structure": None if structure is None else _finite(structure.score),
        "structure_stderr": None if structure is None else _finite(structure.stderr),
        **(metric_cells(structure) if structure is not None and structure.metrics else {}),
        "robust_area": _mean([one.value for one in areas]),
        "robust_area_stderr": _finite(areas[0].stderr) if single else None,
        "robust_area_ratio": _mean([one.ratio for one in areas]),
        "images_per_second": first.cost.images_per_second if single else _finite(images / busy),
        "seconds": _finite(seconds),
        "images": images,
        "parameters": first.encoder.parameters,
        "feature_dim": first.encoder.feature_dim,
        "dropped": max(max(one.dropped, default=0) for one in results),
        "peak_memory_bytes": max(one.cost.peak_memory_bytes for one in results),
        "device": first.cost.device,
        "dtype": first.cost.dtype,
        "samples": samples_text(first.task),
        "warnings": len(item.document.warnings),
        "status": "scored",
        "reason": None,
        "file": item.file,
    }


def _mean(values: Sequence[float]) -> float | None:
    return _finite(sum(values) / len(values)) if values else None


def _sort_column(sort: str | None, columns: Sequence[str]) -> str | None:
    """The column meant; None for the default."""
    if sort is None or sort in ("score", "rank", "worst") or sort in columns:
        return sort
    known = ["score", "rank", "worst", *columns]
    raise SynbenchError(f"sort: expected a column such as {known[0]}, got {sort!r}{suggest(sort, known)}")


def _ordered(table: Table, sort: str | None, reverse: bool) -> list[int]:
    if not table.points:
        return list(range(len(table.rows)))
    if sort is None and any(row.get("structure") is not None for row in table.rows):
        sort = "structure"
    first = point_name(*table.points[0])
    short = {"score": f"score_{first}", "rank": f"best_rank_{first}", "worst": f"worst_{first}"}
    name = short.get(sort or "score") or sort or ""
    values = [row.get(name) for row in table.rows]
    known = [i for i, value in enumerate(values) if value is not None]
    missing = [i for i, value in enumerate(values) if value is None]
    descending = (
        name.startswith(_MORE_IS_BETTER) and not name.startswith("worst_rank") and "_task" not in name
    )

    def key(i: int) -> Any:
        value = values[i]
        return value.lower() if isinstance(value, str) else value

    return sorted(known, key=key, reverse=descending != reverse) + missing


def count_text(value: Cell) -> str:
    """`23.6 k`, `86.6 M`: a number of parameters for a person."""
    if not isinstance(value, int):
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def _shown(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text for a terminal and for Markdown."""
    from synbench_fast.results.records import width_text, with_error

    configured = any(table.board.configurations)
    single = len({a for _, a in table.points}) == 1
    structured = any(row["structure"] is not None for row in table.rows)
    families = [] if table.board.members[0].suite is None else table.board.members[0].suite.families
    columns = ["encoder", *(["configuration"] if configured else []), *(["structure"] if structured else [])]
    for eps, threshold in table.points:
        at = f"eps={eps:g}" + ("" if single else f" a={threshold:g}")
        columns += [f"rank {at}", f"{'mean' if table.board.suite else 'score'} {at}"]
        if table.board.suite:
            columns.append(f"worst {at}")
    columns += [one.task for one in families]
    columns += ["robust area", "images/s", "seconds", "parameters", "F", "memory", "warnings"]
    rows = []
    for i in table.order:
        row = table.rows[i]
        cells = [str(row["encoder"]), *([str(row["configuration"])] if configured else [])]
        if structured:
            cells.append(_error(row["structure"], row["structure_stderr"], with_error))
        for point in table.points:
            name = point_name(*point)
            low, high = row[f"best_rank_{name}"], row[f"worst_rank_{name}"]
            cells.append("-" if low is None else str(low) if low == high else f"{low}-{high}")
            cells.append(_error(row[f"score_{name}"], row[f"stderr_{name}"], with_error))
            if table.board.suite:
                worst = row[f"worst_{name}"]
                cells.append("-" if worst is None else f"{worst:.4f} {row[f'worst_task_{name}']}")
        for one in families:
            name = f"family_{one.task}"
            cells.append(_error(row[name], row[f"{name}_stderr"], with_error))
        seconds, memory = row["seconds"], row["peak_memory_bytes"]
        features, dropped = row["feature_dim"], row["dropped"]
        assert isinstance(features, int) and isinstance(dropped, int)
        cells += [
            _error(row["robust_area"], row["robust_area_stderr"], with_error),
            f"{row['images_per_second']:.1f}" if row["images_per_second"] is not None else "-",
            f"{seconds:.1f}" if isinstance(seconds, float) else "-",
            count_text(row["parameters"]),
            width_text(features, dropped),
            f"{memory / 2**20:.0f} MiB" if isinstance(memory, int) and memory else "-",
            str(row["warnings"] or ""),
        ]
        rows.append(cells)
    return columns, rows


def _error(value: Cell, stderr: Cell, text: Any) -> str:
    if not isinstance(value, float):
        return "-"
    return str(text(value, stderr if isinstance(stderr, float) else math.nan))


def print_tables(stream: TextIO, board: Leaderboard, *, wide: bool = False) -> None:
    """Every board on a terminal: its title, its rows, its note, the verdict; then what failed.

    wide: a narrow terminal gets all columns too.
    """
    from synbench_fast.printable import print_table

    for number, table in enumerate(board.tables):
        above = sorted({a for _, a in table.points})
        title = table.board.title + (f"; above accuracy {above[0]:g}" if len(above) == 1 else "")
        stream.write(("\n" if number else "") + printable(title) + "\n")
        columns, rows = _shown(table)
        if rows and table.points:
            if len(rows) > 200:
                _print_plain(stream, columns, rows)
            else:
                drop = ["memory", "F", "parameters", "seconds", "images/s", "warnings", "robust area"]
                drop += [
                    one for one in columns[1:] if one.startswith(("score ", "rank ", "mean ", "worst "))
                ][:1:-1]
                print_table(
                    stream,
                    columns,
                    rows,
                    left=2 if any(table.board.configurations) else 1,
                    drop=() if wide else drop,
                )
            stream.write(printable(table.note()) + "\n")
            for line in table.verdict():
                stream.write(line + "\n")
        else:
            stream.write("nothing at the budgets and thresholds asked for\n")
    if board.collection.unfinished:
        stream.write(f"not finished: {board.collection.unfinished}\n")
    for one in board.collection.failures:
        stream.write(printable(f"failed: {one.encoder}: {' '.join(one.reason.split())}") + "\n")
    stream.flush()


def _print_plain(stream: TextIO, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The same table as `print_table` makes off a terminal, in time proportional to its size."""
    rows = [[printable(one) for one in row] for row in rows]
    widths = [max(len(one) for one in column) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        padded = [
            one.ljust(width) if i == 0 else one.rjust(width)
            for i, (one, width) in enumerate(zip(row, widths, strict=True))
        ]
        stream.write("  ".join(padded).rstrip() + "\n")


def write_csv(stream: TextIO, board: Leaderboard) -> None:
    """A header and one row per encoder and configuration; an empty cell where there is nothing."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(board.columns)
    writer.writerows(cells(row[name] for name in board.columns) for row in board.rows())


def write_markdown(stream: TextIO, board: Leaderboard) -> None:
    """A Markdown table for each board."""
    for number, table in enumerate(board.tables):
        columns, rows = _shown(table)
        left = 2 if any(table.board.configurations) else 1
        stream.write(("\n" if number else "") + f"**{_markdown(table.board.title)}**\n\n")
        stream.write("| " + " | ".join(_markdown(one) for one in columns) + " |\n")
        stream.write("|" + "|".join(" --- " if i < left else " ---: " for i in range(len(columns))) + "|\n")
        stream.writelines("| " + " | ".join(_markdown(one) for one in row) + " |\n" for row in rows)
        stream.write(f"\n{_markdown(table.note())}\n")
    if board.collection.failures:
        stream.write("\n**failed**\n\n| encoder | reason |\n| --- | --- |\n")
        stream.writelines(
            f"| {_markdown(one.encoder)} | {_markdown(one.reason)} |\n" for one in board.collection.failures
        )


def write_text(
    path: str | os.PathLike[str], board: Leaderboard, write: Callable[[TextIO, Leaderboard], None]
) -> Path:
    """What `write` puts into a stream, as a file that is whole or absent."""
    stream = io.StringIO()
    write(stream, board)
    return write_atomically(path, stream.getvalue())


def to_dict(board: Leaderboard) -> dict[str, Any]:
    """Plain JSON values: the boards with their titles, notes and rows, what failed and what could not be read."""
    return {
        "boards": [
            {
                "title": table.board.title,
                "note": table.note(),
                "rankings": [
                    {"eps": one.eps, "threshold": one.threshold, "method": one.method}
                    for one in table.rankings
                ],
                "rows": [table.rows[i] for i in table.order],
            }
            for table in board.tables
        ],
        "failures": [{"encoder": one.encoder, "reason": one.reason} for one in board.collection.failures],
        "problems": board.collection.problems,
    }


def _markdown(text: str) -> str:
    """Text as itself: characters that Markdown or HTML would read are escaped."""
    plain = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + one if one in "\\`*_[]|~#" else one for one in plain)


def write_parquet(path: str | os.PathLike[str], board: Leaderboard) -> Path:
    """The rows as a Parquet file; SynbenchError without pyarrow (extra `parquet`) or where none can be written."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise SynbenchError(
            'parquet: expected pyarrow, got none; pip install "synbench-fast[parquet]"'
        ) from None
    rows = board.rows()
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    columns = {}
    for name in board.columns:
        values = [row[name] for row in rows]
        found = {type(one) for one in values if one is not None}
        kind = float if found == {int, float} else next(iter(found), float)
        columns[name] = pyarrow.array(values, type=kinds[kind])
    target = Path(path)
    try:
        parquet.write_table(pyarrow.table(columns), target)
    except OSError as error:
        raise SynbenchError(
            f"{target}: expected a file that can be written, got: {error.strerror or first_line(error)}"
        ) from None
    return target
