"""Published tables again: each number against the function that it is from, or a closed form; nothing is invented."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shlex
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

import synbench_fast as sb
from synbench_fast.cli.main import main
from synbench_fast.errors import SynbenchError
from synbench_fast.reproduction import TABLES, Reproduction, reproduce, run
from synbench_fast.reproduction.tables import AFTER, BEFORE, INHERITED
from synbench_fast.studies.eps_star import find_eps_star

SMALL: dict[str, Any] = {
    "input_shape": (3, 8, 8), "scales": 6, "samples": 128, "eps": (0.0, 0.2), "thresholds": (0.6, 0.7), "threads": 1,
}  # fmt: skip
PROTOCOL: dict[str, Any] = {"estimator": "paper", "integral": "grid", "published_preprocessing": True}
AUGREG = "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"


def numbers(report: Reproduction) -> dict[tuple[str, str], tuple[float, float, float]]:
    return {(one.encoder, one.quantity): (one.ours, one.ci95_low, one.ci95_high) for one in report.comparisons}  # fmt: skip


# ---------------------------------------------------------------- what was published


def test_tags_are_those_of_timm() -> None:
    timm: Any = pytest.importorskip("timm")
    known = set(timm.list_pretrained())
    specs = [model.spec for table in TABLES.values() for model in table.models]
    assert len(specs) == 4 * 4 + 7
    assert {one.removeprefix("timm:") for one in specs} <= known


def test_every_published_number_has_its_source_and_its_model() -> None:
    for table in TABLES.values():
        assert table.unknown and table.paper
        for one in table.values:
            assert one.source and one.spec in [model.spec for model in table.models]


def test_bars_of_imagenet_rib_agree_with_each_other() -> None:
    """mRI is after less before, to the 0.1 that a bar can be read to; the rank correlation is that of the RIB's headline."""
    table = TABLES["imagenet-rib"]
    found = {
        model.label: [table.published(model.spec, one) for one in (BEFORE, AFTER, INHERITED)]
        for model in table.models
    }
    values = np.array([[one.value for one in row if one is not None] for row in found.values()])
    assert values.shape == (7, 3)
    np.testing.assert_allclose(values[:, 1] - values[:, 0], values[:, 2], atol=0.11)
    assert spearmanr(values[:, 0], values[:, 2]).statistic == pytest.approx(-0.96, abs=0.005)


# ---------------------------------------------------------------- our numbers


def test_scores_are_those_of_score_under_the_protocol() -> None:
    report = reproduce("synbench-scores", ["builtin:conv"], **SMALL)
    result = sb.score("builtin:conv", **PROTOCOL, **SMALL)
    assert numbers(report) == {
        ("builtin:conv", f"score eps={one.eps:g} a={one.threshold:g}"): (one.score, one.ci95_low, one.ci95_high)
        for one in result.scores
    }  # fmt: skip
    assert len(report.comparisons) == 4


def test_bounds_are_means_of_the_curve_and_the_raw_ones_have_a_closed_form(tmp_path: Path) -> None:
    figure = tmp_path / "bounds.png"
    pytest.importorskip("matplotlib")
    report = reproduce("synbench-bounds", ["builtin:conv"], figure=figure, **SMALL)
    result = sb.score("builtin:conv", **PROTOCOL, **SMALL)
    found = numbers(report)
    assert len(found) == 2 * 2 * 2
    for eps in (0.0, 0.2):
        for threshold in (0.6, 0.7):
            value = variance = raw = 0.0
            for point in result.curve:
                if point.eps == eps and point.accuracy > threshold:
                    value += point.bound / 6
                    variance += (point.bound_stderr / 6) ** 2
            for scale in result.task.scales:
                if norm.cdf(scale) > threshold:
                    raw += (1 + norm.pdf(scale) / (scale * norm.cdf(scale))) / 6
            ours, low, high = found["builtin:conv", f"bound eps={eps:g} a={threshold:g}"]
            assert ours == pytest.approx(value, rel=1e-12)
            assert (high - low) / 2 == pytest.approx(norm.isf(0.025) * math.sqrt(variance), rel=1e-9)
            assert low < ours < high
            optimum = found["builtin:conv", f"raw bound eps={eps:g} a={threshold:g}"]
            assert optimum[0] == pytest.approx(raw, rel=1e-12) and math.isnan(optimum[1])
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_eps_star_is_that_of_the_study() -> None:
    report = reproduce("synbench-eps", ["builtin:conv"], **SMALL)
    result = sb.score("builtin:conv", **PROTOCOL, **SMALL)
    for threshold in (0.6, 0.7):
        star = find_eps_star(result, threshold=threshold)
        wanted = (star.eps_star, star.set_low, star.set_high)
        assert numbers(report)["builtin:conv", f"eps* a={threshold:g}"] == wanted


