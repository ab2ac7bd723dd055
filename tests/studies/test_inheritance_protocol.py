"""The protocol on a toy suite: cells and what they hold, restarts, failures, configurations."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import killed_inside_its_save, refused
from inheritance_cases import (
    TRAINING,
    equal,
    make_classifier,
    make_part,
    make_suite,
    numbers,
    pretrained,
    run_toy,
    weights,
)
from torch import Tensor, nn

from synbench_fast.errors import SynbenchError
from synbench_fast.studies.inheritance.bench import Bench
from synbench_fast.studies.inheritance.cells import PRETRAINING, TrainingSummary
from synbench_fast.studies.inheritance.data import DataSet, Part
from synbench_fast.studies.inheritance.distance import dataset_distance
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.page import page
from synbench_fast.studies.inheritance.report import InheritanceReport
from synbench_fast.studies.inheritance.run import inherit
from synbench_fast.studies.inheritance.training import Training, predictions


@pytest.fixture(scope="module")
def original() -> Classifier:
    return pretrained()


def test_cells_are_what_they_say(original: Classifier) -> None:
    report = run_toy(original, methods=("ft",), seeds=1)
    suite = make_suite()
    cell = report.cells[1]
    assert (cell.fine_tuned_on, cell.seed, len(report.cells)) == ("two", 0, 3)
    tuned, _ = Bench(original, suite.data[1].train, TRAINING, seed=0).tune("ft")
    for name, part in suite.test_parts().items():
        was = predictions(original, part) == part.y
        now = predictions(tuned, part) == part.y
        before = cell.pretraining_before if name == PRETRAINING else cell.accuracy_before[name]
        after = cell.pretraining_after if name == PRETRAINING else cell.accuracy_after[name]
        assert before == pytest.approx(float(was.double().mean()))
        assert after == pytest.approx(float(now.double().mean()))
        assert cell.agreement[name].both_correct == pytest.approx(float((was & now).double().mean()))
    assert report.matrix("ft")["two"][PRETRAINING] == pytest.approx(cell.pretraining_change)


def test_a_run_that_was_killed_goes_on(original: Classifier, tmp_path: Path) -> None:
    whole = run_toy(original)

    def kill_at(count: int) -> Callable[[str], None]:
        lines: list[str] = []

        def progress(line: str) -> None:
            lines.append(line)
            if sum("RI" in one for one in lines) == count:
                raise KeyboardInterrupt

        return progress

    for count in (3, 1):
        with pytest.raises(KeyboardInterrupt):
            run_toy(original, out=tmp_path, progress=kill_at(count))
    assert len(list((tmp_path / "cells").iterdir())) == 4
    resumed = run_toy(original, out=tmp_path)
    assert resumed.reused == 4 and len(resumed.cells) == 12
    assert numbers(resumed) == numbers(whole)
    again = run_toy(original, out=tmp_path)
    assert again.reused == 12 and again.cells == resumed.cells


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """(data set, seed) whose fine-tuning meets a loss that is not finite, as long as it is in here."""
    from synbench_fast.studies.inheritance import bench as benches

    bad: set[tuple[str, int]] = set()
    parts = {one.train.sha256: one.name for one in make_suite().data}
    real = benches.fit

    def fit_or_fail(model: Classifier, part: Part, training: Training, **options: Any) -> TrainingSummary:
        rate = 1e30 if (parts[part.sha256], options["seed"]) in bad else training.lr
        return real(model, part, replace(training, lr=rate), **options)

    monkeypatch.setattr(benches, "fit", fit_or_fail)
    return bad


def test_a_fine_tuning_that_diverges_leaves_a_gap(
    original: Classifier, diverging: set[tuple[str, int]], tmp_path: Path
) -> None:
    whole = run_toy(original, methods=("ft", "wise", "lp"))
    diverging.add(("two", 1))
    lines: list[str] = []
    report = run_toy(original, methods=("ft", "wise", "lp"), out=tmp_path, progress=lines.append)
    assert [(one.method, one.fine_tuned_on, one.seed) for one in report.failed] == [
        ("ft", "two", 1),
        ("wise", "two", 1),  # starts from the same fine-tuning
    ]
    assert all(
        one.reason.startswith("lr: expected one at which the loss stays finite") for one in report.failed
    )
    assert sum("failed: lr:" in line for line in lines) == 2
    assert len(report.cells) == 18 - 2
    for one, complete in zip(report.summaries, whole.summaries, strict=True):
        assert one.failed == (0 if one.method == "lp" else 2 // 2)
        assert one.mri.by_seed == complete.mri.by_seed[: 2 - one.failed]  # seed 1 is over other data sets
        assert one.matrix["one"] == complete.matrix["one"] and one.ri["one"] == complete.ri["one"]
        assert len(one.ri["two"].by_seed) == 2 - one.failed
    lp = report.of("lp")
    assert lp.difference is not None and len(lp.difference.by_seed) == 1  # the seeds that both have
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "cells").iterdir()]
    failures = [one for one in records if one["failed"] is not None]
    assert len(records) == 18 and len(failures) == 2
    assert all(one["cell"] is None and one["failed"].startswith("lr:") for one in failures)
    again = run_toy(original, methods=("ft", "wise", "lp"), out=tmp_path)
    assert again.reused == 16 and again.failed == report.failed  # tried again
    diverging.clear()
    mended = run_toy(original, methods=("ft", "wise", "lp"), out=tmp_path)
    assert mended.reused == 16 and not mended.failed and numbers(mended) == numbers(whole)


def test_where_all_fine_tunings_of_a_set_diverge_there_is_no_number(
    original: Classifier, diverging: set[tuple[str, int]], tmp_path: Path
) -> None:
    diverging.update({("two", 0), ("two", 1)})
    report = run_toy(original, methods=("ft", "lp"))
    ft = report.of("ft")
    assert math.isnan(ft.mri.value) and ft.mri.by_seed == [] and ft.failed == 2
    assert set(ft.matrix["two"].values()) == {None} and None not in ft.matrix["one"].values()
    path = report.save(tmp_path / "r.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["summaries"][0]["matrix"]["two"]["one"] is None
    assert document["summaries"][0]["mri"]["value"] is None
    assert InheritanceReport.load(path).to_json() == report.to_json()  # NaN is not equal to itself
    assert str(report).startswith("inherit, suite ") and str(len(report.failed)) + " failed" in str(report)
    assert len(str(report).splitlines()) == 1 + len(report.summaries)
    assert "ft: failed, 2 of its fine-tunings have no numbers" in str(report) and "nan" not in str(report)
    text = page(report)
    assert "2 failed, in no number here" in text
    assert "fine-tuned on two, evaluated on three: failed" in text
    assert "nan" not in text.replace("a loss of nan", "")
    stream = io.StringIO()
    report.print_report(stream)
    table = stream.getvalue()
    assert "2 failed, in no number above" in table and "nan" not in table.replace("a loss of nan", "")
    assert str(report.failed[0]) in table
    stream = io.StringIO()
    report.write_csv(stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    lost = [row for row in rows if row["evaluated_on"] == ""]
    assert [(row["method"], row["fine_tuned_on"], row["seed"]) for row in lost] == [
        ("ft", "two", "0"),
        ("ft", "two", "1"),
    ]


def test_a_run_where_everything_diverges_still_reports(original: Classifier) -> None:
    report = run_toy(original, methods=("ft",), seeds=1, lr=1e30, warmup=0)
    assert not report.cells and len(report.failed) == 3
    assert "failed" in page(report)
    stream = io.StringIO()
    report.print_report(stream)
    assert "suite toy; points, one seed\n" in stream.getvalue()
    for text in (stream.getvalue(), str(report), page(report)):
        assert "nan" not in text.replace("a loss of nan", "")


def test_an_encoder_without_finite_logits_is_refused(original: Classifier) -> None:
    broken = original.clone()
    nn.init.constant_(broken.head.bias, math.nan)
    with refused("encoder Body 1: logits: expected finite ones, got nan"):
        run_toy(broken)


def test_kept_weights_that_are_missing_are_made_again(original: Classifier, tmp_path: Path) -> None:
    run_toy(original, out=tmp_path, seeds=1, methods=("lp",))
    assert run_toy(original, out=tmp_path, seeds=1, methods=("lp",), weights=True).reused == 0
    next((tmp_path / "weights").iterdir()).unlink()
    assert run_toy(original, out=tmp_path, seeds=1, methods=("lp",), weights=True).reused == 2
    assert len(list((tmp_path / "weights").iterdir())) == 3


def test_a_save_of_weights_that_was_stopped_is_made_again(
    original: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import torch as library

    options: dict[str, Any] = {"out": tmp_path, "seeds": 1, "methods": ("lp",)}
    run_toy(original, **options)

    def half(state: dict[str, Tensor], path: str) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(library, "save_file", half)
        with pytest.raises(KeyboardInterrupt):
            run_toy(original, weights=True, **options)
    assert list((tmp_path / "weights").iterdir()) == []
    assert run_toy(original, weights=True, **options).reused == 0
    for path in (tmp_path / "weights").iterdir():
        make_classifier().load(path)
    with refused("a/b.safetensors: expected a file that can be written, got"):
        original.save(tmp_path / "a" / "b.safetensors")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are told apart by /proc")
def test_what_killed_saves_of_cells_and_weights_left_goes(original: Classifier, tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": tmp_path, "seeds": 1, "methods": ("lp",), "weights": True}
    left = []
    for folder in ("cells", "weights"):
        (tmp_path / folder).mkdir()
        left.append(killed_inside_its_save(tmp_path / folder / "killed"))
    run_toy(original, **options)
    assert not any(path.exists() for path in left)
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".json", ".safetensors"}


def test_features_that_allow_no_score_leave_the_accuracies(
    original: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constants, say, of an encoder whose last layer died."""
    from synbench_fast.studies.inheritance import protocol

    real, calls = protocol.synbench_score, []

    def dies_at_the_third(*arguments: Any, **options: Any) -> Any:
        calls.append(options)
        if len(calls) == 3:
            raise SynbenchError("features: expected at least one that varies")
        return real(*arguments, **options)

    monkeypatch.setattr(protocol, "synbench_score", dies_at_the_third)
    lines: list[str] = []
    options: dict[str, Any] = {"methods": ("ft",), "seeds": 1, "score": True, "out": tmp_path}
    report = run_toy(original, progress=lines.append, **options)
    assert [one.score_after is None for one in report.cells] == [False, True, False]
    assert not report.failed and report.of("ft").score_change is None
    assert any("ft on two, seed 0: no score: features: expected" in one for one in lines)
    words = "score: none after 1 of 3 fine-tunings, whose features allow none; the first is Body 1, ft on two, seed 0"
    assert words in report.warnings
    again = run_toy(original, **options)
    assert again.reused == 3 and again.cells == report.cells and words in again.warnings
    stream = io.StringIO()
    report.print_report(stream)
    assert "Change of the SynBench score" in page(report)


