"""Few-shot accuracies, calibration and foreign data, against other libraries, direct sums and simulated truths."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from typer.testing import CliRunner

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.studies.linear_probe.extras import (
    Parts,
    _errors,
    auroc,
    calibration,
    few_shot,
    knn_distance,
    mahalanobis,
)
from synbench_fast.studies.linear_probe.report import LinearProbeReport

SHAPE = (1, 4, 4)


def parts(
    train: int = 60, test: int = 50, width: int = 4, classes: int = 3, seed: int = 0, apart: float = 1.0
) -> Parts:
    random = np.random.default_rng(seed)
    means = apart * np.random.default_rng(99).standard_normal((classes, width))

    def draw(count: int) -> tuple[Tensor, Tensor]:
        y = np.arange(count) % classes
        return torch.from_numpy(means[y] + random.standard_normal((count, width))), torch.from_numpy(y)

    return Parts(*draw(train), *draw(test), classes)


# AUROC.


def test_auroc_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    inside, outside = random.integers(0, 6, 80), random.integers(1, 8, 50)
    found = auroc(torch.from_numpy(inside), torch.from_numpy(outside))
    labels = np.repeat([0, 1], [80, 50])
    assert found.value == pytest.approx(
        metrics.roc_auc_score(labels, np.concatenate([inside, outside])), rel=1e-12
    )
    # DeLong's variance from all pairs.
    wins = (outside[:, None] > inside) + 0.5 * (outside[:, None] == inside)
    error = math.sqrt(wins.mean(1).var(ddof=1) / 50 + wins.mean(0).var(ddof=1) / 80)
    value = wins.mean()
    half = stats.norm.ppf(0.975) * error / (value * (1 - value))
    ends = [1 / (1 + math.exp(-(math.log(value / (1 - value)) + side * half))) for side in (-1, 1)]
    assert [found.ci95_low, found.ci95_high] == pytest.approx(ends, rel=1e-9)


def test_intervals_of_auroc_hold_the_truth() -> None:
    """Of two normal distributions one apart by 1.5 the AUROC is Phi(1.5 / sqrt 2)."""
    truth, random, held = stats.norm.cdf(1.5 / math.sqrt(2)), np.random.default_rng(1), 0
    for _ in range(400):
        found = auroc(*(torch.from_numpy(random.standard_normal(60) + shift) for shift in (0.0, 1.5)))
        held += found.ci95_low <= truth <= found.ci95_high
    assert 0.92 <= held / 400 <= 0.98


def test_auroc_of_separate_samples() -> None:
    low, high = torch.arange(30.0), torch.arange(100.0, 160.0)
    above, below = auroc(low, high), auroc(high, low)
    assert (above.value, above.ci95_low, above.ci95_high) == pytest.approx((1.0, 0.9, 1.0))
    assert (below.value, below.ci95_low, below.ci95_high) == pytest.approx((0.0, 0.0, 0.1))
    assert auroc(low * 0, high * 0).value == 0.5


# Calibration.


def predictions(count: int, seed: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Probabilities of 3 classes, and labels drawn from them; `shift` moves chance from the first to the last."""
    random = np.random.default_rng(seed)
    p = random.dirichlet([4.0, 1.0, 1.0], count)
    true = np.clip(p + shift * np.array([-1.0, 0.0, 1.0]), 0, None)
    true /= true.sum(1, keepdims=True)
    y = np.array([random.choice(3, p=row) for row in true])
    return torch.from_numpy(p), torch.from_numpy(y)


def test_calibration_error_is_that_of_torchmetrics() -> None:
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    p, y = predictions(300, 0)
    expected = metrics.multiclass_calibration_error(p, y, num_classes=3, n_bins=15, norm="l1")
    assert calibration(p, y, seed=0)[0] == pytest.approx(float(expected), abs=1e-6)


def test_bias_of_the_calibration_error_is_that_of_simulated_bins() -> None:
    random = np.random.default_rng(3)
    place, c = random.integers(0, 5, 200), random.uniform(0.4, 1.0, 200)
    right = (random.random(200) < c).astype(float)
    plain, debiased = _errors(place, c, right)
    again = []
    for b in range(5):
        a, n = right[place == b].mean(), (place == b).sum()
        drawn = random.normal(a, math.sqrt(a * (1 - a) / n), 200_000)
        again.append(n / 200 * np.abs(drawn - c[place == b].mean()).mean())
    assert debiased == pytest.approx(2 * plain - sum(again), abs=5e-4)