def test_probes_are_those_of_the_study() -> None:
    pytest.importorskip("art")
    pytest.importorskip("sklearn")
    report = reproduce("synbench-probes", ["builtin:conv"], data="digits", input_shape=(1, 8, 8), eps=(0, 0.2), steps=1, threads=1)  # fmt: skip
    study = sb.studies.robust_linear_probe("builtin:conv", "digits", input_shape=(1, 8, 8), eps=(0, 0.2), steps=1, threads=1)  # fmt: skip
    found = numbers(report)
    assert len(found) == 2 * 4
    for probe in study.probes:
        for name, share in probe.shares():
            wanted = [100 * one for one in (share.value, share.ci95_low, share.ci95_high)]
            assert found["builtin:conv", f"{name} eps={probe.eps:g}"] == pytest.approx(wanted)


def test_inheritance_of_a_stand_in() -> None:
    """mRI is the mean of the matrix, and what lies between before and after."""
    pytest.importorskip("sklearn")
    report = reproduce("imagenet-rib", ["digits:standard"], epochs=1, seeds=2, threads=1)
    found = {quantity: values for (_, quantity), values in numbers(report).items()}
    changes = [values[0] for name, values in found.items() if "->" in name and "pre-training" not in name]
    assert len(changes) == 8 * 7
    assert found[INHERITED][0] == pytest.approx(statistics.fmean(changes), abs=1e-9)
    assert found[AFTER][0] - found[BEFORE][0] == pytest.approx(found[INHERITED][0], abs=1e-9)
    assert found[INHERITED][1] < found[INHERITED][0] < found[INHERITED][2]
    assert all(one.stand_in and one.published is None for one in report.comparisons)
    assert [one.split()[0] for one in report.deviations] == ["encoders", "suite", "seeds", "epochs"]


@pytest.mark.slow
def test_minimax_has_the_paired_differences_of_the_demo() -> None:
    pytest.importorskip("sklearn")
    found = numbers(reproduce("minimax", seeds=2, steps=2))
    for task in ("digit", "mean", "worst"):
        first, second, difference = (
            found["demo", f"accuracy, {task}, {one}"] for one in ("mean loss", "minimax", "difference")
        )
        assert difference[0] == pytest.approx(second[0] - first[0]) and difference[1] < difference[2]


# ---------------------------------------------------------------- beside the published ones


def measured(before: float, after: float) -> Any:
    """As `inherit` reports one encoder, whose weights are not here."""
    mean = SimpleNamespace(value=after, ci95_low=after - 0.01, ci95_high=after + 0.01)
    change = SimpleNamespace(value=after - before, ci95_low=-0.06, ci95_high=-0.04)
    one = SimpleNamespace(ood_before=before, ood_after=mean, mri=change, matrix={"R": {"A": -0.05, "R": 0.1}})
    return SimpleNamespace(of=lambda method, spec: one, warnings=[])


def test_a_published_model_is_compared_with_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "inherit", lambda *_, **__: measured(0.58, 0.53))
    report = reproduce("imagenet-rib", [AUGREG], root="images", seeds=1)
    assert report.deviations == []
    before, after, change, cell = report.comparisons
    assert [one.published for one in (before, after, change, cell)] == [57.8, 52.3, -5.5, None]
    assert before.difference == pytest.approx(0.2) and after.difference == pytest.approx(0.7)
    assert change.difference == pytest.approx(0.5) and math.isnan(cell.difference)
    assert "bar.png" in before.source and cell.source == "" and not before.stand_in
    text = table_of(report)
    assert f"{AUGREG}: IN-21K + AugReg, named in the public code" in text
    assert "published: read off the bars" in text and "not known" in text


def test_other_encoders_are_never_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "inherit", lambda *_, **__: measured(0.58, 0.53))
    report = reproduce("imagenet-rib", ["timm:resnet50"], root="images", seeds=1)
    assert all(one.stand_in and one.published is None and math.isnan(one.difference) for one in report.comparisons)  # fmt: skip
    assert report.deviations == ["encoders that are not of the paper: timm:resnet50"]
    assert table_of(report).count("timm:resnet50 (stand-in)") == 4


