"""The result document: round trips, strict reading, atomic writing, accessors."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import math
import os
import re
import shlex
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import killed_inside_its_save, refused, writing
from result_example import example

import synbench_fast as sb
from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError
from synbench_fast.results.codec import decode, encode
from synbench_fast.results.files import remove_leftovers, replacing, write_atomically
from synbench_fast.results.plots import plot_curves
from synbench_fast.results.records import (
    CSV_COLUMNS,
    SCHEMA_VERSION,
    ArithmeticCheck,
    ArithmeticPoint,
    ArithmeticRecord,
    Result,
    RobustArea,
    TaskRecord,
)
from synbench_fast.runtime import processes
from synbench_fast.stats.point import CurvePoint


def test_json_round_trip_keeps_every_value() -> None:
    result = example()
    text = result.to_json()
    again = Result.from_json(text)
    assert again.to_dict() == result.to_dict()
    # NaN != NaN, so compare what is finite as objects too: same types, tuples and lists included
    assert again.encoder == result.encoder
    assert again.task == result.task
    assert again.scores == result.scores
    assert again.environment == result.environment
    assert again.cost == result.cost
    assert "\n" not in text


def test_non_finite_floats_are_null_and_come_back_as_documented() -> None:
    result = example(robust_area=RobustArea(value=0.6, raw=math.nan, ratio=math.nan, stderr=math.inf))
    document = json.loads(result.to_json())
    assert document["curve"]["bound"][0] is None
    assert document["curve"]["t_stderr"][0] is None
    assert document["robust_area"] == {"value": 0.6, "raw": None, "ratio": None, "stderr": None}
    again = Result.from_json(result.to_json())
    assert again.curve[0].bound == math.inf
    assert math.isnan(again.curve[0].bound_stderr)
    assert math.isnan(again.robust_area.ratio)


def test_numbers_are_numbers_also_from_numpy() -> None:
    result = example(
        seed=np.int64(7), eps=[np.float64(0.0), np.float32(0.25)], thresholds=[np.float64(0.6), 1]
    )
    document = json.loads(result.to_json())
    assert document["seed"] == 7 and type(document["seed"]) is int
    assert document["eps"] == [0.0, 0.25]
    assert document["thresholds"] == [0.6, 1.0] and type(document["thresholds"][1]) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1.0}, "seed: expected an integer, got 1.0"),
        ({"seed": True}, "seed: expected an integer, got true"),
        ({"eps": [0.0, "0.2"]}, 'eps[1]: expected a number, got "0.2"'),
        ({"eps": 0.2}, "eps: expected a list, got float"),
        ({"eps": [math.inf]}, "eps[0]: expected a finite number, got inf"),
        ({"cost": None}, "cost: expected a Cost, got NoneType"),
        ({"backends": [1]}, "backends: expected a dict, got list"),
        ({"backends": {1: "cpp"}}, "backends: expected a string, got 1"),
        ({"command": None}, "command: expected a string, got null"),
    ],
)
def test_writing_refuses_a_field_of_the_wrong_type(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        example(**changes).to_json()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The example's document with the entry at `path` ("scores/eps/0") set to `value`; None deletes it."""
    document = copy.deepcopy(example().to_dict())
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    at: Any = document
    for key in parents:
        at = at[key]
    if value is DELETE:
        del at[last]
    else:
        at[last] = value
    return document


