"""`study robustness`: against closed forms, an exhaustive search and scikit-learn; whole runs; mistakes."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from checks import refused
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.cli.main import main
from synbench_fast.studies.robustness import LinearHead, RobustnessReport, smallest_change
from synbench_fast.tasks.structure import STRUCTURE


@pytest.mark.parametrize("width", [8, 90])
def test_discriminant_is_that_of_scikit_learn(width: int) -> None:
    """Its shrinkage is (1 - s) C + s tr(C)/F I: with s = ridge / (1 + ridge) the same answers, up to a factor."""
    means = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 4
    x = means[labels] + torch.randn(60, width, generator=torch.Generator().manual_seed(1)) * torch.linspace(
        0.1, 3, width
    )
    discriminant = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    head = LinearHead(x, labels, 0.3)
    z = (x / x.std(0)).double().numpy()
    known = discriminant(solver="lsqr", shrinkage=0.3 / 1.3, priors=[0.25] * 4).fit(z, labels)
    with torch.no_grad():
        mine = head(x).double().numpy()
    theirs = known.decision_function(z)
    mine, theirs = (one - one.mean(1, keepdims=True) for one in (mine, theirs))
    # scikit-learn divides the scatter by N, this one by N - K: the ratio of all logits is one number.
    ratio = (mine * theirs).sum() / np.square(theirs).sum()
    np.testing.assert_allclose(mine, ratio * theirs, atol=2e-4 * np.abs(mine).max())


@pytest.mark.parametrize("width", [8, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_common_offset_of_the_features_turns_no_answer(width: int, dtype: torch.dtype) -> None:
    """A discriminant knows no origin: the oracle has the offset taken off again, in float64."""
    labels = torch.arange(60) % 4
    x = torch.randn(60, width, generator=torch.Generator().manual_seed(0)) + labels[:, None] / 2
    far = (x.to(dtype) + 4096.0).detach()
    near = far.double() - 4096.0
    found, known = LinearHead(far, labels)(far), LinearHead(near, labels)(near)
    found, known = (one - one.mean(1, keepdim=True) for one in (found, known))
    torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-4)
    assert (found.argmax(1) == labels).float().mean() > 0.5


def test_radii_of_a_linear_answer_are_distances_to_hyperplanes() -> None:
    weights = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    x = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(3)) / 4
    logits = x.flatten(1) @ weights.T
    y = logits.argmax(1)
    y[:10] = (y[:10] + 1) % 5  # wrong to begin with
    found, first = smallest_change(lambda one: one.flatten(1) @ weights.T, x, y)
    gaps = logits.gather(1, y[:, None]) - logits
    lengths = (weights[y][:, None] - weights[None]).norm(dim=2)
    exact = torch.where(lengths > 0, gaps / lengths, torch.inf).amin(1)
    assert (found[:10] == 0).all() and (first[:10] == 0).all()
    assert (found[10:] >= exact[10:] * (1 - 1e-4)).all()  # nothing smaller turns an answer
    # Steps go to the runner-up, which need not be the nearest boundary.
    assert float((found[10:] / exact[10:]).median()) < 1.05
    assert (first[10:] >= exact[10:] * (1 - 1e-4)).all()


def test_radii_of_a_curved_answer_are_no_smaller_than_an_exhaustive_search() -> None:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)).requires_grad_(False)
    x = torch.rand(30, 1, 1, 2)
    y = net(x).argmax(1)
    found, _ = smallest_change(net, x, y)
    angle = torch.linspace(0, 2 * math.pi, 721)[:-1]
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    for one, label, length in zip(x, y, found, strict=True):
        if math.isfinite(length):  # all directions, at 199 lengths up to the one that was found
            steps = torch.linspace(0, float(length), 200)[1:, None, None]
            wrong = net((one.reshape(2) + steps * ring).reshape(-1, 1, 1, 2)).argmax(1) != label
            smallest = float(steps.flatten()[wrong.reshape(199, -1).any(1)].amin())
            assert smallest <= float(length) + 1e-6  # what was found is one of the changes that turn it
            assert float(length) < 2.5 * smallest


def test_answers_that_are_no_numbers_have_no_radius() -> None:
    """They would never turn, and count as right within every radius."""
    x, y = torch.full((2, 1), 0.5), torch.zeros(2, dtype=torch.int64)

    def undefined_beyond(one: Tensor) -> Tensor:
        return torch.cat([torch.where(one > 0.4, one, torch.nan), torch.zeros_like(one)], 1)

    def steep(one: Tensor) -> Tensor:  # the gradient of the root is infinite at 0
        return torch.cat([(one - 0.5).sqrt() + 1, torch.zeros_like(one)], 1)

    for logits in (undefined_beyond, steep):
        with refused("features: expected finite ones of changed images, and finite gradients, got others"):
            smallest_change(logits, x, y)


def test_what_cannot_be_turned_has_no_radius() -> None:
    x = torch.rand(3, 1, 2, 2)
    found, first = smallest_change(
        lambda one: one.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0]), x, torch.zeros(3).long()
    )
    assert torch.isinf(found).all() and (first > 1e6).all()


class Blocks(nn.Module):
    """Colour means of 4 x 4 blocks, with a nonlinearity."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) * 4)


