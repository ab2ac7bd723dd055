"""The demo: what it measures, and that it says what it measured."""

from __future__ import annotations

import io
import math
import struct
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from result_example import example
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from synbench_fast.demos.digits import DemoReport, DemoRow, Repeats, agreement, render, run_demo, scenes
from synbench_fast.errors import SynbenchError
from synbench_fast.results.plots import expected_bound, plot_curves
from synbench_fast.results.records import Result, ScalePoint
from synbench_fast.studies import digits

EPS = [0.0, 0.2]
RADII = [0.05, 0.15]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one slows nets this small
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data() -> digits.Digits:
    return digits.load(0)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoReport, Path, list[str]]:
    out, lines = tmp_path_factory.mktemp("demo"), []
    return run_demo(out, seed=3, quick=True, progress=lines.append), out, lines


def row(name: str, score: Any, accuracy: Any, attacked: Any, structure: Any = None) -> DemoRow:
    def repeats(values: Any) -> Repeats:
        return Repeats(tuple(np.atleast_1d(values).tolist()))

    structure = accuracy if structure is None else structure
    return DemoRow(
        name=name,
        structure=repeats(structure),
        structure_stderr=repeats(0.01),
        score={0.2: repeats(score)},
        score_stderr={0.2: repeats(0.01)},
        accuracy=repeats(accuracy),
        attacked={0.5: repeats(attacked)},
    )


# The sentences


def test_one_sentence_when_every_ranking_is_the_same() -> None:
    rows = [row("a", 0.5, 0.9, 0.1), row("b", 0.7, 0.95, 0.3), row("c", 0.6, 0.92, 0.2)]
    assert agreement(rows) == (
        "The published score at eps 0.2 ranks b > c > a; it agrees with linear-probe accuracy and "
        "attacked accuracy at r=0.5.",
        "The structure score ranks b > c > a; it agrees with linear-probe accuracy.",
    )


def test_disagreement_names_the_pairs() -> None:
    rows = [row("a", 0.5, 0.9, 0.9), row("b", 0.7, 0.95, 0.3), row("c", 0.6, 0.92, 0.2)]
    assert agreement(rows) == (
        "The published score at eps 0.2 ranks b > c > a; it agrees with linear-probe accuracy.",
        "The published score at eps 0.2 ranks b > c > a; it DISAGREES with attacked accuracy at r=0.5 (a > b > c) "
        "on a/b, a/c, 2 of 3 pairs.",
        "The structure score ranks b > c > a; it agrees with linear-probe accuracy.",
    )


def test_structure_is_compared_with_the_linear_probe_alone() -> None:
    rows = [row("a", 0.5, 0.9, 0.9, 0.3), row("b", 0.7, 0.95, 0.3, 0.2)]
    assert agreement(rows)[-1] == (
        "The structure score ranks a > b; it DISAGREES with linear-probe accuracy (b > a) on a/b, 1 of 1 pairs."
    )


def test_a_tie_agrees_only_with_a_tie() -> None:
    third = (0.1 + 0.2, 0.3)  # equal but for rounding
    rows = [row("a", third[0], 0.5, 0.9), row("b", third[1], 0.5, 0.8)]
    assert agreement(rows) == (
        "The published score at eps 0.2 ranks a = b; it agrees with linear-probe accuracy.",
        "The published score at eps 0.2 ranks a = b; it DISAGREES with attacked accuracy at r=0.5 (a > b) on a/b, "
        "1 of 1 pairs.",
        "The structure score ranks a = b; it agrees with linear-probe accuracy.",
    )


def test_runs_are_compared_one_by_one() -> None:
    # The means prefer a throughout; the second run's score and the third's score and probe prefer b.
    rows = [row("a", [0.9, 0.4, 0.4], [0.9, 0.9, 0.4], [0.8] * 3), row("b", [0.5] * 3, [0.5] * 3, [0.1] * 3)]
    assert agreement(rows) == (
        "The published score at eps 0.2 ranks a > b; it agrees with linear-probe accuracy and "
        "attacked accuracy at r=0.5; "
        "within single runs 3 of 6 such rankings agree.",
        "The structure score ranks a > b; it agrees with linear-probe accuracy; "
        "within single runs 3 of 3 such rankings agree.",
    )