DELETE = object()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "r.json: expected a JSON object, got an array"),
        (changed("schema", "other"), "r.json: schema: expected 'synbench-fast/result', got 'other'"),
        (changed("schema", DELETE), "r.json: schema: expected 'synbench-fast/result', got None"),
        (
            changed("schema_version", SCHEMA_VERSION + 1),
            f"r.json: schema_version: expected {SCHEMA_VERSION}, got {SCHEMA_VERSION + 1}; a newer synbench-fast wrote it",
        ),
        (
            changed("schema_version", "1"),
            f"r.json: schema_version: expected {SCHEMA_VERSION}, got '1'",
        ),
        (changed("scores/eps/3", "0.2"), 'r.json: scores.eps[3]: expected a number, got "0.2"'),
        (changed("scores/eps/3", None), "r.json: scores.eps[3]: expected a number, got null"),
        (
            changed("scores/stderr", DELETE),
            "r.json: scores.stderr: expected an array, got no such field",
        ),
        (
            changed("scores/stderr", [0.01]),
            "r.json: scores.stderr: expected an array of 4, as eps, got one of 1",
        ),
        (changed("scores", []), "r.json: scores: expected an object, got an array"),
        (
            changed("scores/eps/1", 0.1),
            "r.json: scores: expected one for every eps, then threshold, got 4 others",
        ),
        (
            changed("curve/eps/1", 0.1),
            "r.json: curve: expected a point for every scale, then eps, got 4 others",
        ),
        (changed("curve", DELETE), "r.json: curve: expected an object, got no such field"),
        (changed("seed", 0.5), "r.json: seed: expected an integer, got 0.5"),
        (changed("seed", True), "r.json: seed: expected an integer, got true"),
        (changed("cost/seconds/encode", "3"), 'r.json: cost.seconds.encode: expected a number, got "3"'),
        (changed("cost/seconds", []), "r.json: cost.seconds: expected an object, got an array"),
        (changed("eps/1", math.inf), "r.json: eps[1]: expected a finite number, got inf"),
        (
            changed("seed", 2**64),
            "r.json: seed: expected an integer of at most 2^64 - 1, got 18446744073709551616",
        ),
        (
            changed("eps/1", 10**400),
            "r.json: eps[1]: expected a finite number, got an integer beyond any float",
        ),
        (changed("cost", 3), "r.json: cost: expected an object, got 3"),
        (changed("cost", DELETE), "r.json: cost: expected an object, got no such field"),
        (changed("warnings", "none"), 'r.json: warnings: expected an array, got "none"'),
        (changed("warnings", DELETE), "r.json: warnings: expected an array, got no such field"),
        (
            changed("encoder/preprocessing/mean", {}),
            "r.json: encoder.preprocessing.mean: expected an array, got an object",
        ),
        (
            changed("encoder/preprocessing/mean", DELETE),
            "r.json: encoder.preprocessing.mean: expected an array or null, got no such field",
        ),
        (changed("encoder/random_init", 0), "r.json: encoder.random_init: expected true or false, got 0"),
        (
            changed("robust_area/median", 1.0),
            "r.json: robust_area.median: expected a field of RobustArea (value, raw, ratio, stderr), "
            "got an unknown field",
        ),
    ],
)
def test_reading_refuses_what_does_not_fit(document: Any, message: str) -> None:
    with pytest.raises(SynbenchError, match=f"^{re.escape(message)}$"):
        Result.from_dict(document, source="r.json")


@pytest.mark.parametrize("text", ["", "{", '{"schema": NaN}', '{"schema": Infinity}', "[" * 100_000])
def test_reading_refuses_what_is_not_json(text: str) -> None:
    with pytest.raises(SynbenchError, match=r"^r\.json: expected a JSON document, got text that is not: "):
        Result.from_json(text, source="r.json")


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION - 1])
def test_documents_of_earlier_versions_are_refused(version: int) -> None:
    """Their numbers mean something else, whether or not their fields are today's."""
    message = (
        f"r.json: schema_version: expected {SCHEMA_VERSION}, got {version}; an older synbench-fast wrote it"
    )
    for document in (
        changed("schema_version", version),
        {"schema": "synbench-fast/result", "schema_version": version},
    ):
        with pytest.raises(SynbenchError, match=f"^{re.escape(message)}$"):
            Result.from_dict(document, source="r.json")


def test_infinite_signals_are_kept() -> None:
    """Features that separate the classes without error."""
    base = example()
    point = dataclasses.replace(
        base.curve[0], t=math.inf, t_rob=math.inf, t_stderr=math.nan, accuracy=1.0, bound=1.0
    )
    again = Result.from_json(example(curve=[point, *base.curve[1:]]).to_json())
    assert (again.curve[0].t, again.curve[0].t_rob) == (math.inf, math.inf)


