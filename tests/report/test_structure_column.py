"""The structure score in tables of the terminal and in leaderboards: order, intervals, and why one is missing."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path

import pytest
from report_cases import structured
from result_example import example

from synbench_fast.report.collection import load_results
from synbench_fast.report.tables import leaderboard, print_tables
from synbench_fast.report.terminal import sink
from synbench_fast.results.records import Result


def printed(results: list[Result], ordered: bool = True, kind: str = "table") -> list[str]:
    stream = io.StringIO()
    to = sink(kind, stream, ordered=ordered)
    for one in results:
        to.add(one)
    to.close()
    return stream.getvalue().splitlines()


def vector(spec: str) -> Result:
    """A result without a structure score, because its inputs are vectors."""
    one = example(spec)
    return dataclasses.replace(one, task=dataclasses.replace(one.task, shape=(24,)))


SCORES = {"builtin:a": 0.02, "builtin:b": 0.40, "builtin:c": 0.05}


@pytest.mark.parametrize("order", list(itertools.permutations(SCORES)))
def test_a_table_lists_the_largest_structure_score_first(order: tuple[str, ...]) -> None:
    results = [structured(example(name), SCORES[name]) for name in order]
    lines = printed([*results, vector("builtin:d")])
    assert [line.split()[0] for line in lines[1:5]] == ["builtin:b", "builtin:c", "builtin:a", "builtin:d"]
    assert lines[4].split()[1] == "-"
    (reason,) = (line for line in lines if "has none" in line)
    assert reason.startswith("structure: builtin:d has none: its inputs are not images")
    as_they_came = printed(results, ordered=False)
    assert [line.split()[0] for line in as_they_came[1:4]] == list(order)


def test_rows_for_programs_keep_their_order() -> None:
    results = [structured(example(name), score) for name, score in SCORES.items()]
    assert [line.split(",")[0] for line in printed(results, kind="csv")[1:]] == [
        one for one in SCORES for _ in range(4)
    ]


def test_without_structure_scores_nothing_changes() -> None:
    lines = printed([vector("builtin:b"), example("builtin:a")])
    assert [line.split()[0] for line in lines[1:3]] == ["builtin:b", "builtin:a"]
    assert not any("structure" in line for line in lines)
    assert example().structure_missing == "it was not asked for"
    assert structured(example(), 0.1).structure_missing == ""


def test_a_leaderboard_has_the_column_and_the_reason(tmp_path: Path) -> None:
    for name, score in SCORES.items():
        structured(example(name), score).save(tmp_path / f"{name[-1]}.json")
    example("builtin:d").save(tmp_path / "d.json")
    for sort, reverse, expected in (
        (None, False, [0.40, 0.05, 0.02, None]),
        ("structure", False, [0.40, 0.05, 0.02, None]),
        ("structure", True, [0.02, 0.05, 0.40, None]),
    ):
        board = leaderboard(load_results(tmp_path), sort=sort, reverse=reverse)
        assert [row["structure"] for row in board.rows()] == expected
    stream = io.StringIO()
    print_tables(stream, board)
    lines = stream.getvalue().splitlines()
    assert lines[1].split()[:2] == ["encoder", "structure"]
    assert lines[2].split()[:4] == ["builtin:a", "0.0200", "\u00b1", "0.0100"]
    assert lines[5].split()[:2] == ["builtin:d", "-"]
    assert lines[6].endswith("structure -: it was not asked for")
    assert lines[7:9] == [
        "verdict: take builtin:b: its structure score is the largest, with 95 % confidence",
        "not compared, because there is no structure score: builtin:d",
    ]


@pytest.mark.parametrize(("shape", "turned"), [((16, 24, 3), "3,16,24"), ((16, 16, 4), ""), ((4, 4, 3), "")])
def test_images_with_their_channels_last_get_a_hint(shape: tuple[int, ...], turned: str) -> None:
    one = example("builtin:a")
    lines = printed([dataclasses.replace(one, task=dataclasses.replace(one.task, shape=shape))])
    hints = [line for line in lines if line.startswith("structure: none")]
    assert [line.rpartition("--input-shape ")[2] for line in hints] == ([turned] if turned else [])
