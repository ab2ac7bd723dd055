"""The base of all studies, by a study that has nothing but its question: how the score moves with the images' mean."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import typer
from checks import refused

import synbench_fast as sb
from synbench_fast.checks import as_numbers
from synbench_fast.cli.main import app
from synbench_fast.config import ScoreConfig
from synbench_fast.results.codec import nan_field
from synbench_fast.studies.base import Report, Say, Study, Table, at_least, between, isolated, option, row_of
from synbench_fast.studies.cells import CellStore, Job, Unmeasurable, fill
from synbench_fast.studies.inheritance.options import Inheritance
from synbench_fast.studies.linear_probe.options import LinearProbe
from synbench_fast.studies.page import write_page
from synbench_fast.studies.robustness import Robustness
from synbench_fast.studies.sensitivity.options import SensitivityStudy
from synbench_fast.studies.validity.options import Validity

# The trial study: all that a new one writes.


@dataclass(frozen=True, kw_only=True)
class Point:
    center: float
    score: float = nan_field()
    stderr: float = nan_field()


@dataclass(frozen=True, kw_only=True, repr=False)
class CentersReport(Report):
    schema: str = "synbench-fast/centers"
    schema_version: int = 1
    encoder: str
    points: list[Point]
    command: str

    def rows(self) -> list[dict[str, Any]]:
        return [{"encoder": self.encoder, **row_of(one)} for one in self.points]


@dataclass(frozen=True, kw_only=True)
class Centers(Study):
    verb: ClassVar[str] = "centers"
    reads: ClassVar[tuple[str, ...] | None] = ("eps", "seed", "scales", "samples", "device", "threads")
    defaults: ClassVar[dict[str, Any]] = {"scales": 4}

    centers: Sequence[float] = option((0.4, 0.5), lambda name, value: as_numbers(value, name))


def study_centers(
    encoder: str, *, out: Path | None = None, config: ScoreConfig | None = None, progress: Say = print, **given: Any
) -> CentersReport:  # fmt: skip
    study = Centers.of(config, given)

    def measure(center: float) -> Point:
        found = sb.score(encoder, config=study.config, center=center).score()
        return Point(center=center, score=found.score, stderr=found.stderr)

    jobs = [
        Job(f"{one:g}", {**study.config.to_dict(), "center": one, "encoder": encoder}, lambda one=one: measure(one))
        for one in study.centers
    ]  # fmt: skip
    with isolated(study.config.threads):
        found = fill(CellStore(out, Point, "center"), jobs, total=len(jobs), say=progress)
    points = [one.cell for one in found if one.cell is not None]
    return CentersReport(encoder=encoder, points=points, command=study.command(encoder))


SMALL: dict[str, Any] = {"samples": 64, "seed": 3, "eps": 0.2, "device": "cpu"}
SPEC = "builtin:linear?dim=4"


@pytest.fixture(scope="module")
def report() -> CentersReport:
    return study_centers(SPEC, progress=lambda line: None, **SMALL)


def test_its_numbers_are_those_of_score(report: CentersReport) -> None:
    for one in report.points:
        expected = sb.score(SPEC, center=one.center, scales=4, **SMALL).score()
        assert (one.score, one.stderr) == (expected.score, expected.stderr)
    assert [one.center for one in report.points] == [0.4, 0.5]


def test_table_csv_json_and_page(report: CentersReport, tmp_path: Path) -> None:
    stream = io.StringIO()
    report.print_report(stream)
    header, *lines = stream.getvalue().splitlines()
    assert header.split() == ["encoder", "center", "score", "stderr"]
    assert [line.split()[:2] for line in lines] == [[SPEC, "0.4"], [SPEC, "0.5"]]
    json_path, csv_path = report.save_all(tmp_path, "centers")
    assert CentersReport.load(json_path) == report
    rows = list(csv.DictReader(io.StringIO(csv_path.read_text())))
    assert [float(row["score"]) for row in rows] == [one.score for one in report.points]
    text = write_page(tmp_path / "centers.html", report, "Centres").read_text()
    assert "<h1>Centres</h1>" in text and "<script" not in text
    assert text.count("<td>") == 8 and f"<td>{report.points[0].score:.4g}</td>" in text


def test_what_is_not_known_is_empty(report: CentersReport) -> None:
    point = dataclasses.replace(report.points[0], score=float("nan"))
    unknown = dataclasses.replace(report, points=[point, report.points[1]], encoder="=1+1")
    stream = io.StringIO()
    unknown.write_csv(stream)
    rows = list(csv.reader(io.StringIO(stream.getvalue())))
    assert rows[1][:3] == ["'=1+1", "0.4", ""]  # a spreadsheet takes no formula from a name
    (table,) = unknown.tables()
    assert isinstance(table, Table) and table.rows[0][2] == "-"


def test_it_goes_on_where_it_stood(report: CentersReport, tmp_path: Path) -> None:
    said: list[str] = []
    assert study_centers(SPEC, out=tmp_path, progress=said.append, **SMALL).points == report.points
    assert [line.partition(": done")[0] for line in said] == ["1 of 2: 0.4", "2 of 2: 0.5"]
    first, *_ = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    first.unlink()
    said.clear()
    again = study_centers(SPEC, out=tmp_path, progress=said.append, **SMALL)
    assert again.points == report.points
    assert said[0].startswith("1 of 2: 0.4: done, ") and said[1] == "2 of 2: 0.5: stored"
    said.clear()
    study_centers(SPEC, out=tmp_path, progress=said.append, **{**SMALL, "seed": 4})
    assert all(": done, " in line for line in said)


def test_a_cell_without_numbers_leaves_its_reason_and_is_tried_again(tmp_path: Path) -> None:
    store = CellStore(tmp_path, Point, "center")
    tries: list[int] = []

    def measure() -> Point:
        tries.append(1)
        raise Unmeasurable("samples: expected more, got few")

    said: list[str] = []
    job = Job("0.4", {"center": 0.4}, measure)
    for _ in range(2):
        (found,) = fill(store, [job], total=1, say=said.append)
        assert (found.cell, found.reason, found.stored) == (None, "samples: expected more, got few", False)
    assert len(tries) == 2 and said[0].startswith("1 of 1: 0.4: failed: samples: expected more, got few, ")
    path = store.path({"center": 0.4})
    assert path is not None and '"failed": "samples: expected more, got few"' in path.read_text()

    def broken() -> Point:
        raise ValueError("a mistake of the study")

    with pytest.raises(ValueError, match="a mistake"):
        fill(store, [Job("0.5", {"center": 0.5}, broken)], total=1)


def test_options_and_the_line_that_repeats_them(report: CentersReport) -> None:
    assert shlex.split(report.command) == [
        "synbench-fast", "study", "centers", SPEC, "--eps", "0.2", "--scales", "4", "--samples", "64", "--seed", "3",
        "--device", "cpu", "--centers", "0.4,0.5",
    ]  # fmt: skip
    study = Centers.of(ScoreConfig(seed=5, prior=0.3), {"centers": 0.45, "seed": 6})
    assert (study.centers, study.config.seed, study.config.scales) == ((0.45,), 6, None)
    assert study.config.prior == 0.5  # what a study does not read has no effect
    with refused("options: expected arguments of study centers, got 'prior'"):
        Centers.of(None, {"prior": 0.3})
    with refused("options: expected arguments of study centers, got 'center', did you mean centers?"):
        Centers.of(None, {"center": 0.3})
    shown = Centers.signature(study_centers).parameters
    assert list(shown)[:4] == ["encoder", "out", "config", "progress"] and "given" not in shown
    assert (shown["scales"].default, shown["seed"].default, shown["centers"].default) == (4, 0, (0.4, 0.5))
    assert "prior" not in shown and shown["eps"].kind is inspect.Parameter.KEYWORD_ONLY


def test_defaults_of_a_study_are_in_the_line() -> None:
    """Another default than a score's is not left out where the value is the score's."""

    @dataclass(frozen=True, kw_only=True)
    class Other(Study):
        verb: ClassVar[str] = "other"
        reads: ClassVar[tuple[str, ...] | None] = ("center",)
        defaults: ClassVar[dict[str, Any]] = {"center": 0.4}
        flag: bool = False
        attack: bool = True
        norms: tuple[float, ...] = (1.0,)
        folder: str | None = None

    assert Other.of(None, {}).command() == "synbench-fast study other --center 0.4 --norms 1"
    assert Other.of(None, {"center": 0.5}).command("a b") == (
        "synbench-fast study other 'a b' --center 0.5 --norms 1"
    )
    given = Other.of(None, {"flag": True, "attack": False, "norms": (), "folder": "x"})
    assert given.command() == (
        "synbench-fast study other --center 0.4 --flag --no-attack --norms none --folder x"
    )


def test_checks_of_options() -> None:
    assert (at_least(2)("seeds", 2), at_least(1, none=True)("samples", None), between(1)("p", 0.5)) == (
        2,
        None,
        0.5,
    )
    with refused("seeds: expected at least 2, got 1"):
        at_least(2)("seeds", 1)
    with refused("p: expected a number in (0, 1), got 1"):
        between(1)("p", 1)
    with refused("c: expected a finite number above 0, got inf"):
        between(float("inf"))("c", float("inf"))


def test_isolated_puts_threads_and_settings_back() -> None:
    before, grad = torch.get_num_threads(), torch.is_grad_enabled()
    with torch.no_grad(), isolated(threads=1):
        assert torch.get_num_threads() == 1 and torch.is_grad_enabled()
        torch.set_default_dtype(torch.float64)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (before, grad)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("made", [SensitivityStudy, Inheritance, LinearProbe, Robustness, Validity])
def test_commands_have_an_option_for_everything_that_their_study_prints(made: type[Study]) -> None:
    verb: Any = typer.main.get_command(app)
    for word in ("study", made.verb):
        verb = verb.commands[word]
    printed = {name for name in made().command("builtin:conv").split() if name.startswith("--")}
    names = {one.name for one in verb.params}
    own = {one.name for one in dataclasses.fields(made) if one.name != "config"}
    reads = {one.name for one in dataclasses.fields(ScoreConfig)} if made.reads is None else set(made.reads)
    assert own | reads <= names
    assert printed <= {spelling for one in verb.params for spelling in (*one.opts, *one.secondary_opts)}
