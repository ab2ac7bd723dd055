"""Accuracy under attack over the zoo: rows are measured once, and what the tables join."""

from __future__ import annotations

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