def test_repeats() -> None:
    assert Repeats((1.0, 2.0, 6.0)).mean == 3.0
    assert Repeats((1.0, 2.0, 6.0)).sd == pytest.approx(math.sqrt(7.0))
    assert math.isnan(Repeats((1.0,)).sd)
    assert Repeats((0.5,)).text(1, 100) == "50.0"
    assert Repeats((0.5, 0.6)).text(2) == "0.55 ± 0.07"


# The scenes


def test_scenes_are_digits_on_photographs(data: digits.Digits) -> None:
    made = scenes.load(0)
    assert made.train_x.shape == (1198, 1, 32, 32) and made.test_x.shape == (599, 1, 32, 32)
    assert torch.equal(made.train_y, data.train_y) and torch.equal(made.digits.train_x, data.train_x)
    assert made.train_x.min() >= 0 and made.train_x.max() <= 1
    assert torch.equal(scenes.load(0).test_x, made.test_x) and not torch.equal(
        scenes.load(1).test_x, made.test_x
    )
    # A digit without ink is the photograph alone: full ink at a place is 0 or 1 there, nowhere else.
    blank, full = (
        scenes.draw(torch.full((40, 1, 8, 8), ink), made.photographs, torch.Generator().manual_seed(5))
        for ink in (0.0, 1.0)
    )
    changed = full != blank
    assert all(14**2 // 2 <= int(one.sum()) <= 24**2 for one in changed)
    inked = full[changed]
    assert float(torch.minimum(inked, 1 - inked).abs().max()) < 1e-6


# The attack


def test_attack_on_a_linear_model_is_exact() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4).requires_grad_(False)
    x = torch.randn(300, 6)
    logits = model(x)
    y = torch.where(torch.rand(300) < 0.9, logits.argmax(dim=1), torch.randint(4, (300,)))
    gap = logits.gather(1, y[:, None]) - logits
    apart = torch.linalg.vector_norm(model.weight[y][:, None] - model.weight, dim=2)
    distance = (gap / apart).scatter(1, y[:, None], torch.inf).min(dim=1).values
    radii = [0.1, 0.3, 1.0]
    kept = digits.survivors(model, x, y, radii, steps=10, seed=0, box=None)
    for alive, radius in zip(kept, [0.0, *radii], strict=True):
        clear = (distance - radius).abs() > 1e-3
        assert torch.equal(alive[clear], (distance > radius)[clear])
        assert 0 < alive.sum() < 300


