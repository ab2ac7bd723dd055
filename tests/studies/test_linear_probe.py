"""eps-robust linear probes: against scikit-learn, closed forms and an independent optimiser; data; mistakes."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from typer.testing import CliRunner

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.studies.base import Table
from synbench_fast.studies.labelled_data import open_data
from synbench_fast.studies.linear_probe.report import share
from synbench_fast.studies.linear_probe.solver import fit, margins, mean_radius, standardiser
from synbench_fast.studies.samples import split

SHAPE = (1, 4, 4)


def blobs(classes: int, count: int, features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian classes of unequal size, so that every optimum is finite and generic."""
    random = np.random.default_rng(seed)
    y = np.sort(random.integers(0, classes, count) % classes)
    means = random.standard_normal((classes, features))
    x = means[y] + random.standard_normal((count, features)) * np.linspace(0.5, 2, features)
    return torch.from_numpy(x), torch.from_numpy(y)


def pictures(classes: int = 3, count: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures well inside [0, 1], so that no attack of the tests meets the box."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % classes
    means = 0.5 + 0.06 * random.standard_normal((classes, *SHAPE))
    x = means[y] + 0.06 * random.standard_normal((count, *SHAPE))
    return x.clip(0.2, 0.8).astype(np.float32), y


def linear(features: int = 6, seed: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, features, bias=True))


FAST: dict[str, Any] = {"eps": (0.0, 0.3), "steps": 25, "device": "cpu"}


# The solver.


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("regularisation", [0.3, 10.0])
def test_without_a_budget_it_is_logistic_regression(classes: int, regularisation: float) -> None:
    z, y = blobs(classes, 200, 7)
    ours = fit(z, y, classes, radius=0.0, regularisation=regularisation)
    theirs = LogisticRegression(C=regularisation, tol=1e-12, max_iter=20_000).fit(z.numpy(), y.numpy())
    logits = z @ ours.weight.T + ours.bias
    assert ours.converged and ours.gradient_norm < 1e-7
    assert np.allclose(logits.softmax(1).numpy(), theirs.predict_proba(z.numpy()), atol=2e-5)
    weight = ours.weight[1:] - ours.weight[:1] if classes == 2 else ours.weight
    assert np.allclose(weight.numpy(), theirs.coef_, atol=2e-4)


@pytest.mark.parametrize("eps", [0.2, 0.7])
def test_two_classes_minimise_the_worst_case_in_closed_form(eps: float) -> None:
    """mean log(1 + exp(-(s (w'z + b) - r |w|))) + |w|^2 / (2 C N), by another optimiser from another start."""
    z, y = blobs(2, 150, 4)
    radius = eps * mean_radius(z, y, 2)
    ours = fit(z, y, 2, radius=radius, regularisation=2.0)
    points, signs = z.numpy(), 2 * y.numpy() - 1

    def value(v: np.ndarray) -> float:
        margin = signs * (points @ v[:4] + v[4]) - radius * np.linalg.norm(v[:4])
        return float(np.logaddexp(0, -margin).mean() + v[:4] @ v[:4] / (2 * 2.0 * len(signs)))

    best = minimize(value, np.full(5, 0.3), method="BFGS", options={"gtol": 1e-9})
    assert ours.objective == pytest.approx(best.fun, abs=1e-9)
    weight = (ours.weight[1] - ours.weight[0]).numpy()
    assert np.allclose(weight, best.x[:4], atol=1e-4)
    assert value(np.append(weight, float(ours.bias[1] - ours.bias[0]))) == pytest.approx(ours.objective)


def test_many_classes_minimise_the_pairwise_bound() -> None:
    z, y = blobs(3, 90, 3)
    radius = 0.5 * mean_radius(z, y, 3)
    ours = fit(z, y, 3, radius=radius, regularisation=5.0)
    points, labels = z.numpy(), y.numpy()

    def value(v: np.ndarray) -> float:
        weight, bias = v[:9].reshape(3, 3), v[9:]
        total = 0.0
        for point, label in zip(points, labels, strict=True):
            terms = [
                (weight[k] - weight[label]) @ point + bias[k] - bias[label]
                + radius * np.linalg.norm(weight[k] - weight[label])
                for k in range(3) if k != label
            ]  # fmt: skip
            total += np.log1p(np.exp(terms).sum())
        return float(total / len(labels) + v[:9] @ v[:9] / (2 * 5.0 * len(labels)))

    best = minimize(value, np.full(12, 0.1) * np.arange(12), method="BFGS", options={"gtol": 1e-7})
    assert ours.objective == pytest.approx(best.fun, abs=1e-8)
    at_ours = np.concatenate([ours.weight.numpy().ravel(), ours.bias.numpy()])
    assert value(at_ours) == pytest.approx(ours.objective, abs=1e-9)


