"""The leaderboard of the zoo: one HTML file made of the stored rows, with the table of the package's own report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synbench_fast.report.html import assembled, page_file
from synbench_fast.report.ranking import separate_ranks
from zoo.factories import spec
from zoo.validity import ALL, Row, over_data

KINDS = {"network": "pretrained", "twin": "twin", "trivial": "trivial"}
FAMILIES = ("texture", "shapes", "instances")
_SHARED = ("elements.js", "table.js", "detail.js")


def command(row: Row) -> str:
    """The shell line that measures both scores of a row again; `zoo.scores` has the same settings."""
    samples = max(256, 2 * row["F"])
    return (
        f"cd benchmarks && synbench-fast run {spec(row['encoder'])} --preset quick --scales 6 --samples {samples} "
        "--average published --threads 1"
    )


def members(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry per row that has a structure score, the best first.

    `ranks` are the best and the worst place that the standard errors leave open, for all rows together with at least
    95 %. An accuracy is a mean over the data sets, with the lowest and the highest of them beside it.
    """
    ordered = sorted((row for row in rows if "structure" in row), key=lambda row: -row["structure"][0])
    score, error = np.array([row["structure"] for row in ordered], dtype=np.float64).reshape(-1, 2).T
    ranks = separate_ranks(score, error, np.ones(len(ordered), dtype=bool)).tolist()
    return [
        _member(row, place, ends) for place, (row, ends) in enumerate(zip(ordered, ranks, strict=True), 1)
    ]


def _member(row: Row, place: int, ranks: Sequence[int]) -> dict[str, Any]:
    accuracies = {name: [one["accuracy"], one["error"]] for name, one in row["data"].items()}
    values = [one for one, _ in accuracies.values()]
    published = row["published"]["0"] if "published" in row else [None, None]
    return {
        "name": row["encoder"],
        "kind": KINDS[row["kind"]],
        "trained_for": row["trained_for"],
        "half": row["half"],
        "place": place,
        "ranks": list(ranks),
        "parameters": row["parameters"],
        "features": row["F"],
        "structure": row["structure"],
        "families": [row["families"][one] for one in FAMILIES],
        "published": published,
        "accuracy": [over_data(row, "accuracy", ALL), min(values), max(values)],
        "data": accuracies,
        "command": command(row),
    }


def page(rows: Sequence[Row]) -> str:
    """The text of the page. It depends on the rows and the files of both pages alone."""
    own = Path(__file__).with_name("page")
    data = {"families": FAMILIES, "members": members(rows)}
    scripts = [*map(page_file, _SHARED), (own / "leaderboard.js").read_text(encoding="utf-8")]
    return assembled((own / "leaderboard.html").read_text(encoding="utf-8"), scripts, data)
