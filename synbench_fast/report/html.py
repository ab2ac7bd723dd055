"""The leaderboard as one HTML file that needs nothing else: style, program and data are in the file.

The data are JSON in a script element of type application/json, `<` written as \\u003c so that no text of a result
can end the element; arrays are base64 of little-endian float32. The program puts text into the page as text
only, and a content security policy admits no other script and no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Sequence
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbench_fast.errors import SynbenchError
from synbench_fast.report.collection import Board, samples_text
from synbench_fast.report.links import model_page
from synbench_fast.report.ranking import Ranking, rank
from synbench_fast.report.tables import Leaderboard, Table, point_name
from synbench_fast.results.files import write_atomically
from synbench_fast.results.records import Result
from synbench_fast.results.structure import LABEL_FREE, metric_cells

__all__ = ["assembled", "content_digest", "page", "page_file", "write_html"]

# What the page shows of scores, of a suite's mean and worst, and of curves: the names of the fields of the records.
_SCORE = ("score", "stderr", "ci95_low", "ci95_high")
_SUITE_SCORE = tuple(
    f"{kind}{what}" for kind in ("mean", "worst") for what in ("", "_stderr", "_ci95_low", "_ci95_high")
)
_CURVE = ("accuracy", "robust_accuracy", "bound", "raw_accuracy", "raw_bound")
_SCRIPTS = ("elements.js", "data.js", "columns.js", "table.js", "charts.js", "detail.js", "main.js")
_CURVES = 1000  # members of a board whose curves are in the page: those with the best scores
_RANK_EVERY_POINT = 200  # members; larger boards have ranks where the leaderboard shows them


def write_html(path: str | Path, board: Leaderboard) -> Path:
    """Write the page, whole or not at all; returns the path."""
    return write_atomically(path, page(board))


def page(board: Leaderboard) -> str:
    """The text of the page."""
    import synbench_fast

    problems = [*board.collection.problems]
    data = {
        "version": synbench_fast.__version__,
        "boards": [_board(one, problems) for one in board.tables],
        "failures": [[one.encoder, one.reason] for one in board.collection.failures],
        "problems": problems,
        "unfinished": board.collection.unfinished,
    }
    return assembled(page_file("page.html"), [page_file(name) for name in _SCRIPTS], data)


def page_file(name: str) -> str:
    """The text of a file that pages are made of."""
    return (resources.files("synbench_fast.report") / "page" / name).read_text(encoding="utf-8")


def assembled(template: str, scripts: Sequence[str], data: Any) -> str:
    """A page of a template, whose places are @@POLICY@@, @@STYLE@@, @@SCRIPT@@ and @@DATA@@, with the style of the report."""
    script, style = '"use strict";\n' + "\n".join(scripts), page_file("page.css")
    policy = (
        f"default-src 'none'; script-src 'sha256-{content_digest(script)}'; style-src 'sha256-{content_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": embedded(data)}
    pieces = template.split("@@")  # @@NAME@@; what is put in is never searched for names
    return "".join(piece if i % 2 == 0 else parts[piece] for i, piece in enumerate(pieces))


def embedded(data: Any) -> str:
    """JSON that may stand in a script element: without `<`, `>`, `&` and the line ends that only JSON takes."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def content_digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _packed(values: NDArray[np.floating[Any]]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _board(table: Table, problems: list[str]) -> dict[str, Any]:
    board = table.board
    rankings = [*table.rankings, *_other_rankings(table)]
    tasks = board.members[0].tasks
    by_task = [[one.results[place] for one in board.members] for place in range(len(tasks))]
    setups: dict[str, int] = {}
    with_curves = _with_curves(table)
    numbers = np.stack([_scores(board, results) for results in by_task], axis=1)
    data = {
        "title": board.title,
        "verdict": table.verdict(),
        "suite": board.suite,
        "eps": board.eps,
        "thresholds": board.thresholds,
        "shown": table.points[0] if table.points else [board.eps[0], board.thresholds[0]],
        "numbers": _packed(numbers),
        "ranks": [
            {
                "eps": one.eps,
                "threshold": one.threshold,
                "method": one.method,
                "note": one.note,
                "values": _packed(
                    np.array([(math.nan,) * 2 if pair is None else pair for pair in one.ranks], dtype=float)
                ),
            }
            for one in rankings
        ],
        "drawn": with_curves,
        "tasks": [
            {"name": name, **_curves(board, [results[i] for i in with_curves], problems)}
            for name, results in zip(tasks, by_task, strict=True)
        ],
        "members": _members(table, setups),
        "setups": [json.loads(one) for one in setups],
    }
    if board.suite:
        data |= _means(board, tasks)
    data["families"] = _families(board)
    return data