def test_the_objective_is_above_the_loss_under_any_perturbation() -> None:
    z, y = blobs(4, 80, 5)
    radius = 0.6 * mean_radius(z, y, 4)
    ours = fit(z, y, 4, radius=radius, regularisation=1.0)
    point = torch.zeros_like(z)
    for _ in range(50):
        point.requires_grad_(True)
        loss = nn.functional.cross_entropy((z + point) @ ours.weight.T + ours.bias, y, reduction="none")
        (slope,) = torch.autograd.grad(loss.sum(), point)
        point = (point + 0.3 * radius * slope / slope.norm(dim=1, keepdim=True)).detach()
        point = point * (radius / point.norm(dim=1, keepdim=True)).clamp(max=1)
    attacked = nn.functional.cross_entropy((z + point) @ ours.weight.T + ours.bias, y)
    clean = nn.functional.cross_entropy(z @ ours.weight.T + ours.bias, y)
    penalty = ours.weight.square().sum() / (2 * len(y))
    assert clean + penalty < attacked + penalty <= ours.objective


def test_certified_margin_is_what_the_worst_perturbation_leaves() -> None:
    z, y = blobs(4, 60, 5)
    ours = fit(z, y, 4, radius=0.2, regularisation=1.0)
    left = margins(ours, z, y, 0.2)
    for row in range(len(z)):
        found = []
        for k in range(4):
            if k != y[row]:
                direction = ours.weight[k] - ours.weight[y[row]]
                moved = ours.weight @ (z[row] + 0.2 * direction / direction.norm()) + ours.bias
                found.append(float(moved[y[row]] - moved[k]))
        assert float(left[row]) == pytest.approx(min(found), abs=1e-10)


def test_a_budget_of_one_leaves_two_classes_nothing() -> None:
    """At eps = 1 the means can be moved onto each other: w = 0 is the optimum; just below it is not."""
    z, y = blobs(2, 200, 3)
    half = mean_radius(z, y, 2)
    assert fit(z, y, 2, radius=half, regularisation=1e6).weight.norm() < 1e-4
    assert fit(z, y, 2, radius=0.95 * half, regularisation=1e6).weight.norm() > 1e-2


def test_radius_is_half_the_smallest_distance_of_means() -> None:
    means = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0]], dtype=torch.float64)
    y = torch.arange(300) % 3
    assert mean_radius(means[y], y, 3) == pytest.approx(1.5)


def test_standardisers() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((500, 3)) * [1.0, 10.0, 0.0] + 5)
    common, feature = standardiser(x, "common")(x), standardiser(x, "feature")(x)
    assert torch.allclose(common.mean(0), torch.zeros(3).double(), atol=1e-10)
    assert float(common.var(0, correction=0).mean()) == pytest.approx(1)
    assert float(common.std(0)[1] / common.std(0)[0]) == pytest.approx(float(x.std(0)[1] / x.std(0)[0]))
    assert feature.var(0, correction=0).tolist() == pytest.approx([1, 1, 0])
    with refused("features: expected some that vary over the train split, got constant ones"):
        standardiser(torch.full((10, 3), 0.1), "common")


def test_wilson_interval() -> None:
    for count, total in ((0, 20), (20, 20), (3, 20), (411, 450)):
        exact = binomtest(count, total).proportion_ci(0.95, method="wilson")
        found = share(count, total)
        assert (found.ci95_low, found.ci95_high) == pytest.approx((exact.low, exact.high), abs=1e-12)
        assert found.value == count / total


# Attacks through the encoder.


@pytest.fixture(scope="module")
def report() -> sb.studies.LinearProbeReport:
    budgets = (0.3, 0.0, 0.1)
    return sb.studies.robust_linear_probe(linear(), pictures(), l2=budgets, linf=(0.0, 0.03), **FAST)


def attacked(point: Any) -> dict[tuple[str, float], int]:
    return {(one.norm, one.budget): one.accuracy.count for one in point.attacked}


def test_attacks_only_take_away(report: sb.studies.LinearProbeReport) -> None:
    for point in report.probes:
        left = attacked(point)
        assert list(left) == [("l2", 0.3), ("l2", 0.0), ("l2", 0.1), ("linf", 0.0), ("linf", 0.03)]
        assert left["l2", 0.0] == left["linf", 0.0] == point.clean.count
        assert left["l2", 0.3] <= left["l2", 0.1] <= point.clean.count
        assert left["linf", 0.03] < point.clean.count
        assert point.certified.count <= point.clean.count
    assert report.probes[0].certified == report.probes[0].clean


