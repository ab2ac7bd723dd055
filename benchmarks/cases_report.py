"""Reports: how long 10 000 stored results take, beside parsing their headers alone."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from harness import Case
from torch import Tensor

import synbench_fast as sb
from synbench_fast.report import leaderboard, load_results
from synbench_fast.report.html import write_html
from synbench_fast.results.arrays import arrays_path
from synbench_fast.results.records import Result

COUNT = 10_000


def varied(count: int) -> Iterator[Result]:
    """Results of one board: a real one of the standard preset, with other names, weights and scores."""
    mix = torch.randn(3 * 8 * 8, 64, generator=torch.Generator().manual_seed(0)) / 10

    def encoder(x: Tensor) -> Tensor:
        return torch.relu(x.flatten(1) @ mix)

    base = sb.score(encoder, input_shape=(3, 8, 8), threads=1)
    rng = np.random.default_rng(0)
    for number, shift in enumerate(rng.normal(0, 0.1, count).tolist()):
        scores = [dataclasses.replace(one, score=one.score + shift) for one in base.scores]
        identity = {"spec": f"timm:model{number}", "weights_sha256": f"{number:064x}"}
        yield dataclasses.replace(base, encoder=dataclasses.replace(base.encoder, **identity), scores=scores)


@cache
def stored(count: int) -> tuple[tempfile.TemporaryDirectory[str], dict[str, float]]:
    """A folder of results, and the scores in it by encoder. What `save` writes, without waiting for the disk."""
    folder, scores = tempfile.TemporaryDirectory(), {}
    for result in varied(count):
        header, arrays = result.to_files()
        path = Path(folder.name) / result.file_name()
        path.write_text(header, encoding="utf-8")
        arrays_path(path).write_bytes(arrays)
        scores[result.encoder.spec] = result.score().score
    return folder, scores


def report() -> Case:
    folder, scores = stored(COUNT)
    place = Path(folder.name)

    def ours() -> dict[str, float]:
        board = leaderboard(load_results(place))
        write_html(place / "report.html", board)
        return {str(row["encoder"]): float(row["score_eps0_a0.6"] or math.nan) for row in board.rows()}

    def headers() -> int:
        return sum(len(json.loads(one.read_bytes())) for one in place.glob("*.json"))

    return Case(
        unit="result",
        work=COUNT,
        parity=lambda: (float(ours() != scores), 0.0),
        ours=ours,
        baseline=headers,
        baseline_name="json.loads of the headers alone",
        target=4.0,
        kind="at_most",
        repeat=3,
        note="table and page",
    )


def cases() -> dict[str, Callable[[], Case]]:
    return {f"report_{COUNT}": report}