def test_samples_per_scale_in_words() -> None:
    task = example().task
    assert task.size() == "2 scales x 1024 samples"
    assert dataclasses.replace(task, samples=[256, 4096]).size() == "2 scales x 256 to 4096 samples"
    assert example(task=dataclasses.replace(task, samples=[256, 4096])).rows()[0]["samples"] == 4096


def check(**changes: Any) -> ArithmeticCheck:
    points = [
        ArithmeticPoint(eps=0.0, t_difference=-0.01, t_difference_stderr=0.001, t_stderr=0.04, score_difference=math.nan),
        ArithmeticPoint(eps=0.2, t_difference=0.02, t_difference_stderr=0.001, t_stderr=0.05, score_difference=0.01),
    ]  # fmt: skip
    values: dict[str, Any] = {
        "dtype": "bfloat16", "used": True, "reason": "", "scale": 2.5, "samples": 256, "points": points,
    }  # fmt: skip
    return ArithmeticCheck(**{**values, **changes})


def test_summary_of_a_comparison_names_the_worst() -> None:
    text = "bfloat16 against float32 at scale 2.5: "
    assert check().summary() == text + "t differs by +0.02 (0.4 standard errors) at eps 0.2"
    assert check(points=[], reason="it does not run").summary() == text + "it does not run"
    record = ArithmeticRecord(
        requested="auto", dtype="bfloat16", checks=[check(used=False, dtype="tf32"), check()]
    )
    result = example(arithmetic=record)
    assert [line for line in result.summary().splitlines() if "against float32" in line] == [
        "  " + check().summary()
    ]
    assert Result.from_json(result.to_json()).to_dict() == result.to_dict()


def test_compile_in_the_replay_line() -> None:
    lines = [ScoreConfig(compile=value).command("a:b").split() for value in ("auto", True, False)]
    assert [one[-1] for one in lines] == ["auto", "--compile", "--no-compile"]


def test_optional_fields_take_null() -> None:
    document = changed("encoder/preprocessing/mean", None)
    assert Result.from_dict(document).encoder.preprocessing.mean is None


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert example().save(path) == path
    assert Result.load(path).to_dict() == example().to_dict()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["r.json", "r.npz"]
    assert path.read_text().endswith("}\n")


