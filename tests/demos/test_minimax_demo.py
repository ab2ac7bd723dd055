"""The pre-training demo: its images, its encoder, what it compares, and what it says of it."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from scipy import stats

from synbench_fast.cli import main as cli
from synbench_fast.demos.minimax import Arm, PretrainReport, data, paired, run_pretraining, training, verdict
from synbench_fast.minimax import TaskRobustLoss


@pytest.fixture(scope="module")
def parts() -> tuple[data.Part, data.Part]:
    return data.load(0, 600, 400)


@pytest.fixture(scope="module")
def report() -> PretrainReport:
    return run_pretraining(runs=2, seed=3, steps=16, features=4, reference="specialists", quick=True)


def test_images(parts: tuple[data.Part, data.Part]) -> None:
    train, test = parts
    assert train.x.shape == (600, *data.SHAPE) and test.x.shape == (400, *data.SHAPE)
    torch.testing.assert_close(train.x.mean(0), torch.zeros(data.SHAPE), atol=1e-5, rtol=0)
    groups = train.x.view(600, 8, 3, 8)
    torch.testing.assert_close(groups.square().mean((0, 1, 3)), torch.ones(3), atol=1e-4, rtol=0)
    assert set(train.labels) == set(data.TASKS)
    assert (train.labels["mixed"] == 2 * (train.labels["digit"] >= 5) + train.labels["coarse"]).all()
    assert [len(np.unique(train.labels[task])) for task in data.TASKS] == [10, 2, 2, 4]
    again = data.load(0, 600, 400)[1]
    assert torch.equal(again.x, test.x)
    assert not torch.equal(data.load(1, 600, 400)[1].x, test.x)


def test_train_and_test_share_no_digit_and_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every digit and every pixel of the photographs replaced by a number of its own."""
    from sklearn import datasets

    marks = np.arange(1797, dtype=np.float64)[:, None] * 16 + np.zeros((1, 64))
    photo = np.arange(427 * 640, dtype=np.int64).reshape(427, 640, 1) + np.zeros((1, 1, 3), dtype=np.int64)
    photos = [photo, photo + 427 * 640]
    monkeypatch.setattr(datasets, "load_digits", lambda **options: (marks, np.arange(1797) % 10))
    monkeypatch.setattr(datasets, "load_sample_images", lambda: type("Photos", (), {"images": photos}))
    monkeypatch.setattr(data, "_REDUCTIONS", {"fine": 1, "coarse": 1})
    original, blocks = np.stack, []
    monkeypatch.setattr(data.np, "stack", lambda rows, axis=0: blocks.append(rows) or original(rows, axis))
    data.load(0, 300, 300)
    triples = [rows for rows in blocks if len(rows) == 3]
    assert len(triples) == 2
    for train, test in zip(*triples, strict=True):
        assert not set(np.unique(train)) & set(np.unique(test))