class Watching(nn.Module):
    """Remembers every batch it is asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.inner(x)
        return logits


def test_attack_stays_in_the_ball_and_the_box() -> None:
    torch.manual_seed(1)
    model = Watching(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False))
    x = torch.rand(1, 1, 8, 8).expand(5, 1, 8, 8).clone()
    y = model(x).argmax(dim=1)
    model.seen.clear()
    digits.survivors(model, x, y, [0.05, 0.4], steps=4, seed=0)
    assert len(model.seen) > 20
    distances = torch.cat([torch.linalg.vector_norm((one - x[:1]).flatten(1), dim=1) for one in model.seen])
    assert 0.3 < distances.max() <= 0.4 * (1 + 1e-5)
    assert all(one.min() >= 0 and one.max() <= 1 for one in model.seen)


def test_attack_survives_a_flat_model() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
    flat[1].weight.zero_(), flat[1].bias.zero_()
    y = torch.tensor([0, 3])
    kept = digits.survivors(flat, torch.rand(2, 1, 8, 8), y, [0.5], steps=3, seed=0)
    assert kept.tolist() == [[True, False], [True, False]]


def test_radii_must_ascend() -> None:
    with pytest.raises(ValueError, match=r"^radii: expected them in ascending order, got \[0\.5, 0\.1\]$"):
        digits.survivors(
            nn.Flatten(), torch.rand(1, 1, 8, 8), torch.zeros(1).long(), [0.5, 0.1], steps=1, seed=0
        )


# Data, training, probe


def test_split(data: digits.Digits) -> None:
    assert data.train_x.shape == (1198, 1, 8, 8)
    assert data.test_x.shape == (599, 1, 8, 8)
    assert (data.train_x.min(), data.train_x.max()) == (0, 1)
    assert data.mean == pytest.approx(data.train_x.double().mean().item(), rel=1e-5)
    assert data.std == pytest.approx(data.train_x.double().std(correction=0).item(), rel=1e-5)
    assert torch.equal(digits.load(0).test_y, data.test_y)
    assert not torch.equal(digits.load(1).test_y, data.test_y)


def test_training_depends_on_its_seed_alone(data: digits.Digits) -> None:
    def weights(kind: str, seed: int) -> Tensor:
        encoder = digits.train(kind, data, seed=seed, epochs=1, radius=0.5, steps=1)
        return torch.cat([one.flatten() for one in encoder.parameters()])

    before = torch.get_rng_state()
    first = {kind: weights(kind, 5) for kind in digits.KINDS}
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    for kind in digits.KINDS:
        assert torch.equal(weights(kind, 5), first[kind])
        assert not torch.equal(weights(kind, 6), first[kind])
    assert not torch.equal(first["untrained"], first["standard"])
    assert not torch.equal(first["standard"], first["adversarial"])


def test_probe_is_scikit_learns(data: digits.Digits) -> None:
    encoder = digits.train("untrained", data, seed=0, epochs=0, radius=0.5, steps=1)
    with torch.no_grad():
        encoder[-1].weight[7].zero_()  # a feature that never varies
        train, test = ((encoder((x - data.mean) / data.std)).double() for x in (data.train_x, data.test_x))
    oracle = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    oracle.fit(train.numpy(), data.train_y.numpy())
    expected = oracle.predict_log_proba(test.numpy())
    probe = digits.linear_probe(encoder, data)
    assert torch.equal(probe.head.weight[:, 7], torch.zeros(10))
    actual = probe(data.test_x).log_softmax(dim=1).double().numpy()
    np.testing.assert_allclose(actual, expected, atol=0.02)
    assert np.mean(actual.argmax(axis=1) == expected.argmax(axis=1)) > 0.995


# The whole


def test_report_is_complete(shown: tuple[DemoReport, Path, list[str]]) -> None:
    report, _, lines = shown
    assert [one.name for one in report.rows] == ["untrained", "standard", "adversarial"]
    for one in report.rows:
        assert list(one.score) == list(one.score_stderr) == EPS
        assert list(one.attacked) == RADII
        accuracies = [one.accuracy, *one.attacked.values()]
        for before, after in pairwise(accuracies):
            assert len(before.values) == 2
            assert all(1 >= a >= b >= 0 for a, b in zip(before.values, after.values, strict=True))
        assert min(one.accuracy.values) > 0.15  # chance is 0.1
        assert all(0 < value < 1 for value in one.structure.values)
        assert all(0 <= value < 1.2 for score in one.score.values() for value in score.values)
        errors = [value for score in one.score_stderr.values() for value in score.values]
        assert all(0 <= value < 0.5 or math.isnan(value) for value in errors)  # withheld ones are NaN
    assert report.agreement == agreement(report.rows)
    assert (report.train_images, report.test_images) == (1198, 599)
    assert [line for line in lines if "run 2 of 2: score" in line] == [
        f"{kind}, run 2 of 2: score without data" for kind in digits.KINDS
    ]


def test_files(shown: tuple[DemoReport, Path, list[str]]) -> None:
    report, out, _ = shown
    made = sorted(path for path in out.rglob("*") if path.is_file() and path.suffix != ".npz")
    assert made == sorted(report.files)
    assert all(path.with_suffix(".npz").is_file() for path in report.results)
    assert len(report.results) == 6
    for path in report.results:
        name, run = path.stem.split("-")
        result = Result.load(path)
        (found,) = (one for one in report.rows if one.name == name)
        for eps in EPS:
            shown_score = found.score[eps].values[int(run) - 1]
            assert result.score(eps, report.threshold).score == shown_score
        assert result.structure is not None
        assert result.structure.score == found.structure.values[int(run) - 1]
        assert result.encoder.feature_dim == 64
        assert result.encoder.preprocessing.input_shape == (1, 32, 32)
        assert result.seed == 3
    image = report.plot.read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    assert width > 1000 and height > 400 and len(image) > 20_000


def test_same_seed_same_report(shown: tuple[DemoReport, Path, list[str]], tmp_path: Path) -> None:
    state = torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        again = run_demo(tmp_path, seed=3, quick=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert repr(again.rows) == repr(shown[0].rows)  # NaN, of errors that are withheld, is not equal to itself
    assert torch.equal(torch.get_rng_state(), state)


def test_table_fits_a_terminal(shown: tuple[DemoReport, Path, list[str]]) -> None:
    report = shown[0]
    stream = io.StringIO()
    render(report, Console(file=stream, width=80))
    text = stream.getvalue()
    flat = " ".join(text.split())
    for one in report.rows:
        line = next(line for line in text.splitlines() if line.startswith(one.name))
        cells = [
            one.structure.text(2),
            *(score.text(2) for score in one.score.values()),
            one.accuracy.text(0, 100),
        ]
        cells += [attacked.text(0, 100) for attacked in one.attacked.values()]
        assert line.split() == [one.name, *" ".join(cells).split()]
    for sentence in report.agreement:
        assert sentence in flat
    assert str(report.plot) in text.replace("\n", "")
    assert max(map(len, text.splitlines())) <= 80


# Mistakes


@pytest.mark.parametrize(("module", "package"), [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")])
def test_missing_library(module: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SynbenchError) as caught:
        run_demo(tmp_path / "out")
    assert str(caught.value) == (
        f'{package}: expected it to be installed, got no such library; pip install "synbench-fast[demo]"'
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed: int, tmp_path: Path) -> None:
    with pytest.raises(SynbenchError, match=rf"^seed: expected an integer from 0 to 4294967295, got {seed}$"):
        run_demo(tmp_path, seed=seed, quick=True)


def test_out_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        SynbenchError, match=r"^out: expected a folder that can be written, got \S+/file: .+$"
    ):
        run_demo(tmp_path / "file", quick=True)


# The curves


def test_expected_bound() -> None:
    accuracy, bound = [[0.5, 0.7, 0.9], [0.6, 0.6, 1.0]], [[math.inf, 2.0, 1.5], [3.0, 2.0, 1.0]]
    found = expected_bound(accuracy, bound, [0.5, 0.6, 0.7, 1.0])
    np.testing.assert_allclose(
        found, np.array([[3.5, 3.5, 1.5, 0.0], [6.0, 1.0, 1.0, 0.0]]) / 3, rtol=1e-15, atol=0
    )


@pytest.mark.parametrize(("a", "b"), [([0.5], [1.0, 2.0]), ([], []), (0.5, 1.0)])
def test_expected_bound_wants_one_shape(a: Any, b: Any) -> None:
    with pytest.raises(
        SynbenchError,
        match=r"^accuracy, bound: expected one shape \[\.\.\., S\], S >= 1, got \[.*\] and \[.*\]$",
    ):
        expected_bound(a, b, [0.6])


def _ink(path: Path) -> dict[str, int]:
    from matplotlib.image import imread

    pixels = np.round(imread(path)[:, :, :3] * 255).astype(int).reshape(-1, 3)
    colors = {"raw": (0, 0, 0), "first": (0x00, 0x72, 0xB2), "second": (0xD5, 0x5E, 0x00)}
    return {name: int((np.abs(pixels - color).max(axis=1) < 8).sum()) for name, color in colors.items()}


def test_plot_draws_every_encoder(tmp_path: Path) -> None:
    one = plot_curves(tmp_path / "one.png", {"a": [example()]})
    two = plot_curves(
        tmp_path / "two.png", {"a": [example()], "b": [_worse(), example()]}, eps=[0.2], title="t"
    )
    assert _ink(one)["first"] > 300 and _ink(one)["second"] == 0
    assert _ink(two)["first"] > 100 and _ink(two)["second"] > 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def _worse() -> Result:
    import dataclasses

    result = example()

    def lower(point: ScalePoint) -> ScalePoint:
        return dataclasses.replace(point, accuracy=max(0.5, point.accuracy - 0.2))

    return dataclasses.replace(result, curve=[lower(point) for point in result.curve])


def test_plot_mistakes(tmp_path: Path) -> None:
    target = tmp_path / "plot.png"
    for nothing in ({}, {"a": []}):
        with pytest.raises(
            SynbenchError, match=r"^encoders: expected at least one result for every encoder, got none$"
        ):
            plot_curves(target, nothing)
    with pytest.raises(SynbenchError, match=r"^eps: expected one of 0, 0\.2, got 0\.3$"):
        plot_curves(target, {"a": [example()]}, eps=[0.3])
    target.mkdir()
    with pytest.raises(SynbenchError, match=r"plot\.png: expected a file that can be written, got: .+$"):
        plot_curves(target, {"a": [example()]})
    assert list(tmp_path.iterdir()) == [target]