def test_a_name_without_json_is_that_with_it(tmp_path: Path) -> None:
    """Otherwise `nb` and `nb.json` were two headers with one file of arrays."""
    assert example("a:a").save(tmp_path / "nb") == tmp_path / "nb.json"
    assert Result.load(tmp_path / "nb").encoder.spec == "a:a"
    example("a:b").save(str(tmp_path / "nb"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["nb.json", "nb.npz"]
    assert Result.load(tmp_path / "nb.json").encoder.spec == "a:b"
    assert example("a:c").save(tmp_path / "nb.v1") == tmp_path / "nb.v1.json"  # not the place of `nb`
    assert Result.load(tmp_path / "nb.json").curve and Result.load(tmp_path / "nb.v1.json").curve
    (tmp_path / "folder").mkdir()
    with refused("folder: expected a file that can be written, got: Is a directory"):
        example().save(tmp_path / "folder")
    with refused("path: expected that of a file, got "):
        example().save(f"{tmp_path}/none/")
    with refused("absent: expected a readable result file"):
        Result.load(tmp_path / "absent")


def test_load_names_the_file(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    with pytest.raises(
        SynbenchError, match=f"^{re.escape(str(missing))}: expected a readable result file, got"
    ):
        Result.load(missing)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SynbenchError, match=f"^{re.escape(str(binary))}: expected a result file in UTF-8"):
        Result.load(binary)
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(changed("seed", "0")))
    with pytest.raises(SynbenchError, match=f'^{re.escape(str(wrong))}: seed: expected an integer, got "0"$'):
        Result.load(wrong)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, failing, fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else SynbenchError
    with pytest.raises(expected) as caught:
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["r.json"]
    if expected is SynbenchError:
        assert (
            str(caught.value) == f"{path}: expected a file that can be written, got: No space left on device"
        )


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are told apart by /proc")
SAVES: dict[str, Callable[[Path], object]] = {
    "result": lambda path: example().save(path),
    "text": lambda path: write_atomically(path, "x"),
    "plot": lambda path: plot_curves(path, {"one": [example()]}),
}


@linux
@pytest.mark.parametrize("kind", SAVES)
def test_the_next_save_removes_what_a_killed_one_left(kind: str, tmp_path: Path) -> None:
    if kind == "plot":
        pytest.importorskip("matplotlib")
    left = killed_inside_its_save(tmp_path / "killed")
    SAVES[kind](tmp_path / "new.json")
    assert not left.exists()
    arrays = {"new.npz"} if kind == "result" else set()
    assert {one.name for one in tmp_path.iterdir()} == {"new.json"} | arrays


@linux
def test_the_file_of_a_live_writer_stays_however_old(tmp_path: Path) -> None:
    with writing(tmp_path / "one") as (process, temporary):
        os.utime(temporary, (1e9, 1e9))
        process.send_signal(signal.SIGSTOP)
        remove_leftovers(tmp_path)
        assert temporary.read_text() == "half"
        process.send_signal(signal.SIGCONT)
        process.communicate()
        assert process.returncode == 0
    assert [one.name for one in tmp_path.iterdir()] == ["one"]


@linux
def test_a_writer_that_ended_is_dead_before_its_parent_asks(tmp_path: Path) -> None:
    """Where nothing collects processes, as in many containers, they stay in /proc."""
    with writing(tmp_path / "one") as (process, temporary):
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}").exists()
        remove_leftovers(tmp_path)
        assert not temporary.exists()


@linux
def test_a_number_that_another_process_has_now_is_no_writer(tmp_path: Path) -> None:
    left = killed_inside_its_save(tmp_path / "one")
    pid, mark = os.getpid(), processes.process_mark(os.getpid())
    host = left.name.split(".")[2].partition("-")[0]
    other = left.rename(tmp_path / f".one.{host}-{pid}-1-00000000.tmp")
    mine = tmp_path / f".one.{host}-{pid}-{mark}-00000000.tmp"
    mine.touch()
    remove_leftovers(tmp_path)
    assert mine.exists() and not other.exists()


