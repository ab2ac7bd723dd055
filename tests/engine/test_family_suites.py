"""Tasks of families in suites: what a file may say, that a row is the family's score, and where it is shown."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refused
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.config import ScoreConfig
from synbench_fast.fleet.executors import InProcess
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.report.suites import SUITE_CSV_COLUMNS, suite_sink
from synbench_fast.results.structure import are_images
from synbench_fast.results.suite import SuiteResult
from synbench_fast.stats.discriminant import class_accuracy, worst_pair
from synbench_fast.tasks.families import FAMILIES, Texture
from synbench_fast.tasks.structure import STRUCTURE
from synbench_fast.tasks.suites import SUITES, Suite

SHAPE = (3, 16, 16)
OPTIONS: dict[str, Any] = {
    "input_shape": SHAPE, "scales": (1.0, 2.0), "samples": 200, "thresholds": (0.6,), "preset": "quick",
}  # fmt: skip
FILE = """
[[task]]
name = "plain"

[[task]]
name = "textures"
family = "texture"
level = [0, 0.33, 1.0]
classes = 6
samples = 10

[[task]]
name = "objects"
family = "shapes"
level = 0.5
"""


def powers(x: Tensor) -> Tensor:
    return (torch.fft.rfft2(x - x.mean((2, 3), keepdim=True)).abs().square() + 1e-6).log().flatten(1)[:, ::5]


def toml(folder: Path, text: str) -> str:
    path = folder / "tasks.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_says_what_definitions_say(tmp_path: Path) -> None:
    suite = sb.load_suite(toml(tmp_path, FILE))
    assert suite.gaussian == (sb.TaskDefinition("plain"),)
    assert suite.families == (
        sb.FamilyDefinition("textures", "texture", (0, 0.33, 1.0), 6, 10),
        sb.FamilyDefinition("objects", "shapes"),
    )
    one, other = (one.task() for one in suite.families)
    assert one.families == (Texture(6, 0.0), Texture(6, 0.33), Texture(6, 1.0)) and one.images == 10
    assert other.families == (FAMILIES["shapes"](20, 0.5),) and other.images == STRUCTURE.images
    assert sb.FamilyDefinition("n", "count").task().families[0].classes == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('family = "textur"', "('a'): family: expected one of texture, shift, shapes, instances, relations, count, symmetry, got 'textur', did you mean texture?"),
        ("family = 3", "('a'): family: expected text, got 3"),
        ('famly = "texture"', "famly: expected one of name, pattern, covariance, prior, center, scales, family, got another key, did you mean family?"),
        ("level = 0.3", "level: expected one of name, pattern, covariance,"),
        ('family = "texture"\nlevl = 3', "levl: expected one of name, family, level, classes, samples, got another key, did you mean level?"),
        ('family = "texture"\nscales = 3', "scales: expected one of name, family, level, classes, samples,"),
        ('family = "texture"\nlevel = "easy"', "level: expected a number or a list of numbers, got 'easy'"),
        ('family = "texture"\nlevel = []', "level: expected at least one, got none"),
        ('family = "texture"\nlevel = [0.5, 0.5]', "level: expected increasing values, got [0.5, 0.5]"),
        ('family = "texture"\nlevel = 4.5', "level: expected a number in [0, 4] or several, got 4.5"),
        ('family = "texture"\nlevel = nan', "level: expected a number or a list of numbers, got nan"),
        ('family = "texture"\nclasses = 2.0', "classes: expected an integer, got 2.0"),
        ('family = "count"\nclasses = 21', "classes: expected an integer from 2 to 20, got 21"),
        ('family = "texture"\nclasses = 1', "classes: expected an integer from 2 to 1000, got 1"),
        ('family = "texture"\nsamples = 4', "samples: expected an integer from 5 to 1000, got 4"),
        ('family = "texture"\nsamples = 0x' + "f" * 5000, "samples: expected an integer, got an integer of too many digits"),
        ('family = "texture"\nclasses = 201\nsamples = 100', "samples: expected at most 20000 of all classes together, got 201 classes x 100"),
        ('family = "texture"\n[[task]]\nname = "b"\nfamily = "texture"', "task 'b': level: expected one that 'a' has not, got 0.5 of texture again"),
        ('family = "texture"\n[[task]]\nname = "families"', "name: expected another than mean, worst, families, structure, got 'families'"),
        ('family = "texture"\n[[task]]\nname = "a"', "task 'a': name: expected another one, got it twice"),
        ('family = "texture"', "expected a task of two Gaussian classes beside those of families"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file(tmp_path: Path, text: str, expected: str) -> None:
    with refused("tasks.toml", expected):
        sb.load_suite(toml(tmp_path, f'[[task]]\nname = "a"\n{text}\n'))


def test_mistakes_in_definitions() -> None:
    plain = sb.TaskDefinition("p")
    for bad, text in (
        (sb.FamilyDefinition("a", "shape"), "task 'a': family: expected one of"),
        (sb.FamilyDefinition("a", "shapes", "x"), "task 'a': level: expected a number in [0, 4] or several"),  # type: ignore[arg-type]
        (sb.FamilyDefinition("a", "shapes", True), "task 'a': level"),
        (sb.FamilyDefinition(" ", "shapes"), "task ' ': name: expected some text"),
    ):
        with refused("tasks:", text):
            sb.load_suite([plain, bad])
        with refused("mine:", text):
            Suite("mine", (plain, bad))


@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 16, 16), (3, 4, 16)])
def test_inputs_without_the_family_are_refused_before_the_first_image(shape: tuple[int, ...]) -> None:
    seen = []

    def encoder(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x.flatten(1)[:, :4]

    tasks = [sb.TaskDefinition("p"), sb.FamilyDefinition("a", "shapes")]
    with refused("tasks: task 'a': shape: expected (channels, height, width) with 1 or 3 channels"):
        sb.score_suite(encoder, tasks=tasks, input_shape=shape)
    assert sum(seen) <= 2  # the dry run that finds the number of features


def test_a_waveform_has_textures() -> None:
    tasks = [sb.TaskDefinition("p"), sb.FamilyDefinition("a", "texture", 0.0, 4, 20)]
    found = sb.score_suite(
        lambda x: (torch.fft.rfft(x).abs() + 1e-6).log().flatten(1), tasks=tasks, **{**OPTIONS, "input_shape": (1, 64)}
    )  # fmt: skip
    (one,) = found.families
    assert one.score > 0.2 and found.results[0].structure is None and 0.5 < one.pair_accuracy < one.optimum


def test_a_row_is_the_score_of_the_family(tmp_path: Path) -> None:
    """Against the discriminant on samples that are drawn here."""
    found = sb.score_suite(powers, tasks=toml(tmp_path, FILE), **OPTIONS)
    one = found.families[0]
    assert (one.task, one.family, one.levels, one.classes, one.samples) == (
        "textures",
        "texture",
        [0, 0.33, 1.0],
        6,
        10,
    )
    expected = []
    for level in one.levels:
        x = torch.cat([Texture(6, level).draw(SHAPE, 0, k, 0, 10) for k in range(6)])
        expected.append(class_accuracy(powers(x), torch.arange(6).repeat_interleave(10)))
    assert one.score == pytest.approx(sum(e.skill for e in expected) / 3, abs=1e-12)
    assert one.stderr == pytest.approx(math.sqrt(sum(e.skill_stderr**2 for e in expected)) / 3, abs=1e-12)
    assert one.accuracy == pytest.approx(sum(e.accuracy for e in expected) / 3, abs=1e-12)
    assert one.pair_accuracy == pytest.approx(sum(e.pair_accuracy for e in expected) / 3, abs=1e-12)
    assert one.worst_pair == pytest.approx(min(worst_pair(e.pairs)[2] for e in expected), abs=1e-12)
    assert one.ci95_high - one.ci95_low == pytest.approx(2 * 1.959964 * one.stderr, rel=1e-5)
    optima = [Texture(6, level).optimum(SHAPE, k, k + 1).accuracy for level in one.levels for k in (0, 2, 4)]
    assert one.optimum == pytest.approx(sum(optima) / 9, abs=1e-15)
    assert math.isnan(found.families[1].optimum)
    mean, error = found.family_mean
    assert mean == pytest.approx((one.score + found.families[1].score) / 2)
    assert error == pytest.approx(math.hypot(one.stderr, found.families[1].stderr) / 2)
    assert found.score().mean == found.results[0].score().score  # families take no part in mean and worst


@pytest.mark.parametrize("seed", [0, 3])
def test_the_structure_suite_has_the_structure_score_to_the_bit(seed: int) -> None:
    alone = sb.structure_score(powers, input_shape=SHAPE, preset="quick", seed=seed)
    for structure in (False, True):
        found = sb.score_suite(powers, tasks="structure", structure=structure, seed=seed, **OPTIONS)
        assert found.family_mean == (alone.score, alone.stderr)
        assert [one.families for one in found.families] == [[one] for one in alone.families]
        within = found.results[0].structure
        assert within is None if not structure else within.families == alone.families
    beside = sb.score(powers, structure=True, seed=seed, **OPTIONS).structure
    assert beside is not None and dataclasses.replace(beside, seconds=0) == dataclasses.replace(
        alone, seconds=0
    )


def test_the_optimum_is_known_where_it_says_so() -> None:
    assert FAMILIES["instances"]().pair_optimum(SHAPE) == 1.0
    assert all(math.isnan(FAMILIES[name]().pair_optimum(SHAPE)) for name in ("shift", "shapes", "count"))
    assert math.isnan(Texture().pair_optimum((3, 128, 128)))


@given(st.lists(st.sampled_from([1, 2, 3, 7, 8, 16, 4096, 4097]), min_size=1, max_size=4))
def test_who_has_a_structure_score(shape: list[int]) -> None:
    """The rule that reports have is that of the task."""
    assert are_images(shape) == (STRUCTURE.refusal(tuple(shape)) == "")


def suite(spec: str = "builtin:conv?dim=8", **options: Any) -> SuiteResult:
    tasks = [sb.TaskDefinition("p"), sb.FamilyDefinition("t", "texture", 0.33, 5, 8)]
    return sb.score_suite(spec, tasks=tasks, **{**OPTIONS, **options})


def test_the_document_and_its_name(tmp_path: Path) -> None:
    found = suite()
    again = SuiteResult.load(found.save(tmp_path / found.file_name()))
    assert again.to_dict() == found.to_dict() and again.families == found.families
    assert json.loads(found.to_json())["families"][0]["task"] == "t"
    other = dataclasses.replace(found.families[0], samples=9)
    assert dataclasses.replace(found, families=[other]).file_name() != found.file_name()
    empty = {**found.to_dict()["families"][0], "families": []}
    with refused("suite: families[0].families: expected at least one level, got none"):
        SuiteResult.from_dict({**found.to_dict(), "families": [empty]})


def test_table_csv_and_summary() -> None:
    found = suite(structure=True)
    one, structure = found.families[0], found.results[0].structure
    assert structure is not None
    stream = io.StringIO()
    table = suite_sink("table", stream)
    table.add(found)
    table.close()
    lines = stream.getvalue().splitlines()
    assert lines[0].split()[:3] == ["encoder", "task", "structure"]
    assert [line.split()[1] for line in lines[1:7]] == ["structure", "p", "mean", "worst", "t", "families"]
    assert f"{structure.score:.4f} ± {structure.stderr:.4f}" in lines[1]
    assert f"{one.score:.4f} ± {one.stderr:.4f}" in lines[5] and lines[2].split()[2] == "-"
    stream = io.StringIO()
    suite_sink("csv", stream).add(found)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert tuple(rows[0]) == SUITE_CSV_COLUMNS
    row, mean = rows[-2:]
    assert (row["task"], row["family"], row["level"], row["classes"]) == ("t", "texture", "0.33", "5")
    assert float(row["score"]) == one.score and float(row["pair_accuracy"]) == one.pair_accuracy
    assert float(row["optimum"]) == one.optimum and row["eps"] == row["threshold"] == ""
    assert (mean["task"], float(mean["score"]), mean["family"]) == ("families", one.score, "")
    assert f"  t: {one.score:.4f} ± {one.stderr:.4f}, accuracy of 5 classes" in found.summary()


def test_a_fleet_has_the_numbers_of_score_suite(tmp_path: Path) -> None:
    suite_of = sb.load_suite(toml(tmp_path, FILE))
    config = ScoreConfig(**{**OPTIONS, "structure": True})
    (job,) = run_fleet(
        ["builtin:conv?dim=8"], tmp_path / "store", config=config, suite=suite_of, executor=InProcess()
    )
    found = SuiteResult.load(tmp_path / "store" / "results" / str(job.result))
    alone = sb.score_suite("builtin:conv?dim=8", tasks=suite_of, config=config, threads=1, device="cpu")

    def timeless(one: SuiteResult) -> list[dict[str, Any]]:
        return [{**family, "seconds": 0} for family in one.to_dict()["families"]]

    assert timeless(found) == timeless(alone) and len(found.families) == 2
    assert found.scores == alone.scores
    first, second = found.results[0].structure, alone.results[0].structure
    assert first is not None and second is not None
    assert [one.score for one in first.families] == [one.score for one in second.families]


def test_a_store_does_not_answer_for_other_images(tmp_path: Path) -> None:
    """Presets and `structure` set how many images families have; the arithmetic that was decided is kept."""
    suite_of = sb.load_suite(toml(tmp_path, FILE))
    for preset, structure in (("quick", False), ("quick", True), ("standard", True), ("quick", True)):
        config = ScoreConfig(**{**OPTIONS, "preset": preset, "structure": structure})
        (job,) = run_fleet(
            ["builtin:conv?dim=8"], tmp_path / "store", config=config, suite=suite_of, executor=InProcess()
        )
        found = SuiteResult.load(tmp_path / "store" / "results" / str(job.result))
        alone = sb.score_suite("builtin:conv?dim=8", tasks=suite_of, config=config, threads=1, device="cpu")
        assert [one.score for one in found.families] == [one.score for one in alone.families]
        first, second = found.results[0].structure, alone.results[0].structure
        assert (first and (first.score, first.images)) == (second and (second.score, second.images))
        assert (first is not None) == structure


def test_command_line_report_and_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--input-shape",
        "3,16,16",
        "--scales",
        "1.0,2.0",
        "--samples",
        "200",
        "--preset",
        "quick",
        "--quiet",
    ]
    words += ["--tasks", toml(tmp_path, FILE), "--out", str(tmp_path / "out")]
    models = ["builtin:conv?dim=8", "builtin:linear?dim=16"]
    assert cli.main(["run", *models, *words]) == 0
    assert "families" in capsys.readouterr().out
    stored = [SuiteResult.load(one) for one in sorted((tmp_path / "out").glob("*.json"))]
    assert cli.main(["report", str(tmp_path / "out"), "--format", "csv", "--sort", "structure"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["board"] for row in rows} == {"1"}
    by_spec = {one.encoder.spec: one for one in stored}
    for row in rows:
        one = by_spec[row["encoder"]]
        assert float(row["family_textures"]) == one.families[0].score
        assert float(row["family_objects_stderr"]) == one.families[1].stderr
    structures = [float(row["structure"]) for row in rows]
    assert structures == sorted(structures, reverse=True)
    assert cli.main(["report", str(tmp_path / "out"), "--html", "none"]) == 0
    out = capsys.readouterr().out
    assert "structure" in out and "textures" in out and "objects" in out and "3 tasks" in out
    frame = sb.report.frame(stored)
    rows_of = frame[frame.task == "textures"]
    assert sorted(rows_of.score) == sorted(one.families[0].score for one in stored)
    assert rows_of.eps.isna().all() and set(rows_of.suite) == {str(tmp_path / "tasks.toml")}


def test_other_families_are_another_board(tmp_path: Path) -> None:
    from synbench_fast.report.collection import boards, load_results

    found = suite()
    found.save(tmp_path / "a.json")
    other = dataclasses.replace(found.families[0], samples=9)
    dataclasses.replace(found, families=[other]).save(tmp_path / "b.json")
    assert len(boards(load_results(tmp_path).items)) == 2


def test_named_suite() -> None:
    assert [one.name for one in SUITES["structure"].tasks] == ["published", "texture", "shapes", "instances"]
    assert tuple(one.task().families[0] for one in SUITES["structure"].families) == STRUCTURE.families