def test_another_configuration_has_other_cells(original: Classifier, tmp_path: Path) -> None:
    run_toy(original, out=tmp_path, seeds=1)
    for change in ({"lr": 0.01}, {"seed": 1}, {"methods": ("wise?alpha=0.4",)}, {"distance": True}):
        assert run_toy(original, out=tmp_path, **({"seeds": 1} | change)).reused == 0
    other = original.clone()
    with torch.no_grad():
        other.head.bias += 1
    assert run_toy(other, out=tmp_path, seeds=1).reused == 0
    assert run_toy(original, out=tmp_path, seeds=1, methods=("ft",)).reused == 3


def test_other_code_of_a_factory_has_other_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a module that it imports, with the same weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(
        "import slope_of_network as s\nfrom torch import nn\n"
        "def make():\n"
        "    made = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.LeakyReLU(s.SLOPE), nn.Linear(8, 4))\n"
        "    made.input_shape = (1, 6, 6)\n"
        "    return made\n"
    )
    options = {"out": tmp_path / "cells", "seeds": 1, "methods": ("ft",)}
    for slope, reused in ((0.1, 0), (0.1, 3), (0.2, 0)):
        (tmp_path / "slope_of_network.py").write_text(f"SLOPE = {slope}\n")
        assert run_toy("python:network.py:make", **options).reused == reused