@pytest.fixture(scope="module")
def report() -> RobustnessReport:
    return sb.studies.measure_robustness(Blocks(), input_shape=(3, 16, 16), radii=(0, 0.1, 0.5), threads=1)


def test_shares_fall_with_the_radius_from_the_accuracy(report: RobustnessReport) -> None:
    (one,) = report.encoders
    assert one.within[0] == pytest.approx(one.accuracy) and one.images == 3 * 20 * 23
    for part in (one, *one.families):
        assert part.within == sorted(part.within, reverse=True) and min(part.within_stderr) > 0
    assert one.within == pytest.approx(np.mean([part.within for part in one.families], axis=0))
    assert [part.family for part in one.families] == [family.name for family in STRUCTURE.families]


def test_it_is_what_its_parts_give(report: RobustnessReport) -> None:
    """The same from drawn images, the head and the search by hand; radii are those of 64 x 64 pixels."""
    family, shape, encode = STRUCTURE.families[1], (3, 16, 16), Blocks()

    def drawn(first: int, count: int) -> tuple[Tensor, Tensor]:
        images = [family.draw(shape, STRUCTURE.seed, k, first, count) for k in range(20)]
        return torch.cat(images), torch.arange(20).repeat_interleave(count)

    x, y = drawn(0, 20)
    head = LinearHead(encode(x), y)
    x, y = drawn(20, 3)
    length, first = smallest_change(lambda one: head(encode(one)), x, y, unit=0.25)
    found = report.encoders[0].families[1]
    assert found.accuracy == pytest.approx(float((head(encode(x)).argmax(1) == y).float().mean()))
    assert found.within == pytest.approx([float((length > r / 4).float().mean()) for r in (0, 0.1, 0.5)])
    assert found.radius == pytest.approx(
        4 * float(length[first > 0].median()), rel=0.2
    )  # torch takes the lower one


def test_an_offset_of_the_features_changes_no_radius(report: RobustnessReport) -> None:
    """In float64, whose digits hold both; an offset of a power of 2 is exact."""

    class Far(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).double() + 2.0**20

    (far,) = sb.studies.measure_robustness(
        Far(), input_shape=(3, 16, 16), radii=(0, 0.1, 0.5), threads=1
    ).encoders
    (near,) = report.encoders
    assert far.accuracy == near.accuracy > 0.05
    assert far.within == pytest.approx(near.within)
    assert [one.radius for one in far.families] == pytest.approx(
        [one.radius for one in near.families], rel=1e-3
    )


def test_stated_errors_are_those_of_other_images() -> None:
    runs = [
        sb.studies.measure_robustness(
            Blocks(), input_shape=(3, 8, 8), radii=0.1, seed=seed, threads=1
        ).encoders[0]
        for seed in range(12)
    ]
    spread = np.std([one.within[0] for one in runs], ddof=1)
    stated = np.sqrt(np.mean([one.within_stderr[0] ** 2 for one in runs]))
    assert 0.5 < spread / stated < 1.6  # 99 % of the ratios of 12 normal numbers


def test_what_cannot_be_attacked_is_refused() -> None:
    with refused("expected features that move with the pixels", "of 60 images of the family texture"):
        sb.studies.measure_robustness(
            lambda x: (x.flatten(1) * 9).round() + 0 * x.flatten(1), input_shape=(3, 8, 8)
        )
    with refused("expected one that torch can differentiate"):
        sb.studies.measure_robustness(
            lambda x: torch.from_numpy(x.detach().numpy().reshape(len(x), -1).copy()), input_shape=(3, 8, 8)
        )
    with refused("shape: expected (channels,", "height, width)"):
        sb.studies.measure_robustness(lambda x: x, input_shape=(16,))
    with refused("radii: expected"):
        sb.studies.measure_robustness(Blocks(), input_shape=(3, 8, 8), radii=(-1,))
    with refused("preset: expected"):
        sb.studies.measure_robustness(Blocks(), input_shape=(3, 8, 8), preset="qick")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "study",
        "robustness",
        "builtin:conv",
        "absent:x",
        "--input-shape",
        "3,8,8",
        "--radii",
        "0.1",
        "-q",
    ]
    assert main([*arguments, "--out", str(tmp_path)]) == 1  # one encoder of two
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[0] == "builtin:conv" and "absent" in err
    loaded = RobustnessReport.load(tmp_path / "robustness.json")
    assert loaded.command == (
        "synbench-fast study robustness builtin:conv --input-shape 3,8,8 --preset quick --seed 0 --device auto "
        "--batch-size 64 --radii 0.1"
    )
    (row,) = csv.DictReader(io.StringIO((tmp_path / "robustness.csv").read_text()))
    assert float(row["within_0.1"]) == loaded.encoders[0].within[0]
    assert main([*arguments[:3], *arguments[4:], "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["encoders"][0]["within"] == loaded.encoders[0].within
    assert main(["study", "robustness", "builtin:conv", "--radii", "none"]) == 2
