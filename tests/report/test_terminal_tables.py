"""Tables on a terminal: what a narrow one leaves out, colours, and numbers that are no signal."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from report_cases import structured, suite
from result_example import example

import synbench_fast as sb
from synbench_fast.printable import print_table
from synbench_fast.report.collection import collect
from synbench_fast.report.comparison import print_comparison
from synbench_fast.report.suites import suite_sink
from synbench_fast.report.tables import leaderboard, print_tables
from synbench_fast.report.terminal import sink
from synbench_fast.results.records import with_error


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


RESULTS = [structured(example(f"builtin:linear?dim={k}"), 0.5 - k / 1000) for k in (16, 32)]


def table(wide: bool = False, stream: io.StringIO | None = None) -> str:
    stream = stream or Terminal()
    one = sink("table", stream, wide=wide)
    for result in RESULTS:
        one.add(result)
    one.close()
    return plain(stream.getvalue())


def test_a_narrow_terminal_leaves_out_columns_in_a_stated_order() -> None:
    head, *lines = table().splitlines()
    assert re.split(r"  +", head.strip()) == ["encoder", "structure", "score eps=0", "score eps=0.2"]
    rows = [line for line in lines if line.startswith("builtin:linear")]
    assert len(rows) == 2 and all(len(one) <= 80 for one in [head, *rows])
    assert (
        "left out, because the terminal is narrow: parameters, F, of raw, images/s, robust area; --wide shows all"
        in lines
    )
    wide = table(wide=True).splitlines()
    assert wide[0].split()[-1] == "images/s" and len(wide[0]) > 80 and "left out" not in "".join(wide)
    assert "left out" not in table(stream=io.StringIO())  # a pipe and a file get all


def test_columns_go_one_by_one_and_only_as_far_as_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, kept in (
        (16, ["name", "bb", "cccc"]),
        (15, ["name", "cccc"]),
        (11, ["name", "cccc"]),
        (10, ["name"]),
        (1, ["name"]),
    ):
        monkeypatch.setenv("COLUMNS", str(room))
        stream = Terminal()
        print_table(stream, ["name", "bb", "cccc"], [["n", "b", "c"]], left=1, drop=["bb", "absent", "cccc"])
        assert plain(stream.getvalue()).splitlines()[0].split() == kept, room


def test_tables_of_suites_reports_and_comparisons_fit_too() -> None:
    streams = [Terminal() for _ in range(3)]
    suites = suite_sink("table", streams[0])
    suites.add(suite())
    suites.close()
    print_tables(streams[1], leaderboard(collect(RESULTS)))
    scored = [
        sb.score(f"builtin:linear?dim={k}", input_shape=(24,), scales=3, samples=128, device="cpu")
        for k in (13, 17)
    ]
    print_comparison(streams[2], sb.compare(*scored), "table")
    for stream in streams:
        rows = [one for one in plain(stream.getvalue()).splitlines() if re.search(r"builtin:.*  ", one)]
        assert rows and all(len(one) <= 80 for one in rows), rows
        assert ("--wide shows all" in stream.getvalue()) == (stream is not streams[0])


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|9[0-7]|38;)")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    table(stream=stream)
    assert not colour.search(stream.getvalue())


def test_nothing_measured_is_below_detection() -> None:
    assert with_error(0.0, 0.0) == with_error(0.00004, 0.00004) == "below detection"
    assert with_error(0.0, 0.0001) == "0.0000 ± 0.0001" and with_error(0.0, float("nan")) == "0.0000"
    one = example()
    silent = dataclasses.replace(
        one, scores=[dataclasses.replace(s, score=0.0, stderr=0.0) for s in one.scores]
    )
    assert "eps 0: below detection" in str(silent)
