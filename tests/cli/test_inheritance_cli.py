"""`synbench-fast study inherit`."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

import pytest
from inheritance_cases import imagenet_of_six

from synbench_fast import errors
from synbench_fast.cli import main as cli
from synbench_fast.studies.inheritance.cells import PRETRAINING
from synbench_fast.studies.inheritance.folders import CORRUPTIONS as IMAGENET_CORRUPTIONS
from synbench_fast.studies.inheritance.report import InheritanceReport


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imagenet_of_six(tmp_path_factory.mktemp("imagenet"))


NETWORK = """
from torch import nn

class Network(nn.Sequential):
    input_shape = (3, 8, 8)

def make():
    return Network(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 6))
"""


def test_imagenet_variants_from_the_command_line(
    imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "network.py"
    file.write_text(NETWORK, encoding="utf-8")
    words = ["study", "inherit", f"python:{file}:make", "--suite", "imagenet-rib", "--root", str(imagenet)]
    words += ["--pretraining", str(imagenet / "val"), "--only", "A,R,ObjectNet,C", "--epochs", "1"]
    words += ["--objectnet-map", str(imagenet / "map.json"), "--methods", "lp", "--seeds", "1", "--no-score"]
    assert cli.main([*words, "--no-distance", "--format", "csv", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 4 * 5
    assert {row["evaluated_on"] for row in rows} == {"A", "R", "ObjectNet", "C", PRETRAINING}
    assert "warning: seeds: 1 gives no interval" in err


TORCHVISION = """
from torchvision.models import shufflenet_v2_x0_5

def make():
    network = shufflenet_v2_x0_5(num_classes=6)
    network.input_shape = (3, 32, 32)
    return network
"""


def test_all_imagenet_variants_with_a_network_of_torchvision(
    imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "network.py"
    file.write_text(TORCHVISION, encoding="utf-8")
    data = tmp_path / "C"
    data.symlink_to(imagenet / "imagenet-c", target_is_directory=True)
    words = ["study", "inherit", f"python:{file}:make", "--suite", "imagenet-rib", "--root", str(imagenet)]
    words += ["--pretraining", str(imagenet / "val"), "--objectnet-map", str(imagenet / "map.json")]
    words += ["--data", f"C={data}", "--methods", "ft", "--seeds", "1", "--epochs", "1", "--no-score"]
    words += ["--distance-samples", "4", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    _, err = capsys.readouterr()
    assert "ObjectNet: 1 class folders left out" in err and "(air_freshener)" in err
    report = InheritanceReport.load(tmp_path / "out" / "inherit.json")
    assert {one.name: (one.classes, one.test) for one in report.data} == {
        "V2": (6, 12), "A": (3, 6), "R": (3, 6), "Sketch": (6, 12), "ObjectNet": (2, 4), "Cartoon": (6, 12),
        "Drawing": (6, 12), "C": (2, 150),
    }  # fmt: skip
    assert len(report.cells) == 8 and len(report.matrix("ft")["C"]) == 9
    for cell in report.cells:
        assert cell.distance is not None and set(cell.distance) == {*cell.others, PRETRAINING}
        # images of two classes, one each, in every of the 75: a mean of accuracies 0, 1/2 and 1
        assert (150 * cell.accuracy_after["C"]) == pytest.approx(round(150 * cell.accuracy_after["C"]))
    data.unlink()
    for corruption in IMAGENET_CORRUPTIONS[:-1]:
        (data / corruption).parent.mkdir(exist_ok=True)
        (data / corruption).symlink_to(imagenet / "imagenet-c" / corruption, target_is_directory=True)
    assert cli.main(words) == 1
    _, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("error: C: expected 15 corruptions with severities 1 to 5 in ")
    assert err.splitlines()[-1].endswith("got no jpeg_compression/1 and 4 more missing")


def test_digits_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "study",
        "inherit",
        "--suite",
        "digits-rib",
        "--methods",
        "lp,wise",
        "--seeds",
        "1",
        "--epochs",
        "1",
    ]
    words += ["--score-samples", "128", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert "mRI" in out and "1 seeds" not in out and err.count("RI") == 16
    report = InheritanceReport.load(tmp_path / "inherit.json")
    assert len(report.cells) == 2 * 8 and report.methods == ["lp", "wise"]
    assert report.of("lp").score_change is not None and report.of("lp").score_change.value == 0
    before = report.cells[0]
    assert before.pretraining_before > 0.9 and before.accuracy_before["resampled"] > 0.8
    assert before.accuracy_before["sketch"] < before.accuracy_before["resampled"]
    assert report.statistic is not None and "spearman" in out
    assert any(one.predictor == "distance to pre-training" for one in report.statistic.correlations)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "inherit.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 16 * 9 and rows[0]["distance"] == "" and float(rows[1]["distance"]) > 0
    html = (tmp_path / "inherit.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 1 + 2 + 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "digit"], "error: --suite: expected one of digits-rib, imagenet-rib, folders"),
        (["--suite", "folders"], "error: ENCODER: expected at least one, such as timm:"),
        (["--seeds", "0"], "error: --seeds: expected an integer of at least 1, got '0'"),
        (["--data", "x"], "error: --data: expected NAME=DIR, got 'x'"),
        (["--data", "x=a", "--data", "x=b"], "error: --data: expected distinct names, got 'x' twice"),
        (["--weights"], "error: --weights: expected --out DIR"),
        (["--lr", "fast"], "error: --lr: expected a number, got 'fast'"),
        (["--objectnet-map", "nowhere"], "error: --objectnet-map: expected an existing file"),
    ],
)
def test_command_line_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "inherit", *words]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_missing_library_is_named_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert cli.main(["study", "inherit"]) == 1
    assert capsys.readouterr().err == (
        "error: scikit-learn: expected it to be installed, got no such library; "
        'pip install "synbench-fast[inherit]"\n'
    )


def test_failed_fine_tunings_end_in_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "study",
        "inherit",
        "digits:untrained",
        "--methods",
        "lp,ft",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--no-score",
    ]
    words += ["--no-distance", "--lr", "1e25", "--warmup", "0", "--quiet", "--out", str(tmp_path)]
    assert cli.main(words) == 1
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert re.match(r"error: inherit: \d+ of 16 fine-tunings failed, the first is digits:untrained: ", last)
    assert "failed, in no number above" in out
    report = InheritanceReport.load(tmp_path / "inherit.json")
    assert len(report.failed) + len(report.cells) == 16 and report.failed
    assert (tmp_path / "inherit.html").is_file() and (tmp_path / "inherit.csv").is_file()


def test_mistakes_of_the_run_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "inherit", "--methods", "ftt"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert issubclass(errors.SynbenchError, ValueError)