def test_calibrated_answers_have_little_error() -> None:
    """The plain error of calibrated answers is far from 0, the other is nearer to it."""
    found = [calibration(*predictions(200, seed), seed=seed) for seed in range(12)]
    plain, less = (float(np.mean(one)) for one in zip(*((p, m.value) for p, m in found), strict=True))
    assert less < 0.8 * plain and plain > 0.03
    assert all(m.ci95_low <= m.value <= m.ci95_high for _, m in found)


def test_intervals_of_the_calibration_error_hold_the_truth() -> None:
    """All confidences are 0.8 and 0.6, and answers are right with 0.7 and 0.5: the error is 0.1."""
    random, held, count = np.random.default_rng(5), 0, 120
    for seed in range(count):
        c = np.repeat([0.8, 0.6], 150)
        y = np.where(random.random(300) < c - 0.1, 0, 1)
        p = torch.from_numpy(np.stack([c, 1 - c], axis=1))
        _, found = calibration(p, torch.from_numpy(y), seed=seed)
        held += found.ci95_low <= 0.1 <= found.ci95_high
    assert held / count >= 0.9


def test_intervals_of_calibrated_answers_hold_0() -> None:
    """Confidences over the whole range, unlike above: the bias that is left is as large as the error of the bootstrap."""
    random, held, count = np.random.default_rng(6), 0, 100
    for seed in range(count):
        p = random.dirichlet(np.ones(4), 150)
        y = (p.cumsum(1) > random.random((150, 1))).argmax(1)
        held += calibration(torch.from_numpy(p), torch.from_numpy(y), seed=seed)[1].ci95_low == 0
    assert held / count >= 0.9


# Few labels.


def test_few_shot_accuracies_are_those_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    given = parts(apart=0.7)
    found = few_shot(given, 5, repeats=4, regularisation=1.0, seed=3)
    random = np.random.default_rng([3, 5])
    y, right = given.train_y.numpy(), []
    for _ in range(4):
        rows = np.concatenate([random.permutation(np.flatnonzero(y == k))[:5] for k in range(3)])
        model = linear_model.LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(
            given.train[rows], y[rows]
        )
        right.append(model.predict(given.test) == given.test_y.numpy())
    table = np.array(right, dtype=float)
    assert found.value == pytest.approx(table.mean())
    variance = table.mean(1).var(ddof=1) / 4 + table.mean(0).var(ddof=1) / 50
    assert found.ci95_high - found.value == pytest.approx(
        stats.t.ppf(0.975, 3) * math.sqrt(variance), rel=1e-6
    )


def test_intervals_of_few_shot_accuracies_hold_the_truth() -> None:
    big = parts(train=3000, test=3000, apart=0.7, seed=50)
    truth = few_shot(big, 3, repeats=60, regularisation=1.0, seed=0).value
    held = 0
    for seed in range(20):
        found = few_shot(
            parts(train=90, test=60, apart=0.7, seed=seed), 3, repeats=5, regularisation=1.0, seed=seed
        )
        held += found.ci95_low <= truth <= found.ci95_high
    assert held >= 17


def test_more_shots_than_samples() -> None:
    with refused("shots: expected at most 20, the training samples of the smallest class, got 21"):
        few_shot(parts(), 21, repeats=2, regularisation=1.0, seed=0)


# Distances.


def test_mahalanobis_distances_are_those_of_scipy() -> None:
    from scipy.spatial import distance

    given = parts()
    train, y = given.train.numpy(), given.train_y.numpy()
    within = sum((y == k).mean() * np.cov(train[y == k].T, bias=True) for k in range(3))
    inverse = np.linalg.inv(0.999 * within + 1e-3 * np.trace(within) / 4 * np.eye(4))
    means = [train[y == k].mean(0) for k in range(3)]
    expected = [min(distance.mahalanobis(z, m, inverse) ** 2 for m in means) for z in given.test.numpy()]
    assert mahalanobis(given, given.test).numpy() == pytest.approx(expected, rel=1e-9)
    same = Parts(given.train_y[:, None].double(), given.train_y, given.test[:, :1], given.test_y, 3)
    with refused("features: expected some that vary within the classes, got constants"):
        mahalanobis(same, same.test)