@pytest.mark.parametrize("classes", [2, 3])
def test_attacks_on_a_linear_encoder_reach_the_closed_form(classes: int) -> None:
    """Worst case of the margin: l2 budget * |A'(w_k - w_y)|, linf budget times its l1 norm, A the encoder."""
    encoder, (x, y) = linear(), pictures(classes, 240)
    budgets = {"l2": (0.05, 0.1, 0.2), "linf": (0.01, 0.02, 0.05)}
    made = sb.studies.robust_linear_probe(encoder, (x, y), **{**FAST, "steps": 50}, **budgets)
    samples = open_data((x, y))
    parts = split(samples, test_fraction=0.25, most=None, seed=0)
    layer = encoder[1]  # type: ignore[index]
    matrix, offset = layer.weight.detach().double(), layer.bias.detach().double()
    pixels = torch.from_numpy(x).flatten(1).double()
    features, labels = pixels @ matrix.T + offset, torch.from_numpy(y)
    scaled = standardiser(features[parts.train].float(), "common")
    z, test_y = scaled(features[parts.test]), labels[parts.test]
    for point in made.probes:
        probe = fit(
            scaled(features[parts.train]),
            labels[parts.train],
            classes,
            radius=point.radius,
            regularisation=1.0,
        )
        logits = z @ probe.weight.T + probe.bias
        assert int((logits.argmax(1) == test_y).sum()) == point.clean.count
        for (norm, budget), count in attacked(point).items():
            through = (probe.weight[:, None] - probe.weight[None]) * scaled.factor @ matrix
            slope = through.norm(dim=-1) if norm == "l2" else through.abs().sum(-1)
            left = logits.gather(1, test_y[:, None]) - logits - budget * slope[test_y]
            truth = left.scatter(1, test_y[:, None], math.inf).amin(1)
            # A sample may only differ if the optimum itself leaves it all but on the boundary.
            doubtful = int((truth.abs() < 0.02 * budget * float(slope.max())).sum())
            assert 0 <= count - int((truth > 0).sum()) <= doubtful, (norm, budget)
            assert doubtful <= 3


def test_the_encoder_is_left_as_it_was() -> None:
    encoder = linear().train()
    weight = encoder[1].weight  # type: ignore[index]
    before, state = weight.detach().clone(), np.random.get_state()[1].copy()
    torch_state = torch.random.get_rng_state()
    sb.studies.robust_linear_probe(encoder, pictures(), l2=(0.1,), linf=(), **FAST)
    assert encoder.training and weight.requires_grad and weight.grad is None
    assert torch.equal(weight, before)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == state).all()


def test_the_same_seed_gives_the_same_report(report: sb.studies.LinearProbeReport) -> None:
    again = sb.studies.robust_linear_probe(linear(), pictures(), l2=(0.3, 0.0, 0.1), linf=(0.0, 0.03), **FAST)
    assert again.probes == report.probes
    assert again.data == report.data
    other = sb.studies.robust_linear_probe(linear(), pictures(), attack=False, seed=1, **FAST)
    assert other.data.sha256 != report.data.sha256
    assert other.attack is None and other.probes[0].attacked == []


def test_normalisation_is_part_of_the_attacked_model() -> None:
    """mean and std given, or the same numbers inside the encoder: the same probes and the same attacks."""
    inner = nn.Sequential(nn.Flatten(), linear()[1])  # type: ignore[index]

    def normalised(x: Tensor) -> Tensor:
        return inner((x - 0.4) / 0.25)  # type: ignore[no-any-return]

    options: dict[str, Any] = {**FAST, "l2": (0.05, 0.1), "linf": (0.01,)}
    outside = sb.studies.robust_linear_probe(linear(), pictures(), mean=(0.4,), std=(0.25,), **options)
    inside = sb.studies.robust_linear_probe(normalised, pictures(), **options)
    for one, other in zip(outside.probes, inside.probes, strict=True):
        assert (one.clean, one.attacked) == (other.clean, other.attacked)
        assert one.radius == pytest.approx(other.radius, rel=1e-5)