@pytest.mark.parametrize(
    ("stat", "signalled"), [(PermissionError(), None), (FileNotFoundError(), None), (FileNotFoundError(), 1)]
)
def test_a_hidden_process_is_not_taken_for_dead(
    stat: OSError, signalled: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux can hide the processes of other users, or all but their numbers."""

    def fail(error: Exception) -> Callable[..., None]:
        def raises(*_: object) -> None:
            raise error

        return raises

    monkeypatch.setattr(processes, "_stat", fail(stat))
    if signalled:
        monkeypatch.setattr(os, "kill", fail(PermissionError()))
    assert not processes.gone(processes.here(), os.getpid(), "1")
    if isinstance(stat, FileNotFoundError) and sys.platform.startswith("linux"):
        monkeypatch.setattr(os, "kill", fail(ProcessLookupError()))
        assert processes.gone(processes.here(), os.getpid(), "1")


def test_files_of_other_machines_go_by_age_and_those_of_others_never(tmp_path: Path) -> None:
    temporaries = {
        f".{name}.json.{owner}-0123abcd.tmp": name == "old"
        for name in ("old", "new")
        for owner in ("0123456789abcdef-1-77", "0123456789abcdef-1-", "77")  # the last: of an earlier version
    }
    others = (".old.tmp", ".old.json.77.tmp", ".old.77-x.tmp", "old.77-0123abcd.tmp", ".old.77-0123abcd")
    for name in (*temporaries, *others):
        (tmp_path / name).write_text("half")
        if "old" in name:
            os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / ".folder.77-0123abcd.tmp").mkdir()
    os.utime(tmp_path / ".folder.77-0123abcd.tmp", (1e9, 1e9))
    remove_leftovers(tmp_path)
    kept = {name for name, old in temporaries.items() if not old}
    assert {one.name for one in tmp_path.iterdir()} == kept | {*others, ".folder.77-0123abcd.tmp"}


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "\udcff" * 200, "語" * 84])
def test_every_name_that_a_file_can_have(name: str, tmp_path: Path) -> None:
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("the file system has no such names")
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_of_no_file_is_one_line(path: str) -> None:
    with pytest.raises(SynbenchError, match=f"^path: expected that of a file, got '{re.escape(path)}'$"):
        example().save(path)


@pytest.mark.parametrize("folder", ["x" * 300, "not/there", "file"])
def test_a_folder_that_cannot_be_listed_is_one_line(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refused(f"{folder}/r.json: expected a file that can be written, got: "):
        example().save(tmp_path / folder / "r.json")


def test_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        path = write_atomically(tmp_path / "r.json", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_score_accessor() -> None:
    result = example()
    assert result.score() == result.scores[0]
    assert result.score(eps=0.2, threshold=0.7) == result.scores[3]
    assert result.score(eps=0.1 + 0.1, threshold=0.6) == result.scores[2]
    with pytest.raises(SynbenchError, match=r"^eps: expected one of 0, 0\.2, got 0\.3$"):
        result.score(eps=0.3)
    with pytest.raises(SynbenchError, match=r"^threshold: expected one of 0\.6, 0\.7, got 0\.5$"):
        result.score(threshold=0.5)
    with pytest.raises(
        SynbenchError, match=r"^scores: expected an entry at eps 0, threshold 0\.6, got none$"
    ):
        example(scores=[]).score()


@pytest.mark.parametrize("name", ["eps", "thresholds"])
def test_a_result_of_nothing_is_one_line(name: str) -> None:
    with pytest.raises(SynbenchError, match=f"^{name}: expected at least one value in the result, got none$"):
        example(**{name: []}).score()


def test_summary_shows_scores_errors_area_and_cost() -> None:
    lines = example().summary().split("\n")
    assert lines == [
        "builtin:conv: F = 256, 1.2 M parameters",
        "  score above accuracy 0.6: eps 0: 0.8400 ± 0.0100, eps 0.2: 0.6400 ± 0.0100",
        "  robust area: 0.6100 ± 0.0200 of 0.7400 (82.4%)",
        "  consistent, 2 scales x 1024 samples, 4.0 s on cpu, 512.0 images/s",
        "  warning: samples: 1024 is few for 256 features",
    ]


def test_directions_that_do_not_vary_are_told() -> None:
    from synbench_fast.report.terminal import sink

    result = example(dropped=[0, 17])
    assert result.summary().startswith("builtin:conv: F = 256 (239 vary), 1.2 M parameters\n")
    stream = io.StringIO()
    table = sink("table", stream)
    table.add(result)
    table.close()
    assert stream.getvalue().splitlines()[1].split("  ")[1] == "256 (239 vary)"


def test_checkpoints_of_one_encoder_are_told_apart() -> None:
    from synbench_fast.report.terminal import sink

    encoder = example().encoder
    results = [
        example(encoder=dataclasses.replace(encoder, checkpoint=one)) for one in (None, "a/1.pt", "b\x1b.pt")
    ]
    assert results[1].summary().startswith("builtin:conv a/1.pt: F = 256, ")
    stream = io.StringIO()
    table = sink("table", stream)
    for one in results:
        table.add(one)
    table.close()
    names = [line.split("  ")[0] for line in stream.getvalue().splitlines()[1:4]]
    assert names == ["builtin:conv", "builtin:conv a/1.pt", "builtin:conv b\\x1b.pt"]


def test_printed_it_is_the_summary_and_its_repr_is_one_line() -> None:
    result = example(warnings=["samples: few"])
    assert str(result) == result.summary() and str(result).endswith("\n  warning: samples: few")
    assert repr(result) == "<Result builtin:conv: F = 256, 1.2 M parameters>"


def test_numbers_of_a_result_are_plain() -> None:
    area = sb.score("builtin:linear?dim=4", input_shape=(1, 4, 4), scales=5, samples=64).robust_area
    assert [type(one) for one in dataclasses.astuple(area)] == [float] * 4


def test_rows_are_flat_and_complete() -> None:
    result = example()
    no_error = dataclasses.replace(result.scores[0], stderr=math.nan)
    rows = example(scores=[no_error, *result.scores[1:]]).rows()
    assert [(row["eps"], row["threshold"]) for row in rows] == [
        (0.0, 0.6),
        (0.0, 0.7),
        (0.2, 0.6),
        (0.2, 0.7),
    ]
    assert all(tuple(row) == CSV_COLUMNS for row in rows)
    assert rows[0]["stderr"] is None
    assert rows[3]["score"] == result.scores[3].score
    assert rows[3]["robust_area_ratio"] == result.robust_area.ratio


@pytest.mark.parametrize(
    "spec", ["timm:resnet18", "hf:../../etc/passwd", "onnx:/a/b.onnx", "python:..:..", "é:é"]
)
def test_file_name_is_one_safe_component(spec: str) -> None:
    name = example(spec).file_name()
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{12}\.json", name)
    assert Path(name).name == name
    assert len(example(spec + "x" * 500).file_name()) < 130


def test_file_name_is_unique_per_encoder_and_configuration() -> None:
    base = example()
    others = [
        base,
        example("builtin/conv:"),  # the same readable part
        example(seed=1),
        example(eps=[0.0, 0.3]),
        example(estimator="paper"),
        example(integral="grid"),
        example(task=dataclasses.replace(base.task, samples=[2048, 1024])),
        example(encoder=dataclasses.replace(base.encoder, weights_sha256="cd" * 32)),
        example(cost=dataclasses.replace(base.cost, dtype="bfloat16")),
    ]
    assert len({one.file_name() for one in others}) == len(others)
    same = [
        example(cost=dataclasses.replace(base.cost, images_per_second=1.0)),
        example(environment=dataclasses.replace(base.environment, cpu="Another")),
    ]
    assert {one.file_name() for one in same} == {base.file_name()}


def test_replay_command_quotes_and_leaves_defaults_out() -> None:
    given: dict[str, Any] = {
        "eps": [0.0, 0.2],
        "input_shape": [3, 32, 32],
        "random_init": True,
        "prior": 0.25,
        "seed": 3,
        "checkpoint": Path("a b.pt"),
        "device": torch.device("cuda:1"),
        "dtype": torch.bfloat16,
    }
    assert shlex.split(ScoreConfig(**given).command("python:my pkg:make")) == [
        "synbench-fast", "run", "python:my pkg:make", "--input-shape", "3,32,32", "--eps", "0,0.2",
        "--estimator", "consistent", "--preset", "standard", "--no-structure", "--prior", "0.25", "--seed", "3",
        "--device", "cuda:1", "--dtype", "bfloat16", "--batch-size", "auto", "--checkpoint", "a b.pt", "--random-init",
    ]  # fmt: skip


def test_replay_command_keeps_every_digit() -> None:
    eps = (0.1 + 0.2, 1 / 3)
    words = shlex.split(ScoreConfig(eps=eps).command("builtin:conv"))
    assert tuple(float(one) for one in words[words.index("--eps") + 1].split(",")) == eps


def test_curve_point_has_what_its_fields_say() -> None:
    values = np.array([0.5, 0.25])
    arrays = {one.name: values for one in dataclasses.fields(CurvePoint) if one.type == "Array"}
    point = CurvePoint(count=4, feature_dim=2, rank=2, estimator="consistent", **arrays)
    np.testing.assert_array_equal(point.reach, values**2)
    np.testing.assert_array_equal(point.counted_accuracy, values)
    corrected = dataclasses.replace(point, correction=np.array([0.1, 0.05, 9, 9, 9, 9]))
    np.testing.assert_allclose(corrected.counted_accuracy, [0.4, 0.2])
    assumed = dataclasses.replace(point, assumes_gaussian=True, excess=np.array([0.1]))
    np.testing.assert_allclose(assumed.counted_accuracy, [0.6])
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.count = 5  # type: ignore[misc]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nested:
    names: dict[str, tuple[float, ...] | None]
    flag: bool | None


def test_documents_nest() -> None:
    value = Nested(names={"a": (1.0, 2.0), "b": None}, flag=None)
    document = encode(value)
    assert document == {"names": {"a": [1.0, 2.0], "b": None}, "flag": None}
    assert decode(Nested, json.loads(json.dumps(document))) == value


def test_csv_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(example('python:a,"b"').rows())
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["encoder"] == 'python:a,"b"'
    assert float(rows[3]["score"]) == example().scores[3].score


def test_names_of_files_stay_what_they_are() -> None:
    """Stores and directories of results find one by its name."""
    assert example().file_name() == "builtin_conv-9e1f1a683e91.json"
    base = example()
    changes: list[dict[str, Any]] = [
        {"thresholds": [0.6, 0.75]},
        {"encoder": dataclasses.replace(base.encoder, spec="builtin:conv2")},
        {"task": dataclasses.replace(base.task, average="published")},
        {"task": dataclasses.replace(base.task, pattern="low")},
        {"task": dataclasses.replace(base.task, center=0.25)},
    ]
    names = [example(**one).file_name() for one in changes]
    assert len({base.file_name(), *names}) == 1 + len(changes)


def test_a_later_field_of_a_record_keeps_earlier_names() -> None:
    """It has a default, and changes the name only where it has another value."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(TaskRecord):
        trim: float = 0.0

    task = example().task
    earlier = {one.name: getattr(task, one.name) for one in dataclasses.fields(task)}
    assert example(task=Later(**earlier)).file_name() == example().file_name()
    assert example(task=Later(**earlier, trim=0.25)).file_name() != example().file_name()


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "unknown"), (0, "0"), (99_999, "99999"), (100_000, "0.1 M"), (25_600_000, "25.6 M")],
)
def test_parameters_in_words(count: int | None, words: str) -> None:
    result = example(encoder=dataclasses.replace(example().encoder, parameters=count))
    assert result.summary().splitlines()[0] == f"builtin:conv: F = 256, {words} parameters"