def test_distances_to_neighbours_are_those_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    given = parts()

    def scaled(z: Tensor) -> NDArray[np.float64]:
        return z.numpy() / np.linalg.norm(z.numpy(), axis=1, keepdims=True)

    model = neighbors.NearestNeighbors(n_neighbors=10).fit(scaled(given.train))
    expected = model.kneighbors(scaled(given.test))[0][:, -1]
    assert knn_distance(given, given.test).numpy() == pytest.approx(expected, abs=1e-7)


# The study.


def labelled(shift: float = 0.0, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    y = np.arange(160) % 2
    x = np.clip(0.4 + 0.2 * y[:, None] + 0.15 * random.standard_normal((160, 16)) + shift, 0, 1)
    return x.reshape(-1, *SHAPE).astype(np.float32), y


OPTIONS: dict[str, Any] = {"attack": False, "input_shape": SHAPE, "eps": (0.0,)}


def test_the_study_reports_them() -> None:
    wide = np.random.default_rng(1).integers(0, 2, (160, *SHAPE)).astype(np.float32), labelled()[1]
    asked = {"shots": (1, 10), "repeats": 3, "calibration": True, "foreign": wide}
    report = sb.studies.robust_linear_probe("builtin:linear?dim=5", labelled(), **OPTIONS, **asked)
    plain = sb.studies.robust_linear_probe("builtin:linear?dim=5", labelled(), **OPTIONS)
    assert report.probes == plain.probes and plain.measures() == []
    assert [one.shots for one in report.few_shot] == [1, 10]
    assert report.few_shot[0].accuracy.value < report.few_shot[1].accuracy.value
    assert report.foreign is not None and report.foreign.samples == 40
    assert report.foreign.mahalanobis.value > 0.8
    again = LinearProbeReport.from_json(report.to_json())
    assert again == report
    names = ["accuracy of 1 per class", "accuracy of 10 per class", "calibration error"]
    names += ["AUROC against arrays, Mahalanobis", "AUROC against arrays, neighbours"]
    assert [row["quantity"] for row in report.rows()[2:]] == names
    assert report.rows()[2]["count"] is None and report.rows()[0]["count"] == report.probes[0].clean.count
    alike = sb.studies.robust_linear_probe(
        "builtin:linear?dim=5", labelled(), **OPTIONS, foreign=labelled(seed=7)
    ).foreign
    assert alike is not None and alike.mahalanobis.ci95_low < 0.5 < alike.mahalanobis.ci95_high


def test_mistakes() -> None:
    data = labelled()
    with refused("shots: expected at least 1, got 0"):
        sb.studies.robust_linear_probe("builtin:conv", data, **OPTIONS, shots=0)
    with refused("repeats: expected at least 2, got 1"):
        sb.studies.robust_linear_probe("builtin:conv", data, **OPTIONS, repeats=1)
    small = (np.zeros((8, 1, 3, 3), np.float32), np.arange(8) % 2)
    with refused("foreign: expected inputs (1, 4, 4) for builtin:linear", "got (1, 3, 3)"):
        sb.studies.robust_linear_probe("builtin:linear?dim=5", data, **OPTIONS, foreign=small)


def test_the_command(tmp_path: Path) -> None:
    for name, shift in (("own", 0.0), ("foreign", 0.3)):
        x, y = labelled(shift)
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    asked = ["--shots", "1,5", "--repeats", "3", "--calibration", "--foreign", str(tmp_path / "foreign.npz")]
    base = [
        "study",
        "linear-probe",
        "builtin:linear?dim=5",
        "--data",
        str(tmp_path / "own.npz"),
        "--no-attack",
    ]
    common = [*base, "--input-shape", "1,4,4", "--eps", "0", *asked]
    done = CliRunner().invoke(cli.app, [*common, "--format", "json"])
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert [one["shots"] for one in report["few_shot"]] == [1, 5] and report["calibration"]["plain"] >= 0
    for words in ("--shots 1,5", "--repeats 3", "--calibration", "--foreign "):
        assert words in report["command"]
    table = CliRunner().invoke(cli.app, common).stdout
    assert "accuracy of 5 per class" in table and "neighbours" in table
    done = CliRunner().invoke(cli.app, [*base, "--shots", "1,x"])
    assert done.exit_code == 2 and "--shots: expected an integer of at least 1, got 'x'" in done.stderr