def test_classes_of_equal_means_are_warned_of() -> None:
    x, y = pictures()
    options: dict[str, Any] = {"attack": False, "eps": (0.0, 0.5)}
    assert sb.studies.robust_linear_probe(linear(), (x, y), **options).warnings == []
    x[y > 0] = 0.5
    made = sb.studies.robust_linear_probe(linear(), (x, y), **options)
    assert made.half_distance < 1e-9
    assert len(made.warnings) == 1 and made.warnings[0].startswith("two classes have the same mean features")


# The document.


def test_document_reads_back(report: sb.studies.LinearProbeReport, tmp_path: Path) -> None:
    path = report.save(tmp_path / "probe.json")
    assert sb.studies.LinearProbeReport.from_json(path.read_text()) == report
    document = json.loads(report.to_json())
    assert (document["schema"], document["schema_version"]) == ("synbench-fast/linear-probe", 1)
    assert document["attack"]["library"].startswith("adversarial-robustness-toolbox 1.")
    for key, value, part in (
        ("schema", "x", "schema: expected 'synbench-fast/linear-probe', got 'x'"),
        ("schema_version", True, "schema_version: expected 1, got True"),
        ("seed", 0.5, "seed: expected an integer, got 0.5"),
    ):
        with refused(f"there: {part}"):
            sb.studies.LinearProbeReport.from_json(json.dumps({**document, key: value}), source="there")
    with refused("there: expected a JSON object, got an array"):
        sb.studies.LinearProbeReport.from_json("[]", source="there")