def test_patches_and_groups() -> None:
    x = torch.arange(2 * 192.0).view(2, *data.SHAPE)
    cut = data.patches(x)
    assert cut.shape == (2, 12, 16)
    for index in range(12):
        row, column = 4 * (index // 6), 4 * (index % 6)
        assert torch.equal(cut[1, index].view(4, 4), x[1, 0, row : row + 4, column : column + 4])
    assert data.patch_groups().tolist() == [0, 0, 1, 1, 2, 2] * 2


def test_hidden_patches_are_not_seen() -> None:
    torch.manual_seed(0)
    model = training.MaskedEncoder(4)
    x, mask = torch.randn(3, *data.SHAPE), torch.zeros(3, 12, dtype=torch.bool)
    mask[:, 5] = True
    changed = x.clone()
    changed[:, :, :4, 20:] = 7
    assert torch.equal(model(x, mask), model(changed, mask))
    assert not torch.equal(model(x), model(changed))


def test_pretraining_lowers_the_loss_and_depends_on_the_seed_alone(
    parts: tuple[data.Part, data.Part],
) -> None:
    train, test = parts
    state = torch.get_rng_state()
    common: dict[str, Any] = {"features": 4, "seed": 1, "hidden": 0.3}

    def after(steps: int) -> tuple[float, ...]:
        model, _ = training.pretrain(train.x, TaskRobustLoss(data.GROUPS, mode="mean"), steps=steps, **common)
        return training.upstream(model, test.x, 0.3)

    assert sum(after(120)) < 0.8 * sum(after(2))
    assert after(3) == after(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_minimax_weighs_the_worst_group(parts: tuple[data.Part, data.Part]) -> None:
    _, weights = training.pretrain(
        parts[0].x, TaskRobustLoss(data.GROUPS, temperature=0.1), features=4, steps=100, seed=0, hidden=0.3
    )
    assert sum(weights) == pytest.approx(1)
    assert weights[0] > 0.5 > max(weights[1:])


def test_a_small_run(report: PretrainReport) -> None:
    assert report.seeds == [3, 4]
    assert [one.name for one in report.arms] == ["mean", "minimax"]
    for arm in report.arms:
        assert len(arm.upstream) == len(arm.downstream) == len(arm.score) == 2
        assert all(0 <= one <= 1 for values in arm.downstream for one in values.values())
        assert arm.score_worst == [min(values.values()) for values in arm.synthetic]
        assert arm.rows()["accuracy, worst"] == [min(values.values()) for values in arm.downstream]
        assert arm.rows()["upstream loss, worst"] == [max(values.values()) for values in arm.upstream]
        for mean, values in zip(arm.score, arm.synthetic, strict=True):
            assert mean == pytest.approx(sum(values.values()) / len(values))
    assert report.arms[0].weights[0] == pytest.approx(dict.fromkeys(data.GROUPS, 1 / 3))
    document = json.loads(report.to_json())
    assert [one["quantity"] for one in document["differences"]] == list(report.arms[0].rows())


def test_the_document_of_one_seed_is_json(report: PretrainReport) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    def first(arm: Arm) -> Arm:
        return Arm(arm.name, *(getattr(arm, one.name)[:1] for one in dataclasses.fields(arm)[1:]))

    one = dataclasses.replace(report, arms=[first(arm) for arm in report.arms], seeds=report.seeds[:1])
    document = json.loads(one.to_json(), parse_constant=refuse)
    assert all(row["ci95_low"] is None and row["ci95_high"] is None for row in document["differences"])
    assert document["differences"][0]["first"] == one.differences[0].first


def test_paired_intervals() -> None:
    first, second = [0.5, 0.6, 0.4, 0.7], [0.6, 0.65, 0.55, 0.7]
    found = paired("x", first, second)
    low, high = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert (found.ci95_low, found.ci95_high) == (pytest.approx(low), pytest.approx(high))
    assert (found.first, found.second, found.difference) == (
        pytest.approx(0.55), pytest.approx(0.625), pytest.approx(0.075),
    )  # fmt: skip
    assert math.isnan(paired("x", [1.0], [2.0]).ci95_low)


@pytest.mark.parametrize(
    ("gains", "text"),
    [
        ([0.1, 0.12, 0.11], "Over 3 seeds the worst downstream accuracy is higher with minimax"),
        ([-0.1, -0.12, -0.11], "Over 3 seeds the worst downstream accuracy is lower with minimax"),
        (
            [0.1, -0.1, 0.05],
            "Over 3 seeds no difference of the worst downstream accuracy is seen with minimax",
        ),
        ([0.1], "Over 1 seed there is no interval that would tell"),
    ],
)
def test_verdict_says_what_the_interval_says(gains: list[float], text: str) -> None:
    def arm(name: str, accuracy: list[float]) -> Arm:
        empty: list[dict[str, float]] = [{"a": 0.0} for _ in accuracy]
        downstream = [{"digit": one, "fine": 0.9} for one in accuracy]
        return Arm(name, empty, empty, downstream, empty, [0.0] * len(accuracy), [0.0] * len(accuracy))

    arms = [arm("mean", [0.5] * len(gains)), arm("minimax", [0.5 + one for one in gains])]
    made = PretrainReport(arms, list(range(len(gains))), 1, 1, 0.1, "none", 0.0)
    assert verdict(made).startswith(text)
    assert verdict(made).endswith(f"the worst task is digit ({2 * len(gains)} of {2 * len(gains)} runs).")


def test_the_command(
    report: PretrainReport, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[dict[str, Any]] = []

    def run(*, progress: Any, **options: Any) -> PretrainReport:
        progress("run 1 of 2: mean")
        seen.append(options)
        return report

    monkeypatch.setattr("synbench_fast.demos.minimax.run_pretraining", run)
    assert (
        cli.main(["study", "pretrain", "--demo", "--runs", "2", "--seed", "3", "--temperature", "0.5"]) == 0
    )
    out, err = capsys.readouterr()
    assert err == "run 1 of 2: mean\n"
    assert seen[0] == {
        "runs": 2, "seed": 3, "steps": 600, "features": 4, "temperature": 0.5, "reference": "none",
    }  # fmt: skip
    lines = out.splitlines()
    assert lines[0].split() == ["quantity", "mean", "minimax", "difference", "95", "%", "interval"]
    for one in report.differences:
        (row,) = [line for line in lines if line.startswith(one.quantity + "  ")]
        assert f"{one.difference:+.4f}" in row
    assert verdict(report) in lines
    assert cli.main(["study", "pretrain", "--demo", "--quiet", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (json.loads(report.to_json()), "")


def test_the_commands_defaults_are_those_of_the_function() -> None:
    import inspect

    from synbench_fast.demos.minimax import REFERENCES

    function = inspect.signature(run_pretraining).parameters
    command = {one.name: one for one in cli.commands.commands["study"].commands["pretrain"].params}
    for name in ("runs", "seed", "steps", "features", "temperature", "reference"):
        assert str(function[name].default) == command[name].default
    assert command["reference"].metavar == "|".join(REFERENCES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--demo: expected to be given, as the only pre-training there is, got none"),
        (["--demo", "--runs", "0"], "--runs: expected an integer of at least 1, got '0'"),
        (["--demo", "--features", "193"], "--features: expected an integer from 1 to 192, got '193'"),
        (["--demo", "--steps", "1"], "--steps: expected an integer of at least 2, got '1'"),
        (["--demo", "--temperature", "0"], "--temperature: expected a number between 0 and 1e+09, got '0'"),
        (
            ["--demo", "--reference", "specialist"],
            "--reference: expected one of none, specialists, got 'specialist', did you mean specialists?",
        ),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "pretrain", *arguments]) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_refused_arguments() -> None:
    with refused("runs: expected an integer of at least 1, got 0"):
        run_pretraining(runs=0)
    with refused("seed: expected an integer of at least 0, got -1"):
        run_pretraining(seed=-1)
    with refused("reference: expected one of none, specialists, got 'best'"):
        run_pretraining(reference="best")