def test_damaged_cells_are_named(original: Classifier, tmp_path: Path) -> None:
    run_toy(original, out=tmp_path, seeds=1, methods=("ft",))
    path = sorted((tmp_path / "cells").iterdir())[0]
    text = path.read_text(encoding="utf-8")
    for damaged, words in (
        (text[:50], "expected a JSON document"),
        (text.replace("inheritance-cell", "other"), "expected a document of schema"),
        (text.replace('"schema_version": 1', '"schema_version": 7'), "expected schema_version 1, got 7"),
        (text.replace('"lr": 0.05', '"lr": 0.06'), "expected the configuration that the file is named by"),
        (
            text.replace('"pretraining_after"', '"pretraining_afer"'),
            "pretraining_after: expected a number, got no such field",
        ),
    ):
        path.write_text(damaged, encoding="utf-8")
        with refused(path.name, words):
            run_toy(original, out=tmp_path, seeds=1, methods=("ft",))


def test_a_full_disk_leaves_no_cell(
    original: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with refused("_seed0_", "expected a file that can be written, got: No space left on device"):
            run_toy(original, out=tmp_path, seeds=1, methods=("ft",))
    assert list((tmp_path / "cells").iterdir()) == []
    assert run_toy(original, out=tmp_path, seeds=1, methods=("ft",)).reused == 0


def test_two_runs_in_one_folder(original: Classifier, tmp_path: Path) -> None:
    """The second runs from within the first, after its first cell: it reads that one and makes all others."""
    inner: list[InheritanceReport] = []

    def progress(line: str) -> None:
        if "RI" in line and not inner:
            inner.append(run_toy(original, out=tmp_path, methods=("ft",)))

    outer = run_toy(original, out=tmp_path, methods=("ft",), progress=progress)
    assert inner[0].reused == 1 and outer.reused == 5
    assert outer.cells == inner[0].cells


def test_scores_and_distances(original: Classifier) -> None:
    report = run_toy(original, methods=("ft", "lp"), seeds=1, score=True, distance=True, distance_samples=30)
    for one in report.cells:
        assert one.score_before is not None and one.score_after is not None and one.distance is not None
        assert one.score_before == report.cells[0].score_before
        # linear probing leaves the encoder as it was, so the data-free score cannot change
        assert (one.score_after == one.score_before) == (one.method == "lp")
        assert set(one.distance) == {*one.others, PRETRAINING}
    by_name = {one.fine_tuned_on: one.distance or {} for one in report.cells}
    assert by_name["one"]["two"] == by_name["two"]["one"] > 0
    suite = make_suite()
    with torch.no_grad():
        first, second = (
            (original.features(part.load(torch.arange(len(part)))), part.y)
            for part in (suite.data[0].test, suite.pretraining)
        )
    found = dataset_distance(first, second, samples=30, seed=0).value
    assert by_name["one"][PRETRAINING] == pytest.approx(found, rel=1e-6)


def test_weights_are_kept(original: Classifier, tmp_path: Path) -> None:
    run_toy(original, out=tmp_path, seeds=1, methods=("lp",), weights=True)
    files = sorted((tmp_path / "weights").iterdir())
    assert len(files) == 3 and {one.suffix for one in files} == {".safetensors"}
    assert equal(weights(make_classifier().load(files[0]).body), weights(original.body))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ()}, "methods: expected at least one, got none"),
        ({"methods": ("ft", "ft")}, "methods: expected different ones, got 'ft' twice"),
        ({"seeds": 0}, "seeds: expected at least 1, got 0"),
        ({"weights": True}, "weights: expected a folder out to keep them in, got none"),
        ({"threads": 0}, "threads: expected an integer from 1 to "),
        ({"distance_samples": 1}, "distance_samples: expected at least 2, got 1"),
        ({"score_samples": 1}, "score_samples: expected at least 4, got 1"),
        ({"score_eps": 1.0}, "eps: expected values in [0, 1)"),
        ({"epochs": 0}, "epochs: expected an integer of at least 1, got 0"),
        ({"seed": 2**64 - 1}, "seed: expected seed + seeds of at most 2^64, got 18446744073709551615 + 2"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str, original: Classifier) -> None:
    with refused(words):
        run_toy(original, **options)


