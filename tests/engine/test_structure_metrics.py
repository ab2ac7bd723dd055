"""Label-free metrics of the structure score's images: from the same features, in every place that shows them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refused
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.config import ScoreConfig
from synbench_fast.report import export, html, tables
from synbench_fast.report.collection import load_results
from synbench_fast.results.records import Result
from synbench_fast.results.structure import LABEL_FREE, FeatureMetric, mean_metrics
from synbench_fast.stats.label_free import METRICS, lidar
from synbench_fast.tasks.structure import STRUCTURE

SHAPE = (3, 16, 16)
OPTIONS: dict[str, Any] = {"input_shape": SHAPE, "preset": "quick"}


class Net(nn.Module):
    """20 features of a fixed convolution; counts the images that it saw."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(20, 3, 5, 5, generator=generator)
        self.images = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return torch.relu(nn.functional.conv2d(x - 0.5, self.weight.to(x), stride=2)).mean((2, 3))


def test_names_are_those_of_the_functions() -> None:
    assert (*METRICS, "lidar") == LABEL_FREE


def test_metrics_are_those_of_the_scores_own_images() -> None:
    one, other = Net(), Net()
    found = sb.structure_score(one, label_free=True, **OPTIONS)
    plain = sb.structure_score(other, **OPTIONS)
    assert one.images == other.images  # no further forward pass
    assert [replace(family, metrics=[]) for family in found.families] == plain.families
    assert plain.metrics == []
    for score, family in zip(found.families, STRUCTURE.families, strict=True):
        x = torch.cat([family.draw(SHAPE, 0, k, 0, STRUCTURE.images) for k in range(family.classes)])
        z, labels = Net()(x), torch.arange(family.classes).repeat_interleave(STRUCTURE.images)
        values = {metric.name: metric.value for metric in score.metrics}
        for name, function in METRICS.items():
            assert values[name] == pytest.approx(function(z), rel=1e-4), name
        assert ("lidar" in values) == (score.family == "instances")
        if score.family == "instances":
            assert values["lidar"] == pytest.approx(lidar(z, labels), rel=1e-4)
        assert all(metric.stderr > 0 for metric in score.metrics)
    (rankme,) = [metric for metric in found.metrics if metric.name == "rankme"]
    of_families = [metric for score in found.families for metric in score.metrics if metric.name == "rankme"]
    assert rankme.value == pytest.approx(sum(metric.value for metric in of_families) / 3)
    assert rankme.stderr == pytest.approx(math.sqrt(sum(metric.stderr**2 for metric in of_families)) / 3)


def test_blocks_are_averaged_and_errors_fall() -> None:
    quick, standard = (
        {one.name: one for one in sb.structure_score(Net(), label_free=True, input_shape=SHAPE, preset=preset).metrics}
        for preset in ("quick", "standard")
    )  # fmt: skip
    for name in ("rankme", "twonn", "lidar"):
        assert standard[name].stderr < 0.8 * quick[name].stderr
        assert abs(standard[name].value - quick[name].value) < 5 * quick[name].stderr


def test_a_mean_leaves_out_what_is_undefined() -> None:
    first = [
        FeatureMetric(name="a", value=1.0, stderr=0.3),
        FeatureMetric(name="b", value=math.nan, stderr=math.nan),
    ]
    second = [FeatureMetric(name="a", value=3.0, stderr=0.4), FeatureMetric(name="b", value=5.0, stderr=0.1)]
    a, b = mean_metrics([first, second])
    assert (a.value, a.stderr) == (2.0, pytest.approx(0.25))
    assert (b.value, b.stderr) == (5.0, 0.1)
    assert mean_metrics([]) == []


def test_it_needs_the_structure_score() -> None:
    with refused("label_free: expected structure=True, whose images it takes, got False"):
        ScoreConfig(label_free=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two encoders with metrics and of one without."""
    path = tmp_path_factory.mktemp("results")
    for spec, wanted in (
        ("builtin:conv?dim=16", True),
        ("builtin:linear?dim=24", True),
        ("builtin:linear?dim=8", False),
    ):
        one = sb.score(
            spec, structure=True, label_free=wanted, samples=128, scales=(1.0, 2.0), threads=1, **OPTIONS
        )
        one.save(path / one.file_name())
    return path


def stored(folder: Path) -> dict[str, Result]:
    found = [Result.load(one) for one in sorted(folder.glob("*.json"))]
    return {one.encoder.spec: one for one in found}


def test_documents_keep_them(folder: Path) -> None:
    known = stored(folder)
    one = known["builtin:conv?dim=16"]
    assert one.structure is not None and [metric.name for metric in one.structure.metrics] == list(LABEL_FREE)
    assert Result.from_json(one.to_json()).structure == one.structure
    assert "--label-free" in one.command
    without = known["builtin:linear?dim=8"].structure
    assert without is not None and without.metrics == []


def test_leaderboard_frame_and_page_show_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = stored(folder)
    assert cli.main(["report", str(folder), "--format", "csv", "--sort", "rankme"]) == 0
    rows = {row["encoder"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    board = tables.leaderboard(load_results(folder))
    page = html.page(board)
    (text,) = re.findall(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.S)
    members = json.loads(text)["boards"][0]["members"]
    for spec, one in known.items():
        assert one.structure is not None
        place = members["spec"].index(spec)
        assert len(members["label_free"][place]) == sum(math.isfinite(m.value) for m in one.structure.metrics)
        if not one.structure.metrics:
            assert rows[spec]["rankme"] == rows[spec]["lidar_stderr"] == ""
        for metric in one.structure.metrics:
            assert float(rows[spec][metric.name]) == metric.value
            assert float(rows[spec][f"{metric.name}_stderr"]) == metric.stderr
    pytest.importorskip("pandas")
    frame = export.frame(folder)
    for spec, one in known.items():
        assert one.structure is not None
        cells = frame[frame.encoder == spec].iloc[0]
        for metric in one.structure.metrics:
            assert cells[metric.name] == metric.value and cells[f"{metric.name}_stderr"] == metric.stderr


def test_command_prints_them_and_a_fleet_finds_the_same(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = "builtin:conv?dim=16"
    words = [
        "run", spec, "--label-free", "--input-shape", "3,16,16", "--preset", "quick", "--samples", "128", "--scales",
        "1.0,2.0", "--eps", "0,0.2", "--threads", "1", "--quiet",
    ]  # fmt: skip
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    one = stored(folder)[spec].structure
    assert one is not None
    (rankme,) = [metric for metric in one.metrics if metric.name == "rankme"]
    assert "label-free" in printed and f"{rankme.value:.4g} ± {rankme.stderr:.2g}" in printed
    assert cli.main([*words, "--models", "builtin:linear?dim=24", "--out", str(tmp_path / "fleet")]) == 0
    found = stored(tmp_path / "fleet" / "results")[spec].structure
    assert found is not None
    for mine, theirs in zip(one.metrics, found.metrics, strict=True):
        assert mine.value == pytest.approx(theirs.value) and mine.stderr == pytest.approx(theirs.stderr)