def table_of(report: Reproduction) -> str:
    stream = io.StringIO()
    report.print_report(stream)
    return stream.getvalue()


def test_what_leaves_the_protocol_is_said() -> None:
    report = reproduce("synbench-scores", ["builtin:conv"], **SMALL)
    assert report.deviations == [
        "thresholds 0.6,0.7, published 0.6,0.65,0.7,0.75,0.8,0.85,0.9,0.95,0.99",
        "scales 6, published 49",
        "samples 128, published 2048",
        "encoders that are not of the paper: builtin:conv",
    ]
    assert "not known: the numbers of the paper" in table_of(report)


def test_random_weights_are_never_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sb.score("builtin:conv", **PROTOCOL, **SMALL)
    monkeypatch.setattr(run, "score", lambda *_, **__: made)
    spec = TABLES["synbench-scores"].models[0].spec
    drawn = reproduce("synbench-scores", [spec], random_init=True, **SMALL)
    assert all(one.stand_in for one in drawn.comparisons) and "weights are random" in drawn.deviations
    loaded = reproduce("synbench-scores", [spec], **SMALL)
    assert not any(one.stand_in for one in loaded.comparisons)


def test_an_encoder_that_fails_ends_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    report = reproduce("synbench-bounds", ["builtin:nothing", "builtin:conv"], **SMALL)
    assert {one.encoder for one in report.comparisons} == {"builtin:conv"}
    (line,) = report.failed
    assert "nothing" in line and "expected" in line
    assert main([*shlex.split(report.command)[1:], "--quiet"]) == 1
    done = capsys.readouterr()
    assert line in done.err and "builtin:conv (stand-in)" in done.out
    with pytest.raises(SynbenchError, match="nothing"):
        reproduce("synbench-bounds", ["builtin:nothing"], **SMALL)


def test_settings_without_a_use_are_refused() -> None:
    with pytest.raises(SynbenchError, match="eps: expected none for minimax, which has no use for it"):
        reproduce("minimax", eps=0.2)


# ---------------------------------------------------------------- the command line


def test_the_command_repeats_the_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = reproduce("synbench-scores", ["builtin:conv", "builtin:linear"], **SMALL)
    words = shlex.split(report.command)
    assert words[:3] == ["synbench-fast", "reproduce", "synbench-scores"]
    assert main([*words[1:], "--format", "json", "--quiet", "--out", str(tmp_path)]) == 0
    again = Reproduction.from_json(capsys.readouterr().out)
    assert again.comparisons == report.comparisons and again.command == report.command
    assert (tmp_path / "reproduce.csv").read_text().count("\n") == 1 + len(report.comparisons)
    assert dataclasses.replace(Reproduction.load(tmp_path / "reproduce.json"), seconds=0) == dataclasses.replace(again, seconds=0)  # fmt: skip


def test_the_list_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    text = capsys.readouterr().out
    for table in TABLES.values():
        assert f"\n{table.name}" in text and f"{table.name}: not known: {table.unknown}" in text
        assert all(f"{table.name}: {one.label} is {one.spec}" in text for one in table.models)
    assert main(["reproduce", "--list", "--format", "json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["tables"]] == list(TABLES)


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        ([], "TABLE: expected one of synbench-scores, ", 2),
        (["synbench-score"], "got 'synbench-score', did you mean synbench-scores?", 2),
        (["minimax", "--list"], "--list: expected no TABLE beside it, got 'minimax'", 2),
        (["minimax", "--data", "digits"], "data: expected none for minimax, which has no use for it", 1),
        (["minimax", "--encoders", "a:b"], "encoders: expected none for minimax, which trains its own", 1),
        (["imagenet-rib"], "root: expected the folder of the ImageNet variants, got none", 1),
        (["synbench-probes"], "data: expected labelled images, such as digits or a folder, got none", 1),
        (["synbench-eps", "--encoders", "a:b,a:b"], "encoders: expected different specs", 1),
        (["minimax", "--seeds", "0"], "--seeds: expected", 2),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    words: list[str], message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *words]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(SynbenchError, match=r"table: expected one of .*, got 'rib'"):
        reproduce("rib")