def test_table_has_a_row_per_probe_and_a_column_per_attack(report: sb.studies.LinearProbeReport) -> None:
    table, _ = report.tables()
    assert isinstance(table, Table)
    quantities = ["clean", "certified", "l2 0.3", "l2 0", "l2 0.1", "linf 0", "linf 0.03"]
    assert table.columns == ["eps", "radius", *quantities]
    assert [row[0] for row in table.rows] == ["0", "0.3"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    rows = report.rows()
    assert [(row["eps"], row["quantity"]) for row in rows] == [(e, q) for e in (0.0, 0.3) for q in quantities]
    assert [row["accuracy"] for row in rows[:2]] == [
        report.probes[0].clean.value,
        report.probes[0].certified.value,
    ]


# Data.


def test_split_is_stratified_and_depends_on_the_seed() -> None:
    y = np.repeat([0, 1, 2], [40, 20, 4])
    samples = open_data((np.zeros((64, 2), np.float32), y))
    one = split(samples, test_fraction=0.25, most=None, seed=0)
    assert np.bincount(y[one.test]).tolist() == [10, 5, 1]
    assert sorted([*one.train, *one.test]) == list(range(64))
    again = split(samples, test_fraction=0.25, most=None, seed=0)
    assert (one.train == again.train).all() and (one.test == again.test).all()
    other = split(samples, test_fraction=0.25, most=None, seed=1)
    assert set(one.test) != set(other.test)
    greedy = split(samples, test_fraction=0.99, most=None, seed=0)
    assert np.bincount(y[greedy.train]).tolist() == [2, 2, 2]


def test_digits_take_the_shape_of_the_encoder() -> None:
    samples = open_data("digits")
    rows = np.arange(3)
    small, large = samples.load(rows, (1, 8, 8)), samples.load(rows, (3, 16, 12))
    assert (len(samples.y), samples.classes, samples.shape) == (1797, [*"0123456789"], None)
    assert small.dtype == torch.float32 and float(small.min()) == 0 and float(small.max()) <= 1
    assert large.shape == (3, 3, 16, 12)
    assert torch.equal(large[:, 0], large[:, 2])


def png(value: int, colour: bool = False) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB" if colour else "L", (6, 8), (value, 0, 0) if colour else value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, value in (("cat", 51), ("dog", 204)):
        (tmp_path / name).mkdir()
        for index in range(4):
            (tmp_path / name / f"{index}.png").write_bytes(png(value))
    return tmp_path


def test_image_folder(folder: Path) -> None:
    samples = open_data(folder)
    assert (samples.classes, samples.y.tolist()) == (["cat", "dog"], [0] * 4 + [1] * 4)
    x = samples.load(np.array([0, 7]), (3, 4, 4))
    assert x.shape == (2, 3, 4, 4)
    assert torch.allclose(x[0], torch.tensor(0.2)) and torch.allclose(x[1], torch.tensor(0.8))


def test_npz_and_arrays_are_the_same_data(tmp_path: Path) -> None:
    x, y = pictures()
    np.savez(tmp_path / "a.npz", x=x, y=np.array(["a", "b", "c"])[y])
    options = {**FAST, "attack": False, "input_shape": SHAPE}
    stored = sb.studies.robust_linear_probe("builtin:linear?dim=5", tmp_path / "a.npz", **options)
    given = sb.studies.robust_linear_probe("builtin:linear?dim=5", (x, y), **options)
    assert stored.probes == given.probes
    assert stored.data.sha256 == given.data.sha256
    assert stored.data.classes == ["a", "b", "c"]
    bytes_x = (x * 255).round().astype(np.uint8)
    assert float(open_data((bytes_x, y)).load(np.array([0]), SHAPE).max()) <= 1


def test_parquet_of_numbers_and_of_images(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    x, y = pictures()
    parquet.write_table(pa.table({"x": x.reshape(len(x), -1).tolist(), "y": y}), tmp_path / "a.parquet")
    samples = open_data(tmp_path / "a.parquet")
    assert torch.equal(samples.load(np.arange(5), SHAPE), torch.from_numpy(x[:5]))
    assert samples.y.tolist() == y.tolist()
    with refused("x: expected 12 numbers per row for input_shape (1, 3, 4), got 16"):
        samples.load(np.arange(5), (1, 3, 4))
    for cell in (png(51), {"bytes": png(51), "path": "a.png"}):
        parquet.write_table(pa.table({"image": [cell] * 2, "label": ["b", "a"]}), tmp_path / "b.parquet")
        images = open_data(tmp_path / "b.parquet")
        assert (images.classes, images.y.tolist()) == (["a", "b"], [1, 0])
        assert torch.allclose(images.load(np.array([1]), (3, 8, 6)), torch.tensor(0.2))
    parquet.write_table(pa.table({"image": [b"no"], "label": [0]}), tmp_path / "c.parquet")
    with refused("c.parquet: expected an image, got UnidentifiedImageError"):
        open_data(tmp_path / "c.parquet").load(np.array([0]), (3, 8, 6))
    for columns, part in (
        ({"a": [1], "y": [0]}, "expected columns image or x, and label or y, got a, y"),
        ({"x": [[0.5], None], "y": [0, 1]}, "expected no missing values, got some"),
        ({"x": [[0.5], [0.5, 0.1]], "y": [0, 1]}, "x: expected lists of numbers of one length, got others"),
        ({"x": [[0.5], [3.0]], "y": [0, 1]}, "x: expected values in [0, 1] or uint8, got 0.5 to 3"),
    ):
        parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
        with refused(f"d.parquet: {part}"):
            open_data(tmp_path / "d.parquet")
    (tmp_path / "e.parquet").write_text("no")
    with refused("e.parquet: expected a parquet file, got "):
        open_data(tmp_path / "e.parquet")


# Mistakes.


def test_mistakes_of_data(tmp_path: Path, folder: Path) -> None:
    for data, part in (
        (
            "digts",
            "data: expected digits, cifar10 or another name, an image folder, a .npz, .parquet, .csv or .tar file, got 'digts', did you",
        ),
        ("no/such/folder", "data: expected an existing file or folder, got 'no/such/folder'"),
        ("none.npz", "data: expected an existing file or folder, got 'none.npz'"),
        ((1, 2, 3), "data: expected (x, y), got 3 values"),
    ):
        with refused(part):
            open_data(data)  # type: ignore[arg-type]
    (tmp_path / "a.txt").write_text("x")
    with refused(
        "data: expected digits, cifar10 or another name, an image folder, a .npz, .parquet, .csv or .tar file, got "
    ):
        open_data(tmp_path / "a.txt")
    empty = tmp_path / "empty"
    empty.mkdir()
    with refused("data: expected one folder of images per class, got FileNotFoundError"):
        open_data(empty)
    empty.rmdir()
    (folder / "cat" / "0.png").write_text("no")
    with refused("0.png: expected an image, got UnidentifiedImageError"):
        open_data(folder).load(np.array([0]), (3, 4, 4))
    with refused("input_shape: expected 1 or 3 channels, height and width for images, got (16,)"):
        open_data("digits").load(np.array([0]), (16,))


def test_mistakes_of_arrays(tmp_path: Path) -> None:
    x, y = pictures()
    for bad_x, bad_y, part in (
        (x[:, 0, 0, 0], y, "x: expected floats or uint8 [N, ...], got float32 [120]"),
        (x.astype(np.int64), y, "x: expected floats or uint8 [N, ...], got int64 [120, 1, 4, 4]"),
        (x, y[:-1], "y: expected 120 labels as there are inputs, got 119"),
        (x[:0], y[:0], "x: expected at least one input, got none"),
        (x * 16, y, "x: expected values in [0, 1] or uint8, got "),
        (np.full_like(x, np.nan), y, "x: expected values in [0, 1] or uint8, got nan to nan"),
        (x, np.stack([y, y], 1), "y: expected labels [N], got [120, 2]"),
        (x, y.astype(float), "y: expected integers or text, got float64"),
    ):
        with refused(part):
            open_data((bad_x, bad_y))
    np.savez(tmp_path / "a.npz", x=x, labels=y)
    with refused("a.npz: expected arrays x and y, got x, labels"):
        open_data(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=x * 20, y=y)
    with refused("b.npz: x: expected values in [0, 1] or uint8"):
        open_data(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=np.array([{}, {}], dtype=object), y=y)
    (tmp_path / "d.npz").write_text("no")
    np.save(tmp_path / "e", x)
    (tmp_path / "e.npy").rename(tmp_path / "e.npz")
    for name in ("c.npz", "d.npz", "e.npz"):
        with refused(f"{name}: expected arrays without pickles, got "):
            open_data(tmp_path / name)


def test_mistakes_of_classes_and_counts() -> None:
    x, y = pictures()
    with refused("data: expected at least 2 classes, got 1"):
        sb.studies.robust_linear_probe(linear(), (x, y * 0), attack=False)
    with refused("data: expected at least 4 samples of every class, got 1 of '7'"):
        sb.studies.robust_linear_probe(linear(), (x, np.where(np.arange(120) == 0, 7, y)), attack=False)
    with refused("data: expected at least 4 samples of every class, got "):
        sb.studies.robust_linear_probe(linear(), (x, y), attack=False, samples=9)


def test_mistakes_of_arguments() -> None:
    data = pictures()
    for options, part in (
        ({"eps": (1.0,)}, "eps: expected values in [0, 1)"),
        ({"l2": (-0.1,)}, "l2: expected finite budgets of at least 0, got -0.1"),
        ({"linf": math.inf}, "linf: expected finite budgets of at least 0, got inf"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"wrong_classes": 0}, "wrong_classes: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected 'auto' or a positive integer, got 0"),
        ({"samples": 0}, "samples: expected at least 1, got 0"),
        ({"threads": 0}, "threads: expected an integer from 1 to "),
        ({"seed": -1}, "seed: expected an integer in [0, 2^64), got -1"),
        ({"regularisation": 0.0}, "regularisation: expected a finite number above 0, got 0.0"),
        ({"test_fraction": 1.0}, "test_fraction: expected a number in (0, 1), got 1.0"),
        (
            {"standardise": "comon"},
            "standardise: expected one of ['common', 'feature'], got 'comon', did you",
        ),
    ):
        with refused(part):
            sb.studies.robust_linear_probe(linear(), data, **options)  # type: ignore[arg-type]


def test_mistakes_of_encoders() -> None:
    data = pictures()
    with refused("x: expected inputs (1, 8, 8) for builtin:conv, got (1, 4, 4); --input-shape"):
        sb.studies.robust_linear_probe("builtin:conv", data, input_shape=(1, 8, 8), attack=False)
    with refused("encoder: expected a model of builtin, got 'builtin:cov', did you mean builtin:conv?"):
        sb.studies.robust_linear_probe("builtin:cov", data, input_shape=SHAPE)

    def through_numpy(x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().reshape(len(x), -1).copy())

    with refused("expected one that torch can differentiate for the attacks, got RuntimeError"):
        sb.studies.robust_linear_probe(through_numpy, data, **FAST)
    assert sb.studies.robust_linear_probe(through_numpy, data, attack=False, **FAST).attack is None

    def holes(x: Tensor) -> Tensor:
        return x.flatten(1).log() * torch.nan

    with refused("expected finite features, got others in the train part"):
        sb.studies.robust_linear_probe(holes, data, attack=False)
    with refused("features: expected some that vary over the train split, got constant ones"):
        sb.studies.robust_linear_probe(lambda x: x.flatten(1) * 0 + 1, data, attack=False)


@pytest.mark.parametrize(
    ("module", "data", "line"),
    [
        ("art", "digits", 'adversarial-robustness-toolbox: .*"synbench-fast\\[attack\\]"'),
        ("sklearn.datasets", "digits", 'scikit-learn: .*"synbench-fast\\[demo\\]"'),
        ("pyarrow.parquet", "a.parquet", 'pyarrow: .*"synbench-fast\\[parquet\\]"'),
        ("torchvision.datasets", ".", 'torchvision: .*"synbench-fast\\[torchvision\\]"'),
    ],
)
def test_a_missing_library_names_its_extra(
    module: str, data: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib

    known = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name == module:
            raise ModuleNotFoundError(name)
        return known(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    (tmp_path / "a.parquet").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sb.SynbenchError, match=f"^{line}$"):
        sb.studies.robust_linear_probe(linear(), data, **FAST)


# The command.


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["study", "linear-probe", *arguments])


@pytest.fixture
def small(tmp_path: Path) -> Iterator[str]:
    x, y = pictures()
    np.savez(tmp_path / "small.npz", x=x, y=y)
    yield str(tmp_path / "small.npz")


def test_command_and_the_command_it_records(small: str) -> None:
    words = ("builtin:linear?dim=5", "--input-shape", "1,4,4", "--quiet")
    done = invoke(*words, "--data", small, "--eps", "0,0.4", "--l2", "0.1", "--linf", "none", "--steps", "5")
    assert done.exit_code == 0, done.stderr
    header, *rows, note = done.stdout.splitlines()
    assert header.split() == ["eps", "radius", "clean", "certified", "l2", "0.1"]
    assert [row.split()[0] for row in rows] == ["0", "0.4"]
    assert note == (
        f"builtin:linear?dim=5, F = 5, on {small}: 90 to train, 30 to test, 3 classes; per cent, 95 % intervals"
    )
    first = invoke(
        *words, "--data", small, "--format", "json", "--steps", "5", "--samples", "100", "--eps", "0.4",
        "--l2", "none", "--standardise", "feature", "--regularisation", "0.5", "--seed", "4",
    )  # fmt: skip
    assert first.exit_code == 0, first.stderr
    made = sb.studies.LinearProbeReport.from_json(first.stdout)
    assert (made.data.train + made.data.test, made.standardise, made.regularisation) == (100, "feature", 0.5)
    program, group, name, *again = shlex.split(made.command)
    assert (program, group, name) == ("synbench-fast", "study", "linear-probe")
    repeated = sb.studies.LinearProbeReport.from_json(invoke(*again, "--quiet", "--format", "json").stdout)
    unlike = {"seconds", "environment"}
    for field in dataclasses.fields(made):
        if field.name not in unlike:
            assert getattr(repeated, field.name) == getattr(made, field.name), field.name


def test_example_of_the_document_runs() -> None:
    """docs/linear-probe.md's offline example, with the encoder and data it names."""
    text = (Path(__file__).parents[2] / "docs" / "linear-probe.md").read_text(encoding="utf-8")
    lines = [one for one in text.splitlines() if one.startswith("synbench-fast study linear-probe builtin:")]
    assert lines
    done = invoke(*shlex.split(lines[0])[3:], "--quiet")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("builtin:conv, F = 64, on digits: 1347 to train")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "ENCODER: expected an encoder such as timm:resnet50, got none"),
        (["a:b"], 2, "--data: expected digits, cifar10 or another name, an image folder, a .npz, .parquet, .csv or .tar file, got none"),
        (["a:b", "--data", "digits", "--eps", "1"], 2, "--eps: expected comma-separated distinct numbers in [0, 1)"),
        (["a:b", "--data", "digits", "--l2", "x"], 2, "--l2: expected comma-separated distinct numbers in [0, inf)"),
        (["a:b", "--data", "digits", "--linf", "-1"], 2, "--linf: expected comma-separated distinct numbers"),
        (["a:b", "--data", "digits", "--steps", "0"], 2, "--steps: expected an integer of at least 1, got '0'"),
        (["a:b", "--data", "digits", "--test-fraction", "1"], 2, "--test-fraction: expected a number between 0 and 1"),
        (["a:b", "--data", "digits", "--standardise", "x"], 2, "--standardise: expected one of common, feature"),
        (["a:b", "--data", "digits", "--regularisation", "0"], 2, "--regularisation: expected a number between 0"),
        (["builtin:conv", "--data", "digts", "--quiet"], 1, "builtin:conv: data: expected digits, cifar10 or another name"),
    ],
)  # fmt: skip
def test_command_refuses_in_one_line(arguments: list[str], code: int, line: str) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith(f"error: {line}") and done.stderr.count("\n") == 1


