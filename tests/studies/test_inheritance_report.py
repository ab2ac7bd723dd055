"""What is reported: formulas, intervals, document, page and tables."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checks import refused
from inheritance_cases import SHAPE, make_cell, make_suite, pretrained, run_toy
from scipy import stats

from synbench_fast.studies.inheritance.cells import FailedCell, ScoreSummary
from synbench_fast.studies.inheritance.data import in_memory
from synbench_fast.studies.inheritance.intervals import mean_over_seeds, t_quantile
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.page import page
from synbench_fast.studies.inheritance.protocol import agreement
from synbench_fast.studies.inheritance.report import InheritanceReport
from synbench_fast.studies.inheritance.run import inherit
from synbench_fast.studies.inheritance.summaries import summarise


@pytest.fixture(scope="module")
def original() -> Classifier:
    return pretrained()


def test_published_example_of_the_formula() -> None:
    names = ("V2", "A", "Sketch", "ObjectNet", "Cartoon", "Drawing", "C")
    before = dict(zip(names, (0.66, 0.15, 0.28, 0.26, 0.66, 0.39, 0.56), strict=True)) | {"R": 0.3}
    after = dict(zip(names, (0.59, 0.21, 0.47, 0.32, 0.61, 0.51, 0.52), strict=True)) | {"R": 0.9}
    cell = make_cell(before, after, "R")
    # -7 + 6 + 19 + 6 - 5 + 12 - 4 = 27 points over 7 data sets; R itself does not count
    assert cell.robustness_improvement == pytest.approx(0.27 / 7, abs=1e-12)
    assert cell.ood_before == pytest.approx(2.96 / 7) and cell.ood_after == pytest.approx(3.23 / 7)
    assert cell.pretraining_change == pytest.approx(-0.1)
    assert set(cell.others) == set(names)


def test_matrix_by_hand() -> None:
    """Three data sets, two seeds: RI_i, mRI, its interval and the paired difference of two methods."""
    before = {"a": 0.5, "b": 0.6, "c": 0.7}
    change = {  # [method][seed][i][j]
        "ft": [[[9, 1, 2], [3, 9, 4], [5, 6, 9]], [[9, 2, 3], [4, 9, 5], [6, 7, 9]]],
        "lp": [[[9, 0, 0], [0, 9, 0], [0, 0, 9]], [[9, 0, 0], [0, 9, 0], [0, 0, 6]]],
    }
    cells = [
        make_cell(
            before,
            {j: before[j] + points[k] / 100 for k, j in enumerate(before)},
            i,
            seed,
            method=method,
        )
        for method, by_seed in change.items()
        for seed, rows in enumerate(by_seed)
        for i, points in zip(before, rows, strict=True)
    ]
    ft, lp = summarise(cells)
    assert [ft.ri[name].value for name in "abc"] == pytest.approx([0.02, 0.04, 0.06])
    assert ft.mri.by_seed == pytest.approx([0.035, 0.045])
    assert ft.mri.value == pytest.approx(0.04)
    half = 12.706204736 * (0.01 / math.sqrt(2)) / math.sqrt(2)
    assert (ft.mri.ci95_low, ft.mri.ci95_high) == pytest.approx((0.04 - half, 0.04 + half))
    assert ft.difference is None and lp.difference is not None
    assert lp.difference.by_seed == pytest.approx([-0.035, -0.045])
    # mean accuracy after = mRI + mean of the accuracies before
    assert ft.ood_after.value == pytest.approx(ft.mri.value + ft.ood_before)
    assert lp.own_change.by_seed == pytest.approx([0.09, 0.08])


def test_differences_are_to_the_first_method_also_where_all_of_it_failed() -> None:
    before = {"a": 0.5, "b": 0.6}
    gained = {"lp": 0.1, "wise": 0.3}
    cells = [
        make_cell(before, {name: value + gain for name, value in before.items()}, on, method=method)
        for method, gain in gained.items()
        for on in before
    ]
    failed = [
        FailedCell(encoder="e", fine_tuned_on=on, method="ft", seed=0, reason="lr: expected") for on in before
    ]
    ft, lp, wise = summarise(cells, failed, ["ft", "lp", "wise"])
    assert (ft.method, lp.method, wise.method) == ("ft", "lp", "wise")
    assert ft.difference is None and ft.failed == 2
    for one in (lp, wise):  # not less lp, which would stand under "less ft"
        assert one.difference is not None and math.isnan(one.difference.value)
    assert [one.method for one in summarise(cells, failed)] == ["lp", "wise", "ft"]


def test_a_score_that_one_seed_lacks_leaves_the_others() -> None:
    before = {"a": 0.5, "b": 0.6}
    was, now = (ScoreSummary(eps=0.2, threshold=0.6, score=value, stderr=0.01) for value in (0.8, 0.7))
    cells = [
        make_cell(
            before, before, on, seed, score_before=was, score_after=None if (on, seed) == ("b", 1) else now
        )
        for seed in range(3)
        for on in before
    ]
    (one,) = summarise(cells)
    assert one.score_change is not None and one.score_before == 0.8
    assert one.score_change.by_seed == pytest.approx([-0.1, -0.1])
    assert len(one.mri.by_seed) == 3


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30])
def test_quantiles_of_student(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(float(stats.t.ppf(0.975, freedom)), rel=1e-9)
    for level in (0.5, 0.9, 0.999):
        expected = float(stats.t.ppf((1 + level) / 2, freedom))
        assert t_quantile(freedom, level) == pytest.approx(expected, rel=1e-9)


def test_one_seed_has_no_interval() -> None:
    one = mean_over_seeds([0.25])
    assert one.value == 0.25 and math.isnan(one.ci95_low) and math.isnan(one.ci95_high)


def test_agreement_by_hand() -> None:
    part = in_memory(torch.zeros(4, *SHAPE), torch.tensor([0, 1, 2, 3]), (0, 1, 2, 3))
    found = agreement(part, torch.tensor([0, 1, 0, 2]), torch.tensor([0, 2, 2, 2]))
    assert (found.same, found.both_correct, found.lost, found.won) == (0.5, 0.25, 0.25, 0.25)


@pytest.fixture(scope="module")
def report(original: Classifier) -> InheritanceReport:
    return run_toy(original, score=True, score_samples=64, distance=True, distance_samples=30)


def test_report_reads_back(report: InheritanceReport, tmp_path: Path) -> None:
    path = report.save(tmp_path / "r.json")
    assert InheritanceReport.load(path).to_dict() == report.to_dict()
    assert report.of("wise").method == "wise"
    with refused("method: expected one of ft, wise, got 'wize', did you mean wise?"):
        report.of("wize")
    path.write_text('{"schema": "other"}', encoding="utf-8")
    with refused("r.json: schema: expected 'synbench-fast/inheritance', got 'other'"):
        InheritanceReport.load(path)


def test_page_needs_nothing_else(report: InheritanceReport) -> None:
    text = page(replace(report, encoders=report.encoders, warnings=["<script>alert(1)</script>"]))
    assert "<script" not in text and "&lt;script&gt;alert" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
    assert "default-src 'none'" in text and "style=" not in text
    for one in report.summaries:
        assert f"{100 * one.mri.value:+.1f}" in text
    matrix = report.matrix("ft")
    assert f"fine-tuned on two, evaluated on three: {100 * matrix['two']['three']:+.1f} points" in text
    assert text.count("<circle") == 3 * len(report.cells)


def test_page_escapes_names(original: Classifier) -> None:
    suite = make_suite()
    named = replace(suite, data=(replace(suite.data[0], name="<b>&"), *suite.data[1:]))
    text = page(inherit(original, named, methods=("lp",), seeds=1, score=False, distance=False))
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text


def test_csv_has_a_row_per_cell_and_data_set(report: InheritanceReport) -> None:
    stream = io.StringIO()
    report.write_csv(stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert len(rows) == len(report.cells) * 4
    first = rows[1]
    assert float(first["change"]) == pytest.approx(float(first["after"]) - float(first["before"]))