def _other_rankings(table: Table) -> list[Ranking]:
    board = table.board
    rest = [(e, a) for e in board.eps for a in board.thresholds if (e, a) not in table.points]
    if len(board.members) > _RANK_EVERY_POINT and not board.suite:
        return []
    return rank(board, rest, pairs_limit=0)


def _means(board: Board, tasks: Sequence[str]) -> dict[str, Any]:
    """[M, E, A, 8] means and worst of suites, and which task is the worst."""
    grid = [(e, a) for e in board.eps for a in board.thresholds]
    means = np.full((len(board.members), len(grid), len(_SUITE_SCORE)), np.nan)
    worst = np.full((len(board.members), len(grid)), -1)
    for row, which, one in zip(means, worst, board.members, strict=True):
        for at, point in enumerate(grid):
            place = one.first.place(*point)
            if one.suite is not None and place is not None:
                found = one.suite.scores[place]
                row[at] = attrgetter(*_SUITE_SCORE)(found)
                which[at] = tasks.index(found.worst_task) if found.worst_task in tasks else -1
    return {"means": _packed(means), "worst": worst.tolist()}


def _families(board: Board) -> list[dict[str, Any]]:
    """Of each task of a family: its name, and [score, standard error, pair accuracy, optimum] of every member."""
    listed = [[] if one.suite is None else one.suite.families for one in board.members]
    return [
        {
            "name": own[0].task,
            "numbers": [
                [
                    _short(v) if math.isfinite(v) else None
                    for v in (f.score, f.stderr, f.pair_accuracy, f.optimum)
                ]
                for f in own
            ],
        }
        for own in zip(*listed, strict=True)
    ]


def _scores(board: Board, results: Sequence[Result]) -> NDArray[np.float64]:
    """[M, E, A, 4] of one task, NaN where a result lacks a budget or threshold of the board."""
    eps, thresholds, numbers = board.eps, board.thresholds, attrgetter(*_SCORE)
    found = np.full((len(results), len(eps), len(thresholds), len(_SCORE)), np.nan)
    for row, one in zip(found, results, strict=True):
        values = np.array([numbers(score) for score in one.scores])
        values = values.reshape(len(one.eps), len(one.thresholds), len(_SCORE))
        if one.eps == eps and one.thresholds == thresholds:
            row[:] = values
        else:
            row[np.ix_([eps.index(e) for e in one.eps], [thresholds.index(a) for a in one.thresholds])] = (
                values
            )
    return found


def _with_curves(table: Table) -> list[int]:
    """Members whose curves are in the page."""
    name = f"score_{point_name(*table.points[0])}" if table.points else ""
    scores = [row.get(name) for row in table.rows]
    known = [-one if isinstance(one, float) else math.inf for one in scores]
    best = sorted(range(len(known)), key=lambda i: known[i])
    return best[:_CURVES]


def _curves(board: Board, results: Sequence[Result], problems: list[str]) -> dict[str, Any]:
    """Curves [M, S, E, 3] and the raw data's optimum [S, E, 2] of one task; a file that has none is a problem."""
    scales, eps, numbers = results[0].task.scales, board.eps, attrgetter(*_CURVE)
    found = np.full((len(results), len(scales), len(eps), len(_CURVE)), np.nan, dtype=np.float32)
    for row, one in zip(found, results, strict=True):
        try:
            values = np.array([numbers(point) for point in one.curve], dtype=np.float32)
        except SynbenchError as error:
            if str(error) not in problems:
                problems.append(str(error))
            continue
        row[:, [eps.index(e) for e in one.eps]] = values.reshape(len(scales), len(one.eps), len(_CURVE))
    found[np.isinf(found)] = np.nan
    raw = np.full((len(scales), len(eps), 2), np.nan, dtype=np.float32)
    for values in found:  # the optimum depends on the task alone; any result that has the budget will do
        raw = np.where(np.isnan(raw), values[..., 3:], raw)
        if not np.isnan(raw).any():
            break
    return {"scales": scales, "curves": _packed(found[..., :3]), "raw": _packed(raw)}


