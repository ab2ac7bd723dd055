"""Encoders that Python holds: their names, several at once, a loop of one's own, and what a result shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.results.plots import expected_bound

QUICK: dict[str, Any] = {"input_shape": (12,), "scales": 5, "samples": 128, "device": "cpu"}


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 6), nn.Tanh())


def half(x: Tensor) -> Tensor:
    return x[:, ::2]


def test_a_name_is_that_of_the_result(tmp_path: Path) -> None:
    result = sb.score(net(0), name="mine", **QUICK)
    assert (result.encoder.spec, result.encoder.name) == ("module:mine", "mine")
    assert str(result).startswith("module:mine: ") and result.file_name().startswith("module_mine-")
    assert sb.score(half, name="every second", **QUICK).encoder.spec == "callable:every second"
    assert sb.load_encoder(half, name="h", input_shape=(12,)).info.spec == "callable:h"
    suite = sb.score_suite(half, name="h", tasks="priors", **QUICK)
    assert suite.encoder.spec == "callable:h"
    for wrong in ("", " ", "a\nb", 3, "x" * 201):
        with refused("name: expected printable text of 1 to 200 characters, got "):
            sb.score(half, name=wrong, **QUICK)  # type: ignore[call-overload]
    with refused("name: expected none for builtin:identity, whose spec is its name, got 'x'"):
        sb.score("builtin:identity", name="x", **QUICK)


def test_a_list_is_scored_in_order_and_told_apart() -> None:
    found = sb.score([net(0), net(1), "builtin:identity", half], **QUICK)
    assert [one.encoder.spec for one in found] == [
        "module:Sequential (1)", "module:Sequential (2)", "builtin:identity", "callable:half",
    ]  # fmt: skip
    assert found[1].scores == sb.score(net(1), **QUICK).scores
    named = sb.score((net(0), half), name=["a", "b"], **QUICK)
    assert [one.encoder.spec for one in named] == ["module:a", "callable:b"]
    assert {one.first for one in sb.compare(*named).differences} == {"module:a"}
    with refused("encoder: expected at least one, got an empty list"):
        sb.score([], **QUICK)
    for wrong in ("ab", ["a"]):
        with refused("name: expected a list of 2 names, got "):
            sb.score([net(0), half], name=wrong, **QUICK)  # type: ignore[call-overload]


def test_two_modules_of_one_class_have_files_and_names_of_their_own() -> None:
    one, two = sb.score(net(0), **QUICK), sb.score(net(1), **QUICK)
    assert one.file_name() != two.file_name()
    (difference, *_) = sb.compare(one, two).differences
    assert (difference.first, difference.second) == ("module:Sequential (1)", "module:Sequential (2)")


def test_progress_is_a_callback_or_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    sb.score(half, progress=lambda done, total, phase: seen.append(total), **QUICK)
    assert seen and capsys.readouterr().err == ""
    sb.score(half, name="h", progress=True, **QUICK)
    assert capsys.readouterr().err.splitlines() == ["h: loading", "h: 640/640 images"]
    sb.score(half, progress=False, **QUICK)
    assert capsys.readouterr().err == ""


def test_a_loop_of_ones_own_gives_a_result(tmp_path: Path) -> None:
    direct = sb.score(half, **{**QUICK, "scales": (0.5, 1.0, 1.5, 2.0, 3.0)})
    probe = sb.Probe(sb.GaussianTask((12,), scales=(0.5, 1.0, 1.5, 2.0, 3.0)), samples=128)
    for batch in probe.batches(100):
        probe.update(batch, half(batch.x))
    found = probe.to_result("half")
    assert found.encoder.spec == "callable:half" and found.cost.images == direct.cost.images
    assert [one.score for one in found.scores] == pytest.approx([one.score for one in probe.compute().scores])
    found.save(tmp_path / "half")
    assert sb.Result.load(tmp_path / "half.json").to_dict() == found.to_dict()
    other = sb.score("builtin:identity", **{**QUICK, "scales": (0.5, 1.0, 1.5, 2.0, 3.0)}, eps=found.eps)
    assert sb.compare(found, other, thresholds=0.6).paired
    board = sb.report.leaderboard(sb.report.load_results(tmp_path))
    assert board.rows()[0]["encoder"] == "callable:half"
    with refused("name: expected printable text"):
        probe.to_result("")


def test_plot_is_the_published_figure() -> None:
    pytest.importorskip("matplotlib")
    result = sb.score(half, eps=(0.0, 0.2), **QUICK)
    figure = result.plot()
    assert [axes.get_title() for axes in figure.axes] == ["eps = 0", "eps = 0.2"]
    assert "a_t" in figure.axes[0].get_xlabel() and "E(a_t)" in figure.axes[0].get_ylabel()
    x, y = figure.axes[1].lines[1].get_data()
    points = [one for one in result.curve if one.eps == 0.2]
    expected = expected_bound([one.accuracy for one in points], [one.bound for one in points], x)
    assert np.array_equal(y, expected)
    assert len(result.plot(eps=[0.2]).axes) == 1
    with refused("eps: expected one of 0, 0.2, got 0.3"):
        result.plot(eps=[0.3])


def test_a_frame_has_a_row_for_each_score() -> None:
    pytest.importorskip("pandas")
    result = sb.score(half, eps=(0.0, 0.2), thresholds=(0.6, 0.7), **QUICK)
    frame = result.to_frame()
    assert list(frame["score"]) == [one.score for one in result.scores] and len(frame) == 4


def test_memory_is_that_of_the_encoder_alone() -> None:
    """What ran before, and what the process holds, does not count; what the encoder allocates does."""

    def hungry(x: Tensor) -> Tensor:
        return torch.ones(48_000_000)[:1].repeat(len(x), 1) * x[:, :4]  # 192 MB

    sb.score(half, **QUICK)
    held = np.ones(40_000_000)  # 320 MB
    assert sb.score(half, **QUICK).cost.peak_memory_bytes < 1.0e8
    assert 1.5e8 < sb.score(hungry, **QUICK).cost.peak_memory_bytes < 3.0e8
    del held
    assert sb.score(half, **QUICK).cost.peak_memory_bytes < 1.0e8


def test_labels_of_several_classes_name_the_right_call() -> None:
    pytest.importorskip("torchmetrics")
    from synbench_fast.integrations.torchmetrics import SynBenchScore

    metric = SynBenchScore(sb.GaussianTask((4,), scales=(1.0,)), feature_dim=4)
    with refused("got values from 0 to 2; synbench_fast.evaluate_features takes labels of K classes"):
        metric.update(torch.zeros(3, 4), torch.arange(3), 1.0)
    x, y = np.random.default_rng(0).standard_normal((60, 3)), np.arange(60) % 3
    with refused(
        "eps: expected none for 3 classes, got one; ",
        "K classes take train_x, train_y and the estimator alone",
    ):
        sb.evaluate_features(x, y, eps=0.2)