def test_command_shows_where_an_unexpected_error_came_from(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*rest: Any, **options: Any) -> None:
        raise RuntimeError("something\nbroke")

    monkeypatch.setattr(sys.modules["synbench_fast.studies.linear_probe"], "robust_linear_probe", broken)
    for extra, lines in ((), 1), (("--traceback",), 2):
        done = invoke("builtin:conv", "--data", small, "--quiet", *extra)
        assert done.exit_code == 1
        assert done.stderr.startswith("error: builtin:conv: RuntimeError: something")
        assert ("Traceback" in done.stderr) == (lines == 2)


def test_robustness_and_accuracy_trade_off_as_the_budget_grows() -> None:
    """Of nested budgets the certified share at a fixed radius is best for the probe trained at it."""
    z, y = blobs(3, 400, 6, seed=2)
    radius = mean_radius(z, y, 3)
    made = {e: fit(z, y, 3, radius=e * radius, regularisation=1e3) for e in (0.0, 0.6)}
    at = {(e, r): float((margins(made[e], z, y, r * radius) > 0).double().mean())
          for e, r in itertools.product((0.0, 0.6), (0.0, 0.6))}  # fmt: skip
    assert at[0.6, 0.6] > at[0.0, 0.6] + 0.01
    assert at[0.0, 0.0] > at[0.6, 0.0]