def _members(table: Table, setups: dict[str, int]) -> dict[str, Any]:
    """Columns of the members; what many share (how it was run, where) is kept once, in `setups`."""
    members = table.board.members
    names = (
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
    )
    columns: dict[str, list[Any]] = {name: [_short(row[name]) for row in table.rows] for name in names}
    firsts = [one.first for one in members]
    columns |= {
        "spec": [one.encoder.spec for one in firsts],
        "page": [model_page(one.encoder) for one in firsts],
        "structure_missing": [one.structure_missing for one in firsts],
        "structure_profile": [
            [] if one.structure is None else [[f.family, _short(f.score)] for f in one.structure.families]
            for one in firsts
        ],
        "label_free": [
            [
                [name, _short(found[name]), _short(found[f"{name}_stderr"])]
                for name in LABEL_FREE
                if found[name] is not None
            ]
            for found in (metric_cells(one.structure) for one in firsts)
        ],
        "configuration": table.board.configurations,
        "sha": [one.encoder.weights_sha256 for one in firsts],
        "revision": [one.encoder.revision for one in firsts],
        "checkpoint": [one.encoder.checkpoint for one in firsts],
        "file": [os.path.basename(one.file) for one in members],
        "command": [one.document.command for one in members],
        "warnings": [one.document.warnings for one in members],
        "phases": [
            {key: _short(value) for key, value in one.cost.seconds.items() if key != "total"}
            for one in firsts
        ],
        "setup": [setups.setdefault(_setup(one), len(setups)) for one in firsts],
        "device": [one.cost.device for one in firsts],
        "dtype": [one.cost.dtype for one in firsts],
    }
    return columns


def _short(value: Any) -> Any:
    """Six digits of a float."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _setup(result: Result) -> str:
    """How and where one result was made, as JSON text."""
    cost, environment, prepared = result.cost, result.environment, result.encoder.preprocessing
    flags = [
        name.replace("_", " ") for name in ("channels_last", "compiled", "cuda_graph") if getattr(cost, name)
    ]
    gpus = [one.name for one in environment.gpus] if cost.device.startswith("cuda") else []
    facts = {
        "Source": result.encoder.source + (", untrained weights" if result.encoder.random_init else ""),
        "Input": "x".join(str(one) for one in prepared.input_shape),
        "Normalisation": "none"
        if prepared.mean is None and prepared.std is None
        else f"mean {_listed(prepared.mean)}; std {_listed(prepared.std)}",
        "Pooling": prepared.pool or "the library's",
        "Samples per scale": samples_text(result.task),
        "Estimator": result.estimator,
        "Threshold integral": result.integral,
        "Seed": str(result.seed),
        "Arithmetic": f"{cost.dtype} (asked for: {result.arithmetic.requested})",
        "Device": ", ".join([cost.device, *gpus]),
        "Batch size": str(cost.batch_size),
        "Forward pass": ", ".join(flags) or "plain",
        "Threads": str(cost.threads),
        "Processor": f"{environment.cpu}, {environment.cores} cores",
        "Platform": f"{environment.platform}, Python {environment.python}",
        "Versions": ", ".join(f"{name} {version}" for name, version in environment.versions.items()),
        "Git commit": (environment.git_commit or "unknown")
        + (" with changes" if environment.git_dirty else ""),
        "Backends": ", ".join(f"{name}: {backend}" for name, backend in result.backends.items()),
    }
    return json.dumps(facts)


def _listed(values: Sequence[float] | None) -> str:
    return "none" if values is None else ", ".join(f"{one:g}" for one in values)
