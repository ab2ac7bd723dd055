"""The smallest change that turns an answer: against closed forms, an exhaustive search, and what the tables join."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

pytest.importorskip("PIL")

import zoo
from zoo import __main__ as command
from zoo import robustness, validity

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("width", [8, 90])
def test_discriminant_is_that_of_scikit_learn(width):
    """Its shrinkage is (1 - s) C + s tr(C)/F I: with s = ridge / (1 + ridge) the same answers, up to a factor."""
    means = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 4
    x = means[labels] + torch.randn(60, width, generator=torch.Generator().manual_seed(1)) * torch.linspace(
        0.1, 3, width
    )
    discriminant = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    head = robustness.Discriminant(x, labels, 0.3)
    z = (x / x.std(0)).double().numpy()
    known = discriminant(solver="lsqr", shrinkage=0.3 / 1.3, priors=[0.25] * 4).fit(z, labels)
    with torch.no_grad():
        mine = head(x).double().numpy()
    theirs = known.decision_function(z)
    mine, theirs = (one - one.mean(1, keepdims=True) for one in (mine, theirs))
    # scikit-learn divides the scatter by N, this one by N - K: the ratio of all logits is one number.
    ratio = (mine * theirs).sum() / np.square(theirs).sum()
    np.testing.assert_allclose(mine, ratio * theirs, atol=2e-4 * np.abs(mine).max())


def test_radii_of_a_linear_answer_are_distances_to_hyperplanes():
    weights = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    x = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(3)) / 4
    logits = x.flatten(1) @ weights.T
    y = logits.argmax(1)
    y[:10] = (y[:10] + 1) % 5  # wrong to begin with
    found, first = robustness.radii(lambda one: one.flatten(1) @ weights.T, x, y)
    gaps = logits.gather(1, y[:, None]) - logits
    lengths = (weights[y][:, None] - weights[None]).norm(dim=2)
    exact = torch.where(lengths > 0, gaps / lengths, torch.inf).amin(1)
    assert (found[:10] == 0).all() and (first[:10] == 0).all()
    assert (found[10:] >= exact[10:] * (1 - 1e-4)).all()  # nothing smaller turns an answer
    # Steps go to the runner-up, which need not be the nearest boundary.
    assert float((found[10:] / exact[10:]).median()) < 1.05
    assert (first[10:] >= exact[10:] * (1 - 1e-4)).all()


def test_radii_of_a_curved_answer_are_no_smaller_than_an_exhaustive_search():
    torch.manual_seed(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)).requires_grad_(False)
    x = torch.rand(30, 1, 1, 2)
    y = net(x).argmax(1)
    found, _ = robustness.radii(net, x, y)
    angle = torch.linspace(0, 2 * math.pi, 721)[:-1]
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    for one, label, length in zip(x, y, found, strict=True):
        if math.isfinite(length):  # all directions, at 199 lengths up to the one that was found
            steps = torch.linspace(0, float(length), 200)[1:, None, None]
            wrong = net((one.reshape(2) + steps * ring).reshape(-1, 1, 1, 2)).argmax(1) != label
            smallest = float(steps.flatten()[wrong.reshape(199, -1).any(1)].amin())
            assert smallest <= float(length) + 1e-6  # what was found is one of the changes that turn it
            assert float(length) < 2.5 * smallest


def test_what_cannot_be_turned_has_no_radius():
    x = torch.rand(3, 1, 2, 2)
    found, first = robustness.radii(
        lambda one: one.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0]), x, torch.zeros(3).long()
    )
    assert torch.isinf(found).all() and (first > 1e6).all()


def stored_rows(count=12):
    """Networks whose answers are the harder to turn the larger their number, on labelled and drawn classes alike."""
    found, base = [], []
    for k in range(count):
        robust = [min(1.0, 0.02 * k * scale) for scale in (4, 3, 2, 1)]
        part = {"accuracy": 0.5, "robust": robust, "radius": 0.1 * (k + 1), "first": 0.1 * (k + 1)}
        real = {"stamps": {"half": "held-out", **part}, "emoji": {"half": "development", **part}}
        drawn = {name: part for name in ("texture", "shapes", "instances")}
        found.append({"encoder": f"n{k}", "real": real, "drawn": drawn})
        base.append({"encoder": f"n{k}", "kind": "network", "half": "held-out" if k % 2 else "development",
                     "group": f"n{k}", "data": {"emoji": {"half": "development", "accuracy": 0.5}}, "parameters": 100 - k, "structure": [RNG.random(), 0.01]})  # fmt: skip
    return found, base


def test_tables_of_known_rows(tmp_path, monkeypatch, capsys):
    found, base = stored_rows()
    monkeypatch.setattr(
        robustness,
        "STRUCTURE",
        type("S", (), {"families": [type("F", (), {"name": n}) for n in found[0]["drawn"]]}),
    )
    both = robustness.joined(found, [*base[:-1], {"encoder": "other"}])
    assert [one["encoder"] for one in both] == [f"n{k}" for k in range(11)]
    text = robustness.table(robustness.joined(found, base), "all", 0.25)
    up, down = "+1.00 (+1.00 to +1.00)", "-1.00 (-1.00 to -1.00)"
    assert f"| log median radius, drawn classes | {up} | {up} |" in text
    assert f"| parameters | {down} | {down} |" in text
    validity.save(found, tmp_path / "radii.jsonl")
    validity.save(base, tmp_path / "rows.jsonl")
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "zoo",
            "robustness",
            "--radii",
            str(tmp_path / "radii.jsonl"),
            "--rows",
            str(tmp_path / "rows.jsonl"),
        ],
    )
    command.main()
    assert "| all encoders, radius 0.25 |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["zoo", "robustness", "--radii", str(tmp_path / "radii.jsonl")])
    with pytest.raises(SystemExit):
        command.main()
    assert "--rows is required" in capsys.readouterr().err


def test_rows_are_measured_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(robustness, "_drawn", lambda size: {"a": _parts()})
    monkeypatch.setattr(robustness, "SETS", ("toy",))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    monkeypatch.setattr(zoo.Entry, "module", property(lambda self: net if self.name == "net" else 1 / 0))
    entries = [
        zoo.Entry(name, kind, None, tmp_path, "held-out")
        for name, kind in (("net", "network"), ("twin", "twin"))
    ]
    images, labels = _parts()[0]
    sets = [
        zoo.Data("toy", images.repeat(20, 1, 1, 1)[:360], labels.repeat(20)[:360], ("a", "b"), "development")
    ]
    for _ in range(2):
        robustness.measure(entries, sets, tmp_path, 8)
    (one,) = robustness.rows(tmp_path, 8)
    assert (
        one["real"]["toy"]["accuracy"] > 0.9
        and one["real"]["toy"]["robust"][0] <= one["real"]["toy"]["accuracy"]
    )
    assert capsys.readouterr().out == "net: robustness\n"


def _parts():
    labels = torch.arange(24) % 2
    images = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1)) / 4
    images[labels == 1, :, :4] += 0.5
    return (images, labels), (images[:8], labels[:8])


def test_the_page_has_the_table_of_the_stored_rows():
    root = Path(__file__).parents[2]
    results = root / "benchmarks" / "results"
    found = robustness.joined(
        validity.load(results / "robustness-64.jsonl"), validity.load(results / "validity-64.jsonl")
    )
    page = (root / "docs" / "validity.md").read_text(encoding="utf-8")
    assert robustness.summary(found) in page
    assert f"{len(found)} of the networks" in page