def test_what_the_attack_library_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoPGD once for each budget above 0, from the smallest up, towards the likeliest wrong classes in turn."""
    from synbench_fast.studies.linear_probe import attack as module

    evasion = pytest.importorskip("art.attacks.evasion")
    asked: list[dict[str, Any]] = []
    toward: list[list[list[float]]] = []

    class Recorded(evasion.AutoProjectedGradientDescent):  # type: ignore[misc]
        def __init__(self, estimator: Any, **options: Any) -> None:
            asked.append(options)
            super().__init__(estimator, **options)

        def generate(self, x: Any, y: Any) -> Any:
            toward.append(np.asarray(y).tolist())
            return x  # nothing is lost

    monkeypatch.setattr(evasion, "AutoProjectedGradientDescent", Recorded)
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0], [0.0, 7.0, 2.0, 1.0], [4.0, 9.0, 0.0, 1.0]])
    x, y = torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0])  # the last one is wrong from the start
    x[:, 0, 0, 0] = torch.tensor([0.1, 0.2, 0.3])

    def answer(given: torch.Tensor) -> torch.Tensor:
        return logits[[(round(float(one) * 10) - 1) % 3 for one in given[:, 0, 0, 0]]] + 0 * given.sum()

    steps: list[int] = []
    options: dict[str, Any] = dict(
        classes=4, steps=11, targets=2, batch_size=5, seed=0, progress=steps.append
    )  # fmt: skip
    found = module.survivors(
        answer, x, y, torch.tensor([True, True, False]), norm="l2", budgets=(0.3, 0.0, 0.1), **options
    )
    assert found.tolist() == [[True, True, False]] * 3 and steps == [1, 2, 3]
    common = {
        "max_iter": 11, "nb_random_init": 1, "batch_size": 5, "loss_type": None, "verbose": False, "norm": 2,
    }  # fmt: skip
    assert asked == [{**common, "eps": budget, "eps_step": 2 * budget} for budget in (0.1, 0.3)]
    first = [[1.0, 0, -1, 0], [0, 1, -1, 0]]  # the likeliest wrong class of both is the third
    second = [[1.0, 0, 0, -1], [0, 1, 0, -1]]
    assert toward == [first, second] * 2
    module.survivors(answer, x, y, torch.tensor([True, True, False]), norm="linf", budgets=(0.2,), **options)
    assert asked[-1]["norm"] == math.inf and asked[-1]["eps"] == 0.2


@pytest.mark.parametrize(
    ("change", "moved", "norm", "left"),
    [
        (0.1, 0.5, "l2", False),
        (0.1002, 0.5, "l2", True),
        (-0.1002, 0.5, "linf", True),
        (0.05, 1.0 + 2e-6, "l2", True),
        (0.05, -2e-6, "l2", True),
        (0.05, 1.0, "linf", False),
    ],
)
def test_an_attack_that_leaves_its_ball_is_an_error(
    change: float, moved: float, norm: str, left: bool
) -> None:
    from synbench_fast.studies.linear_probe.attack import _check_budget

    changes = np.array([[[change, 0.0]], [[0.0, 0.01]]])
    if norm == "l2":
        changes[0] = change / math.sqrt(2)
    values = np.full((2, 1, 2), 0.5)
    values[1, 0, 1] = moved
    if not left:
        _check_budget(changes, values, norm, 0.1)
        return
    with pytest.raises(RuntimeError, match=rf"^the attack library left its {norm} ball of radius 0\.1: "):
        _check_budget(changes, values, norm, 0.1)