def test_the_worst_of_a_comparison_has_a_known_difference_and_error() -> None:
    known = check().points[0]
    unknown = [
        dataclasses.replace(known, t_difference=math.nan),
        dataclasses.replace(known, t_difference=9.0, t_stderr=0.0),
        dataclasses.replace(known, t_difference=9.0, t_stderr=math.nan),
    ]
    assert check(points=[*unknown, known]).largest == known
    assert check(points=unknown).largest is None
    assert check(points=[], reason="").summary().endswith(": t does not differ")


def test_errors_beside_values() -> None:
    from synbench_fast.results.records import with_error

    assert with_error(0.81234, 0.00451) == "0.8123 ± 0.0045"
    assert with_error(0.81234, 0.00451, 2) == "0.81 ± 0.00"
    assert with_error(0.81234, math.nan) == with_error(0.81234, math.inf) == "0.8123"


@pytest.mark.parametrize(("off", "found"), [(0.9e-9, True), (1.1e-9, False)])
def test_budgets_are_found_to_rounding(off: float, found: bool) -> None:
    if found:
        assert example().score(eps=0.2 + off).eps == 0.2
    else:
        with pytest.raises(SynbenchError, match=r"^eps: expected one of 0, 0\.2, got 0\.2"):
            example().score(eps=0.2 + off)


def test_a_task_without_samples_has_none() -> None:
    task = dataclasses.replace(example().task, samples=[])
    assert task.size() == "2 scales x 0 samples"
    assert example(task=task).rows()[0]["samples"] == 0


def test_the_version_that_is_written() -> None:
    """It changes with what the numbers mean: documents of another version are refused."""
    document = example().to_dict()
    assert (document["schema"], document["schema_version"]) == ("synbench-fast/result", 8)
