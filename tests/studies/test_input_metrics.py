"""Label-free metrics on a folder of images: the same as of the features, every image once, mistakes, the command."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from checks import refused
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.stats.label_free import METRICS, label_free
from synbench_fast.studies import InputMetricsReport, measure_inputs

Image = pytest.importorskip("PIL.Image")


class Net(nn.Module):
    """12 features of a fixed matrix; keeps what it saw."""

    input_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(192, 12, generator=torch.Generator().manual_seed(1))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return x.flatten(1) @ self.weight


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 images in two folders, of which one has a subfolder, and files that are none."""
    random = np.random.default_rng(0)
    root = tmp_path / "images"
    for number in range(40):
        place = root / ("a" if number < 20 else "b/deeper")
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02}.{'png' if number % 2 else 'PNG'}")
    (root / "notes.txt").write_text("no image", encoding="utf-8")
    return root


def pixels(folder: Path) -> Tensor:
    files = sorted(one for one in folder.rglob("*") if one.suffix.lower() == ".png")
    return torch.stack(
        [torch.from_numpy(np.array(Image.open(one))).permute(2, 0, 1).float() / 255 for one in files]
    )


def test_metrics_are_those_of_the_features(folder: Path) -> None:
    net = Net()
    report = measure_inputs(net, folder, input_shape=(3, 8, 8), batch_size=16)
    images = pixels(folder)
    assert report.images == 40
    assert torch.equal(torch.cat(net.seen)[-40:], images)  # once, after the samples that loading takes
    expected = label_free(Net()(images))
    (one,) = report.encoders
    assert [metric.name for metric in one.metrics] == list(METRICS) and one.features == 12
    for metric in one.metrics:
        value = expected[metric.name]
        assert (metric.value, metric.stderr) == pytest.approx(
            (value.value, value.stderr), rel=1e-4, nan_ok=True
        )
    assert report.rows()[0]["alpha_req"] is None  # of 12 features
    assert InputMetricsReport.from_json(report.to_json()).to_json() == report.to_json()
    assert report.command == ""


def test_a_seed_chooses_images(folder: Path) -> None:
    few = [measure_inputs(Net(), folder, input_shape=(3, 8, 8), samples=25, seed=seed) for seed in (0, 0, 1)]
    values = [one.encoders[0].metrics for one in few]
    assert few[0].images == 25 and values[0] == values[1] != values[2]


def test_mistakes_are_one_line(folder: Path, tmp_path: Path) -> None:
    with refused(f"inputs: expected a folder of images, got '{tmp_path / 'none'}'"):
        measure_inputs("builtin:conv", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with refused("inputs: expected at least 20 images in", "got 0"):
        measure_inputs("builtin:conv", tmp_path / "empty")
    with refused("samples: expected at least 20, got 3"):
        measure_inputs("builtin:conv", folder, samples=3)
    with refused("encoder function 1: features: expected some that are not 0, got zeros only"):
        measure_inputs(lambda x: x.flatten(1)[:, :4] * 0, folder, input_shape=(3, 8, 8))
    (folder / "a" / "00.PNG").write_bytes(b"no image")
    with refused("00.PNG: expected an image"):
        measure_inputs(Net(), folder, input_shape=(3, 8, 8))


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = ["builtin:linear?dim=16", "builtin:conv?dim=8"]
    words = ["study", "metrics", *specs, "--inputs", str(folder), "--input-shape", "3,8,8", "--threads", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"40 images of {folder}, ± one standard error; seed 0" in printed
    report = InputMetricsReport.load(tmp_path / "out" / "metrics.json")
    text = (tmp_path / "out" / "metrics.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["encoder"] for row in rows] == specs
    assert float(rows[0]["rankme"]) == report.encoders[0].metrics[0].value
    assert report.command.startswith("synbench-fast study metrics 'builtin:linear?dim=16'")
    assert f"--inputs {folder}" in report.command
    direct = sb.studies.measure_inputs(specs, folder, input_shape=(3, 8, 8), threads=1)
    assert direct.encoders == report.encoders
    assert cli.main(["study", "metrics", specs[0], "--inputs", str(tmp_path / "none")]) == 1
    assert "error: inputs: expected a folder of images" in capsys.readouterr().err