@pytest.mark.parametrize("method", ["ewc", "soup?of=ft+ewc", "lora", "soup?of=lora"])
def test_what_a_method_lacks_is_named_before_another_trains(
    method: str, original: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    suite = replace(make_suite(), pretraining_train=None)
    words = (
        "methods: expected images of the pre-training data" if "ewc" in method else "peft: expected it to be"
    )
    lines: list[str] = []
    with refused(words):
        inherit(
            original, suite, methods=("ft", method), seeds=1, score=False, distance=False,
            device="cpu", progress=lines.append,
        )  # fmt: skip
    assert not any("RI" in one for one in lines)


def test_the_library_of_weights_is_asked_for_before_anything_trains(
    original: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    monkeypatch.setattr(Bench, "tune", lambda self, method: pytest.fail("trained"))
    with refused("safetensors: expected it to be installed, got no such library"):
        run_toy(original, out=tmp_path, weights=True)


def test_suites_are_checked(original: Classifier) -> None:
    suite = make_suite()
    one, two = suite.data[0], suite.data[1]
    for changed, words in (
        (replace(suite, data=(one,)), "expected at least 2 data sets, one to fine-tune on"),
        (replace(suite, data=(one, one)), "expected distinct names, got 'one' twice"),
        (
            replace(suite, data=(one, replace(two, name=PRETRAINING))),
            "expected names other than 'pre-training'",
        ),
        (
            replace(suite, data=(one, DataSet("two", make_part(1, (2,)), two.test))),
            "at least 2 classes in two",
        ),
        (
            replace(suite, classes=("a", "b", "c")),
            "expected columns below 3 in one, the number of classes, got 3",
        ),
        (replace(suite, pretraining=make_part(20, n=0)), "expected images in pre-training, got none"),
        (
            replace(suite, pretraining_train=replace(suite.pretraining, columns=((0,), (1,), (2,), (9,)))),
            "expected columns below 4 in pre-training, the number of classes, got 9",
        ),
    ):
        with refused("suite toy:", words):
            inherit(original, changed)
    with refused("suite: expected one of digits-rib, imagenet-rib, folders", "did you mean digits-rib?"):
        inherit(original, "digits-ribs")
    with refused("pretraining: expected to be left out for suite digits-rib"):
        inherit(original, pretraining="somewhere")
    with refused("root: expected to be left out for suite toy, got 'somewhere'"):
        inherit(original, suite, root="somewhere")
    with refused("encoder: expected one of images [1, 8, 8] for suite digits-rib, got [1, 6, 6]"):
        inherit(original)
    with refused("checkpoint: expected a single encoder"):
        inherit(["timm:a", "timm:b"], checkpoint="x")
