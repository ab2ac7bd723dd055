"""The coverage of intervals: counting, tables and the simulated truth; the page has the tables of the stored rows."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr

ROOT = Path(__file__).parents[2]
STORED = ROOT / "benchmarks" / "results" / "coverage.jsonl"


def script():
    """benchmarks/coverage.py under another name, since a package that measures lines has this one."""
    spec = importlib.util.spec_from_file_location(
        "coverage_of_intervals", ROOT / "benchmarks" / "coverage.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


coverage = script()


def run(seed, scores, errors, area):
    return {"encoder": "one", "setting": "quick", "estimator": "consistent", "seed": seed,
            "scores": scores, "errors": errors, "area": area}  # fmt: skip


def test_a_summary_counts_the_intervals_that_hold_the_truth():
    """Four runs: the first score is off by 0, 1.9, 2.0 and -3 errors; the area has an interval in two of them."""
    truth = {"scores": [[0.5, 0.2]] * 3, "area": 0.7}
    rows = [
        run(seed, [[0.5 + 0.1 * off, 0.2]] * 3, [[0.1, 0.01]] * 3, [0.71, None if seed % 2 else 0.02])
        for seed, off in enumerate((0, 1.9, 2.0, -3))
    ]
    (found,) = coverage.summaries(rows, {"one": truth})
    assert (found["runs"], tuple(found["cells"])) == (4, coverage.CELLS)
    first = found["cells"]["0 above 0.6"]
    assert (first["intervals"], first["hold"], first["stated"]) == (4, 2, pytest.approx(0.1))
    assert first["bias"] == pytest.approx((0.19 + 0.2 - 0.3) / 4)
    assert first["rmse"] == pytest.approx(math.sqrt((0.19**2 + 0.2**2 + 0.3**2) / 4), abs=1e-6)
    assert found["cells"]["0 above 0.9"]["hold"] == 4
    area = found["cells"]["robust area"]
    assert (area["intervals"], area["hold"], area["stated"]) == (2, 2, pytest.approx(0.02))


@pytest.mark.parametrize(
    ("intervals", "hold", "expected"),
    [
        (400, 380, "95"),
        (400, 372, "93"),
        (400, 368, "**92**"),
        (400, 392, "*98*"),
        (200, 190, "95 (50)"),
        (399, 380, "95 (1)"),
        (1, 0, "**0** (99)"),
        (0, 0, "withheld"),
    ],
)
def test_cells_say_whether_they_reach_the_goal(intervals, hold, expected):
    assert coverage._text({"intervals": intervals, "hold": hold}, 400) == expected


def test_the_table_counts_what_missed():
    good = {"intervals": 100, "hold": 95, "bias": 0.001, "rmse": 0.01, "stated": 0.011}
    cells = dict.fromkeys(coverage.CELLS, good)
    bad = {"intervals": 80, "hold": 40, "bias": -0.02, "rmse": 0.03, "stated": 0.01}
    none = {"intervals": 0, "hold": 0, "bias": 0.1, "rmse": 0.1, "stated": None}
    keys = {"setting": "quick", "estimator": "consistent", "runs": 100}
    text = "\n".join(coverage.tables([
        {"encoder": "fine", **keys, "cells": cells},
        {"encoder": "poor", **keys, "cells": {**cells, "0.2 above 0.9": bad, "robust area": none}},
    ]))  # fmt: skip
    assert "100 runs of each encoder" in text
    assert "| poor | 95 | 95 | 95 | **50** (20) | 95 | 95 | withheld |" in text
    assert text.endswith("\nOf 14 cells, 12 lie in 93 to 97 %, 0 above, 1 below, and 1 are withheld.")


def test_the_simulated_truth_of_a_linear_encoder_is_the_closed_form(monkeypatch):
    """Features x Q with orthonormal columns: t = s |Q'u|, and an attack of relative size eps leaves (1 - eps) t."""
    monkeypatch.setattr(coverage, "TRUTH_SAMPLES", 40_000)
    encoder, s = coverage.encoders()["linear"], 1.5
    u = 0.5 + s * coverage.U
    t = float(encoder(u[None]).norm())
    accuracy, reach, robust = coverage.population(encoder, s)
    np.testing.assert_allclose(accuracy, ndtr(t), atol=4 * math.sqrt(0.25 / 40_000))
    phi = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(reach, ndtr(t) + phi / t, atol=0.02)
    area = np.mean(ndtr((1 - np.linspace(0, 1, 20_001)) * t))
    assert robust == pytest.approx(area, abs=0.005)


def test_every_encoder_gives_finite_features():
    x = torch.randn(8, coverage.D) + 0.5
    for name, encoder in coverage.encoders().items():
        h = encoder(x)
        assert h.ndim == 2 and len(h) == 8 and bool(h.isfinite().all()), name


@pytest.mark.parametrize(
    ("file", "begin"),
    [("coverage-standard", "**Preset `standard`**"), ("coverage-half-width", "**`--half-width 0.02`**")],
)
def test_the_page_counts_the_cells_of_other_settings(file, begin):
    rows = coverage.complete(STORED.with_name(f"{file}.jsonl"))
    *_, last = coverage.tables(rows)
    page = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    (line,) = (one for one in page.splitlines() if one.startswith(begin))
    assert f"{rows[0]['runs']} runs" in line and last.strip() in line
    below = {row["encoder"].removeprefix(coverage.HELD_OUT).partition(" (")[0].partition(" exp")[0]
             for row in rows for cell in row["cells"].values() if (coverage._coverage(cell) or 100) < coverage.GOAL[0]}  # fmt: skip
    for name in below:
        assert name.split()[0] in line, name


def test_the_page_has_the_tables_of_the_stored_rows(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coverage.py", "--table", str(STORED)])
    coverage.main()
    page = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out in page
    names = {json.loads(one)["encoder"] for one in STORED.read_text(encoding="utf-8").splitlines()}
    assert names == set(coverage.encoders())
    assert coverage.ONE_SCALE_HEAD in page
    assert f"for {len(names)} encoders" in page and re.search(rf"for \d+ of {len(names)}\.", page)
